"""Journals: whole batches or nothing, whatever a killed process leaves behind, and one process at a time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, replace

import pytest

from isogloss.errors import RunError
from isogloss.evaluation.journal import Journal, claim
from isogloss.evaluation.records import SETTINGS, ItemRecord, read_records
from isogloss.folders import locked

N = 7
SIZE = 3
ITEMS = [(f"item-{index}", f"hash-{index}") for index in range(N)]


@dataclass(frozen=True)
class Settings:
    """Settings of some work."""

    task: str = "t"


def record(index):
    """A record with a letter of several bytes."""
    return ItemRecord(
        item=f"item-{index}",
        prompt_sha256=f"hash-{index}",
        output=f"é{index}\n",
        parsed=None,
        expected="é",
        correct=True,
        value=1.0,
    )


def journal(folder):
    """The journal of one language in a folder."""
    return Journal(folder / "eng_Latn.jsonl", ITEMS, batch_size=SIZE)


def write_all(folder):
    """Append all batches, and return the file's content."""
    own = journal(folder)
    for start in range(0, N, SIZE):
        own.append([record(index) for index in range(N)][start : start + SIZE])
    return own.path.read_bytes()


def test_batches_come_back(tmp_path):
    """What was appended is read back, and nothing is cut off."""
    whole = write_all(tmp_path)
    assert journal(tmp_path).resume() == [record(index) for index in range(N)]
    assert journal(tmp_path).path.read_bytes() == whole


def test_any_torn_end_is_cut_back_to_whole_batches(tmp_path):
    """Cut at every byte: what stays are the batches that were written whole, and appending the rest restores all."""
    whole = write_all(tmp_path)
    ends = [0]
    for line in whole.splitlines(keepends=True):
        ends.append(ends[-1] + len(line))
    borders = [ends[count] for count in (0, 3, 6, 7)]
    for size in range(len(whole) + 1):
        own = journal(tmp_path)
        own.path.write_bytes(whole[:size])
        kept = own.resume()
        border = max(each for each in borders if each <= size)
        assert own.path.read_bytes() == whole[:border]
        assert kept == [record(index) for index in range(ends.index(border))]
        left = [record(index) for index in range(len(kept), N)]
        for start in range(0, len(left), SIZE):
            own.append(left[start : start + SIZE])
        assert own.path.read_bytes() == whole


def test_blocks_that_never_reached_the_disk_are_cut(tmp_path):
    """A last batch that a power cut left as zeros, in part or whole, is written anew."""
    whole = write_all(tmp_path)
    own = journal(tmp_path)
    start = whole.index(b'{"item": "item-3"')
    for garbage in (b"\0" * 100, b'{"item": "item-3", "prompt_sha256": "hash-3"}\n' + b"\0" * 50 + b"\n"):
        own.path.write_bytes(whole[:start] + garbage)
        assert len(own.resume()) == 3
        assert own.path.read_bytes() == whole[:start]


def test_damage_before_the_last_batch_is_refused(tmp_path):
    """No answer is thrown away in silence."""
    whole = write_all(tmp_path)
    own = journal(tmp_path)
    own.path.write_bytes(whole.replace(b'"item": "item-1"', b'"item": "item-1', 1))
    with pytest.raises(RunError, match=r"eng_Latn.jsonl: line 2 is damaged"):
        own.resume()
    own.path.write_bytes(whole + whole[: whole.index(b"\n") + 1])
    with pytest.raises(RunError, match="damaged"):
        own.resume()


@pytest.mark.parametrize("field", ["item", "prompt_sha256"])
def test_records_of_other_items_are_refused(tmp_path, field):
    """Another order or another prompt is no part of this evaluation."""
    own = journal(tmp_path)
    own.append([record(0), replace(record(1), **{field: "other"}), record(2)])
    with pytest.raises(RunError, match=r"jsonl:2 is of item"):
        own.resume()


def test_every_batch_is_one_write_that_is_flushed(tmp_path, monkeypatch):
    """One write and then one flush of the file per batch, and of its folder once."""
    calls = []
    plain_write, plain_fsync = os.write, os.fsync
    monkeypatch.setattr(os, "write", lambda file, data: calls.append("write") or plain_write(file, data))
    monkeypatch.setattr(os, "fsync", lambda file: calls.append("fsync") or plain_fsync(file))
    write_all(tmp_path)
    assert calls == ["write", "fsync", "fsync", "write", "fsync", "write", "fsync"]


