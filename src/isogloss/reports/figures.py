"""The pieces of a page (figures, keys, tables), and the look that figures share."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from isogloss.reports.text import plain

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "ACCENT",
    "FONT",
    "GREY",
    "INK",
    "MAX_COLOURS",
    "SEQUENTIAL",
    "Figure",
    "KeyEntry",
    "Section",
    "Style",
    "Table",
    "base_layout",
    "language_styles",
    "ordered_styles",
    "translucent",
]

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'
INK = "#1c2024"
GREY = "#6b7280"
ACCENT = "#0072b2"
SEQUENTIAL = [[0.0, "#f2f6fa"], [0.25, "#c0d8ea"], [0.5, "#74add1"], [0.75, "#2f74ae"], [1.0, "#0b2f5e"]]
"""One hue, light to dark: safe for every colour vision, and in grey print."""

_PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#882255", "#332288")
"""Okabe and Ito without black and yellow, with two of Tol's: CIELAB distances stay above 16 for every colour vision."""

_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "pentagon", "star-diamond", "cross")
_SIGNS = ("●", "■", "◆", "▲", "▼", "⬟", "✦", "✚")

MAX_COLOURS = len(_PALETTE)


@dataclass(frozen=True)
class Style:
    """How one language is drawn in every figure: colour and marker say the same, so that either is enough."""

    colour: str
    symbol: str
    sign: str


@dataclass(frozen=True)
class KeyEntry:
    """One entry of a figure's key; ``group`` names the traces that it hides and shows."""

    text: str
    sign: str
    colour: str
    group: str = ""


@dataclass(frozen=True)
class Figure:
    """One drawing.

    Attributes:
        anchor: id in the page.
        title: what is shown.
        caption: measure, n and interval level.
        data: plotly traces.
        layout: plotly layout.
        narrow: layout changes for a narrow screen.
        key: what the colours mean.
        half: two of these stand side by side on a wide screen.
    """

    anchor: str
    title: str
    caption: str
    data: list[dict[str, Any]]
    layout: dict[str, Any]
    narrow: dict[str, Any] = field(default_factory=dict)
    key: tuple[KeyEntry, ...] = ()
    half: bool = False
    kind: str = "figure"

    @property
    def drawing(self) -> dict[str, Any]:
        """What the page's script draws."""
        return {"data": self.data, "layout": self.layout, "narrow": self.narrow}


@dataclass(frozen=True)
class Table:
    """One table; the first cell of each row is its heading.

    Attributes:
        title: what is shown.
        caption: measure, n and interval level.
        header: of the columns.
        rows: one line or more per cell.
        text_columns: columns that hold words; the others are aligned as numbers.
        folded: shown on demand.
    """

    title: str
    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text_columns: frozenset[int] = frozenset({0})
    folded: bool = False
    kind: str = "table"


@dataclass(frozen=True)
class Section:
    """A heading, sentences, then figures and tables in order."""

    anchor: str
    title: str
    paragraphs: tuple[str, ...] = ()
    blocks: tuple[Figure | Table, ...] = ()


def language_styles(languages: Iterable[str], pivot: str | None) -> dict[str, Style]:
    """Give each language a colour and a marker, by its code, so that a language keeps them from report to report.

    Args:
        languages: at most eight besides the pivot; two that want the same colour settle it in the order of codes.
        pivot: drawn in ink.
    """
    styles = {} if pivot is None else {pivot: Style(INK, "circle-open", "○")}
    free = list(range(MAX_COLOURS))
    for language in sorted(set(languages) - {pivot})[:MAX_COLOURS]:
        wanted = zlib.crc32(language.encode("utf-8", "replace")) % MAX_COLOURS
        turns = ((wanted + step) % MAX_COLOURS for step in range(MAX_COLOURS))
        slot = next(turn for turn in turns if turn in free)
        free.remove(slot)
        styles[language] = Style(_PALETTE[slot], _SYMBOLS[slot], _SIGNS[slot])
    return styles


def ordered_styles(groups: Iterable[str]) -> dict[str, Style]:
    """Give groups that are no languages, such as bands, a colour and a marker in their order, eight in turn."""
    looks = [Style(*look) for look in zip(_PALETTE, _SYMBOLS, _SIGNS, strict=True)]
    return {group: looks[place % len(looks)] for place, group in enumerate(groups)}


def translucent(colour: str, opacity: float) -> str:
    """Return a ``#rrggbb`` colour with an opacity of 0 to 1 as ``rgba(…)``."""
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def base_layout(x_title: str, y_title: str, *, height: int) -> dict[str, Any]:
    """Return a plotly layout with what all figures have in common.

    Args:
        x_title: of the horizontal axis, escaped for plotly.
        y_title: of the vertical axis, escaped for plotly.
        height: in pixels; the width follows the page.
    """
    title = {"standoff": 8, "font": {"size": 13}}
    axis = {
        "gridcolor": "#eceef0",
        "linecolor": "#9ca3af",
        "ticks": "outside",
        "ticklen": 4,
        "tickcolor": "#9ca3af",
        "zeroline": False,
        "showline": True,
        "automargin": True,
        "fixedrange": True,
    }
    return {
        "height": height,
        "autosize": True,
        "margin": {"l": 58, "r": 14, "t": 26, "b": 46},
        "font": {"family": FONT, "size": 13, "color": INK},
        "paper_bgcolor": "#ffffff",
        "plot_bgcolor": "#ffffff",
        "showlegend": False,
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "#b6bcc4", "activecolor": GREY},
        "hovermode": "closest",
        "dragmode": False,
        "hoverlabel": {
            "bgcolor": "#ffffff",
            "bordercolor": "#9ca3af",
            "font": {"family": FONT, "size": 12, "color": INK},
        },
        "xaxis": {**axis, "title": {**title, "text": x_title}, "showgrid": False},
        "yaxis": {**axis, "title": {**title, "text": y_title}},
        "shapes": [],
        "annotations": [],
        "meta": plain(y_title),
    }
