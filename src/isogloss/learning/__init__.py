"""Learned plans, whose weights stay frozen, and a loss for training that aligns routing.

What is imported here at once needs no torch; what trains does, and is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from isogloss.learning.adapt import adapt_plan
from isogloss.learning.adapt_records import ADAPT_REPORT, Adapted, AdaptOptions, AdaptReport
from isogloss.learning.data import LearningData, gather_data
from isogloss.learning.history import LearningHistory, read_history
from isogloss.learning.learn import learn_plan
from isogloss.learning.records import Learned, LearnedSet, LearnOptions, LearnSettings, StepRecord

if TYPE_CHECKING:
    from isogloss.learning.alignment import AlignmentLog, RoutingAlignment
    from isogloss.learning.paired_batches import PairCollator
    from isogloss.learning.router_files import load_routers, trainable

__all__ = [
    "ADAPT_REPORT",
    "AdaptOptions",
    "AdaptReport",
    "Adapted",
    "AlignmentLog",
    "LearnOptions",
    "LearnSettings",
    "Learned",
    "LearnedSet",
    "LearningData",
    "LearningHistory",
    "PairCollator",
    "RoutingAlignment",
    "StepRecord",
    "adapt_plan",
    "gather_data",
    "learn_plan",
    "load_routers",
    "read_history",
    "trainable",
]

_WHERE = {
    **dict.fromkeys(("AlignmentLog", "RoutingAlignment"), "isogloss.learning.alignment"),
    "PairCollator": "isogloss.learning.paired_batches",
    **dict.fromkeys(("load_routers", "trainable"), "isogloss.learning.router_files"),
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name stands for
    if name not in _WHERE:
        raise AttributeError(f"module 'isogloss.learning' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)
