"""Marks of a drawing as SVG, from the traces of plotly that we write: lines, bands, markers, intervals, heat maps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from isogloss.reports.axes import Axis
from isogloss.reports.palette import paint
from isogloss.reports.raster import picture

__all__ = ["Box", "heat", "marker_path", "scatter_marks"]

_THIN = 16
_MANY_POINTS = 20


class Box(NamedTuple):
    """Pixels of a plot inside its drawing."""

    left: float
    top: float
    right: float
    bottom: float


def _polygon(corners: Sequence[tuple[float, float]]) -> Callable[[float, float, float], str]:
    """Return what writes a closed path through corners, given for a radius of 1, around a centre."""

    def write(x: float, y: float, radius: float) -> str:
        return "M" + "L".join(f"{x + radius * dx:.1f} {y + radius * dy:.1f}" for dx, dy in corners) + "Z"

    return write


def _star(points: int, inner: float, *, turn: float = -math.pi / 2) -> list[tuple[float, float]]:
    return [
        (size * math.cos(turn + math.pi * place / points), size * math.sin(turn + math.pi * place / points))
        for place in range(2 * points)
        for size in [1.2 if place % 2 == 0 else inner]
    ]


def _circle(x: float, y: float, radius: float) -> str:
    arc = f"a{radius:g} {radius:g} 0 1 0 "
    return f"M{x - radius:.1f} {y:.1f}{arc}{2 * radius:g} 0{arc}{-2 * radius:g} 0"


def _cross(arm: float) -> list[tuple[float, float]]:
    return [
        *((-arm, -1), (arm, -1), (arm, -arm), (1, -arm), (1, arm), (arm, arm)),
        *((arm, 1), (-arm, 1), (-arm, arm), (-1, arm), (-1, -arm), (-arm, -arm)),
    ]


def _turned(corners: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    half = math.sqrt(0.5)
    return [(half * (x - y), half * (x + y)) for x, y in corners]


_SHAPES: dict[str, Callable[[float, float, float], str]] = {
    "circle": _circle,
    "square": _polygon([(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)]),
    "diamond": _polygon([(0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)]),
    "triangle-up": _polygon([(0, -1.2), (1.1, 0.85), (-1.1, 0.85)]),
    "triangle-down": _polygon([(0, 1.2), (1.1, -0.85), (-1.1, -0.85)]),
    "pentagon": _polygon([(math.sin(turn), -math.cos(turn)) for turn in (0, 1.257, 2.513, 3.77, 5.027)]),
    "star-diamond": _polygon(_star(4, 0.5)),
    "cross": _polygon(_cross(0.4)),
    "x": _polygon(_turned(_cross(0.34))),
}


def marker_path(symbol: str, x: float, y: float, size: float) -> str:
    """Write the outline of a marker of plotly around a centre, ``size`` pixels wide."""
    return _SHAPES[symbol.removesuffix("-open")](x, y, size / 2)


def _group(trace: Mapping[str, Any], marks: str) -> str:
    group = trace.get("meta")
    if not marks:
        return ""
    key = f' data-key="{escape(trace["legendgroup"])}"' if "legendgroup" in trace else ""
    return f'<g data-g="{escape(str(group))}"{key}>{marks}</g>' if group else f"<g>{marks}</g>"


def scatter_marks(trace: Mapping[str, Any], x: Axis, y: Axis) -> str:
    """Draw a trace of lines, markers or both, with its intervals or its filled outline."""
    runs = list(_runs(trace, x, y))
    return _group(trace, "".join([_line(trace, runs), _bars(trace, x, y), _markers(trace, runs)]))


def _runs(trace: Mapping[str, Any], x: Axis, y: Axis) -> Iterator[list[tuple[int, float, float]]]:
    """Yield the points between gaps: place in the trace, and pixels."""
    run: list[tuple[int, float, float]] = []
    for place, (left, up) in enumerate(zip(trace["x"], trace["y"], strict=True)):
        at, height = x.pixel(left), y.pixel(up)
        if at is None or height is None:
            if run:
                yield run
            run = []
        else:
            run.append((place, at, height))
    if run:
        yield run


def _line(trace: Mapping[str, Any], runs: Sequence[Sequence[tuple[int, float, float]]]) -> str:
    if "lines" not in trace.get("mode", ""):
        return ""
    line = trace.get("line", {})
    filled, width = trace.get("fill") == "toself", line.get("width", 2)
    path = "".join("M" + "L".join(f"{at:.1f} {up:.1f}" for _, at, up in run) + "Z" * filled for run in runs)
    if filled:
        colour = paint(trace.get("fillcolor", "#000000"))
        return f'<path d="{path}" fill="{colour.css}" fill-opacity="{colour.opacity:g}"/>'
    colour = paint(line.get("color", "#000000"))
    dashes = {"dash": "6 4", "dot": "2 3"}.get(line.get("dash", ""))
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    faint = f' stroke-opacity="{colour.opacity:g}"' if colour.opacity < 1 else ""
    return f'<path d="{path}" fill="none" stroke="{colour.css}"{faint} stroke-width="{width:g}"{dashed}/>'


def _bars(trace: Mapping[str, Any], x: Axis, y: Axis) -> str:
    parts: list[str] = []
    for name, sideways in (("error_x", True), ("error_y", False)):
        if name not in trace:
            continue
        bars = trace[name]
        path = ""
        for left, up, more, less in zip(trace["x"], trace["y"], bars["array"], bars["arrayminus"], strict=True):
            middle = x.value(left) if sideways else y.value(up)
            if middle is None or not (more or less):
                continue
            along = x if sideways else y
            ends = along.pixel(middle - less), along.pixel(middle + more)
            across = y.pixel(up) if sideways else x.pixel(left)
            if across is not None:
                path += (
                    f"M{ends[0]:.1f} {across:.1f}H{ends[1]:.1f}"
                    if sideways
                    else f"M{across:.1f} {ends[0]:.1f}V{ends[1]:.1f}"
                )
        colour = paint(bars.get("color", "#000000"))
        if path:
            parts.append(
                f'<path d="{path}" stroke="{colour.css}" stroke-opacity="{colour.opacity:g}"'
                f' stroke-width="{bars.get("thickness", 1.6):g}"/>'
            )
    return "".join(parts)


def _markers(trace: Mapping[str, Any], runs: Sequence[Sequence[tuple[int, float, float]]]) -> str:
    if "markers" not in trace.get("mode", ""):
        return ""
    marker = trace.get("marker", {})
    symbol, size = marker.get("symbol", "circle"), marker.get("size", 7)
    points = [point for run in runs for point in run]
    if (most := marker.get("maxdisplayed")) and len(points) > max(most, _MANY_POINTS):
        points = points[:: math.ceil(len(points) / most)]
    sizes = size if isinstance(size, list) else None
    path = "".join(marker_path(symbol, at, up, sizes[place] if sizes else size) for place, at, up in points)
    colour, line = paint(marker.get("color", "#000000")), marker.get("line", {})
    if symbol.endswith("-open"):
        stroke, width = colour, line.get("width", 1.8)
        fill = "var(--paper)" if "line" not in marker else "none"
    else:
        stroke, width = paint(line["color"]) if line.get("color") else colour, line.get("width", 0)
        fill = colour.css
    outline = f' stroke="{stroke.css}" stroke-width="{width:g}"' if width else ""
    return f'<path d="{path}" fill="{fill}"{outline}/>' if path else ""


def heat(trace: Mapping[str, Any], x: Axis, y: Axis) -> str:
    """Draw a heat map as one picture of its cells."""
    rows = list(trace["z"])
    scale = [(float(at), colour) for at, colour in trace["colorscale"]]
    if trace.get("reversescale"):
        scale = [(1.0 - at, colour) for at, colour in reversed(scale)]
    columns, lines = (_edges(axis, trace[name]) for axis, name in ((x, "x"), (y, "y")))
    if lines[0] > lines[1]:
        rows, lines = rows[::-1], lines[::-1]
    low, high = _limits(trace)
    return (
        f'<image x="{columns[0]:.1f}" y="{lines[0]:.1f}" width="{columns[1] - columns[0]:.1f}"'
        f' height="{lines[1] - lines[0]:.1f}" preserveAspectRatio="none" style="image-rendering:pixelated"'
        f' href="{picture(rows, scale, low, high)}"/>'
    )


def _limits(trace: Mapping[str, Any]) -> tuple[float, float]:
    known = [value for row in trace["z"] for value in row if value is not None and not math.isnan(value)]
    return trace.get("zmin", min(known, default=0.0)), trace.get("zmax", max(known, default=1.0))


def _edges(axis: Axis, names: Sequence[Any]) -> tuple[float, float]:
    """Return the pixels of the outer edges of cells that are 1 wide."""
    first, last = axis.pixel(names[0]), axis.pixel(names[-1])
    if first is None or last is None:
        raise ValueError(f"a heat map has a row or column {names[0]!r} that lies nowhere on its axis")
    half = abs(axis.end - axis.start) / abs(axis.high - axis.low) / 2
    half = half if last >= first else -half
    return first - half, last + half
