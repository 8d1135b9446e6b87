"""The command `sweep`."""
# ruff: noqa: PLC0415 - heavy rooms are imported when the command needs them, so that help is instant

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from isogloss.cli.options import Subparsers, add_json, add_output
from isogloss.cli.output import print_json, print_line, print_table

__all__ = ["register_sweep", "show_sweep"]

_SIGNIFICANT = 0.05
_STATUS = {
    "no expert": "found no expert",
    "no effect": "would not change the routing",
    "refused": "could not be made (reason in --json)",
}


def register_sweep(subparsers: Subparsers) -> None:
    """Add `sweep`."""
    parser = subparsers.add_parser(
        "sweep", help="rules, thresholds, strengths and layers compared on dev, the best one confirmed once on test"
    )
    parser.add_argument("sweep", type=Path, metavar="SWEEP.toml")
    add_output(parser, "folder of the sweep; repeat the command to resume a stopped one")
    add_json(parser)
    parser.set_defaults(command=_sweep)


def _sweep(options: argparse.Namespace) -> None:
    from isogloss.workflows.sweep.run import run_sweep
    from isogloss.workflows.sweep.settings import read_sweep

    show_sweep(run_sweep(read_sweep(options.sweep), options.output), as_json=options.json)


def show_sweep(result: dict[str, Any], *, as_json: bool) -> None:
    """Print the ranked candidates, what became of the others, the winner, and its test."""
    if as_json:
        print_json(result)
        return
    titles = ["", "candidate", "rule", "threshold", "top", "kind", "strength", "layers", "experts", "gain on dev"]
    rows = [_row(row, result["winner"]) for row in result["dev"]]
    print_table([*titles, "cost of the pivot", "guard", "front"], rows)
    print_line(_counts(result))
    if result["winner"] is None:
        print_line(f"No winner: {result['reason']}. The test split was not touched.")
        return
    print_line(f"Winner {result['winner']}: {result['reason']}.")
    if result["test"] is None:
        print_line(f"The winner could not be tested: {result['untested']}.")
        return
    for line in _test_lines(result):
        print_line(line)


def _row(row: dict[str, Any], winner: str | None) -> list[str]:
    settings = [row[name] for name in ("name", "rule", "threshold", "top", "kind", "strength")]
    first, last = row["range"]
    layers = f"{first}-{last}" if row["layers"] == f"{first}-{last}" else f"{row['layers']} ({first}-{last})"
    mark = "→" if row["name"] == winner else ""
    texts = ["" if value is None else str(value) for value in settings]
    verdict = row["guard"]["verdict"]
    measured = [str(row["n_experts"]), _estimate(row["gain"]), _estimate(row["cost"]), verdict]
    return [mark, *texts, layers, *measured, "*" if row["front"] else ""]


def _counts(result: dict[str, Any]) -> str:
    """Say how many candidates there were, and what became of those that are not in the table."""
    counts = result["counts"]
    parts = [f"{counts[status]} {text}" for status, text in _STATUS.items() if status in counts]
    counts = f"{len(result['candidates'])} candidates, {result['n_plans']} distinct plans evaluated"
    return "; ".join([counts, *parts]) + ". * marks the Pareto front of gain against cost."


def _test_lines(result: dict[str, Any]) -> list[str]:
    test, curse = result["test"], result["winners_curse"]
    better = [code for code, row in test["per_language"].items() if row["p_adjusted"] < _SIGNIFICANT]
    controls = ", ".join(f"{name} {_estimate(row['gain'])}" for name, row in test["controls"].items())
    gained = (
        f"Gain in {test['metric']} over the languages but the pivot: {_estimate(curse['dev'])} on dev, "
        f"{_estimate(curse['test'])} on test. The winner was chosen on dev, so only test is unbiased; the difference "
        f"is {curse['shrinkage']:+.3f}."
    )
    shown = (
        f"On test: {_verdict(test)}; significant {'in ' + ', '.join(better) if better else 'in no single language'} "
        f"(Holm); cost of the pivot {_estimate(test['cost'])}, guard {test['guard']['verdict']}."
    )
    random = "No random experts changed any choice, so there is no control."
    if controls:
        random = (
            f"Random experts, as many per layer, gain: {controls}; the winner gains {_estimate(test['over_controls'])} "
            "more than their mean."
        )
    lines = [gained, shown, random]
    if any(test["seen_before"].values()):
        seen = test["seen_before"]
        lines.append(
            f"Warning: {seen['dev']} test items also occur in dev and {seen['task_texts']} in the task texts that "
            "were used to find experts; the gain on test may be overestimated."
        )
    return lines


def _verdict(test: dict[str, Any]) -> str:
    low, high = test["gain"]["low"], test["gain"]["high"]
    if low is None or low <= 0 <= high:
        return "no significant gain"
    return "the gain is confirmed" if low > 0 else "the winner hurts"


def _estimate(estimate: dict[str, Any]) -> str:
    value, low, high = (estimate[name] for name in ("value", "low", "high"))
    return f"{value:.3f}" if low is None else f"{value:.3f} [{low:.3f}, {high:.3f}]"
