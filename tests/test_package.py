"""What is released: the wheel and the source archive are built, hold what they should, and the wheel runs by itself."""

from __future__ import annotations

import email
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import Distribution
from pathlib import Path

import pytest

from isogloss import __version__

ROOT = Path(__file__).parents[1]
LARGEST = 16_000_000  # bytes; docs/installing.md states how large the wheel is

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of both archives."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def wheel(built):
    """The wheel."""
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def unpacked(wheel, tmp_path_factory):
    """The folder that an installer would write, and nothing else."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)  # noqa: S202 - our own
    return folder


def ask(unpacked, *command):
    """Run Python with the unpacked wheel before all else, from a folder outside the source."""
    environment = {**os.environ, "PYTHONPATH": str(unpacked), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        [sys.executable, *command], cwd=unpacked.parent, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    """Every file of the source but what Python makes, data files and the type marker among them; no tests."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.startswith("isogloss-")}
    source = ROOT / "src"
    files = {path.relative_to(source).as_posix() for path in (source / "isogloss").rglob("*") if path.is_file()}
    assert names == {name for name in files if "__pycache__" not in name}
    assert {"isogloss/py.typed", "isogloss/organism/model/model.safetensors"} <= names


def test_its_size_is_as_stated(wheel):
    """In docs/installing.md, rounded to megabytes."""
    assert wheel.stat().st_size < LARGEST
    stated = re.search(r"wheel is (\d+) MB", (ROOT / "docs" / "installing.md").read_text(encoding="utf-8"))
    assert stated
    assert int(stated[1]) == round(wheel.stat().st_size / 1e6)


def test_its_metadata_is_whole(unpacked):
    """Name, version, licence with its file, the versions of Python that are tested, and links that are whole."""
    (folder,) = unpacked.glob("isogloss-*.dist-info")
    metadata = email.message_from_string((folder / "METADATA").read_text(encoding="utf-8"))
    assert (metadata["Name"], metadata["Version"]) == ("isogloss", __version__)
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_all("License-File") == ["LICENSE"]
    assert (folder / "licenses" / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    classifiers = metadata.get_all("Classifier")
    assert {f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13)} <= set(classifiers)
    assert "Typing :: Typed" in classifiers
    assert metadata.get_all("Project-URL")
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"version: {__version__}\n" in citation


def test_its_entry_points_load(unpacked):
    """The command, and what vLLM and SGLang look for."""
    (folder,) = unpacked.glob("isogloss-*.dist-info")
    points = Distribution.at(folder).entry_points
    assert {point.group for point in points} == {"console_scripts", "vllm.general_plugins", "sglang.srt.plugins"}
    for point in points:
        program = f"import importlib; print(callable(importlib.import_module({point.module!r}).{point.attr}))"
        assert ask(unpacked, "-c", program) == "True\n"


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["--version"], f"isogloss {__version__}"),
        (["models"], "qwen3_moe"),
        (["study", "--list"], "paper-a/qwen3-mgsm"),
        (["study", "--example"], 'model = "organism"'),
        (["tasks"], "belebele"),
    ],
)
def test_it_runs_from_the_wheel_alone(unpacked, command, expected):
    """Commands that read files of the package."""
    where = ask(unpacked, "-c", "import isogloss; print(isogloss.__file__)").strip()
    assert Path(where).is_relative_to(unpacked)
    assert expected in ask(unpacked, "-m", "isogloss", *command)


def test_the_source_archive_builds_the_same_wheel(built, wheel, tmp_path):
    """And holds what tests and documents need."""
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as source:
        source.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    needed = (
        "Makefile",
        "LICENSE",
        "SECURITY.md",
        "CITATION.cff",
        "constraints.txt",
        "tests/conftest.py",
        "docs/write.py",
    )
    assert [name for name in needed if not (folder / name).is_file()] == []
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "--directory", str(tmp_path / "again")]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    (again,) = (tmp_path / "again").glob("*.whl")
    assert again.read_bytes() == wheel.read_bytes()
