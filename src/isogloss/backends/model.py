"""A model that runs somewhere: what every backend offers, and the plain data that goes in and comes out.

Workflows and evaluations know no backend; they take a `Model`. `isogloss.backends.open.load` makes one.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from isogloss.arrays import Int64Array
from isogloss.backends.capture_options import CaptureOptions
from isogloss.backends.joint_texts import JointText, tokenise_pairs
from isogloss.backends.token_routing import NextTokens, RoutedText, TokenRouting
from isogloss.corpora import Corpus, Turns
from isogloss.errors import ModelError, PlanError, RunError
from isogloss.routing import Fingerprint, RouterSpec
from isogloss.runs import LanguageRouting
from isogloss.statistics import Estimate
from isogloss.steering import Steering

__all__ = ["AnswerOptions", "Change", "Likelihood", "Model", "RouterCheck", "Sampling"]


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    Attributes:
        temperature: divides the logits, above 0.
        top_p: keep the most probable tokens whose probabilities together reach it, above 0 and at most 1.
        top_k: keep so many of the most probable tokens, at least 1; None for all. Applied before ``top_p``.
        seed: with an item's key, decides the item's draws.

    Raises:
        RunError: a setting out of its range.
    """

    temperature: float
    top_p: float = 1.0
    top_k: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        finite = math.isfinite(self.temperature) and self.temperature > 0
        if not finite or not 0 < self.top_p <= 1 or (self.top_k is not None and self.top_k < 1) or self.seed < 0:
            raise RunError(
                f"sampling with temperature {self.temperature}, top-p {self.top_p}, top-k {self.top_k}, seed "
                f"{self.seed}; expected temperature above 0, 0 < top-p <= 1, top-k and seed not negative (top-k at "
                "least 1); leave all of them out for greedy answers"
            )

    def to_json(self) -> dict[str, Any]:
        """Return the fields."""
        return asdict(self)

    def numbers(self, key: str, n: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Return ``[n]`` numbers from 0 up to 1 for an item's tokens, the same in every arm, batch and order."""
        digest = hashlib.sha256(f"{self.seed}/{key}".encode()).digest()
        return np.random.default_rng(int.from_bytes(digest, "big")).random(n)


class AnswerOptions(NamedTuple):
    """How prompts are continued, as `Model.answer` is asked to."""

    max_new_tokens: int
    add_special_tokens: bool = True
    sampling: tuple[Sampling, Sequence[str]] | None = None
    stop: Sequence[str] = ()


class Likelihood(NamedTuple):
    """How likely one continuation is.

    Attributes:
        nats: natural logarithm of its probability after its prompt, at most 0.
        n_tokens: tokens that the sum runs over.
        greedy: whether each of them is the likeliest one at its place.
    """

    nats: float
    n_tokens: int
    greedy: bool


@dataclass(frozen=True)
class Change:
    """What a plan changes, over the tokens of all texts; intervals resample texts.

    Attributes:
        changed: decoder layer to the share of tokens whose set of chosen experts differs from the unsteered one.
        kl: Kullback-Leibler divergence of the next-token distribution, unsteered from steered, in nats per token; like
            all that follows None where the backend gives no distributions.
        kl_per_item: the same as the mean over each text's own tokens.
        other_tokens: share of tokens after which another next token is the likeliest.
        n_tokens: tokens measured.
    """

    changed: dict[int, float]
    kl: Estimate | None = None
    kl_per_item: tuple[float, ...] | None = None
    other_tokens: float | None = None
    n_tokens: int | None = None

    def require(self, plan: Steering) -> None:
        """Refuse a plan that is not empty and changed no chosen expert at all.

        Raises:
            PlanError: no token of the probe texts chose other experts.
        """
        if not plan.is_empty and not any(self.changed.values()):
            raise PlanError(
                f"the {plan.noun} changed no chosen expert on the probe text; "
                "expected some token to be routed otherwise: raise the strength, or check layers and experts"
            )


@dataclass(frozen=True)
class RouterCheck:
    """How closely a model's routers agreed with the reference router.

    Attributes:
        n_tokens: that were run.
        deviation: largest difference of any layer, at most the dtype's `isogloss.backends.agreement.TOLERANCE`.
        n_handed: routed layers whose experts get expert ids as an argument, which are then the router's.
    """

    n_tokens: int
    deviation: float
    n_handed: int


class Model(Protocol):
    """A model that a backend runs.

    The same calls on the same texts give the same bytes on machines of the same kind, with the same versions of the
    `packages`, and on a processor with the same number of `threads`: sums in another order differ in the last digits.

    Attributes:
        backend: what runs it, as `isogloss.backends.open.load` takes it.
        name: hub id, the name of a folder, or ``organism``; never a path, so that files of several machines agree.
        tokenizer: transformers' own.
        routers: how each routed layer chooses, by layer.
        revision: commit of the hub's repository; None where the checkpoint came from a folder.
    """

    backend: str
    name: str
    tokenizer: Any
    routers: tuple[RouterSpec, ...]
    revision: str | None

    def __repr__(self) -> str:
        first = self.routers[0]
        routers = f"{len(self.routers)} routed layers of {first.n_experts} experts, top {first.top_k}"
        return f"{type(self).__name__}({self.name}: {routers}, {self.dtype})"

    @property
    def fingerprint(self) -> Fingerprint:
        """What a plan or Run must agree with."""

    @property
    def config_sha256(self) -> str:
        """Hash of the configuration, apart from what depends on where and how it was loaded."""

    @property
    def weights_sha256(self) -> str | None:
        """Hash of values sampled from every weight, as they are now; None where the backend cannot tell."""

    @property
    def tokenizer_sha256(self) -> str:
        """Hash of what the tokenizer does to a text."""

    @property
    def dtype(self) -> str:
        """Of the weights, such as ``bfloat16``."""

    @property
    def threads(self) -> int | None:
        """On how many threads a processor runs it; None on other devices."""

    @property
    def packages(self) -> dict[str, str]:
        """Name -> version of what can change the numbers."""

    @property
    def context_length(self) -> int | None:
        """Most tokens of a text, as the configuration says; None where it does not."""

    @property
    def placeholders(self) -> frozenset[int]:
        """Ids of tokens in whose place the model reads images, videos or sound; texts with one are refused."""

    @property
    def hidden_size(self) -> int | None:
        """Width of what routers read; None where the backend cannot keep it."""

    @property
    def held_bytes(self) -> Mapping[tuple[str, str], int]:
        """Bytes of weights in memory by part, ``experts`` or ``others``, and dtype; empty where they are not known."""
        return {}

    @property
    def summary(self) -> str:
        """What was loaded, in a few words with numbers."""

    def describe(self) -> dict[str, Any]:
        """Return engine, version, dtype and model: all that decides outputs besides prompts and plans."""

    def prove(self, text: str) -> RouterCheck:
        """Show that every router chooses as its family's row says; ModelError where one does not.

        Args:
            text: to run, where the backend runs one for it.
        """

    def capture(
        self,
        texts: Sequence[str | Turns],
        item_ids: Sequence[str],
        *,
        options: CaptureOptions | None = None,
        pivot_ids: Int64Array | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> LanguageRouting:
        """Capture the routing of texts, or of what the model writes after them.

        Args:
            texts: one per item; turns in a chat alone.
            item_ids: seed the sample of tokens for consistency, so it does not depend on the batch.
            options: what is counted.
            pivot_ids: token ids of the pivot language (`counted_ids`); profiles are then also taken over those counted
                tokens alone whose id is none of them. None leaves that out.
            progress: called with the number of texts that were finished.

        Raises:
            CorpusError: a text has no token to count, or more tokens than the model takes.
            ModelError: a router did not run, or hidden states are asked for and cannot be kept.
        """

    def require_room(self, corpus: Corpus, options: CaptureOptions) -> Mapping[str, float]:
        """Refuse a corpus that a capture cannot count, with a text that is too long or mostly of unknown tokens.

        Returns:
            Language to the share of its tokens that are the tokenizer's unknown token, from 0 to 1.

        Raises:
            CorpusError: names language, file and item.
        """

    def counted_ids(self, texts: Sequence[str | Turns], item_ids: Sequence[str], options: CaptureOptions) -> Int64Array:
        """Return the token ids, ascending, that a capture of these texts counts anywhere."""

    def steer(self, plan: Steering) -> AbstractContextManager[None]:
        """Apply a plan or a router adapter to all that runs inside the context; afterwards the model is as before.

        Args:
            plan: for this model, without conditions on languages; see `isogloss.steering.Plan.for_request`.

        Raises:
            PlanError: the plan is for another model, has conditions on languages, or another plan is active.
        """

    def answer(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        add_special_tokens: bool = True,
        sampling: tuple[Sampling, Sequence[str]] | None = None,
        stop: Sequence[str] = (),
    ) -> list[str]:
        """Continue each prompt of a batch, until the model ends it.

        Args:
            prompts: sent as they are, together.
            max_new_tokens: most tokens per answer.
            add_special_tokens: False for prompts that come from a chat template.
            sampling: how tokens are drawn, and one key per prompt; None for greedy answers.
            stop: texts after which an answer may end; they are not cut off, and special tokens count as their text.

        Returns:
            The continuations, without the prompt and special tokens.
        """

    def log_likelihoods(self, pairs: Sequence[tuple[str, str]], *, add_special_tokens: bool = True) -> list[Likelihood]:
        """Measure each continuation after its prompt.

        Args:
            pairs: (prompt, continuation) each, all continuations of a prompt in one call.
            add_special_tokens: False for prompts that come from a chat template.

        Returns:
            One per pair, in order.

        Raises:
            CorpusError: a continuation without a token to measure.
        """
        return self.joint_log_likelihoods(tokenise_pairs(self.tokenizer, pairs, add_special_tokens=add_special_tokens))

    def joint_log_likelihoods(self, texts: Sequence[JointText]) -> list[Likelihood]:
        """Measure the tokens of each text from its start on; return them by place.

        Args:
            texts: with the places 0 to n - 1, in any order.
        """

    def route_tokens(self, text: str, *, add_special_tokens: bool = True) -> TokenRouting:  # noqa: ARG002 - of others
        """Run one text and return what every router did with every token, under the plan that is active, if any.

        Args:
            text: as it is.
            add_special_tokens: False for texts that come from a chat template.

        Raises:
            CorpusError: the text has no token.
            ModelError: the backend does not give the routing of single tokens.
        """
        raise ModelError(
            f"backend {self.backend} does not give the routing of single tokens; use --backend huggingface"
        )

    def route_texts(
        self,
        texts: Sequence[str],  # noqa: ARG002 - of others, as all that follow
        item_ids: Sequence[str],  # noqa: ARG002
        *,
        options: CaptureOptions,  # noqa: ARG002
        next_tokens: NextTokens,  # noqa: ARG002
        progress: Callable[[int], None] | None = None,  # noqa: ARG002
    ) -> list[RoutedText]:
        """Run texts as a capture does, and keep what every router chose for every counted token, and what came next.

        Args:
            texts: one per item.
            item_ids: name items in errors.
            options: which tokens are counted, and in which portions.
            next_tokens: whose probabilities are kept.
            progress: called with the number of texts that were finished.

        Raises:
            CorpusError: as `capture`.
            ModelError: the backend does not give the routing of single tokens.
        """
        raise ModelError(
            f"backend {self.backend} does not give the routing of single tokens; use --backend huggingface"
        )

    def change(self, plan: Steering, texts: Sequence[str], *, add_special_tokens: bool = True) -> Change:
        """Measure what a plan without conditions on languages changes on texts."""

    def checks(
        self, plan: Steering | None = None, *, language: str | None = None, corpus: Corpus | None = None
    ) -> Mapping[str, Callable[[], str]]:
        """Return the checks of `isogloss doctor` by name, those that `isogloss.backends.open.checks_of` names.

        Each returns a sentence with numbers, and raises where the check does not hold.

        Args:
            plan: to try; None tries one of our own.
            language: of the requests that a plan with conditions on languages is tried for; None for the first that it
                names.
            corpus: to estimate the capture of, where the backend can; None estimates a million tokens.
        """

    def generate(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int = 64,
        batch_size: int = 64,
        progress: Callable[[int], None] | None = None,
    ) -> list[str]:
        """Continue any number of prompts greedily, in batches.

        Args:
            prompts: sent as they are, in the order given, so that batches are the same in every arm of a comparison.
            max_new_tokens: most tokens per answer.
            batch_size: prompts that are answered together.
            progress: called with the number of prompts finished by each batch.

        Returns:
            The continuations, without the prompt and special tokens.
        """
        answers: list[str] = []
        for start in range(0, len(prompts), batch_size):
            batch = prompts[start : start + batch_size]
            answers += self.answer(batch, max_new_tokens=max_new_tokens)
            if progress is not None:
                progress(len(batch))
        return answers
