"""What commands print: JSON for programs, short tables for people."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from isogloss.terminal import printable

if TYPE_CHECKING:
    from isogloss.analysis import ExpertTable
    from isogloss.evaluation import (
        AgainstRandom,
        BesidePlan,
        EvaluationSummary,
        JudgedLanguage,
        PairedScores,
        SteeredLanguages,
    )
    from isogloss.runs import Run
    from isogloss.statistics import Estimate
    from isogloss.steering import Intervention, Plan

__all__ = [
    "print_json",
    "print_line",
    "print_table",
    "show_evaluation",
    "show_experts",
    "show_path",
    "show_plan",
    "show_run",
    "strength_text",
]

_LONGEST_TABLE = 40
_BASELINE = "baseline"
_FILE_WIDTH = 240  # without a terminal: no cell is folded, so that lines can be searched


def show_path(path: Path) -> None:
    """Print the path of a file."""
    print_line(str(path))


def show_run(run: Run, *, as_json: bool) -> None:
    """Print what a Run holds."""
    from isogloss.runs import UNFINISHED  # noqa: PLC0415 - help shows no result

    manifest = run.manifest
    if as_json:
        print_json({"path": str(run.path), **manifest.to_json()})
        return
    n_items, n_layers, n_experts = manifest.shape
    print_line(f"{run.path}: {manifest.model}, {n_items} items, {n_layers} routed layers of {n_experts} experts")
    print_table(["language", "tokens"], [[code, f"{manifest.languages[code].tokens:,}"] for code in run.languages])
    for code, share in manifest.unknown_tokens.items():
        print_line(
            f"{code}: {100 * share:.1f} % of its tokens are unknown to the tokenizer: its routing is partly that of "
            "one token"
        )
    for note in manifest.notes:
        print_line(note)
    if manifest.status == "partial":
        print_line(UNFINISHED)


def show_experts(table: ExpertTable, *, as_json: bool) -> None:
    """Print the experts of a rule."""
    from isogloss.runs import UNFINISHED  # noqa: PLC0415 - help shows no result
    from isogloss.statistics import Estimate  # noqa: PLC0415 - as above

    raw = table.to_json()
    if as_json:
        print_json(raw)
        return
    if table.status == "partial":
        print_line(UNFINISHED)
    if table.caution:
        print_line(table.caution)
    chance = raw["expected_by_chance"]
    print_line(
        f"{raw['n']} experts by rule {raw['rule']}; expected by chance: {'unknown' if chance is None else chance}"
    )
    if table.nearest is not None:
        print_line(table.nearest.text)
    rows = [
        [str(each.layer), str(each.expert), Estimate(each.statistic, each.low, each.high, 0).text()]
        for each in table.experts
    ]
    print_table(["layer", "expert", "statistic"], rows)


def show_plan(plan: Plan, path: Path, *, as_json: bool) -> None:
    """Print what a plan does, and its path."""
    if as_json:
        print_json({"path": str(path), "sha256": plan.sha256, **plan.to_json()})
        return
    columns = {
        "layer": [str(each.layer) for each in plan.interventions],
        "kind": [each.kind for each in plan.interventions],
        "strength": [_strength(each) for each in plan.interventions],
        "experts": [" ".join(map(str, each.experts)) for each in plan.interventions],
    }
    if plan.phases:
        columns["phase"] = [each.phase for each in plan.interventions]
    if plan.languages:
        columns["languages"] = [" ".join(each.languages or ("all",)) for each in plan.interventions]
    if plan.provenance.get("status") == "partial":
        print_line("made from a partial run, whose capture had not finished")
    print_table(list(columns), [list(row) for row in zip(*columns.values(), strict=True)])
    print_line(str(path))


def strength_text(kind: str, *values: float) -> str:
    """Write λ, or what a kind adds to each expert, as a range where they differ, with its unit if that is logits."""
    from isogloss.statistics import MINUS  # noqa: PLC0415 - help shows no result
    from isogloss.steering import CONSTANT_KINDS  # noqa: PLC0415 - as above

    if kind not in CONSTANT_KINDS:
        return str(values[0])
    ends = dict.fromkeys(f"{value:+g}" for value in (min(values), max(values)))
    return f"{' to '.join(ends)}{' logits' if kind == 'offset' else ''}".replace("-", MINUS)


def _strength(intervention: Intervention) -> str:
    """Write λ, or what is added to each expert; nothing for kinds without either."""
    values = (intervention.values or ()) if intervention.strength is None else (intervention.strength,)
    return strength_text(intervention.kind, *values) if values else ""


def show_evaluation(summary: EvaluationSummary, *, as_json: bool) -> None:
    """Print whether the plan helped, one table of languages, and one line per arm."""
    from isogloss.records import to_json  # noqa: PLC0415 - help shows no result

    if as_json:
        print_json(to_json(summary))
        return
    from isogloss.evaluation import is_random  # noqa: PLC0415 - help shows no result

    write = _writer(summary)
    print_line(_verdict(summary))
    for arm, steered in summary.where_steered.items():
        print_line(_where_steered(summary, arm, steered))
    for arm, beside in summary.adapters.items():
        print_line(_beside_plan(summary, arm, beside))
    rows = []
    for code, row in summary.per_language.items():
        values = [each.text(write) for each in (row.baseline, row.steered, row.difference)]
        least = "–" if math.isnan(row.minimum_detectable) else f"{summary.factor * row.minimum_detectable:.3g}"
        rows.append([code, str(summary.n[code]), *values, f"{row.p_adjusted:.3f}", f"{row.p_bh:.3f}", least])
    unit = ", %" if summary.is_share else ""
    points = ", points" if summary.is_share else ""
    titles = [f"baseline{unit}", f"steered{unit}", f"difference{points}", "p (Holm)", "p (BH)", f"detectable{points}"]
    print_table(["language", "n", *titles], rows)
    for arm in summary.compared:
        if not (summary.against_random and is_random(arm)):
            print_line(_arm_line(summary, arm))
    if summary.against_random:
        print_line(_random_line(summary, summary.against_random))
    if others := [name for name in summary.metrics if name != summary.metric]:
        print_line(
            f"other scores of the same answers: {'; '.join(others)}; compare them with --metric, without running again"
        )


def _writer(summary: EvaluationSummary, sign: str = "") -> Callable[[float], str]:
    """Write scores of an evaluation, as `Estimate.text` takes it: shares in percent, other metrics as they are."""
    digits = 1 if summary.is_share else 3
    return lambda value: f"{summary.factor * value:{sign}.{digits}f}"


def _change(summary: EvaluationSummary, change: Estimate, sign: str = "") -> str:
    """Write a change of scores with its unit: percentage points of shares, others in the metric's own."""
    return f"{change.text(_writer(summary, sign))}{' points' if summary.is_share else ''}"


