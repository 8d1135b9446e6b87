"""How far apart two languages are routed: entropy-normalised Jensen-Shannon divergence, in nats inside, 0 to 1 outside.

The divergence is taken per parallel item first and averaged over items after. A pooled Run (imported counts) has one
record per language: its divergence is of the pooled distributions, a different number, and carries no interval.

What depends on one language alone (its distributions and their entropies) is computed once; what depends on a pair is
the entropy of the mean, in blocks that stay in the processor's cache. All of it is in double precision: in single
precision the rounding of entropies, divided by the little room that near-uniform routers leave, is off by 2e-6 where
128 logits have a standard deviation of 1, and by 2e-3 where it is 0.03.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from isogloss.arrays import FloatArray, IntArray
from isogloss.errors import LanguageError, RunError
from isogloss.runs import Manifest, Run
from isogloss.statistics import (
    Estimate,
)

__all__ = [
    "Curves",
    "Distributions",
    "Quantity",
    "as_distributions",
    "as_pivots",
    "between",
    "ceiling_between",
    "default_quantity",
    "divergence",
    "divergence_ceiling",
    "from_pivots",
    "other_languages",
    "read_distributions",
    "read_shares",
    "shuffled_from_pivots",
    "shuffled_partners",
]

Quantity = Literal["profile", "selection"]

Curves = dict[str, tuple[Estimate, ...]]
"""By language: one Estimate per routed layer."""

UNIFORM_NATS = 1e-10
"""Two profiles that are together closer to uniform than this are both uniform up to rounding (0/0 below)."""

BLOCK = 1 << 15
"""Values computed at once: three float64 buffers of this length fit into the second cache of one core."""

_TINY = 1e-300
"""Added to every half share: log 0 becomes a number that a share of 0 cancels, and no other share changes a bit."""


@dataclass(frozen=True, eq=False)
class Distributions:
    """Distributions over experts, with what is computed once for each, however many others it is compared with.

    Attributes:
        halves: ``[..., n_experts]`` float64, half of each share: the mean of two distributions is then one addition.
        entropy: ``[...]`` float64, nats.
    """

    halves: FloatArray
    entropy: FloatArray

    def __getitem__(self, items: Any) -> Distributions:  # noqa: ANN401 - whatever NumPy takes as an index
        return Distributions(self.halves[items], self.entropy[items])


def _blocks(shape: tuple[int, ...]) -> tuple[FloatArray, list[slice]]:
    """Split the first axis into blocks; return two buffers for any of them, and the blocks.

    The buffers serve all blocks: allocating memory in every block costs more time than the logarithms.
    """
    step = max(1, min(shape[0], BLOCK // max(1, math.prod(shape[1:]))))
    buffers = np.empty((2, step, *shape[1:]))
    return buffers, [slice(start, min(start + step, shape[0])) for start in range(0, shape[0], step)]


def _negative_entropy(p: FloatArray, q: FloatArray, buffers: FloatArray, out: FloatArray) -> None:
    """Compute minus the entropy of the mean of distributions whose halves are given."""
    mean, log = buffers[:, : len(p)]
    np.add(p, q, out=mean)
    np.log(mean, out=log)
    np.vecdot(mean, log, out=out)


def as_distributions(profiles: FloatArray | IntArray) -> Distributions:
    """Rescale profiles, ``[..., n_experts]``, to sum to 1, and compute their entropies.

    Raises:
        ValueError: a negative, infinite or NaN entry, or a zero sum.
    """
    *cells, n_experts = np.shape(profiles)
    flat = np.reshape(profiles, (math.prod(cells), n_experts))
    halves, minus = np.empty(flat.shape), np.empty(len(flat))
    buffers, blocks = _blocks(flat.shape)
    for rows in blocks:
        part, half = buffers[0, : rows.stop - rows.start], halves[rows]
        part[...] = flat[rows]
        totals = part.sum(axis=-1, keepdims=True)
        if not (np.isfinite(totals).all() and (totals > 0).all() and (part >= 0).all()):
            raise ValueError("profiles must be finite, not negative, and have a positive sum over the last axis")
        np.divide(part, 2 * totals, out=half)
        half += _TINY
        _negative_entropy(half, half, buffers, minus[rows])
    return Distributions(halves.reshape(*cells, n_experts), -minus.reshape(cells))


def _entropy_of_mean(p: FloatArray, q: FloatArray) -> FloatArray:
    """Compute the entropy of the mean of distributions whose halves are given, block by block."""
    shape = np.broadcast_shapes(p.shape, q.shape)
    if p.shape == q.shape:
        p, q = (part.reshape(-1, shape[-1]) for part in (p, q))
    p, q = np.broadcast_arrays(np.atleast_2d(p), np.atleast_2d(q))
    minus = np.empty(p.shape[:-1])
    buffers, blocks = _blocks(p.shape)
    for rows in blocks:
        _negative_entropy(p[rows], q[rows], buffers, minus[rows])
    return np.negative(minus).reshape(shape[:-1])


def _mean_entropy(p: Distributions, q: Distributions) -> tuple[FloatArray, FloatArray]:
    """Return the mean entropy, and how far it lies below log E, in nats."""
    sizes = p.halves.shape[-1], q.halves.shape[-1]
    if len(set(sizes)) > 1:
        raise ValueError(f"profiles have {sizes[0]} and {sizes[1]} experts; expected the same number")
    mean = (p.entropy + q.entropy) / 2
    return mean, np.maximum(np.log(sizes[0]) - mean, 0.0)


def between(p: Distributions, q: Distributions) -> FloatArray:
    """Compute `divergence` of distributions whose entropies are known; the shapes are broadcast."""
    mean, room = _mean_entropy(p, q)
    jsd = np.maximum(_entropy_of_mean(p.halves, q.halves) - mean, 0.0)
    ratio = np.divide(jsd, room, out=np.zeros_like(jsd), where=room > UNIFORM_NATS)
    return np.minimum(ratio, 1.0)


def ceiling_between(p: Distributions, q: Distributions) -> FloatArray:
    """Compute `divergence_ceiling` of distributions whose entropies are known; the shapes are broadcast."""
    return np.asarray(np.log(2.0) / np.maximum(_mean_entropy(p, q)[1], np.log(2.0)))


def divergence(p: FloatArray, q: FloatArray) -> FloatArray:
    """Compute the entropy-normalised Jensen-Shannon divergence over the last axis.

    ``D = (H(m) - H̄) / (log E - H̄)`` with ``m = (p + q) / 2`` and ``H̄`` the mean of both entropies. Symmetric, 0
    exactly where ``p = q``, at most `divergence_ceiling`. Where both are uniform (0/0) it is 0.

    Args:
        p: ``[..., n_experts]``, not negative; rescaled to sum to 1.
        q: ``[..., n_experts]``, broadcast against ``p``.

    Returns:
        ``[...]`` between 0 and 1.

    Raises:
        ValueError: a negative, infinite or NaN entry, a zero sum, or unequal numbers of experts.

    Source:
        arXiv 2510.04694, appendix A.4, equations 6-8; the value at 0/0 is ours.

    Example:
        >>> float(divergence(np.array([0.5, 0.5, 0, 0]), np.array([0, 0, 0.5, 0.5])))
        1.0
    """
    return between(as_distributions(p), as_distributions(q))


def divergence_ceiling(p: FloatArray, q: FloatArray) -> FloatArray:
    """Bound what `divergence` can reach given both entropies: ``min(1, log 2 / (log E - H̄))``.

    JSD is at most log 2, so two peaked profiles on different experts stay below 1. Arguments as `divergence`; the
    result ``[...]`` is above 0, at most 1.
    """
    return ceiling_between(as_distributions(p), as_distributions(q))


def read_shares(run: Run, language: str) -> FloatArray:
    """Read a language's profiles, rescaled to sum to 1, as float64; shape and errors as `read_distributions`."""
    return 2 * read_distributions(run, language, "profile").halves


