"""Heat maps: languages by layers, experts by layers, and languages by languages beside the tree that joins them."""

from __future__ import annotations

from dataclasses import dataclass
from math import isnan
from typing import TYPE_CHECKING, Any

from isogloss.reports.curves import LAYER_AXIS, heights, scatter
from isogloss.reports.figures import INK, SEQUENTIAL, Figure, base_layout
from isogloss.reports.rows import RowScale, language_axis, row_scale
from isogloss.reports.text import interval, label, name, number, plain, plot_text, with_interval

if TYPE_CHECKING:
    from collections.abc import Sequence

    from isogloss.analysis import ExpertRow, LanguageTree, MiddleLayers
    from isogloss.analysis.experts import FloatArray
    from isogloss.reports.curves import Curves

__all__ = ["Grid", "branches", "expert_map", "language_map", "tree_figure"]

_ROOMY = 96
_FOUND = [[0.0, "#9ecae1"], [0.5, "#3182bd"], [1.0, "#08306b"]]
_SIGNED = [[0.0, "#7f3b08"], [0.25, "#e08214"], [0.5, "#f0f0f0"], [0.75, "#8073ac"], [1.0, "#2d004b"]]
_SIDE_BY_SIDE = 16
_NAMED_COLUMNS = 30
_DIGITS = 4
_HEAT_WIDTH = 0.74


