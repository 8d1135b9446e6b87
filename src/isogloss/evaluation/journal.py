"""The files of a running evaluation: batches appended whole, one process at a time, killed and resumed at any moment.

A batch is one write and one flush to disk, so only the last batch of a file can be torn. Resuming cuts off whatever
is not a whole batch, and that batch is answered again: no item is lost, and none is there twice.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from isogloss.errors import FileError, RunError
from isogloss.evaluation.records import SETTINGS, ItemRecord
from isogloss.files import parse_json, read_bytes, remove_stale
from isogloss.records import from_json, to_json
from isogloss.resuming import claim_folder

__all__ = ["Journal", "claim"]


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
        """Return the records of all finished batches, after cutting off what a killed process left after them.

        Raises:
            RunError: the file is damaged before its last batch, or holds other items.
            FileError: the file cannot be cut.
        """
        if not self.path.exists():
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

    def _require_items(self, records: Sequence[dict[str, Any]]) -> None:
        for number, (record, expected) in enumerate(zip(records, self.items, strict=False), start=1):
            if (record.get("item"), record.get("prompt_sha256")) != expected:
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


def claim(folder: Path, settings: object, *, arms: Iterable[str] = ()) -> None:
    """Claim a locked folder for work with these settings, a dataclass, or resume one with equal settings.

    Raises:
        RunError: it was claimed with other settings; the message names them.
    """
    claim_folder(folder, SETTINGS, settings)
    for each in (folder, *(folder / arm for arm in arms)):
        each.mkdir(exist_ok=True)
        remove_stale(each)


def _readable(lines: Sequence[bytes]) -> Iterator[dict[str, Any]]:
    """Yield records up to the first line that is none."""
    for line in lines:
        try:
            record = parse_json(line)
        except ValueError:
            return
        if not isinstance(record, dict):
            return
        yield record


def _flush_folder(folder: Path) -> None:
    """Put a new file's name on disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
