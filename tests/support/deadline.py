"""Ends what does not end by itself."""

from __future__ import annotations

import contextlib
import signal

import pytest

PATIENCE = 600
"""Seconds after which what still runs is taken to run for ever: a hundred times what a busy machine needs."""


@contextlib.contextmanager
def deadline(what):
    """Fail where the work inside does not end; where the system has no alarm, wait."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def expire(*_):
        pytest.fail(f"still running after {PATIENCE} s: {what}")

    former = signal.signal(signal.SIGALRM, expire)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, former)
