"""Drawings of the report as SVG that needs no script: what the page shows, prints, and gives to download."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape, unescape
from itertools import chain
from math import isfinite
from typing import Any

from markupsafe import Markup

from isogloss.reports.axes import Axis, Tick, make_axis, text_width, without_tags
from isogloss.reports.figures import Figure
from isogloss.reports.marks import Box, heat, scatter_marks
from isogloss.reports.palette import paint
from isogloss.statistics import MINUS

WIDE, HALF, NARROW = 900, 440, 380
"""Widths in pixels at which figures are drawn: across the page, beside another, and on a narrow screen."""

_FONT = 13
_TICK = 12
_MARGIN = 14
_UPRIGHT = -90
_MOST_DESCRIBED = 8


def draw(figure: Figure, width: int, kind: str) -> Markup:
    """Draw a figure as one SVG element.

    Args:
        figure: traces of ``scatter`` and ``heatmap``, axes, shapes and annotations as `figures` makes them.
        width: in pixels.
        kind: class of the element, such as ``wide``; figures and kinds together name its parts uniquely.

    Raises:
        ValueError: a trace of a type that is not drawn.
    """
    layout = dict(figure.layout)
    if width <= NARROW:
        layout = _changed(layout, figure.narrow)
    height = layout["height"]
    box, axes = _place(figure.data, layout, width)
    parts = [
        *_row_marks(figure.rows, axes["y"], box),
        *_shapes(layout, axes, box, layer="below"),
        *(part for name in ("", "2") if f"x{name}" in axes for part in _frame(layout, axes, box, name)),
        *(_trace(trace, axes) for trace in figure.data),
        *_shapes(layout, axes, box, layer="above"),
        *_annotations(layout, axes, box),
        *(_colour_bar(trace, box, f"{figure.anchor}-{kind}") for trace in figure.data if "colorbar" in trace),
    ]
    scales = "".join(
        f' data-{name}="{axis.low:g},{axis.high:g},{axis.start:.1f},{axis.end:.1f}"' for name, axis in axes.items()
    )
    text = escape(describe(figure))
    return Markup(  # noqa: S704 - every text from outside was escaped where it was written
        f'<svg class="{kind}" viewBox="0 0 {width} {height}" style="max-width:{round(1.25 * width)}px" role="img"'
        f' aria-label="{text}" font-size="{_FONT}"{scales}>{"".join(parts)}</svg>'
    )


def _changed(layout: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Set ``yaxis.ticktext`` and the like in a copy of a layout."""
    copy = {name: dict(part) if isinstance(part, Mapping) else part for name, part in layout.items()}
    for path, value in changes.items():
        *names, last = path.split(".")
        part = copy
        for name in names:
            part[name] = dict(part.get(name, {}))
            part = part[name]
        part[last] = value
    return copy


def _values(data: Iterable[Mapping[str, Any]], axis: str, name: str) -> Iterator[Any]:
    """Yield what is drawn along an axis, ends of intervals included."""
    for trace in data:
        if trace.get(f"{axis}axis", axis) != name:
            continue
        yield from trace[axis]
        if bars := trace.get(f"error_{axis}"):
            for value, more, less in zip(trace[axis], bars["array"], bars["arrayminus"], strict=True):
                yield from (value + more, value - less) if value is not None else ()


def _place(data: Sequence[Mapping[str, Any]], layout: Mapping[str, Any], width: int) -> tuple[Box, dict[str, Axis]]:
    """Leave room for labels, and lay out the axes in what remains."""
    height = layout["height"]
    y, x = layout["yaxis"], layout["xaxis"]
    names = make_axis(y, _values(data, "y", "y"), (height, 0))
    size = _size(y)
    title = _FONT + 8 if y["title"]["text"] else 0
    left = title + 10 + max((text_width(tick.text, size) for tick in names.ticks), default=0)
    left = min(left, 0.5 * width)
    turned = x.get("tickangle") == _UPRIGHT
    below: float = 26 if layout["xaxis"]["title"]["text"] else 6
    columns = make_axis(x, _values(data, "x", "x"), (0, width))
    below += _longest(columns, _size(x)) + 8 if turned else 20
    box = Box(left, layout["margin"]["t"], width - _MARGIN, height - below)
    first, last = x.get("domain", (0, 1))
    across = box.right - box.left
    axes = {
        "x": make_axis(x, _values(data, "x", "x"), (box.left + first * across, box.left + last * across)),
        "y": make_axis(y, _values(data, "y", "y"), (box.bottom, box.top)),
    }
    if "xaxis2" in layout:
        first, last = layout["xaxis2"]["domain"]
        ends = box.left + first * across, box.left + last * across
        axes["x2"] = make_axis(layout["xaxis2"], _values(data, "x", "x2"), ends)
        axes["y2"] = make_axis(layout["yaxis2"], _values(data, "y", "y2"), (box.bottom, box.top))
    return box, axes


def _longest(axis: Axis, size: float) -> float:
    """Return the width of the widest label."""
    return max((text_width(tick.text, size) for tick in axis.ticks), default=0.0)


