"""The report on what a whole analysis prints: language structure, resources, controls, domains, middles."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from report_samples import ATTACK, CODES, Numbers, Page, analysis, curve, full, parts, typed

from isogloss.analysis import AnalysisRequest, analyze_run
from isogloss.analysis.tree import language_tree
from isogloss.errors import RunError
from isogloss.reports import Report, render_report, report_on
from isogloss.reports.figures import row_scale
from isogloss.reports.maps import branches
from isogloss.reports.sentences import describe_run
from isogloss.reports.structure import MOST_PAIRS
from isogloss.reports.text import number
from isogloss.statistics import Resampling
from isogloss.workflows.analysis import write_analysis
from known_answers.simulation import simulate_run, simulate_task_run
from known_answers.worlds import SimulatedLanguage, SimulatedWorld

SECTIONS = ("Middle layers by language", "Language structure", "Resources", "Controls", "Task and domain")


def page(codes: tuple[str, ...] = CODES, **changes: object) -> Page:
    """A report with all parts of an analysis, some of them changed."""
    raw = {**analysis(codes), **parts(codes), **changes}
    return Page(render_report(replace(full(), analysis=typed(raw), experts=(), evaluation=None)))


def many(n: int) -> tuple[str, ...]:
    """Codes of as many languages, the pivot first."""
    return ("eng_Latn", *(f"language {place:03d}" for place in range(n - 1)))


def drawn(rendered: Page, kind: str) -> list[dict[str, Any]]:
    """Drawings whose first trace is of a kind and compares languages with languages."""
    return [one for one in rendered.drawings if one["data"][0]["type"] == kind and "hovertemplate" in one["data"][0]]


def metas(drawing: dict[str, Any]) -> list[str | None]:
    """Groups of a drawing's traces."""
    return [trace.get("meta") for trace in drawing["data"]]


def blanked(part: Any, share: float, generator: np.random.Generator) -> Any:
    """Replace a share of the floats inside JSON by null."""
    if isinstance(part, dict):
        kept = ("resampling", "linkage", "rule", "consistency_chance", "divergence_ceiling")
        return {name: value if name in kept else blanked(value, share, generator) for name, value in part.items()}
    if isinstance(part, list):
        return [blanked(value, share, generator) for value in part]
    return None if isinstance(part, float) and generator.random() < share else part


def test_every_part_has_its_section_in_order() -> None:
    """Headings appear once each, after the divergence, and the older sections stay."""
    text = page().text
    places = [text.rindex(f"{title} ") for title in SECTIONS]
    assert places == sorted(places)
    assert "Accuracy and divergence by band" in text
    assert "Entropy and consistency" in text


def test_every_number_is_in_a_table_or_a_sentence() -> None:
    """No printed number is lost: each is found in the words of the page, as the report writes numbers."""
    numbers = Numbers()
    shown = " ".join(page(**parts(numbers=numbers)).visible)
    words = set(shown.translate({ord(sign): " " for sign in "[],;:()"}).split())
    missing = [value for value in numbers.given if {number(value), f"{number(value)}."}.isdisjoint(words)]
    assert len(numbers.given) > 800
    assert not missing


def test_figures_are_valid_plotly() -> None:
    """Plotly's own validation accepts each figure."""
    rendered = page()
    assert len(rendered.drawings) > 20
    for drawing in rendered.drawings:
        go.Figure({"data": drawing["data"], "layout": drawing["layout"]})
    anchors = [attributes["id"] for tag, attributes in rendered.elements if tag == "figure"]
    assert len(set(anchors)) == len(anchors)


@pytest.mark.parametrize("name", list(parts()))
@pytest.mark.parametrize("empty", [None, "absent"])
def test_every_part_may_be_missing(name: str, empty: str | None) -> None:
    """An older analysis, or one whose part was refused, gives a report without that part."""
    raw = {**analysis(), **parts()}
    if empty is None:
        raw[name] = None
    else:
        del raw[name]
    assert "Divergence from English" in Page(render_report(replace(full(), analysis=typed(raw)))).text


