"""Makes the summary of an evaluation: every arm against the baseline, from the answers as they were written down."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from isogloss.analysis.statistics import Estimate
from isogloss.errors import RunError
from isogloss.evaluation.arms import BASELINE, PLAN, dose_of
from isogloss.evaluation.corpus_score import CorpusScore, paired_corpus_scores
from isogloss.evaluation.guard import Guard, guard_pivot
from isogloss.evaluation.output_language import compare_output_language
from isogloss.evaluation.paired import Better, Comparison, PairedScores, accuracy, compare, compare_arms
from isogloss.evaluation.records import (
    SETTINGS,
    DocumentRecord,
    EvaluationSettings,
    ItemRecord,
    LmEvalSettings,
    read_records,
)
from isogloss.evaluation.scores import FloatArray
from isogloss.evaluation.summary import SUMMARY, ArmEffect, Dose, EvaluationSummary
from isogloss.evaluation.tasks import Task, corpus_chrf
from isogloss.files import read_json, read_typed
from isogloss.steering import Plan

__all__ = ["Answers", "Facts", "MetricOfTasks", "compare_folders", "summarise"]

Answers = Mapping[str, Mapping[str, Sequence[ItemRecord]]]
"""Arm to language to records in the order of the items."""

_ENGLISH = "eng_Latn"

# What must agree for answers of two folders to be compared.
_COMPARABLE = (
    *("engine", "engine_version", "dtype", "device", "kernels", "task", "scoring", "metric", "items_sha256"),
    *("max_new_tokens", "uses_chat", "batch_size", "sampling"),
)


@dataclass(frozen=True)
class Facts:
    """What a summary says besides what follows from the answers.

    Attributes:
        model: its name.
        engine: its name.
        pivot: language that a plan must not harm.
        plans: arm to plan.
        effects: arm to what its plan changes.
    """

    model: str
    engine: str
    pivot: str
    plans: Mapping[str, Plan | None]
    effects: Mapping[str, ArmEffect]


@dataclass(frozen=True)
class MetricOfTasks:
    """Tasks of lm-eval in one of their metrics, with what a summary needs of a `Task`; ``margin`` None: no guard."""

    name: str
    metric: str
    items: Mapping[str, Sequence[Any]]
    better: Better
    margin: float | None
    scoring: None = None
    group_mean: bool = False


def summarise(task: Task | MetricOfTasks, answers: Answers, facts: Facts) -> EvaluationSummary:
    """Compare every arm with the baseline.

    Args:
        task: that was answered.
        answers: of all arms, ``baseline`` and ``plan`` among them.
        facts: about the run.

    Returns:
        As written to ``summary.json``.
    """
    better = task.better
    values = {arm: {code: _values(rows) for code, rows in found.items()} for arm, found in answers.items()}
    steered = {arm: found for arm, found in values.items() if arm != BASELINE}
    compared = compare_arms(values[BASELINE], steered, better=better)
    guards = {}
    if facts.pivot in task.items and task.margin is not None:
        before = values[BASELINE][facts.pivot]
        guards = {
            arm: guard_pivot(before, found[facts.pivot], margin=task.margin, better=better)
            for arm, found in steered.items()
        }
    doses = _doses(facts, compared, guards)
    return EvaluationSummary(
        **vars(compared[PLAN]),
        **_of_answers(task, answers),
        **_of_metric(task, answers),
        task=task.name,
        metric=task.metric,
        scoring=task.scoring,
        model=facts.model,
        engine=facts.engine,
        pivot=facts.pivot,
        arms={arm: {code: float(each.mean()) for code, each in found.items()} for arm, found in values.items()},
        controls={arm: comparison for arm, comparison in compared.items() if arm != PLAN},
        changed_choices={arm: effect.changed for arm, effect in facts.effects.items()},
        kl={arm: effect.kl for arm, effect in facts.effects.items()},
        n={code: len(items) for code, items in task.items.items()},
        n_experts={arm: _n_experts(plan) for arm, plan in facts.plans.items() if plan is not None},
        guard=guards,
        dose_response=doses if len(doses) > 1 else (),
    )


def compare_folders(first: Path, second: Path, *, arms: tuple[str, str] = (PLAN, PLAN)) -> Comparison:
    """Compare an arm of one finished evaluation with an arm of another, as if the first were the baseline.

    Args:
        first: folder of an evaluation.
        second: folder of another.
        arms: which arm of either.

    Raises:
        RunError: the folders differ in engine, precision, task, items or batches, which would be compared along with
            the plans; or one is not finished.
    """
    is_lm_eval = "harness" in read_json(first / SETTINGS)
    kind = LmEvalSettings if is_lm_eval else EvaluationSettings
    settings = [read_typed(folder / SETTINGS, kind) for folder in (first, second)]
    for name in _COMPARABLE:
        one, other = (getattr(each, name, None) for each in settings)
        if one != other:
            raise RunError(
                f"{first} has {name} {one!r} and {second} has {other!r}; one comparison never mixes them: "
                "run `isogloss evaluate` again with equal ones"
            )
    summary = read_typed(first / SUMMARY, EvaluationSummary)
    languages = sorted(path.stem for path in (first / arms[0]).glob("*.jsonl"))
    values = []
    for folder, arm in zip((first, second), arms, strict=True):
        paths = {code: folder / arm / f"{code}.jsonl" for code in languages}
        if is_lm_eval:
            values.append(
                _in_metric({code: read_records(each, DocumentRecord) for code, each in paths.items()}, summary.metric)
            )
        else:
            values.append({code: _values(read_records(each)) for code, each in paths.items()})
    return compare(*values, better=summary.better)


def _in_metric(records: Mapping[str, Sequence[DocumentRecord]], metric: str) -> dict[str, FloatArray]:
    """Return the values of the tasks that have a metric."""
    values = {task: np.array([row.values.get(metric, math.nan) for row in rows]) for task, rows in records.items()}
    return {task: each for task, each in values.items() if not np.isnan(each).any()}


def _values(records: Sequence[ItemRecord]) -> FloatArray:
    return np.array([record.value for record in records], dtype=np.float64)


def _of_answers(task: Task | MetricOfTasks, answers: Answers) -> dict[str, Any]:
    """Say how many answers could be read, and in which language they are."""
    if task.scoring in (None, "reference"):
        return {}
    unparsable = {
        arm: {code: accuracy([row.parsed is None for row in rows]) for code, rows in found.items()}
        for arm, found in answers.items()
    }
    if task.scoring == "options":
        return {"unparsable": unparsable}
    among = {*task.items, _ENGLISH}
    outputs = {
        arm: {code: [row.output or "" for row in rows] for code, rows in found.items()}
        for arm, found in answers.items()
    }
    languages = {
        arm: {
            code: compare_output_language(outputs[BASELINE][code], texts, _wanted(task, code), among=among)
            for code, texts in found.items()
        }
        for arm, found in outputs.items()
        if arm != BASELINE
    }
    return {"unparsable": unparsable, "output_language": languages}


def _wanted(task: Task | MetricOfTasks, language: str) -> str:
    """The language that answers should be in: that of the items, but of translations into English, English."""
    return _ENGLISH if task.name.endswith(":into-english") else language


def _of_metric(task: Task | MetricOfTasks, answers: Answers) -> dict[str, Any]:
    """Add what a metric has besides the mean over items."""
    found: dict[str, Any] = {}
    if task.metric == "f1":
        found["exact_match"] = {
            arm: {code: accuracy([bool(row.correct) for row in rows]) for code, rows in by_language.items()}
            for arm, by_language in answers.items()
        }
    if task.group_mean:
        found["group_mean"] = _corpus(answers, lambda code, rows: _group_sums(task, code, rows), _mean_of_groups)
    if task.metric == "bits_per_byte":
        found["corpus"] = _corpus(answers, lambda code, rows: _bit_sums(task, code, rows), _bits_per_byte)
    if task.metric == "chrf":
        found["corpus"] = {
            arm: {code: _chrf(rows) for code, rows in by_language.items()} for arm, by_language in answers.items()
        }
    return found


def _corpus(answers: Answers, sums: Any, score: CorpusScore) -> dict[str, Any]:  # noqa: ANN401 - a local function
    """Compare every arm with the baseline by a score that is a function of sums over items."""
    return {
        arm: {
            code: _paired(sums(code, answers[BASELINE][code]), sums(code, rows), score)
            for code, rows in by_language.items()
        }
        for arm, by_language in answers.items()
        if arm != BASELINE
    }


def _paired(baseline: FloatArray, steered: FloatArray, score: CorpusScore) -> PairedScores:
    return paired_corpus_scores(baseline, steered, corpus_score=score)


def _group_sums(task: Task | MetricOfTasks, language: str, records: Sequence[ItemRecord]) -> FloatArray:
    """Return ``[n_items, 2 * n_groups]``: value and 1 in the columns of the item's group."""
    groups = sorted({item.group for item in task.items[language]})
    member = np.array([[item.group == group for group in groups] for item in task.items[language]], dtype=np.float64)
    return np.concatenate([member * _values(records)[:, None], member], axis=1)


