"""The one rule by which the report says that something is so, and findings ranked by how clearly it is."""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import NormalDist
from typing import NamedTuple

from isogloss.statistics import Estimate

RULE = (
    "One rule for every verdict: something is said to be so where its 95 % interval lies on one side of zero and, "
    "where it was tested together with others, its p-value is below 0.05 after Holm's correction for all of them; what "
    "is greatest in some layer has no interval, and its p-value is corrected for the search over layers, too. "
    "Else there is no evidence that it is so, which is not evidence that it is not: the interval tells how large it "
    "may still be. Findings with evidence come first, the clearest on top; then those without; then descriptions."
)

NO_EVIDENCE, DESCRIBED = 0.0, -1.0
"""Weights of findings without evidence, and of those that test nothing."""

SIGNIFICANT = 0.05
_NORMAL = 1.96  # standard errors in half a 95 % interval


class Finding(NamedTuple):
    """A sentence, and how clearly the data show it: standard errors from zero, or one of the two weights above."""

    text: str
    weight: float = DESCRIBED


def shows(estimate: Estimate, p_adjusted: float | None = None) -> bool:
    """Return whether the data show that something is not zero, by `RULE`; without an interval they never do."""
    return estimate.side is not None and (p_adjusted is None or p_adjusted < SIGNIFICANT)


def evidence(estimate: Estimate, p_adjusted: float | None = None) -> float:
    """Return how many standard errors a statistic lies from zero; `NO_EVIDENCE` where `shows` says no."""
    if not shows(estimate, p_adjusted):
        return NO_EVIDENCE
    value = abs(estimate.value)
    near = value - min(abs(estimate.low), abs(estimate.high))
    return math.inf if near <= 0 else _NORMAL * value / near


def errors_of(p_value: float) -> float:
    """Return the standard errors from zero that a two-sided p-value stands for; `NO_EVIDENCE` from 0.05 on."""
    return NormalDist().inv_cdf(1.0 - max(p_value, 1e-9) / 2.0) if p_value < SIGNIFICANT else NO_EVIDENCE


def ranked(findings: Iterable[Finding]) -> tuple[str, ...]:
    """Order sentences by their weight, the clearest first; equal ones keep their order."""
    return tuple(finding.text for finding in sorted(findings, key=lambda finding: -finding.weight))
