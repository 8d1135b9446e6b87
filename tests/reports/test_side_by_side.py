"""Several Runs or evaluations in one report: every one has its curve, its row and its verdict."""

from __future__ import annotations

from dataclasses import replace

import plotly.graph_objects as go
import pytest
from report_samples import CODES, Page, analysis, arms_evaluation, curve, evaluation, typed
from run_examples import MANIFEST, write

import isogloss as ig
from isogloss.analysis import divergence_change
from isogloss.errors import RunError
from isogloss.files import write_json
from isogloss.learning.history import LearningHistory
from isogloss.records import write_typed
from isogloss.reports import Report, join_reports, make_report, render_report, report_on


def joined(**reports: Report) -> Page:
    """The page of several reports."""
    return Page(render_report(join_reports(reports)))


def test_curves_of_runs_lie_over_each_other() -> None:
    """One mean curve per Run, in the layers that they share, and a row with both verdicts."""
    high = typed(analysis(divergence={code: curve(0.4) for code in CODES[1:]}))
    page = joined(first=make_report(typed(analysis()), None), second=make_report(high, None))
    lines = [trace for trace in page.drawings[0]["data"] if "markers" in trace["mode"]]
    assert [trace["meta"] for trace in lines] == ["first", "second"]
    assert lines[1]["y"] == pytest.approx([point["value"] for point in curve(0.4)])
    assert lines[0]["x"] == list(range(6))
    assert "first–4In layers 2–4 of 0–5" in page.text.replace(" ", " ")
    assert "2 Runs over each other" in page.text
    assert "are drawn by their share of the depth" not in page.text


def test_runs_of_the_same_texts_are_compared_item_by_item(tmp_path) -> None:
    """As before and after training: the figure holds the paired difference; Runs of other texts have none."""
    runs = {name: write(tmp_path / name, seed=seed) for name, seed in (("before", 0), ("after", 100))}
    other = replace(MANIFEST, item_ids=("x", "y", "z"))
    write(tmp_path / "other", manifest=other, seed=50)
    folders = [tmp_path / name for name in ("before", "after", "other")]
    page = Page(report_on(folders, tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "Change of divergence against before" in page.text
    assert "since their texts are not those of the first: other" in page.text
    lines = [trace for trace in page.drawings[1]["data"] if "markers" in trace["mode"]]
    assert [trace["meta"] for trace in lines] == ["after"]
    expected = divergence_change(runs["before"], runs["after"]).mean_change
    assert lines[0]["y"] == pytest.approx([each.value for each in expected], abs=1e-4)
    alone = Page(report_on([folders[0], folders[2]], tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "Change of divergence" not in alone.text


def test_models_of_other_depth_share_an_axis() -> None:
    """Curves of other layers are drawn from 0 to 1."""
    short = typed(
        analysis(divergence={code: curve(0.4)[:3] for code in CODES[1:]}, layers=[0, 1, 2], middle_layers=None)
    )
    page = joined(first=make_report(typed(analysis()), None), second=make_report(short, None))
    lines = [trace for trace in page.drawings[0]["data"] if "markers" in trace["mode"]]
    assert [trace["x"] for trace in lines] == [[0, 0.2, 0.4, 0.6, 0.8, 1], [0, 0.5, 1]]
    assert "are drawn by their share of the depth" in page.text


def test_evaluations_lie_over_each_other() -> None:
    """One row per evaluation, overall and by language, and a table with the verdicts."""
    worse = evaluation()
    difference = replace(worse.overall.difference, value=-0.02, low=-0.03, high=-0.01)
    worse = replace(worse, overall=replace(worse.overall, difference=difference))
    page = joined(good=make_report(None, arms_evaluation()), bad=make_report(None, worse))
    first, second = page.drawings[:2]
    assert first["layout"]["yaxis"]["ticktext"] == ["good", "bad"]
    assert [trace["meta"] for trace in second["data"]] == ["good", "bad"]
    assert "The plan helps by +2.0 points" in page.text
    assert "The plan hurts" in page.text
    for drawing in page.drawings:
        go.Figure({"data": drawing["data"], "layout": drawing["layout"]})


def test_other_metrics_have_figures_of_their_own() -> None:
    """Points and bits per byte are never on one axis."""
    bits = evaluation(metric="bits_per_byte", better="lower", test="sign_flip")
    page = joined(one=make_report(None, evaluation()), two=make_report(None, bits))
    assert [len(each["layout"]["yaxis"]["ticktext"]) for each in page.drawings[::2]] == [1, 1]


def test_a_run_and_evaluations_of_it_stand_together() -> None:
    """One analysis keeps all of its sections beside several evaluations."""
    reports = {"run": make_report(typed(analysis()), None)}
    reports |= {f"e{place}": make_report(None, evaluation()) for place in range(2)}
    page = Page(render_report(join_reports(reports)))
    assert "Evaluations over each other" in page.text
    assert "Divergence from English (eng_Latn) by layer" in page.text
    assert "Where do languages meet?" in page.text
    assert "Did steering help?" not in page.text


def test_one_run_and_one_evaluation_are_titled_by_both() -> None:
    """Nothing lies over another, and the title does not say so."""
    reports = {"run": make_report(typed(analysis()), None), "eval": make_report(None, evaluation())}
    assert join_reports(reports).title == "How 4 languages are routed; Steering organism on problems"


def test_folders_are_named_apart_and_refused_twice(tmp_path) -> None:
    """Folders of one name are told apart by what is above them."""
    for name in ("a", "b"):
        (tmp_path / name / "eval").mkdir(parents=True)
        write_typed(tmp_path / name / "eval" / "summary.json", evaluation())
        write_json(tmp_path / name / "eval" / "settings.json", {})
    folders = [tmp_path / name / "eval" for name in ("a", "b")]
    text = Page(report_on(folders, tmp_path / "out.html").read_text(encoding="utf-8")).text
    assert "a/eval" in text
    assert "b/eval" in text
    with pytest.raises(RunError, match="a folder is given twice"):
        report_on([folders[0]] * 2, tmp_path / "out.html")


def test_what_cannot_be_laid_over_is_refused(tmp_path) -> None:
    """A report on a learned plan stands alone; tables of experts stand beside one analysis."""
    with pytest.raises(RunError, match="holds neither an analysis nor an evaluation"):
        joined(
            one=make_report(None, evaluation()),
            two=Report("Learned", (), {}, learning=LearningHistory.__new__(LearningHistory)),
        )
    with pytest.raises(RunError, match="found neither"):
        ig.report(out=tmp_path / "out.html")


def test_face_takes_several(tmp_path) -> None:
    """`ig.report` draws several results of one sort over each other."""
    out = ig.report(evaluation(), arms_evaluation(), out=tmp_path / "out.html")
    assert "Evaluations over each other" in Page(out.read_text(encoding="utf-8")).text
