"""The pieces of a page (figures, keys, tables, sections), the traces of plotly, and the look that figures share."""

from __future__ import annotations

import zlib
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any, NamedTuple

from isogloss.reports.palette import LIGHT
from isogloss.reports.text import OVERALL, plain, plot_text, short_names
from isogloss.statistics import Estimate

INK = LIGHT["ink"]
GREY = LIGHT["grey"]
LINE = LIGHT["line"]
WASH = LIGHT["wash"]
SHADE = LIGHT["shade"]
ACCENT = LIGHT["c1"]
LAYER_AXIS = "decoder layer (0-based)"
ZERO_LINE = {"zeroline": True, "zerolinecolor": INK, "zerolinewidth": 1}

_FRAME = 90  # pixels of a figure of rows above and below them
_SPREAD = 0.56  # of a row's height, over which its marks lie


class KeyEntry(NamedTuple):
    """One entry of a figure's key; ``group`` names the traces that it hides and shows."""

    text: str
    sign: str
    colour: str
    group: str = ""


@dataclass(frozen=True)
class Style:
    """How one group, such as a language, is drawn: colour and marker say the same, so that either is enough."""

    colour: str
    symbol: str = "circle"
    sign: str = "●"  # resembles the symbol, for the key
    text: str = ""  # of the key; by default the group's name
    size: float = 7
    bar: float = 1.6  # thickness of intervals
    bar_colour: str = ""  # by default that of the markers
    marker: Mapping[str, Any] = field(default_factory=dict)  # more of plotly's properties

    def entry(self, group: str, text: str = "") -> KeyEntry:
        """Return the entry of the key for a group that is drawn so."""
        return KeyEntry(text or self.text or plain(group), self.sign, self.colour, group)


_LOOKS = (
    Style(LIGHT["c1"], "circle", "●"),
    Style(LIGHT["c2"], "square", "■"),
    Style(LIGHT["c3"], "diamond", "◆"),
    Style(LIGHT["c4"], "triangle-up", "▲"),
    Style(LIGHT["c5"], "triangle-down", "▼"),
    Style(LIGHT["c6"], "pentagon", "⬟"),
    Style(LIGHT["c7"], "star-diamond", "✦"),
    Style(LIGHT["c8"], "cross", "✚"),
)
MAX_COLOURS = len(_LOOKS)


class Dot(NamedTuple):
    """An estimate of a group, its place on the other axis, and what hovering shows, escaped for plotly."""

    group: str
    estimate: Estimate
    place: float
    hover: str


@dataclass(frozen=True)
class Figure:
    """One drawing of plotly; its caption states measure, n and interval level."""

    anchor: str  # id in the page
    title: str
    caption: str
    data: Sequence[dict[str, Any]]
    layout: dict[str, Any]
    narrow: Mapping[str, Any] = field(default_factory=dict)  # changes of the layout for a narrow screen
    key: Sequence[KeyEntry] = ()
    rows: Mapping[int, str] = field(default_factory=dict)  # language of each row of the vertical axis
    half: bool = False  # two of these stand side by side on a wide screen
    kind: str = "figure"


@dataclass(frozen=True)
class Table:
    """One table; the first cell of each row is its heading, and its caption states measure, n and interval level."""

    title: str
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_columns: Container[int] = (0,)  # hold words; the others are aligned as numbers
    folded: bool = True  # shown on demand
    kind: str = "table"

    @classmethod
    def of(
        cls,
        title: str,
        caption: str,
        rows: Sequence[Mapping[str, str]],
        *,
        words: Container[str] = (),
        folded: bool = True,
    ) -> Table:
        """Make a table of cells by the header of their column; the first column and those in ``words`` hold words."""
        header = tuple(rows[0])
        texts = {place for place, name in enumerate(header) if place == 0 or name in words}
        return cls(title, caption, header, [tuple(row.values()) for row in rows], texts, folded=folded)


class Section(NamedTuple):
    """A heading, sentences, then figures and tables in order."""

    anchor: str
    title: str
    paragraphs: Sequence[str] = ()
    blocks: Sequence[Figure | Table] = ()


