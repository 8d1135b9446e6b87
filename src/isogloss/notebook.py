"""How results show themselves: one line as text, a small table in a notebook, a figure of the report on request."""

from __future__ import annotations

from html import escape
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

__all__ = ["Shown", "drawn"]

_ROWS = 12  # a glance, not a wall: `to_frame` has them all


class Shown:
    """A result with a tidy table, which a notebook shows below the result's one line."""

    def to_frame(self) -> pd.DataFrame:
        """Return the result as a tidy table: one row per observation, columns with plain names."""
        raise NotImplementedError

    def _repr_html_(self) -> str:
        frame = self.to_frame()
        glance = frame.head(_ROWS).dropna(axis="columns", how="all").astype(object)
        glance = glance.where(glance.notna(), "")
        table = glance.to_html(index=False, border=0, float_format="{:.4g}".format)
        more = f"<p>{len(frame) - _ROWS:,} more rows in <code>to_frame()</code></p>" if len(frame) > _ROWS else ""
        return f"<p><code>{escape(repr(self))}</code></p>{table}{more}"


def drawn(result: object, name: str) -> go.Figure:
    """Return one figure of the report on a result.

    The report lies above the results that it draws, so none of them imports it: it is found by its name, when somebody
    asks for a picture.
    """
    figure: go.Figure = import_module("isogloss.reports").plot(result, name)
    return figure
