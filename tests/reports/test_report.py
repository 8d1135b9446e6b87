"""The report: one file that loads nothing, escapes everything, and says what it does not know."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Callable
from dataclasses import replace

import plotly.graph_objects as go
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_samples import (
    ATTACK,
    CODES,
    Page,
    analysis,
    curve,
    evaluation,
    full,
    hostile,
    manifest,
    typed,
    typed_table,
)

from isogloss.errors import FileError, RunError
from isogloss.reports import Report, render_report, write_report
from isogloss.reports.figures import MAX_COLOURS, language_styles
from isogloss.reports.provenance import flat
from isogloss.reports.text import label, number, p_value, plain, plot_text, sample_size, three_digits, with_interval
from isogloss.statistics import Estimate


def strings(json_part: object) -> list[str]:
    """Every string inside JSON."""
    if isinstance(json_part, str):
        return [json_part]
    children = json_part.values() if isinstance(json_part, dict) else json_part if isinstance(json_part, list) else ()
    return [text for child in children for text in strings(child)]


def test_full_report_says_everything_in_order() -> None:
    """The curve comes first, then the findings, the analysis, experts, steering and provenance."""
    text = Page(render_report(full())).text
    places = [
        text.index(said)
        for said in (
            "Divergence from English (eng_Latn) by layer",
            "The middle layers are shared.",
            "Routing entropy by layer",
            "Routing consistency by layer",
            "Accuracy and divergence by layer",
            "1 expert found; 0.2 expected by chance",
            "Change in accuracy by language",
            "As recorded in manifest.json",
        )
    ]
    assert places == sorted(places)


def test_minimal_report_has_findings_and_provenance_only() -> None:
    """A report without results still renders, and draws nothing."""
    page = Page(render_report(Report("Empty", (), {"model": "m"})))
    assert not page.drawings
    assert "Provenance" in page.text
    assert "Divergence" not in page.text


def test_analysis_with_required_fields_only_renders() -> None:
    """Everything but pivot, experts and divergence is optional."""
    bare = {"pivot": "eng_Latn", "n_experts": 4, "divergence": {"swh_Latn": curve(0.1)}}
    page = Page(render_report(Report("Bare", (), {}, analysis=typed(bare))))
    assert len(page.drawings) == 1


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda: typed({"pivot": "eng_Latn", "divergence": {}}), r"analysis\.json: n_experts: missing"),
        (lambda: typed({**analysis(), "n_experts": "many"}), r"analysis\.json: n_experts: Input should be a valid int"),
        (lambda: typed_table(experts=[{"layer": 1}]), r"experts\.json: experts\.0\.expert: missing"),
    ],
)
def test_missing_field_is_named_with_its_file(read: Callable[[], object], message: str) -> None:
    """A result that is not what the command writes is refused, naming the field by its path."""
    with pytest.raises(RunError, match=message):
        read()


def test_every_drawing_is_valid_plotly() -> None:
    """Plotly's own validation accepts each figure (unknown properties raise)."""
    drawings = Page(render_report(full())).drawings
    assert len(drawings) == 8
    for drawing in drawings:
        go.Figure({"data": drawing["data"], "layout": drawing["layout"]})


def test_page_loads_nothing_from_the_network() -> None:
    """No element points elsewhere, and the policy forbids every request and every script but the page's own."""
    page = render_report(full())
    rendered = Page(page)
    for tag, attributes in rendered.elements:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            target = attributes.get(name) or ""
            assert not target or target.startswith(("#", "data:")), (tag, target)
    policy = next(attributes["content"] for _, attributes in rendered.elements if "http-equiv" in attributes)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert policy.count("'sha256-") == rendered.scripts == 1
    own = page.replace("http://www.w3.org/2000/svg", "")  # a name, which nothing loads
    assert len(own) < 300_000
    assert "http:" not in own
    assert "https:" not in own
    assert "@import" not in own


