"""Reports on folders: read without torch, and the same whatever else is loaded."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import plotly.graph_objects as go
import pytest
import torch
from report_samples import CODES, analysis, arms_evaluation, expert_table, manifest, parts, typed

from isogloss.errors import RunError
from isogloss.evaluation import SETTINGS, SUMMARY
from isogloss.files import read_json, write_json
from isogloss.records import write_typed
from isogloss.reports import report_on
from isogloss.runs import Run
from known_answers.simulation import simulate_run, simulate_task_run
from known_answers.worlds import SimulatedLanguage, SimulatedWorld


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Run, Run]:
    """Runs of simulated texts, and of a task's."""
    folder = tmp_path_factory.mktemp("runs")
    languages = tuple(SimulatedLanguage(code, distance=0.2 * place) for place, code in enumerate(CODES))
    world = SimulatedWorld(languages=languages, n_items=8, tokens=8)
    return simulate_run(world, folder / "run"), simulate_task_run(world, folder / "task")


def test_commands_that_run_no_model_load_no_torch(runs, tmp_path) -> None:
    """Analyze, experts, plan, merge and report, one after the other; the page is the same with torch loaded."""
    run, task = (str(each.path) for each in runs)
    study = tmp_path / "study"
    shutil.copytree(run, study / "run")
    (study / "study.json").write_text("{}", encoding="utf-8")
    (study / "findings.json").write_text('{"findings": ["It was found."]}', encoding="utf-8")
    (study / "analysis.json").write_text(json.dumps({**analysis(), **parts()}), encoding="utf-8")
    (study / "experts.json").write_text(json.dumps(expert_table()), encoding="utf-8")
    evaluation = tmp_path / "eval"
    evaluation.mkdir()
    write_typed(evaluation / SUMMARY, arms_evaluation())
    write_json(evaluation / SETTINGS, manifest())
    commands = [
        ["analyze", run, "--task", task, "-o", "analysis"],
        ["experts", run, "--rule", "share", "--top", "4", "--threshold", "0.3"],
        ["plan", task, "--base", run, "--rule", "delta", "--threshold", "0.1", "--kind", "ban", "-o", "plan.json"],
        ["merge", run, "-o", "merged"],
        ["report", "analysis", "-o", "analysis.html"],
        ["report", str(study), "-o", "study.html"],
        ["report", str(evaluation), "-o", "eval.html"],
    ]
    code = (
        "import json, sys; from isogloss.cli import main; codes = [main(each) for each in json.loads(sys.argv[1])];"
        "print(codes, [name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(commands)], check=True, capture_output=True, text=True, cwd=tmp_path
    )
    expected = [0, 0, 2, 0, 0, 0, 0]  # simulated routing names no model that a plan could be for
    assert done.stdout.splitlines()[-1] == f"{expected} []", done.stderr
    assert torch.__name__ in sys.modules
    for source in (tmp_path / "analysis", study, evaluation):
        again = report_on(source, tmp_path / "again.html")
        assert again.read_bytes() == Path(f"{source.parent / source.name}.html").read_bytes()


def test_an_analysis_without_bands_is_reported(tmp_path) -> None:
    """An older analysis names no bands of layers, so that nothing is described by band."""
    (tmp_path / "analysis.json").write_text(json.dumps(analysis()), encoding="utf-8")
    assert "Divergence from English" in report_on(tmp_path, tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_saved_evaluation_that_is_damaged_is_refused_by_field(tmp_path) -> None:
    """The file and the field are named, and no page is written."""
    write_typed(tmp_path / SUMMARY, arms_evaluation())
    write_json(tmp_path / SETTINGS, manifest())
    write_json(tmp_path / SUMMARY, read_json(tmp_path / SUMMARY) | {"pivot": 3})
    with pytest.raises(RunError, match=r"summary\.json: pivot: .* valid string, found 3"):
        report_on(tmp_path, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_a_figure_of_the_report_is_plotted_by_its_name() -> None:
    """Curves and maps are plotly figures of their own; another name is refused with those that there are."""
    result = typed({**analysis(), **parts()})
    figure = result.plot("divergence")
    assert isinstance(figure, go.Figure)
    assert [trace.name for trace in figure.data if trace.showlegend] == [
        "Bengali (ben_Beng)", "Swahili (swh_Latn)", "Chinese (Simplified) (zho_Hans)"
    ]  # fmt: skip
    assert figure.layout.title.text == "Divergence from English (eng_Latn) by layer"
    assert result.plot("tree-1").data[0].type == "heatmap"
    with pytest.raises(RunError, match="no figure 'roses'; it has divergence, middle-ranges, entropy"):
        result.plot("roses")


def test_a_notebook_shows_a_glance() -> None:
    """One line and the first rows of a table; the rest is one call away."""
    shown = typed(analysis())._repr_html_()
    assert "Analysis(3 languages against eng_Latn, 6 layers, middle 2-4)" in shown
    assert shown.count("<tr") == 13
    assert "6 more rows" in shown
