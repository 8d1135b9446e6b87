"""How far apart two languages are routed: entropy-normalised Jensen-Shannon divergence, in nats inside, 0 to 1 outside.

The divergence is taken per parallel item first and averaged over items after. A pooled Run (imported counts) has one
record per language: its divergence is of the pooled distributions, a different number, and carries no interval.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from isogloss.analysis.statistics import (
    DEFAULT_RESAMPLING,
    Estimate,
    Resampling,
    bootstrap_counts,
    estimate_means,
    require_items,
)
from isogloss.errors import LanguageError, RunError
from isogloss.routing import entropy

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from isogloss.runs import LanguageRouting, Run

    FloatArray = npt.NDArray[np.floating[Any]]
    IntArray = npt.NDArray[np.integer[Any]]

__all__ = [
    "Quantity",
    "default_quantity",
    "divergence",
    "divergence_ceiling",
    "divergence_from_pivot",
    "language_distributions",
    "other_languages",
    "shuffled_divergence",
    "shuffled_partners",
]

Quantity = Literal["profile", "selection"]

UNIFORM_NATS = 1e-10
"""Two profiles that are together closer to uniform than this are both uniform up to rounding (0/0 below)."""


def _checked(profiles: FloatArray | IntArray) -> FloatArray:
    profiles = np.asarray(profiles, dtype=np.float64)
    totals = profiles.sum(axis=-1, keepdims=True)
    if not (np.isfinite(totals).all() and (profiles >= 0).all() and (totals > 0).all()):
        raise ValueError("profiles must be finite, not negative, and have a positive sum over the last axis")
    return np.asarray(profiles / totals)


def _parts(p: FloatArray, q: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return JSD and log E minus the mean entropy, both in nats."""
    p, q = _checked(p), _checked(q)
    if p.shape[-1] != q.shape[-1]:
        raise ValueError(f"profiles have {p.shape[-1]} and {q.shape[-1]} experts; expected the same number")
    mean_entropy = (entropy(p) + entropy(q)) / 2
    jsd = np.maximum(entropy((p + q) / 2) - mean_entropy, 0.0)
    return jsd, np.maximum(np.log(p.shape[-1]) - mean_entropy, 0.0)


