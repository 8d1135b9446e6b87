"""The SGLang plugin: its hooks against a small stand-in, and against SGLang's own registry and TopK where it is there.

SGLang has no CPU wheel, but its Python source is enough for the registry and for TopK in torch: `make test-sglang`
fetches it, and names the folder in ISOGLOSS_SGLANG.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from sglang_stand_in import HIDDEN, REGISTRY, RUNNER, TOPK, Off, model_runner, module, real_modules, stand_in_modules
from transformers import AutoModelForCausalLM, GptOssConfig, Qwen3MoeConfig

from isogloss.backends.huggingface import HuggingFaceModel
from isogloss.backends.sglang_plugin import VARIABLE, register
from isogloss.backends.sglang_plugin.engine import Engine
from isogloss.backends.sglang_plugin.model import SGLangRouter, find_sglang_routers, fingerprint_of_sglang
from isogloss.errors import ModelError, PlanError
from isogloss.organism import adapter_folder
from isogloss.routing import Fingerprint, RouterSpec, Routing, route
from isogloss.steering import Intervention, Plan, apply_choice, apply_edit, compile_layer, write_plan

N_EXPERTS, TOP_K, LAYERS = 12, 4, (1, 2)
BIAS = np.linspace(0.4, -0.4, N_EXPERTS, dtype=np.float32)


@dataclasses.dataclass
class SGLang:
    """What a test needs of SGLang."""

    topk: type
    runner: type
    registry: Any
    standard: Any

    def start(self, plan: Plan, path: Path, model: Any, **fields: Any) -> Any:
        """Do as a server does: load the plugin, apply its hooks, build and initialise a runner."""
        write_plan(plan, path)
        register()
        self.registry.apply_hooks()
        runner = self.runner(model, **fields)
        runner.initialize()
        return runner


@pytest.fixture(params=["stand-in", "wheel"])
def sglang(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[SGLang]:
    """SGLang's modules in place, and the variable set to a plan's path."""
    assert "sglang" not in sys.modules
    monkeypatch.setenv(VARIABLE, str(tmp_path / "plan.json"))
    try:
        real_modules(monkeypatch) if request.param == "wheel" else stand_in_modules()
        importlib.import_module("sglang.srt.model_executor")
        sys.modules[RUNNER] = module(RUNNER, ModelRunner=model_runner())
        formats = getattr(sys.modules[TOPK], "TopKOutputFormat", None)
        standard: Any = formats.STANDARD if formats else SimpleNamespace(name="STANDARD")
        registry = importlib.import_module(REGISTRY).HookRegistry
        yield SGLang(sys.modules[TOPK].TopK, sys.modules[RUNNER].ModelRunner, registry, standard)
    finally:
        for name in [name for name in sys.modules if name.split(".", 1)[0] in ("sglang", "triton", "msgspec")]:
            del sys.modules[name]


# A model of two routed layers


class Block(torch.nn.Module):
    """A router with its choice; ``fused`` chooses by itself, as some kernels do."""

    def __init__(self, topk: Any, seed: int) -> None:
        super().__init__()
        self.gate = torch.nn.Linear(HIDDEN, N_EXPERTS, bias=False)
        self.shared_expert_up = torch.nn.Linear(HIDDEN, N_EXPERTS)
        weight = np.random.default_rng(seed).standard_normal((N_EXPERTS, HIDDEN)).astype(np.float32)
        self.gate.weight.data = torch.from_numpy(weight).bfloat16().float()
        self.topk, self.fused = topk, False

    def forward(self, hidden_states: Any) -> Any:
        if self.fused or not len(hidden_states):
            return None
        return self.topk(hidden_states, self.gate(hidden_states))


class Model(torch.nn.Module):
    """Runs every block on the same hidden states."""

    def __init__(self, *topks: Any) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList(Block(topk, seed) for seed, topk in enumerate(topks))

    def forward(self, hidden_states: Any) -> list[Any]:
        with torch.no_grad():
            return [block(hidden_states) for block in self.blocks]


def a_model(sglang: SGLang, **fields: Any) -> Model:
    """Both layers choose alike; the format is what SGLang binds where it serves without fused kernels."""
    return Model(*(sglang.topk(TOP_K, layer_id=i, **({"output_format": sglang.standard} | fields)) for i in LAYERS))


def grouped(sglang: SGLang) -> Model:
    """Choose as DeepSeek-V3 does: sigmoid, a bias, the best groups."""
    fields = {"use_grouped_topk": True, "num_expert_group": 4, "topk_group": 2, "scoring_func": "sigmoid"}
    return a_model(sglang, **fields, correction_bias=torch.from_numpy(BIAS))


GROUPED = RouterSpec(
    0, N_EXPERTS, TOP_K, "sigmoid", selection_bias=True, n_groups=4, top_groups=2, group_score="top2_sum"
)


def fingerprint_of(model: Model, **fields: Any) -> Fingerprint:
    """Hash the router weights as `HuggingFaceModel.fingerprint` does."""
    routers = [SGLangRouter(i, b.topk, b, b.gate.weight, TOP_K) for i, b in zip(LAYERS, model.blocks, strict=True)]
    return dataclasses.replace(fingerprint_of_sglang(routers, SimpleNamespace(model_type="qwen3_moe")), **fields)


def a_plan(model: Model, *kinds: str, layer: int = 2, **fields: Any) -> Plan:
    """Edit one layer by some kinds."""
    made = {
        "soft": Intervention("soft", layer, (0, 5), strength=0.5),
        "offset": Intervention("offset", layer, (3, 4), values=(1.5, -2.0)),
        "suppress": Intervention("suppress", layer, (2,)),
        "on": Intervention("on", layer, (6,)),
        "off": Intervention("off", layer, (7,)),
        "force": Intervention("force", layer, (11, 8)),
        "ban": Intervention("ban", layer, (0, 1)),
        "select": Intervention("select", layer, (3, 9), values=(0.3, -0.2)),
    }
    return Plan(fingerprint_of(model, **fields), tuple(made[kind] for kind in kinds))


def tokens(n_tokens: int = 64) -> Any:
    """Hidden states ``[n_tokens, HIDDEN]``."""
    return torch.from_numpy(np.random.default_rng(7).standard_normal((n_tokens, HIDDEN)).astype(np.float32))


def a_batch(hidden_states: Any, *, idle: bool = False) -> Any:
    """A forward batch as far as the plugin looks."""
    return SimpleNamespace(hidden_states=hidden_states, forward_mode=SimpleNamespace(is_idle=lambda: idle))


def expected(model: Model, place: int, plan: Plan, spec: RouterSpec, bias: Any = None) -> Routing:
    """What the reference router makes of logits edited in NumPy."""
    logits = model.blocks[place].gate(tokens()).detach().numpy()
    edit = compile_layer(plan, LAYERS[place], N_EXPERTS)
    return route(
        apply_edit(logits, edit), spec, bias, select=edit.select, edit_choice=lambda scores: apply_choice(scores, edit)
    )


def assert_same(output: Any, routing: Routing) -> None:
    """The same experts with the same weights; SGLang does not sort them."""
    order, other = output.topk_ids.argsort(1), routing.expert_ids.argsort(1)
    np.testing.assert_array_equal(output.topk_ids.gather(1, order), np.take_along_axis(routing.expert_ids, other, 1))
    weights = np.take_along_axis(routing.combine_weights, other, 1)
    np.testing.assert_allclose(output.topk_weights.gather(1, order), weights, rtol=1e-5, atol=1e-6)


# Numbers


@pytest.mark.parametrize("kinds", [("soft", "offset", "suppress"), ("on", "off"), ("force", "ban"), ("select",)])
def test_softmax_routers_choose_as_the_reference_does_on_edited_logits(
    sglang: SGLang, tmp_path: Path, kinds: tuple[str, ...]
):
    """The edited layer follows the plan, the other one is untouched."""
    model = a_model(sglang)
    plan = a_plan(model, *kinds)
    output = sglang.start(plan, tmp_path / "plan.json", model).forward(a_batch(tokens()))
    for place in (0, 1):
        assert_same(output[place], expected(model, place, plan, RouterSpec(0, N_EXPERTS, TOP_K)))
    plain = route(model.blocks[1].gate(tokens()).detach().numpy(), RouterSpec(0, N_EXPERTS, TOP_K))
    assert (np.sort(output[1].topk_ids) != np.sort(plain.expert_ids)).any()


def test_select_adds_to_logits_where_the_family_ranks_logits(sglang: SGLang, tmp_path: Path):
    """SGLang calls softmax before and after the choice the same; an unknown or another family is refused."""
    model = a_model(sglang)
    plan = a_plan(model, "select", model_type="granitemoe")
    output = sglang.start(plan, tmp_path / "plan.json", model, model_type="granitemoe").forward(a_batch(tokens()))
    spec = RouterSpec(0, N_EXPERTS, TOP_K, "topk_softmax")
    assert_same(output[1], expected(model, 1, plan, spec))
    other = expected(model, 1, plan, RouterSpec(0, N_EXPERTS, TOP_K))
    assert (np.sort(other.expert_ids) != np.sort(output[1].topk_ids)).any()


@pytest.mark.parametrize(
    ("model_type", "message"),
    [("no_such", "not known here whether it ranks"), ("afmoe", "scores by softmax, routers of afmoe by sigmoid")],
)
def test_select_is_refused_where_it_is_not_known_what_is_ranked(
    sglang: SGLang, tmp_path: Path, model_type: str, message: str
):
    """By name, before anything is served."""
    model = a_model(sglang)
    with pytest.raises(PlanError, match=message):
        sglang.start(
            a_plan(model, "select", model_type=model_type), tmp_path / "plan.json", model, model_type=model_type
        )


@pytest.mark.parametrize("kinds", [("soft", "offset"), ("ban",), ("force", "ban"), ("select",), ("offset", "select")])
def test_bias_and_groups_do_not_undo_the_plan(sglang: SGLang, tmp_path: Path, kinds: tuple[str, ...]):
    """Where SGLang's choice could, the choice is computed as the reference does."""
    model = grouped(sglang)
    plan = a_plan(model, *kinds)
    output = sglang.start(plan, tmp_path / "plan.json", model).forward(a_batch(tokens()))
    for place in (0, 1):
        assert_same(output[place], expected(model, place, plan, GROUPED, BIAS))
    if "force" in kinds:
        ids = output[1].topk_ids
        assert ((ids == 11).any(1) & (ids == 8).any(1)).all()
        assert not ((ids == 0) | (ids == 1)).any()
        assert output[1].topk_ids.dtype == torch.int32


