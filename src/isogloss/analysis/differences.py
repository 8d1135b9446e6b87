"""The two rules that subtract selection rates: of a language and the pivot, or of two corpora in one language."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np

from isogloss.analysis.groups import ItemGroups, rate_difference
from isogloss.analysis.rules import Counts, ExpertRule, TopRule
from isogloss.arrays import BoolArray, FloatArray
from isogloss.runs import Run

__all__ = ["ContrastRule", "DeltaRule", "Sign"]

Sign = Literal["both", "positive", "negative"]


class _DifferenceRule(ExpertRule):
    """What both rules share: two groups, and a threshold of the difference between 0 and 1."""

    threshold: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold}; a difference of rates lies between 0 and 1")

    def sizes(self, groups: ItemGroups) -> dict[str, Any]:
        n_items, n_base = (len(array) for array in groups.selections)
        return {"n_items": n_items, "n_base_items": n_base, "paired": groups.parallel}


@dataclass(frozen=True)
class DeltaRule(_DifferenceRule):
    """Experts that the first group uses more than the second: the difference of mean rates over items.

    The statistic is not pooled over tokens: every item counts the same, however many tokens it has.

    Attributes:
        threshold: an expert is found where its rate is higher than the base rate by more than this; 0.3 means 30
            percentage points more of the tokens. Between 0 and 1.
        layers: first and last decoder layer looked at, inclusive; None for all.
        paired: item i of both groups is the same text, so items are resampled together; parallel items (one text in
            two languages) always are.

    Source:
        arXiv 2510.04694, equation 3; intervals and chance count are ours.
    """

    name: ClassVar[str] = "delta"

    threshold: float = 0.3
    layers: tuple[int, int] | None = None
    paired: bool = False

    @classmethod
    def require(cls, run: Run) -> None:
        """Refuse a pooled Run, whose counts hold no mean of rates over items."""
        run.manifest.require_items("the delta rule (a mean of rates over items)")

    def prepare(self, groups: ItemGroups) -> ItemGroups:
        """Return rates of items in place of counts."""
        return replace(groups.as_rates(), parallel=groups.parallel or self.paired)

    def judge(self, counts: Counts, tokens: Counts) -> tuple[FloatArray, BoolArray]:
        """Return the difference of rates and whether it is above the threshold."""
        difference = rate_difference(counts, tokens)
        return difference, difference > self.threshold


@dataclass(frozen=True)
class ContrastRule(TopRule, _DifferenceRule):
    """Experts that two groups use differently, either way: the signed difference of rates, pooled over tokens.

    Positive differences are experts that the first group uses more.

    Attributes:
        threshold: an expert is found where the difference of rates is larger than this in absolute value; between 0
            and 1.
        top: keep only so many, the largest absolute differences over all layers looked at; None for all.
        sign: ``positive``: only experts that the first group uses more; ``negative``: only those that it uses less.
        layers: first and last decoder layer looked at, inclusive; None for all.

    Source:
        SteerMoE's risk difference, arXiv 2509.09660, from the formula; intervals and chance count are ours.
    """

    name: ClassVar[str] = "contrast"

    threshold: float = 0.0
    top: int | None = None
    sign: Sign = "both"
    layers: tuple[int, int] | None = None

    def judge(self, counts: Counts, tokens: Counts) -> tuple[FloatArray, BoolArray]:
        """Return the signed difference of rates and whether it is large enough."""
        difference = rate_difference(counts, tokens)
        return difference, self.reach(difference) > self.threshold

    def reach(self, statistic: FloatArray) -> FloatArray:
        """Return the differences as ``sign`` counts them."""
        return {"both": np.abs(statistic), "positive": statistic, "negative": -statistic}[self.sign]
