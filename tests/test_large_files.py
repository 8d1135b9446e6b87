"""Whatever lies in the place of a file that isogloss reads: only ordinary files of a stated greatest size are read."""

from __future__ import annotations

import os

import pytest
from run_examples import write

from isogloss.analysis.language_values import read_measure
from isogloss.corpora import load_corpus
from isogloss.errors import IsoglossError
from isogloss.evaluation.journal import Journal
from isogloss.runs import open_run
from isogloss.steering import read_plan
from isogloss.workflows import Study

READERS = {
    "plan.json": read_plan,
    "eng_Latn.txt": lambda path: load_corpus(str(path.parent)),
    "accuracy.json": read_measure,
    "accuracy.csv": read_measure,
    "STUDY.toml": Study.read_toml,
    "deu_Latn.jsonl": lambda path: Journal(path, [("1", "x")], batch_size=1).resume(),
    "manifest.json": lambda path: open_run(path.parent),
    "swh_Latn.safetensors": lambda path: written_run(path.parent).load("swh_Latn"),
}


def written_run(folder):
    """A Run beside whose manifest something else may lie."""
    path = folder / "manifest.json"
    if not path.is_file():
        write(folder / "other")
        path.write_bytes((folder / "other" / "manifest.json").read_bytes())
    return open_run(folder)


@pytest.fixture(params=READERS)
def reader(request, tmp_path):
    """The path of a file, and what reads it."""
    return tmp_path / request.param, READERS[request.param]


def test_a_pipe_is_refused_without_waiting(reader):
    """Nobody writes into it; reading would wait without end."""
    path, read = reader
    os.mkfifo(path)
    with pytest.raises(IsoglossError, match=f"{path.name}: not an ordinary file|no manifest.json|no language files"):
        read(path)


def test_a_device_is_refused(reader):
    """This one never ends."""
    path, read = reader
    path.symlink_to("/dev/zero")
    with pytest.raises(IsoglossError, match=f"{path.name}: not an ordinary file|no manifest.json|no language files"):
        read(path)


def test_a_huge_file_is_refused_unread(reader):
    """Six gigabytes of zeros, which take no room on disk."""
    path, read = reader
    with path.open("wb") as file:
        file.truncate(6 * 2**30)
    with pytest.raises(IsoglossError, match=rf"{path.name} is larger than [\d,]+ MiB \(6,442,450,944 bytes\)"):
        read(path)