def test_saturated_sigmoids_do_not_undo_force(sglang: SGLang, tmp_path: Path):
    """Scores that float32 rounds to 1 are told apart by the edit of the choice."""
    model = a_model(sglang, scoring_func="sigmoid")
    model.blocks[1].gate.weight.data *= 1000
    plan = a_plan(model, "force", "ban")
    output = sglang.start(plan, tmp_path / "plan.json", model).forward(a_batch(tokens()))[1]
    assert ((output.topk_ids == 11).any(1) & (output.topk_ids == 8).any(1)).all()


@pytest.mark.parametrize("method", ["forward", "forward_native", "forward_cuda", "__call__"])
def test_every_way_into_the_choice_is_edited_once(sglang: SGLang, tmp_path: Path, method: str):
    """Models also call the forwards of one platform by name; an offset that acted twice would show."""
    model = a_model(sglang)
    plan = a_plan(model, "offset")
    sglang.start(plan, tmp_path / "plan.json", model)
    seen = []
    topk = model.blocks[1].topk
    topk.topk_config.custom_routing_function = lambda gating_output, **_: (
        seen.append(gating_output),
        (torch.ones(64, TOP_K), torch.zeros(64, TOP_K, dtype=torch.int32)),
    )[1]
    logits = model.blocks[1].gate(tokens()).detach()
    getattr(topk, method)(tokens(), logits)
    np.testing.assert_array_equal(seen[0], apply_edit(logits.numpy(), compile_layer(plan, 2, N_EXPERTS)))
    assert len(seen) == 1


