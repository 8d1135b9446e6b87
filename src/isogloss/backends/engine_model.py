"""What the models of both engines have in common: facts of the checkpoint, the steps of a capture, and the checks."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from isogloss.arrays import Int64Array
from isogloss.backends.capture_options import CaptureOptions
from isogloss.backends.checks import PROBE_TEXTS, Observer, try_own_plans, try_plan
from isogloss.backends.configuration import applied_settings, end_tokens, placeholders, set_aside, tokenizer_sha256
from isogloss.backends.families import Family
from isogloss.backends.model import AnswerOptions, Model, Sampling
from isogloss.backends.open import checks_of
from isogloss.backends.profiles import PortionRunner, gather
from isogloss.backends.token_batches import Reader, counted_ids, portions, require_room
from isogloss.backends.token_counts import TokenCounter
from isogloss.backends.writing import Writing, Written
from isogloss.corpora import Corpus, Turns
from isogloss.routing import RouterSpec
from isogloss.runs import LanguageRouting
from isogloss.steering import Steering

__all__ = ["EngineModel"]

# Whose versions can change the numbers, whatever runs the model.
_PACKAGES = ("isogloss", "torch", "transformers", "tokenizers", "numpy")
# Of a configuration, what depends on where and how it was loaded and not on the model.
_VOLATILE = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures")


class EngineModel(Model):
    """A checkpoint that an engine has loaded; from a folder, it is named as the folder.

    Attributes:
        config: of the checkpoint, as transformers reads it.
        family: the row that describes its routers.
    """

    def __init__(
        self,
        name: str,
        tokenizer: Any,  # noqa: ANN401 - transformers' own
        config: Any,  # noqa: ANN401 - transformers' own
        family: Family,
        routers: Sequence[RouterSpec],
        *,
        revision: str | None = None,
    ) -> None:
        self.name = Path(name).resolve().name if Path(name).is_dir() else name
        self.tokenizer, self.config = tokenizer, config
        self.family, self.routers, self.revision = family, tuple(routers), revision

    @property
    def config_sha256(self) -> str:
        """Hash of the configuration, the same for all engines."""
        fields = {key: value for key, value in self.config.to_dict().items() if key not in _VOLATILE}
        return hashlib.sha256(json.dumps(fields, sort_keys=True, default=str).encode()).hexdigest()

    @property
    def tokenizer_sha256(self) -> str:
        """Hash of what the tokenizer does to a text."""
        return tokenizer_sha256(self.tokenizer)

    @property
    def packages(self) -> dict[str, str]:
        """Name -> version of what can change the numbers."""
        return {name: version(name) for name in _PACKAGES}

    @property
    def context_length(self) -> int | None:
        """Most tokens of a text, as the configuration sets it; None where it does not."""
        lengths = (
            getattr(self.config.get_text_config(), name, None)
            for name in ("n_positions", "max_position_embeddings", "n_ctx")
        )
        return next((int(length) for length in lengths if length is not None), None)

    @property
    def placeholders(self) -> frozenset[int]:
        """Ids of tokens in whose place the model reads something else than text."""
        return placeholders(self.config, self.tokenizer)

    @property
    def ends(self) -> frozenset[int]:
        """Ids of the tokens that end what the model writes."""
        return end_tokens(self.generation_settings())

    @abstractmethod
    def generation_settings(self) -> dict[str, Any]:
        """Return the checkpoint's settings for generation that differ from the defaults of transformers."""

    def describe(self) -> dict[str, Any]:
        """Return engine, version, dtype and model: all that decides outputs besides prompts and plans."""
        stored = self.generation_settings()
        ignored = set_aside(stored)
        return {
            "engine": self.backend,
            "engine_version": self._engine_version,
            "isogloss_version": version("isogloss"),
            "dtype": f"torch.{self.dtype}",
            "device": self._device_type,
            "threads": self.threads,
            "kernels": self._kernels(),
            "model": self.fingerprint.to_json(),
            "model_name": self.name,
            "revision": self.revision,
            "config_sha256": self.config_sha256,
            "weights_sha256": self.weights_sha256,
            "tokenizer_sha256": self.tokenizer_sha256,
            "generation_config": applied_settings(stored),
            **({"generation_config_ignored": ignored} if ignored else {}),
        }

    def capture(
        self,
        texts: Sequence[str | Turns],
        item_ids: Sequence[str],
        *,
        options: CaptureOptions | None = None,
        pivot_ids: Int64Array | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> LanguageRouting:
        """Capture the routing of texts, or of what the model writes after them; see `Model.capture`.

        In the generation phase the model first continues each text greedily; then text and continuation run together,
        which routes every token as it was routed when the model read it back, also under a plan that edits prompt and
        generation differently; and only tokens of the continuation are counted.
        """
        options = options or CaptureOptions()
        with self._computing():
            run = self._portion_runner(options)
            parts = portions(self._reader(), texts, item_ids, options, pivot_ids=pivot_ids)
            counter = TokenCounter(self.tokenizer, self.routers[0].n_experts) if options.token_counts else None
            return gather(parts, len(texts), run=run, counter=counter, progress=progress)

    def require_room(self, corpus: Corpus, options: CaptureOptions) -> Mapping[str, float]:
        """Refuse a corpus that a capture cannot count; return the share of unknown tokens by language."""
        return require_room(self._reader(), corpus, options)

    def counted_ids(self, texts: Sequence[str | Turns], item_ids: Sequence[str], options: CaptureOptions) -> Int64Array:
        """Return the token ids, ascending, that a capture of these texts counts anywhere."""
        with self._computing():
            return counted_ids(self._reader(), texts, item_ids, options)

    def checks(
        self, plan: Steering | None = None, *, language: str | None = None, corpus: Corpus | None = None
    ) -> Mapping[str, Callable[[], str]]:
        """Return the checks of `isogloss doctor` by name."""
        trial = partial(self._try_steering, plan, language)
        checks: dict[str, Callable[[], str]] = {
            "routers": self._try_routers,
            "capture": self._try_capture,
            "padding": self._try_padding,
            "generation": self._try_generation,
            "steering": trial,
            "plan": trial,
            "estimate": partial(self._estimate_capture, corpus),
        }
        return {name: checks[name] for name in checks_of(self.backend, with_plan=plan is not None)}

    def answer(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        add_special_tokens: bool = True,
        sampling: tuple[Sampling, Sequence[str]] | None = None,
        stop: Sequence[str] = (),
    ) -> list[str]:
        """Continue each prompt of a batch, until the model ends it; see `Model.answer`."""
        options = AnswerOptions(max_new_tokens, add_special_tokens, sampling, [text for text in stop if text])
        ids = self._answer_ids(prompts, options)
        return list(self.tokenizer.batch_decode(ids, skip_special_tokens=True))

    def _try_steering(self, plan: Steering | None, language: str | None) -> str:
        with self._computing():
            observer, writing = self._observer(), self._writing()
            if plan is None:
                return try_own_plans(self, observer, writing, self.largest_reach)
            return try_plan(self, observer, writing, plan, language=language)

    def _try_generation(self) -> str:
        with self._computing():
            return self._writing().try_unsteered()

    def _writing(self) -> Writing:
        read = self._portion_runner(CaptureOptions(token_scope="all"))
        return Writing(self, PROBE_TEXTS, answer_ids=self._answer_ids, write=self._write, read=read)

    @abstractmethod
    def _answer_ids(self, prompts: Sequence[str], options: AnswerOptions) -> list[list[int]]:
        """Return the token ids of each answer, up to the one that ends it, with it."""

    @abstractmethod
    def _write(self, prompts: Sequence[str]) -> list[Written]:
        """Go on after each prompt, as `Writing` takes it."""

    @abstractmethod
    def _try_routers(self) -> str:
        """Describe the routers."""

    @abstractmethod
    def _try_capture(self) -> str:
        """Check what a capture counts."""

    def _try_padding(self) -> str:
        """Check what padding changes, in engines that pad."""
        raise NotImplementedError

    def _estimate_capture(self, corpus: Corpus | None) -> str:
        """Estimate what a capture takes, in engines that can."""
        raise NotImplementedError

    def _computing(self) -> AbstractContextManager[None]:
        """Set up the process for the model's computations."""
        return nullcontext()

    @property
    @abstractmethod
    def _engine_version(self) -> str:
        """Versions of what runs the model."""

    @property
    @abstractmethod
    def _device_type(self) -> str:
        """Kind of device, such as ``cuda``."""

    @abstractmethod
    def _kernels(self) -> dict[str, Any]:
        """Settings of the engine that change how numbers are rounded."""

    @abstractmethod
    def _reader(self) -> Reader:
        """How texts are read, and how prompts are continued."""

    @abstractmethod
    def _portion_runner(self, options: CaptureOptions) -> PortionRunner:
        """Return what runs a portion of texts, as `gather` takes it."""

    @abstractmethod
    def _observer(self) -> Observer:
        """Note what the model computes now."""

    @abstractmethod
    def largest_reach(self, layer: int) -> float:
        """Largest distance of a token's median router logit to its best, in a decoder layer."""
