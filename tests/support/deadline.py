"""Ends what does not end by itself."""

from __future__ import annotations

import contextlib
import signal

import pytest


@contextlib.contextmanager
def deadline(seconds, what):
    """Fail where the work inside takes longer; where the system has no alarm, wait."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def expire(*_):
        pytest.fail(f"still running after {seconds} s: {what}")

    former = signal.signal(signal.SIGALRM, expire)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, former)
