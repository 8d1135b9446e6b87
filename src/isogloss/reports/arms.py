"""The arms of an evaluation side by side: what each changes in scores, the pivot, answers and inside the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from isogloss.evaluation.arms import BASELINE, PLAN
from isogloss.reports.differences import CONTROL_COLOUR, axis_title
from isogloss.reports.dots import dots, named_rows, upright
from isogloss.reports.figures import ACCENT, INK, Figure, KeyEntry, base_layout
from isogloss.reports.metrics import Metric, arm_text, is_random, ordered_arms
from isogloss.reports.tables import known_table
from isogloss.reports.text import MISSING, label, number, percent, plain, plot_text

if TYPE_CHECKING:
    from isogloss.analysis.statistics import Estimate
    from isogloss.evaluation.summary import EvaluationSummary
    from isogloss.reports.figures import Table

__all__ = ["arms_figure", "arms_table", "dose_figure", "inside_table", "language_table"]

_ROW = 26
_WORDS = frozenset({"arm", "what it is", "guard"})
_SHARE = Metric("share")
_LOOKS = {
    "plan": ("diamond", "◆", ACCENT, "plan"),
    "random": ("circle-open", "○", CONTROL_COLOUR, "random experts, as many per layer"),
    "other": ("square", "■", CONTROL_COLOUR, "other arms"),
}
_GUARDS = {
    "pass": ("circle", "●", "pivot guarded: a loss beyond the margin is ruled out"),
    "undecided": ("circle-open", "○", "undecided: more items are needed"),
    "fail": ("x", "✕", "pivot harmed beyond the margin"),
    "": ("diamond", "◆", "pivot not evaluated"),
}


def _kind(arm: str) -> str:
    return PLAN if arm == PLAN else "random" if is_random(arm) else "other"


def _hover(heading: str, difference: Estimate, metric: Metric, more: str = "") -> str:
    change = plot_text(metric.change_text(difference))
    return f"<b>{plot_text(heading)}</b><br>{change}{more}<br>n = {difference.n:,} languages"


def arms_figure(summary: EvaluationSummary, metric: Metric, *, caption: str) -> Figure | None:
    """Draw the overall difference of every arm with its interval, the plan on top; None where there is only the plan.

    Args:
        summary: of the evaluation.
        metric: of the scores.
        caption: measure, n and interval level.
    """
    if not summary.controls:
        return None
    arms = ordered_arms(summary)
    differences = {arm: summary.compared[arm].overall.difference for arm in arms}
    data, key = [], []
    for kind, (symbol, sign, colour, text) in _LOOKS.items():
        chosen = [arm for arm in arms if _kind(arm) == kind]
        if chosen:
            size = 10 if kind == PLAN else 7
            data.append(
                dots(
                    kind,
                    [differences[arm].scaled(metric.factor) for arm in chosen],
                    [arms.index(arm) for arm in chosen],
                    marker={"symbol": symbol, "size": size, "color": colour, "line": {"color": colour}},
                    bars=(colour, 1.8),
                    hover=[_hover(f"{arm}: {arm_text(arm)}", differences[arm], metric) for arm in chosen],
                )
            )
            key.append(KeyEntry(text, sign, colour, kind))
    layout = base_layout(axis_title(metric), "", height=90 + _ROW * len(arms))
    layout["xaxis"].update(showgrid=True, zeroline=True, zerolinecolor=INK, zerolinewidth=1)
    names = {row: f"<b>{PLAN}</b>" if arm == PLAN else plot_text(arm) for row, arm in enumerate(arms)}
    layout["yaxis"].update(named_rows(names), range=[len(arms) - 0.5, -0.5])
    title = f"Change in mean {metric.name} by arm"
    return Figure("arms", title, caption, data, layout, {"yaxis.tickfont.size": 10}, tuple(key))


def dose_figure(summary: EvaluationSummary, metric: Metric, *, caption: str) -> Figure | None:
    """Draw the overall difference against the strength of the plan, marked by the pivot's guard.

    Args:
        summary: of the evaluation.
        metric: of the scores.
        caption: measure, n and interval level.

    Returns:
        The figure; None where there are fewer than two strengths.
    """
    doses = summary.dose_response
    if not doses:
        return None
    line = {"color": "#c3c8ce", "width": 1.2}
    strengths = [dose.strength for dose in doses]
    values = [metric.factor * dose.difference.value for dose in doses]
    data: list[dict[str, Any]] = [
        {"type": "scatter", "mode": "lines", "x": strengths, "y": values, "line": line, "hoverinfo": "skip"}
    ]
    key = []
    for verdict, (symbol, sign, text) in _GUARDS.items():
        chosen = [dose for dose in doses if (dose.guard.verdict if dose.guard else "") == verdict]
        if chosen:
            group, guard = f"guard {verdict}".strip(), verdict or "not evaluated"
            trace = dots(
                group,
                [dose.difference.scaled(metric.factor) for dose in chosen],
                [dose.strength for dose in chosen],
                marker={"symbol": symbol, "size": 9, "color": ACCENT},
                bars=(ACCENT, 1.6),
                hover=[
                    _hover(
                        f"strength {dose.strength:g}",
                        dose.difference,
                        metric,
                        f"<br>arm {plot_text(dose.arm)}; guard {guard}",
                    )
                    for dose in chosen
                ],
            )
            data.append(upright(trace))
            key.append(KeyEntry(text, sign, ACCENT, group))
    layout = base_layout("strength", axis_title(metric), height=320)
    layout["yaxis"].update(zeroline=True, zerolinecolor=INK, zerolinewidth=1)
    narrow = {"yaxis.title.text": "steered − baseline"}
    return Figure("dose-response", "Dose and response", caption, data, layout, narrow, tuple(key))


def arms_table(summary: EvaluationSummary, metric: Metric, *, caption: str) -> Table:
    """List what every arm changes in scores, and what it costs the pivot.

    Args:
        summary: of the evaluation.
        metric: of the scores.
        caption: measure, n and interval level.
    """
    unit = metric.points and ", points"
    scores = (f"languages like these{unit}", f"these languages{unit}", "detectable", f"gain of the pivot{unit}")
    rows = []
    for arm in ordered_arms(summary):
        comparison, guard = summary.compared[arm], summary.guard.get(arm)
        rows.append((
            plain(arm),
            comparison.overall.difference.text(metric.change),
            comparison.overall_these_languages.difference.text(metric.change),
            metric.value(comparison.overall.minimum_detectable),
            *((guard.gain.text(metric.change), guard.verdict) if guard else (MISSING, MISSING)),
        ))  # fmt: skip
    return known_table("Arms: scores", caption, ("arm", *scores, "guard"), rows, words=_WORDS)


def inside_table(summary: EvaluationSummary, *, caption: str) -> Table | None:
    """List what every arm is, and what it changes in answers and inside the model.

    Args:
        summary: of the evaluation.
        caption: what the columns say.

    Returns:
        One row per arm; None where there is nothing to say.
    """
    header = ("arm", "what it is", "experts", "KL, nats", "other experts, %", "unparsable, %", "right language, %")
    rows = [
        (
            plain(arm),
            MISSING if arm_text(arm) == plain(arm) else arm_text(arm),
            str(summary.n_experts.get(arm, MISSING)),
            number(summary.mean_kl(arm)),
            percent(max(summary.changed_choices.get(arm, {}).values(), default=None)),
            _unparsable(summary, arm),
            _right_language(summary, arm),
        )
        for arm in ordered_arms(summary)
    ]
    if len(rows) == 1 and all(cell == MISSING for cell in rows[0][2:]):
        return None
    return known_table("Arms: what they are and change", caption, header, rows, words=_WORDS)


def _unparsable(summary: EvaluationSummary, arm: str) -> str:
    before, after = summary.mean_unparsable(BASELINE), summary.mean_unparsable(arm)
    return MISSING if None in (before, after) else f"{percent(before)} → {percent(after)}"


def _right_language(summary: EvaluationSummary, arm: str) -> str:
    shares = summary.mean_output_language(arm)
    return MISSING if shares is None else f"{percent(shares[0])} → {percent(shares[1])} (n = {shares[2]:,})"


def language_table(summary: EvaluationSummary) -> Table | None:
    """List, by language, what the plan changes besides scores; None where nothing of it was measured."""
    header = (
        *("language", "unparsable before, %", "unparsable after, %"),
        *("right language before, %", "right language after, %", "change, points", "answers judged in both"),
        "KL, nats",
    )
    before, after = (summary.unparsable.get(arm, {}) for arm in (BASELINE, PLAN))
    rows = []
    for code in summary.per_language:
        output, moved = summary.output_language.get(PLAN, {}).get(code), summary.kl.get(PLAN, {}).get(code)
        shares = (output.baseline, output.steered) if output else (None, None)
        change = output.difference if output else None
        rows.append((
            label(code),
            *(each.text(_SHARE.value) if each else MISSING for each in (before.get(code), after.get(code), *shares)),
            *((change.text(_SHARE.change), f"{change.n:,}") if change else (MISSING, MISSING)),
            moved.text(number) if moved else MISSING,
        ))  # fmt: skip
    caption = (
        "Answers that could not be read count as wrong. Right language: share of answers in the language asked for,"
        " among those long enough to tell in both arms; too short ones are left out. KL: of the steered next-token"
        " distribution from the unsteered one, on the first prompts; brackets: 95 % intervals."
    )
    table = known_table("The plan, by language: answers and next tokens", caption, header, rows, folded=True)
    return table if len(table.header) > 1 else None
