"""The statistics of an ablation: losses with intervals, means by band, and the selectivity test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from isogloss.arrays import FloatArray, IntArray
from isogloss.evaluation.ablation import BandLoss, Measure, Selectivity
from isogloss.statistics import Estimate, Resampling, percentile_interval, resampled_means

__all__ = ["Axis", "BandValues", "Limits", "Losses", "band_loss", "estimate_mean", "selectivity"]

Axis = tuple[int, str]
"""Place of a task, and a language."""


@dataclass(frozen=True)
class Limits:
    """Of the selectivity test.

    Attributes:
        deviations: by how many standard deviations of the null its mean must be exceeded.
        largest_other: share of the own loss that the worst other axis may reach.
    """

    deviations: float = 2.0
    largest_other: float = 1 / 3


@dataclass(frozen=True)
class Losses:
    """What a family's ban does in one corpus.

    Attributes:
        band: of the family.
        family: its name.
        own: its own axis.
        by_axis: losses ``[n_items]`` of the own axis and of all others.
        null: losses of the own axis under each random ban, ``[n_null, n_items]``.
    """

    band: str
    family: str
    own: Axis
    by_axis: Mapping[Axis, FloatArray]
    null: FloatArray


def selectivity(
    losses: Losses, counts: Sequence[IntArray], names: Sequence[str], limits: Limits, *, task: str
) -> Selectivity:
    """Test whether a ban harms its own axis beyond random bans, and every other axis far less.

    Items of one task are resampled together, in all its languages and under all bans.

    Args:
        losses: of one corpus.
        counts: resamples of every task's items, ``[n_resamples, n_items]`` each.
        names: of the tasks.
        limits: of the test.
        task: name of the corpus.

    Source:
        arXiv 2606.25092; intervals and the null by layer are ours.
    """
    others = [axis for axis in losses.by_axis if axis != losses.own]
    point = _margins(
        losses.by_axis[losses.own].mean()[None],
        losses.null.mean(axis=1)[None],
        np.array([[losses.by_axis[axis].mean() for axis in others]]),
        limits,
    )
    drawn = _margins(
        resampled_means(losses.by_axis[losses.own], counts[losses.own[0]]),
        resampled_means(losses.null.T, counts[losses.own[0]]),
        np.stack([resampled_means(losses.by_axis[axis], counts[axis[0]]) for axis in others], axis=-1),
        limits,
    )
    n = len(losses.by_axis[losses.own])
    beyond, room = (_estimate(one.item(), many, n) for one, many in zip(point, drawn, strict=True))
    worst = max(others, key=lambda axis: float(losses.by_axis[axis].mean()))
    holds = min(beyond.value, room.value) > 0
    return Selectivity(
        band=losses.band,
        family=losses.family,
        task=task,
        own=f"{names[losses.own[0]]}/{losses.own[1]}",
        loss=estimate_mean(losses.by_axis[losses.own], counts[losses.own[0]]),
        null=tuple(losses.null.mean(axis=1).tolist()),
        beyond_null=beyond,
        worst=f"{names[worst[0]]}/{worst[1]}",
        worst_loss=estimate_mean(losses.by_axis[worst], counts[worst[0]]),
        room=room,
        verdict="selective" if holds and min(beyond.low, room.low) > 0 else "by the point" if holds else "no",
    )


def _margins(own: FloatArray, null: FloatArray, others: FloatArray, limits: Limits) -> tuple[FloatArray, FloatArray]:
    """Return how far the own loss exceeds the null, and how far the worst other loss stays below its share of it.

    Of means: ``own`` ``[n]``, ``null`` ``[n, n_null]``, ``others`` ``[n, n_others]``.
    """
    limit = null.mean(axis=1) + limits.deviations * null.std(axis=1, ddof=1)
    return own - limit, limits.largest_other * own - others.max(axis=1)


def _estimate(value: float, drawn: FloatArray, n: int) -> Estimate:
    low, high = (end.item() for end in percentile_interval(drawn))
    return Estimate(value, low, high, n)


def estimate_mean(values: FloatArray, counts: IntArray) -> Estimate:
    """Estimate the mean of ``[n_items]`` with a bootstrap interval."""
    (found,) = Resampling().estimate(values[:, None], counts)
    return found


@dataclass(frozen=True)
class BandValues:
    """What the bans of one band do on one task, in one measure; NaN where an answer could not be judged.

    Attributes:
        before: values without a ban of the languages whose experts are banned, ``[n_items, n_families]``.
        own: their losses under the ban of their own experts, ``[n_items, n_families]``.
        others: losses of the other languages, ``[n_items, n_cells]``, where there are any.
        random: losses of the same languages as ``own`` under random bans, ``[n_items, n_families * n_null]``.
    """

    before: FloatArray
    own: FloatArray
    others: FloatArray
    random: FloatArray


def band_loss(values: BandValues, counts: IntArray, *, band: str, task: str, measure: Measure) -> BandLoss:
    """Average losses over families, and tell them from those of other languages and of random families.

    Items are resampled together in all languages and under all bans; languages and families are taken as they are.

    Args:
        values: of the band.
        counts: resamples of the task's items, ``[n_resamples, n_items]``.
        band: its name.
        task: its name.
        measure: that the values are of.
    """
    n_items, once = len(values.own), np.ones((1, len(values.own)), dtype=np.int64)
    point, drawn = (
        {name: _mean_of_means(each, weights) for name, each in vars(values).items()} for weights in (once, counts)
    )
    for series in (point, drawn):
        series["beyond_others"] = series["own"] - series["others"]
        series["beyond_random"] = series["own"] - series["random"]
    estimates = {name: _estimate(point[name].item(), drawn[name], n_items) for name in point}
    return BandLoss(
        band=band,
        task=task,
        measure=measure,
        n_families=values.own.shape[1],
        n_asked=values.own.size,
        n_judged=int((~np.isnan(values.own)).sum()),
        before=estimates["before"],
        own=estimates["own"],
        others=estimates["others"],
        random=estimates["random"],
        beyond_others=estimates["beyond_others"],
        beyond_random=estimates["beyond_random"],
    )


def _mean_of_means(values: FloatArray, counts: IntArray) -> FloatArray:
    """Average the items of every column, then the columns that have a value, in every resample: ``[n_resamples]``."""
    means = resampled_means(values, counts)
    known = ~np.isnan(means)
    totals, sizes = np.where(known, means, 0.0).sum(axis=1), known.sum(axis=1)
    averages: FloatArray = np.divide(totals, sizes, out=np.full(len(means), np.nan), where=sizes > 0)
    return averages
