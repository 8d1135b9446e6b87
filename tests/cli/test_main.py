"""The command line on terminals that cannot show everything, and on outputs that take nothing."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

COMMAND = [sys.executable, "-m", "isogloss", "models"]


def run(shell, **environment):
    """Run `isogloss models` with its output as the shell redirects it; text columns and dashes are in its table."""
    return subprocess.run(
        ["/bin/sh", "-c", f"exec {' '.join(COMMAND)} {shell}"],
        env={**os.environ, **environment},
        capture_output=True,
        check=False,
    )


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "ascii"])
def test_characters_that_a_terminal_lacks_are_replaced(encoding):
    """The whole table is printed, and nothing is raised."""
    plain, poor = run(""), run("", PYTHONIOENCODING=encoding)
    assert (poor.returncode, poor.stderr) == (0, b"")
    assert len(poor.stdout.splitlines()) == len(plain.stdout.splitlines())
    assert b"qwen3_moe" in poor.stdout


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")  # noqa: PTH110
def test_a_full_output_is_one_line():
    """Nothing can be written; the exit code says so."""
    result = run("> /dev/full")
    assert result.returncode == 2
    assert result.stderr.decode() == (
        "isogloss: cannot use standard output: No space left on device; make room or choose another place\n"
    )


def test_a_closed_output_is_refused_before_anything_runs():
    """Python has no stdout at all there."""
    result = run(">&-")
    assert result.returncode == 2
    assert result.stderr == b"isogloss: standard output is closed; redirect it to a file, or to /dev/null\n"


def test_a_reader_that_stops_is_no_error():
    """As `head` does."""
    result = run("| true")
    assert result.stderr == b""