def test_older_analysis_gives_the_older_report() -> None:
    """Without the new fields no new section appears."""
    text = Page(render_report(full())).text
    assert not [title for title in SECTIONS if title in text]


@pytest.mark.parametrize("control", ["distinct", "hidden", "phases"])
def test_control_that_was_not_run_is_named(control: str) -> None:
    """The section says which controls are absent, and how to get them."""
    kept = {name: value for name, value in parts()["controls"].items() if name == control}
    text = page(controls=kept).text
    flags = {"distinct": "--distinct-from", "hidden": "--hidden-states", "phases": "--generation"}
    assert "Not shown, because it was not captured or not asked for" in text
    assert [flag in text for flag in flags.values()] == [name != control for name in flags]
    assert "Controls" not in page(controls={"distinct": None, "hidden": None, "phases": {}}).text


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_null_numbers_leave_gaps(share: float) -> None:
    """Numbers that are missing anywhere are dashes in tables and gaps in figures, and the page stays valid."""
    raw = {**analysis(), **parts()}
    holes = blanked(raw, share, np.random.default_rng(0))
    shown = Page(render_report(replace(full(), analysis=typed(holes))))
    assert "–" in shown.text
    assert "NaN" not in json.dumps(shown.drawings)
    described = [attributes["aria-label"] for tag, attributes in shown.elements if tag == "svg"]
    assert not {"nan", "None"} & set(" ".join([shown.text, *described]).split())


def test_markup_from_outside_stays_text() -> None:
    """A script as the name of a band, a reference, a measure, a corpus or a language is shown, and not run."""
    codes = (ATTACK, f"{ATTACK}2", *CODES)
    fields = {**analysis(codes), **parts(codes, word=ATTACK)}
    raw = render_report(replace(full(), analysis=typed(fields)))
    shown = Page(raw)
    assert ATTACK not in raw
    assert shown.scripts == 1
    assert shown.text.count(ATTACK) > 100
    for drawing in shown.drawings:
        for trace in drawing["data"]:
            trace.pop("meta", None)
        drawing.pop("rows")
        assert "<script" not in json.dumps(drawing, ensure_ascii=False)
    assert html.escape(ATTACK, quote=False) in json.dumps(shown.drawings, ensure_ascii=False)


def test_nothing_is_loaded() -> None:
    """The new sections bring no address, no style and no script of their own."""
    for tag, attributes in page().elements:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            target = attributes.get(name) or ""
            assert not target or target.startswith(("#", "data:")), (tag, target)


def test_heat_map_follows_the_leaves_of_the_tree() -> None:
    """Rows and columns are in the order of the tree; each cell is the divergence of its two languages."""
    raw = parts()
    first = drawn(page(**raw), "heatmap")[0]["data"][0]
    pairs, order = raw["pairs"], raw["structure"]["bands"]["early"]["tree"]["languages"]
    assert order == list(reversed(CODES))
    assert [name.split("(")[-1].rstrip(")") for name in first["x"]] == order
    assert first["y"] == first["x"]
    expected = [
        [
            None if one == other else pairs["bands"]["early"][CODES.index(one)][CODES.index(other)]
            for other in order
        ]
        for one in order
    ]  # fmt: skip
    assert first["z"] == expected


def test_heat_map_stays_without_a_tree() -> None:
    """Pairs without structure keep their order, and no tree is drawn."""
    maps = drawn(page(structure=None), "heatmap")
    assert [len(one["data"]) for one in maps] == [1, 1, 1]
    assert "xaxis2" not in maps[0]["layout"]


