"""Moves one set of numbers, step by step: batches, losses, the estimate of their gradient, and Adam."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from isogloss.arrays import FloatArray
from isogloss.backends.capture_options import CaptureOptions
from isogloss.backends.huggingface import (
    LoadedModel,
    RoutedProfiles,
    RouterChange,
    answer_loss,
    by_length,
    divergence_loss,
    leash_loss,
    reader_of,
    without_rounding,
)
from isogloss.backends.joint_texts import Measured
from isogloss.backends.token_batches import Text, portions
from isogloss.corpora import Corpus
from isogloss.errors import ModelError
from isogloss.learning.parameters import Parameters
from isogloss.learning.records import LearnOptions

__all__ = ["Descent", "Texts", "mean_leash"]

_PAIRS = 4  # perturbations that search averages in a step
_ANSWERS, _ALIGNMENT, _LEASH, _PROTECTED = "answers", "alignment", "leash", "protected"


class Texts(NamedTuple):
    """What a set is learned from.

    Attributes:
        answers: prompts with their answers; empty without.
        parallel: None without.
        languages: of the set, without the pivot, that are aligned.
        generic: texts of the pivot; empty without.
        protected: texts of other languages that must stay as they are; empty without.
    """

    answers: Sequence[Measured]
    parallel: Corpus | None
    languages: tuple[str, ...]
    generic: Sequence[Measured]
    protected: Sequence[Measured] = ()


class _Part(NamedTuple):
    """A part of a step's loss that one forward computes."""

    term: str
    share: float
    weight: float
    loss: Callable[[], torch.Tensor]


