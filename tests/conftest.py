"""Fixtures that several test files share."""

from __future__ import annotations

import gc
import importlib
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from prove_plugin import pytest_addoption, pytest_configure

__all__ = ["document_script", "pytest_addoption", "pytest_configure", "shared_data"]


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Keep modules and collected tests out of later garbage collections: statsmodels asks for one at every p-value."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data beside the checkout (FLORES-200, published routing counts); the test is skipped where it is absent."""
    folder = Path(os.environ.get("ISOGLOSS_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set ISOGLOSS_DATA to the folder that holds flores200/")
    return folder


@pytest.fixture
def document_script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Import a script that writes documents, with what lies beside it."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "docs")
    return importlib.import_module
