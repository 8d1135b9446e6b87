"""What is said while a command runs, by level, in a file and on a terminal; bars leave streams as they are."""

from __future__ import annotations

import sys

import pytest

from isogloss.cli import main
from isogloss.progress import busy, note, stage, track
from isogloss.terminal import LEVEL_VARIABLE, verbosity


def test_bars_do_not_replace_streams(monkeypatch):
    """Rich would put its own in their place, into which tqdm in a notebook writes without end."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    streams = sys.stdout, sys.stderr
    with busy("loading"):
        assert (sys.stdout, sys.stderr) == streams
    with track("capturing", 3) as advance:
        advance(1)
        assert (sys.stdout, sys.stderr) == streams


def test_a_refusal_leaves_no_bar(capsys):
    """Before anything was done, in a log; what was done by then stays."""

    def refused(done):
        with track("capturing", 3) as advance:
            advance(done)
            raise ValueError("refused")

    for done in (0, 1):
        with pytest.raises(ValueError, match="refused"):
            refused(done)
        assert ("capturing ━" in capsys.readouterr().err) == bool(done)


def test_every_stage_has_a_line_in_a_log(capsys):
    """Where stderr is a file: before the work begins, and nothing of a spinner, which has no last state to show."""
    with busy("loading"):
        assert capsys.readouterr().err == "isogloss: loading\n"
    assert capsys.readouterr().err == ""
    with track("capturing", 1200):
        assert capsys.readouterr().err == "isogloss: capturing: 1,200 to do\n"


LINES = {"error": 0, "warning": 1, "info": 3, "debug": 4}


@pytest.mark.parametrize("level", LINES)
def test_what_is_said_by_level(capsys, monkeypatch, level):
    """A note, what begins, a spinner and how long it took; an option counts more than the environment."""
    monkeypatch.setenv(LEVEL_VARIABLE, level)
    note("unfinished")
    stage("load")
    with busy("analyze"):
        pass
    assert capsys.readouterr().err.count("\n") == LINES[level]
    with verbosity("warning"):
        note("unfinished")
        with track("capture", 1) as advance:
            advance(1)
    assert capsys.readouterr().err == "isogloss: note: unfinished\n"


def test_an_unknown_level_is_one_line(monkeypatch, capsys):
    """Exit code 2."""
    monkeypatch.setenv(LEVEL_VARIABLE, "loud")
    assert main(["tasks"]) == 2
    assert capsys.readouterr().err == f"isogloss: {LEVEL_VARIABLE} is 'loud'; expected error, warning, info, debug\n"


def test_a_notebook_without_widgets_gets_no_warning(monkeypatch, capsys):
    """Rich takes any IPython kernel for one that draws widgets, and warns at every bar where it cannot."""
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setattr("isogloss.progress.find_spec", lambda _name: None)
    with track("capturing", 3) as advance:  # warnings are errors here
        advance(3)
    assert "capturing" in capsys.readouterr().err