class Descent:
    """The numbers of one set on their way.

    Args:
        parameters: what the numbers are.
        texts: what is learned from.
        options: how.
        layers: decoder layers whose profiles are aligned.
        number: of the set, which with the seed decides its batches.
    """

    def __init__(
        self, parameters: Parameters, texts: Texts, options: LearnOptions, *, layers: Sequence[int], number: int
    ) -> None:
        self.parameters, self.texts, self.options, self.number = parameters, texts, options, number
        self.loaded: LoadedModel = parameters.loaded
        start = torch.from_numpy(parameters.start()).to(self.loaded.device)
        self.values = start.clone().requires_grad_()
        self.reached = torch.zeros_like(start, dtype=torch.bool)
        self.optimiser = torch.optim.Adam([self.values], lr=options.learning_rate, foreach=False)
        self._profiles = RoutedProfiles(self.loaded, layers)

    def state(self) -> dict[str, FloatArray]:
        """Return all that the next step depends on, by name."""
        memory = self.optimiser.state.get(self.values, {})
        arrays = {"values": self.values.detach(), "reached": self.reached.byte(), **memory}
        return {name: array.cpu().numpy().copy() for name, array in arrays.items()}

    def resume(self, arrays: dict[str, FloatArray]) -> None:
        """Go on where `state` was taken."""
        tensors = {name: torch.from_numpy(array.copy()).to(self.values.device) for name, array in arrays.items()}
        with torch.no_grad():
            self.values.copy_(tensors["values"])
        self.reached = tensors["reached"].bool()
        if "exp_avg" in tensors:
            memory = {name: tensors[name] for name in ("exp_avg", "exp_avg_sq")}
            self.optimiser.state[self.values] = {"step": tensors["step"].cpu(), **memory}

    def step(self, number: int) -> dict[str, float]:
        """Do a step; return the losses of its batch before it.

        Raises:
            ModelError: a loss is not finite; nothing has moved then.
        """
        estimate = self._search if self.options.estimator == "search" else self._gradient
        losses, gradient = estimate(number)
        if not all(map(math.isfinite, losses.values())) or not bool(gradient.isfinite().all()):
            written = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
            raise ModelError(
                f"step {number}: the loss or its gradient is not a finite number ({written}); load the model in "
                "another dtype, lower the learning rate, or check the model with `isogloss doctor`"
            )
        self.reached |= gradient != 0
        self.values.grad = gradient
        self.optimiser.step()
        self.values.grad = None
        return losses

    def _gradient(self, number: int) -> tuple[dict[str, float], torch.Tensor]:
        losses: dict[str, float] = {}
        gradient = torch.zeros_like(self.values)
        applied = self.parameters.applied(
            self.values,
            straight_through=self.options.estimator == "straight-through",
            checkpointing=self.options.checkpointing,
        )
        with applied as change, self._listening():
            for part in self._parts(number, change):
                loss = part.loss()
                losses[part.term] = losses.get(part.term, 0.0) + part.share * loss.item()
                gradient += torch.autograd.grad(part.share * part.weight * loss, self.values)[0]
        parts = [without_rounding(part).flatten() for part in self.parameters.by_layer(gradient)]
        return self._with_total(losses), torch.cat(parts).view_as(gradient)

    def _search(self, number: int) -> tuple[dict[str, float], torch.Tensor]:
        """Estimate the gradient by simultaneous perturbation (Spall 1992), on one batch."""
        with torch.no_grad():
            losses, values = self._losses(number, self.values), self.values.detach()
            gradient, moved = torch.zeros_like(values), self.parameters.perturbation
            for pair in range(_PAIRS):
                rng = np.random.default_rng([self.options.seed, self.number, number, pair])
                signs = torch.from_numpy(rng.choice(np.array([-1, 1], dtype=np.float32), size=tuple(values.shape))).to(
                    values
                )
                ahead, behind = (self._losses(number, values + sign * moved * signs)["loss"] for sign in (1, -1))
                gradient += (ahead - behind) / (2 * moved * _PAIRS) * signs
        return losses, gradient

    def _losses(self, number: int, values: torch.Tensor) -> dict[str, float]:
        losses = dict[str, float]()
        with self.parameters.applied(values) as change, self._listening(), torch.no_grad():
            for part in self._parts(number, change):
                losses[part.term] = losses.get(part.term, 0.0) + part.share * part.loss().item()
        return self._with_total(losses)

    def _listening(self) -> AbstractContextManager[None]:
        return self._profiles.listening() if self.options.alignment else nullcontext()

    def _with_total(self, losses: dict[str, float]) -> dict[str, float]:
        return {"loss": math.fsum(self._weight(name) * value for name, value in losses.items()), **losses}

    def _weight(self, term: str) -> float:
        return {_ANSWERS: 1.0, _ALIGNMENT: self.options.alignment_weight, _LEASH: self.options.leash}[term]

    def _parts(self, number: int, change: RouterChange) -> Iterator[_Part]:
        """Yield the parts of a step's loss; the shares of each term's parts sum to 1."""
        if self.options.answers:
            batch = [self.texts.answers[i] for i in self._draw(_ANSWERS, number, len(self.texts.answers))]
            yield from self._measured_parts(_ANSWERS, batch, partial(answer_loss, self.loaded))
        if self.options.alignment:
            yield from self._aligned_parts(number, change)
        if self.options.leash:
            batch = [self.texts.generic[i] for i in self._draw(_LEASH, number, len(self.texts.generic))]
            if self.texts.protected:  # half of them, since the pivot is what all others are compared with
                others = self._draw(_PROTECTED, number, len(self.texts.protected))
                half = (self.options.batch_size + 1) // 2
                batch = batch[:half] + [self.texts.protected[i] for i in others[:half]]
            yield from self._measured_parts(_LEASH, batch, partial(leash_loss, self.loaded, change))

    def _measured_parts(
        self, term: str, batch: Sequence[Measured], loss: Callable[[Sequence[Measured]], torch.Tensor]
    ) -> Iterator[_Part]:
        n_tokens = sum(text.stop - text.start for text in batch)
        for texts in by_length(batch, self.options.batch_tokens):
            share = sum(text.stop - text.start for text in texts) / n_tokens
            yield _Part(term, share, self._weight(term), partial(loss, texts))

    def _aligned_parts(self, number: int, change: RouterChange) -> Iterator[_Part]:
        corpus, pivot = self.texts.parallel, self.options.pivot
        assert corpus is not None  # noqa: S101 - an alignment has parallel texts
        pairs = [(code, item) for code in self.texts.languages for item in range(len(corpus.item_ids))]
        drawn = [pairs[place] for place in self._draw(_ALIGNMENT, number, len(pairs))]
        own = [corpus.texts[code][item] for code, item in drawn]
        fixed = [corpus.texts[pivot][item] for _, item in drawn]
        ids = [f"{code}/{corpus.item_ids[item]}" for code, item in drawn]
        profiles = self._fixed(fixed, ids, change)
        for portion in self._portions(own, ids):
            loss = partial(self._divergence, portion, profiles[[text.item for text in portion]])
            yield _Part(_ALIGNMENT, len(portion) / len(drawn), self._weight(_ALIGNMENT), loss)

    def _portions(self, texts: Sequence[str], ids: Sequence[str]) -> Iterator[list[Text]]:
        return portions(reader_of(self.loaded), texts, ids, CaptureOptions(batch_tokens=self.options.batch_tokens))

    def _fixed(self, texts: Sequence[str], ids: Sequence[str], change: RouterChange) -> torch.Tensor:
        """Return the unsteered profiles of texts, in order."""
        profiles: dict[int, torch.Tensor] = {}
        with change.left_out():
            for portion in self._portions(texts, ids):
                profiles |= zip((text.item for text in portion), self._profiles.of(portion), strict=True)
        return torch.stack([profiles[place] for place in range(len(texts))])

    def _divergence(self, portion: Sequence[Text], pivot: torch.Tensor) -> torch.Tensor:
        return divergence_loss(self._profiles.of(portion), pivot, self.options.divergence)

    def _draw(self, term: str, number: int, n: int) -> list[int]:
        """Return the places of a step's batch: permutations of all, one after the other."""
        size, stream = min(self.options.batch_size, n), (_ANSWERS, _ALIGNMENT, _LEASH, _PROTECTED).index(term)
        places = range((number - 1) * size, number * size)
        epochs = {place // n for place in places}
        orders = {
            epoch: np.random.default_rng([self.options.seed, self.number, stream, epoch]).permutation(n)
            for epoch in epochs
        }
        return [int(orders[place // n][place % n]) for place in places]


def mean_leash(parameters: Parameters, values: FloatArray, texts: Sequence[Measured]) -> float:
    """Return how far the next token of texts moves under numbers, in nats per token over all of them."""
    loaded, total = parameters.loaded, 0.0
    n_tokens = sum(text.stop - text.start for text in texts)
    moved = torch.from_numpy(values).to(loaded.device)
    with parameters.applied(moved) as change, torch.no_grad():
        for batch in by_length(texts, LearnOptions().batch_tokens):
            share = sum(text.stop - text.start for text in batch) / n_tokens
            total += share * leash_loss(loaded, change, batch).item()
    return total
