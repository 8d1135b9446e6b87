"""Drawings: marks lie where the values say, pictures hold the cells, and colours can be told apart on any page."""

from __future__ import annotations

import base64
import itertools
import math
import re
import struct
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from report_samples import CODES, Page, analysis, arms_evaluation, full, parts, typed

from isogloss.reports import Report, render_report
from isogloss.reports.axes import make_axis, text_width
from isogloss.reports.curves import LinePlot
from isogloss.reports.effect_figures import level_figure
from isogloss.reports.figures import Figure, base_layout, ordered_styles, scatter
from isogloss.reports.maps import heat_map, language_map
from isogloss.reports.marks import marker_path
from isogloss.reports.page import plot
from isogloss.reports.palette import COLOURS, paint
from isogloss.reports.raster import colour_at, picture
from isogloss.reports.svg import NARROW, WIDE, describe, draw
from isogloss.statistics import Estimate

if TYPE_CHECKING:
    from numpy.typing import NDArray

TEXT = re.compile(r'<text x="([-.0-9]+)" y="([-.0-9]+)"[^>]*>([^<]*)</text>')

SCALE = [(0.0, "#000000"), (0.5, "#808080"), (1.0, "#ffffff")]
MARKS = [ends for name, ends in COLOURS.items() if re.fullmatch(r"c\d|ink|grey|control|line", name)]