def test_branches_join_at_scipys_heights_without_crossing() -> None:
    """The highest place over any two leaves is their cophenetic distance, and a line never spans a foreign leaf."""
    from scipy.cluster.hierarchy import cophenet  # noqa: PLC0415 - the oracle of one test

    generator = np.random.default_rng(3)
    points = generator.normal(size=(12, 3))
    tree = language_tree(np.linalg.norm(points[:, None] - points, axis=-1), [f"l{i}" for i in range(12)])
    x, y = branches(tree.linkage.tolist())
    joins = [(x[at + 1], y[at : at + 4]) for at in range(0, len(x), 5)]
    assert [height for height, _ in joins] == tree.linkage[:, 2].tolist()
    expected = cophenet(tree.linkage)
    rows, columns = np.triu_indices(12, 1)
    members = [{leaf} for leaf in range(12)]
    for one, other, *_ in tree.linkage.tolist():
        members.append(members[int(one)] | members[int(other)])
        assert sorted(members[-1]) == list(range(min(members[-1]), max(members[-1]) + 1))
    heights = {
        pair: min(height for (height, _), group in zip(joins, members[12:], strict=True) if set(pair) <= group)
        for pair in zip(rows.tolist(), columns.tolist(), strict=True)
    }
    np.testing.assert_allclose(list(heights.values()), expected)
    for (_, places), group in zip(joins, members[12:], strict=True):
        assert min(group) <= min(places) <= max(places) <= max(group)


@pytest.mark.parametrize(("n", "half"), [(3, True), (14, False), (60, False), (204, False)])
def test_few_and_many_languages_stay_readable(n: int, half: bool) -> None:  # noqa: FBT001 - a parameter
    """Few stand side by side with named columns; of many, every row has its name."""
    rendered = page(many(n))
    first = drawn(rendered, "heatmap")[0]
    assert len(first["data"][0]["y"]) == n
    assert len(first["layout"]["yaxis"]["ticktext"]) == n
    assert first["layout"]["xaxis"].get("showticklabels", True) == (n <= 30)
    figure = next(
        attributes for tag, attributes in rendered.elements if tag == "figure" and attributes["id"] == "tree-1"
    )
    assert (figure.get("class") == "half") == half
    assert first["layout"]["height"] < 2600  # that of the map of languages by layers


def test_page_of_two_hundred_languages_is_of_reasonable_size() -> None:
    """All parts of 204 languages in six layers stay within 8 MB."""
    codes = many(204)
    text = render_report(
        replace(full(), analysis=typed({**analysis(codes), **parts(codes)}), experts=(), evaluation=None)
    )
    assert len(text.encode()) < 8_000_000


def test_rows_shrink_but_never_overlap() -> None:
    """Labels have as many pixels as they are high, however many rows there are."""
    for n in (1, 24, 25, 80, 81, 400):
        scale = row_scale(n)
        assert 9 <= scale.font < scale.height


def test_every_row_of_two_hundred_languages_has_its_name() -> None:
    """In the maps of languages by languages and in every other figure of one row per language."""
    codes = many(204)
    rendered = page(codes)
    named = [len(each["layout"]["yaxis"].get("ticktext", ())) for each in rendered.drawings]
    assert {n for n in named if n > 50} == {203, 204}  # without the pivot, and with it
    assert any(len(each["data"][0].get("z", ())) == 204 for each in rendered.drawings)
    assert "columns are in the order of the rows" in rendered.text


def test_long_list_of_pairs_is_cut_and_says_so() -> None:
    """Of more than 2,000 pairs the nearest are listed; the caption says so."""
    rendered = page(many(70))
    assert f"The {MOST_PAIRS:,} nearest are listed" in rendered.text
    assert f"n = 70 languages, {70 * 69 // 2:,} pairs" in rendered.text
    assert "nearest are listed" not in page().text


def test_two_languages_have_pairs_but_no_tree() -> None:
    """Two languages have one divergence, which is in the table; nothing is drawn."""
    rendered = page(CODES[:2], structure=None)
    assert not drawn(rendered, "heatmap")
    assert "fewer than three languages" in rendered.text
    assert "Pairs: all numbers" in rendered.text


def test_best_layer_is_ringed_with_its_p_value() -> None:
    """The ring lies on the curve at the layer that was found; the key states the p that is corrected for the search."""
    raw = parts()
    match = raw["structure"]["matches"]["genealogical"]
    shown = page(**raw)
    drawing = next(one for one in shown.drawings if one["layout"]["yaxis"]["title"]["text"] == "Mantel r")
    ring = next(trace for trace in drawing["data"] if trace["meta"] == "genealogical" and len(trace["x"]) == 1)
    assert (ring["x"], ring["y"]) == ([3], [match["correlations"][3]])
    assert f"genealogical (layer 3, p {number(match['p_value'])})" in shown.text


