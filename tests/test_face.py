"""`import isogloss`: quick, every name is there, and the lines of the README run as they stand."""

from __future__ import annotations

import doctest
import subprocess
import sys
from pathlib import Path

import pytest

import isogloss

README = Path(__file__).parents[1] / "README.md"


def test_import_is_quick_and_loads_nothing():
    """Neither torch nor NumPy, nor any room, is loaded before it is used: an `import` is a matter of milliseconds."""
    code = "import isogloss, sys; print(*sorted(name for name in sys.modules if '.' not in name or 'isogloss' in name))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert [name for name in loaded if name.startswith("isogloss")] == ["isogloss"]
    assert not {"torch", "transformers", "numpy", "pandas", "plotly", "pydantic"} & set(loaded)


def test_every_name_is_there():
    """Each name of the face can be used and says what it does; `dir` lists them; a wrong one names the right ones."""
    for name in isogloss.__all__:
        value = getattr(isogloss, name)
        assert name == "__version__" or value.__doc__
    assert set(isogloss.__all__) <= set(dir(isogloss))
    with pytest.raises(AttributeError, match=r"it has .*capture"):
        _ = isogloss.captur


def test_no_name_is_that_of_a_room():
    """Importing a room sets its name on the package, which would replace a function of that name."""
    rooms = {path.stem for path in Path(isogloss.__file__).parent.iterdir()}
    assert not rooms & set(isogloss.__all__)


def test_the_lines_of_the_readme_run_as_they_stand(tmp_path, monkeypatch):
    """What the README shows of Python is what a newcomer gets in an empty folder."""
    monkeypatch.chdir(tmp_path)
    outcome = doctest.testfile(str(README), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert outcome.attempted >= 10
    assert not outcome.failed
    assert (tmp_path / "out" / "report.html").is_file()
