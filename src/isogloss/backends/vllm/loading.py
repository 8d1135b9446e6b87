"""Starts vLLM on a checkpoint with the plugin active, and talks to its workers."""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from isogloss.backends.configuration import config_sha256, revision_of
from isogloss.backends.families import Family
from isogloss.backends.huggingface.discovery import family_of, find_routers
from isogloss.errors import ModelError, PlanError
from isogloss.routing import Fingerprint, RouterSpec
from isogloss.steering import Plan

__all__ = ["MODEL_SLOTS", "ServedModel", "serve_model"]

MODEL_SLOTS = 2
"""What any plan needs that is asked for one language at a time: prompt and generation apart."""

_WORKER_EXTENSION = "isogloss.backends.vllm.plugin.required.Required"


class ServedModel:
    """A model that vLLM runs in this process or in workers of its own, with its tokenizer.

    Attributes:
        name: hub id, or the name of a local folder; never a path.
        engine: vLLM's ``LLM``.
        tokenizer: as transformers loads it.
        config: of the checkpoint.
        family: the row that describes its routers.
        specs: how each routed layer chooses, by layer.
        fingerprint: of the weights that the workers hold.
        kernels: names of the classes that run the experts.
        threads: on which each worker computes on a processor; None on other devices.
    """

    def __init__(self, name: str, engine: Any, tokenizer: PreTrainedTokenizerBase, config: Any) -> None:  # noqa: ANN401 - vLLM's and transformers' own
        """Ask the workers what they serve.

        Raises:
            ModelError: they serve another architecture than transformers reads from the checkpoint.
        """
        self.name, self.engine, self.tokenizer, self.config = name, engine, tokenizer, config
        self.family, self.specs = _routers(config)
        status = self.call("isogloss_status")[0]
        self.fingerprint, self.kernels = Fingerprint.from_json(status["fingerprint"]), tuple(status["kernels"])
        self.threads: int | None = status["threads"]
        layers = tuple(spec.layer for spec in self.specs)
        found = (self.fingerprint.layers, self.fingerprint.n_experts, self.fingerprint.top_k)
        if found != (layers, self.specs[0].n_experts, self.specs[0].top_k):
            raise ModelError(
                f"vLLM routes layers {self.fingerprint.layers} ({found[1]} experts, {found[2]} chosen); transformers "
                f"has {layers} ({self.specs[0].n_experts}, {self.specs[0].top_k}): not the same model"
            )

    @property
    def revision(self) -> str | None:
        """The hub commit, where the checkpoint came from the hub."""
        return revision_of(self.config)

    @property
    def config_sha256(self) -> str:
        """Hash of the configuration, the same as that of the model loaded by transformers."""
        return config_sha256(self.config)

    @property
    def dtype(self) -> str:
        """Of weights and activations, such as ``bfloat16``."""
        return str(self.engine.model_config.dtype).removeprefix("torch.")

    def call(self, method: str, *args: Any) -> list[Any]:  # noqa: ANN401 - what workers take
        """Call a method of every worker; see `isogloss.backends.vllm.plugin.worker.SteeredWorker`.

        Raises:
            PlanError: a worker refused.
        """
        results: list[Any] = self.engine.collective_rpc(method, args=args)
        for result in results:
            if isinstance(result, dict) and "error" in result:
                raise PlanError(result["error"])
        return results

    def load_plan(self, plan: Plan | None) -> dict[str, Any]:
        """Replace what every worker does to its logits; caches of the plan before are forgotten.

        Args:
            plan: None for none.

        Returns:
            What the workers serve and have proven, see ``isogloss_status``.

        Raises:
            PlanError: the plan is for another model, cannot be served here, or changes no choice.
        """
        status: dict[str, Any] = self.call("isogloss_load_plan", "" if plan is None else json.dumps(plan.to_json()))[0]
        return status

    @contextmanager
    def steered(self, plan: Plan) -> Iterator[None]:
        """Serve under a plan inside the context, and under none afterwards."""
        if self.call("isogloss_status")[0]["plan_sha256"] is not None:
            raise PlanError("another plan is active on this engine; leave its context first")
        self.load_plan(plan)
        try:
            yield
        finally:
            self.load_plan(None)

    @contextmanager
    def recording(self, items: Sequence[Mapping[str, Sequence[int]]]) -> Iterator[dict[str, torch.Tensor]]:
        """Record the routing of items that are run inside; the arrays are there afterwards.

        Args:
            items: see `isogloss.backends.vllm.plugin.record.Recorder.start`.

        Yields:
            Filled when the context ends: ``profiles``, ``selections``, ``distinct_profiles`` and ``sampled``, as
            `Recorder.stop` returns them, over the layers of all stages of a pipeline.

        Raises:
            PlanError: a token did not run, or the engine keeps no routing.
        """
        self.call("isogloss_record", [dict(item) for item in items])
        recorded: dict[str, torch.Tensor] = {}
        yield recorded
        stages: dict[tuple[int, ...], dict[str, torch.Tensor]] = {}
        for content in self.call("isogloss_record", None):
            arrays = safetensors.torch.load(content)
            stages.setdefault(tuple(arrays.pop("layers").tolist()), arrays)  # tensor parallel workers see the same
        ordered = [stages[layers] for layers in sorted(stages)]
        recorded |= {name: torch.cat([stage[name] for stage in ordered], dim=1) for name in ordered[0]}


