"""Heat maps: languages by layers, and languages by languages beside the tree that joins them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isnan
from typing import Any

from isogloss.analysis import BandPairs, LanguageTree, MiddleLayers
from isogloss.reports.curves import LinePlot, ranked
from isogloss.reports.figures import (
    INK,
    LAYER_AXIS,
    Figure,
    RowScale,
    base_layout,
    language_rows,
    row_axis,
    row_scale,
    scatter,
)
from isogloss.reports.text import hover, label, plot_text, with_interval

# One hue, light to dark: safe for every colour vision, and in grey print.
_HUE = ("#f2f6fa", "#c0d8ea", "#74add1", "#2f74ae", "#0b2f5e")
DARK_HIGH, DARK_LOW = ([[place / 4, each] for place, each in enumerate(hue)] for hue in (_HUE, _HUE[::-1]))
_SIDE_BY_SIDE = 8
_ROOMY = 16
NAMED_COLUMNS = 30
DIVERGENCE = "divergence (dark: routed alike)"
_DIGITS = 4
_HEAT_WIDTH = 0.74

Cells = Sequence[Sequence[float | None]]


def known_values(rows: Iterable[Iterable[float | None]]) -> list[float]:
    """List the values of all cells that have one."""
    return [value for row in rows for value in row if value is not None and not isnan(value)]


def heat_map(x: Sequence[object], y: Sequence[object], z: Cells, unit: str, **look: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    """Return the trace of a heat map whose colour scale lies above its right half; ``look`` is plotly's."""
    place = {"x": 1, "xanchor": "right", "y": 1, "yanchor": "bottom", "orientation": "h", "len": 0.5, "thickness": 10}
    bar = {**place, "title": {"text": plot_text(unit), "side": "top"}, **look.pop("bar", {})}
    known, info = known_values(z), {"hoverinfo": "text"} if "hovertext" in look else {}
    ends = {"zmin": min(known, default=0), "zmax": max(known, default=1)}
    colours = {"hoverongaps": False, "colorscale": DARK_HIGH, "colorbar": bar, **ends}
    return {"type": "heatmap", "x": list(x), "y": list(y), "z": z, **colours, **info, **look}


def edges(middle: MiddleLayers | None) -> list[dict[str, Any]]:
    """Draw vertical lines around the middle layers."""
    if middle is None:
        return []
    line = {"type": "line", "xref": "x", "yref": "paper", "y0": 0, "y1": 1, "line": {"color": INK, "width": 1.2}}
    return [{**line, "x0": edge, "x1": edge} for edge in (middle.start - 0.5, middle.end + 0.5)]


def language_map(plot: LinePlot) -> Figure:
    """Draw curves as a map of languages, ordered by their mean over the middle layers or all, by layers."""
    curves, middle = plot.curves, plot.middle
    layers = sorted({layer for curve in curves.values() for layer in curve})
    codes = ranked(curves, range(middle.start, middle.end + 1) if middle else layers)
    points = [[curves[code].get(layer) for layer in layers] for code in codes]
    hovers = [
        [
            hover(label(code), f"layer {at}: {with_interval(each)}") if each else ""
            for at, each in zip(layers, row, strict=True)
        ]
        for code, row in zip(codes, points, strict=True)
    ]
    values = [[None if point is None else point.value for point in row] for row in points]
    height = 19 if len(codes) <= 40 else 15 if len(codes) <= 90 else 12  # noqa: PLR2004 - comfortable, crowded, dense
    layout = base_layout(LAYER_AXIS, "", height=130 + height * len(codes))
    layout["margin"]["t"] = 40
    axis, narrow = row_axis(language_rows(codes), min(12, height - 3))
    layout["yaxis"].update(axis, range=[-0.5, len(codes) - 0.5])
    layout["xaxis"]["range"] = [layers[0] - 0.5, layers[-1] + 0.5]
    layout["shapes"] = edges(middle)
    trace = heat_map(layers, range(len(codes)), values, DIVERGENCE, hovertext=hovers, zmin=0, colorscale=DARK_LOW)
    return Figure(plot.anchor, plot.title, plot.caption, [trace], layout, narrow, rows=dict(enumerate(codes)))