def _size(axis: Mapping[str, Any]) -> float:
    return float(axis.get("tickfont", {}).get("size", _TICK))


def _text(x: float, y: float, text: str, *, size: float, anchor: str = "middle", more: str = "") -> str:
    """Write escaped text, bold where plotly would write it bold."""
    weight = ' font-weight="650"' if "<b>" in text else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" text-anchor="{anchor}"{weight}{more}>'
        f"{without_tags(text)}</text>"
    )


def _row_marks(rows: Mapping[int, str], y: Axis, box: Box) -> Iterator[str]:
    """Draw what lights up when a language is pointed at."""
    for place, code in rows.items():
        ends = sorted((y.pixel(place - 0.5) or 0.0, y.pixel(place + 0.5) or 0.0))
        yield (
            f'<rect class="row" data-g="{escape(code)}" x="0" y="{ends[0]:.1f}" width="{box.right:.1f}"'
            f' height="{ends[1] - ends[0]:.1f}"/>'
        )


def _frame(layout: Mapping[str, Any], axes: Mapping[str, Axis], box: Box, name: str) -> Iterator[str]:
    """Draw grid, lines, ticks and titles of a pair of axes."""
    x, y = axes[f"x{name}"], axes[f"y{name}"]
    look_x, look_y = layout[f"xaxis{name}"], layout[f"yaxis{name}"]

    def across(height: float | None) -> str:
        return f"M{x.start:.1f} {height:.1f}H{x.end:.1f}"

    def upright(at: float | None) -> str:
        return f"M{at:.1f} {box.top:.1f}V{box.bottom:.1f}"

    grid = [across(y.pixel(tick.value)) for tick in y.ticks if look_y["showgrid"]]
    grid += [upright(x.pixel(tick.value)) for tick in x.ticks if look_x["showgrid"]]
    lines = []
    if look_x.get("showline", True):
        lines += [across(box.bottom), *(f"M{x.pixel(tick.value):.1f} {box.bottom:.1f}v4" for tick in x.ticks)]
    if look_y.get("showline", True):
        lines.append(upright(x.start))
    zeros = [
        draw_line(axis.pixel(0))
        for axis, look, draw_line in ((x, look_x, upright), (y, look_y, across))
        if look.get("zeroline") and axis.low < 0 < axis.high
    ]
    for paths, colour in ((grid, "grid"), (lines, "line"), (zeros, "ink")):
        if paths:
            yield f'<path d="{"".join(paths)}" stroke="var(--{colour})"/>'
    yield from _labels(look_x, look_y, x, y, box)


def _labels(look_x: Mapping[str, Any], look_y: Mapping[str, Any], x: Axis, y: Axis, box: Box) -> Iterator[str]:
    size, turned = _size(look_x), look_x.get("tickangle") == _UPRIGHT
    middle, low = (x.start + x.end) / 2, box.bottom + size + 7
    for tick in x.ticks:
        at = x.pixel(tick.value) or 0.0
        if turned:
            more = f' transform="rotate(-90 {at:.1f} {box.bottom + 6:.1f})" dominant-baseline="central"'
            yield _text(at, box.bottom + 6, tick.text, size=size, anchor="end", more=more)
        else:
            yield _text(at, low, tick.text, size=size)
    if title := look_x["title"]["text"]:
        half = text_width(title, _FONT) / 2  # a title that is wider than its axis ends with it
        under = box.bottom + 8 + _longest(x, size) if turned else low
        yield _text(min(middle, box.right - half), under + 21, title, size=_FONT)
    size = _size(look_y)
    for tick in y.ticks:
        up = y.pixel(tick.value) or 0.0
        yield _text(x.start - 8, up, _shortened(tick, x.start - 10, size), size=size, anchor="end", more=_CENTRAL)
    if title := look_y["title"]["text"]:
        up = (box.top + box.bottom) / 2
        fit = min(1.0, (box.bottom - box.top + 40) / max(1.0, text_width(title, _FONT)))
        yield _text(_FONT, up, title, size=round(fit * _FONT, 1), more=f' transform="rotate(-90 {_FONT} {up:.1f})"')


_CENTRAL = ' dominant-baseline="central"'


def _shortened(tick: Tick, room: float, size: float) -> str:
    """Cut a label that is wider than half the drawing; the text of entities stays whole."""
    if text_width(tick.text, size) <= room or "&" in tick.text:
        return tick.text
    return f"{tick.text[: max(4, int(room / (0.57 * size)) - 1)]}…"


def _trace(trace: Mapping[str, Any], axes: Mapping[str, Axis]) -> str:
    x, y = axes[trace.get("xaxis", "x")], axes[trace.get("yaxis", "y")]
    if trace["type"] == "heatmap":
        return heat(trace, x, y)
    if trace["type"] == "scatter":
        return scatter_marks(trace, x, y)
    raise ValueError(f"found a trace of type {trace['type']!r}; scatter and heatmap are drawn")


def _at(place: float, reference: str, axis: Axis, ends: tuple[float, float]) -> float:
    """Return the pixel of a place on an axis, or of a share of the plot."""
    return ends[0] + place * (ends[1] - ends[0]) if reference == "paper" else axis.pixel(place) or 0.0


