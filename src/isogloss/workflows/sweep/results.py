"""What a sweep writes down: candidates, their gains on dev, the winner, and its test; each file read by its class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from isogloss.analysis import Rule
from isogloss.evaluation import Better, Guard, LanguageComparison
from isogloss.records import Name, Record
from isogloss.statistics import Estimate
from isogloss.steering import Kind

__all__ = [
    "CandidateRow",
    "CandidatesFile",
    "DevFile",
    "Gains",
    "MeasuredCandidate",
    "SeenBefore",
    "SweepResult",
    "SweepTest",
    "WinnerFile",
    "WinnersCurse",
]


@dataclass(frozen=True, kw_only=True)
class CandidateRow(Record):
    """A candidate of the grid and what became of it.

    Attributes:
        name: such as ``c001``; the settings of the grid follow, None for one that the rule or kind does not take.
        range: first and last decoder layer; None where the model has no such layers.
        n_experts: that its rule finds.
        expected_by_chance: how many of them chance would give; None where that is not known.
        status: ``plan``, ``no expert``, ``no effect`` (its plan changes no chosen expert) or ``refused``.
        reason: why it was refused; where no expert was found, how far the nearest is from the threshold.
        arm: that evaluates its plan; candidates whose plans do the same share one.
    """

    name: Name
    rule: Rule
    threshold: float | None
    top: int | None
    kind: Kind
    strength: float | None
    layers: Name
    range: tuple[int, int] | None = None
    n_experts: int = 0
    expected_by_chance: float | None = None
    status: Literal["plan", "no expert", "no effect", "refused"] = "refused"
    reason: str = ""
    arm: Name | None = None


@dataclass(frozen=True, kw_only=True)
class Gains(Record):
    """What an arm gains over the languages but the pivot, and what it costs the pivot, with 95 % intervals.

    Attributes:
        gain: interval for languages like these.
        gain_these_languages: interval for exactly these.
        cost: of the pivot, positive where it loses.
    """

    gain: Estimate
    gain_these_languages: Estimate
    cost: Estimate


@dataclass(frozen=True, kw_only=True)
class MeasuredCandidate(Gains, CandidateRow):
    """A candidate, measured on dev.

    Attributes:
        guard: of the pivot.
        front: whether it is on the Pareto front of gain against cost.
    """

    guard: Guard
    front: bool = False


@dataclass(frozen=True, kw_only=True)
class CandidatesFile(Record):
    """``candidates.json``: the grid in its order, the bands of layers it names, and arm to hash of its plan."""

    bands: Mapping[str, tuple[int, int]]
    candidates: tuple[CandidateRow, ...]
    plans: Mapping[str, str]


@dataclass(frozen=True)
class DevFile(Record):
    """``dev.json``: the metric of the scores, and measured candidates, best first."""

    metric: Name
    ranked: tuple[MeasuredCandidate, ...]


@dataclass(frozen=True, kw_only=True)
class WinnerFile(Record):
    """``winner.json``: the candidate that wins on dev with its plan, or why there is none; written before the test."""

    winner: str | None
    reason: str
    candidate: MeasuredCandidate | None
    plan: Mapping[str, Any] | None
    plan_sha256: str | None


@dataclass(frozen=True)
class SeenBefore(Record):
    """How many test items also occur in dev, or in the task texts from which experts were selected."""

    dev: int
    task_texts: int


@dataclass(frozen=True, kw_only=True)
class SweepTest(Gains):
    """The winner on the test split.

    Attributes:
        metric: of the scores.
        better: which scores are better.
        n: items by language.
        guard: of the pivot.
        per_language: the languages but the pivot, which are the family of Holm's correction.
        controls: gains of random plans.
        over_controls: gain beyond the mean of the controls; None without any.
        controls_without_effect: seeds whose random experts change no expert selection; the next seeds replaced them.
        seen_before: test items that are not new.
    """

    metric: str
    better: Better
    n: Mapping[str, int]
    guard: Guard
    per_language: Mapping[str, LanguageComparison]
    controls: Mapping[str, Gains]
    over_controls: Estimate | None
    controls_without_effect: tuple[int, ...]
    seen_before: SeenBefore


@dataclass(frozen=True)
class WinnersCurse(Record):
    """The gain on dev and on test side by side, by how much it shrank, and why."""

    dev: Estimate
    test: Estimate
    shrinkage: float
    note: str


@dataclass(frozen=True, kw_only=True)
class SweepResult(Record):
    """``sweep.json``: all that a sweep found.

    Attributes:
        bands: name to first and last layer, where the grid names bands.
        candidates: all of the grid in its order.
        counts: candidates by status.
        n_plans: distinct ones.
        metric: of all scores.
        dev: measured candidates, best first.
        winner: name of a candidate, or None.
        reason: why it is one, or why there is none.
        plan_sha256: hash of its plan.
        untested: why a winner was not tested; None if it was, or there is none.
        test: None where there was none.
        winners_curse: None without a test.
    """

    bands: Mapping[str, tuple[int, int]]
    candidates: tuple[CandidateRow, ...]
    counts: Mapping[str, int]
    n_plans: int
    metric: str
    dev: tuple[MeasuredCandidate, ...]
    winner: str | None
    reason: str
    plan_sha256: str | None
    untested: str | None
    test: SweepTest | None
    winners_curse: WinnersCurse | None
