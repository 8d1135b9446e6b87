"""Compares candidates by what they gain and what they cost the pivot, and chooses one, always the same."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from isogloss.arrays import FloatArray
from isogloss.evaluation import BASELINE, Better, Comparison, compare_scores, paired_scores, read_records
from isogloss.statistics import Estimate
from isogloss.workflows.sweep.results import Gains, MeasuredCandidate

__all__ = ["choose_winner", "front", "gain_of", "measure", "over_controls", "rank", "read_values"]

_DIGITS = 12  # gains that differ less are ties: sums of the same terms in another order


def read_values(folder: Path, arm: str) -> dict[str, FloatArray]:
    """Read the scores of an arm of a finished evaluation: language to ``[n_items]``; RunError where it is damaged."""
    files = sorted((folder / arm).glob("*.jsonl"))
    return {path.stem: np.array([record.value for record in read_records(path)]) for path in files}


def gain_of(difference: Estimate, better: Better) -> Estimate:
    """Turn a difference of scores into a gain: as it is where higher is better, else with the other sign."""
    return difference if better == "higher" else difference.scaled(-1.0)


def measure(folder: Path, arm: str, *, pivot: str, better: Better) -> tuple[Gains, Comparison]:
    """Measure what an arm of a finished evaluation gains over the languages but the pivot, and what it costs the pivot.

    The comparison is over the other languages, which are the family of its adjusted p-values.
    """
    before, after = read_values(folder, BASELINE), read_values(folder, arm)
    others = [code for code in before if code != pivot]
    compared = compare_scores(
        {code: before[code] for code in others}, {code: after[code] for code in others}, better=better
    )
    gains = Gains(
        gain=gain_of(compared.overall.difference, better),
        gain_these_languages=gain_of(compared.overall_these_languages.difference, better),
        cost=gain_of(paired_scores(before[pivot], after[pivot]).difference, better).scaled(-1.0),
    )
    return gains, compared


def over_controls(folder: Path, arm: str, controls: Sequence[str], *, pivot: str, better: Better) -> Estimate:
    """Estimate the gain of an arm beyond the mean of its random controls, over the languages but the pivot."""
    steered = read_values(folder, arm)
    random = [read_values(folder, control) for control in controls]
    others = [code for code in steered if code != pivot]
    means = {code: np.mean([values[code] for values in random], axis=0) for code in others}
    beyond = compare_scores(means, {code: steered[code] for code in others}, better=better)
    return gain_of(beyond.overall.difference, better)


def rank(rows: Sequence[MeasuredCandidate]) -> list[MeasuredCandidate]:
    """Sort measured candidates: greatest gain, then the smaller strength, fewer experts, and the grid's order."""
    strengths = {row.name: math.inf if row.strength is None else abs(row.strength) for row in rows}
    return sorted(rows, key=lambda row: (-_gain(row), strengths[row.name], row.n_experts))


def choose_winner(rows: Sequence[MeasuredCandidate]) -> tuple[MeasuredCandidate | None, str]:
    """Find the candidate with the greatest gain above 0 that is not shown to harm the pivot, or why there is none."""
    gaining = [row for row in rank(rows) if _gain(row) > 0]
    allowed = [row for row in gaining if row.guard.verdict != "fail"]
    if not rows:
        return None, "no candidate made a plan that changes anything: lower the thresholds or widen the layers"
    if not gaining:
        return None, f"none of {len(rows)} candidates gains anything over the languages but the pivot on dev"
    if not allowed:
        return None, f"all {len(gaining)} candidates that gain on dev cost the pivot more than the margin"
    winner, harmful = allowed[0], len(gaining) - len(allowed)
    verdict = "passes the pivot guard"
    if winner.guard.verdict == "undecided":
        verdict = f"is not shown to harm the pivot (guard undecided: {winner.guard.n} items are too few)"
    passed_over = f"; {harmful} that gain were refused by the pivot guard" if harmful else ""
    return winner, f"greatest gain on dev of {len(rows)} candidates, and {verdict}{passed_over}"


def front(rows: Sequence[MeasuredCandidate]) -> list[bool]:
    """Return for each candidate whether no other one gains as much at less cost, or more at no more cost."""
    points = [(_gain(row), -round(row.cost.value, _DIGITS)) for row in rows]
    return [
        not any(gain >= own_gain and saved >= own_saved and (gain, saved) != (own_gain, own_saved)
                for gain, saved in points)
        for own_gain, own_saved in points
    ]  # fmt: skip


def _gain(row: MeasuredCandidate) -> float:
    return round(row.gain.value, _DIGITS)
