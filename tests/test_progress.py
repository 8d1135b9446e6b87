"""Bars leave the streams of the process as they are."""

from __future__ import annotations

import sys

import pytest

from isogloss.progress import busy, track


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
        assert ("capturing" in capsys.readouterr().err) == bool(done)


def test_nothing_of_a_spinner_stays_in_a_log(capsys):
    """Where stderr is a file, a spinner has no last state to show."""
    with busy("loading"):
        pass
    assert capsys.readouterr().err == ""