def test_numbers_that_json_lacks_are_never_written(tmp_path):
    """NaN would make the file unreadable to others."""
    with pytest.raises(ValueError, match="expected a finite score"):
        journal(tmp_path).append([replace(record(0), value=float("nan"))])
    assert not journal(tmp_path).path.exists()


def test_a_record_that_lacks_a_field_is_refused(tmp_path):
    """By file, line and field, whether an evaluation goes on or its answers are compared."""
    whole = write_all(tmp_path)
    own = journal(tmp_path)
    own.path.write_bytes(whole.replace(b'"value": 1.0', b'"valid": 1.0', 2))
    for read in (own.resume, lambda: read_records(own.path)):
        with pytest.raises(RunError, match=r"jsonl:1: value: missing"):
            read()


def test_one_process_at_a_time(tmp_path):
    """The second is refused while the first works, and let in afterwards."""
    folder = tmp_path / "eval"
    with locked(folder, SETTINGS):
        with (
            pytest.raises(RunError, match=rf"another process is working in .*\(process {os.getpid()} on"),
            locked(folder, SETTINGS),
        ):
            pass
        claim(folder, Settings(), arms=["baseline"])
    with locked(folder, SETTINGS):
        assert (folder / "baseline").is_dir()


def test_a_killed_process_bars_no_one(tmp_path):
    """The operating system lets go of what a killed process held."""
    lines = (
        "import os, pathlib, sys, isogloss.folders as folders",
        "with folders.locked(pathlib.Path(sys.argv[1]), 'settings.json'):",
        "    os.kill(os.getpid(), 9)",
    )
    command = [sys.executable, "-c", "\n".join(lines), str(tmp_path / "eval")]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert (tmp_path / "eval" / ".lock").read_text()
    with locked(tmp_path / "eval", SETTINGS):
        pass


def test_failed_work_leaves_no_new_folder(tmp_path):
    """Unclaimed, the folder goes; claimed, it stays."""
    with pytest.raises(RunError), locked(tmp_path / "eval", SETTINGS):
        raise RunError("no")
    assert not (tmp_path / "eval").exists()
    with locked(tmp_path / "eval", SETTINGS):
        claim(tmp_path / "eval", Settings())
    with pytest.raises(RunError), locked(tmp_path / "eval", SETTINGS):
        raise RunError("no")
    assert (tmp_path / "eval" / SETTINGS).is_file()


def test_folders_of_others_stay_as_they_are(tmp_path):
    """A folder with anything else is refused before anything is written into it."""
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match=r"and no settings\.json"), locked(tmp_path, SETTINGS):
        pass
    assert os.listdir(tmp_path) == ["notes.txt"]  # noqa: PTH208 - names alone


def test_leftovers_of_a_kill_do_not_bar_the_way(tmp_path):
    """A lock file, half-written settings, and half-written files of arms are taken up or cleared away."""
    folder = tmp_path / "eval"
    folder.mkdir()
    (folder / ".lock").touch()
    (folder / ".settings.json.tmp").write_text('{"ta')
    with locked(folder, SETTINGS):
        claim(folder, Settings(), arms=["plan"])
        (folder / "plan" / ".effect.json.tmp").write_text("{")
    with locked(folder, SETTINGS):
        claim(folder, Settings(), arms=["plan"])
    assert json.loads((folder / SETTINGS).read_text()) == {"task": "t"}
    assert sorted(path.name for path in folder.rglob("*")) == [".lock", "plan", SETTINGS]
    with pytest.raises(RunError, match=r"other settings \(task: 't' and 'u'\)"), locked(folder, SETTINGS):
        claim(folder, Settings("u"))
    (folder / SETTINGS).write_text('{"task": 1}')
    with (
        pytest.raises(RunError, match=r"settings\.json: task: .* valid string, found 1"),
        locked(folder, SETTINGS),
    ):
        claim(folder, Settings())
