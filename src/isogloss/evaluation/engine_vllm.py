"""The engine of an evaluation that vLLM runs: many GPUs or machines, every arm hot in one engine."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch

from isogloss.backends.huggingface.likelihood import Likelihood
from isogloss.backends.huggingface.sampling import Sampling
from isogloss.backends.vllm.answers import answer_prompts, generation_config
from isogloss.backends.vllm.effect import changed_choices
from isogloss.backends.vllm.likelihood import served_log_likelihoods
from isogloss.backends.vllm.loading import ServedModel
from isogloss.evaluation.engine import Change, stored_generation, tokenizer_sha256
from isogloss.steering import Plan

__all__ = ["VLLMEngine"]


class VLLMEngine:
    """A model that vLLM serves, started with ``record`` and with as many slots as the largest plan needs."""

    def __init__(self, served: ServedModel) -> None:
        self.served = served

    @property
    def name(self) -> str:
        """Of the model."""
        return self.served.name

    @property
    def tokenizer(self) -> Any:  # noqa: ANN401 - transformers' own
        """Of the model."""
        return self.served.tokenizer

    def describe(self) -> dict[str, Any]:
        """Return engine, version, dtype and model: all that decides outputs besides prompts and plans.

        ``kernels`` holds the settings of vLLM that change how numbers are rounded, so that evaluations that differ in
        one of them are not compared. End tokens and the repetition penalty of ``generation_config`` are applied as
        transformers does.
        """
        return {
            "engine": "vllm",
            "engine_version": f"vllm {_version()}, torch {torch.__version__}",
            "dtype": f"torch.{self.served.dtype}",
            "device": str(self._config.device_config.device_type),
            "kernels": self._kernels(),
            "model": self.served.fingerprint.to_json(),
            "model_name": self.served.name,
            "revision": self.served.revision,
            "config_sha256": self.served.config_sha256,
            "tokenizer_sha256": tokenizer_sha256(self.served.tokenizer),
            "generation_config": stored_generation(generation_config(self.served)),
        }

    @property
    def _config(self) -> Any:  # noqa: ANN401 - vLLM's own
        return self.served.engine.llm_engine.vllm_config

    def _kernels(self) -> dict[str, Any]:
        """Settings by name; None or ``auto`` where vLLM chooses by the device, which is told by itself."""
        config = self._config
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

    def steered(self, plan: Plan) -> AbstractContextManager[None]:
        """Apply a plan to all that runs inside the context; see `ServedModel.steered`."""
        return self.served.steered(plan)

    def answer(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        add_special_tokens: bool,
        sampling: tuple[Sampling, Sequence[str]] | None,
    ) -> list[str]:
        """Continue each prompt of a batch; see `answer_prompts`. Draws differ from those of `HuggingFaceEngine`."""
        return answer_prompts(
            self.served,
            prompts,
            max_new_tokens=max_new_tokens,
            add_special_tokens=add_special_tokens,
            sampling=sampling,
        )

    def log_likelihoods(self, pairs: Sequence[tuple[str, str]], *, add_special_tokens: bool) -> list[Likelihood]:
        """Measure each continuation after its prompt; see `served_log_likelihoods`."""
        return served_log_likelihoods(self.served, pairs, add_special_tokens=add_special_tokens)

    def change(self, plan: Plan, texts: Sequence[str], *, add_special_tokens: bool) -> Change:
        """Measure what a plan without conditions on languages changes on texts; see `changed_choices`.

        vLLM gives no whole distributions, so there is no divergence.
        """
        return Change(changed_choices(self.served, plan, texts, add_special_tokens=add_special_tokens), None)


def _version() -> str:
    import vllm  # noqa: PLC0415 - there is a vLLM only where a model is served

    return str(vllm.__version__)
