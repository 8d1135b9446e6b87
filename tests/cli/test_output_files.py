"""A file of a result replaces only what is of its kind, unless --force is given; bad targets are refused at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from commands import run
from run_examples import MANIFEST, write

from isogloss import report, write_plan
from isogloss.analysis import AnalysisRequest, analyze_run
from isogloss.cli import commands
from isogloss.errors import FileError
from isogloss.reports import folders as report_folders
from isogloss.steering import Plan
from isogloss.workflows import organism

RULE = ["--rule", "contrast", "--languages", "de", "--top", "3", "--kind", "offset", "--strength", "1"]
THEIRS = {
    "notes.txt": b"what I think\n",
    "table.json": b'{"fingerprint": 1}',
    "list.json": b"[1, 2]",
    "page.html": b"<!doctype html><html><head><title>isogloss</title></head></html>",
    "empty.md": b"",
    "broken.json": b'{"fingerprint": {}, "interventions": [',
    "picture.png": b"\x89PNG\r\n\x1a\n\xff\xfe",
}


@pytest.fixture
def arguments(tmp_path, monkeypatch):
    """What makes a plan, a report, a card, and an analysis, each quickly; by command."""
    write(tmp_path / "run")
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "summary.json").write_text("{}")
    monkeypatch.setattr(organism, "_card", lambda _training: organism._HEAD)
    return {
        "plan": ("plan", tmp_path / "run", *RULE),
        "report": ("report", tmp_path / "run"),
        "card": ("organism", "card", tmp_path / "training"),
    }


@pytest.mark.parametrize("command", ["plan", "report", "card"])
def test_a_file_of_another_kind_stays(arguments, command, tmp_path, capsys):
    """Whatever it holds, in one line that names it and the way out; with --force it is replaced."""
    for name, content in THEIRS.items():
        (tmp_path / name).write_bytes(content)
        assert run(*arguments[command], "-o", tmp_path / name) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert name in error
        assert "--force" in error
        assert (tmp_path / name).read_bytes() == content
    assert run(*arguments[command], "-o", tmp_path / "notes.txt", "--force") == 0
    assert (tmp_path / "notes.txt").read_bytes() != THEIRS["notes.txt"]


@pytest.mark.parametrize("command", ["plan", "report", "card"])
def test_a_file_of_the_same_kind_is_replaced(arguments, command, tmp_path, capsys):
    """Also through a link, whose target is what counts; a result of another command is of another kind."""
    out = tmp_path / "out"
    for _ in range(2):
        assert run(*arguments[command], "-o", out) == 0
    (tmp_path / "link").symlink_to(out)
    assert run(*arguments[command], "-o", tmp_path / "link") == 0
    (tmp_path / "notes.txt").write_bytes(b"mine")
    (tmp_path / "other").symlink_to(tmp_path / "notes.txt")
    (tmp_path / "dangling").symlink_to(tmp_path / "absent" / "out")
    assert run(*arguments[command], "-o", tmp_path / "dangling") == 2
    assert not (tmp_path / "absent").exists()
    assert run(*arguments[command], "-o", tmp_path / "other") == 2
    for other in set(arguments) - {command}:
        assert run(*arguments[other], "-o", out) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("command", ["plan", "report", "card"])
@pytest.mark.parametrize("place", ["folder", "file as parent", "pipe", "nowhere to write"])
def test_a_bad_target_is_refused_before_the_work(arguments, command, place, tmp_path, monkeypatch, capsys):
    """No experts are looked for and nothing is analysed; --force does not help."""

    def never(*_arguments, **_options):
        raise AssertionError("the work was done")

    monkeypatch.setattr(commands, "_find", never)
    monkeypatch.setattr(report_folders, "open_run", never)
    monkeypatch.setattr(organism, "_card", never)
    (tmp_path / "file").write_bytes(b"mine")
    os.mkfifo(tmp_path / "pipe")
    bad = {
        "folder": tmp_path,
        "file as parent": tmp_path / "file" / "out",
        "pipe": tmp_path / "pipe",
        "nowhere to write": Path("/proc/isogloss"),  # where nobody may make a file, not even root
    }[place]
    for more in ([], ["--force"]):
        assert run(*arguments[command], "-o", bad, *more) == 2
        error = capsys.readouterr().err
        assert error.startswith("isogloss: cannot ")
        assert str(bad.parent) in error
        assert error.count("\n") == 1
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "file").read_bytes() == b"mine"


def test_a_plan_is_not_written_into_a_missing_folder(arguments, tmp_path, monkeypatch, capsys):
    """Refused before experts are looked for."""
    monkeypatch.setattr(commands, "_find", None)
    assert run(*arguments["plan"], "-o", tmp_path / "absent" / "plan.json") == 2
    assert "absent" in capsys.readouterr().err


def test_an_analysis_replaces_an_analysis_alone(tmp_path, capsys):
    """A folder with a file of a name that it would write, and no analysis in it, stays as it is."""
    write(tmp_path / "run")
    analyze = ["analyze", tmp_path / "run", "-o"]
    for name in ("analysis.json", "findings.json", "curves.parquet", "pairs.parquet"):
        folder = tmp_path / name.replace(".", "-")
        folder.mkdir()
        (folder / name).write_bytes(b"mine")
        assert run(*analyze, folder) == 2
        error = capsys.readouterr().err
        assert name in error
        assert error.count("\n") == 1
        assert [each.read_bytes() for each in folder.iterdir()] == [b"mine"]
    assert run(*analyze, folder, "--force") == 0
    assert run(*analyze, folder) == 0
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_bytes(b"mine")
    assert run(*analyze, tmp_path / "other") == 0


def test_from_python_a_file_of_another_kind_stays_too(tmp_path):
    """The functions that write a plan and a report refuse it by the same words, and take force."""
    out = tmp_path / "notes.txt"
    out.write_bytes(b"mine")
    analysis = analyze_run(write(tmp_path / "run"), AnalysisRequest())
    for act in (
        lambda **more: write_plan(Plan(MANIFEST.fingerprint), out, **more),
        lambda **more: report(analysis, out=out, **more),
    ):
        out.write_bytes(b"mine")
        with pytest.raises(FileError, match="force"):
            act()
        assert out.read_bytes() == b"mine"
        act(force=True)
        assert out.read_bytes() != b"mine"