def _shapes(layout: Mapping[str, Any], axes: Mapping[str, Axis], box: Box, *, layer: str) -> Iterator[str]:
    for shape in layout["shapes"]:
        if shape.get("layer", "above") != layer:
            continue
        x0, x1 = (_at(shape[name], shape["xref"], axes["x"], (box.left, box.right)) for name in ("x0", "x1"))
        y0, y1 = (_at(shape[name], shape["yref"], axes["y"], (box.bottom, box.top)) for name in ("y0", "y1"))
        if shape["type"] == "rect":
            fill = paint(shape["fillcolor"])
            yield (
                f'<rect x="{min(x0, x1):.1f}" y="{min(y0, y1):.1f}" width="{abs(x1 - x0):.1f}"'
                f' height="{abs(y1 - y0):.1f}" fill="{fill.css}" fill-opacity="{fill.opacity:g}"/>'
            )
        else:
            line = shape["line"]
            dashed = ' stroke-dasharray="5 4"' if line.get("dash") else ""
            yield (
                f'<path d="M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}" stroke="{paint(line["color"]).css}"'
                f' stroke-width="{line["width"]:g}"{dashed}/>'
            )


def _annotations(layout: Mapping[str, Any], axes: Mapping[str, Axis], box: Box) -> Iterator[str]:
    for note in layout["annotations"]:
        x = _at(note["x"], note["xref"], axes["x"], (box.left, box.right))
        y = _at(note["y"], note["yref"], axes["y"], (box.bottom, box.top))
        half = text_width(note["text"], _TICK) / 2
        anchor = {"right": "end", "left": "start"}.get(note.get("xanchor", ""), "middle")
        x = max(box.left + half, min(box.right - half, x)) if anchor == "middle" else x
        look = f' style="fill:{paint(note["font"]["color"]).css}"'
        middle = note.get("yanchor") == "middle"
        more = f"{look}{_CENTRAL}" if middle else look
        yield _text(x, y if middle else y - 3, note["text"], size=note["font"]["size"], anchor=anchor, more=more)


def _colour_bar(trace: Mapping[str, Any], box: Box, name: str) -> str:
    """Draw the scale of a heat map above its right end."""
    if trace.get("showscale") is False:
        return ""
    bar, low, high = trace["colorbar"], trace["zmin"], trace["zmax"]
    right = box.left + bar["x"] * (box.right - box.left)
    left = right - min(220.0, bar["len"] * (box.right - box.left))
    ends = ((left, low), ((left + right) / 2, (low + high) / 2), (right, high))
    stops = "".join(f'<stop offset="{at:g}" stop-color="{colour}"/>' for at, colour in trace["colorscale"])
    top = box.top - 12
    labels = "".join(_text(at, top - 4, f"{value:.2g}".replace("-", MINUS), size=11) for at, value in ends)
    title = _text(left - 10, top + 5, bar["title"]["text"], size=_TICK, anchor="end", more=_CENTRAL)
    return (
        f'<linearGradient id="{escape(name)}-scale">{stops}</linearGradient><rect x="{left:.1f}" y="{top:.1f}"'
        f' width="{right - left:.1f}" height="8" fill="url(#{escape(name)}-scale)"/>{labels}{title}'
    )


def describe(figure: Figure) -> str:
    """Say what a figure shows, for those who do not see it: axes, groups, and the ends of what is drawn."""
    maps = [trace for trace in figure.data if trace["type"] == "heatmap"]
    if maps:
        rows, columns = len(maps[0]["z"]), len(maps[0]["x"])
        ends = _ends(chain.from_iterable(maps[0]["z"]), ", from ")
        unit = _unescaped(maps[0]["colorbar"]["title"]["text"])
        return f"{figure.title}. Heat map of {rows} rows by {columns} columns: {unit}{ends}."
    axes = [_unescaped(figure.layout[axis]["title"]["text"]) for axis in ("xaxis", "yaxis")]
    texts = [f"{figure.title}. Plot of {' against '.join(filter(None, reversed(axes)))}."]
    along = "x" if figure.rows or not axes[1] else "y"
    names = {entry.group: entry.text for entry in figure.key}
    groups: dict[str, list[object]] = {}
    for trace in figure.data:
        if trace.get("hovertext") and trace.get("meta"):
            groups.setdefault(names.get(trace["meta"], trace["meta"]), []).extend(trace[along])
    named = [f"{name}: {ends}." for name, values in groups.items() if (ends := _ends(values))]
    texts += named[:_MOST_DESCRIBED]
    if len(named) > _MOST_DESCRIBED:
        texts.append(f"{len(named) - _MOST_DESCRIBED} more are in the table.")
    return " ".join(texts)


def _ends(values: Iterable[object], before: str = "") -> str:
    """Write the least and the greatest number, after some words; nothing where no number is known."""
    known = [value for value in values if isinstance(value, int | float) and isfinite(value)]
    return f"{before}{min(known):.3g} to {max(known):.3g}".replace("-", MINUS) if known else ""


def _unescaped(text: str) -> str:
    return unescape(without_tags(text))