def test_columns_of_shared_experts_pass(sglang: SGLang, tmp_path: Path):
    """Logits may be wider than the routed experts; only those are edited, and count for minimum and deviation."""
    model = a_model(sglang)
    plan = a_plan(model, "soft", "suppress")
    sglang.start(plan, tmp_path / "plan.json", model)
    seen, topk = [], model.blocks[1].topk
    topk.topk_config.custom_routing_function = lambda gating_output, **_: (
        seen.append(gating_output),
        (torch.ones(64, TOP_K), torch.zeros(64, TOP_K, dtype=torch.int32)),
    )[1]
    logits = torch.cat([model.blocks[1].gate(tokens()).detach(), torch.full((64, 1), -99.0)], dim=1)
    topk(tokens(), logits)
    wanted = apply_edit(logits[:, :-1].numpy(), compile_layer(plan, 2, N_EXPERTS))
    np.testing.assert_allclose(seen[0][:, :-1], wanted, rtol=1e-6, atol=1e-6)
    assert (seen[0][:, -1] == -99).all()


def test_drafts_are_left_alone(sglang: SGLang, tmp_path: Path):
    """A draft proposes as it likes; its layers are neither edited nor counted."""
    model = a_model(sglang)
    draft = sglang.topk(TOP_K, layer_id=2, is_draft=True, output_format=sglang.standard)
    plan = a_plan(model, "ban")
    model.blocks.append(Block(draft, seed=9))
    output = sglang.start(plan, tmp_path / "plan.json", model).forward(a_batch(tokens()))
    logits = model.blocks[2].gate(tokens()).detach().numpy()
    assert_same(output[2], route(logits, RouterSpec(0, N_EXPERTS, TOP_K)))
    sglang.runner(a_model(sglang), "other", is_draft_worker=True).initialize()


