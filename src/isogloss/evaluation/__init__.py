"""Measures whether steering helped: tasks, answer scoring, and paired statistics. Needs no torch."""

from __future__ import annotations

from isogloss.backends.chat_template import TemplateDate
from isogloss.evaluation.ablation import ABLATION, AblationResult
from isogloss.evaluation.arms import BASELINE, PLAN, make_arms
from isogloss.evaluation.asked import AskedTask
from isogloss.evaluation.guard import Guard
from isogloss.evaluation.journal import claim
from isogloss.evaluation.output_language import OutputLanguage
from isogloss.evaluation.paired import (
    Better,
    Comparison,
    LanguageComparison,
    PairedScores,
    accuracy,
    compare_scores,
    outcome_of,
    paired_scores,
)
from isogloss.evaluation.random_arms import N_RANDOM, AgainstRandom, is_random
from isogloss.evaluation.records import SETTINGS, DocumentRecord, ItemRecord, kept_date, read_records
from isogloss.evaluation.run import Asked, RunOptions, answer_items, answer_unsteered, ask, changes, run_evaluation
from isogloss.evaluation.summarise import compare_folders
from isogloss.evaluation.summary import (
    PROBE_ITEMS,
    SUMMARY,
    ArmEffect,
    BesidePlan,
    Dose,
    EvaluationSummary,
    JudgedLanguage,
    PivotDistance,
    SteeredLanguages,
    SummaryRow,
)
from isogloss.evaluation.tasks.lm_eval import LmEvalOptions, LmEvalTasks, tasks_in
from isogloss.evaluation.tasks.load import TASKS, load_task
from isogloss.evaluation.tasks.task import Item, Task
from isogloss.evaluation.versions import COMPARISON, ModelVersion, VersionComparison

__all__ = [
    "ABLATION",
    "BASELINE",
    "COMPARISON",
    "N_RANDOM",
    "PLAN",
    "PROBE_ITEMS",
    "SETTINGS",
    "SUMMARY",
    "TASKS",
    "AblationResult",
    "AgainstRandom",
    "ArmEffect",
    "Asked",
    "AskedTask",
    "BesidePlan",
    "Better",
    "Comparison",
    "DocumentRecord",
    "Dose",
    "EvaluationSummary",
    "Guard",
    "Item",
    "ItemRecord",
    "JudgedLanguage",
    "LanguageComparison",
    "LmEvalOptions",
    "LmEvalTasks",
    "ModelVersion",
    "OutputLanguage",
    "PairedScores",
    "PivotDistance",
    "RunOptions",
    "SteeredLanguages",
    "SummaryRow",
    "Task",
    "TemplateDate",
    "VersionComparison",
    "accuracy",
    "answer_items",
    "answer_unsteered",
    "ask",
    "changes",
    "claim",
    "compare_folders",
    "compare_scores",
    "is_random",
    "kept_date",
    "load_task",
    "make_arms",
    "outcome_of",
    "paired_scores",
    "read_records",
    "run_evaluation",
    "tasks_in",
]
