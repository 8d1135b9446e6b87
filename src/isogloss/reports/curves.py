"""Curves over decoder layers: one line, one band and one row of a table per group, such as a language."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from statistics import fmean
from typing import Any

from isogloss.analysis import Analysis, LayerCorrelation, MiddleLayers, measures
from isogloss.reports.figures import (
    GREY,
    INK,
    LAYER_AXIS,
    MAX_COLOURS,
    SHADE,
    ZERO_LINE,
    Figure,
    KeyEntry,
    Style,
    Table,
    base_layout,
    language_styles,
    scatter,
    translucent,
)
from isogloss.reports.text import (
    MISSING,
    cell,
    hover,
    interval_text,
    label,
    number,
    plain,
    plot_text,
    sample_size,
    spread,
    with_interval,
)
from isogloss.statistics import Estimate

Lines = Mapping[str, Mapping[int, Estimate]]
"""Curves by group, then by decoder layer."""

FROM_ZERO = {"rangemode": "tozero"}
_OTHERS = "others"
_MEAN = "mean over languages"
_MARKERS = 16
_EXTREMES = 3
_PLOT_HEIGHT = 328
_COEFFICIENTS = ("Pearson", "Spearman", "Pearson, any one language left out")


@dataclass(frozen=True)
class LinePlot:
    """What a figure of curves shows; anchor, title, caption and half are those of the `Figure`."""

    anchor: str
    title: str
    caption: str
    unit: str
    curves: Lines
    styles: Mapping[str, Style] = field(default_factory=dict)  # other groups are thin and grey, without bands
    middle: MiddleLayers | None = None  # layers to shade
    mean: Mapping[int, Estimate] = field(default_factory=dict)  # over the groups, drawn thick
    reference: Mapping[int, float] = field(default_factory=dict)  # one dashed curve
    reference_text: str = ""
    half: bool = False
    axis: Mapping[str, Any] = field(default_factory=lambda: FROM_ZERO)  # changes to the vertical axis


def curves_of(analysis: Analysis, measure: str) -> dict[str, dict[int, Estimate]]:
    """Return a measure of the tidy table ``curves`` by language, in the order of their codes."""
    curves = sorted(measures(analysis)[measure].items())
    return {code: dict(zip(analysis.layers, points, strict=False)) for code, points in curves}


def all_points(curves: Lines) -> list[Estimate]:
    """List every point of some curves."""
    return [point for curve in curves.values() for point in curve.values()]


def curves_text(analysis: Analysis, curves: Lines) -> str:
    """State n and intervals of some curves, as `interval_text` does."""
    settings = vars(analysis.resampling)
    return interval_text(all_points(curves), settings, pooled=analysis.is_pooled, unit="parallel items")


def mean_curve(curves: Iterable[Mapping[int, Estimate]]) -> dict[int, float]:
    """Average curves layer by layer, over those that have a value there; layers increase."""
    values: dict[int, list[float]] = {}
    for curve in curves:
        for layer, point in curve.items():
            if point.is_known:
                values.setdefault(layer, []).append(point.value)
    return {layer: fmean(each) for layer, each in sorted(values.items())}


def mean_divergence(analysis: Analysis) -> dict[int, Estimate]:
    """Average divergence over languages, layer by layer, with the interval of the mean where the analysis has one."""
    if analysis.translations:
        return dict(zip(analysis.layers, analysis.translations.divergence, strict=False))
    curves = curves_of(analysis, "divergence")
    return {at: Estimate.without_interval(value, len(curves)) for at, value in mean_curve(curves.values()).items()}


def ranked(curves: Lines, layers: Collection[int]) -> list[str]:
    """Rank groups from the lowest to the highest mean over some layers; those without a value count as zero."""

    def height(code: str) -> tuple[float, str]:
        known = [point.value for at, point in curves[code].items() if at in layers and point.is_known]
        return fmean(known) if known else 0.0, code

    return sorted(curves, key=height)


def highlighted(curves: Lines, layers: Collection[int]) -> list[str]:
    """Choose the languages to be drawn in colour: all of at most eight, else the three highest and three lowest."""
    order = ranked(curves, layers)
    return order if len(order) <= MAX_COLOURS else [*order[:_EXTREMES], *order[-_EXTREMES:]]


def _points(code: str, curve: Mapping[int, Estimate]) -> dict[str, Any]:
    """Return a trace through the points of a curve, with what hovering shows and the ends of their intervals."""
    hovers = [hover(label(code), f"layer {at}: {with_interval(each)}", f"n = {each.n:,}") for at, each in curve.items()]
    ends = [[point.low, point.high] for point in curve.values()]
    return scatter(code, curve, [point.value for point in curve.values()], hovers, mode="lines", customdata=ends)


def _line(code: str, curve: Mapping[int, Estimate], style: Style) -> dict[str, Any]:
    look = {"symbol": style.symbol, "size": 7, "color": style.colour, "maxdisplayed": _MARKERS}
    line = {"color": style.colour, "width": 1.8}
    return {
        **_points(code, curve),
        "mode": "lines+markers",
        "name": plot_text(label(code)),
        "line": line,
        "marker": look,
    }


def _band(code: str, curve: Mapping[int, Estimate], style: Style) -> Iterator[dict[str, Any]]:
    """Outline the intervals; layers without one break the band."""
    x: list[int | None] = []
    y: list[float | None] = []
    for known, run in groupby(curve.items(), key=lambda pair: pair[1].has_interval):
        if known:
            layers, points = zip(*run, strict=True)
            x += [*layers, *reversed(layers), None]
            y += [*(point.low for point in points), *(point.high for point in reversed(points)), None]
    if x:
        look = {"fill": "toself", "fillcolor": translucent(style.colour, 0.16)}
        yield scatter(code, x[:-1], y[:-1], mode="lines", line={"width": 0, "color": style.colour}, **look)


def _reference(plot: LinePlot) -> dict[str, Any]:
    hovers = [hover("", plot.reference_text, f"layer {at}: {number(value)}") for at, value in plot.reference.items()]
    line = {"color": INK, "width": 1.4, "dash": "dash"}
    return scatter("reference", plot.reference, plot.reference.values(), hovers, mode="lines", line=line)


def middle_marks(
    middle: MiddleLayers | None, *, plot_height: int = _PLOT_HEIGHT
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Shade the middle layers, and mark above them where each edge falls over resamples: shapes and annotations."""
    if middle is None:
        return [], []
    start, end, pixel = middle.start, middle.end, 1 / plot_height
    frame = {"type": "rect", "xref": "x", "yref": "paper", "layer": "below", "line": {"width": 0}}
    shapes = [{**frame, "x0": start - 0.5, "x1": end + 0.5, "y0": 0, "y1": 1, "fillcolor": SHADE}]
    for span, side in ((middle.start_interval, -0.5), (middle.end_interval, 0.5)):
        if span and span[0] != span[1]:
            ends = {"x0": span[0] + side, "x1": span[1] + side, "y0": 1 - 2.5 * pixel, "y1": 1 + 2.5 * pixel}
            shapes.append({**frame, **ends, "layer": "above", "fillcolor": GREY})
    place = {"x": (start + end) / 2, "y": 1 + 5 * pixel, "xref": "x", "yref": "paper", "yanchor": "bottom"}
    text = f"{'middle layers' if middle.is_u_shape else 'no middle; best fit'} {start}–{end}"
    return shapes, [{**place, "showarrow": False, "text": text, "font": {"size": 12, "color": GREY}}]