def _heat(x: Sequence[object], y: Sequence[object], z: Sequence[Sequence[float | None]], **look: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    """Return a heat map whose colour scale lies above its right half."""
    bar = {
        "title": {"text": look.pop("unit"), "side": "top", "font": {"size": 12}},
        "orientation": "h",
        "thickness": 10,
        "len": 0.5,
        "lenmode": "fraction",
        "x": 1,
        "xanchor": "right",
        "y": 1.0,
        "yanchor": "bottom",
        "ypad": 6,
        "outlinewidth": 0,
        "tickfont": {"size": 11},
        "tickangle": 0,
        "nticks": 5,
        **look.pop("bar", {}),
    }
    told = {"hoverinfo": "text"} if "hovertext" in look else {}
    gaps = {"hoverongaps": False, "colorscale": SEQUENTIAL, "colorbar": bar}
    return {"type": "heatmap", "x": list(x), "y": list(y), "z": z, **gaps, **told, **look}


def _frame(middle: MiddleLayers | None) -> list[dict[str, Any]]:
    if middle is None:
        return []
    frame = {"type": "line", "xref": "x", "yref": "paper", "y0": 0, "y1": 1, "line": {"color": INK, "width": 1.2}}
    return [{**frame, "x0": edge, "x1": edge} for edge in (middle.start - 0.5, middle.end + 0.5)]


def language_map(curves: Curves, *, title: str, caption: str, unit: str, middle: MiddleLayers | None) -> Figure:
    """Draw languages by layers, ordered by their mean over the middle layers (or over all), the lowest at the bottom.

    Args:
        curves: by language.
        title: what is shown.
        caption: measure, n and interval level.
        unit: of the colour scale.
        middle: layers to frame and to order by.
    """
    layers = sorted({layer for curve in curves.values() for layer in curve})
    codes = heights(curves, range(middle.start, middle.end + 1) if middle else layers)
    points = [[curves[code].get(layer) for layer in layers] for code in codes]
    hover = [
        [
            f"<b>{plot_text(label(code))}</b><br>layer {at}: {plot_text(with_interval(point))}" if point else ""
            for at, point in zip(layers, row, strict=True)
        ]
        for code, row in zip(codes, points, strict=True)
    ]
    values = [[None if point is None else point.value for point in row] for row in points]
    known = [value for row in values for value in row if value is not None and not isnan(value)]
    look = {"hovertext": hover, "zmin": 0, "zmax": max(known, default=1), "xgap": 1, "ygap": 1}
    trace = _heat(layers, range(len(codes)), values, unit=plot_text(unit), **look)
    height = 19 if len(codes) <= 40 else 15 if len(codes) <= 90 else 12  # noqa: PLR2004 - comfortable, crowded, dense
    layout = base_layout(LAYER_AXIS, "", height=130 + height * len(codes))
    layout["margin"]["t"] = 40
    ticks = {"tickmode": "array", "tickvals": trace["y"], "tickfont": {"size": min(12, height - 3)}, "ticks": ""}
    names = [plot_text(name(code)) for code in codes]
    layout["yaxis"].update(ticks, ticklabelstandoff=4, ticktext=names, showgrid=False, showline=False)
    layout["shapes"] = _frame(middle)
    narrow = {"yaxis.ticktext": [plot_text(plain(code)) for code in codes], "yaxis.tickfont.size": min(10, height - 3)}
    return Figure("language-map", title, caption, [trace], layout, narrow)


@dataclass(frozen=True)
class Grid:
    """Where experts can be.

    Attributes:
        layers: decoder layers with a router.
        n_experts: routed experts per layer.
        middle: layers to frame, or None.
    """

    layers: tuple[int, ...]
    n_experts: int
    middle: MiddleLayers | None = None


def _scale(values: Sequence[float]) -> dict[str, Any]:
    """Colour from the least to the greatest, or around zero where signs differ."""
    if not values:
        return {"colorscale": _FOUND, "showscale": False}
    low, high = min(values), max(values)
    if low < 0:
        reach = max(abs(low), abs(high))
        return {"colorscale": _SIGNED, "zmin": -reach, "zmax": reach}
    return {"colorscale": _FOUND, "zmin": low if low < high else 0, "zmax": high or 1}


def _expert_hover(row: ExpertRow, statistic: str) -> str:
    weight = "" if row.weight is None else f"<br>weight {number(row.weight)}"
    size = f"{number(row.statistic)} {interval(number(row.low), number(row.high))}".rstrip()
    return f"<b>layer {row.layer}, expert {row.expert}</b><br>{plot_text(statistic)} {plot_text(size)}{weight}"


def expert_map(rows: Sequence[ExpertRow], grid: Grid, *, anchor: str, title: str, caption: str, unit: str) -> Figure:
    """Draw which experts a rule found: layers from left to right, expert ids upwards, colour for the statistic.

    Args:
        rows: of the table; other experts are left blank.
        grid: where experts can be.
        anchor: id in the page.
        title: what is shown.
        caption: rule, n and interval level.
        unit: name of the statistic.
    """
    layers = sorted({*grid.layers, *(row.layer for row in rows)})
    n_experts = max([grid.n_experts, *(row.expert + 1 for row in rows)])
    values: list[list[float | None]] = [[None] * len(layers) for _ in range(n_experts)]
    hover = [[""] * len(layers) for _ in range(n_experts)]
    for row in rows:
        values[row.expert][layers.index(row.layer)] = row.statistic
        hover[row.expert][layers.index(row.layer)] = _expert_hover(row, unit)
    known = [row.statistic for row in rows if not isnan(row.statistic)]
    look = {"hovertext": hover, "xgap": 1, "ygap": 1 if n_experts <= _ROOMY else 0, **_scale(known)}
    trace = _heat(layers, range(n_experts), values, unit=plot_text(unit), **look)
    layout = base_layout(LAYER_AXIS, "expert", height=min(640, max(260, 130 + 4 * n_experts)))
    layout["margin"]["t"] = 40
    layout["plot_bgcolor"] = "#f5f6f7"
    layout["yaxis"].update(range=[-0.5, n_experts - 0.5], showgrid=False)
    if layers:
        layout["xaxis"].update(range=[layers[0] - 0.5, layers[-1] + 0.5])
    layout["shapes"] = _frame(grid.middle)
    return Figure(anchor, title, caption, [trace], layout)


def branches(linkage: Sequence[Sequence[float]]) -> tuple[list[float | None], list[float | None]]:
    """Draw a tree as lines: the leaves at 0, 1, …, every join at its height.

    Args:
        linkage: ``[n - 1][4]`` as scipy writes it, over leaves that are already in the order of the tree.

    Returns:
        Heights and places of the lines' corners; None between lines.
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


def _distances(languages: Sequence[str], distances: FloatArray, order: Sequence[str]) -> list[list[float | None]]:
    """Put distances in order, with four digits: enough for a colour, and a page of 200 languages stays light."""
    place = {code: at for at, code in enumerate(languages)}
    return [
        [None if one == other else float(f"{distances[place[one], place[other]]:.{_DIGITS}g}") for other in order]
        for one in order
    ]


def _columns(order: Sequence[str], scale: RowScale) -> dict[str, Any]:
    """Label the columns with codes where there is room; elsewhere the rows say the same order."""
    if len(order) > _NAMED_COLUMNS:
        return {"showticklabels": False, "ticks": ""}
    texts = [plot_text(plain(code)) for code in order]
    ticks = {"tickmode": "array", "tickvals": list(range(len(order))), "ticktext": texts, "ticks": ""}
    return {**ticks, "tickangle": -90, "tickfont": {"size": min(10, scale.font)}}


def _add_tree(layout: dict[str, Any], data: list[dict[str, Any]], linkage: list[list[float]]) -> None:
    """Put the tree to the right of the heat map, its leaves against the rows."""
    line = {"color": INK, "width": 1.1}
    data.append(scatter(None, *branches(linkage), mode="lines", xaxis="x2", yaxis="y2", line=line))
    layout["xaxis2"] = {
        **base_layout("", "", height=1)["xaxis"],
        "domain": [_HEAT_WIDTH + 0.02, 1],
        "anchor": "y2",
        "range": [0, 1.04 * linkage[-1][2] or 1],
        "tickfont": {"size": 10},
        "nticks": 3,
    }
    layout["yaxis2"] = {"range": [len(linkage) + 0.5, -0.5], "anchor": "x2", "visible": False, "fixedrange": True}
    layout["xaxis"]["domain"] = [0, _HEAT_WIDTH]


def tree_figure(
    languages: Sequence[str], distances: FloatArray, tree: LanguageTree | None, *, anchor: str, title: str, caption: str
) -> Figure:
    """Draw the divergences of every two languages beside the tree that joins them.

    Args:
        languages: rows and columns of ``distances``; without a tree they keep this order.
        distances: ``[n, n]`` divergences; dark is near.
        tree: of these languages, or None.
        anchor: id in the page.
        title: what is shown.
        caption: measure and what the colours mean.
    """
    order = list(tree.languages if tree else languages)
    n, scale = len(order), row_scale(len(languages))
    rows, names = _distances(languages, distances, order), [plot_text(label(code)) for code in order]
    known = [value for row in rows for value in row if value is not None and not isnan(value)]
    hover = "<b>%{y}</b><br><b>%{x}</b><br>divergence %{z:.3f}<extra></extra>"
    look = {"zmin": min(known, default=0), "zmax": max(known, default=1), "hovertemplate": hover, "reversescale": True}
    bar = {"x": _HEAT_WIDTH if tree else 1, "len": 0.55, "nticks": 4}
    data = [_heat(names, names, rows, unit="divergence", bar=bar, **look)]
    layout = base_layout("", "", height=150 + (scale.height if n > _SIDE_BY_SIDE else 18) * n)
    layout["margin"]["t"] = 44
    axis, narrow = language_axis(order, scale)
    layout["xaxis"].update(type="category", showline=False, **_columns(order, scale))
    layout["yaxis"].update(axis, type="category")
    if tree:
        _add_tree(layout, data, tree.linkage.tolist())
    return Figure(anchor, title, caption, data, layout, narrow, half=n <= _SIDE_BY_SIDE)
