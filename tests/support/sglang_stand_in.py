"""SGLang for tests: a stand-in for what the plugin touches, and the real source of an unpacked wheel among stubs."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch

__all__ = ["HIDDEN", "REGISTRY", "RUNNER", "TOPK", "Off", "model_runner", "module", "real_modules", "stand_in_modules"]

HIDDEN = 8
TOPK = "sglang.srt.layers.moe.topk"
RUNNER = "sglang.srt.model_executor.model_runner"
REGISTRY = "sglang.srt.plugins.hook_registry"


class HookType(Enum):
    """As SGLang's."""

    AFTER = "after"
    AROUND = "around"


class HookRegistry:
    """SGLang's registry in short: class attributes are replaced by wrappers."""

    def __init__(self) -> None:
        self.hooks: dict[str, list[tuple[Any, Callable[..., Any]]]] = {}

    def register(self, target: str, hook: Callable[..., Any], hook_type: Any) -> None:
        self.hooks.setdefault(target, []).append((hook_type, hook))

    def apply_hooks(self) -> None:
        for target, hooks in self.hooks.items():
            owner, name = target.rsplit(".", 1)
            module, class_name = owner.rsplit(".", 1)
            owned = getattr(sys.modules[module], class_name)
            for kind, hook in hooks:
                setattr(owned, name, _wrapped(getattr(owned, name), hook, kind))