def test_tests_that_were_refused_are_named() -> None:
    """A reference that knows too few languages is named with the reason, and left-out languages are counted."""
    text = page().text
    assert "Not tested: syntax: 4 of 9 languages are known." in text
    assert "controlling for token overlap" in text


def test_dots_of_resources_are_one_per_language_and_band() -> None:
    """Each measure has a figure, each band a trace with a dot and an interval per language."""
    raw = parts()
    shown = page(**raw).drawings
    drawing = next(one for one in shown if one["layout"]["xaxis"]["title"]["text"] == "experts per layer")
    assert [trace["meta"] for trace in drawing["data"]] == list(raw["bands"])
    rows = {row["language"]: row["coverage"] for row in raw["resources"]["rows"] if row["band"] == "early"}
    trace = drawing["data"][0]
    assert sorted(trace["x"]) == sorted(row["value"] for row in rows.values())
    assert trace["error_x"]["array"] == pytest.approx([0.002] * len(CODES))


def test_pooled_counts_say_that_there_are_no_intervals() -> None:
    """Middles and resources of pooled counts carry no interval, and their captions say why."""
    pooled = page(granularity="pooled")
    assert pooled.text.count("no interval: pooled counts") > 3
    assert "No interval: pooled counts." in pooled.text


def test_controls_average_the_same_languages() -> None:
    """A language without tokens of its own in some layer is left out of all three means."""
    heights = dict(zip(CODES[1:], (0.1, 0.2, 0.7), strict=True))
    distinct = {code: curve(height) for code, height in heights.items()}
    distinct[CODES[3]][2] = {"layer": 2, "value": None, "low": None, "high": None, "n": 0}
    controls = {"distinct": {"divergence": distinct, "share": {}}}
    both = {code: curve(height) for code, height in heights.items()}
    rendered = page(divergence=both, shuffled=both, controls=controls)
    drawing = next(one for one in rendered.drawings if "tokens that the pivot lacks" in metas(one))
    expected = [point["value"] for point in curve(0.15)]
    assert len(drawing["data"]) == 3
    for trace in drawing["data"]:
        assert trace["y"] == pytest.approx(expected)
    assert "n = 2 languages" in rendered.text


@pytest.mark.parametrize(
    ("is_hump", "said"), [(True, "∩-shape: the excess is higher"), (False, "No evidence of a ∩-shape")]
)
def test_verdict_on_the_domain_is_said(is_hump: bool, said: str) -> None:  # noqa: FBT001 - a parameter
    """The ∩-shape is affirmed or denied with its height and interval."""
    domain = parts()["domain"]
    domain["hump"]["is_hump"] = is_hump
    assert said in page(domain=domain).text
    assert "was not looked for" in page(domain={**domain, "hump": None}).text


def test_overlap_is_drawn_against_chance() -> None:
    """Observed overlaps have their intervals; the expected ones are dashed beside them."""
    raw = parts()
    drawing = next(one for one in page(**raw).drawings if "observed" in metas(one))
    expected, observed = drawing["data"]
    points = raw["overlap"]["points"]
    assert expected["y"] == [point["expected"] for point in points]
    assert observed["y"] == [point["overlap"]["value"] for point in points]
    assert expected["line"]["dash"] == "dash"