def curve_figure(plot: LinePlot) -> Figure:
    """Draw one line per group with its band; those without a style thin and grey, the mean over all thick."""
    styled = [(code, curve, plot.styles[code]) for code, curve in plot.curves.items() if code in plot.styles]
    thin = {"line": {"color": translucent(GREY, 0.5), "width": 1}, "legendgroup": _OTHERS}
    data = [{**_points(code, curve), **thin} for code, curve in plot.curves.items() if code not in plot.styles]
    key = [style.entry(code, label(code)) for code, _, style in styled]
    if data:
        key.append(KeyEntry(f"{len(data)} other languages", "—", GREY, _OTHERS))
    data += [band for each in styled for band in _band(*each)]
    if plot.reference:
        data.append(_reference(plot))
        key.append(KeyEntry(plot.reference_text, "- -", INK, "reference"))
    data += [_line(*each) for each in styled]
    if plot.mean:
        data += [
            *_band(_MEAN, plot.mean, Style(INK)),
            {**_points(_MEAN, plot.mean), "line": {"color": INK, "width": 3.2}},
        ]
        key.insert(0, KeyEntry(_MEAN, "━", INK, _MEAN))
    layout = base_layout(LAYER_AXIS, plot.unit, height=280 if plot.half else 400)
    layout["shapes"], layout["annotations"] = middle_marks(plot.middle)
    layers = [layer for curve in plot.curves.values() for layer in curve]
    layout["xaxis"]["range"] = [min(layers, default=0) - 0.5, max(layers, default=0) + 0.5]
    layout["yaxis"].update(plot.axis)
    return Figure(plot.anchor, plot.title, plot.caption, data, layout, key=key, half=plot.half)


