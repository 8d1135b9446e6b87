"""Reads how a plan was learned back from its folder; needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from isogloss.errors import RunError
from isogloss.evaluation import SETTINGS
from isogloss.files import parse_json, read_bytes
from isogloss.learning.folder import ADAPTER, HISTORY, PLAN
from isogloss.learning.records import LearnedSet, LearnSettings, StepRecord
from isogloss.steering import read_adapter, read_plan

__all__ = ["LearningHistory", "read_history"]


@dataclass(frozen=True)
class LearningHistory:
    """How learning went.

    Attributes:
        settings: that decided it.
        steps: of each set, by its languages, in the order of learning.
        sets: how each ended; empty where learning has not finished.
    """

    settings: LearnSettings
    steps: dict[tuple[str, ...], tuple[StepRecord, ...]]
    sets: tuple[LearnedSet, ...]


def read_history(folder: Path) -> LearningHistory:
    """Read ``settings.json``, ``history.jsonl`` and, where learning has finished, its plan or adapter.

    Raises:
        RunError: a file is missing or damaged.
        PlanError: the plan or adapter is damaged.
    """
    path, settings = folder / HISTORY, LearnSettings.read(folder / SETTINGS)
    records = []
    for number, line in enumerate(read_bytes(path).splitlines(), start=1):
        try:
            raw = parse_json(line)
        except ValueError as error:
            raise RunError(f"{path}:{number} is not finished; run `isogloss learn` again") from error
        records.append(StepRecord.from_json(raw, f"{path}:{number}"))
    if not records:
        raise RunError(f"{path} has no step; run `isogloss learn` again")
    steps = {languages: tuple(each) for languages, each in groupby(records, lambda record: record.languages)}
    plan, adapter = folder / PLAN, folder / ADAPTER
    made = read_plan(plan) if plan.is_file() else read_adapter(adapter) if adapter.is_dir() else None
    kept = [] if made is None else made.provenance.get("sets", [])
    where = f"{plan if plan.is_file() else adapter}: provenance.sets"
    if not isinstance(kept, list) or (kept and len(kept) != len(steps)):
        raise RunError(f"{where}: expected one for each of {len(steps)} sets; remove it and learn again")
    return LearningHistory(settings, steps, tuple(LearnedSet.from_json(each, where) for each in kept))
