"""Runs a task under several arms, batch by batch, and compares each arm with the baseline, item by item.

An evaluation is a folder: ``settings.json`` (all that decides the answers), one folder per arm with ``effect.json``,
``plan.json`` or the folder ``adapter``, and ``xxx_Xxxx.jsonl`` (one line per item, appended batch by batch), and
``summary.json``. Started again with the same settings, it resumes; killed or not, it ends with the same bytes.

Batches are made once, from the items in order, so every arm sees the same prompts in batches of the same shape.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isogloss.backends.chat_template import TemplateDate
from isogloss.backends.model import Change, Model, Sampling
from isogloss.errors import PlanError, RunError
from isogloss.evaluation.arms import BASELINE, PLAN, require_interventions
from isogloss.evaluation.asked import AskedTask
from isogloss.evaluation.asked_lm_eval import AskedLmEval
from isogloss.evaluation.journal import Journal, claim
from isogloss.evaluation.paired import paired_scores
from isogloss.evaluation.pivot_distance import PromptRouting
from isogloss.evaluation.records import SETTINGS, RunSettings, kept_date
from isogloss.evaluation.summarise import Facts
from isogloss.evaluation.summary import PROBE_ITEMS, SUMMARY, ArmEffect, EvaluationSummary
from isogloss.evaluation.tasks.lm_eval import LmEvalTasks
from isogloss.evaluation.tasks.task import Task
from isogloss.folders import locked
from isogloss.records import from_json, read_typed, write_typed
from isogloss.statistics import Estimate
from isogloss.steering import Steering, write_steering

__all__ = ["Asked", "RunOptions", "answer_items", "answer_unsteered", "ask", "changes", "run_evaluation"]

Asked = AskedTask | AskedLmEval
"""A task prepared for one model."""

_EFFECT = "effect.json"


@dataclass(frozen=True)
class RunOptions:
    """How items are answered.

    Attributes:
        batch_size: items per batch, at least 1; answered, written and resumed together.
        sampling: None for greedy answers.
        pivot: language that a plan must not harm.

    Raises:
        RunError: a batch without items.
    """

    batch_size: int = 64
    sampling: Sampling | None = None
    pivot: str = "eng_Latn"

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise RunError(f"batch size {self.batch_size}; expected at least 1")


def ask(
    model: Model,
    task: Task | LmEvalTasks,
    sampling: Sampling | None = None,
    *,
    today: TemplateDate | None = None,
) -> Asked:
    """Prepare a task for a model.

    Args:
        model: that is asked.
        task: the items.
        sampling: how tokens are drawn; None for greedy answers.
        today: the date for chat templates that write one, `kept_date` of the folder to resume; None for today's.

    Raises:
        RunError: ``sampling`` is given and the task generates nothing.
    """
    return AskedTask(model, task, sampling, today) if isinstance(task, Task) else AskedLmEval(model, task, today)


def changes(asked: Asked, plan: Steering) -> Iterator[tuple[str, Change]]:
    """Measure what a plan changes on the first questions of each language that it steers, one after the other."""
    for language, questions in asked.questions.items():
        texts = [question.text for question in questions[:PROBE_ITEMS]]
        own = asked.adapt(plan, language)
        if own.is_empty:
            continue
        yield language, asked.model.change(own, texts, add_special_tokens=not asked.uses_chat)


def run_evaluation(
    model: Model,
    task: Task | LmEvalTasks | Asked,
    arms: Mapping[str, Steering | None],
    *,
    out: Path,
    options: RunOptions | None = None,
    progress: Callable[[int], None] | None = None,
) -> EvaluationSummary:
    """Answer every item in every arm, the same prompts in the same batches, and compare.

    Args:
        model: unsteered.
        task: with the same items in every language; or what `ask` made of it for this model.
        arms: name to plan or router adapter; ``baseline`` (None) is added and answered first. ``plan`` is the arm
            under test, all others are its controls. Of a plan with conditions on languages, each language's items are
            answered under what `Plan.for_request` chooses.
        out: folder of the evaluation, new or from a stopped run with the same settings.
        options: how items are answered.
        progress: called with the number of items answered, those of an earlier run included.

    Returns:
        The summary, as written to ``summary.json``.

    Raises:
        PlanError: a plan is empty, belongs to another model, or changes no chosen expert on the task's own prompts.
        RunError: ``out`` holds an evaluation with other settings, is damaged, or another process works there.
    """
    options = options or RunOptions()
    if arms.get(BASELINE) is not None or arms.get(PLAN) is None:
        raise RunError(f"arms are {sorted(arms)}; expected one named {PLAN}, and {BASELINE} only without a plan")
    require_interventions(arms)
    if isinstance(task, Task | LmEvalTasks):
        task = ask(model, task, options.sampling, today=kept_date(out))
    asked = task
    if options.sampling is not None and isinstance(asked, AskedLmEval):
        raise RunError(f"{asked.name} defines how answers are drawn; leave the temperature out")
    plans: dict[str, Steering | None] = {BASELINE: None, **arms}
    run = _Run(model, asked, options, out, progress or (lambda _: None))
    settings = run.settings(plans)
    with locked(out, SETTINGS):
        if is_begun := (out / SETTINGS).is_file():
            claim(out, settings, arms=plans)  # refuses other settings before anything is measured
        routing = PromptRouting(asked, options.pivot) if isinstance(asked, AskedTask) else None
        effects = {name: run.effect(name, plan, routing) for name, plan in plans.items() if plan is not None}
        if not is_begun:
            claim(out, settings, arms=plans)
        for name, effect in effects.items():
            _keep(out / name, plans[name], effect)
        answers: dict[str, dict[str, list[Any]]] = {}
        for name, plan in plans.items():
            unsteered = answers.get(BASELINE, {})
            answers[name] = {each: run.answer(name, plan, each, unsteered.get(each, [])) for each in asked.questions}
        facts = Facts(model.name, settings.engine, options.pivot, plans, effects)
        summary = asked.summarise(answers, facts)
        write_typed(out / SUMMARY, summary)
    return summary


def answer_unsteered(
    asked: AskedTask,
    *,
    out: Path,
    options: RunOptions | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Estimate]:
    """Answer every item without any plan, and return the mean score by language, with its interval over items.

    Args:
        asked: a task prepared by `ask` for the model.
        out: folder, new or from a stopped run with the same settings: the same files as of an evaluation, with the
            baseline alone.
        options: how items are answered.
        progress: called with the number of items answered, those of an earlier run included.

    Raises:
        RunError: ``out`` was begun with other settings, is damaged, or another process works there.
    """
    run = _Run(asked.model, asked, options or RunOptions(), out, progress or (lambda _: None))
    with locked(out, SETTINGS):
        claim(out, run.settings({BASELINE: None}), arms=[BASELINE])
        answers = {each: run.answer(BASELINE, None, each, []) for each in asked.questions}
    scores = {each: [record.value for record in records] for each, records in answers.items()}
    return {each: paired_scores(values, values).baseline for each, values in scores.items()}


@dataclass(frozen=True)
class _Run:
    """What all arms have in common."""

    model: Model
    asked: Asked
    options: RunOptions
    out: Path
    progress: Callable[[int], None]

    def settings(self, plans: Mapping[str, Steering | None]) -> RunSettings:
        """Return all that decides the answers, as it will be read back."""
        settings = {
            **self.model.describe(),
            **self.asked.describe(),
            "arms": {name: None if plan is None else plan.sha256 for name, plan in plans.items()},
            "batch_size": self.options.batch_size,
            "pivot": self.options.pivot,
        }
        return from_json(self.asked.settings, json.loads(json.dumps(settings, default=str)), SETTINGS)

    def effect(self, name: str, plan: Steering, routing: PromptRouting | None) -> ArmEffect:
        """Measure what a plan changes on the first questions, or read what a stopped run measured; refuse no effect."""
        path = self.out / name / _EFFECT
        if path.is_file():
            kept = read_typed(path, ArmEffect)
            if foreign := sorted(kept.distance.keys() - self.asked.questions.keys()):
                raise RunError(f"{path}: distance.{foreign[0]}: no language of this evaluation; delete the file")
            return kept
        measured = dict(changes(self.asked, plan))
        if not measured:
            raise PlanError(
                f"arm {name}: its rules are for {', '.join(plan.languages)}, and none of them was asked; evaluate one"
            )
        largest = max(measured.values(), key=lambda change: sum(change.changed.values()))
        largest.require(plan)
        mean = {k: math.fsum(each.changed[k] for each in measured.values()) / len(measured) for k in largest.changed}
        kl = {language: each.kl for language, each in measured.items()}
        return ArmEffect(mean, kl, {} if routing is None else routing.distances(plan))

    def answer(self, name: str, plan: Steering | None, language: str, unsteered: list[Any]) -> list[Any]:
        """Answer what is not yet answered, and return all records of one arm in one language.

        Where no rule of a plan applies to the language, its answers are those of the baseline, ``unsteered``.
        """
        own = None if plan is None else self.asked.adapt(plan, language)
        return answer_items(
            self.asked,
            own,
            language,
            self.out / name / f"{language}.jsonl",
            batch_size=self.options.batch_size,
            known=unsteered if own is not None and own.is_empty else (),
            progress=self.progress,
        )


def answer_items(  # noqa: PLR0913 - what is asked, where it is kept, and how
    asked: Asked,
    plan: Steering | None,
    language: str,
    path: Path,
    *,
    batch_size: int,
    known: Sequence[Any] = (),
    progress: Callable[[int], None],
) -> list[Any]:
    """Answer what a file does not hold yet of the questions in a language, and return all their records.

    Args:
        asked: the task.
        plan: to answer under, without conditions on languages; None for none.
        language: of the questions.
        path: of the file, whose folder exists.
        batch_size: questions that are answered and appended together.
        known: records of all questions that are taken as they are; empty to ask.
        progress: called with the number of questions answered, those of an earlier run included.
    """
    questions = asked.questions[language]
    identity = [(question.item_id, question.sha256) for question in questions]
    journal = Journal(path, identity, batch_size=batch_size, kind=asked.record)
    records = journal.resume()
    progress(len(records))
    left, known = questions[len(records) :], known[len(records) :]
    with asked.model.steer(plan) if plan is not None and left and not known else nullcontext():
        for first in range(0, len(left), batch_size):
            new = list(known[first : first + batch_size]) or asked.answer(language, left[first : first + batch_size])
            journal.append(new)
            records += new
            progress(len(new))
    return records


def _keep(folder: Path, plan: Steering | None, effect: ArmEffect) -> None:
    if plan is not None and not (folder / _EFFECT).is_file():
        write_steering(plan, folder)
        write_typed(folder / _EFFECT, effect)