def test_markup_from_outside_is_shown_and_not_run() -> None:
    """A script as model name, language, rule, control or finding stays text in the page and in plotly's labels."""
    page = render_report(hostile())
    rendered = Page(page)
    assert ATTACK not in page
    assert rendered.scripts == 1
    assert rendered.text.count(ATTACK) > 10
    inside = strings(rendered.drawings)
    assert any(html.escape(ATTACK) in text for text in inside)
    shown = [
        text for drawing in rendered.drawings for trace in drawing["data"] for text in strings(trace.get("hovertext"))
    ]
    assert shown
    for text in [*shown, *strings([drawing["layout"] for drawing in rendered.drawings])]:
        assert "<script" not in text


@given(st.text(max_size=40))
def test_plot_text_round_trips_through_one_decoding(text: str) -> None:
    """Escaped text has no tag, and decoding entities once gives the text without control characters."""
    escaped = plot_text(text)
    assert "<" not in escaped
    assert html.unescape(escaped) == html.unescape(html.escape(plain(text)))
    assert not re.search(r"[\x00-\x1f]", escaped)


def test_pooled_counts_have_no_band_and_say_so() -> None:
    """Null ends draw no band; figures and tables state that pooled counts carry no interval."""
    curves = {code: curve(0.1, with_interval=False, n=1) for code in CODES[1:]}
    pooled = analysis(granularity="pooled", divergence=curves, shuffled={}, entropy={}, consistency={}, correlation=[])
    pooled["middle_layers"] = {"start": 2, "end": 4, "start_interval": None, "end_interval": None}
    page = Page(render_report(replace(full(), analysis=typed(pooled), experts=(), evaluation=None)))
    (drawing,) = page.drawings
    assert not [trace for trace in drawing["data"] if trace.get("fill")]
    assert page.text.count("no interval: pooled counts") == 2
    assert "bootstrap" not in page.text


def test_intervals_are_stated_with_level_n_and_resamples() -> None:
    """Each caption names n, the level and the bootstrap."""
    page = Page(render_report(full()))
    assert "n = 40 parallel items; intervals: 95 % bootstrap over items, 1,000 resamples." in page.text
    assert "n = 40 items; intervals: 90 % bootstrap over items, 1,000 resamples." in page.text
    assert "n = 250 items per language; intervals: 95 % by Wilson (shares) and Tango (differences)." in page.text


def test_band_breaks_where_an_interval_is_missing() -> None:
    """A layer without an interval splits the band into two outlines."""
    points = curve(0.1)
    points[3] = {**points[3], "low": None, "high": float("nan")}
    page = Page(render_report(replace(full(), analysis=typed(analysis(divergence={"swh_Latn": points})))))
    (band,) = [trace for trace in page.drawings[0]["data"] if trace.get("fill")]
    assert band["x"] == [0, 1, 2, 2, 1, 0, None, 4, 5, 5, 4]


def test_one_language_draws_one_line() -> None:
    """A single language besides the pivot has a line, a band and the noise ceiling, and no map."""
    page = Page(render_report(replace(full(), analysis=typed(analysis(CODES[:2])), evaluation=None)))
    assert len(page.drawings[0]["data"]) == 3
    assert "every language" not in page.text


def test_sixty_languages_stay_readable() -> None:
    """Many languages: six in colour, the rest in grey, a map with a row for each, and all numbers in the table."""
    codes = ("eng_Latn", *(f"language {place:02d}" for place in range(59)))
    page = Page(render_report(replace(full(), analysis=typed(analysis(codes)), evaluation=evaluation(codes))))
    lines, rows = page.drawings[0]["data"], page.drawings[1]["data"][0]
    assert sum("markers" in trace["mode"] for trace in lines) == 6
    assert "53 other languages" in page.text
    assert len(rows["y"]) == 59
    assert all(code in page.text for code in codes[1:])