def curve_table(curves: Lines, title: str, caption: str) -> Table:
    """List every point of the curves with its interval: groups downwards, layers to the right; folded."""
    layers = sorted({layer for curve in curves.values() for layer in curve})
    rows = [
        (label(code), *(cell(curve[at]) if at in curve else MISSING for at in layers)) for code, curve in curves.items()
    ]
    return Table(title, caption, ("language", *map(str, layers)), rows)


def curve_blocks(analysis: Analysis, plot: LinePlot) -> tuple[Figure, Table]:
    """Draw curves by language and list their numbers; without styles the highest and lowest are in colour."""
    table = curve_table(
        plot.curves, plot.title.replace(" by layer", ": all numbers"), f"{plot.caption} Columns are decoder layers."
    )
    if not plot.styles:
        styles = language_styles(highlighted(plot.curves, analysis.layers), analysis.pivot)
        many = " In colour: the three highest and the three lowest means." if len(plot.curves) > MAX_COLOURS else ""
        plot = replace(plot, styles=styles, caption=f"{plot.caption}{many}")
    return curve_figure(plot), table


def paired_blocks(analysis: Analysis, plots: Iterable[LinePlot]) -> tuple[list[Figure], list[Table]]:
    """Draw the plots that have curves, at half width where there are several, and list their numbers."""
    shown = [plot for plot in plots if plot.curves]
    blocks = [curve_blocks(analysis, replace(plot, half=len(shown) > 1)) for plot in shown]
    return [figure for figure, _ in blocks], [table for _, table in blocks]


def _coefficients(correlation: LayerCorrelation) -> tuple[str, str, str]:
    coefficients = with_interval(correlation.pearson), with_interval(correlation.spearman)
    return *coefficients, spread(correlation.leave_one_out)


def correlation_blocks(
    analysis: Analysis, correlations: Sequence[LayerCorrelation], *, anchor: str, titles: tuple[str, str], caption: str
) -> tuple[Figure, Table]:
    """Draw Pearson's coefficient of every layer, and list both coefficients; the titles are of figure and table."""
    by_layer = dict(zip(analysis.layers, correlations, strict=False))
    plot = LinePlot(
        anchor,
        titles[0],
        caption,
        "Pearson r",
        {"pearson": {at: each.pearson for at, each in by_layer.items()}},
        {"pearson": Style(INK)},
        analysis.middle_layers,
        axis={"range": [-1.05, 1.05], **ZERO_LINE},
    )
    rows = [(f"layer {at}", *_coefficients(each)) for at, each in by_layer.items()]
    return curve_figure(plot), Table(titles[1], caption, ("layer", *_COEFFICIENTS), rows)


def correlations_table(rows: Mapping[str, LayerCorrelation], *, title: str, caption: str, first: str) -> Table:
    """List correlations under their headings, with n and how far one language moves them."""
    cells = [
        (plain(heading), sample_size([each.pearson.n]).removeprefix("n = "), *_coefficients(each))
        for heading, each in rows.items()
    ]
    how = "n: languages. Intervals: 95 %, by Fisher's transformation."
    return Table(title, f"{caption} {how}", (first, "n", *_COEFFICIENTS), cells, folded=False)
