"""Guards the pivot: shows that a plan does not cost it more than a margin, or that it does, or that n is too small."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from isogloss.arrays import FloatArray
from isogloss.evaluation.paired import Better
from isogloss.evaluation.proportions import paired_difference_interval, share_upper_bound
from isogloss.evaluation.scores import is_right_or_wrong, paired_arrays
from isogloss.records import Number
from isogloss.statistics import Estimate, bootstrap_counts, resampled_means

__all__ = ["Guard", "Verdict", "guard_pivot"]

Verdict = Literal["pass", "fail", "undecided"]


@dataclass(frozen=True)
class Guard:
    """Whether a plan costs the pivot more than a margin.

    Attributes:
        verdict: ``pass`` where a greater loss is ruled out, ``fail`` where it is shown, else ``undecided``: more items
            are needed.
        change: mean of the items' gains, negative where the plan costs something, whichever scores are better.
        low: one-sided lower bound of the change; NaN where there is none.
        high: one-sided upper bound of the change; NaN where there is none.
        margin: largest loss that is accepted, in the unit of the scores.
        level: one-sided coverage of either bound.
        n: items.
        steered: whether any rule of the plan applies to the pivot; where none does, its answers are the unsteered
            ones, and the change is 0 exactly.
    """

    verdict: Verdict
    change: float
    low: Number
    high: Number
    margin: float
    level: float
    n: int
    steered: bool = True

    @property
    def gain(self) -> Estimate:
        """The change with its two one-sided bounds."""
        return Estimate(self.change, self.low, self.high, self.n)


def guard_pivot(
    baseline: npt.ArrayLike,
    steered: npt.ArrayLike,
    *,
    margin: float = 0.01,
    better: Better = "higher",
    level: float = 0.95,
    seed: int = 0,
) -> Guard:
    """Test that the plan's arm is not worse than the baseline by more than a margin (one-sided non-inferiority).

    The arms hold ``[n_items]`` bool or finite scores of the same items. Scores of 0 and 1 are bounded by Tango's
    interval. Where no item flips, as when both arms are right throughout, the share of items that might flip is bounded
    exactly (rule of three): 299 items are needed to rule out a loss of one point at 95 %. Other scores are bounded by
    bootstrap percentiles, and not at all where no score changed.

    ``margin`` is the largest loss that is accepted, in the unit of the scores; the default is one point of accuracy.
    ``level`` is the one-sided coverage.

    Raises:
        RunError: no scores, or not of the same items.
        ValueError: a margin of 0 or less, or a level outside 0.5 to 1.
    """
    if margin <= 0.0 or not 0.5 < level < 1.0:  # noqa: PLR2004 - below a half, the bounds would change places
        raise ValueError(f"margin is {margin} and level {level}; expected a margin above 0 and a level of 0.5 to 1")
    pairs = paired_arrays(baseline, steered)
    gains = pairs[:, 1] - pairs[:, 0]
    if better == "lower":
        gains = -gains
    low, high = _flip_bounds(gains, level) if is_right_or_wrong(pairs) else _mean_bounds(gains, level, seed)
    verdict: Verdict = "pass" if low > -margin else "fail" if high < -margin else "undecided"
    return Guard(verdict, float(gains.mean()), low, high, margin, level, len(gains))


def _flip_bounds(gains: FloatArray, level: float) -> tuple[float, float]:
    """Bound the mean of ``[n_items]`` gains of -1, 0 and 1."""
    n_items, gained, lost = len(gains), int((gains > 0).sum()), int((gains < 0).sum())
    if gained + lost == 0:
        bound = share_upper_bound(0, n_items, level=level)
        return -bound, bound
    return paired_difference_interval(gained, lost, n_items=n_items, level=2.0 * level - 1.0)


def _mean_bounds(gains: FloatArray, level: float, seed: int) -> tuple[float, float]:
    """Bound the mean of ``[n_items]`` graded gains; NaN where they show no spread."""
    if not np.ptp(gains):
        return math.nan, math.nan
    means = resampled_means(gains, bootstrap_counts(len(gains), n_resamples=4000, seed=seed))
    low, high = np.quantile(means, [1.0 - level, level])
    return float(low), float(high)
