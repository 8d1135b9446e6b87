"""A `Model` that transformers runs in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial, wraps
from importlib.metadata import version
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import transformers

from isogloss.backends.checks import try_own_plans, try_plan
from isogloss.backends.configuration import (
    context_length,
    generation_settings,
    lasting_generation_settings,
    tokenizer_sha256,
)
from isogloss.backends.huggingface import checks
from isogloss.backends.huggingface.answers import answer_batch
from isogloss.backends.huggingface.capture import capture, counted_ids
from isogloss.backends.huggingface.change import measure_change
from isogloss.backends.huggingface.estimate import estimate_capture, weight_bytes
from isogloss.backends.huggingface.likelihood import joint_log_likelihoods
from isogloss.backends.huggingface.loading import LoadedModel
from isogloss.backends.huggingface.prove import prove_routers
from isogloss.backends.huggingface.steer import steer
from isogloss.backends.huggingface.watch import hidden_size
from isogloss.backends.joint_texts import JointText
from isogloss.backends.model import PACKAGES, CaptureOptions, Change, Likelihood, Model, RouterCheck, Sampling
from isogloss.corpora import Corpus
from isogloss.organism.threads import torch_threads
from isogloss.routing import Fingerprint, RouterSpec
from isogloss.runs import LanguageRouting
from isogloss.steering import Plan

__all__ = ["HuggingFaceModel"]

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


def _on_own_threads(
    method: Callable[Concatenate[HuggingFaceModel, _Parameters], _Result],
) -> Callable[Concatenate[HuggingFaceModel, _Parameters], _Result]:
    """Let torch compute on the model's own number of threads while a method runs."""

    @wraps(method)
    def run(self: HuggingFaceModel, /, *args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
        with torch_threads(self._own_threads):
            return method(self, *args, **kwargs)

    return run


class HuggingFaceModel(Model):
    """A model that transformers has loaded.

    Attributes:
        loaded: the state that the functions of `isogloss.backends.huggingface` take.
    """

    def __init__(self, loaded: LoadedModel, *, name: str | None = None, threads: int | None = None) -> None:
        """Wrap a model.

        Args:
            loaded: the model.
            name: under which it appears in files; None for its own.
            threads: on which torch computes while a method runs; None for as many as the process has.
        """
        self.loaded, self._name, self._own_threads = loaded, name or loaded.name, threads

    @property
    def name(self) -> str:
        """Hub id, the name of a local folder, or ``organism``."""
        return self._name

    @property
    def backend(self) -> str:
        """What runs it."""
        return "huggingface"

    @property
    def tokenizer(self) -> Any:  # noqa: ANN401 - transformers' own
        """Of the model; pads on the left."""
        return self.loaded.tokenizer

    @property
    def routers(self) -> tuple[RouterSpec, ...]:
        """How each routed layer chooses, by layer."""
        return tuple(router.spec for router in self.loaded.routers)

    @property
    def fingerprint(self) -> Fingerprint:
        """What a plan or Run must agree with."""
        return self.loaded.fingerprint()

    @property
    def revision(self) -> str | None:
        """The hub commit, where the checkpoint came from the hub."""
        return self.loaded.revision

    @property
    def config_sha256(self) -> str:
        """Hash of the configuration, apart from what depends on where and how it was loaded."""
        return self.loaded.config_sha256

    @property
    def dtype(self) -> str:
        """Of the weights, such as ``bfloat16``."""
        return self.loaded.dtype

    @property
    def threads(self) -> int | None:
        """On how many threads a processor runs it; None on other devices."""
        return (self._own_threads or torch.get_num_threads()) if self.loaded.device.type == "cpu" else None

    @property
    def packages(self) -> dict[str, str]:
        """Name -> version of what can change the numbers."""
        return {name: version(name) for name in PACKAGES}

    @property
    def context_length(self) -> int | None:
        """Most tokens of a text, as the configuration says; None where it does not."""
        return context_length(self.loaded.model.config)

    @property
    def hidden_size(self) -> int:
        """Width of what routers read."""
        return hidden_size(self.loaded)

    @property
    def summary(self) -> str:
        """Dtype, device, and size of the weights."""
        n_parameters = sum(parameter.numel() for parameter in self.loaded.model.parameters())
        return (
            f"{self.dtype} on {self.loaded.device}, {n_parameters:,} parameters, "
            f"{weight_bytes(self.loaded) / 2**30:.3g} GiB of weights"
        )

    def describe(self) -> dict[str, Any]:
        """Return engine, version, dtype and model: all that decides outputs besides prompts and plans."""
        model: Any = self.loaded.model
        return {
            "engine": "huggingface",
            "engine_version": f"transformers {transformers.__version__}, torch {torch.__version__}",
            "dtype": str(model.dtype),
            "device": self.loaded.device.type,
            "threads": self.threads,
            "kernels": {
                name: str(getattr(model.config, f"_{name}_implementation", None)) for name in ("attn", "experts")
            },
            "model": self.fingerprint.to_json(),
            "model_name": self.name,
            "revision": self.revision,
            "config_sha256": self.config_sha256,
            "tokenizer_sha256": tokenizer_sha256(self.tokenizer),
            "generation_config": lasting_generation_settings(generation_settings(model.generation_config)),
        }

    @_on_own_threads
    def prove(self, text: str) -> RouterCheck:
        """Show on a text that every router chooses as its family's row says; see `prove_routers`."""
        return prove_routers(self.loaded, text)

    @_on_own_threads
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
        return capture(self.loaded, texts, item_ids, options=options, pivot_ids=pivot_ids, progress=progress)

    @_on_own_threads
    def counted_ids(
        self, texts: Sequence[str], item_ids: Sequence[str], options: CaptureOptions
    ) -> npt.NDArray[np.int64]:
        """Return the token ids, ascending, that a capture of these texts counts anywhere."""
        return counted_ids(self.loaded, texts, item_ids, options)

    def steer(self, plan: Plan) -> AbstractContextManager[None]:
        """Apply a plan to all that runs inside the context; see `isogloss.backends.huggingface.steer`."""
        return steer(self.loaded, plan)

    @_on_own_threads
    def answer(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        add_special_tokens: bool = True,
        sampling: tuple[Sampling, Sequence[str]] | None = None,
        stop: Sequence[str] = (),
    ) -> list[str]:
        """Continue each prompt of a batch; see `answer_batch`."""
        return answer_batch(
            self.loaded,
            prompts,
            max_new_tokens=max_new_tokens,
            add_special_tokens=add_special_tokens,
            sampling=sampling,
            stop=stop,
        )

    @_on_own_threads
    def joint_log_likelihoods(self, texts: Sequence[JointText]) -> list[Likelihood]:
        """Measure the tokens of each text from its start on; see `joint_log_likelihoods`."""
        return joint_log_likelihoods(self.loaded, texts)

    @_on_own_threads
    def change(self, plan: Plan, texts: Sequence[str], *, add_special_tokens: bool = True) -> Change:
        """Measure what a plan without conditions on languages changes on texts; see `measure_change`."""
        return measure_change(self.loaded, plan, texts, add_special_tokens=add_special_tokens)

    def checks(
        self, plan: Plan | None = None, *, language: str | None = None, corpus: Corpus | None = None
    ) -> Mapping[str, Callable[[], str]]:
        """Return the checks of `isogloss doctor` by name."""
        trial = (self._try_own_plans,) if plan is None else (self._try_plan, plan, language)
        return {
            "routers": partial(checks.describe_family, self.loaded),
            "capture": partial(self._check, checks.try_capture),
            "padding": partial(self._check, checks.try_padding),
            "steering" if plan is None else "plan": partial(self._check, *trial),
            "estimate": partial(self._check, estimate_capture, corpus),
        }

    @_on_own_threads
    def _check(self, check: Callable[..., str], *arguments: object) -> str:
        return check(self.loaded, *arguments)

    def _try_own_plans(self, loaded: LoadedModel) -> str:
        return try_own_plans(self, checks.LogitsObserver(loaded), partial(checks.largest_reach, loaded))

    def _try_plan(self, loaded: LoadedModel, plan: Plan, language: str | None) -> str:
        return try_plan(self, checks.LogitsObserver(loaded), plan, language)