def _mean_of_groups(sums: FloatArray) -> FloatArray:
    """Average over the groups that a resample has items of."""
    values, counts = np.split(sums, 2, axis=-1)
    present = counts > 0
    means = np.where(present, values / np.where(present, counts, 1.0), 0.0)
    found: FloatArray = means.sum(axis=-1) / present.sum(axis=-1)
    return found


def _bit_sums(task: Task | MetricOfTasks, language: str, records: Sequence[ItemRecord]) -> FloatArray:
    """Return ``[n_items, 2]``: bits and bytes."""
    sizes = [len(item.reference.encode()) for item in task.items[language]]
    bits = [-record.log_likelihoods[0] / math.log(2) for record in records]
    return np.column_stack([bits, sizes]).astype(np.float64)


def _bits_per_byte(sums: FloatArray) -> FloatArray:
    found: FloatArray = sums[..., 0] / sums[..., 1]
    return found


def _chrf(records: Sequence[ItemRecord]) -> Estimate:
    """Corpus chrF, which has no interval here; that of the mean over sentences is in the comparison."""
    value = corpus_chrf([row.parsed for row in records], [row.expected for row in records])
    return Estimate(value, math.nan, math.nan, len(records))


def _n_experts(plan: Plan) -> int:
    return len({(each.layer, expert) for each in plan.interventions for expert in each.experts})


def _doses(facts: Facts, compared: Mapping[str, Comparison], guards: Mapping[str, Guard]) -> tuple[Dose, ...]:
    """List the plan and the arms that differ from it in strength alone."""
    doses = []
    for arm, plan in facts.plans.items():
        if plan is None or (arm != PLAN and plan.provenance.get("control") != "strength"):
            continue
        strength = dose_of(plan)
        if strength is not None:
            doses.append(Dose(arm, strength, compared[arm].overall.difference, guards.get(arm)))
    return tuple(sorted(doses, key=lambda dose: dose.strength))