def _unit(summary: EvaluationSummary) -> str:
    return " %" if summary.is_share else ""


def _moved(summary: EvaluationSummary, mean: PairedScores, outcomes: Mapping[str | None, str]) -> str:
    """Write a mean without and with an arm, the change between them, and what it shows."""
    from isogloss.evaluation import outcome_of  # noqa: PLC0415 - help shows no result

    before, after = (_writer(summary)(each.value) for each in (mean.baseline, mean.steered))
    outcome = outcomes[outcome_of(mean.difference, summary.better)]
    return f"{before} to {after}{_unit(summary)}, by {_change(summary, mean.difference)}: {outcome}"


_OUTCOMES = {"better": "the plan helps", "worse": "the plan hurts", None: "no evidence of an effect"}


def _verdict(summary: EvaluationSummary) -> str:
    """State whether there is evidence that the mean over languages changes, and in which languages."""
    outcome = summary.unmeasured or _OUTCOMES[summary.outcome]
    return (
        f"mean {summary.metric} over {len(summary.n)} languages changes by "
        f"{_change(summary, summary.overall.difference)}: {outcome}; single languages with evidence of a change "
        f"(Holm): {', '.join(summary.significant) or 'none'}."
    )


def _where_steered(summary: EvaluationSummary, arm: str, steered: SteeredLanguages) -> str:
    """State what an arm does to the languages that it steers, where it leaves others as they are."""
    pivot = summary.guard.get(arm)
    kept = f"; {summary.pivot} is not steered" if pivot and not pivot.steered else ""
    n, plural = len(steered.languages), "" if len(steered.languages) == 1 else "s"
    return (
        f"{arm}: mean {summary.metric} over the {n} language{plural} that it steers "
        f"({', '.join(steered.languages)}) goes from {_moved(summary, steered.overall, _OUTCOMES)}{kept}."
    )


