"""Figures of an evaluation: levels and changes by language, the change by arm, and the response to the dose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle

from isogloss.evaluation import PLAN, EvaluationSummary, SummaryRow, is_random
from isogloss.reports.figures import (
    ACCENT,
    GREY,
    INK,
    LINE,
    ZERO_LINE,
    Dot,
    Figure,
    RowPlot,
    Style,
    base_layout,
    dot_traces,
    language_rows,
    named_rows,
    row_figure,
    scatter,
)
from isogloss.reports.metrics import Metric, arm_text, ordered_arms, ranked_languages
from isogloss.reports.palette import LIGHT
from isogloss.reports.text import counted, hover, label_or_mean, p_value, plain, plot_text, sentence
from isogloss.statistics import Estimate

AGAINST = "plan − random plans"
_CONTROL = LIGHT["control"]
_PLOTTED = 0.72  # of the width of levels; the changes are written in the rest
_SYMBOLS = {"circle-open": "○", "square-open": "□", "diamond-open": "◇", "triangle-up-open": "△", "x": "×"}
_SOLID = {"line": {"width": 1.8, "color": ACCENT}}
_LEVELS = {
    "before": Style(GREY, "circle-open", "○", "without the plan", 9, marker={"line": {"width": 1.8, "color": GREY}}),
    "after": Style(ACCENT, "circle", "●", "with the plan", 9),
}
_LANGUAGES = {
    "mean": Style(ACCENT, "diamond", "◆", "steered, mean over languages", 11, 1.8, marker=_SOLID),
    "clear": Style(ACCENT, "circle", "●", "steered, adjusted p below 0.05", 9, 1.8, marker=_SOLID),
    "unclear": Style(ACCENT, "circle", "○", "steered, otherwise", 9, 1.8, marker={**_SOLID, "color": LIGHT["paper"]}),
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
    return f"{n:,}" if code else counted(n, "language")


def _axis_title(metric: Metric) -> str:
    """Name the axis of differences, with the better direction where it is not plain."""
    return f"steered − baseline, {metric.change_unit}{metric.direction}"


def _hover(row: SummaryRow, metric: Metric) -> str:
    """Write what hovering over an arm in a language, or in their mean, shows."""
    tests = [] if row.p_adjusted is None else [f"p adjusted {p_value(row.p_adjusted)}"]
    return hover(
        label_or_mean(row.language),
        "steered" if row.arm == PLAN else row.arm,
        f"{metric.value(row.baseline)} → {metric.written(row.steered)}",
        metric.change_text(row.estimate),
        *tests,
        f"n = {size_text(row.language, row.n)}",
    )


def level_figure(summary: EvaluationSummary, *, caption: str) -> Figure:
    """Draw both levels of each language, joined, with the change and its interval written beside them."""
    metric, order = Metric.of(summary), ranked_languages(summary)
    dots: list[Dot] = []
    x: list[float | None] = []
    y: list[float | None] = []
    notes = []
    place = {"x": 1, "xref": "paper", "xanchor": "right", "yref": "y", "yanchor": "middle", "showarrow": False}
    for row, code in enumerate(order):
        scores = summary.per_language[code] if code else summary.overall
        levels, change = (scores.baseline, scores.steered), metric.change_text(scores.difference)
        both = f"without {metric.value_text(levels[0])}", f"with {metric.value_text(levels[1])}"
        text = hover(label_or_mean(code), *both, change)
        values = [metric.factor * level.value for level in levels]
        dots += [
            Dot(group, Estimate.without_interval(each, 0), row, text)
            for group, each in zip(_LEVELS, values, strict=True)
        ]
        x += [*values, None]
        y += [row, row, None]
        written = plot_text(scores.difference.text(metric.change))
        notes.append({**place, "y": row, "text": written, "font": {"size": 12, "color": INK}})
    joined = scatter(None, x, y, mode="lines", line={"color": INK, "width": 2})
    unit = f"{metric.name}{metric.percent and ', %'}{metric.direction}"
    axis = {"domain": [0, _PLOTTED], **({"range": [-2, 102]} if metric.is_share else {})}
    title = f"{sentence(metric.name)} by language, without and with the plan"
    plot = RowPlot("levels", title, caption, unit, language_rows(order), dots, _LEVELS, axis, height=24)
    figure = row_figure(plot, below=[joined])
    layout = {**figure.layout, "annotations": notes}
    return replace(figure, layout=layout, narrow={**figure.narrow, "xaxis.domain": [0, 0.5]})


def difference_figure(summary: EvaluationSummary, controls: Sequence[str], *, caption: str) -> Figure:
    """Draw the difference of each language with its interval, sorted, around zero; controls in grey below."""
    metric, order = Metric.of(summary), ranked_languages(summary)
    offsets = {PLAN: 0.0}
    if controls:  # from the top of a language's row
        offsets = {arm: 0.56 * place / len(controls) - 0.28 for place, arm in enumerate([PLAN, *controls])}
    looks = zip(controls, cycle(_SYMBOLS.items()), strict=False)
    greys = {f"control: {arm}": Style(_CONTROL, *look, f"control: {plain(arm)}", 6, 1.0) for arm, look in looks}

    def group(row: SummaryRow) -> str:
        kind = "mean" if not row.language else "clear" if row.is_significant else "unclear"
        return kind if row.arm == PLAN else f"control: {row.arm}"

    drawn = sorted((row for row in summary.rows() if row.arm in offsets), key=lambda row: order.index(row.language))
    places = [order.index(row.language) + offsets[row.arm] for row in drawn]
    dots = [
        Dot(group(row), row.estimate.scaled(metric.factor), place, _hover(row, metric))
        for row, place in zip(drawn, places, strict=True)
    ]
    title, n_grey = f"Change in {metric.name} by language", len({dot.group for dot in dots} & set(greys))
    unit, rows, styles = _axis_title(metric), language_rows(order), {**greys, **_LANGUAGES}
    figure = row_figure(RowPlot("difference", title, caption, unit, rows, dots, styles, height=24 + 9 * n_grey))
    return replace(figure, key=[*figure.key[n_grey:], *figure.key[:n_grey]])


def arms_figure(summary: EvaluationSummary, *, caption: str) -> Figure | None:
    """Draw the overall difference of every arm with its interval, the plan on top; None for the plan alone."""
    if not summary.controls:
        return None
    metric, arms, dots = Metric.of(summary), ordered_arms(summary), []
    for place, arm in enumerate(arms):
        difference = summary.compared[arm].overall.difference
        kind = PLAN if arm == PLAN else "random" if is_random(arm) else "other"
        text = hover(f"{arm}: {arm_text(arm)}", metric.change_text(difference), f"n = {difference.n:,} languages")
        dots.append(Dot(kind, difference.scaled(metric.factor), place, text))
    if against := summary.against_random:
        text = hover(AGAINST, metric.change_text(against.difference), f"{against.n_plans} random plans")
        dots.append(Dot(PLAN, against.difference.scaled(metric.factor), len(arms), text))
    rows = named_rows([*arms, *([AGAINST] if against else [])], bold=(PLAN, AGAINST))
    title = f"Change in mean {metric.name} by arm"
    return row_figure(RowPlot("arms", title, caption, _axis_title(metric), rows, dots, _ARMS, height=26))


def dose_figure(summary: EvaluationSummary, *, caption: str) -> Figure | None:
    """Draw the overall difference against the plan's strength, marked by the pivot's guard; None for one strength."""
    metric, doses = Metric.of(summary), summary.dose_response
    if not doses:
        return None
    dots = []
    for dose in doses:
        verdict = dose.guard.verdict if dose.guard else ""
        text = hover(
            f"strength {dose.strength:g}",
            metric.change_text(dose.difference),
            f"arm {dose.arm}; guard {verdict or 'not evaluated'}",
            f"n = {dose.difference.n:,} languages",
        )
        dots.append(Dot(f"guard {verdict}".strip(), dose.difference.scaled(metric.factor), dose.strength, text))
    data, key = dot_traces(dots, _GUARDS, upright=True)
    values = [metric.factor * dose.difference.value for dose in doses]
    line = scatter(None, [dose.strength for dose in doses], values, mode="lines", line={"color": LINE, "width": 1.2})
    layout = base_layout("strength", _axis_title(metric), height=320)
    layout["yaxis"].update(ZERO_LINE)
    narrow = {"yaxis.title.text": "steered − baseline"}
    return Figure("dose-response", "Dose and response", caption, [line, *data], layout, narrow, key)
