"""Curves over decoder layers: one line, one band and one row of a table per group, such as a language."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import groupby
from math import isnan
from statistics import fmean
from typing import TYPE_CHECKING, Any

from isogloss.analysis.tables import measures
from isogloss.reports.captions import interval_text
from isogloss.reports.figures import (
    GREY,
    INK,
    MAX_COLOURS,
    Figure,
    KeyEntry,
    Style,
    Table,
    base_layout,
    language_styles,
    translucent,
)
from isogloss.reports.text import label, number, plot_text, with_interval

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from isogloss.analysis import Analysis, Estimate, MiddleLayers

__all__ = [
    "LAYER_AXIS",
    "Curves",
    "LinePlot",
    "all_points",
    "curve_blocks",
    "curve_figure",
    "curve_table",
    "curves_of",
    "heights",
    "highlighted",
    "mean_curve",
    "middle_marks",
    "sampling",
    "scatter",
]

Curves = dict[str, dict[int, "Estimate"]]
"""By group, then by decoder layer."""

LAYER_AXIS = "decoder layer (0-based)"
_OTHERS = "others"
_MARKERS = 16
_EXTREMES = 3
_PLOT_HEIGHT = 328


@dataclass(frozen=True)
class LinePlot:
    """What a figure of curves is to say.

    Attributes:
        anchor: id in the page.
        title: what is shown.
        caption: measure, n and interval level.
        unit: title of the vertical axis.
        reference: one dashed curve, by layer.
        reference_text: what the dashed curve is.
        half: two of these stand side by side.
        from_zero: the vertical axis starts at zero.
        limits: of the vertical axis; by default those of the data. Where they are given, zero is marked.
    """

    anchor: str
    title: str
    caption: str
    unit: str
    reference: Mapping[int, float] = field(default_factory=dict)
    reference_text: str = ""
    half: bool = False
    from_zero: bool = True
    limits: tuple[float, float] | None = None


def curves_of(analysis: Analysis, measure: str) -> Curves:
    """Return a measure of the tidy table ``curves`` by language, in the order of their codes."""
    curves = sorted(measures(analysis)[measure].items())
    return {code: dict(zip(analysis.layers, points, strict=False)) for code, points in curves}


def all_points(curves: Curves) -> Iterator[Estimate]:
    """Yield every point of some curves."""
    return (point for curve in curves.values() for point in curve.values())


def sampling(analysis: Analysis, curves: Curves) -> str:
    """State n and intervals of some curves, as `interval_text` does."""
    settings = vars(analysis.resampling)
    return interval_text(all_points(curves), settings, pooled=analysis.is_pooled, unit="parallel items")


def mean_curve(curves: Iterable[Mapping[int, Estimate]]) -> dict[int, float]:
    """Average curves layer by layer, over those that have a value there; layers increase."""
    values: dict[int, list[float]] = {}
    for curve in curves:
        for layer, point in curve.items():
            if not isnan(point.value):
                values.setdefault(layer, []).append(point.value)
    return {layer: fmean(each) for layer, each in sorted(values.items())}


def heights(curves: Curves, layers: Collection[int]) -> list[str]:
    """Rank groups from the lowest to the highest mean over some layers; those without a value count as zero."""
    means = {
        code: mean_curve([{at: point for at, point in curve.items() if at in layers}]) for code, curve in curves.items()
    }
    return sorted(curves, key=lambda code: (fmean(means[code].values()) if means[code] else 0.0, code))


def highlighted(curves: Curves, layers: Collection[int]) -> tuple[str, ...]:
    """Choose the languages to be drawn in colour: all of at most eight, else the three highest and three lowest."""
    if len(curves) <= MAX_COLOURS:
        return tuple(sorted(curves))
    ranked = heights(curves, layers)
    return tuple(sorted({*ranked[:_EXTREMES], *ranked[-_EXTREMES:]}))


def scatter(
    group: str | None, x: Iterable[object], y: Iterable[object], hover: Iterable[str] | None = None, **look: object
) -> dict[str, Any]:
    """Return a trace of lines or markers; ``group`` is what the key hides and shows, and None in ``y`` is a gap."""
    told = {"hoverinfo": "skip"} if hover is None else {"hovertext": list(hover), "hoverinfo": "text"}
    return {"type": "scatter", "meta": group, "x": list(x), "y": list(y), **told, **look}


def _hover(code: str, curve: Mapping[int, Estimate]) -> list[str]:
    title = plot_text(label(code))
    return [
        f"<b>{title}</b><br>layer {layer}: {plot_text(with_interval(point))}<br>n = {point.n:,}"
        for layer, point in curve.items()
    ]


def _line(code: str, curve: Mapping[int, Estimate], style: Style) -> dict[str, Any]:
    return scatter(
        code,
        curve,
        [point.value for point in curve.values()],
        _hover(code, curve),
        mode="lines+markers",
        name=plot_text(label(code)),
        line={"color": style.colour, "width": 1.8},
        marker={"symbol": style.symbol, "size": 7, "color": style.colour, "maxdisplayed": _MARKERS},
    )


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


def _others(curves: Curves) -> dict[str, Any]:
    """Draw all groups without a colour as one trace of thin grey lines."""
    x: list[int | None] = []
    y: list[float | None] = []
    hover: list[str] = []
    for code, curve in curves.items():
        x += [*curve, None]
        y += [*(point.value for point in curve.values()), None]
        hover += [*_hover(code, curve), ""]
    return scatter(_OTHERS, x, y, hover, mode="lines", line={"color": translucent(GREY, 0.32), "width": 1})


def _reference(plot: LinePlot) -> dict[str, Any]:
    text = plot_text(plot.reference_text)
    hover = [f"{text}<br>layer {layer}: {number(value)}" for layer, value in plot.reference.items()]
    line = {"color": INK, "width": 1.4, "dash": "dash"}
    return scatter("reference", plot.reference, plot.reference.values(), hover, mode="lines", line=line)


def middle_marks(
    middle: MiddleLayers | None, *, plot_height: int = _PLOT_HEIGHT
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Shade the middle layers, and mark above them where each edge falls over resamples.

    Args:
        middle: None for no marks.
        plot_height: of the plot without its margins, in pixels.

    Returns:
        Plotly shapes and annotations.
    """
    if middle is None:
        return [], []
    start, end, pixel = middle.start, middle.end, 1 / plot_height
    frame = {"type": "rect", "xref": "x", "yref": "paper", "layer": "below", "line": {"width": 0}}
    shapes = [{**frame, "x0": start - 0.5, "x1": end + 0.5, "y0": 0, "y1": 1, "fillcolor": "#f0f2f4"}]
    for span, side in ((middle.start_interval, -0.5), (middle.end_interval, 0.5)):
        if span and span[0] != span[1]:
            ends = {"x0": span[0] + side, "x1": span[1] + side, "y0": 1 - 2.5 * pixel, "y1": 1 + 2.5 * pixel}
            shapes.append({**frame, **ends, "layer": "above", "fillcolor": GREY})
    place = {"x": (start + end) / 2, "y": 1 + 5 * pixel, "xref": "x", "yref": "paper", "yanchor": "bottom"}
    note = {**place, "showarrow": False, "text": f"middle layers {start}–{end}"}
    return shapes, [{**note, "font": {"size": 12, "color": GREY}}]


