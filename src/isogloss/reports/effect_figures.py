"""Figures of an evaluation: the change by language and by arm, and the response to the dose."""

from __future__ import annotations

from collections.abc import Sequence

from isogloss.evaluation import PLAN, EvaluationSummary, SummaryRow, is_random
from isogloss.reports.figures import (
    ACCENT,
    LINE,
    ZERO_LINE,
    Dot,
    Figure,
    Style,
    base_layout,
    dot_traces,
    named_rows,
    scatter,
    stripes,
)
from isogloss.reports.metrics import Metric, arm_text, ordered_arms, ranked_languages
from isogloss.reports.text import hover, label, p_value, plain, plot_text, short_names

__all__ = ["AGAINST", "OVERALL", "arms_figure", "difference_figure", "dose_figure", "row_names", "size_text"]

OVERALL = "Mean over languages"
AGAINST = "plan − random plans"
_CONTROL = "#7f8792"
_ROW = 26
_SYMBOLS = {"circle-open": "○", "square-open": "□", "diamond-open": "◇", "triangle-up-open": "△", "x": "×"}
_SOLID = {"line": {"width": 1.8, "color": ACCENT}}
_LANGUAGES = {
    "mean": Style(ACCENT, "diamond", "◆", "steered, mean over languages", 11, 1.8, marker=_SOLID),
    "clear": Style(ACCENT, "circle", "●", "steered, adjusted p below 0.05", 9, 1.8, marker=_SOLID),
    "unclear": Style(ACCENT, "circle", "○", "steered, otherwise", 9, 1.8, marker={**_SOLID, "color": "#ffffff"}),
}
_ARMS = {
    "plan": Style(ACCENT, "diamond", "◆", "plan", 10, 1.8),
    "random": Style(_CONTROL, "circle-open", "○", "random experts, as many per layer", bar=1.8),
    "other": Style(_CONTROL, "square", "■", "other arms", bar=1.8),
}
_GUARDS = {
    "guard pass": Style(ACCENT, "circle", "●", "pivot guarded: a loss beyond the margin is ruled out", 9),
    "guard undecided": Style(ACCENT, "circle-open", "○", "undecided: more items are needed", 9),
    "guard fail": Style(ACCENT, "x", "✕", "pivot harmed beyond the margin", 9),
    "guard": Style(ACCENT, "diamond", "◆", "pivot not evaluated", 9),
}


def size_text(code: str, n: int) -> str:
    """Write how many items are behind a language, or how many languages behind the mean."""
    return f"{n:,}" if code else f"{n:,} language{'' if n == 1 else 's'}"


def row_names(order: Sequence[str]) -> tuple[list[str], list[str]]:
    """Name rows of languages and of the mean over them, which is empty: on a wide screen, and on a narrow one."""
    named = short_names(filter(None, order))
    wide = [plot_text(named[code]) if code else f"<b>{OVERALL}</b>" for code in order]
    return wide, [plot_text(code) if code else "<b>mean</b>" for code in order]


def _axis_title(metric: Metric) -> str:
    """Name the axis of differences, escaped for plotly, with the better direction where it is not plain."""
    unit = "percentage points" if metric.is_share else metric.name
    return plot_text(f"steered − baseline, {unit}{metric.direction}")


def _hover(row: SummaryRow, metric: Metric) -> str:
    """Write what hovering over an arm in a language, or in their mean, shows."""
    tests = [] if row.p_adjusted is None else [f"p adjusted {p_value(row.p_adjusted)}"]
    return hover(
        label(row.language) if row.language else OVERALL,
        "steered" if row.arm == PLAN else row.arm,
        f"{metric.value(row.baseline)} → {metric.value(row.steered)}{metric.percent}",
        metric.change_text(row.estimate),
        *tests,
        f"n = {size_text(row.language, row.n)}",
    )


