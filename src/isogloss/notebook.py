"""How results show themselves: one line as text, a small table in a notebook."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Shown"]

_ROWS = 12  # a glance, not a wall: `to_frame` has them all


class Shown:
    """A result with a tidy table, which a notebook shows below the result's one line."""

    def to_frame(self) -> pd.DataFrame:
        """Return the result as a tidy table: one row per observation, columns with plain names."""
        raise NotImplementedError

    def _repr_html_(self) -> str:
        frame = self.to_frame()
        table = frame.head(_ROWS).to_html(index=False, border=0, na_rep="", float_format="{:.4g}".format)
        more = f"<p>{len(frame) - _ROWS:,} more rows in <code>to_frame()</code></p>" if len(frame) > _ROWS else ""
        return f"<p><code>{escape(repr(self))}</code></p>{table}{more}"
