"""Marks of a drawing as SVG, from the traces of plotly that we write: lines, bands, markers, intervals, heat maps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import cycle
from typing import Any, NamedTuple

from isogloss.reports.axes import Axis
from isogloss.reports.palette import paint
from isogloss.reports.raster import picture

_THIN = 16
_MANY_POINTS = 20


class Box(NamedTuple):
    """Pixels of a plot inside its drawing."""

    left: float
    top: float
    right: float
    bottom: float


def _ring(*radii: float, n: int, turn: float = 0) -> list[tuple[float, float]]:
    """Place corners evenly around a centre, the first at the top or ``turn`` degrees from there, at radii in turn."""
    angles = [math.radians(turn + 360 * place / n) for place in range(n)]
    return [
        (radius * math.sin(angle), -radius * math.cos(angle))
        for angle, radius in zip(angles, cycle(radii), strict=False)
    ]


def _cross(arm: float, turn: float) -> list[tuple[float, float]]:
    """Place the corners of four arms of this half width and length 1."""
    quarters = [_ring(math.hypot(arm, 1), n=4, turn=turn + side * math.degrees(math.atan(arm))) for side in (-1, 1)]
    inner = _ring(arm * math.sqrt(2), n=4, turn=turn + 45)
    return [corner for corners in zip(*quarters, inner, strict=True) for corner in corners]


_CORNERS = {
    "square": _ring(0.9 * math.sqrt(2), n=4, turn=45),
    "diamond": _ring(1.25, n=4),
    "triangle-up": [(0, -1.2), (1.1, 0.85), (-1.1, 0.85)],
    "triangle-down": [(0, 1.2), (1.1, -0.85), (-1.1, -0.85)],
    "pentagon": _ring(1, n=5),
    "star-diamond": _ring(1.2, 0.5, n=8),
    "cross": _cross(0.4, 0),
    "x": _cross(0.34, 45),
}


def marker_path(symbol: str, x: float, y: float, size: float) -> str:
    """Write the outline of a marker of plotly around a centre, ``size`` pixels wide."""
    symbol, radius = symbol.removesuffix("-open"), size / 2
    if symbol == "circle":
        arc = f"a{radius:g} {radius:g} 0 1 0 "
        return f"M{x - radius:.1f} {y:.1f}{arc}{2 * radius:g} 0{arc}{-2 * radius:g} 0"
    return "M" + "L".join(f"{x + radius * dx:.1f} {y + radius * dy:.1f}" for dx, dy in _CORNERS[symbol]) + "Z"


def _group(trace: Mapping[str, Any], marks: str) -> str:
    group = trace["meta"]
    if not marks:
        return ""
    key = f' data-key="{escape(trace["legendgroup"])}"' if "legendgroup" in trace else ""
    return f'<g data-g="{escape(str(group))}"{key}>{marks}</g>' if group else f"<g>{marks}</g>"


def scatter_marks(trace: Mapping[str, Any], x: Axis, y: Axis) -> str:
    """Draw a trace of lines, markers or both, with its intervals or its filled outline."""
    runs, bars = list(_runs(trace, x, y)), (_bars(trace, x, y, upright=upright) for upright in (False, True))
    return _group(trace, "".join([_line(trace, runs), *bars, _markers(trace, runs)]))


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


def _bars(trace: Mapping[str, Any], x: Axis, y: Axis, *, upright: bool) -> str:
    bars = trace.get("error_y" if upright else "error_x")
    if not bars:
        return ""
    along, values, across, places = (y, trace["y"], x, trace["x"]) if upright else (x, trace["x"], y, trace["y"])
    path = ""
    for value, place, more, less in zip(values, places, bars["array"], bars["arrayminus"], strict=True):
        middle, at = along.value(value), across.pixel(place)
        if middle is not None and at is not None and (more or less):
            low, high = along.pixel(middle - less), along.pixel(middle + more)
            path += f"M{at:.1f} {low:.1f}V{high:.1f}" if upright else f"M{low:.1f} {at:.1f}H{high:.1f}"
    colour, width = paint(bars["color"]), bars.get("thickness", 1.6)
    look = f'stroke="{colour.css}" stroke-opacity="{colour.opacity:g}" stroke-width="{width:g}"'
    return f'<path d="{path}" {look}/>' if path else ""


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
    columns, lines = (_edges(axis, trace[name]) for axis, name in ((x, "x"), (y, "y")))
    if lines[0] > lines[1]:
        rows, lines = rows[::-1], lines[::-1]
    return (
        f'<image x="{columns[0]:.1f}" y="{lines[0]:.1f}" width="{columns[1] - columns[0]:.1f}"'
        f' height="{lines[1] - lines[0]:.1f}" preserveAspectRatio="none" style="image-rendering:pixelated"'
        f' href="{picture(rows, trace["colorscale"], trace["zmin"], trace["zmax"])}"/>'
    )


def _edges(axis: Axis, names: Sequence[Any]) -> tuple[float, float]:
    """Return the pixels of the outer edges of cells that are 1 wide."""
    first, last = axis.pixel(names[0]), axis.pixel(names[-1])
    if first is None or last is None:
        raise ValueError(f"a heat map has a row or column {names[0]!r} that lies nowhere on its axis")
    half = abs(axis.end - axis.start) / abs(axis.high - axis.low) / 2
    half = half if last >= first else -half
    return first - half, last + half
