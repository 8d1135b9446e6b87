"""Makes the summary of an evaluation: every arm against the baseline, from the answers as they were written down."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from isogloss.arrays import FloatArray
from isogloss.errors import RunError
from isogloss.evaluation.arms import BASELINE, PLAN, dose_of
from isogloss.evaluation.corpus_score import CorpusScore, paired_corpus_scores
from isogloss.evaluation.guard import Guard, guard_pivot
from isogloss.evaluation.output_language import ENGLISH, OutputLanguage, asked_language, compare_output_language
from isogloss.evaluation.paired import Better, Comparison, PairedScores, accuracy, compare_arms, compare_scores
from isogloss.evaluation.random_arms import against_random, is_random
from isogloss.evaluation.records import (
    DocumentRecord,
    ItemRecord,
    LmEvalSettings,
    read_records,
    read_settings,
)
from isogloss.evaluation.summary import SUMMARY, ArmEffect, BesidePlan, Dose, EvaluationSummary, SteeredLanguages
from isogloss.evaluation.tasks.score import corpus_chrf
from isogloss.evaluation.tasks.task import Item, Task
from isogloss.records import read_typed
from isogloss.statistics import Estimate
from isogloss.steering import Steering

__all__ = ["Answers", "Facts", "MetricOfTasks", "compare_folders", "summarise"]

Answers = Mapping[str, Mapping[str, Sequence[ItemRecord]]]
"""Arm to language to records in the order of the items."""

Value = TypeVar("Value")

# What must agree for answers of two folders to be compared.
_COMPARABLE = (
    *("engine", "engine_version", "dtype", "device", "kernels", "task", "scoring", "metric", "items_sha256"),
    *("max_new_tokens", "uses_chat", "batch_size", "sampling"),
)


@dataclass(frozen=True)
class Facts:
    """What a summary holds besides what follows from the answers.

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
    plans: Mapping[str, Steering | None]
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
    """Compare every arm with the baseline; ``answers`` hold ``baseline`` and ``plan`` among the arms."""
    values = _by_arm(answers, _values)
    steered = {arm: by_code for arm, by_code in values.items() if arm != BASELINE}
    compared = compare_arms(values[BASELINE], steered, better=task.better)
    guards = {}
    if facts.pivot in task.items and task.margin is not None:
        before = values[BASELINE][facts.pivot]
        guards = {
            arm: guard_pivot(before, by_code[facts.pivot], margin=task.margin, better=task.better)
            if _applies(facts.plans[arm], facts.pivot)
            else Guard("pass", 0.0, 0.0, 0.0, task.margin, 1.0, len(before), steered=False)
            for arm, by_code in steered.items()
        }
    doses = _doses(facts, compared, guards)
    random = [by_code for arm, by_code in values.items() if is_random(arm)]
    where_steered = _where_steered(values, facts, task.better)
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
        arms={arm: {code: float(each.mean()) for code, each in by_code.items()} for arm, by_code in values.items()},
        controls={arm: comparison for arm, comparison in compared.items() if arm != PLAN},
        changed_choices={arm: effect.changed for arm, effect in facts.effects.items()},
        kl={arm: effect.kl for arm, effect in facts.effects.items()},
        n={code: len(items) for code, items in task.items.items()},
        distance={arm: effect.distance for arm, effect in facts.effects.items()},
        n_experts={arm: plan.n_experts for arm, plan in facts.plans.items() if plan is not None},
        guard=guards,
        dose_response=doses if len(doses) > 1 else (),
        where_steered=where_steered,
        adapters=_beside_plans(values, facts, where_steered, task.better),
        against_random=against_random(values[PLAN], random) if random else None,
    )


def _applies(plan: Steering | None, language: str) -> bool:
    """Whether anything that steers applies to requests in a language."""
    return plan is not None and plan.applies_to(language)


def _where_steered(
    values: Mapping[str, Mapping[str, FloatArray]], facts: Facts, better: Better
) -> dict[str, SteeredLanguages]:
    """Average over the languages that an arm steers, for arms that leave others as they are."""
    means = {}
    for arm, by_code in values.items():
        codes = [code for code in by_code if _applies(facts.plans[arm], code)]
        if codes and len(codes) < len(by_code):
            before, after = ({code: values[each][code] for code in codes} for each in (BASELINE, arm))
            compared = compare_scores(before, after, better=better)
            means[arm] = SteeredLanguages(tuple(sorted(codes)), compared.overall, compared.overall_these_languages)
    return means


def _beside_plans(
    values: Mapping[str, Mapping[str, FloatArray]],
    facts: Facts,
    where_steered: Mapping[str, SteeredLanguages],
    better: Better,
) -> dict[str, BesidePlan]:
    """Compare every adapter with the plan by language that it was made from, where that is an arm."""

    def compared(before: str, after: str, among: Sequence[str]) -> PairedScores:
        chosen = ({code: values[each][code] for code in among} for each in (before, after))
        return compare_scores(*chosen, better=better).overall

    arm_of = {plan.sha256: arm for arm, plan in facts.plans.items() if plan is not None and arm in where_steered}
    beside = {}
    for arm, adapter in facts.plans.items():
        plan = None if adapter is None else arm_of.get(adapter.provenance.get("plan_sha256", ""))
        if plan is None:
            continue
        codes = where_steered[plan].languages
        apart = [code for code in values[arm] if code not in codes]
        beside[arm] = BesidePlan(
            plan, codes, compared(BASELINE, arm, codes), compared(plan, arm, codes), compared(BASELINE, arm, apart)
        )
    return beside


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
    settings = [read_settings(folder) for folder in (first, second)]
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
        if isinstance(settings[0], LmEvalSettings):
            values.append(
                _in_metric({code: read_records(each, DocumentRecord) for code, each in paths.items()}, summary.metric)
            )
        else:
            values.append({code: _values(read_records(each)) for code, each in paths.items()})
    return compare_scores(*values, better=summary.better)


