"""Runs a task under several arms, batch by batch, and compares each arm with the baseline, item by item.

An evaluation is a folder: ``settings.json`` (all that decides the answers), one folder per arm with ``effect.json``,
``plan.json`` and ``xxx_Xxxx.jsonl`` (one line per item, appended batch by batch), and ``summary.json``. Started again
with the same settings, it resumes; killed or not, it ends with the same bytes.

Batches are made once, from the items in order, so every arm sees the same prompts in batches of the same shape.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isogloss.backends.model import Model, Sampling
from isogloss.errors import RunError
from isogloss.evaluation.arms import BASELINE, PLAN
from isogloss.evaluation.asked import AskedTask
from isogloss.evaluation.asked_lm_eval import AskedLmEval
from isogloss.evaluation.journal import Journal, claim, locked
from isogloss.evaluation.records import SETTINGS, RunSettings
from isogloss.evaluation.summarise import Facts
from isogloss.evaluation.summary import SUMMARY, ArmEffect, EvaluationSummary
from isogloss.evaluation.tasks import Task
from isogloss.files import from_json, read_typed, to_json, write_typed
from isogloss.steering import Plan, write_plan

__all__ = ["BASELINE", "PLAN", "Asked", "RunOptions", "evaluate"]

Asked = AskedTask | AskedLmEval
"""A task before one model."""

_PROBE_ITEMS = 4
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


def evaluate(
    model: Model,
    task: Task | Asked,
    arms: Mapping[str, Plan | None],
    *,
    out: Path,
    options: RunOptions | None = None,
    progress: Callable[[int], None] | None = None,
) -> EvaluationSummary:
    """Answer every item in every arm, the same prompts in the same batches, and compare.

    Args:
        model: unsteered.
        task: items with the same ids in every language; or what is asked of this model already.
        arms: name to plan; ``baseline`` (None) is added and answered first. ``plan`` is the arm under test, all others
            are its controls. Of a plan with conditions on languages, each language's items are answered under what
            `Plan.for_request` chooses.
        out: folder of the evaluation, new or from a stopped run with the same settings.
        options: how items are answered.
        progress: told the number of items answered, those of an earlier run included.

    Returns:
        The summary, as written to ``summary.json``.

    Raises:
        PlanError: a plan belongs to another model, or changes no chosen expert on the task's own prompts.
        RunError: ``out`` holds an evaluation with other settings, is damaged, or another process works there.
    """
    options = options or RunOptions()
    if arms.get(BASELINE) is not None or arms.get(PLAN) is None:
        raise RunError(f"arms are {sorted(arms)}; expected one named {PLAN}, and {BASELINE} only without a plan")
    asked = AskedTask(model, task, options.sampling) if isinstance(task, Task) else task
    if options.sampling is not None and isinstance(asked, AskedLmEval):
        raise RunError(f"{asked.name} says itself how answers are drawn; leave the temperature out")
    plans: dict[str, Plan | None] = {BASELINE: None, **arms}
    run = _Run(model, asked, options, out, progress or _silent)
    settings = run.settings(plans)
    claimed = to_json(settings)
    with locked(out):
        if (out / SETTINGS).is_file():
            claim(out, claimed)  # refuses other settings before anything is measured
        effects = {name: run.effect(name, plan) for name, plan in plans.items() if plan is not None}
        claim(out, claimed)
        for name, effect in effects.items():
            _keep(out / name, plans[name], effect)
        answers = {
            name: {each: run.answer(name, plan, each) for each in asked.questions} for name, plan in plans.items()
        }
        facts = Facts(model.name, settings.engine, options.pivot, plans, effects)
        summary = asked.summarise(answers, facts)
        write_typed(out / SUMMARY, summary)
    return summary


@dataclass(frozen=True)
class _Run:
    """What all arms have in common."""

    model: Model
    asked: Asked
    options: RunOptions
    out: Path
    progress: Callable[[int], None]

    def settings(self, plans: Mapping[str, Plan | None]) -> RunSettings:
        """Return all that decides the answers, as it will be read back."""
        settings = {
            **self.model.describe(),
            **self.asked.describe(),
            "arms": {name: None if plan is None else plan.sha256 for name, plan in plans.items()},
            "batch_size": self.options.batch_size,
            "pivot": self.options.pivot,
        }
        return from_json(self.asked.settings, json.loads(json.dumps(settings, default=str)), SETTINGS)

    def effect(self, name: str, plan: Plan) -> ArmEffect:
        """Measure what a plan changes on the first questions, or read what a stopped run measured; refuse no effect."""
        path = self.out / name / _EFFECT
        if path.is_file():
            return read_typed(path, ArmEffect)
        changes = {}
        for language, questions in self.asked.questions.items():
            texts = [question.text for question in questions[:_PROBE_ITEMS]]
            own = self.asked.adapt(plan, language)
            changes[language] = self.model.change(own, texts, add_special_tokens=not self.asked.uses_chat)
        largest = max(changes, key=lambda language: sum(changes[language].changed.values()))
        changes[largest].require(plan)
        layers = changes[largest].changed
        mean = {k: math.fsum(each.changed[k] for each in changes.values()) / len(changes) for k in layers}
        return ArmEffect(mean, {language: each.kl for language, each in changes.items()})

    def answer(self, name: str, plan: Plan | None, language: str) -> list[Any]:
        """Answer what is not yet answered, and return all records of one arm in one language."""
        questions, size = self.asked.questions[language], self.options.batch_size
        identity = [(question.item_id, question.sha256) for question in questions]
        journal = Journal(self.out / name / f"{language}.jsonl", identity, batch_size=size, kind=self.asked.record)
        records = journal.resume()
        self.progress(len(records))
        left = questions[len(records) :]
        with self.model.steer(self.asked.adapt(plan, language)) if plan is not None and left else nullcontext():
            for first in range(0, len(left), size):
                new = self.asked.answer(language, left[first : first + size])
                journal.append(new)
                records += new
                self.progress(len(new))
        return records


def _keep(folder: Path, plan: Plan | None, effect: ArmEffect) -> None:
    if plan is not None and not (folder / _EFFECT).is_file():
        write_plan(plan, folder / "plan.json")
        write_typed(folder / _EFFECT, effect)


def _silent(_: int) -> None:
    """Tell nobody."""