def divergence(p: FloatArray, q: FloatArray) -> FloatArray:
    """Compute the entropy-normalised Jensen-Shannon divergence over the last axis.

    ``D = (H(m) - H̄) / (log E - H̄)`` with ``m = (p + q) / 2`` and ``H̄`` the mean of both entropies. Symmetric, 0 exactly
    where ``p = q``, at most `divergence_ceiling`. Where both are uniform (0/0) it is 0.

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
    jsd, room = _parts(p, q)
    ratio = np.divide(jsd, room, out=np.zeros_like(jsd), where=room > UNIFORM_NATS)
    return np.minimum(ratio, 1.0)


def divergence_ceiling(p: FloatArray, q: FloatArray) -> FloatArray:
    """Bound what `divergence` can reach given both entropies: ``min(1, log 2 / (log E - H̄))``.

    JSD is at most log 2, so two peaky profiles on different experts stay below 1.

    Args:
        p: ``[..., n_experts]``, not negative; rescaled to sum to 1.
        q: ``[..., n_experts]``, broadcast against ``p``.

    Returns:
        ``[...]`` above 0, at most 1.
    """
    _, room = _parts(p, q)
    return np.asarray(np.log(2.0) / np.maximum(room, np.log(2.0)))


def language_distributions(routing: LanguageRouting, language: str, quantity: Quantity) -> FloatArray:
    """Choose the distributions over experts that a divergence compares.

    Args:
        routing: of one language.
        language: its name, for the message.
        quantity: ``profile`` is the Run's mean routing weights; ``selection`` the share of all choices that went to
            each expert (selection rate divided by top_k).

    Returns:
        ``[n_items, n_layers, n_experts]`` float64, sums to 1.

    Raises:
        RunError: an item has no counted tokens, or the Run has no such quantity.
    """
    chosen = routing.profiles if quantity == "profile" else routing.selections
    try:
        return _checked(chosen)
    except ValueError as error:
        raise RunError(
            f"{quantity}s of {language}: {error}; an item without counted tokens? Remove it from the corpus"
        ) from error


def default_quantity(granularity: str) -> Quantity:
    """Profiles where there are items; selections where counts were imported, whose gate weights vary by publisher."""
    return "profile" if granularity == "items" else "selection"


def other_languages(run: Run, pivot: str) -> tuple[str, ...]:
    """List the Run's languages without the pivot.

    Raises:
        LanguageError: the pivot is not in the Run, or nothing else is.
    """
    others = tuple(language for language in run.languages if language != pivot)
    if pivot not in run.languages:
        raise LanguageError(f"pivot {pivot} is not in this run; it holds {', '.join(run.languages)}: use --pivot")
    if not others:
        raise LanguageError(f"this run holds only the pivot {pivot}; capture at least one more language")
    return others


def divergence_from_pivot(
    run: Run, pivot: str, *, quantity: Quantity | None = None, resampling: Resampling = DEFAULT_RESAMPLING
) -> dict[str, tuple[Estimate, ...]]:
    """Estimate the divergence of every language from the pivot in every routed layer.

    Args:
        run: with at least two languages.
        pivot: reference language, ``xxx_Xxxx``.
        quantity: what is compared; by default profiles, and selections in a pooled Run.
        resampling: of the items; the same resamples for all languages and layers.

    Returns:
        One Estimate per routed layer and non-pivot language; in a pooled Run without intervals.

    Raises:
        LanguageError: the pivot is absent or alone.

    Source:
        arXiv 2510.04694, equation 2; the intervals are ours.
    """
    quantity = quantity or default_quantity(run.manifest.granularity)
    reference = language_distributions(run.load(pivot), pivot, quantity)
    counts = bootstrap_counts(len(reference), n_resamples=resampling.n_resamples, seed=resampling.seed)
    return {
        language: estimate_means(
            divergence(reference, language_distributions(run.load(language), language, quantity)),
            counts,
            level=resampling.level,
        )
        for language in other_languages(run, pivot)
    }


def shuffled_partners(n_items: int, seed: int) -> IntArray:
    """Pair every item with another one at random, never with itself.

    Args:
        n_items: at least 2.
        seed: of the random generator.

    Returns:
        ``[n_items]``, a permutation without fixed points.

    Raises:
        ValueError: fewer than two items.
    """
    if n_items < 2:  # noqa: PLR2004 - a partner is a second item
        raise ValueError(f"n_items is {n_items}; shuffled pairing needs at least two items")
    order = np.random.default_rng(seed).permutation(n_items)
    partners = np.empty(n_items, dtype=np.int64)
    partners[order] = np.roll(order, 1)
    return partners


def shuffled_divergence(
    run: Run, pivot: str, *, languages: Sequence[str] | None = None, resampling: Resampling = DEFAULT_RESAMPLING
) -> dict[str, tuple[Estimate, ...]]:
    """Estimate the noise ceiling: divergence of items that are not translations of each other.

    Item i of each language, the pivot included, is compared with item j of the pivot. A language whose divergence
    reaches this level shares no more with the pivot than unrelated texts do.

    Args:
        run: with items.
        pivot: reference language.
        languages: those to compare; by default all, the pivot included.
        resampling: of the items; that an item also serves as a partner once is not resampled.

    Returns:
        One Estimate per routed layer for each language.

    Raises:
        RunError: the Run is pooled.
    """
    require_items(run.manifest.granularity, "shuffled pairing")
    reference = language_distributions(run.load(pivot), pivot, "profile")
    reference = reference[shuffled_partners(len(reference), resampling.seed)]
    counts = bootstrap_counts(len(reference), n_resamples=resampling.n_resamples, seed=resampling.seed)
    return {
        language: estimate_means(
            divergence(language_distributions(run.load(language), language, "profile"), reference),
            counts,
            level=resampling.level,
        )
        for language in (languages or run.languages)
    }
