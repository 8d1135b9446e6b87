"""Runs `other_device_laws.py` apart: a device that torch has once been told of stays for as long as the process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from slow import slow_but

LAWS = Path(__file__).with_name("other_device_laws.py")


@pytest.mark.parametrize("marked", slow_but(["not slow", "slow"], ["not slow"]))
def test_the_laws_of_another_device_hold(marked):
    """All of them, in a process of their own."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:xdist", "-m", marked, str(LAWS)]
    done = subprocess.run(command, cwd=LAWS.parents[3], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout
    assert "failed" not in done.stdout
