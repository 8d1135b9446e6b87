"""A name in a file is short, and what belongs together names the same languages; else the file is refused in a line."""

from __future__ import annotations

import json

import pytest
import report_samples
import run_examples

from isogloss.cli.main import main
from isogloss.records import write_typed

LONG = "n" * 1_000_000


def replaced(*path, value):
    """A change of one value in JSON."""

    def change(raw):
        at = raw
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value(at[path[-1]]) if callable(value) else value

    return change


def renamed(*path):
    """A change of one key in JSON, whichever comes first, to a long one."""

    def change(raw):
        at = raw
        for key in path:
            at = at[key]
        at[LONG] = at.pop(next(iter(at)))

    return change


def other(languages):
    """The same languages, but for the first one."""
    return ["fra_Latn", *languages[1:]]


def evaluation(folder):
    """A finished evaluation, as far as a report reads it."""
    write_typed(folder / "summary.json", report_samples.arms_evaluation())
    (folder / "settings.json").write_text("{}", encoding="utf-8")


def analysis(folder):
    """What `isogloss analyze -o` writes, as far as a report reads it."""
    raw = {**report_samples.analysis(), **report_samples.parts()}
    (folder / "analysis.json").write_text(json.dumps(raw), encoding="utf-8")


def captured(folder):
    """A Run."""
    run_examples.write(folder, run_examples.LANGUAGES[:3])


DAMAGED = {
    "model of a summary": (evaluation, "summary.json", replaced("model", value=LONG)),
    "task of a summary": (evaluation, "summary.json", replaced("task", value=LONG)),
    "arm of a summary": (evaluation, "summary.json", renamed("arms")),
    "language of a summary": (evaluation, "summary.json", renamed("per_language")),
    "verdict of a summary": (evaluation, "summary.json", replaced("guard", "plan", "verdict", value="great")),
    "model of a Run": (captured, "manifest.json", replaced("model", value=LONG)),
    "corpus of a Run": (captured, "manifest.json", replaced("corpus", "name", value=LONG)),
    "language of an analysis": (analysis, "analysis.json", renamed("divergence")),
    "band of an analysis": (analysis, "analysis.json", renamed("pairs", "bands")),
    "row of an analysis": (analysis, "analysis.json", replaced("resources", "rows", 0, "band", value=LONG)),
    "pairs without the pivot": (analysis, "analysis.json", replaced("pairs", "languages", value=other)),
    "pairs of fewer": (analysis, "analysis.json", replaced("pairs", "languages", value=lambda codes: codes[1:])),
    "pairs of one twice": (
        analysis,
        "analysis.json",
        replaced("pairs", "languages", value=lambda codes: [codes[1], *codes[1:]]),
    ),
}


def refused(capsys, *command):
    """The one line that a command is refused with."""
    assert main([*map(str, command), "--quiet"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert len(line) < 5000
    return line


@pytest.mark.parametrize("case", DAMAGED)
def test_a_report_is_not_made_of_names_that_are_none(case, capsys, tmp_path):
    """The line names the file; no page is written."""
    make, name, change = DAMAGED[case]
    make(tmp_path)
    raw = json.loads((tmp_path / name).read_text(encoding="utf-8"))
    assert main(["report", str(tmp_path), "-o", str(tmp_path / "before.html")]) == 0
    change(raw)
    (tmp_path / name).write_text(json.dumps(raw), encoding="utf-8")
    capsys.readouterr()
    assert name in refused(capsys, "report", tmp_path, "-o", tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_a_list_in_place_of_settings_is_refused(capsys, tmp_path):
    """The report lists all that `settings.json` holds, and draws `summary.json`."""
    evaluation(tmp_path)
    (tmp_path / "settings.json").write_text("[]", encoding="utf-8")
    assert "settings.json" in refused(capsys, "report", tmp_path, "-o", tmp_path / "report.html")
    (tmp_path / "summary.json").write_text("[]", encoding="utf-8")
    assert "summary.json" in refused(capsys, "report", tmp_path, "-o", tmp_path / "report.html")


def test_a_card_is_not_made_of_another_summary(capsys, tmp_path):
    """`organism card` reads the summary of a training before it loads anything."""
    for content in ("[]", "{}", '{"step": 1, "tokens": 1, "seconds": 1.0, "real_text": [], "recipe": {}}'):
        (tmp_path / "summary.json").write_text(content, encoding="utf-8")
        assert "summary.json" in refused(capsys, "organism", "card", tmp_path, "-o", tmp_path / "CARD.md")


def test_reasons_are_short_whatever_they_quote(capsys):
    """What an option gives is left out in the middle."""
    assert "characters …" in refused(capsys, "report", f"no/{LONG}", "-o", "report.html")
