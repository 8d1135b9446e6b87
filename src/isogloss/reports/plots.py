"""Figures of the report one by one, for a notebook."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isogloss.analysis import Analysis
from isogloss.errors import RunError
from isogloss.reports.evaluations import evaluation_section
from isogloss.reports.figures import Figure
from isogloss.reports.sections import analysis_sections

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from isogloss.evaluation.summary import EvaluationSummary

__all__ = ["plot"]


def plot(result: Analysis | EvaluationSummary, name: str) -> go.Figure:
    """Return one figure of the report on an analysis or an evaluation.

    Args:
        result: an analysis of one Run, or the summary of an evaluation.
        name: of the figure, such as ``divergence``, ``middle-ranges``, ``tree-1`` or ``overlap``; of an evaluation,
            ``difference``, ``arms`` or ``dose-response``.

    Raises:
        RunError: this result has no such figure; the message names those that it has.
    """
    import plotly.graph_objects as go  # noqa: PLC0415 - a second, and the report needs none of it

    sections = analysis_sections(result) if isinstance(result, Analysis) else [evaluation_section(result)]
    blocks = (block for section in sections for block in section.blocks)
    figures = {block.anchor.removesuffix("-curves"): block for block in blocks if isinstance(block, Figure)}
    if name not in figures:
        raise RunError(f"this result has no figure {name!r}; it has {', '.join(figures)}")
    figure = figures[name]
    data = [{**trace, "showlegend": "name" in trace} for trace in figure.data]
    margin = {**figure.layout["margin"], "t": figure.layout["margin"]["t"] + 40}
    title = {"title": {"text": figure.title}, "margin": margin, "showlegend": any(each["showlegend"] for each in data)}
    return go.Figure({"data": data, "layout": {**figure.layout, **title}})
