"""A `Model` that vLLM serves: many GPUs or machines, every plan hot in one engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from isogloss.backends.checks import try_own_plans, try_plan
from isogloss.backends.configuration import context_length, lasting_generation_settings, tokenizer_sha256
from isogloss.backends.joint_texts import JointText
from isogloss.backends.model import (
    PACKAGES,
    CaptureOptions,
    Change,
    Likelihood,
    Model,
    RouterCheck,
    Sampling,
)
from isogloss.backends.vllm import checks
from isogloss.backends.vllm.answers import answer_prompts, generation_config
from isogloss.backends.vllm.capture import capture, counted_ids
from isogloss.backends.vllm.likelihood import joint_log_likelihoods
from isogloss.backends.vllm.loading import ServedModel
from isogloss.backends.vllm.prove import prove_served
from isogloss.backends.vllm.routed_texts import changed_choices
from isogloss.corpora import Corpus
from isogloss.errors import PlanError
from isogloss.routing import Fingerprint, RouterSpec
from isogloss.runs import LanguageRouting
from isogloss.steering import Plan

__all__ = ["VLLMModel"]


class VLLMModel(Model):
    """A model that vLLM serves, in an engine that was started with ``record``.

    Attributes:
        served: the state that the functions of `isogloss.backends.vllm` take.
    """

    def __init__(self, served: ServedModel, *, name: str | None = None) -> None:
        """Wrap a model.

        Args:
            served: the model.
            name: under which it appears in files; None for its own.
        """
        self.served, self._name = served, name or served.name

    @property
    def name(self) -> str:
        """Hub id, the name of a local folder, or ``organism``."""
        return self._name

    @property
    def backend(self) -> str:
        """What runs it."""
        return "vllm"

    @property
    def tokenizer(self) -> Any:  # noqa: ANN401 - transformers' own
        """Of the model."""
        return self.served.tokenizer

    @property
    def routers(self) -> tuple[RouterSpec, ...]:
        """How each routed layer chooses, by layer."""
        return tuple(self.served.specs)

    @property
    def fingerprint(self) -> Fingerprint:
        """What a plan or Run must agree with."""
        return self.served.fingerprint

    @property
    def revision(self) -> str | None:
        """The hub commit, where the checkpoint came from the hub."""
        return self.served.revision

    @property
    def config_sha256(self) -> str:
        """Hash of the configuration, the same as that of the model loaded by transformers."""
        return self.served.config_sha256

    @property
    def dtype(self) -> str:
        """Of weights and activations, such as ``bfloat16``."""
        return self.served.dtype

    @property
    def threads(self) -> int | None:
        """On how many threads each worker runs it on a processor; None on other devices."""
        return self.served.threads

    @property
    def packages(self) -> dict[str, str]:
        """Name -> version of what can change the numbers; builds of vLLM for some devices have other package names."""
        return {**{name: version(name) for name in PACKAGES}, "vllm": _version()}

    @property
    def context_length(self) -> int | None:
        """Most tokens of a text, as the configuration says; None where it does not."""
        return context_length(self.served.config)

    @property
    def hidden_size(self) -> None:
        """None: vLLM hands over the logits of its routers, not what they read."""
        return None

    @property
    def summary(self) -> str:
        """Versions, dtype, device, kernels, and the settings by which vLLM rounds."""
        settings = ", ".join(f"{name} {value}" for name, value in self._kernels().items())
        device = self._config.device_config.device_type
        return f"{_versions()}, {self.dtype} on {device}; experts {', '.join(self.served.kernels)}; {settings}"

    def describe(self) -> dict[str, Any]:
        """Return engine, version, dtype and model: all that decides outputs besides prompts and plans.

        ``kernels`` holds the settings of vLLM that change how numbers are rounded, so that evaluations that differ in
        one of them are not compared. End tokens and the repetition penalty of ``generation_config`` are applied as
        transformers does.
        """
        return {
            "engine": "vllm",
            "engine_version": _versions(),
            "dtype": f"torch.{self.dtype}",
            "device": str(self._config.device_config.device_type),
            "threads": self.threads,
            "kernels": self._kernels(),
            "model": self.fingerprint.to_json(),
            "model_name": self.name,
            "revision": self.revision,
            "config_sha256": self.config_sha256,
            "tokenizer_sha256": tokenizer_sha256(self.tokenizer),
            "generation_config": lasting_generation_settings(generation_config(self.served)),
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

    def prove(self, text: str) -> RouterCheck:  # noqa: ARG002 - the workers have tokens of their own
        """Show on random hidden states that every router chooses as its family's row says; see `prove_served`."""
        return prove_served(self.served)

    def capture(
        self,
        texts: Sequence[str],
        item_ids: Sequence[str],
        *,
        options: CaptureOptions | None = None,
        pivot_ids: npt.NDArray[np.int64] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> LanguageRouting:
        """Capture the routing of texts, or of what the model writes after them; see `capture`."""
        return capture(self.served, texts, item_ids, options=options, pivot_ids=pivot_ids, progress=progress)

    def counted_ids(
        self, texts: Sequence[str], item_ids: Sequence[str], options: CaptureOptions
    ) -> npt.NDArray[np.int64]:
        """Return the token ids, ascending, that a capture of these texts counts anywhere."""
        return counted_ids(self.served, texts, item_ids, options)

    def steer(self, plan: Plan) -> AbstractContextManager[None]:
        """Apply a plan to all that runs inside the context; see `ServedModel.steered`."""
        if plan.languages:
            raise PlanError(
                f"the plan has conditions on languages ({', '.join(plan.languages)}), and a request here has none; "
                "steer with what Plan.for_request chooses for one language"
            )
        return self.served.steered(plan)

    def answer(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        add_special_tokens: bool = True,
        sampling: tuple[Sampling, Sequence[str]] | None = None,
        stop: Sequence[str] = (),
    ) -> list[str]:
        """Continue each prompt of a batch; see `answer_prompts`. Draws differ from those of transformers."""
        return answer_prompts(
            self.served,
            prompts,
            max_new_tokens=max_new_tokens,
            add_special_tokens=add_special_tokens,
            sampling=sampling,
            stop=stop,
        )

    def joint_log_likelihoods(self, texts: Sequence[JointText]) -> list[Likelihood]:
        """Measure the tokens of each text from its start on; see `joint_log_likelihoods`."""
        return joint_log_likelihoods(self.served, texts)

    def change(self, plan: Plan, texts: Sequence[str], *, add_special_tokens: bool = True) -> Change:
        """Measure what a plan without conditions on languages changes on texts; see `changed_choices`.

        vLLM gives no whole distributions, so there is no divergence.
        """
        return Change(changed_choices(self.served, plan, texts, add_special_tokens=add_special_tokens))

    def checks(
        self,
        plan: Plan | None = None,
        *,
        language: str | None = None,
        corpus: Corpus | None = None,  # noqa: ARG002 - how long a capture takes is not estimated here
    ) -> Mapping[str, Callable[[], str]]:
        """Return the checks of `isogloss doctor` by name."""
        return {
            "routers": partial(checks.try_routers, self.served),
            "capture": partial(checks.try_recording, self.served),
            **(
                {"steering": self._try_own_plans} if plan is None else {"plan": partial(self._try_plan, plan, language)}
            ),
        }

    def _try_own_plans(self) -> str:
        return try_own_plans(self, checks.AnswersObserver(self.served), partial(checks.largest_reach, self.served))

    def _try_plan(self, plan: Plan, language: str | None) -> str:
        return try_plan(self, checks.AnswersObserver(self.served), plan, language)


def _version() -> str:
    import vllm  # noqa: PLC0415 - there is a vLLM only where a model is served

    return str(vllm.__version__)


def _versions() -> str:
    return f"vllm {_version()}, torch {torch.__version__}"
