"""A Run whose capture has not finished is used only with a word in every output; a plan of it, only when asked for."""

from __future__ import annotations

import json

import pytest
from commands import printed, run
from run_examples import LANGUAGES, write

from isogloss.runs import UNFINISHED

CONTRAST = ("--rule", "contrast", "--languages", "de", "--top", "2", "--sign", "positive")
PLAN = (*CONTRAST, "--kind", "ban")


@pytest.fixture
def runs(tmp_path):
    """A partial Run, and a complete one of the same languages."""
    write(tmp_path / "partial", LANGUAGES[:3], finish=False)
    write(tmp_path / "complete", LANGUAGES[:3])
    return tmp_path


@pytest.mark.parametrize("status", ["partial", "complete"])
def test_every_output_says_it(runs, capsys, status):
    """Text, JSON, the files of an analysis, and the report, where it is said once."""
    unfinished = status == "partial"
    for command in (("analyze", runs / status), ("experts", runs / status, *CONTRAST)):
        assert run(*command) == 0
        assert capsys.readouterr().out.count(UNFINISHED) == unfinished
        assert run(*command, "--json") == 0
        assert printed(capsys)["status"] == status
    assert run("merge", runs / status, "-o", runs / "merged") == 0
    assert (UNFINISHED in capsys.readouterr().out) == unfinished
    assert run("analyze", runs / status, "-o", runs / "analysis") == 0
    findings = json.loads((runs / "analysis" / "findings.json").read_text(encoding="utf-8"))
    assert (UNFINISHED in findings["findings"]) == unfinished
    for source in (runs / status, runs / "analysis"):
        assert run("report", source, "-o", runs / "report.html") == 0
        page = (runs / "report.html").read_text(encoding="utf-8")
        assert page.count("its capture has not finished") == unfinished


def test_a_second_partial_run_counts(runs, capsys):
    """Also where only the Run of other texts is unfinished."""
    base = ("--rule", "delta", "--threshold", "0.01", "--base", runs / "partial")
    assert run("experts", runs / "complete", *base, "--json") == 0
    assert printed(capsys)["status"] == "partial"
    assert run("analyze", runs / "complete", "--task", runs / "partial", "--json") == 0
    assert printed(capsys)["status"] == "partial"


def test_a_plan_of_it_must_be_asked_for(runs, capsys):
    """It is refused with the way out; where it is made nevertheless, its provenance says so."""
    assert run("plan", runs / "partial", *PLAN, "-o", runs / "plan.json") == 2
    assert "these experts come from a partial run" in capsys.readouterr().err
    assert not (runs / "plan.json").exists()
    assert run("plan", runs / "partial", *PLAN, "--allow-partial", "-o", runs / "plan.json") == 0
    assert "made from a partial run" in capsys.readouterr().out
    assert json.loads((runs / "plan.json").read_text(encoding="utf-8"))["provenance"]["status"] == "partial"
    assert run("plan", runs / "complete", *PLAN, "-o", runs / "other.json") == 0
    assert "status" not in json.loads((runs / "other.json").read_text(encoding="utf-8"))["provenance"]
