"""A `Model` that vLLM serves, on many GPUs or machines; plans are replaced without a restart."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from isogloss.backends.capture_options import CaptureOptions
from isogloss.backends.model import RouterCheck
from isogloss.backends.open import refuse_unsupported
from isogloss.backends.profiles import PortionRunner
from isogloss.backends.vllm.answers import answer_ids, generation_config
from isogloss.backends.vllm.capture import read_served, run_served
from isogloss.backends.vllm.checks import (
    AnswersObserver,
    largest_reach_served,
    try_recording,
    try_routers,
    write_recorded,
)
from isogloss.backends.vllm.likelihood import likelihoods_served
from isogloss.backends.vllm.loading import ServedModel, start_engine
from isogloss.backends.vllm.prove import prove_served
from isogloss.backends.vllm.routed_texts import change_served

__all__ = ["VLLMModel", "serve_any_plan", "serve_model"]


class VLLMModel(ServedModel):
    """A model that vLLM serves, in an engine that was started with ``record``.

    Most of its methods are the functions of this package. It has no ``hidden_size``, since vLLM gives the logits of
    its routers and not what they read. Draws of sampled answers differ from those of transformers.
    """

    hidden_size = None
    joint_log_likelihoods = likelihoods_served
    change = change_served
    generation_settings = generation_config
    _reader = read_served
    largest_reach = largest_reach_served
    _try_routers = try_routers
    _try_capture = try_recording
    _answer_ids = answer_ids
    _write = write_recorded

    @property
    def packages(self) -> dict[str, str]:
        """Name -> version of what can change the numbers; builds of vLLM for some devices have other package names."""
        return {**super().packages, "vllm": _version()}

    @property
    def summary(self) -> str:
        """Versions, dtype, device, kernels, and the settings by which vLLM rounds."""
        settings = ", ".join(f"{name} {value}" for name, value in self._kernels().items())
        experts = ", ".join(self.kernels)
        return f"{self._engine_version}, {self.dtype} on {self._device_type}; experts {experts}; {settings}"

    def prove(self, text: str) -> RouterCheck:  # noqa: ARG002 - the workers have tokens of their own
        """Show on random hidden states that every router chooses as its family's row says; see `prove_served`."""
        return prove_served(self)

    @property
    def _engine_version(self) -> str:
        return f"vllm {_version()}, torch {torch.__version__}"

    @property
    def _device_type(self) -> str:
        return str(self.vllm_config.device_config.device_type)

    def _kernels(self) -> dict[str, Any]:
        """Settings by name; None or ``auto`` where vLLM decides by the device, which is listed separately."""
        config = self.vllm_config
        parallel, scheduler, model = config.parallel_config, config.scheduler_config, config.model_config
        attention = getattr(getattr(config, "attention_config", None), "backend", None)
        return {
            "enforce_eager": bool(model.enforce_eager),
            "compilation": str(getattr(config.compilation_config.mode, "name", config.compilation_config.mode)),
            "quantization": None if model.quantization is None else str(model.quantization),
            "attention": getattr(attention, "name", attention),
            "moe": str(getattr(getattr(config, "kernel_config", None), "moe_backend", None)),
            "kv_cache": str(config.cache_config.cache_dtype),
            "prefix_caching": bool(config.cache_config.enable_prefix_caching),
            "tensor_parallel": int(parallel.tensor_parallel_size),
            "pipeline_parallel": int(parallel.pipeline_parallel_size),
            "expert_parallel": bool(parallel.enable_expert_parallel),
            "max_num_batched_tokens": int(scheduler.max_num_batched_tokens),
            "max_num_seqs": int(scheduler.max_num_seqs),
        }

    def _observer(self) -> AnswersObserver:
        return AnswersObserver(self)

    def _portion_runner(self, options: CaptureOptions) -> PortionRunner:
        refuse_unsupported(self.backend, hidden_states=options.hidden_states)
        return partial(run_served, self, token_counts=options.token_counts)


def serve_model(
    source: str,
    *,
    dtype: str = "auto",
    record: bool = False,
    n_slots: int = 1,
    options: Mapping[str, Any] | None = None,
    name: str | None = None,
) -> VLLMModel:
    """Start vLLM on a checkpoint from a folder or the hub, able to take plans of every kind.

    Args:
        source: hub id, with or without ``@REVISION``, or local folder.
        dtype: ``auto`` (as stored), ``float32``, ``bfloat16`` or ``float16``.
        record: whether routing can be recorded; then without a prefix cache, which would leave tokens out.
        n_slots: most combinations of language and phase of a plan.
        options: further arguments of vLLM's ``LLM``, such as ``tensor_parallel_size``.
        name: under which it appears in files; None for the hub id or the folder's name.

    Raises:
        ModelError: vLLM is not installed or takes no such option, or the model cannot be loaded or has routers that
            plans do not reach.
    """
    *parts, place = start_engine(source, dtype=dtype, record=record, n_slots=n_slots, options=options or {})
    return VLLMModel(name or place.source, *parts, revision=place.revision)


def serve_any_plan(
    source: str,
    *,
    dtype: str,
    engine: Mapping[str, Any] | None = None,
    name: str | None = None,
    threads: int | None = None,  # noqa: ARG001 - vLLM sets those of its workers
) -> VLLMModel:
    """Serve a model that can be captured, and steered by any plan that is asked for one language at a time."""
    n_slots = 2  # prompt and generation apart
    return serve_model(source, dtype=dtype, record=True, n_slots=n_slots, options=engine, name=name)


def _version() -> str:
    import vllm  # noqa: PLC0415 - there is a vLLM only where a model is served

    return str(vllm.__version__)
