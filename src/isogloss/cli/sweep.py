"""The command `sweep`."""
# ruff: noqa: PLC0415 - heavy rooms are imported when the command needs them, so that help is instant

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from isogloss.cli.options import Subparsers, add_configured
from isogloss.cli.output import print_json, print_line, print_table, strength_text

if TYPE_CHECKING:
    from isogloss.reports.metrics import Metric
    from isogloss.workflows import MeasuredCandidate, SweepResult, SweepTest, WinnersCurse

__all__ = ["register_sweep", "show_sweep"]

_OUTCOMES = {"above": "the gain is confirmed", "below": "the winner hurts", None: "no evidence of a gain"}
_STATUS = {
    "no expert": "found no expert",
    "no effect": "would not change the routing",
    "refused": "could not be made (reason in --json)",
}


def register_sweep(subparsers: Subparsers) -> None:
    """Add `sweep`."""
    about = "rules, thresholds, strengths and layers compared on dev, the best one confirmed once on test"
    parser = add_configured(subparsers, "sweep", "sweep", about)
    parser.set_defaults(command=_sweep)


def _sweep(options: argparse.Namespace) -> None:
    from isogloss.workflows import Sweep, run_sweep

    show_sweep(run_sweep(Sweep.read_toml(options.sweep), options.output), as_json=options.json)


def show_sweep(result: SweepResult, *, as_json: bool) -> None:
    """Print the ranked candidates, what became of the others, the winner, and its test."""
    if as_json:
        print_json(result.to_json())
        return
    from isogloss.reports.metrics import Metric

    metric = Metric.named(result.metric)
    unit = f", {metric.points.strip()}" if metric.points else ""
    titles = ["", "candidate", "rule", "threshold", "top", "kind", "strength", "layers", "experts"]
    titles += [f"gain on dev{unit}", f"cost of the pivot{unit}", "guard", "front"]
    print_table(titles, [_row(row, metric, result.winner) for row in result.dev])
    print_line(_counts(result))
    if result.winner is None:
        print_line(f"No winner: {result.reason}. The test split was not touched.")
        return
    print_line(f"Winner {result.winner}: {result.reason}.")
    if result.test is None or result.winners_curse is None:
        print_line(f"The winner could not be tested: {result.untested}.")
        return
    for line in _test_lines(result.test, result.winners_curse, metric):
        print_line(line)


def _row(row: MeasuredCandidate, metric: Metric, winner: str | None) -> list[str]:
    strength = None if row.strength is None else strength_text(row.kind, row.strength)
    settings = (row.name, row.rule, row.threshold, row.top, row.kind, strength)
    numbers = "" if row.range is None else f"{row.range[0]}-{row.range[1]}"
    layers = numbers if row.layers == numbers else f"{row.layers} ({numbers})"
    texts = ["" if value is None else str(value) for value in settings]
    measured = [str(row.n_experts), row.gain.text(metric.change), row.cost.text(metric.change), row.guard.verdict]
    return ["→" if row.name == winner else "", *texts, layers, *measured, "*" if row.front else ""]


def _counts(result: SweepResult) -> str:
    """Count how many candidates there were, and what became of those that are not in the table."""
    parts = [f"{result.counts[status]} {text}" for status, text in _STATUS.items() if status in result.counts]
    counts = f"{len(result.candidates)} candidates, {result.n_plans} distinct plans evaluated"
    return "; ".join([counts, *parts]) + ". * marks the Pareto front of gain against cost."


def _test_lines(test: SweepTest, curse: WinnersCurse, metric: Metric) -> list[str]:
    better = [code for code, row in test.per_language.items() if row.is_significant]
    controls = ", ".join(f"{name} {metric.change_text(gains.gain)}" for name, gains in test.controls.items())
    gained = (
        f"Gain in {metric.name} over the languages but the pivot: {metric.change_text(curse.dev)} on dev, "
        f"{metric.change_text(curse.test)} on test (n = {curse.test.n} languages). The winner was chosen on dev, so "
        f"only test is unbiased; the gain shrank by {metric.change(curse.shrinkage)}{metric.points}."
    )
    shown = (
        f"On test: {_OUTCOMES[test.gain.side]}; evidence of a change "
        f"{'in ' + ', '.join(better) if better else 'in no single language'} "
        f"(Holm); cost of the pivot {metric.change_text(test.cost)} (n = {test.cost.n} items), guard "
        f"{test.guard.verdict}."
    )
    random = "No random experts changed which experts are selected, so there is no control."
    if test.over_controls is not None:
        random = (
            f"Random experts, as many per layer, gain: {controls}; the winner gains "
            f"{metric.change_text(test.over_controls)} more than their mean."
        )
    lines, seen = [gained, shown, random], test.seen_before
    if seen.dev or seen.task_texts:
        lines.append(
            f"Warning: {seen.dev} test items also occur in dev and {seen.task_texts} in the task texts that "
            "were used to find experts; the gain on test may be overestimated."
        )
    return lines
