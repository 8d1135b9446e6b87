"""The demo does what docs/start.md shows, offline, and its report is whole."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NUMBER = re.compile(r"-?\d+(\.\d+)?")


def masked(text):
    """Lines without their numbers and spacing, which differ in last digits between processors."""
    return [re.sub(r"\s+", " ", NUMBER.sub("#", line)).strip() for line in text.splitlines()]


@pytest.mark.long
@pytest.mark.slow
def test_demo_prints_what_the_page_shows(tmp_path):
    """Run offline as a newcomer does: the same table and sentences, numbers aside, and a self-contained report."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "isogloss", "demo", "-o", "isogloss-demo"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
    shown = (ROOT / "docs" / "start.md").read_text(encoding="utf-8").split("<!-- demo:")[1]
    shown = shown.split("```text\n")[1].split("```")[0]
    assert masked(done.stdout) == masked(shown)
    report = (tmp_path / "isogloss-demo" / "report.html").read_text(encoding="utf-8")
    assert "Divergence from English" in report
    assert not re.search(r"<(script|link|img|iframe)[^>]*(src|href)=.https?:", report)
    again = subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
    assert again.stdout == done.stdout
