"""What commands print: JSON for programs, short tables for people."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isogloss.analysis import ExpertTable
    from isogloss.evaluation.summary import EvaluationSummary
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
_BASELINE = "baseline"
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


def show_evaluation(summary: EvaluationSummary, *, as_json: bool) -> None:
    """Print whether the plan helped, one table of languages, and one line per arm."""
    from isogloss.files import to_json  # noqa: PLC0415 - help shows no result

    if as_json:
        print_json(to_json(summary))
        return
    write = _writer(summary)
    print_line(_verdict(summary))
    rows = []
    for code, row in summary.per_language.items():
        values = [each.text(write) for each in (row.baseline, row.steered, row.difference)]
        least = "–" if math.isnan(row.minimum_detectable) else f"{summary.factor * row.minimum_detectable:.3g}"
        rows.append([code, str(summary.n[code]), *values, f"{row.p_adjusted:.3f}", f"{row.p_bh:.3f}", least])
    unit = ", %" if summary.is_share else ""
    titles = [f"baseline{unit}", f"steered{unit}", "difference", "p (Holm)", "p (BH)", "detectable"]
    print_table(["language", "n", *titles], rows)
    for arm in summary.compared:
        print_line(_arm_line(summary, arm))
    if others := [name for name in summary.metrics if name != summary.metric]:
        print_line(
            f"other scores of the same answers: {'; '.join(others)}; compare them with --metric, without running again"
        )


def _writer(summary: EvaluationSummary, sign: str = "") -> Callable[[float], str]:
    """Write scores of an evaluation: shares in percent, other metrics as they are."""
    digits = 1 if summary.is_share else 3
    return lambda value: f"{summary.factor * value:{sign}.{digits}f}"


def _verdict(summary: EvaluationSummary) -> str:
    """State whether the mean over languages changes significantly, and which languages do."""
    outcome = {"better": "the plan helps", "worse": "the plan hurts", None: "no significant effect"}[summary.outcome]
    return (
        f"mean {summary.metric} over {len(summary.n)} languages changes by "
        f"{summary.overall.difference.text(_writer(summary))}: {outcome}; single languages with a significant change "
        f"(Holm): {', '.join(summary.significant) or 'none'}."
    )


def _arm_line(summary: EvaluationSummary, arm: str) -> str:
    """Describe one arm's effects on scores, on the pivot, on the language of answers, and inside the model."""
    parts = [f"{arm}: {summary.compared[arm].overall.difference.text(_writer(summary))}"]
    if guard := summary.guard.get(arm):
        parts.append(f"{summary.pivot} {_writer(summary, '+')(guard.change)}, guard {guard.verdict}")
    before, after = (summary.mean_unparsable(name) for name in (_BASELINE, arm))
    if before is not None and after is not None:
        parts.append(f"unparsable {100 * before:.1f} → {100 * after:.1f} %")
    if kept := summary.mean_output_language(arm):
        parts.append(f"answers in the right language {100 * kept[0]:.1f} → {100 * kept[1]:.1f} %")
    changed = 100 * max(summary.changed_choices[arm].values())
    parts.append(f"tokens with changed experts: up to {changed:.1f} % per layer")
    if (divergence := summary.mean_kl(arm)) is not None:
        parts.append(f"KL {divergence:.3g} nats")
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