def test_differences_are_sorted_and_tabled() -> None:
    """The greatest difference is on top in the figure and first in the table, after all languages together."""
    page = Page(render_report(full()))
    axis = page.drawings[-1]["layout"]["yaxis"]
    assert axis["ticktext"] == ["<b>Mean over languages</b>", "Chinese", "Bengali", "Swahili", "English"]
    assert (axis["tickvals"], axis["range"]) == ([0, 1, 2, 3, 4], [4.5, -0.5])
    assert (
        "Chinese (Simplified) (zho_Hans)25050.0 [49.0, 51.0]56.0 [55.0, 57.0]+6.0 [+5.0, +7.0]0.0040.012" in page.text
    )


def test_middle_layers_are_shaded_with_their_edges() -> None:
    """The shading covers the middle layers, and an edge that moves over resamples has a bar."""
    shapes = Page(render_report(full())).drawings[0]["layout"]["shapes"]
    assert [(shape["x0"], shape["x1"]) for shape in shapes] == [(1.5, 4.5), (0.5, 1.5)]


def test_expert_map_places_each_expert() -> None:
    """A found expert has the statistic in its cell; all other cells are blank."""
    drawing = next(one for one in Page(render_report(full())).drawings if len(one["data"][0].get("z", ())) == 16)
    cells = {(x, y): value for y, row in enumerate(drawing["data"][0]["z"]) for x, value in enumerate(row) if value}
    assert cells == {(2, 3): 0.41}
    hover = drawing["data"][0]["hovertext"][3][2]
    assert hover == "<b>layer 2, expert 3</b><br>difference of selection rates 0.410 [0.350, 0.470]"


def test_what_was_refused_is_said_with_its_reason() -> None:
    """A metric that could not be computed is named with why, and its figure is absent."""
    refused = analysis(consistency={}, consistency_chance=[], refused={"consistency": "consistency needs items"})
    text = Page(render_report(replace(full(), analysis=typed(refused)))).text
    assert "Not computed: consistency needs items." in text
    assert "Routing consistency" not in text


def test_a_rule_that_found_nothing_says_so() -> None:
    """No expert: a sentence, and no figure."""
    page = Page(render_report(Report("None", (), manifest(), experts=(typed_table(experts=[]),))))
    assert "0 experts found; 0.2 expected by chance" in page.text
    assert not page.drawings


def test_long_expert_table_is_cut_and_says_so() -> None:
    """More experts than the table lists: the greatest are kept, and the caption says that some are left out."""
    rows = [
        {"layer": at % 6, "expert": at // 6, "statistic": 0.001 * at, "low": None, "high": None} for at in range(600)
    ]
    text = Page(render_report(Report("Many", (), manifest(), experts=(typed_table(experts=rows),)))).text
    assert "The 500 with the greatest statistics are listed" in text


def test_provenance_lists_every_field_of_the_manifest() -> None:
    """Each value of the manifest is in the page; equal routers are said once."""
    text = Page(render_report(full())).text
    assert "corpus.licenceCC0-1.0" in text
    assert "routers, layers 0–5n_experts 16; top_k 2; scoring softmax" in text
    assert "12,345" in text
    assert "numpy2.4.6" in text
    assert dict(flat({"a": {"b": [1, 2, 3, 7], "c": None}, "d": {}})) == {"a.b": "1–3, 7", "a.c": "none", "d": "none"}


def test_model_given_by_its_fingerprint_is_in_the_provenance_only() -> None:
    """The settings of an evaluation name the model by an object; it is listed, not printed as code."""
    text = Page(render_report(replace(full(), manifest={"model": {"model_type": "olmoe", "n_experts": 64}}))).text
    assert "model.model_typeolmoe" in text
    assert "{" not in text


def test_partial_run_is_announced() -> None:
    """A run whose capture has not finished is marked at the top."""
    assert "The run is partial" in Page(render_report(replace(full(), manifest=manifest(status="partial")))).text
    assert "The run is partial" not in Page(render_report(full())).text


def test_notes_of_the_manifest_come_first() -> None:
    """What a reader must know about the numbers stands above the findings."""
    text = Page(render_report(replace(full(), manifest=manifest(notes=["Counts were rounded."])))).text
    assert text.index("Counts were rounded.") < text.rindex("Findings")


def test_equal_reports_give_equal_pages() -> None:
    """Nothing in the page depends on the time or the machine."""
    assert render_report(full()) == render_report(full())


def test_write_replaces_the_old_file_as_a_whole(tmp_path) -> None:
    """The folder is made, and nothing but the report stays in it."""
    path = tmp_path / "new" / "report.html"
    write_report(path, full())
    assert path.read_text(encoding="utf-8") == render_report(full())
    assert list(path.parent.iterdir()) == [path]


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch) -> None:
    """A disk that fails while writing leaves the old report untouched and no remains."""
    path = tmp_path / "report.html"
    old = '<meta name="generator" content="isogloss">old'
    path.write_text(old, encoding="utf-8")

    def fail(_: int) -> None:
        raise OSError(28, "disk full")

    monkeypatch.setattr("isogloss.files.os.fsync", fail)
    with pytest.raises(FileError, match="cannot write"):
        write_report(path, full())
    assert path.read_text(encoding="utf-8") == old
    assert list(tmp_path.iterdir()) == [path]


