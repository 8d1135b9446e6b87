"""Whether what helps a language brings its routing closer to the pivot's: gains against changes of divergence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from isogloss.evaluation import PLAN, EvaluationSummary, PivotDistance, is_random
from isogloss.reports.figures import (
    GREY,
    LAYER_AXIS,
    ZERO_LINE,
    Figure,
    Style,
    Table,
    base_layout,
    interval_bars,
    language_styles,
    marked_line,
    ordered_styles,
    scatter,
    translucent,
)
from isogloss.reports.metrics import Metric, arm_text, ordered_arms
from isogloss.reports.text import hover, label, name, number, plain, sampling, with_interval

_RANDOM = "random"
_MOST_CURVES = 4


def distance_blocks(summary: EvaluationSummary) -> list[Figure | Table]:
    """Draw gains against changes of divergence, and the plan's curves before and after; nothing if not measured."""
    if not any(summary.distance.values()):
        return []
    arms = [arm for arm in ordered_arms(summary) if summary.distance.get(arm)]
    curves = [_curves(summary)] if summary.distance.get(PLAN) else []
    return [_gain_figure(summary, arms), *curves, _table(summary, arms)]


def _styles(arms: Sequence[str]) -> dict[str, Style]:
    """Give the plan and other arms a look each, and all random ones one together."""
    others = [arm for arm in arms if not is_random(arm)]
    styles = {arm: replace(style, text=_named(arm)) for arm, style in ordered_styles(others).items()}
    if len(others) < len(arms):
        styles[_RANDOM] = Style(GREY, "circle-open", "○", "random experts (control)", bar=1.2)
    return styles


def _named(arm: str) -> str:
    text = arm_text(arm)
    return text if text == plain(arm) or arm == PLAN else f"{plain(arm)}: {text}"


def _gain_figure(summary: EvaluationSummary, arms: Sequence[str]) -> Figure:
    """Draw one mark for each language and arm."""
    metric, pivot, styles = Metric.of(summary), name(summary.pivot), _styles(arms)
    data: list[dict[str, Any]] = []
    for group, style in reversed(styles.items()):  # the plan above all others
        of_group = [arm for arm in arms if (_RANDOM if is_random(arm) else arm) == group]
        data.append(_gain_trace(summary, of_group, group, style, metric))
    unit = f"gain, {metric.change_unit}{metric.direction}"
    layout = base_layout(f"change of divergence from {pivot}", unit, height=400)
    layout["xaxis"].update(showgrid=True, **ZERO_LINE)
    layout["yaxis"].update(ZERO_LINE)
    every = [each for arm in arms for each in summary.distance[arm].values()]
    caption = (
        f"One mark for each language and arm: gain over the baseline, against the change of how far the language's "
        f"prompts are routed from the same prompts in {pivot} (entropy-normalised divergence, mean over layers; left: "
        f"closer). If what helps brought routing closer to {pivot}, marks further left would lie higher. Bars: 95 % "
        f"intervals, those to the side over the first prompts, "
        f"{sampling([each.change for each in every], 'prompts', 'bootstrap')} Languages that an arm leaves as they are "
        "have no mark."
    )
    title = f"Gain against change of divergence from {pivot}"
    key = [style.entry(group) for group, style in styles.items()]
    return Figure("pivot-distance", title, caption, data, layout, {"yaxis.title.text": "gain"}, key)


def _gain_trace(
    summary: EvaluationSummary, arms: Sequence[str], group: str, style: Style, metric: Metric
) -> dict[str, Any]:
    changes, gains, hovers = [], [], []
    for arm in arms:
        for code, distance in summary.distance[arm].items():
            gain = summary.compared[arm].per_language[code].difference
            changes.append(distance.change)
            gains.append(gain.scaled(metric.factor))
            moved = f"divergence {_move(distance)}: {with_interval(distance.change)}"
            hovers.append(hover(f"{label(code)}, {arm}", metric.change_text(gain), moved))
    faint = translucent(style.colour, 0.35)
    bars = {"error_x": interval_bars(changes, faint, 1.0), "error_y": interval_bars(gains, faint, 1.0)}
    marker = {"symbol": style.symbol, "size": style.size, "color": style.colour, **style.marker}
    x, y = ([each.value for each in estimates] for estimates in (changes, gains))
    return scatter(group, x, y, hovers, mode="markers", marker=marker, **bars)


def _move(distance: PivotDistance) -> str:
    return f"{number(fmean(distance.before))} → {number(fmean(distance.after))}"


def _curves(summary: EvaluationSummary) -> Figure:
    """Draw divergence by layer without the plan and under it, of the languages that it moves most."""
    distances, layers = summary.distance[PLAN], sorted(summary.changed_choices[PLAN])
    ranked = sorted(distances, key=lambda code: -abs(distances[code].change.value))
    styles, pivot = language_styles(ranked[:_MOST_CURVES], None), name(summary.pivot)
    data, key = [], []
    for code, style in styles.items():
        line = {"color": style.colour, "width": 1.4, "dash": "dash"}
        before, after = (
            [
                (at, value, hover(label(code), f"layer {at}, {when}: {number(value)}"))
                for at, value in zip(layers, each, strict=True)
            ]
            for when, each in (("without the plan", distances[code].before), ("under it", distances[code].after))
        )
        data.append(scatter(code, *zip(*before, strict=True), mode="lines", line=line))
        data.append(marked_line(code, after, style, maxdisplayed=16))
        key.append(style.entry(code, label(code)))
    layout = base_layout(LAYER_AXIS, f"divergence from {pivot}", height=360)
    layout["xaxis"]["range"] = [min(layers) - 0.5, max(layers) + 0.5]
    layout["yaxis"].update(rangemode="tozero")
    left = len(distances) - len(styles)
    more = f" Drawn: the {len(styles)} languages that move most; {left} more are in the table." if left else ""
    caption = (
        f"Solid: under the plan; dashed: without it. Mean over {distances[ranked[0]].change.n} prompts of each "
        f"language, no interval; the pivot is under the plan, too, where that applies to it.{more}"
    )
    title = f"Divergence from {pivot}, before (dashed) and after"
    return Figure("pivot-distance-layers", title, caption, data, layout, {"yaxis.title.text": "divergence"}, key)


def _table(summary: EvaluationSummary, arms: Sequence[str]) -> Table:
    metric = Metric.of(summary)
    rows = [
        {
            "arm": plain(arm),
            "language": label(code),
            "gain": metric.change_text(summary.compared[arm].per_language[code].difference),
            "divergence without": number(fmean(distance.before)),
            "with the arm": number(fmean(distance.after)),
            "change": with_interval(distance.change),
        }
        for arm in arms
        for code, distance in summary.distance[arm].items()
    ]
    caption = (
        f"Gain over the baseline; divergence from {name(summary.pivot)}, mean over layers. Brackets: 95 % intervals "
        "over items, and over prompts."
    )
    return Table.of("Gain and divergence: all numbers", caption, rows, words=("language",))