# Machado, Oliveira and Fernandes (2009), severity 1: protanopia, deuteranopia, tritanopia; on linear RGB.
VISIONS = {
    "usual": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def figure(*data: dict[str, object], **layout: object) -> Figure:
    """A figure of some traces."""
    return Figure("it", "It", "", data, {**base_layout("x", "y", height=300), **layout})


def linear(colour: str) -> NDArray[np.float64]:
    """Linear RGB of a ``#rrggbb`` colour."""
    values = np.frombuffer(bytes.fromhex(colour[1:]), np.uint8) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    """Contrast by WCAG 2."""
    low, high = sorted(float(linear(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


def lab(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """CIELAB of linear RGB, D65."""
    matrix = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    xyz = np.array(matrix) @ rgb / [0.95047, 1, 1.08883]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def pixels(address: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Levels of a picture that `picture` wrote, and its palette with opacity; filters 0 (none) and 2 (up)."""
    data, parts_ = base64.b64decode(address.removeprefix("data:image/png;base64,")), {}
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    at = 8
    while at < len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        name, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        assert struct.unpack(">I", data[at + 8 + size : at + 12 + size])[0] == zlib.crc32(name + body)
        parts_[name] = body
        at += 12 + size
    width, height = struct.unpack(">II", parts_[b"IHDR"][:8])
    rows = np.frombuffer(zlib.decompress(parts_[b"IDAT"]), np.uint8).reshape(height, width + 1)
    levels = rows[:, 1:].copy()
    for row in range(height):
        assert rows[row, 0] in (0, 2)
        if rows[row, 0] == 2:
            levels[row] += levels[row - 1]
    palette = np.frombuffer(parts_[b"PLTE"], np.uint8).reshape(-1, 3)
    return levels, np.column_stack([palette, np.frombuffer(parts_[b"tRNS"], np.uint8)])


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(60, 900))
@example(1.0, 400_001.0, 60)  # no multiple of the step that is few enough lies inside
def test_ticks_are_few_even_and_inside(low: float, width: float, length: int) -> None:
    """At least one, no more than fit, evenly spaced, and none beyond the ends."""
    axis = make_axis({"range": [low, low + width]}, (), (0, length))
    ticks = [tick.value for tick in axis.ticks]
    assert 1 <= len(ticks) <= max(3, length / 60 + 1)
    slack = 1e-6 * width + 1e-9 * abs(low)
    assert all(low - slack <= tick <= low + width + slack for tick in ticks)
    assert np.allclose(np.diff(ticks, 2), 0, atol=10 * slack)


def test_one_tick_is_not_alone_where_more_fit() -> None:
    """Two ticks at least show a scale, on an axis of the width of a phone."""
    for low in np.linspace(-0.9, 0.9, 37):
        assert len(make_axis({"range": [low, low + 1.2]}, (), (0, 300)).ticks) > 1


def test_layers_have_whole_ticks() -> None:
    """A short axis of whole numbers has no tick between two of them."""
    axis = make_axis({"range": [-0.5, 2.5]}, [0, 1, 2], (0, 900))
    assert [tick.text for tick in axis.ticks] == ["0", "1", "2"]


def test_ticks_have_a_minus_sign() -> None:
    """No hyphen stands for a minus."""
    texts = [tick.text for tick in make_axis({"range": [-2, 2]}, (), (0, 900)).ticks]
    assert texts[0].startswith("−")
    assert "0" in texts


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_points_lie_where_their_values_say(width: int) -> None:
    """The corners of a line, mapped back by the scales that hovering uses, are the data; a gap breaks the line."""
    x, y = [0, 1, 2, 3, 4], [0.1, 0.4, None, 0.2, 0.3]
    drawn = draw(figure(scatter("g", x, y, mode="lines", line={"color": "#0560ce"})), width, "wide")
    path = re.search(r'data-g="g"><path d="([^"]+)"', drawn)[1]
    scales = {
        name: [float(each) for each in re.search(rf'data-{name}="([^"]+)"', drawn)[1].split(",")] for name in "xy"
    }
    points = [
        [
            low + (high - low) * (pixel - start) / (end - start)
            for pixel, (low, high, start, end) in zip(pair, scales.values(), strict=True)
        ]
        for run in path.split("M")[1:]
        for corner in run.split("L")
        for pair in [list(map(float, corner.split()))]
    ]
    assert path.count("M") == 2
    expected = [(at, up) for at, up in zip(x, y, strict=True) if up is not None]
    np.testing.assert_allclose(points, expected, atol=0.002 * 4)


def test_intervals_are_as_long_as_they_are() -> None:
    """Both ends of a bar lie at the ends of the interval."""
    bars = {"array": [0.3], "arrayminus": [0.1], "color": "#0560ce"}
    trace = scatter("g", [0.5], [1], ["t"], mode="markers", error_x=bars)
    drawn = draw(figure(trace, xaxis={**base_layout("x", "", height=1)["xaxis"], "range": [0, 1]}), WIDE, "wide")
    low, _, high = re.search(r'<g data-g="g"><path d="M([\d.]+) ([\d.]+)H([\d.]+)"', drawn).groups()
    start, end = map(float, re.search(r'data-x="0,1,([\d.]+),([\d.]+)"', drawn).groups())
    found = [(float(pixel) - start) / (end - start) for pixel in (low, high)]
    assert found == pytest.approx([0.4, 0.8], abs=1e-3)


@given(st.integers(1, 5), st.integers(1, 5), st.randoms())
def test_picture_holds_the_cells(height: int, width: int, random: object) -> None:
    """Each cell is a block of one level, between the ends of the scale; an unknown cell is clear."""
    cells = [[random.choice([None, math.nan, 0.0, 0.25, 1.0]) for _ in range(width)] for _ in range(height)]  # type: ignore[attr-defined]
    levels, palette = pixels(picture(cells, SCALE, 0.0, 1.0))
    blocks = levels.reshape(height, levels.shape[0] // height, width, levels.shape[1] // width)
    for row, column in itertools.product(range(height), range(width)):
        block, value = blocks[row, :, column, :], cells[row][column]
        assert (block == block[0, 0]).all()
        red, *_, opacity = palette[block[0, 0]].tolist()
        assert opacity == (0 if value is None or math.isnan(value) else 255)
        if opacity:
            assert red == pytest.approx(colour_at(SCALE, value)[0], abs=1)


@pytest.mark.parametrize("upwards", [True, False])
def test_heat_map_stands_as_its_axis_does(upwards: bool) -> None:  # noqa: FBT001 - a parameter
    """The first row is at the bottom of an axis that goes up, and at the top of one that goes down."""
    trace = heat_map([0, 1], [0, 1], [[0.0, 0.0], [1.0, 1.0]], "u", zmin=0, zmax=1)
    axis = {**base_layout("", "", height=1)["yaxis"], "range": [-0.5, 1.5] if upwards else [1.5, -0.5]}
    levels, _ = pixels(re.search(r'href="([^"]+)"', draw(figure(trace, yaxis=axis), WIDE, "wide"))[1])
    assert bool(levels[0, 0] < levels[-1, 0]) == (not upwards)


def test_reversed_scale_is_dark_where_values_are_low() -> None:
    """All maps of divergence are dark where languages are routed alike."""
    shown = typed({**analysis(), **parts()})
    assert plot(shown, "tree-1").data[0].colorscale[0][1] == "#0b2f5e"
    codes = ("eng_Latn", *(f"l{place:02d}" for place in range(12)))
    assert plot(typed(analysis(codes)), "language-map").data[0].colorscale[0][1] == "#0b2f5e"


@pytest.mark.parametrize("dark", [False, True])
def test_marks_can_be_seen_and_told_apart(dark: bool) -> None:  # noqa: FBT001 - a parameter
    """Contrast of 3 with the page, and CIELAB distances above 20 between languages, for every colour vision."""
    page = COLOURS["paper"][dark]
    shades = {ends[0]: ends[dark] for ends in MARKS}
    assert min(contrast(shade, page) for shade in shades.values()) >= 3
    looks = [shades[style.colour] for style in ordered_styles(map(str, range(8))).values()]
    for vision in VISIONS.values():
        seen = [lab(np.clip(np.array(vision) @ linear(colour), 0, 1)) for colour in looks]
        assert min(np.linalg.norm(one - other) for one, other in itertools.combinations(seen, 2)) > 20


def test_colours_of_marks_have_counterparts_in_the_dark() -> None:
    """No figure of a full report draws a line or a marker in a colour that only fits a light page."""
    shown = replace(full(), analysis=typed({**analysis(), **parts()}), evaluation=arms_evaluation())
    drawings = re.findall(r"<svg.*?</svg>", render_report(shown), re.DOTALL)
    assert len(drawings) > 25
    literal = {colour for drawing in drawings for colour in re.findall(r'(?:fill|stroke)="(#\w+)"', drawing)}
    assert not literal
    assert paint("rgba(5,96,206,0.16)") == ("var(--c1)", 0.16)


def test_every_figure_says_what_it_shows() -> None:
    """Each drawing has a text for those who do not see it, with the ends of what is drawn."""
    page = Page(render_report(replace(full(), analysis=typed({**analysis(), **parts()}))))
    texts = [attributes["aria-label"] for tag, attributes in page.elements if tag == "svg"]
    assert all(text and len(text) > 30 for text in texts)
    assert any("Swahili (swh_Latn): 0.105 to 0.225." in text for text in texts)
    assert describe(figure(heat_map([0], [0], [[0.25]], "unit"))) == (
        "It. Heat map of 1 rows by 1 columns: unit, from 0.25 to 0.25."
    )


def test_names_are_kept_at_every_width() -> None:
    """Each language's name or code is written beside its row, however narrow the drawing."""
    page = render_report(replace(full(), analysis=typed({**analysis(), **parts()})))
    ranges = re.search(r'id="middle-ranges".*?</figure>', page, re.DOTALL)[0]
    wide, narrow = re.findall(r"<svg.*?</svg>", ranges, re.DOTALL)
    assert all(f">{name}</text>" in wide for name in ("Swahili", "Bengali", "Chinese"))
    assert all(f">{code}</text>" in narrow for code in CODES[1:])


@pytest.mark.parametrize(
    "symbol",
    ["circle", "square", "diamond", "triangle-up", "triangle-down", "pentagon", "star-diamond", "cross", "x", "x-open"],
)
def test_markers_lie_around_their_point(symbol: str) -> None:
    """A marker is about as large as asked for, and its middle is the point."""
    path = marker_path(symbol, 100.0, 50.0, 8)
    if symbol == "circle":
        assert path == "M96.0 50.0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0"
        return
    corners = np.array([list(map(float, corner.split())) for corner in path[1:-1].split("L")]) - [100, 50]
    assert np.abs(corners).max() == pytest.approx(4.5, abs=1)
    assert np.abs(corners.mean(axis=0)).max() < 1


def test_traces_that_cannot_be_drawn_are_refused() -> None:
    """A kind of trace that would be left out silently is an error."""
    with pytest.raises(ValueError, match="found a trace of type 'bar'"):
        draw(figure({"type": "bar", "x": [0], "y": [1]}), WIDE, "wide")


def test_width_of_text_counts_letters_of_all_scripts() -> None:
    """An entity is one letter, tags are none, and bold letters and Han characters are wider."""
    assert text_width("a&lt;b", 10) == text_width("abc", 10) < text_width("<b>abc</b>", 10) < text_width("abcd", 10)
    assert text_width("漢字", 10) > text_width("ab", 10)


def test_page_is_small_and_draws_without_scripts() -> None:
    """A report of a few languages is far below a megabyte, and its figures are in the page itself."""
    page = render_report(Report("Small", (), {}, analysis=typed(analysis())))
    assert len(page) < 300_000
    assert page.count("<svg") >= 4


def test_a_title_lies_below_upright_labels():
    """By more than the widest label is long, and inside the drawing."""
    names = ["a", "a language with a very long name"]
    upright = {"tickmode": "array", "tickvals": [0, 1], "ticktext": names, "tickangle": -90, "range": [-0.5, 1.5]}
    drawn = figure(scatter("one", [0, 1], [1, 2], mode="markers"))
    drawn.layout["xaxis"].update(upright)
    places = {text: (float(x), float(y)) for x, y, text in TEXT.findall(draw(drawn, WIDE, "it"))}
    tops = places[names[1]][1]
    assert tops + text_width(names[1], 12) < places["x"][1] + 2
    assert places["x"][1] < 300


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_changes_are_written_beside_the_levels(width: int) -> None:
    """The longest change of a share begins right of a mark at 100 %."""
    told = arms_evaluation()
    longest = Estimate(-0.125, -0.471, 0.324, 8)
    each = {code: replace(row, difference=longest) for code, row in told.per_language.items()}
    summary = replace(told, per_language=each, overall=replace(told.overall, difference=longest))
    drawn = draw(level_figure(summary, caption=""), width, "any")
    places = re.findall(r'<text x="([.0-9]+)" y="[.0-9]+" font-size="(\d+)"[^>]*>([^<]*\[[^<]*)</text>', drawn)
    assert len(places) == 1 + len(CODES)
    begin = min(float(x) - text_width(text, float(size)) for x, size, text in places)
    low, high, start, end = map(float, re.search(r'data-x="([^"]+)"', drawn)[1].split(","))
    assert begin > start + (end - start) * (100 - low) / (high - low) + 5


def test_a_map_of_layers_shows_whole_cells():
    """Its axis ends where the first and the last layer's cells end."""
    curve = {layer: Estimate(0.1, 0.0, 0.2, 5) for layer in range(2, 6)}
    drawn = language_map(LinePlot("map", "Map", "", "divergence", {"deu_Latn": curve, "swh_Latn": curve}))
    assert drawn.layout["xaxis"]["range"] == [1.5, 5.5]