def test_folder_that_cannot_be_made_is_named(tmp_path) -> None:
    """A file where the folder should be is an error that says what to do."""
    (tmp_path / "taken").write_text("", encoding="utf-8")
    with pytest.raises(FileError, match=r"cannot make the folder .*choose another place"):
        write_report(tmp_path / "taken" / "report.html", full())


def test_refused_report_writes_nothing(tmp_path, monkeypatch) -> None:
    """What cannot be drawn is refused before the disk is touched."""

    def refuse(_report: Report) -> str:
        raise RunError("no")

    monkeypatch.setattr("isogloss.reports.page.render_report", refuse)
    with pytest.raises(RunError):
        write_report(tmp_path / "new" / "report.html", full())
    assert not (tmp_path / "new").exists()


@settings(max_examples=50)
@given(
    st.sets(st.sampled_from([f"{first}{second}a_Latn" for first in "abcdef" for second in "xyz"]), max_size=MAX_COLOURS)
)
def test_languages_never_share_a_colour(codes: set[str]) -> None:
    """Up to eight languages have eight colours and markers, and the order in which they are given does not matter."""
    styles = language_styles(codes, "eng_Latn")
    assert set(styles) == codes | {"eng_Latn"}
    assert len({style.colour for style in styles.values()}) == len(styles)
    assert len({style.symbol for style in styles.values()}) == len(styles)
    assert styles == language_styles(sorted(codes, reverse=True), "eng_Latn")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (number(0.1234), "0.123"),
        (number(-1.5), "−1.500"),
        (number(-0.00096), "−0.00096"),
        (number(0.00114), "0.0011"),
        (number(0.0123), "0.012"),
        (number(0.00012), "0.00012"),
        (number(0.0000996), "0.00010"),
        (number(0.000032), "3.2×10⁻⁵"),
        (number(-0.00000952), "−9.5×10⁻⁶"),
        (number(-2e-12), "−2.0×10⁻¹²"),
        (number(0.0), "0.000"),
        (number(None), "–"),
        (number(math.nan), "–"),
        (p_value(0.0004), "< 0.001"),
        (three_digits(12.345), "12.3"),
        (three_digits(-0.000123), "−0.000123"),
        (three_digits(0.0000321), "3.21×10⁻⁵"),
        (three_digits(0.0), "0"),
        (sample_size([200, None, 180]), "n = 180 to 200"),
        (sample_size([None]), "n not stated"),
        (label("swh_Latn"), "Swahili (swh_Latn)"),
        (label("not a language"), "not a language"),
        (with_interval(Estimate(0.5, 0.4, 0.6, 9)), "0.500 [0.400, 0.600]"),
        (with_interval(Estimate(0.5, math.nan, math.nan, 9)), "0.500"),
        (plain("a\u202eb\nc"), "a b c"),
    ],
)
def test_numbers_and_names_are_written_alike(written: str, expected: str) -> None:
    """Numbers, sizes and names have one spelling each."""
    assert written == expected
