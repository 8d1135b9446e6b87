"""The files of a running evaluation: batches appended whole, one process at a time, killed and resumed at any moment.

A batch is one write and one flush to disk, so only the last batch of a file can be torn. Resuming cuts off whatever
is not a whole batch, and that batch is answered again: no item is lost, and none is there twice.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from isogloss.errors import FileError, RunError
from isogloss.evaluation.records import SETTINGS, ItemRecord
from isogloss.files import claim_folder, from_json, read_bytes, remove_stale, to_json, write_json

__all__ = ["Journal", "claim", "locked"]

_LOCK = ".lock"
_UNCLAIMED = {_LOCK, f".{SETTINGS}.tmp"}  # what a process that is killed before it has claimed a folder may leave
_IDENTITY = ("item", "prompt_sha256")


class Journal:
    """The answers of one arm in one language, one JSON line per item.

    Args:
        path: of the file; its folder exists.
        items: of all lines in order: the values of ``item`` and ``prompt_sha256`` that each must have.
        batch_size: lines that are appended together, fewer in the last batch.
        kind: what a line is.
    """

    def __init__(
        self, path: Path, items: Sequence[tuple[str, str]], *, batch_size: int, kind: type[Any] = ItemRecord
    ) -> None:
        self.path, self.items, self.batch_size, self.kind = path, list(items), batch_size, kind

    def resume(self) -> list[Any]:
        """Return the records of all finished batches, after cutting off what a killed process left behind them.

        Raises:
            RunError: the file is damaged before its last batch, or holds other items.
            FileError: the file cannot be cut.
        """
        if not self.path.is_file():
            return []
        content = read_bytes(self.path)
        lines = content.split(b"\n")
        whole = list(_readable(lines[:-1]))  # what follows the last line break is torn, or empty
        n_kept = len(whole) if len(whole) == len(self.items) else len(whole) - len(whole) % self.batch_size
        if len(lines) - (not lines[-1]) - n_kept > self.batch_size or len(whole) > len(self.items):
            raise RunError(f"{self.path}: line {len(whole) + 1} is damaged; remove the file and run the command again")
        self._require_items(whole)
        kept = sum(len(line) + 1 for line in lines[:n_kept])
        if kept < len(content):
            self._cut(kept)
        numbered = enumerate(whole[:n_kept], start=1)
        return [from_json(self.kind, raw, f"{self.path}:{number}") for number, raw in numbered]

    def append(self, records: Sequence[object]) -> None:
        """Add a batch with one write, and return when it is on disk.

        Raises:
            FileError: the file cannot be written.
        """
        text = "".join(json.dumps(to_json(record), ensure_ascii=False) + "\n" for record in records)
        is_new = not self.path.exists()
        try:
            file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)
            try:
                left = text.encode()
                while left:  # a disk that is full, or a very large batch, may take a part
                    left = left[os.write(file, left) :]
                os.fsync(file)
            finally:
                os.close(file)
        except OSError as error:
            raise FileError(
                f"cannot write {self.path}: {error.strerror}; make room or choose another folder, and run again"
            ) from error
        if is_new and os.name == "posix":
            _flush_folder(self.path.parent)

    def _require_items(self, records: Sequence[Mapping[str, Any]]) -> None:
        for number, (record, expected) in enumerate(zip(records, self.items, strict=False), start=1):
            if tuple(record.get(name) for name in _IDENTITY) != expected:
                raise RunError(
                    f"{self.path}:{number} is of item {record.get('item')!r}; expected item {expected[0]!r} with the "
                    "prompt of this evaluation; remove the file and run the command again"
                )

    def _cut(self, size: int) -> None:
        try:
            with self.path.open("r+b") as file:
                file.truncate(size)
                os.fsync(file.fileno())
        except OSError as error:
            raise FileError(f"cannot write {self.path}: {error.strerror}") from error


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder, made if need be, for one process; the operating system lets go when the process ends or dies.

    Where the work inside fails before it has claimed a new folder, the folder is removed again.

    Raises:
        RunError: another process holds it, or it is in use for something else.
        FileError: it cannot be made or locked.
    """
    _require_free(folder)
    path = folder / _LOCK
    # The soft lock that filelock falls back to is a mere file, which a killed process would leave behind.
    lock = FileLock(path, blocking=False, fallback_to_soft=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = lock.acquire()
        path.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
    except Timeout:
        raise RunError(
            f"another process is working in {folder}{_holder(path)}; wait for it to end, or choose another folder "
            "for this one"
        ) from None
    except OSError as error:
        lock.release()
        raise FileError(f"cannot write {folder}: {error.strerror}; choose a folder that is yours") from error
    with held:
        try:
            yield
        except Exception:
            _remove_unclaimed(folder)
            raise
        finally:
            with contextlib.suppress(OSError):  # the folder may be gone
                os.truncate(path, 0)


def claim(folder: Path, settings: dict[str, Any]) -> None:
    """Claim a locked folder for an evaluation with these settings, or take up one with equal settings.

    Raises:
        RunError: it holds an evaluation with other settings; the message names them.
    """
    if (folder / SETTINGS).is_file():
        claim_folder(folder, SETTINGS, settings)
    else:
        write_json(folder / SETTINGS, settings)
    remove_stale(folder)
    for arm in settings["arms"]:
        (folder / arm).mkdir(exist_ok=True)
        remove_stale(folder / arm)


def _readable(lines: Sequence[bytes]) -> Iterator[dict[str, Any]]:
    """Yield records up to the first line that is none."""
    for line in lines:
        try:
            record = json.loads(line.decode("utf-8"))
        except ValueError:
            return
        if not isinstance(record, dict):
            return
        yield record


def _require_free(folder: Path) -> None:
    if (folder / SETTINGS).is_file() or not folder.exists():
        return
    if not folder.is_dir() or {path.name for path in folder.iterdir()} - _UNCLAIMED:
        raise RunError(f"{folder} is in use and has no {SETTINGS}; choose another folder")


def _remove_unclaimed(folder: Path) -> None:
    if {path.name for path in folder.iterdir()} <= _UNCLAIMED:
        with contextlib.suppress(OSError):  # an open file cannot be removed everywhere; then the folder stays, empty
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()


def _holder(lock: Path) -> str:
    """Name the process that wrote a lock file, in brackets; empty where it cannot be read."""
    with contextlib.suppress(OSError, UnicodeDecodeError):  # Windows lets nobody read a locked file
        if holder := lock.read_text(encoding="utf-8"):
            return f" ({holder})"
    return ""


def _flush_folder(folder: Path) -> None:
    """Put a new file's name on disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
