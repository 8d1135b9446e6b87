"""What commands print: JSON for programs, short tables for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isogloss.analysis import ExpertTable
    from isogloss.runs import Run
    from isogloss.steering import Plan
    from isogloss.workflows.study import StudyResult

__all__ = [
    "print_json",
    "print_line",
    "print_table",
    "show_evaluation",
    "show_experts",
    "show_path",
    "show_plan",
    "show_run",
    "show_study",
]

_LONGEST_TABLE = 40
_SCALES = {"accuracy": 100.0, "f1": 100.0}  # shares are printed in percent, other metrics as they are
_SIGNIFICANT = 0.05
_FILE_WIDTH = 240  # where nobody's window says: no cell is folded, so that lines can be searched


def show_path(path: Path) -> None:
    """Print where a file lies."""
    sys.stdout.write(f"{path}\n")


def show_run(run: Run, *, as_json: bool) -> None:
    """Print what a Run holds."""
    manifest = run.manifest
    if as_json:
        print_json({"path": str(run.path), **manifest.to_json()})
        return
    n_items, n_layers, n_experts = manifest.shape
    print_line(f"{run.path}: {manifest.model}, {n_items} items, {n_layers} routed layers of {n_experts} experts")
    print_table(["language", "tokens"], [[code, f"{manifest.languages[code].tokens:,}"] for code in run.languages])
    for note in manifest.notes:
        print_line(note)


def show_experts(table: ExpertTable, *, as_json: bool) -> None:
    """Print the experts of a rule."""
    raw = table.to_json()
    if as_json:
        print_json(raw)
        return
    chance = raw["expected_by_chance"]
    print_line(
        f"{raw['n']} experts by rule {raw['rule']}; expected by chance: {'unknown' if chance is None else chance}"
    )
    rows = [[str(row["layer"]), str(row["expert"]), _estimate(row)] for row in raw["experts"]]
    print_table(["layer", "expert", "statistic"], rows)


def show_plan(plan: Plan, path: Path, *, as_json: bool) -> None:
    """Print what a plan does and where it lies."""
    if as_json:
        print_json({"path": str(path), "sha256": plan.sha256, **plan.to_json()})
        return
    columns = {
        "layer": [str(each.layer) for each in plan.interventions],
        "kind": [each.kind for each in plan.interventions],
        "strength": [str(each.strength or "") for each in plan.interventions],
        "experts": [" ".join(map(str, each.experts)) for each in plan.interventions],
    }
    if plan.phases:
        columns["phase"] = [each.phase for each in plan.interventions]
    if plan.languages:
        columns["languages"] = [" ".join(each.languages or ("all",)) for each in plan.interventions]
    print_table(list(columns), [list(row) for row in zip(*columns.values(), strict=True)])
    print_line(str(path))


def show_evaluation(summary: dict[str, Any], *, as_json: bool) -> None:
    """Print whether the plan helped, one table of languages, and one line per arm."""
    if as_json:
        print_json(summary)
        return
    scale = 100.0 if summary["test"] == "mcnemar" else _SCALES.get(summary["metric"], 1.0)
    unit = {100.0: ", %", 1.0: ""}[scale]
    print_line(_verdict(summary, scale))
    rows = []
    for code, row in summary["per_language"].items():
        values = [_value(row[name], scale) for name in ("baseline", "steered", "difference")]
        least = row["minimum_detectable"]
        found = [f"{row[name]:.3f}" for name in ("p_adjusted", "p_bh")]
        rows.append([code, str(summary["n"][code]), *values, *found, "–" if least is None else f"{scale * least:.3g}"])
    titles = [f"baseline{unit}", f"steered{unit}", "difference", "p (Holm)", "p (BH)", "detectable"]
    print_table(["language", "n", *titles], rows)
    for arm in ("plan", *summary["controls"]):
        print_line(_arm_line(summary, arm, scale))
    if others := [name for name in summary.get("metrics", ()) if name != summary["metric"]]:
        print_line(
            f"other scores of the same answers: {'; '.join(others)}; compare them with --metric, without running again"
        )


def _verdict(summary: dict[str, Any], scale: float) -> str:
    """State whether the mean over languages changes significantly, and which languages do."""
    difference = summary["overall"]["difference"]
    low, high = difference["low"], difference["high"]
    verdict = "no significant effect"
    if low is not None and not low <= 0 <= high:
        verdict = "the plan helps" if (low > 0) == (summary["better"] == "higher") else "the plan hurts"
    changed = [code for code, row in summary["per_language"].items() if row["p_adjusted"] < _SIGNIFICANT]
    languages = ", ".join(changed) or "none"
    return (
        f"mean {summary['metric']} over {len(summary['n'])} languages changes by {_value(difference, scale)}: "
        f"{verdict}; single languages with a significant change (Holm): {languages}."
    )


def _arm_line(summary: dict[str, Any], arm: str, scale: float) -> str:
    """Describe one arm's effects on scores, on the pivot, on the language of answers, and inside the model."""
    found = summary if arm == "plan" else summary["controls"][arm]
    parts = [f"{arm}: {_value(found['overall']['difference'], scale)}"]
    if guard := summary.get("guard", {}).get(arm):
        digits = 1 if scale > 1 else 3
        parts.append(f"{summary['pivot']} {scale * guard['change']:+.{digits}f}, guard {guard['verdict']}")
    if before := summary.get("unparsable"):
        shares = [sum(row["value"] for row in before[name].values()) / len(before[name]) for name in ("baseline", arm)]
        parts.append(f"unparsable {100 * shares[0]:.1f} → {100 * shares[1]:.1f} %")
    languages = [row for row in summary.get("output_language", {}).get(arm, {}).values() if row["baseline"]]
    if languages:
        kept = [100 * sum(row[name]["value"] for row in languages) / len(languages) for name in ("baseline", "steered")]
        parts.append(f"answers in the right language {kept[0]:.1f} → {kept[1]:.1f} %")
    changed = 100 * max(summary["changed_choices"][arm].values())
    parts.append(f"tokens with changed experts: up to {changed:.1f} % per layer")
    divergences = [row["value"] for row in summary["kl"][arm].values() if row]
    if divergences:
        parts.append(f"KL {sum(divergences) / len(divergences):.3g} nats")
    return "; ".join(parts)