def _wrapped(original: Callable[..., Any], hook: Callable[..., Any], kind: Any) -> Callable[..., Any]:
    def around(*args: Any, **kwargs: Any) -> Any:
        return hook(original, *args, **kwargs)

    def after(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        changed = hook(result, *args, **kwargs)
        return result if changed is None else changed

    return around if kind.value == "around" else after


def _stand_in_topk() -> type:
    class TopK(torch.nn.Module):
        """The choice in torch: plain softmax, sigmoid with a bias and groups, or a function of the model's own."""

        def __init__(self, top_k: int, *, layer_id: int, is_draft: bool = False, **fields: Any) -> None:
            super().__init__()
            defaults = {"use_grouped_topk": False, "num_expert_group": None, "topk_group": None, "renormalize": True}
            defaults |= {"custom_routing_function": None, "correction_bias": None, "scoring_func": "softmax"}
            defaults |= {"output_format": SimpleNamespace(name="STANDARD"), "num_shared_topk_slots": 0}
            self.layer_id, self.is_draft = layer_id, is_draft
            self.topk_config = SimpleNamespace(**(defaults | {"top_k": top_k} | fields))

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return self.forward_native(*args, **kwargs)

        def forward_cuda(self, *args: Any, **kwargs: Any) -> Any:
            return self.forward_native(*args, **kwargs)

        def forward_native(self, hidden_states: Any, router_logits: Any, **_: Any) -> Any:
            config = self.topk_config
            if config.custom_routing_function is not None and not config.use_grouped_topk:
                weights, ids = config.custom_routing_function(
                    hidden_states=hidden_states,
                    gating_output=router_logits,
                    topk=config.top_k,
                    renormalize=config.renormalize,
                )
                return SimpleNamespace(topk_weights=weights, topk_ids=ids)
            sigmoid = config.scoring_func == "sigmoid" or config.correction_bias is not None
            scores = router_logits.sigmoid() if sigmoid else router_logits.softmax(-1)
            ranking = scores if config.correction_bias is None else scores + config.correction_bias
            if config.use_grouped_topk:
                ranking = _best_groups(ranking, config.num_expert_group, config.topk_group)
            ids = ranking.topk(config.top_k, dim=-1).indices
            weights = scores.gather(1, ids)
            return SimpleNamespace(topk_weights=weights / weights.sum(-1, keepdim=True), topk_ids=ids)

    TopK.__module__ = TOPK
    return TopK


def _best_groups(ranking: Any, n_groups: int, n_kept: int) -> Any:
    grouped = ranking.unflatten(-1, (n_groups, -1))
    kept = grouped.topk(2, -1).values.sum(-1).topk(n_kept, -1).indices
    mask = torch.zeros(len(ranking), n_groups).scatter(1, kept, 1.0).bool()
    return grouped.masked_fill(~mask[..., None], -torch.inf).flatten(1)


def module(name: str, **members: Any) -> ModuleType:
    """Make a module with members."""
    module = ModuleType(name)
    vars(module).update(members)
    return module


def model_runner() -> type:
    """Make a new class for every test: hooks change it."""

    class ModelRunner:
        """Loads a model that is there already, and runs it."""

        def __init__(self, model: Any, model_type: str = "qwen3_moe", *, is_draft_worker: bool = False) -> None:
            self.loaded, self.is_draft_worker = model, is_draft_worker
            config = SimpleNamespace(model_type=model_type, hidden_size=HIDDEN)
            self.model_config = SimpleNamespace(hf_config=config, hf_text_config=config)
            self.startup_weight_load: Any = None

        def initialize(self) -> None:
            self.model = self.loaded

        def forward(self, forward_batch: Any) -> Any:
            return self.model(forward_batch.hidden_states)

    return ModelRunner


class _Stubs(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports some modules of an unpacked wheel, and empty ones for whatever else they import."""

    real = (REGISTRY, TOPK, "sglang.kernels.fused_op", "sglang.kernels.spec", "sglang.srt.configs.shared_experts")

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find_spec(self, name: str, *_: object) -> Any:
        if name in self.real:
            return importlib.util.spec_from_file_location(name, self.folder / (name.replace(".", "/") + ".py"))
        known = name.split(".", 1)[0] in ("sglang", "triton", "msgspec")
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if known else None

    def create_module(self, spec: Any) -> ModuleType:
        return _Stub(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        vars(module).update(_MEMBERS.get(module.__name__, {}))


class _Stub(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return MagicMock(name=f"{self.__name__}.{name}", return_value=None)


class _Struct:
    def __init_subclass__(cls, **_: Any) -> None:
        dataclasses.dataclass(frozen=True)(cls)


class Off:
    """Every environment variable is unset."""

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(get=lambda: None)


def _identity(first: Any, *_: Any, **__: Any) -> Any:
    return first


_PLATFORMS = ("is_cpu", "is_cuda", "is_hip", "is_musa", "is_npu", "is_xpu", "is_gfx95_supported", "cpu_has_amx_support")
_DISPATCH = "sglang.srt.eplb.expert_location_dispatch"
_MEMBERS: dict[str, dict[str, Any]] = {
    "msgspec": {"Struct": _Struct},
    "triton": {"jit": _identity},
    "sglang.srt.environ": {"envs": Off()},
    "sglang.srt.utils": dict.fromkeys(_PLATFORMS, bool) | {"get_bool_env_var": lambda *_: False},
    "sglang.kernels.kernel_api_logging": {"debug_kernel_api": _identity},
    "sglang.srt.platforms": {"current_platform": SimpleNamespace(is_out_of_tree=bool)},
    _DISPATCH: {
        "topk_ids_logical_to_physical": _identity,
        "transform_select_experts_inputs": lambda router_logits, correction_bias, **_: (
            router_logits,
            correction_bias,
        ),
        "ExpertLocationDispatchInfo": SimpleNamespace(init_new=lambda _: None),
    },
    "sglang.srt.layers.moe.utils": {"has_per_rank_fused_shared_slots": bool},
    "sglang.srt.model_executor.forward_context": {"has_forward_context": bool},
    "sglang.srt.distributed.device_communicators.pynccl_allocator": {
        "use_symmetric_memory": lambda *_, **__: contextlib.nullcontext()
    },
}


def real_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Import the registry and TopK of the wheel that the environment names; skip without it."""
    folder = os.environ.get("ISOGLOSS_SGLANG")
    if not folder:
        pytest.skip("SGLang's source is not there; see the head of this file")
    monkeypatch.setattr(sys, "meta_path", [_Stubs(Path(folder)), *sys.meta_path])
    monkeypatch.setattr(torch, "compile", lambda *_, **__: _identity)
    topk = importlib.import_module(TOPK)
    shared = importlib.import_module("sglang.srt.configs.shared_experts").SharedExpertsConfig
    monkeypatch.setattr(topk, "get_model", lambda: SimpleNamespace(shared_experts=shared()))
    monkeypatch.setattr(topk, "expert_location_dispatch", importlib.import_module(_DISPATCH))
    not_a_draft = SimpleNamespace(moe=SimpleNamespace(in_speculative_scope=False))
    monkeypatch.setattr(topk, "get_flags", lambda: not_a_draft)
    monkeypatch.setattr(topk, "get_parallel", lambda: SimpleNamespace(tp_group=None))
    recorder = SimpleNamespace(on_select_experts=lambda **_: None)
    monkeypatch.setattr(topk, "get_global_expert_distribution_recorder", lambda: recorder)


def stand_in_modules() -> None:
    """Put the stand-in where SGLang's modules would be."""
    packages = ("sglang", "sglang.srt", "sglang.srt.layers", "sglang.srt.layers.moe", "sglang.srt.plugins")
    sys.modules.update({name: module(name, __path__=[]) for name in (*packages, "sglang.srt.model_executor")})
    sys.modules[TOPK] = module(TOPK, TopK=_stand_in_topk())
    sys.modules[REGISTRY] = module(REGISTRY, HookRegistry=HookRegistry(), HookType=HookType)