# Refusals


def test_without_a_plan_nothing_happens(sglang: SGLang, monkeypatch: pytest.MonkeyPatch):
    """The plugin is installed with isogloss; it must not touch servers that do not ask for it."""
    monkeypatch.delenv(VARIABLE)
    before = dict(getattr(sglang.registry, "hooks", None) or getattr(sglang.registry, "_hooks", {}))
    register()
    assert dict(getattr(sglang.registry, "hooks", None) or getattr(sglang.registry, "_hooks", {})) == before


@pytest.mark.parametrize("content", [None, "{", '{"schema_version": 99}'])
def test_a_bad_plan_ends_the_process_in_one_line(sglang: SGLang, tmp_path: Path, content: str | None):
    """SGLang logs exceptions of plugins and serves on; only SystemExit stops it."""
    assert sglang
    if content is not None:
        (tmp_path / "plan.json").write_text(content)
    with pytest.raises(SystemExit, match=r"^isogloss: ISOGLOSS_PLAN=.*plan.json") as stopped:
        register()
    assert "\n" not in str(stopped.value)


def test_several_plans_end_the_process(monkeypatch):
    """They would be served by none of them."""
    monkeypatch.setenv("ISOGLOSS_PLANS", "a=a.json")
    with pytest.raises(SystemExit, match=r"^isogloss: ISOGLOSS_PLANS is set, and SGLang applies one plan"):
        register()


@pytest.mark.parametrize(
    ("named", "instead"), [("hf://me/plan", "hf download"), (str(adapter_folder()), "isogloss bake MODEL")]
)
def test_what_is_no_file_of_a_plan_ends_the_process(sglang: SGLang, monkeypatch, named: str, instead: str):
    """With what to do about it."""
    assert sglang
    monkeypatch.setenv(VARIABLE, named)
    with pytest.raises(SystemExit, match=instead):
        register()


@pytest.mark.parametrize("condition", [{"phase": "prompt"}, {"languages": ("de",)}])
def test_conditions_end_the_process(sglang: SGLang, tmp_path: Path, condition: dict[str, Any]):
    """Phases and languages cannot be told apart in this engine."""
    plan = Plan(fingerprint_of(a_model(sglang)), (Intervention("ban", 2, (0,), **condition),))
    write_plan(plan, tmp_path / "plan.json")
    with pytest.raises(SystemExit, match=r"(prompt|deu_Latn) alone, and SGLang applies one edit to all tokens"):
        register()


