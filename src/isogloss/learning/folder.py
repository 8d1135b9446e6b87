"""The folder of what is learned: settings, one line per step, a checkpoint after each, at the end plan or adapter.

The line of a step is written before its checkpoint, so that a killed process leaves at most one line too many, which
resuming cuts off before the step is done again.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from isogloss.arrays import FloatArray
from isogloss.errors import FileError, RunError
from isogloss.files import parse_json, read_bytes, write_atomically
from isogloss.learning.records import LearnedSet, StepRecord
from isogloss.records import from_json, to_json

__all__ = ["ADAPTER", "CHECKPOINT", "HISTORY", "PLAN", "Checkpoint", "LearningFolder"]

HISTORY = "history.jsonl"
CHECKPOINT = "checkpoint.safetensors"
PLAN = "plan.json"
ADAPTER = "adapter"


@dataclass(frozen=True)
class _State:
    """What a checkpoint says beside its arrays."""

    number: int
    step: int
    sets: tuple[LearnedSet, ...]
    n_lines: int


@dataclass
class Checkpoint:
    """How far learning has come.

    Attributes:
        number: of the set that is being learned.
        step: its last finished step; -1 before the unsteered model was measured.
        sets: those begun so far, as they stand.
        arrays: by name, with the numbers, what Adam remembers, and the best numbers of every set.
    """

    number: int = 0
    step: int = -1
    sets: list[LearnedSet] = field(default_factory=list)
    arrays: dict[str, FloatArray] = field(default_factory=dict)


class LearningFolder:
    """Files of a folder that is claimed and locked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.n_lines = 0

    def resume(self) -> Checkpoint:
        """Return the last checkpoint, and cut off the history's lines behind it.

        Raises:
            RunError: a file is damaged.
        """
        path = self.path / CHECKPOINT
        checkpoint = Checkpoint()
        if path.is_file():
            read_bytes(path)  # refuses what is no ordinary file
            try:
                with safe_open(path, framework="np") as tensors:
                    arrays = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118 - no mapping
                    state = from_json(_State, parse_json((tensors.metadata() or {})["state"]), path)
            except (SafetensorError, OSError, KeyError, ValueError) as error:
                raise RunError(f"{path}: is damaged ({error}); remove the folder and learn again") from error
            checkpoint = Checkpoint(state.number, state.step, list(state.sets), arrays)
            self.n_lines = state.n_lines
        self._cut()
        return checkpoint

    def keep(self, record: StepRecord, checkpoint: Checkpoint) -> None:
        """Write down a finished step.

        Raises:
            FileError: the folder cannot be written.
        """
        line = json.dumps(record.to_json(), ensure_ascii=False) + "\n"
        try:
            with (self.path / HISTORY).open("ab") as file:
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise FileError(f"cannot write {self.path / HISTORY}: {error.strerror}; make room and run again") from error
        self.n_lines += 1
        state = to_json(_State(checkpoint.number, checkpoint.step, tuple(checkpoint.sets), self.n_lines))
        arrays = {name: np.ascontiguousarray(array) for name, array in checkpoint.arrays.items()}
        write_atomically(self.path / CHECKPOINT, save(arrays, {"state": json.dumps(state)}))

    def _cut(self) -> None:
        path = self.path / HISTORY
        content = read_bytes(path) if path.is_file() else b""
        lines = content.split(b"\n")
        if len(lines) - 1 < self.n_lines:
            raise RunError(f"{path}: lacks lines of finished steps; remove the folder and learn again")
        kept = sum(len(line) + 1 for line in lines[: self.n_lines])
        if kept < len(content):
            with path.open("r+b") as file:
                file.truncate(kept)
                os.fsync(file.fileno())