def read_distributions(run: Run, language: str, quantity: Quantity, items: slice = slice(None)) -> Distributions:
    """Read the distributions over experts that a divergence compares, ``[n_items, n_layers, n_experts]``.

    ``profile`` is the Run's mean routing weights; ``selection`` the share of all choices that went to each expert
    (selection rate divided by top_k).

    Raises:
        RunError: an item has no counted tokens, or the file is missing or damaged.
    """
    profiles = run.load_items(language, f"{quantity}s", items)
    try:
        return as_distributions(profiles)
    except ValueError as error:
        raise RunError(
            f"{quantity}s of {language}: {error}; an item without counted tokens? Remove it from the corpus"
        ) from error


def default_quantity(manifest: Manifest) -> Quantity:
    """Profiles where there are items, or nothing else was published; selections where counts were imported.

    Gate weights beside counts vary by publisher.
    """
    return "selection" if manifest.granularity == "pooled" and manifest.has_selections else "profile"


def as_pivots(pivot: str | Sequence[str]) -> tuple[str, ...]:
    """Give the reference languages as a tuple, in the given order.

    Raises:
        LanguageError: none, or one twice.
    """
    pivots = (pivot,) if isinstance(pivot, str) else tuple(pivot)
    if not pivots or len(set(pivots)) < len(pivots):
        raise LanguageError(f"pivots {', '.join(pivots) or '(none)'}: expected at least one, none twice")
    return pivots


def other_languages(run: Run, pivot: str | Sequence[str]) -> tuple[str, ...]:
    """List the Run's languages without the pivot or pivots.

    Raises:
        LanguageError: a pivot is not in the Run or given twice, or nothing else is there.
    """
    pivots = as_pivots(pivot)
    for code in pivots:
        if code not in run.languages:
            raise LanguageError(f"pivot {code} is not in this run; it holds {', '.join(run.languages)}: use --pivot")
    others = tuple(language for language in run.languages if language not in pivots)
    if not others:
        raise LanguageError(f"this run holds only the pivot {', '.join(pivots)}; capture at least one more language")
    return others


def from_pivots(pivots: Sequence[Distributions], other: Distributions) -> FloatArray:
    """Average over the pivots, per item and layer, the divergence of a language from each: ``[n_items, n_layers]``.

    Source:
        arXiv 2510.04694, equation 2; sets of pivots are ours.
    """
    return np.asarray(np.mean([between(reference, other) for reference in pivots], axis=0))


def shuffled_from_pivots(pivots: Sequence[Distributions], other: Distributions, partners: IntArray) -> FloatArray:
    """Do as `from_pivots`, item i of the language against item ``partners[i]`` of each pivot: the ceiling of noise.

    A language whose divergence reaches this level shares no more with the pivot than unrelated texts do. That an item
    also serves as a partner once is not resampled. The language is put in the order of its partners, and the result
    back: so no second copy of every pivot is held.
    """
    return from_pivots(pivots, other[np.argsort(partners)])[partners]


def shuffled_partners(n_items: int, seed: int) -> IntArray:
    """Pair every item with another one at random, never with itself: a permutation ``[n_items]`` without fixed points.

    Raises:
        ValueError: fewer than two items.
    """
    if n_items < 2:  # noqa: PLR2004 - a partner is a second item
        raise ValueError(f"n_items is {n_items}; shuffled pairing needs at least two items")
    order = np.random.default_rng(seed).permutation(n_items)
    partners = np.empty(n_items, dtype=np.int64)
    partners[order] = np.roll(order, 1)
    return partners
