"""The mean value of a task's items, under whatever plan or router adapter is active, by which learning chooses."""

from __future__ import annotations

import math
from typing import Any

from isogloss.evaluation.asked import AskedTask

__all__ = ["mean_value"]

_BATCH = 64


def mean_value(asked: AskedTask, code: str) -> float:
    """Answer the items of a language, and return the mean of their values."""
    questions = asked.questions[code]
    records: list[Any] = []
    for first in range(0, len(questions), _BATCH):
        records += asked.answer(code, questions[first : first + _BATCH])
    return math.fsum(record.value for record in records) / len(records)
