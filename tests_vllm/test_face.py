"""The lines of Python that the README shows run on vLLM as they stand, `backend="vllm"` apart."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
LOAD = 'ig.load("organism")'
# Room for the other tests, and nothing to compile.
ENGINE = {"max_model_len": 384, "max_num_seqs": 8, "kv_cache_memory_bytes": 2**26, "enforce_eager": True}


@pytest.fixture
def _only_engine(engines):
    """Two engines do not fit beside each other: that of the session ends."""
    engines.free()


@pytest.mark.usefixtures("_only_engine")
def test_the_lines_of_the_readme_run_on_vllm(tmp_path, monkeypatch):
    """Capture, analysis, plan, steering, evaluation and report, with one argument changed."""
    monkeypatch.chdir(tmp_path)
    text = README.read_text(encoding="utf-8")
    assert text.count(LOAD) == 1
    text = text.replace(LOAD, f'ig.load("organism", backend="vllm", engine={ENGINE})')
    lines = doctest.DocTestParser().get_doctest(text, {}, "README.md", str(README), 0)
    outcome = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(lines)
    assert outcome.attempted >= 10
    assert not outcome.failed
    assert (tmp_path / "out" / "report.html").is_file()