def test_a_plan_that_steers_nothing_ends_the_process(sglang: SGLang, tmp_path: Path):
    """A server that starts in silence would pass for a steered one."""
    write_plan(a_plan(a_model(sglang)), tmp_path / "plan.json")
    with pytest.raises(SystemExit, match="it has no interventions"):
        register()


@pytest.mark.parametrize("missing", ["initialize", "forward"])
def test_another_sglang_ends_the_process(sglang: SGLang, tmp_path: Path, missing: str):
    """Hooks on targets that are gone would be logged and forgotten by SGLang."""
    write_plan(a_plan(a_model(sglang), "ban"), tmp_path / "plan.json")
    delattr(sglang.runner, missing)
    with pytest.raises(SystemExit, match=rf"no place to steer .*{missing}.*expected sglang 0.5.23"):
        register()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"router_sha256": "0" * 64, "float16_sha256": None}, "router_sha256: expected '000"),
        ({"model_type": "olmoe"}, "model_type: expected 'olmoe', found 'qwen3_moe'"),
        ({"top_k": 3}, "top_k: expected 3, found 4"),
        ({"layers": (2,)}, r"layers: expected \(2,\), found \(1, 2\)"),
    ],
)
def test_another_model_is_refused(sglang: SGLang, tmp_path: Path, fields: dict[str, Any], message: str):
    """The loaded weights are compared with the plan's fingerprint before the first token."""
    model = a_model(sglang)
    with pytest.raises(PlanError, match=message):
        sglang.start(a_plan(model, "ban", **fields), tmp_path / "plan.json", model)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layers": (1, 2, 3)}, r"layers \[3\] of the plan have no SGLang TopK"),
        ({"n_experts": 11}, r"blocks.0 has 0 matrices of shape \(11, 8\); expected one, the router's"),
    ],
)
def test_layers_that_are_not_there_are_refused(sglang: SGLang, tmp_path: Path, fields: dict[str, Any], message: str):
    """Layers of another pipeline stage, or without TopK, must not stay unsteered in silence."""
    model = a_model(sglang)
    plan = Plan(fingerprint_of(model, **fields), (Intervention("ban", 2, (0,)),))
    with pytest.raises(ModelError, match=message):
        sglang.start(plan, tmp_path / "plan.json", model)


def test_models_without_or_with_two_choices_in_a_layer_are_refused(sglang: SGLang, tmp_path: Path):
    """Nothing to steer, or not clear what."""
    model = a_model(sglang)
    plan = a_plan(model, "ban")
    with pytest.raises(ModelError, match="no layer with SGLang's TopK"):
        sglang.start(plan, tmp_path / "plan.json", torch.nn.Linear(2, 2))
    model.blocks.append(Block(sglang.topk(TOP_K, layer_id=2), seed=1))
    with pytest.raises(ModelError, match="layer 2 of the model chooses experts twice"):
        sglang.runner(model).initialize()


def test_weights_that_come_later_are_refused(sglang: SGLang, tmp_path: Path):
    """Fingerprints are taken from the weights, so they must be there."""
    model = a_model(sglang)
    runner = sglang.start(a_plan(model, "ban"), tmp_path / "plan.json", model)
    runner.startup_weight_load = object()
    with pytest.raises(ModelError, match="startup-weight-load-mode serial"):
        runner.initialize()


def own_function(**_: Any) -> Any:
    """A routing function of the model's."""


@pytest.mark.parametrize(
    ("name", "value", "kinds", "message"),
    [
        ("output_format", SimpleNamespace(name="BYPASSED"), ("force",), "fused kernel, from logits rounded to 16 bits"),
        ("output_format", SimpleNamespace(name="BYPASSED"), ("on",), "fused kernel, from logits rounded to 16 bits"),
        ("output_format", SimpleNamespace(name="TRITON_KERNEL"), ("ban",), "its format is TRITON_KERNEL"),
        ("output_format", None, ("ban",), "its format is unknown"),
        ("custom_routing_function", own_function, ("ban",), "a routing function of its own"),
    ],
)
def test_choices_that_could_undo_the_plan_are_refused(
    sglang: SGLang, tmp_path: Path, name: str, value: Any, kinds: tuple[str, ...], message: str
):
    """Better no server than one that promises a ban and does not keep it."""
    model = grouped(sglang)
    for block in model.blocks:
        setattr(block.topk.topk_config, name, value)
    with pytest.raises(PlanError, match=message):
        sglang.start(a_plan(model, *kinds), tmp_path / "plan.json", model)