def language_styles(languages: Iterable[str], pivot: str | None) -> dict[str, Style]:
    """Give at most eight languages and the pivot a look by their codes, which they keep from report to report."""
    styles = {} if pivot is None else {pivot: Style(INK, "circle-open", "○")}
    free = list(range(MAX_COLOURS))
    for language in sorted(set(languages) - {pivot})[:MAX_COLOURS]:
        wanted = zlib.crc32(language.encode("utf-8", "replace"))
        slot = min(free, key=lambda each: (each - wanted) % MAX_COLOURS)
        free.remove(slot)
        styles[language] = _LOOKS[slot]
    return styles


def ordered_styles(groups: Iterable[str]) -> dict[str, Style]:
    """Give groups that are no languages, such as bands, a colour and a marker in their order, eight in turn."""
    return dict(zip(groups, cycle(_LOOKS)))


def translucent(colour: str, opacity: float) -> str:
    """Return a ``#rrggbb`` colour with an opacity of 0 to 1 as ``rgba(…)``."""
    red, green, blue = bytes.fromhex(colour[1:])
    return f"rgba({red},{green},{blue},{opacity})"


def scatter(
    group: str | None, x: Iterable[object], y: Iterable[object], hovers: Iterable[str] | None = None, **look: object
) -> dict[str, Any]:
    """Return a trace of lines or markers; ``group`` is what the key hides and shows, and None in ``y`` is a gap."""
    info = {"hoverinfo": "skip"} if hovers is None else {"hovertext": list(hovers), "hoverinfo": "text"}
    return {"type": "scatter", "meta": group, "x": list(x), "y": list(y), **info, **look}


def marked_line(
    group: str,
    points: Iterable[tuple[float, float, str]],
    style: Style,
    **look: Any,  # noqa: ANN401 - JSON
) -> dict[str, Any]:
    """Return a line with markers through points: x, y, and what hovering shows; ``look`` changes the markers."""
    x, y, hovers = zip(*points, strict=True)
    line, marker = {"color": style.colour, "width": 1.8}, {"symbol": style.symbol, "size": 7, "color": style.colour}
    return scatter(group, x, y, hovers, mode="lines+markers", line=line, marker=marker | look)


def dot_traces(
    dots: Sequence[Dot], styles: Mapping[str, Style], *, upright: bool = False
) -> tuple[list[dict[str, Any]], list[KeyEntry]]:
    """Draw groups of dots with their intervals, values to the right or upright, and make the key of those with dots."""
    groups = {group: [dot for dot in dots if dot.group == group] for group in styles}
    shown = {group: style for group, style in styles.items() if groups[group]}
    data = [_dots(style, groups[group], upright=upright) for group, style in shown.items()]
    return data, [style.entry(group) for group, style in shown.items()]


def _dots(style: Style, dots: Sequence[Dot], *, upright: bool) -> dict[str, Any]:
    (group, *_), estimates, places, hovers = zip(*dots, strict=True)
    values = [each.value for each in estimates]
    bars = interval_bars(estimates, style.bar_colour or style.colour, style.bar)
    x, y = (places, values) if upright else (values, places)
    marker = {"symbol": style.symbol, "size": style.size, "color": style.colour, **style.marker}
    return scatter(group, x, y, hovers, mode="markers", marker=marker, **{"error_y" if upright else "error_x": bars})