def _in_metric(records: Mapping[str, Sequence[DocumentRecord]], metric: str) -> dict[str, FloatArray]:
    """Return the values of the tasks that have a metric."""
    values = {task: np.array([row.values.get(metric, math.nan) for row in rows]) for task, rows in records.items()}
    return {task: each for task, each in values.items() if not np.isnan(each).any()}


def _values(records: Sequence[ItemRecord]) -> FloatArray:
    return np.array([record.value for record in records], dtype=np.float64)


def _by_arm(answers: Answers, result: Callable[[Sequence[ItemRecord]], Value]) -> dict[str, dict[str, Value]]:
    """Compute a result from the records of every arm and language."""
    return {arm: {code: result(rows) for code, rows in by_code.items()} for arm, by_code in answers.items()}


def _against_baseline(
    answers: Answers, result: Callable[[str, Sequence[ItemRecord], Sequence[ItemRecord]], Value]
) -> dict[str, dict[str, Value]]:
    """Compute a result from the language, the records of the baseline and those of an arm, for every other arm."""
    return {
        arm: {code: result(code, answers[BASELINE][code], rows) for code, rows in by_code.items()}
        for arm, by_code in answers.items()
        if arm != BASELINE
    }


def _of_answers(task: Task | MetricOfTasks, answers: Answers) -> dict[str, Any]:
    """Count how many answers could not be read, and how many are in which language."""
    if task.scoring in (None, "reference"):
        return {}
    unparsable = _by_arm(answers, lambda rows: accuracy([row.parsed is None for row in rows]))
    if task.scoring == "options":
        return {"unparsable": unparsable}

    def compared(code: str, before: Sequence[ItemRecord], after: Sequence[ItemRecord]) -> OutputLanguage:
        baseline, steered = ([row.output or "" for row in rows] for rows in (before, after))
        return compare_output_language(baseline, steered, asked_language(task.name, code), among={*task.items, ENGLISH})

    return {"unparsable": unparsable, "output_language": _against_baseline(answers, compared)}


def _of_metric(task: Task | MetricOfTasks, answers: Answers) -> dict[str, Any]:
    """Compute what a metric has besides the mean over items."""
    results: dict[str, Any] = {}
    if task.metric == "f1":
        results["exact_match"] = _by_arm(answers, lambda rows: accuracy([bool(row.correct) for row in rows]))
    if task.group_mean:
        results["group_mean"] = _compared_sums(task, answers, _group_sums, _mean_of_groups)
    if task.metric == "bits_per_byte":
        results["corpus"] = _compared_sums(task, answers, _bit_sums, lambda sums: sums[..., 0] / sums[..., 1])
    if task.metric == "chrf":
        results["corpus"] = _by_arm(answers, _chrf)
    return results


def _compared_sums(
    task: Task | MetricOfTasks,
    answers: Answers,
    sums: Callable[[Sequence[Item], Sequence[ItemRecord]], FloatArray],
    score: CorpusScore,
) -> dict[str, dict[str, PairedScores]]:
    """Compare every arm with the baseline by a score that is a function of sums over items."""

    def compared(code: str, before: Sequence[ItemRecord], after: Sequence[ItemRecord]) -> PairedScores:
        items = task.items[code]
        return paired_corpus_scores(sums(items, before), sums(items, after), corpus_score=score)

    return _against_baseline(answers, compared)


def _group_sums(items: Sequence[Item], records: Sequence[ItemRecord]) -> FloatArray:
    """Return ``[n_items, 2 * n_groups]``: value and 1 in the columns of the item's group."""
    groups = sorted({item.group for item in items})
    member = np.array([[item.group == group for group in groups] for item in items], dtype=np.float64)
    return np.concatenate([member * _values(records)[:, None], member], axis=1)


def _mean_of_groups(sums: FloatArray) -> FloatArray:
    """Average over the groups that a resample has items of."""
    values, counts = np.split(sums, 2, axis=-1)
    present = counts > 0
    means = np.where(present, values / np.where(present, counts, 1.0), 0.0)
    return np.asarray(means.sum(axis=-1) / present.sum(axis=-1))


def _bit_sums(items: Sequence[Item], records: Sequence[ItemRecord]) -> FloatArray:
    """Return ``[n_items, 2]``: bits and bytes."""
    sizes = [len(item.reference.encode()) for item in items]
    bits = [-record.log_likelihoods[0] / math.log(2) for record in records]
    return np.column_stack([bits, sizes]).astype(np.float64)


def _chrf(records: Sequence[ItemRecord]) -> Estimate:
    """Corpus chrF, which has no interval here; that of the mean over sentences is in the comparison."""
    value = corpus_chrf([row.parsed for row in records], [row.expected for row in records])
    return Estimate(value, math.nan, math.nan, len(records))


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
