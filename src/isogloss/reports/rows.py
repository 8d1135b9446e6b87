"""Figures with one row per language: dots with intervals, and ranges of layers. Labels give way where rows are many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from isogloss.analysis import Estimate
from isogloss.reports.curves import LAYER_AXIS, middle_marks, scatter
from isogloss.reports.dots import dots, named_rows, stripes
from isogloss.reports.figures import ACCENT, GREY, Figure, KeyEntry, base_layout, ordered_styles, translucent
from isogloss.reports.text import label, name, plain, plot_text, span, with_interval

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from isogloss.analysis import MiddleLayers

__all__ = ["RowScale", "dot_figure", "labels_text", "language_axis", "range_figure", "row_scale"]

_ROOM_FOR_LABEL = 11
_SPREAD = 0.56
_CROWDED = 4
_NAN = float("nan")


@dataclass(frozen=True)
class RowScale:
    """How rows are drawn.

    Attributes:
        height: of one row, in pixels.
        step: label every step-th row.
        font: size of the labels, in pixels.
    """

    height: int
    step: int
    font: int


def row_scale(n_rows: int) -> RowScale:
    """Choose the height of rows: comfortable for a few, then crowded, then with most labels left out."""
    few, many = 24, 80
    height = 22 if n_rows <= few else 14 if n_rows <= many else 6
    return RowScale(height, max(1, -(-_ROOM_FOR_LABEL // height)), min(12, max(9, height - 3)))


def labels_text(n_rows: int) -> str:
    """Say after a blank where labels are left out; nothing where every row has its label."""
    step = row_scale(n_rows).step
    return f" One label in {step} is shown; hovering names every language." if step > 1 else ""


def language_axis(codes: Sequence[str], scale: RowScale) -> tuple[dict[str, Any], dict[str, Any]]:
    """Label the rows with languages, the first at the top.

    Returns:
        Changes to plotly's vertical axis, and those for a narrow screen, where codes stand for names.
    """
    places = range(0, len(codes), scale.step)
    axis = named_rows({place: plot_text(name(codes[place])) for place in places})
    axis |= {"range": [len(codes) - 0.5, -0.5], "tickfont": {"size": scale.font}, "showgrid": False}
    texts = [plot_text(plain(codes[place])) for place in places]
    return axis, {"yaxis.ticktext": texts, "yaxis.tickfont.size": min(10, scale.font)}


def dot_figure(
    groups: Mapping[str, Mapping[str, Estimate]],
    codes: Sequence[str],
    *,
    anchor: str,
    texts: tuple[str, str, str],
    half: bool = True,
) -> Figure:
    """Draw one dot with its interval per language and group, such as a band of layers.

    Args:
        groups: name to language to value; languages that a group lacks have no dot in it.
        codes: languages from the top.
        anchor: id in the page.
        texts: title, caption, and title of the horizontal axis.
        half: two of these stand side by side.
    """
    scale, styles, data = row_scale(len(codes)), ordered_styles(groups), []
    crowded = scale.step > 1
    for place, (group, points) in enumerate(groups.items()):
        style, shown = styles[group], [(row, code) for row, code in enumerate(codes) if code in points]
        offset = _SPREAD * (place / (len(groups) - 1) - 0.5) if len(groups) > 1 else 0.0
        data.append(
            dots(
                group,
                [points[code] for _, code in shown],
                [row + offset for row, _ in shown],
                marker={"symbol": style.symbol, "size": 5 if crowded else 7, "color": style.colour},
                bars=(translucent(style.colour, 0.5), 1.0 if crowded else 1.6),
                hover=[
                    f"<b>{plot_text(label(code))}</b><br>{plot_text(group)}: {plot_text(with_interval(points[code]))}"
                    f"<br>n = {points[code].n:,}"
                    for _, code in shown
                ],
            )
        )
    title, caption, unit = texts
    layout = base_layout(plot_text(unit), "", height=84 + scale.height * len(codes))
    axis, narrow = language_axis(codes, scale)
    layout["yaxis"].update(axis)
    layout["xaxis"].update(showgrid=True, rangemode="tozero", nticks=6)
    layout["shapes"] = stripes(range(0, len(codes), 2))
    key = tuple(KeyEntry(plain(group), style.sign, style.colour, group) for group, style in styles.items())
    return Figure(anchor, title, caption, data, layout, narrow, key, half)


def _range_hover(code: str, middle: MiddleLayers) -> str:
    edges = f"start {span(middle.start, middle.start_interval)}; end {span(middle.end, middle.end_interval)}"
    shape = "U-shape" if middle.is_u_shape else "no U-shape"
    size = f"<br>outer minus middle {plot_text(with_interval(middle.depth))}" if middle.depth.is_known else ""
    return f"<b>{plot_text(label(code))}</b><br>{edges}<br>{shape}{size}"


def _ranges(
    placed: Mapping[str, tuple[int, MiddleLayers]], group: str, colour: str, width: int
) -> list[dict[str, Any]]:
    """Draw a bar per language, and dots at its ends with the spans of the edges."""
    x = [at for _, middle in placed.values() for at in (middle.start, middle.end, None)]
    y = [at for row, _ in placed.values() for at in (row, row, None)]
    traces = [scatter(group, x, y, mode="lines", line={"color": translucent(colour, 0.35), "width": width})]
    rows, hover = [row for row, _ in placed.values()], [_range_hover(code, each[1]) for code, each in placed.items()]
    marker = {"symbol": "circle", "size": min(8, width + 2), "color": colour}
    for edge in ("start", "end"):
        ends = []
        for _, middle in placed.values():
            low, high = getattr(middle, f"{edge}_interval") or (_NAN, _NAN)
            ends.append(Estimate(getattr(middle, edge), low, high, middle.depth.n))
        trace = dots(group, ends, rows, marker=marker, bars=(colour, 1.2), hover=hover)
        traces.append(trace if width > _CROWDED else {part: trace[part] for part in trace if part != "error_x"})
    return traces


def range_figure(
    middles: Mapping[str, MiddleLayers],
    layers: Sequence[int],
    overall: MiddleLayers | None,
    *,
    anchor: str,
    title: str,
    caption: str,
) -> Figure:
    """Draw the middle layers of every language, from first to last, with the spans of both edges.

    Args:
        middles: language to its middle layers, from the top; those without a U-shape are grey.
        layers: of the horizontal axis.
        overall: the range to shade.
        anchor: id in the page.
        title: what is shown.
        caption: measure, n and interval level.

    Returns:
        The figure; of many languages the spans are in the hover alone.
    """
    codes, scale = list(middles), row_scale(len(middles))
    placed = {code: (row, middles[code]) for row, code in enumerate(codes)}
    data, key, width = [], [], min(8, scale.height - 2)
    for group, colour, shape in (("U-shape", ACCENT, True), ("no U-shape", GREY, False)):
        if part := {code: each for code, each in placed.items() if each[1].is_u_shape is shape}:
            data += _ranges(part, group, colour, width)
            key.append(KeyEntry(group, "●", colour, group))
    layout = base_layout(LAYER_AXIS, "", height=100 + scale.height * len(codes))
    axis, narrow = language_axis(codes, scale)
    layout["yaxis"].update(axis)
    layout["xaxis"].update(showgrid=True, range=[layers[0] - 0.5, layers[-1] + 0.5])
    layout["shapes"], layout["annotations"] = middle_marks(overall, plot_height=scale.height * len(codes))
    return Figure(anchor, title, caption, data, layout, narrow, tuple(key))
