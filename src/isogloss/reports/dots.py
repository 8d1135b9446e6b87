"""Dots with their intervals: one trace of plotly, and the rows that dots may stand in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from isogloss.analysis.statistics import Estimate

__all__ = ["dots", "named_rows", "stripes", "upright"]


def dots(
    group: str,
    estimates: Sequence[Estimate],
    places: Sequence[float],
    *,
    marker: Mapping[str, Any],
    bars: tuple[str, float],
    hover: Sequence[str],
) -> dict[str, Any]:
    """Draw estimates as dots with their intervals; one without an interval has no bar.

    Args:
        group: that the key hides and shows.
        estimates: along the horizontal axis.
        places: of each on the vertical axis.
        marker: as plotly takes it.
        bars: colour and thickness of the intervals.
        hover: what is said of each, escaped for plotly.
    """
    above, below = (
        [end if each.has_interval else 0.0 for each, end in zip(estimates, ends, strict=True)]
        for ends in ([each.high - each.value for each in estimates], [each.value - each.low for each in estimates])
    )
    lengths = {"type": "data", "symmetric": False, "array": above, "arrayminus": below}
    return {
        "type": "scatter",
        "mode": "markers",
        "meta": group,
        "x": [each.value for each in estimates],
        "y": list(places),
        "hovertext": list(hover),
        "hoverinfo": "text",
        "marker": dict(marker),
        "error_x": {**lengths, "color": bars[0], "thickness": bars[1], "width": 0},
    }


def upright(trace: Mapping[str, Any]) -> dict[str, Any]:
    """Turn a trace of `dots` so that values stand on the vertical axis."""
    turned = {"x": "y", "y": "x", "error_x": "error_y"}
    return {turned.get(name, name): part for name, part in trace.items()}


def named_rows(names: Mapping[int, str]) -> dict[str, Any]:
    """Label the rows of a vertical axis.

    Args:
        names: place to text, escaped for plotly.
    """
    return {
        "tickmode": "array",
        "tickvals": list(names),
        "ticktext": list(names.values()),
        "ticks": "",
        "ticklabelstandoff": 4,
        "showline": False,
    }


def stripes(rows: Sequence[int]) -> list[dict[str, Any]]:
    """Shade rows, so that what stands in one is read together."""
    stripe = {"type": "rect", "xref": "paper", "yref": "y", "x0": 0, "x1": 1, "layer": "below", "line": {"width": 0}}
    return [{**stripe, "y0": row - 0.5, "y1": row + 0.5, "fillcolor": "#f5f6f7"} for row in rows]
