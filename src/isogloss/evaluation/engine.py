"""What an evaluation needs of an engine that runs the model, and the engine of transformers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import transformers

from isogloss.analysis.statistics import Estimate
from isogloss.backends.huggingface import Effect, LoadedModel, steer
from isogloss.backends.huggingface.effect import measure_plan_effect
from isogloss.backends.huggingface.likelihood import Likelihood, continuation_log_likelihoods
from isogloss.backends.huggingface.sampling import Sampling, answer_batch
from isogloss.evaluation.tasks.render import ChatTokenizer
from isogloss.steering import Plan

__all__ = ["Change", "Engine", "HuggingFaceEngine", "stored_generation", "tokenizer_sha256"]

_VOLATILE = ("transformers_version", "_from_model_config", "max_length", "max_new_tokens", "do_sample")


@dataclass(frozen=True)
class Change:
    """What a plan changes on some texts.

    Attributes:
        changed: decoder layer to the share of tokens whose set of chosen experts differs from the unsteered one.
        kl: divergence of the next-token distribution, unsteered from steered, nats per token; None where the engine
            gives no distributions.
    """

    changed: dict[int, float]
    kl: Estimate | None

    def require(self, plan: Plan) -> None:
        """Raise a `PlanError` where the plan is not empty and changes no chosen expert at all."""
        Effect(self.changed).require(plan)


class Engine(Protocol):
    """A model under an engine; one evaluation uses one engine for all arms."""

    @property
    def name(self) -> str:
        """Of the model."""

    @property
    def tokenizer(self) -> ChatTokenizer:
        """Of the model."""

    def describe(self) -> dict[str, Any]:
        """Return engine, version, dtype and model: all that decides outputs besides prompts and plans."""

    def steered(self, plan: Plan) -> AbstractContextManager[None]:
        """Apply a plan to all that runs inside the context."""

    def answer(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        add_special_tokens: bool,
        sampling: tuple[Sampling, Sequence[str]] | None,
    ) -> list[str]:
        """Continue each prompt of a batch; sampling comes with one key per prompt, and is None for greedy answers."""

    def log_likelihoods(self, pairs: Sequence[tuple[str, str]], *, add_special_tokens: bool) -> list[Likelihood]:
        """Measure each continuation after its prompt."""

    def change(self, plan: Plan, texts: Sequence[str], *, add_special_tokens: bool) -> Change:
        """Measure what a plan changes on texts."""


class HuggingFaceEngine:
    """A model loaded by transformers."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded

    @property
    def name(self) -> str:
        """Of the model."""
        return self.loaded.name

    @property
    def tokenizer(self) -> Any:  # noqa: ANN401 - transformers' own
        """Of the model."""
        return self.loaded.tokenizer

    def describe(self) -> dict[str, Any]:
        """Return engine, version, dtype and model: all that decides outputs besides prompts and plans."""
        model: Any = self.loaded.model
        generation = model.generation_config.to_diff_dict() if model.generation_config is not None else {}
        return {
            "engine": "huggingface",
            "engine_version": f"transformers {transformers.__version__}, torch {torch.__version__}",
            "dtype": str(model.dtype),
            "device": self.loaded.device.type,
            "kernels": {
                name: str(getattr(model.config, f"_{name}_implementation", None)) for name in ("attn", "experts")
            },
            "model": self.loaded.fingerprint().to_json(),
            "model_name": self.loaded.name,
            "revision": self.loaded.revision,
            "config_sha256": self.loaded.config_sha256,
            "tokenizer_sha256": tokenizer_sha256(self.loaded.tokenizer),
            "generation_config": stored_generation(generation),
        }

    def steered(self, plan: Plan) -> AbstractContextManager[None]:
        """Apply a plan to all that runs inside the context; see `isogloss.backends.huggingface.steer`."""
        return steer(self.loaded, plan)

    def answer(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        add_special_tokens: bool,
        sampling: tuple[Sampling, Sequence[str]] | None,
    ) -> list[str]:
        """Continue each prompt of a batch; see `answer_batch`."""
        return answer_batch(
            self.loaded,
            prompts,
            max_new_tokens=max_new_tokens,
            add_special_tokens=add_special_tokens,
            sampling=sampling,
        )

    def log_likelihoods(self, pairs: Sequence[tuple[str, str]], *, add_special_tokens: bool) -> list[Likelihood]:
        """Measure each continuation after its prompt; see `continuation_log_likelihoods`."""
        return continuation_log_likelihoods(self.loaded, pairs, add_special_tokens=add_special_tokens)

    def change(self, plan: Plan, texts: Sequence[str], *, add_special_tokens: bool) -> Change:
        """Measure what a plan without conditions on languages changes on texts; see `measure_plan_effect`."""
        effect = measure_plan_effect(self.loaded, plan, texts, add_special_tokens=add_special_tokens)
        return Change({layer: share.value for layer, share in effect.changed.items()}, effect.kl)


def stored_generation(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a generation configuration decides, apart from what every call sets anew."""
    return {key: value for key, value in settings.items() if key not in _VOLATILE}


def tokenizer_sha256(tokenizer: Any) -> str:  # noqa: ANN401 - transformers' own
    """Hash what a tokenizer does to a text, apart from padding and truncation, which each call sets."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    state = tokenizer.get_vocab() if fast is None else json.loads(fast.to_str())
    state = {key: value for key, value in state.items() if key not in ("padding", "truncation")}
    special = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id]
    return hashlib.sha256(json.dumps([state, special], sort_keys=True).encode()).hexdigest()
