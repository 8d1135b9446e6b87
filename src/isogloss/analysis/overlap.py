"""Are a task's experts those that other languages use? The overlap of both over thresholds, and what chance gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from isogloss.analysis.differences import DeltaRule
from isogloss.analysis.groups import LEAST_ITEMS, corpus_groups, language_groups
from isogloss.arrays import BoolArray, FloatArray, IntArray
from isogloss.errors import LanguageError, RunError
from isogloss.records import Name, Number, Record
from isogloss.runs import Run
from isogloss.statistics import (
    DEFAULT_RESAMPLING,
    Estimate,
    Resampling,
    estimates,
    resampled_means,
)

__all__ = ["OverlapCurve", "OverlapPoint", "expert_overlap", "overlap_distribution"]


@dataclass(frozen=True)
class OverlapPoint(Record):
    """Task experts and multilingual experts at one threshold.

    Attributes:
        threshold: τ of both.
        n_task: experts whose rate in the pivot is higher by more than τ on task texts than on generic ones.
        n_multilingual: experts whose rate on generic texts is higher by more than τ in some language than in the pivot.
        overlap: experts that are both; its interval resamples the items of both corpora, and holds the value (see
            `isogloss.statistics.interval_around`).
        jaccard: overlap divided by experts that are either; NaN where there are none.
        expected: overlap on average where the experts of each layer are permuted.
        p_fewer: probability of as little overlap or less under such permutations, exact.
        p_more: of as much or more.
    """

    threshold: Number
    n_task: int
    n_multilingual: int
    overlap: Estimate
    jaccard: Estimate
    expected: Number
    p_fewer: Number
    p_more: Number


@dataclass(frozen=True)
class OverlapCurve(Record):
    """Overlap of task experts and multilingual experts as a function of the threshold.

    Attributes:
        pivot: language of the task's texts, and base of the languages.
        languages: those whose experts are called multilingual.
        corpus: name of the task's corpus.
        base: name of the generic one.
        layers: decoder layers looked at.
        points: one per threshold.
        resampling: behind the intervals.
    """

    pivot: Name
    languages: tuple[Name, ...]
    corpus: Name
    base: Name
    layers: tuple[int, ...]
    points: tuple[OverlapPoint, ...]
    resampling: Resampling


def overlap_distribution(first: IntArray, second: IntArray, n_experts: int) -> FloatArray:
    """Give the exact distribution of the overlap of two sets of experts under permutations within layers.

    ``first`` and ``second`` are the sizes of the sets in each layer, ``[n_layers]``; the result is the probabilities of
    0, 1, …: the convolution of one hypergeometric law per layer.

    Example:
        >>> overlap_distribution(np.array([1, 1]), np.array([1, 1]), 2).tolist()
        [0.25, 0.5, 0.25]
    """
    from scipy.stats import hypergeom  # noqa: PLC0415 - takes longer to import than all of this room

    law = np.ones(1)
    for ours, theirs in zip(np.asarray(first).tolist(), np.asarray(second).tolist(), strict=True):
        shared = np.arange(min(ours, theirs) + 1)
        law = np.convolve(law, hypergeom.pmf(shared, n_experts, ours, theirs))
    return law


def expert_overlap(
    task_run: Run,
    base_run: Run,
    *,
    pivot: str,
    thresholds: Sequence[float],
    layers: tuple[int, int] | None = None,
    resampling: Resampling = DEFAULT_RESAMPLING,
) -> OverlapCurve:
    """Count experts that are a task's and a language's at once, over thresholds of the difference rule.

    Args:
        task_run: of the task's texts, in the pivot at least, with items.
        base_run: of generic texts, in the pivot and at least one more language, with items; its other languages are
            those that multilingual experts are sought in.
        pivot: ``xxx_Xxxx``.
        thresholds: of the difference rule, each between 0 and 1.
        layers: first and last decoder layer looked at, inclusive; None for all.
        resampling: of the items, one draw for all languages of the generic texts, another for the task's.

    Returns:
        One point per threshold. Both rules subtract the same pivot rates, whose noise makes them agree a little more
        than under permutations.

    Raises:
        RunError: a Run is pooled or has a single item, the Runs are of different routers, or the layers hold none.
        LanguageError: a Run lacks the pivot, or the generic one any other language.
        ValueError: a threshold outside 0 to 1.

    Source:
        arXiv 2510.04694, section on task and multilingual experts (disjoint at τ >= 0.3); expectation, exact
        probabilities and intervals are ours.
    """
    if not all(0 <= threshold <= 1 for threshold in thresholds):
        raise ValueError(f"thresholds {list(thresholds)}; a difference of rates lies between 0 and 1")
    languages = _other_languages(task_run, base_run, pivot)
    groups = corpus_groups(task_run, base_run, pivot).within(layers)
    if groups.least_items < LEAST_ITEMS:
        raise RunError(f"the overlap's interval needs items; a Run has {groups.least_items}: capture at least two")
    task_counts, counts = (counts.astype(np.int64) for counts in groups.resampled(resampling))
    task, pivot_rates = groups.rates()
    base, base_drawn = pivot_rates.mean(axis=0), _drawn(pivot_rates, counts)
    task_gain, task_drawn = task.mean(axis=0) - base, _drawn(task, task_counts) - base_drawn
    gain, gain_drawn = np.full_like(task_gain, -np.inf), np.full_like(task_drawn, -np.inf)
    for language in languages:
        (rates,) = language_groups(base_run, [language]).within(layers).rates()
        np.maximum(gain, rates.mean(axis=0) - base, out=gain)
        np.maximum(gain_drawn, _drawn(rates, counts) - base_drawn, out=gain_drawn)
    n, points = groups.least_items, []
    for threshold in thresholds:
        sets = task_gain > threshold, gain > threshold
        drawn = _overlap(task_drawn > threshold, gain_drawn > threshold)
        points.append(_point(threshold, sets, drawn, n=n, level=resampling.level))
    names = task_run.manifest.corpus["name"], base_run.manifest.corpus["name"]
    return OverlapCurve(pivot, languages, *names, groups.decoder_layers, tuple(points), resampling)


def _other_languages(task_run: Run, base_run: Run, pivot: str) -> tuple[str, ...]:
    """List the languages of the generic texts beside the pivot, after both Runs were found to hold items."""
    for run in (task_run, base_run):
        DeltaRule.require(run)
    languages = tuple(language for language in base_run.languages if language != pivot)
    if not languages:
        raise LanguageError(f"multilingual experts need a language beside {pivot}; capture the base texts in one more")
    return languages


def _drawn(rates: FloatArray | IntArray, counts: IntArray) -> npt.NDArray[np.float32]:
    """Resampled means in single precision: the greatest arrays here, ``[n_resamples, n_layers, n_experts]``."""
    return np.asarray(resampled_means(np.asarray(rates), counts), dtype=np.float32)


def _overlap(ours: BoolArray, theirs: BoolArray) -> FloatArray:
    """Overlap and Jaccard similarity of sets ``[..., n_layers, n_experts]``, stacked first; NaN for two empty ones."""
    both, either = (ours & theirs).sum(axis=(-2, -1)), (ours | theirs).sum(axis=(-2, -1))
    similarity = np.divide(both, either, out=np.full(np.shape(both), np.nan), where=either > 0)
    return np.stack([both.astype(np.float64), similarity])


def _point(
    threshold: float, sets: tuple[BoolArray, BoolArray], drawn: FloatArray, *, n: int, level: float
) -> OverlapPoint:
    sizes = [members.sum(axis=-1) for members in sets]
    values = _overlap(*sets)
    n_experts = sets[0].shape[-1]
    law = overlap_distribution(sizes[0], sizes[1], n_experts)
    overlap, jaccard = estimates(values, drawn.T, n=n, level=level)
    shared = int(values[0])
    return OverlapPoint(
        threshold=float(threshold),
        n_task=int(sizes[0].sum()),
        n_multilingual=int(sizes[1].sum()),
        overlap=overlap,
        jaccard=jaccard,
        expected=float((sizes[0] * sizes[1]).sum() / n_experts),
        p_fewer=min(1.0, float(law[: shared + 1].sum())),
        p_more=min(1.0, float(law[shared:].sum())),
    )
