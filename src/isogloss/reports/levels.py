"""Scores without and with a plan as levels, language by language, each with its change beside it."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan

from isogloss.evaluation import Comparison, PairedScores
from isogloss.reports.effect_figures import OVERALL, row_names
from isogloss.reports.figures import ACCENT, GREY, INK, Dot, Figure, Style, dot_traces, scatter, striped_rows
from isogloss.reports.metrics import Metric
from isogloss.reports.text import hover, label, plot_text, sentence
from isogloss.statistics import Estimate

__all__ = ["level_figure"]

_STYLES = {
    "before": Style(GREY, "circle-open", "○", "without the plan", 9, marker={"line": {"width": 1.8, "color": GREY}}),
    "after": Style(ACCENT, "circle", "●", "with the plan", 9),
}
_ROW = 24
_LEVELS = 0.72  # of the width; the changes are written in the rest


def level_figure(comparison: Comparison, order: Sequence[str], metric: Metric, *, caption: str) -> Figure:
    """Draw both levels of each language, joined, with the change and its interval written beside them.

    Args:
        comparison: of the plan with the baseline.
        order: languages from the top; an empty one is the mean over them.
        metric: how scores are written.
        caption: of the figure.
    """
    dots: dict[str, list[Dot]] = {"before": [], "after": []}
    x: list[float | None] = []
    y: list[float | None] = []
    notes = []
    for row, code in enumerate(order):
        scores: PairedScores = comparison.per_language[code] if code else comparison.overall
        levels = [each.scaled(metric.factor) for each in (scores.baseline, scores.steered)]
        change = metric.change_text(scores.difference)
        text = hover(
            label(code) if code else OVERALL,
            f"without {metric.value_text(scores.baseline)}",
            f"with {metric.value_text(scores.steered)}",
            change,
        )
        for group, level in zip(dots, levels, strict=True):
            dots[group].append(Dot(Estimate(level.value, nan, nan, level.n), row, text))
        x += [levels[0].value, levels[1].value, None]
        y += [row, row, None]
        notes.append(_note(row, change))
    line = scatter(None, x, y, mode="lines", line={"color": INK, "width": 2})
    data, key = dot_traces(dots, _STYLES)
    unit = f"{metric.name}{metric.percent and ', %'}{metric.direction}"
    wide, short = row_names(order)
    shares = {"range": [-2, 102]} if metric.is_share else {}
    layout = striped_rows(wide, plot_text(unit), height=90 + _ROW * len(order), domain=[0, _LEVELS], **shares)
    layout["annotations"] = notes
    narrow = {"yaxis.ticktext": short, "xaxis.domain": [0, 0.5]}
    title = f"{sentence(metric.name)} by language, without and with the plan"
    rows = {row: code for row, code in enumerate(order) if code}
    return Figure("levels", title, caption, [line, *data], layout, narrow, key, rows)


def _note(row: int, change: str) -> dict[str, object]:
    place = {"x": 1, "xref": "paper", "xanchor": "right", "y": row, "yref": "y", "yanchor": "middle"}
    return {**place, "text": plot_text(change), "showarrow": False, "font": {"size": 12, "color": INK}}
