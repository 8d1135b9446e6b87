"""Fixtures of the tests that serve models by vLLM; they need the environment that `make test-vllm` sets up."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest

# Appended: the tests of the package have a conftest.py and a models.py, too.
sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))

from checkpoints import FAMILIES, checkpoint
from engines import MODES, Engines
from isogloss.backends.huggingface import load_model


def pytest_configure(config):
    """Ignore what vLLM and torch below it say about themselves, such as deprecated functions that they call.

    A warning counts for the module that it names: those of the package and of its tests remain errors.
    """
    for module in ("vllm", "torch"):
        config.addinivalue_line("filterwarnings", rf"ignore:::{module}(\..*)?$")


@pytest.fixture(scope="session")
def engines():
    """All engines of the session, one alive at a time: for engines with options of their own."""
    started = Engines()
    yield started
    started.free()


@pytest.fixture(scope="session", params=itertools.product(FAMILIES, MODES), ids="-".join)
def served(request):
    """A family and a mode; of the session, so that pytest runs tests of the same engine after each other."""
    return request.param


@pytest.fixture
def engine(engines, served):
    """The engine of that family in that mode."""
    return engines.get(*served)


@pytest.fixture
def loaded(served):
    """The same checkpoint as transformers loads it."""
    return load_model(str(checkpoint(served[0])), dtype="float32")