def show_study(result: StudyResult, *, as_json: bool) -> None:
    """Print the findings of a study, its accuracy table, and the path of its report, last."""
    if as_json:
        print_json({"findings": [*result.findings, *result.effects], "report": str(result.report)})
        return
    if result.evaluation is not None:
        show_evaluation(result.evaluation, as_json=False)
    for sentence in (*result.findings, *(() if result.evaluation else result.effects)):
        print_line(sentence)
    print_line(str(result.report))


def print_json(value: object) -> None:
    """Print JSON types."""
    sys.stdout.write(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def print_line(text: str) -> None:
    """Print one line, whatever its length."""
    sys.stdout.write(text + "\n")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, longest: int = _LONGEST_TABLE) -> None:
    """Print rows under their columns: as wide as the terminal, or, in a file, as wide as they are."""
    from rich.console import Console  # noqa: PLC0415 - help needs no tables
    from rich.table import Table  # noqa: PLC0415 - as above
    from rich.text import Text  # noqa: PLC0415 - as above

    table = Table(*columns, box=None, pad_edge=False)
    for row in rows[:longest]:
        table.add_row(*map(Text, row))
    width = None if sys.stdout.isatty() else _FILE_WIDTH
    Console(file=sys.stdout, highlight=False, width=width).print(table)
    if len(rows) > longest:
        print_line(f"… and {len(rows) - longest} more; --json has all")


def _estimate(row: dict[str, Any]) -> str:
    if row["low"] is None:
        return f"{row['statistic']:.3f}"
    return f"{row['statistic']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


def _value(estimate: dict[str, Any], scale: float) -> str:
    value, low, high = (estimate[name] for name in ("value", "low", "high"))
    digits = 1 if scale > 1 else 3
    text = f"{scale * value:.{digits}f}"
    return text if low is None else f"{text} [{scale * low:.{digits}f}, {scale * high:.{digits}f}]"