def test_ranges_start_and_end_where_the_middles_do() -> None:
    """Each language has a bar from start to end; languages without a U-shape are a group of their own."""
    rendered = page()
    drawing = next(one for one in rendered.drawings if "no U-shape" in metas(one))
    bars = [trace for trace in drawing["data"] if trace["mode"] == "lines"]
    assert [trace["x"] for trace in bars] == [[2, 4, None], [2, 4, None] * 2]
    assert next((shape["x0"], shape["x1"]) for shape in drawing["layout"]["shapes"]) == (1.5, 4.5)
    assert "1 of 3 languages have a U-shape of their own" in rendered.text


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A simulated Run of seven languages, and all of its analysis in a folder."""
    codes = ("eng_Latn", "deu_Latn", "nld_Latn", "fra_Latn", "spa_Latn", "ben_Beng", "hin_Deva")
    languages = tuple(SimulatedLanguage(code, distance=0.2 * place) for place, code in enumerate(codes))
    made = SimulatedWorld(languages=languages, n_items=12, tokens=8)
    folder = tmp_path_factory.mktemp("world")
    run, task = simulate_run(made, folder / "run"), simulate_task_run(made, folder / "task")
    request = AnalysisRequest(
        accuracy={code: 0.9 - 0.1 * place for place, code in enumerate(codes)},
        task=task,
        resampling=Resampling(n_resamples=50, n_permutations=20),
    )
    write_analysis(analyze_run(run, request), run, folder / "analysis")
    return folder


def test_report_of_an_analysis_folder_shows_all_that_was_computed(world, tmp_path) -> None:
    """What `isogloss analyze -o` wrote is reported without the Run."""
    out = report_on(world / "analysis", tmp_path / "report.html")
    shown = Page(out.read_text(encoding="utf-8"))
    assert "How simulated routes 7 languages" in shown.text
    assert "is routed most like English" in shown.text
    assert all(title in shown.text for title in SECTIONS if title != "Controls")
    assert "As recorded in manifest.json" in shown.text


def test_report_of_a_run_has_the_new_sections_and_sentences(world, tmp_path) -> None:
    """A Run is analysed wholly: structure and resources are in the report, and said among the findings."""
    shown = Page(report_on(world / "run", tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "Language structure" in shown.text
    assert shown.text.index("experts per layer") < shown.text.rindex("Language structure")


def test_folder_of_nothing_is_refused_by_what_it_lacks(tmp_path) -> None:
    """The message names the files that are looked for."""
    first = "manifest.json, analysis.json, summary.json, study.json, history.jsonl, ablation.json"
    names = f"{first}, adapt.json or comparison.json"
    with pytest.raises(RunError, match=f"no {re.escape(names)}"):
        report_on(tmp_path, tmp_path / "report.html")


def test_findings_beside_an_analysis_are_shown(world, tmp_path) -> None:
    """Sentences that were kept with an analysis come first, as in any report."""
    copy = tmp_path / "analysis"
    copy.mkdir()
    (copy / "analysis.json").write_bytes((world / "analysis" / "analysis.json").read_bytes())
    (copy / "findings.json").write_text('{"findings": ["It was found."]}', encoding="utf-8")
    shown = Page(report_on(copy, tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "It was found." in shown.text
    assert "How 7 languages are routed" in shown.text
    assert "The run behind these numbers is not described here" in shown.text


def test_report_is_the_same_each_time() -> None:
    """Equal analyses give equal pages."""
    report = Report("Same", (), {}, analysis=typed({**analysis(), **parts()}))
    assert render_report(report) == render_report(report)


def test_where_no_middle_was_found_none_is_spoken_of() -> None:
    """Each sentence names the layers by their numbers alone, and so do the texts of the report."""
    known = typed(analysis(**parts()))
    assert known.middle_layers is not None
    flat = replace(known, middle_layers=replace(known.middle_layers, is_u_shape=False))
    start, end = known.middle
    flat = replace(flat, bands={**flat.bands, "middle": (start, end)})
    sentences = describe_run(flat)
    assert any(sentence.startswith("No middle was found: ") for sentence in sentences)
    assert "the middle layers" not in "\n".join(sentences)
    assert any(f"In layers {start}-{end} " in sentence for sentence in sentences)
    assert any("the middle layers" in sentence for sentence in describe_run(known))
    codes = tuple(f"l{place:02d}" for place in range(20))
    many = typed(analysis(codes, **parts(codes)))
    for each, shape in ((known, "U"), (flat, ""), (many, "U"), (replace(many, middle_layers=flat.middle_layers), "")):
        html = render_report(Report("Flat", (), {}, analysis=each))
        text = Page(html).text
        assert ("the middle layers" in text) is bool(shape)
        assert ("languages' middle layers" in text) is bool(shape)
        assert (f"no middle; best fit {start}–{end}" in html) is not bool(shape)
