"""Tests that run llama.cpp; they need what `make test-llama` builds, which takes a quarter of an hour on two cores."""

from __future__ import annotations

import sys
from pathlib import Path

# Appended: each folder of tests has a conftest.py of its own.
sys.path += [str(Path(__file__).parents[1] / each) for each in ("tests/support", "tests_vllm", "tests_llama")]