def _beside_plan(summary: EvaluationSummary, arm: str, beside: BesidePlan) -> str:
    """State what an adapter reaches where the plan that it was made from steers, beside that plan, and elsewhere."""
    from isogloss.evaluation import outcome_of  # noqa: PLC0415 - help shows no result

    helps = {"better": "it helps", "worse": "it hurts", None: "no evidence of an effect"}
    differs = {"better": "better than the plan", "worse": "worse than the plan", None: "no evidence of a difference"}
    n = beside.others.difference.n
    reached = (
        f"{arm}: the router adapter made from {beside.plan}, which acts without a condition: over the same "
        f"{len(beside.languages)} languages {_moved(summary, beside.overall, helps)}"
    )
    minus = (
        f"minus {beside.plan} {_change(summary, beside.from_plan.difference)}: "
        f"{differs[outcome_of(beside.from_plan.difference, summary.better)]}"
    )
    elsewhere = f"the other {n} language{'' if n == 1 else 's'} change by {_change(summary, beside.others.difference)}"
    parts = [reached, minus, elsewhere]
    if summary.pivot in summary.n:
        before, after = (_writer(summary)(summary.arms[each][summary.pivot]) for each in (_BASELINE, arm))
        kept = f"stays at {after}" if before == after else f"{before} to {after}"
        parts.append(f"{summary.pivot} {kept}{_unit(summary)}")
    return f"{'; '.join(parts)}."


def _random_line(summary: EvaluationSummary, against: AgainstRandom) -> str:
    """State how far random plans with as many experts per layer change the mean, and the plan beside their mean."""
    from isogloss.evaluation import is_random, outcome_of  # noqa: PLC0415 - help shows no result

    changes = sorted(
        (each.overall.difference for arm, each in summary.controls.items() if is_random(arm)),
        key=lambda change: change.value,
    )
    ends = dict.fromkeys(_change(summary, each) for each in (changes[0], changes[-1]))
    beside = {
        "better": "the plan does better than random experts",
        "worse": "the plan does worse than random experts",
        None: "no evidence that the plan differs from random experts",
    }[outcome_of(against.difference, summary.better)]
    plans = "1 random plan" if against.n_plans == 1 else f"{against.n_plans} random plans"
    n = against.difference.n
    return (
        f"{plans}: {' to '.join(ends)}; plan minus their mean, item by item: {_change(summary, against.difference)} "
        f"(n = {n} languages): {beside}"
    )


def _arm_line(summary: EvaluationSummary, arm: str) -> str:
    """Describe one arm's effects on scores, on the pivot, on the language of answers, and inside the model."""
    from isogloss.evaluation import PROBE_ITEMS  # noqa: PLC0415 - help shows no result

    overall = summary.compared[arm].overall.difference
    parts = [f"{arm}: {_change(summary, overall)} (n = {overall.n} languages)"]
    if guard := summary.guard.get(arm):
        gain = f"{_change(summary, guard.gain, '+')} (n = {guard.n})" if guard.steered else "not steered"
        parts.append(f"{summary.pivot} {gain}, guard {summary.guard_verdict(arm)}")
    before, after = (summary.mean_unparsable(name) for name in (_BASELINE, arm))
    if before is not None and after is not None:
        parts.append(f"unparsable {before.text(_percent)} → {after.text(_percent)} % (n = {after.n:,} answers)")
    if summary.output_language:
        parts.append(_right_language(summary.mean_output_language(arm)))
    changed = 100 * max(summary.changed_choices[arm].values())
    probe = f"on the first {PROBE_ITEMS} prompts of each {'steered ' if arm in summary.where_steered else ''}language"
    parts.append(f"{probe} tokens with changed experts: up to {changed:.1f} % per layer")
    if (divergence := summary.mean_kl(arm)) is not None:
        parts.append(f"KL {divergence.text('{:.3g}'.format)} nats (n = {divergence.n} prompts)")
    return "; ".join(parts)


def _right_language(judged: JudgedLanguage | None) -> str:
    """Write how many answers were in the right language, or that too few could be judged to tell."""
    if judged is None or judged.too_few:
        reason = judged.unstated if judged else "not stated: no answer could be judged"
        return f"answers in the right language: {reason}"
    shares = f"{judged.baseline.text(_percent)} → {judged.steered.text(_percent)} %"
    return f"answers in the right language {shares} ({judged.judged})"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def print_json(value: object) -> None:
    """Print JSON types."""
    print_line(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False))


def print_line(text: str) -> None:
    """Print one line, whatever its length, without what a terminal would obey."""
    sys.stdout.write(printable(text) + "\n")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, longest: int = _LONGEST_TABLE) -> None:
    """Print rows under their columns: as wide as the terminal, or, in a file, as wide as they are."""
    from rich.console import Console  # noqa: PLC0415 - help needs no tables
    from rich.table import Table  # noqa: PLC0415 - as above
    from rich.text import Text  # noqa: PLC0415 - as above

    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(Text(printable(column)))
    for row in rows[:longest]:
        table.add_row(*(Text(printable(cell)) for cell in row))
    width = None if sys.stdout.isatty() else _FILE_WIDTH
    Console(file=sys.stdout, highlight=False, width=width).print(table)
    if len(rows) > longest:
        print_line(f"… and {len(rows) - longest} more; --json has all")