def _key(plot: LinePlot, curves: Curves, styles: Mapping[str, Style]) -> Iterator[KeyEntry]:
    coloured = [code for code in curves if code in styles]
    yield from (KeyEntry(label(code), styles[code].sign, styles[code].colour, code) for code in coloured)
    if rest := len(curves) - len(coloured):
        yield KeyEntry(f"{rest} other languages", "—", GREY, _OTHERS)
    if plot.reference:
        yield KeyEntry(plot.reference_text, "- -", INK, "reference")


def curve_figure(
    plot: LinePlot, curves: Curves, styles: Mapping[str, Style], *, middle: MiddleLayers | None = None
) -> Figure:
    """Draw one line per group, with its band; groups without a style are thin and grey.

    Args:
        plot: what the figure is to say.
        curves: by group.
        styles: of the groups drawn in colour.
        middle: layers to shade.
    """
    coloured = {code: curve for code, curve in curves.items() if code in styles}
    others = {code: curve for code, curve in curves.items() if code not in styles}
    data = [_others(others)] if others else []
    data += [band for code, curve in coloured.items() for band in _band(code, curve, styles[code])]
    data += [_reference(plot)] if plot.reference else []
    data += [_line(code, curve, styles[code]) for code, curve in coloured.items()]
    layout = base_layout(LAYER_AXIS, plot.unit, height=280 if plot.half else 400)
    layout["shapes"], layout["annotations"] = middle_marks(middle)
    layers = [layer for curve in curves.values() for layer in curve]
    layout["xaxis"]["range"] = [min(layers, default=0) - 0.5, max(layers, default=0) + 0.5]
    if plot.limits:
        layout["yaxis"].update(range=list(plot.limits), zeroline=True, zerolinecolor=INK, zerolinewidth=1)
    elif plot.from_zero:
        layout["yaxis"]["rangemode"] = "tozero"
    key = tuple(_key(plot, curves, styles))
    return Figure(plot.anchor, plot.title, plot.caption, data, layout, key=key, half=plot.half)


def curve_table(curves: Curves, title: str, caption: str) -> Table:
    """List every point of the curves with its interval: groups downwards, layers to the right; folded."""
    layers = sorted({layer for curve in curves.values() for layer in curve})
    rows = [
        (label(code), *(with_interval(curve[at]).replace(" [", "\n[") if at in curve else "–" for at in layers))
        for code, curve in curves.items()
    ]
    return Table(title, caption, ("language", *map(str, layers)), tuple(rows), folded=True)


def curve_blocks(
    analysis: Analysis, plot: LinePlot, curves: Curves, styles: Mapping[str, Style] | None = None
) -> tuple[Figure, Table]:
    """Draw curves by language and list their numbers.

    Args:
        analysis: that the curves are of.
        plot: what the figure is to say; its caption is the table's too.
        curves: by language.
        styles: by default of the highest and lowest, which the caption then says.
    """
    caption = plot.caption
    if styles is None:
        styles = language_styles(highlighted(curves, analysis.layers), analysis.pivot)
        many = len(curves) > MAX_COLOURS
        caption += " In colour: the three highest and the three lowest means." if many else ""
    title = plot.title.replace(" by layer", ": all numbers")
    table = curve_table(curves, title, f"{plot.caption} Columns are decoder layers.")
    return curve_figure(replace(plot, caption=caption), curves, styles), table
