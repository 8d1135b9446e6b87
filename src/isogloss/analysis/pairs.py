"""Divergence of every two languages, read from disk in parts whose size does not grow with the number of languages.

Two different numbers, never mixed: ``items`` is the mean over parallel items of the divergence of each item, ``means``
the divergence of the two mean distributions over items, in which texts that differ from item to item cancel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from isogloss.analysis.divergence import (
    Distributions,
    Quantity,
    as_distributions,
    between,
    default_quantity,
    read_distributions,
)
from isogloss.analysis.layers import layer_positions
from isogloss.analysis.threads import MAX_THREADS, in_threads
from isogloss.arrays import FloatArray, StoredArray
from isogloss.errors import LanguageError
from isogloss.records import Record
from isogloss.runs import Run

__all__ = ["By", "PairwiseDivergence", "pairwise_divergence"]

By = Literal["items", "means"]

HELD = 1 << 25
"""Shares held at once, of all languages together: 256 MiB. One item of every language is the least."""

TILE = 1 << 15
"""Shares of one language that are compared with those of all others before the next ones are."""


@dataclass(frozen=True, eq=False)
class PairwiseDivergence(Record):
    """Divergence of every two languages in every routed layer.

    Attributes:
        languages: rows and columns, in this order.
        layers: decoder layer of each matrix, 0-based.
        values: ``[n_layers, n_languages, n_languages]`` float64, 0 to 1, symmetric, zero on the diagonal.
        by: ``items``, mean of the divergences of parallel items; ``means``, divergence of mean distributions.
        quantity: distribution that is compared.
        n_items: items behind each value; 1 in a pooled Run.
    """

    languages: tuple[str, ...]
    layers: tuple[int, ...]
    values: StoredArray
    by: By
    quantity: Quantity
    n_items: int

    def band(self, first: int, last: int) -> FloatArray:
        """Average the decoder layers ``first`` to ``last``; RunError where no routed layer lies there."""
        return np.asarray(self.values[layer_positions(self.layers, (first, last))].mean(axis=0))


def _parts(length: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


@dataclass(frozen=True)
class _Reading:
    """What is read of a Run, and in how large parts."""

    run: Run
    quantity: Quantity
    layers: slice

    @property
    def routed(self) -> tuple[int, ...]:
        return tuple(router.layer for router in self.run.manifest.routers)[self.layers]

    def parts(self, n_languages: int) -> Iterator[slice]:
        n_items, n_layers, n_experts = self.run.manifest.shape
        return _parts(n_items, max(1, HELD // (n_languages * n_layers * n_experts)))

    def read(self, language: str, items: slice) -> Distributions:
        return read_distributions(self.run, language, self.quantity, items)[:, self.layers]

    def mean(self, language: str) -> FloatArray:
        """Average a language's distributions over items: ``[n_layers, n_experts]``."""
        total: FloatArray | None = None
        for items in self.parts(MAX_THREADS):  # as many languages are held at once
            # One item after the other: the sum is then the same whatever the size of the parts.
            for halves in self.read(language, items).halves:
                total = halves.copy() if total is None else np.add(total, halves, out=total)
        return np.asarray(total)


def _rows(held: Distributions, totals: FloatArray, row: int) -> None:
    """Add up, item by item, the divergence of one language from all that come after it."""
    _, n_items, *cell = held.halves.shape
    for items in _parts(n_items, max(1, TILE // int(np.prod(cell)))):
        apart = between(held[row : row + 1, items], held[row + 1 :, items])
        for item in range(apart.shape[1]):
            totals[row, row + 1 :] += apart[:, item]


def _sum_over_items(reading: _Reading, languages: tuple[str, ...]) -> FloatArray:
    """Sum the divergences of all items, ``[n_languages, n_languages, n_layers]``, above the diagonal."""
    n, parts = len(languages), list(reading.parts(len(languages)))
    shape = (n, parts[0].stop, len(reading.routed), reading.run.manifest.shape[2])
    held = Distributions(np.empty(shape), np.empty(shape[:-1]))
    totals = np.zeros((n, n, shape[2]))
    for items in parts:
        now = held[:, : items.stop - items.start]

        def keep(place: int, items: slice = items, now: Distributions = now) -> None:
            part = reading.read(languages[place], items)
            now.halves[place], now.entropy[place] = part.halves, part.entropy

        in_threads(keep, range(n))
        in_threads(partial(_rows, now, totals), range(n - 1))
    return totals


def pairwise_divergence(
    run: Run,
    *,
    languages: Sequence[str] | None = None,
    by: By = "means",
    quantity: Quantity | None = None,
    layers: tuple[int, int] | None = None,
) -> PairwiseDivergence:
    """Compute the divergence of every two languages in every routed layer.

    Memory: `HELD` shares, their entropies and the result, and one file per thread while it is verified.

    Args:
        run: with at least two languages.
        languages: those to compare, in the order of the result; by default all.
        by: ``items`` takes the divergence of each parallel item and averages it over items, as `analyze_curves`
            does; ``means`` averages the distributions over items and takes one divergence, which is much cheaper. In a
            mean what differs from item to item cancels, so the two are different numbers: never compare them.
        quantity: what is compared; by default profiles, and selections in a pooled Run.
        layers: first and last decoder layer, inclusive; by default all.

    Returns:
        One symmetric matrix per routed layer.

    Raises:
        LanguageError: a language is absent or given twice, or there are fewer than two.
        RunError: ``items`` of a pooled Run, no routed layer in the range, or a file is missing or damaged.
        ValueError: ``by`` is neither.

    Source:
        arXiv 2510.04694, equation 2, over all pairs; ``means`` is ours.
    """
    if by not in ("items", "means"):
        raise ValueError(f"by is {by!r}; expected 'items' or 'means'")
    manifest, chosen = run.manifest, run.languages if languages is None else tuple(languages)
    run.require(chosen)
    if len(set(chosen)) < max(2, len(chosen)):
        raise LanguageError(f"languages {', '.join(chosen) or '(none)'}: expected at least two, none twice")
    if by == "items":
        manifest.require_items("pairwise divergence by items")
    inside = layer_positions([router.layer for router in manifest.routers], layers)
    kept = slice(inside[0], inside[-1] + 1)  # layers ascend; a slice copies nothing
    reading = _Reading(run, quantity or default_quantity(manifest), kept)
    if by == "items":
        above = _sum_over_items(reading, chosen) / manifest.shape[0]
    else:
        means = as_distributions(np.stack(in_threads(reading.mean, chosen)))[:, None]
        above = np.zeros((len(chosen), len(chosen), means.halves.shape[2]))
        in_threads(partial(_rows, means, above), range(len(chosen) - 1))
    values = np.ascontiguousarray((above + above.transpose(1, 0, 2)).transpose(2, 0, 1))
    return PairwiseDivergence(chosen, reading.routed, values, by, reading.quantity, manifest.shape[0])
