"""Fixtures that several test files share, and what holds for every test."""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, settings
from prove_plugin import pytest_addoption, pytest_configure

__all__ = ["document_script", "pytest_addoption", "pytest_configure", "scratch", "shared_data"]

# Read when torch starts: waiting threads that spin make a busy machine many times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# No test depends on the speed of the machine; a failure prints what repeats it. `make test` tries fewer examples.
settings.register_profile("whole", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.register_profile("quick", settings.get_profile("whole"), max_examples=20)
settings.load_profile("whole")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest tests first, so that at the end no process waits for one of them."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Keep modules and collected tests out of later garbage collections: statsmodels asks for one at every p-value."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _no_flushes() -> Iterator[None]:
    """Flush nothing to disk, which takes most of the time of tests that write: no power is cut here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _file: None)
        yield


def process_state() -> dict[str, object]:
    """What a test must leave as it found it, as far as the libraries concerned are loaded."""
    passing = {
        "PYTEST_CURRENT_TEST",  # pytest's own
        *("TORCHINDUCTOR_CACHE_DIR", "_TORCHINDUCTOR_PYOBJECT_TENSOR_DATA_PTR"),  # torch's, when it is first used
        *("KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK"),  # scikit-learn's, which statsmodels imports where it finds it
    }
    environment = {name: value for name, value in os.environ.items() if name not in passing}
    state: dict[str, object] = {"environment": environment, "folder": Path.cwd(), "collector": gc.isenabled()}
    if (torch := sys.modules.get("torch")) is not None:
        state |= {
            "threads": torch.get_num_threads(),
            "dtype": torch.get_default_dtype(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "gradients": torch.is_grad_enabled(),
        }
    return state


@pytest.fixture(autouse=True)
def _process_stays_as_it_is() -> Iterator[None]:
    """Fail a test after which the whole process is in another state than before."""
    before = process_state()
    yield
    after = process_state()
    assert {name: after[name] for name in before} == before


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data beside the checkout (FLORES-200, published routing counts); the test is skipped where it is absent."""
    folder = Path(os.environ.get("ISOGLOSS_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set ISOGLOSS_DATA to the folder that holds flores200/")
    return folder


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for files that Hypothesis draws; each example overwrites the one before."""
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture
def document_script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Import a script that writes documents, with what lies beside it."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "docs")
    return importlib.import_module