def difference_figure(summary: EvaluationSummary, controls: Sequence[str], *, caption: str) -> Figure:
    """Draw the difference of each language with its interval, sorted, around zero; controls in grey below."""
    metric, order = Metric.of(summary), ranked_languages(summary)
    top = len(order) - 1
    heights = {code: top - place for place, code in enumerate(order)}
    offsets = {PLAN: 0.0}
    if controls:  # from the top of a language's row
        offsets = {arm: 0.28 - 0.56 * place / len(controls) for place, arm in enumerate([PLAN, *controls])}
    styles: dict[str, Style] = {}
    for place, arm in enumerate(controls):
        symbol, sign = list(_SYMBOLS.items())[place % len(_SYMBOLS)]
        styles[f"control {place}"] = Style(_CONTROL, symbol, sign, f"control: {plain(arm)}", 6, 1.0)
    groups = dict(zip(controls, styles, strict=True))
    dots: dict[str, list[Dot]] = {}
    drawn = [row for row in summary.rows() if row.arm in offsets]
    for row in sorted(drawn, key=lambda row: -heights[row.language]):
        kind = "mean" if not row.language else "clear" if row.is_significant else "unclear"
        dot = Dot(row.estimate.scaled(metric.factor), heights[row.language] + offsets[row.arm], _hover(row, metric))
        dots.setdefault(groups.get(row.arm, kind), []).append(dot)
    grey, grey_key = dot_traces(dots, styles)
    blue, key = dot_traces(dots, _LANGUAGES)
    layout = base_layout(_axis_title(metric), "", height=90 + (24 + 9 * len(grey)) * len(order))
    wide, narrow = row_names(order)
    layout["yaxis"].update(
        named_rows(dict(zip(heights.values(), wide, strict=True))), range=[-0.5, top + 0.5], showgrid=False
    )
    layout["xaxis"].update(showgrid=True, **ZERO_LINE)
    layout["shapes"] = stripes(range(top, -1, -2))
    title = f"Change in {metric.name} by language"
    rows = {heights[code]: code for code in order if code}
    return Figure(
        "difference", title, caption, [*grey, *blue], layout, {"yaxis.ticktext": narrow}, [*key, *grey_key], rows
    )


def arms_figure(summary: EvaluationSummary, *, caption: str) -> Figure | None:
    """Draw the overall difference of every arm with its interval, the plan on top; None for the plan alone."""
    if not summary.controls:
        return None
    metric, arms = Metric.of(summary), ordered_arms(summary)
    dots: dict[str, list[Dot]] = {}
    for place, arm in enumerate(arms):
        difference = summary.compared[arm].overall.difference
        kind = PLAN if arm == PLAN else "random" if is_random(arm) else "other"
        text = hover(f"{arm}: {arm_text(arm)}", metric.change_text(difference), f"n = {difference.n:,} languages")
        dots.setdefault(kind, []).append(Dot(difference.scaled(metric.factor), place, text))
    names = {row: f"<b>{PLAN}</b>" if arm == PLAN else plot_text(arm) for row, arm in enumerate(arms)}
    if against := summary.against_random:
        text = hover(AGAINST, metric.change_text(against.difference), f"{against.n_plans} random plans")
        dots.setdefault(PLAN, []).append(Dot(against.difference.scaled(metric.factor), len(arms), text))
        names[len(arms)] = f"<b>{AGAINST}</b>"
    data, key = dot_traces(dots, _ARMS)
    layout = base_layout(_axis_title(metric), "", height=90 + _ROW * len(names))
    layout["xaxis"].update(showgrid=True, **ZERO_LINE)
    layout["yaxis"].update(named_rows(names), range=[len(names) - 0.5, -0.5])
    title = f"Change in mean {metric.name} by arm"
    return Figure("arms", title, caption, data, layout, {"yaxis.tickfont.size": 10}, key)


def dose_figure(summary: EvaluationSummary, *, caption: str) -> Figure | None:
    """Draw the overall difference against the plan's strength, marked by the pivot's guard; None for one strength."""
    metric, doses = Metric.of(summary), summary.dose_response
    if not doses:
        return None
    dots: dict[str, list[Dot]] = {}
    for dose in doses:
        verdict = dose.guard.verdict if dose.guard else ""
        text = hover(
            f"strength {dose.strength:g}",
            metric.change_text(dose.difference),
            f"arm {dose.arm}; guard {verdict or 'not evaluated'}",
            f"n = {dose.difference.n:,} languages",
        )
        dot = Dot(dose.difference.scaled(metric.factor), dose.strength, text)
        dots.setdefault(f"guard {verdict}".strip(), []).append(dot)
    data, key = dot_traces(dots, _GUARDS, upright=True)
    values = [metric.factor * dose.difference.value for dose in doses]
    line = scatter(None, [dose.strength for dose in doses], values, mode="lines", line={"color": LINE, "width": 1.2})
    layout = base_layout("strength", _axis_title(metric), height=320)
    layout["yaxis"].update(ZERO_LINE)
    narrow = {"yaxis.title.text": "steered − baseline"}
    return Figure("dose-response", "Dose and response", caption, [line, *data], layout, narrow, key)
