"""Figures of the report one by one, for a notebook."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isogloss.errors import RunError
from isogloss.report.figures import Figure
from isogloss.report.sections import analysis_sections

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from isogloss.analysis import Analysis

__all__ = ["plot"]


def plot(analysis: Analysis, name: str) -> go.Figure:
    """Return one figure of the report on an analysis.

    Args:
        analysis: of one Run.
        name: of the figure, such as ``divergence``, ``middle-ranges``, ``tree-1`` or ``overlap``.

    Raises:
        RunError: this analysis has no such figure; the message names those that it has.
    """
    import plotly.graph_objects as go  # noqa: PLC0415 - a second, and the report needs none of it

    blocks = (block for section in analysis_sections(analysis) for block in section.blocks)
    figures = {block.anchor.removesuffix("-curves"): block for block in blocks if isinstance(block, Figure)}
    if name not in figures:
        raise RunError(f"this analysis has no figure {name!r}; it has {', '.join(figures)}")
    figure = figures[name]
    data = [{**trace, "showlegend": "name" in trace} for trace in figure.data]
    margin = {**figure.layout["margin"], "t": figure.layout["margin"]["t"] + 40}
    title = {"title": {"text": figure.title}, "margin": margin, "showlegend": any(each["showlegend"] for each in data)}
    return go.Figure({"data": data, "layout": {**figure.layout, **title}})
