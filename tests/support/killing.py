"""Ends or stops a process at a chosen moment: this one in place of SIGKILL, or a command by a real signal."""

from __future__ import annotations

import os
import subprocess
import sys

_SIGNALLED = """
import os, sys
from pathlib import Path

folder, pattern, n_lines, signal = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
flush = os.fsync

def flushing(file):
    flush(file)
    if sum(path.read_bytes().count(b"\\n") for path in folder.rglob(pattern)) >= n_lines:
        os.kill(os.getpid(), signal)

os.fsync = flushing
from isogloss.cli import main
sys.exit(main(sys.argv[5:]))
"""


def start_signalled(arguments, folder, pattern, n_lines, signal):
    """Start a command that sends itself a signal as soon as files of the folder hold so many lines.

    Args:
        arguments: of ``isogloss``.
        folder: in which the command writes.
        pattern: of the names of the files whose lines are counted, after each flush.
        n_lines: that bring the signal.
        signal: its number.

    Returns:
        The process; what it prints is dropped.
    """
    given = [str(each) for each in (folder, pattern, n_lines, int(signal), *arguments)]
    dropped = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([sys.executable, "-c", _SIGNALLED, *given], **dropped)


class KilledError(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def kill_at(monkeypatch, moment):
    """Die at the given call among all that touch the disk: before it, or in a write, after half of it."""
    calls = iter(range(10**9))
    plain = {name: getattr(os, name) for name in ("write", "fsync", "mkdir", "replace")}

    def dying(name):
        def call(*arguments, **options):
            if next(calls) == moment:
                if name == "write":
                    plain["write"](arguments[0], arguments[1][: len(arguments[1]) // 2])
                raise KilledError
            return plain[name](*arguments, **options)

        return call

    for name in plain:
        monkeypatch.setattr(os, name, dying(name))