def branches(linkage: Sequence[Sequence[float]]) -> tuple[list[float | None], list[float | None]]:
    """Draw a tree as lines from scipy's linkage ``[n - 1][4]`` over leaves that are in the order of the tree.

    Returns:
        Heights and places of the lines' corners, the leaves at 0, 1, …; None between lines.
    """
    n = len(linkage) + 1
    tops: list[float] = [0.0] * n
    places: list[float] = [float(leaf) for leaf in range(n)]
    x: list[float | None] = []
    y: list[float | None] = []
    for first, second, height, _ in linkage:
        one, other = int(first), int(second)
        x += [tops[one], height, height, tops[other], None]
        y += [places[one], places[one], places[other], places[other], None]
        tops.append(height)
        places.append((places[one] + places[other]) / 2)
    return x[:-1], y[:-1]


def _columns(order: Sequence[str], scale: RowScale) -> dict[str, Any]:
    """Label the columns with codes where there is room; elsewhere the rows give the same order."""
    if len(order) > NAMED_COLUMNS:
        return {"showticklabels": False, "ticks": ""}
    texts = [plot_text(code) for code in order]
    ticks = {"tickmode": "array", "tickvals": list(range(len(order))), "ticktext": texts, "ticks": ""}
    return {**ticks, "tickangle": -90, "tickfont": {"size": min(10, scale.font)}}


def _add_tree(layout: dict[str, Any], data: list[dict[str, Any]], linkage: list[list[float]]) -> None:
    """Put the tree to the right of the heat map, its leaves against the rows."""
    line = {"color": INK, "width": 1.1}
    data.append(scatter(None, *branches(linkage), mode="lines", xaxis="x2", yaxis="y2", line=line))
    bare = base_layout("", "", height=1)
    ends, end = [_HEAT_WIDTH + 0.02, 1], 1.04 * linkage[-1][2] or 1
    layout["xaxis2"] = {
        **bare["xaxis"],
        "domain": ends,
        "anchor": "y2",
        "range": [0, end],
        "tickfont": {"size": 10},
        "nticks": 3,
    }
    hidden = {"showgrid": False, "showline": False, "showticklabels": False, "ticks": ""}
    layout["yaxis2"] = {**bare["yaxis"], **hidden, "range": [len(linkage) + 0.5, -0.5], "anchor": "x2"}
    layout["xaxis"]["domain"] = [0, _HEAT_WIDTH]


def tree_figure(
    pairs: BandPairs, band: str, tree: LanguageTree | None, *, anchor: str, title: str, caption: str
) -> Figure:
    """Draw the divergences of every two languages in a band, dark where near, beside the tree that joins them."""
    order = list(tree.languages if tree else pairs.languages)
    places = [pairs.languages.index(code) for code in order]
    distances, names = pairs.bands[band].tolist(), [plot_text(label(code)) for code in order]
    rows = [
        # four digits are enough for a colour, and a page of 200 languages stays light
        [None if one == other else float(f"{distances[one][other]:.{_DIGITS}g}") for other in places]
        for one in places
    ]
    n, scale, bar = len(order), row_scale(len(order)), {"x": _HEAT_WIDTH if tree else 1, "len": 0.55}
    hovers = "<b>%{y}</b><br><b>%{x}</b><br>divergence %{z:.3f}<extra></extra>"
    data = [heat_map(names, names, rows, DIVERGENCE, bar=bar, hovertemplate=hovers, colorscale=DARK_LOW)]
    layout = base_layout("", "", height=150 + (scale.height if n > _ROOMY else 22) * n)
    layout["margin"]["t"] = 44
    axis, narrow = row_axis(language_rows(order), scale.font)
    layout["xaxis"].update(type="category", showline=False, **_columns(order, scale))
    layout["yaxis"].update(axis, type="category")
    if tree:
        _add_tree(layout, data, tree.linkage.tolist())
    rows_of = dict(enumerate(order))
    return Figure(anchor, title, caption, data, layout, narrow, rows=rows_of, half=n <= _SIDE_BY_SIDE)
