"""What the scripts of the findings share: sections in their places, claims by intervals, paths of the command line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from isogloss.statistics import Estimate


@pytest.fixture
def shared(document_script):
    """What the scripts share."""
    return document_script("findings_page")


def test_a_section_takes_the_place_of_the_one_before(shared, tmp_path, monkeypatch):
    """Or stands before the last line of a page that had none; the others stay."""
    text = "# A\n\n## One\n\na\n\n## Two\n\n### b\n\n## Three\n\nc\n\n*versions*\n"
    monkeypatch.setattr(shared, "PAGE", tmp_path / "page.md")
    for section, expected in (
        (("## Two", "new"), text.replace("### b", "new")),
        (("## Three", "new"), text.replace("c\n\n*", "new\n\n*")),
        (("## Four", "new"), text.replace("*versions*", "## Four\n\nnew\n\n*versions*")),
    ):
        shared.PAGE.write_text(text)
        shared.rewrite(section)
        assert shared.PAGE.read_text() == expected


def test_numbers_have_a_minus_sign(shared, tmp_path, monkeypatch):
    """On the page; ranges, names and tables keep their hyphens."""
    monkeypatch.setattr(shared, "PAGE", tmp_path / "page.md")
    shared.PAGE.write_text("# Page\n\n*end*\n", encoding="utf-8")
    shared.rewrite(("## One", "| --- |", "-0.5 [-1, 2], layers 4-9, Qwen-30B, top-8, (+0.1, -.2)"))
    assert "\n\n| --- |\n\n−0.5 [−1, 2], layers 4-9, Qwen-30B, top-8, (+0.1, -.2)" in shared.PAGE.read_text("utf-8")


def test_a_claim_is_judged_by_the_interval(shared):
    """Above 0 it is shown, below the opposite is, and around 0 neither."""
    assert shared.claim("A does more", Estimate(0.1, 0.05, 0.15, 4)) == "* A does more: shown (10.0 [5.0, 15.0])."
    assert shared.claim("B", Estimate(-0.1, -0.15, -0.05, 4), " points").startswith("* B: the opposite is shown (−10.0")
    assert shared.judged(Estimate(0.1, -0.05, 0.15, 4)) == "not shown"


def test_paths_come_before_the_folder(shared, tmp_path, monkeypatch):
    """The folder is made, and may be left out; too few paths end the process with the usage."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["script.py", "data", "--measured", "work/deep"])
    assert shared.arguments(1) == ([Path("data")], Path("work/deep"))
    assert Path("work/deep").is_dir()
    monkeypatch.setattr(sys, "argv", ["script.py"])
    assert shared.arguments() == ([], Path("build/findings"))
    with pytest.raises(SystemExit, match=r"usage: python script\.py DATA \[WORK\]"):
        shared.arguments(1)