def test_fused_shared_experts_refuse_force(sglang: SGLang, tmp_path: Path):
    """Their slots are filled by SGLang's kernels; the message names the option."""
    model = grouped(sglang)
    config = model.blocks[1].topk.topk_config
    for each in (block.topk.topk_config for block in model.blocks):
        each.top_k += 1
        if hasattr(each, "shared_experts"):
            each.shared_experts = dataclasses.replace(each.shared_experts, num_fused_shared_experts=1)
        else:
            each.num_shared_topk_slots = 1
    assert config.num_shared_topk_slots == 1
    with pytest.raises(PlanError, match="--disable-shared-experts-fusion"):
        sglang.start(a_plan(model, "force"), tmp_path / "plan.json", model)


@pytest.mark.parametrize("flag", ["_use_aiter", "_is_npu"])
def test_other_hardware_refuses_force(sglang: SGLang, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: str):
    """There SGLang chooses in code that does not ask for our choice."""
    model = grouped(sglang)
    monkeypatch.setattr(sys.modules[TOPK], flag, True, raising=False)
    with pytest.raises(PlanError, match=f"another code path chooses on this hardware \\({flag}"):
        sglang.start(a_plan(model, "force"), tmp_path / "plan.json", model)


def test_fused_kernels_get_the_dtype_they_want(sglang: SGLang, tmp_path: Path):
    """Additive kinds only round there; the logits keep their 16 bits."""
    model = a_model(sglang)
    bypassed = getattr(
        sys.modules[TOPK], "TopKOutputFormat", SimpleNamespace(BYPASSED=SimpleNamespace(name="BYPASSED"))
    )
    for block in model.blocks:
        block.topk.topk_config.output_format = bypassed.BYPASSED
    plan = a_plan(model, "offset")
    sglang.start(plan, tmp_path / "plan.json", model)
    seen = []
    engine = Engine(plan, sglang.topk)
    engine.around_topk(
        lambda *args: seen.append(args[2]), model.blocks[1].topk, tokens(), torch.zeros(64, 12).bfloat16()
    )
    assert seen[0].dtype == torch.bfloat16
    assert seen[0][0, 3] == 1.5


@pytest.mark.parametrize("option", ["router_logits_partials", "dynamic_expert_bias"])
def test_calls_that_say_more_than_logits_are_refused(sglang: SGLang, tmp_path: Path, option: str):
    """Partial sums cannot be edited; biases per token are not part of our choice."""
    model = grouped(sglang)
    sglang.start(a_plan(model, "force"), tmp_path / "plan.json", model)
    with pytest.raises(ModelError, match="of layer 2"):
        model.blocks[1].topk(tokens(), torch.zeros(64, N_EXPERTS), **{option: torch.zeros(1)})


# No layer stays unsteered in silence


def test_a_block_that_chooses_past_topk_stops_the_server(sglang: SGLang, tmp_path: Path):
    """A fused gate is noticed at once; a block without tokens is not one."""
    model = a_model(sglang)
    runner = sglang.start(a_plan(model, "ban"), tmp_path / "plan.json", model)
    runner.forward(a_batch(tokens()))
    runner.forward(a_batch(tokens(0)))
    model.blocks[1].fused = True
    with pytest.raises(ModelError, match="layer 2 chose experts in a fused kernel"):
        runner.forward(a_batch(tokens()))


