"""The notebooks run as they stand, and give what their pages speak of."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from models import checkpoint

NOTEBOOKS = Path(__file__).parents[2] / "docs" / "notebooks"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a notebook in an empty folder; return its names."""
    monkeypatch.chdir(tmp_path)
    return lambda name: runpy.run_path(str(NOTEBOOKS / f"{name}.py"))


def test_there_are_no_others():
    """Every notebook is run below."""
    assert {path.stem for path in NOTEBOOKS.iterdir() if path.suffix == ".py"} == {"organism", "learning", "hub_model"}


@pytest.mark.slow
def test_the_organism_from_end_to_end(run):
    """Its page says that layers and rule find experts, and that the change is compared with two random plans."""
    names = run("organism")
    assert names["experts"].n > 0
    assert {"baseline", "plan", "random-0", "random-1"} == set(names["result"].arms)
    assert Path("out/report.html").is_file()
    assert names["question"]
    for name in ("texts", "run", "analysis", "experts", "plan", "result"):
        assert "<table" in names[name]._repr_html_()


@pytest.mark.slow
def test_learning(run):
    """The plan acts on requests in Swahili alone."""
    names = run("learning")
    assert names["plan"].languages == ("swh_Latn",)
    assert names["result"].arms["plan"]["eng_Latn"] == names["result"].arms["baseline"]["eng_Latn"]
    assert Path("out/plan.json").is_file()


@pytest.mark.slow
def test_a_hub_model(run, monkeypatch):
    """Executed on a tiny model of the class that the page names."""
    monkeypatch.setenv("ISOGLOSS_MODEL", str(checkpoint("qwen3_moe")))
    names = run("hub_model")
    assert names["analysis"].languages == ("deu_Latn", "eng_Latn", "swh_Latn")
    assert Path("out/tokens.html").is_file()