def serve_model(
    name: str, *, dtype: str = "auto", record: bool = False, n_slots: int = 1, options: Mapping[str, Any] | None = None
) -> ServedModel:
    """Start vLLM on a checkpoint from a folder or the hub, able to take plans of every kind.

    Args:
        name: hub id or local folder.
        dtype: ``auto`` (as stored), ``float32``, ``bfloat16`` or ``float16``.
        record: whether routing can be recorded; then without a prefix cache, which would leave tokens out.
        n_slots: most combinations of language and phase of a plan.
        options: further arguments of vLLM's ``LLM``, such as ``tensor_parallel_size``.

    Raises:
        ModelError: vLLM is not installed or takes no such option, or the model cannot be loaded or has routers that
            plans do not reach.
    """
    options = options or {}
    follows_tokens = record or n_slots > 1
    if follows_tokens and options.get("enable_prefix_caching"):
        raise ModelError(
            "--engine enable_prefix_caching=true: a prefix cache leaves out tokens that are to be captured, or that "
            "were computed in another phase; leave it out"
        )
    if importlib.util.find_spec("vllm") is None:
        raise ModelError("vLLM is not installed here; install it (pip install vllm), or use --backend huggingface")
    variables = {
        "ISOGLOSS_KINDS": "all",
        "ISOGLOSS_SLOTS": str(n_slots),
        "ISOGLOSS_RECORD": str(int(record)),
        "VLLM_LOGGING_STREAM": os.environ.get("VLLM_LOGGING_STREAM", "ext://sys.stderr"),  # stdout is for results
    }
    with _environment(variables):
        _require_known(options)
    from vllm import LLM  # noqa: PLC0415 - takes seconds, and is not there for most users

    from isogloss.backends.vllm.plugin import register  # noqa: PLC0415 - as above

    arguments = {"dtype": dtype, "worker_extension_cls": _WORKER_EXTENSION, **options}
    if follows_tokens:
        arguments["enable_prefix_caching"] = False
        # vLLM's newer runner, its default on GPUs, does not say which token of a step is whose.
        variables["VLLM_USE_V2_MODEL_RUNNER"] = "0"
    try:
        config = AutoConfig.from_pretrained(name)
        tokenizer = AutoTokenizer.from_pretrained(name)
        with _environment(variables):
            register()  # vLLM itself calls it once per process, perhaps before these variables were set
            engine = LLM(name, **arguments)
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise ModelError(f"vLLM cannot serve {name!r}: {str(error).strip().splitlines()[0]}") from error
    served = Path(name).resolve().name if Path(name).is_dir() else name
    return ServedModel(served, engine, tokenizer, config)


def _require_known(options: Mapping[str, Any]) -> None:
    """Refuse what vLLM does not take, before anything is loaded."""
    from vllm import LLM, EngineArgs  # noqa: PLC0415 - takes seconds, and is not there for most users

    known = {*inspect.signature(LLM.__init__).parameters, *(field.name for field in fields(EngineArgs))}
    for name in sorted(set(options) - known):
        near = difflib.get_close_matches(name, known, n=1)
        like = f"did you mean {near[0]}?" if near else "see the arguments of vLLM's LLM"
        raise ModelError(f"--engine {name}: vLLM's LLM takes no such argument; {like}")


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables that the engine's processes read, and forget a plan that the shell may name."""
    names = ("ISOGLOSS_PLAN", *variables)
    before = {name: os.environ.pop(name, None) for name in names}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in names:
            os.environ.pop(name, None)
        os.environ.update({name: value for name, value in before.items() if value is not None})


def _routers(config: Any) -> tuple[Family, tuple[RouterSpec, ...]]:  # noqa: ANN401 - transformers' own
    """Read how a checkpoint's routers choose from transformers' own class, without any weight."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    family = family_of(model)
    return family, tuple(router.spec for router in find_routers(model, family))