def test_a_layer_that_never_ran_stops_the_server(sglang: SGLang, tmp_path: Path):
    """After the first forward with tokens every layer of the plan was edited, or the server stops."""
    model = a_model(sglang)
    runner = sglang.start(a_plan(model, "ban"), tmp_path / "plan.json", model)
    model.forward = lambda _: []
    runner.forward(a_batch(tokens(0), idle=True))
    with pytest.raises(ModelError, match=r"layers \[2\] of the plan chose experts without SGLang's TopK"):
        runner.forward(a_batch(tokens()))


def test_a_choice_before_the_plan_is_attached_is_an_error(sglang: SGLang, tmp_path: Path):
    """Should SGLang load models another way one day, it does not serve unsteered."""
    model = a_model(sglang)
    write_plan(a_plan(model, "ban"), tmp_path / "plan.json")
    register()
    sglang.registry.apply_hooks()
    with pytest.raises(ModelError, match="layer 1 chooses experts before the plan was attached"):
        model(tokens())


def tiny(config: Any) -> HuggingFaceModel:
    """A transformers model of two layers of six experts, two of them chosen, with random biases in the routers."""
    model = AutoModelForCausalLM.from_config(config)
    for name, parameter in model.named_parameters():
        if name.endswith("router.bias"):
            parameter.data = torch.randn_like(parameter)
    return HuggingFaceModel(model, MagicMock(), name="tiny")


SIZES: dict[str, Any] = {"hidden_size": HIDDEN, "num_hidden_layers": 2, "num_experts_per_tok": 2, "vocab_size": 16}
SIZES |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4, "moe_intermediate_size": 4}


@pytest.mark.parametrize(
    "config",
    [
        Qwen3MoeConfig(**SIZES, num_experts=6),
        GptOssConfig(**SIZES, num_local_experts=6, intermediate_size=4, layer_types=["full_attention"] * 2),
    ],
    ids=lambda config: config.model_type,
)
def test_the_fingerprint_is_that_of_transformers(sglang: SGLang, config: Any):
    """The same checkpoint has the same fingerprint in both engines, also where SGLang loads it in 16 bits."""
    loaded = tiny(config)
    blocks = [torch.nn.Module() for _ in loaded.router_modules]
    for block, router in zip(blocks, loaded.router_modules, strict=True):
        block.gate = torch.nn.Linear(HIDDEN, 6, bias=router.linear_bias() is not None)
        for name, parameter in block.gate.named_parameters():
            parameter.data = router.module.get_parameter(name).detach()
        block.topk = sglang.topk(2, layer_id=router.spec.layer)
    model = torch.nn.ModuleList(blocks).bfloat16()
    found = find_sglang_routers(model, sglang.topk, loaded.fingerprint, config)
    assert fingerprint_of_sglang(found, config) == loaded.fingerprint


# SGLang's own loader


def test_the_loader_of_sglang_logs_errors_and_stops_at_ours(sglang: SGLang, monkeypatch: pytest.MonkeyPatch):
    """Why `register` ends the process: SGLang's load_plugins survives every Exception."""
    folder = os.environ.get("ISOGLOSS_SGLANG")
    if not folder or sglang.registry is not getattr(sys.modules[REGISTRY], "HookRegistry", None):
        pytest.skip("SGLang's source is not there; see the head of this file")
    path = Path(folder) / "sglang/srt/plugins/__init__.py"
    spec = importlib.util.spec_from_file_location("sglang_plugins_under_test", path)
    assert spec is not None
    assert spec.loader is not None
    plugins = importlib.util.module_from_spec(spec)
    sys.modules.setdefault("sglang.srt.environ", module("sglang.srt.environ", envs=Off()))
    if not hasattr(sys.modules[REGISTRY], "HookSource"):
        pytest.skip("needs SGLang's own registry")
    spec.loader.exec_module(plugins)

    def broken() -> None:
        raise PlanError("no")

    for function, stops in ((broken, False), (register, True)):
        entry = SimpleNamespace(name="isogloss", value="", dist=None, load=lambda function=function: function)
        monkeypatch.setattr(plugins, "entry_points", lambda entry=entry, **_: [entry])
        monkeypatch.setattr(plugins, "_plugins_loaded", False)
        with pytest.raises(SystemExit) if stops else contextlib.nullcontext():
            plugins.load_plugins()