def interval_bars(estimates: Sequence[Estimate], colour: str, thickness: float) -> dict[str, Any]:
    """Return plotly's bars for the intervals of a trace's points; a point without one has none."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [each.high - each.value if each.has_interval else 0.0 for each in estimates],
        "arrayminus": [each.value - each.low if each.has_interval else 0.0 for each in estimates],
        "color": colour,
        "thickness": thickness,
        "width": 0,
    }


def offsets(n: int) -> list[float]:
    """Place several marks of one row above each other, around its middle."""
    return [_SPREAD * (place / (n - 1) - 0.5) if n > 1 else 0.0 for place in range(n)]


def base_layout(x_title: str, y_title: str, *, height: int) -> dict[str, Any]:
    """Return the plotly layout that all figures have in common."""
    return {
        "height": height,
        "margin": {"l": 58, "r": 14, "t": 26, "b": 46},
        "hovermode": "closest",
        "showlegend": False,
        "xaxis": {"title": {"text": plot_text(x_title)}, "showgrid": False},
        "yaxis": {"title": {"text": plot_text(y_title)}, "showgrid": True},
        "shapes": [],
        "annotations": [],
    }


class Row(NamedTuple):
    """A row of the vertical axis: its label on a wide and on a narrow screen, escaped for plotly, and its language."""

    text: str
    short: str
    code: str = ""


def named_rows(names: Iterable[str], *, bold: Container[str] = ()) -> list[Row]:
    """Make rows with labels that are the same on every screen, some of them bold."""
    texts = [f"<b>{plot_text(name)}</b>" if name in bold else plot_text(name) for name in names]
    return [Row(text, text) for text in texts]


def language_rows(codes: Sequence[str]) -> list[Row]:
    """Make rows of languages; an empty code is the mean over them."""
    names = short_names(filter(None, codes))
    mean = Row(f"<b>{OVERALL}</b>", "<b>mean</b>")
    return [Row(plot_text(names[code]), plot_text(code), code) if code else mean for code in codes]


class RowScale(NamedTuple):
    """Height of a row and size of its label in pixels; whether rows are too many for more than one mark each."""

    height: int
    font: int
    is_crowded: bool = False


def row_scale(n_rows: int) -> RowScale:
    """Choose the height of rows, each with its label: comfortable for a few, then lower."""
    few, many = 24, 80
    height = 22 if n_rows <= few else 14 if n_rows <= many else 12
    return RowScale(height, min(12, height - 3), n_rows > many)


def row_axis(rows: Sequence[Row], font: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Label rows, the first at the top: the vertical axis, and changes for a narrow screen."""
    ticks = {"tickmode": "array", "tickvals": list(range(len(rows))), "ticktext": [row.text for row in rows]}
    look = {"ticks": "", "ticklabelstandoff": 4, "showline": False, "showgrid": False, "tickfont": {"size": font}}
    narrow = {"yaxis.ticktext": [row.short for row in rows], "yaxis.tickfont.size": min(10, font)}
    return {**ticks, **look, "range": [len(rows) - 0.5, -0.5]}, narrow


@dataclass(frozen=True)
class RowPlot:
    """What a figure of rows shows, values to the right; anchor, title, caption and half are those of the `Figure`."""

    anchor: str
    title: str
    caption: str
    unit: str
    rows: Sequence[Row]
    dots: Sequence[Dot]  # their places are those of rows
    styles: Mapping[str, Style]
    axis: Mapping[str, Any] = field(default_factory=lambda: ZERO_LINE)  # changes to the horizontal axis
    height: int = 0  # of a row in pixels; by default as `row_scale` says
    half: bool = False


def row_figure(plot: RowPlot, *, below: Sequence[dict[str, Any]] = ()) -> Figure:
    """Draw dots with their intervals in rows, every second one shaded, over the traces ``below``."""
    data, key = dot_traces(plot.dots, plot.styles)
    n, scale = len(plot.rows), row_scale(len(plot.rows))
    layout = base_layout(plot.unit, "", height=_FRAME + (plot.height or scale.height) * n)
    axis, narrow = row_axis(plot.rows, 12 if plot.height else scale.font)
    layout["yaxis"].update(axis)
    layout["xaxis"].update(showgrid=True, **plot.axis)
    stripe = {"type": "rect", "xref": "paper", "yref": "y", "x0": 0, "x1": 1, "layer": "below", "line": {"width": 0}}
    layout["shapes"] = [{**stripe, "y0": at - 0.5, "y1": at + 0.5, "fillcolor": WASH} for at in range(0, n, 2)]
    languages = {place: row.code for place, row in enumerate(plot.rows) if row.code}
    data = [*below, *data]
    return Figure(plot.anchor, plot.title, plot.caption, data, layout, narrow, key, languages, half=plot.half)
