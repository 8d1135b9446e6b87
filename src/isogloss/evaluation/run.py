"""Runs a task under several arms, batch by batch, and compares each arm with the baseline, item by item.

An evaluation is a folder: ``settings.json`` (all that decides the answers), one folder per arm with ``effect.json``,
``plan.json`` and ``xxx_Xxxx.jsonl`` (one line per item, appended batch by batch), and ``summary.json``. Started again
with the same settings, it resumes; killed or not, it ends with the same bytes.

Batches are made once, from the items in order, so every arm sees the same prompts in batches of the same shape.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from isogloss.backends.model import Likelihood, Model, Sampling
from isogloss.errors import RunError
from isogloss.evaluation.arms import BASELINE, PLAN
from isogloss.evaluation.journal import Journal, claim, locked
from isogloss.evaluation.records import SETTINGS, EvaluationSettings, ItemRecord
from isogloss.evaluation.summarise import Facts, summarise
from isogloss.evaluation.summary import SUMMARY, ArmEffect, EvaluationSummary
from isogloss.evaluation.tasks import (
    Item,
    Score,
    Task,
    continuations,
    render,
    score_bits,
    score_options,
    score_output,
    uses_chat,
)
from isogloss.files import from_json, read_typed, to_json, write_typed
from isogloss.steering import Plan, write_plan

__all__ = ["BASELINE", "PLAN", "RunOptions", "evaluate"]

_EFFECT = "effect.json"
_PROBE_ITEMS = 4


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


class _Question(NamedTuple):
    """An item as the model meets it."""

    item: Item
    prompt: str
    continuations: tuple[str, ...]

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.prompt.encode()).hexdigest()


@dataclass(frozen=True)
class _Work:
    """What all arms have in common."""

    model: Model
    task: Task
    options: RunOptions
    add_special_tokens: bool
    questions: dict[str, list[_Question]] = field(repr=False)

    def probes(self, language: str) -> list[str]:
        """The first prompts of a language; a text without a prompt is used as its own prompt."""
        first = self.questions[language][:_PROBE_ITEMS]
        return [question.prompt or question.continuations[0] for question in first]


def evaluate(
    model: Model,
    task: Task,
    arms: Mapping[str, Plan | None],
    *,
    out: Path,
    options: RunOptions | None = None,
    progress: Callable[[int], None] | None = None,
) -> EvaluationSummary:
    """Answer every item in every arm, the same prompts in the same batches, and compare.

    Args:
        model: unsteered.
        task: items with the same ids in every language.
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
    _check(task, arms, options)
    plans: dict[str, Plan | None] = {BASELINE: None, **arms}
    work = _prepare(model, task, options)
    settings = _settings(work, plans)
    with locked(out):
        if (out / SETTINGS).is_file():
            claim(out, to_json(settings))  # refuses other settings before anything is measured
        effects = {name: _effect(work, plan, out / name) for name, plan in plans.items() if plan is not None}
        claim(out, to_json(settings))
        for name, effect in effects.items():
            _keep(out / name, plans[name], effect)
        answers: dict[str, dict[str, list[ItemRecord]]] = {}
        for name, plan in plans.items():
            for language in task.items:
                records = _answer_language(work, plan, language, out / name, progress=progress or _silent)
                answers.setdefault(name, {})[language] = records
        facts = Facts(model.name, settings.engine, options.pivot, plans, effects)
        summary = summarise(task, answers, facts)
        write_typed(out / SUMMARY, summary)
    return summary


def _check(task: Task, arms: Mapping[str, Plan | None], options: RunOptions) -> None:
    if options.sampling is not None and task.scoring != "generated":
        raise RunError(f"task {task.name} generates nothing, so there is nothing to sample; leave the temperature out")
    if arms.get(BASELINE) is not None or arms.get(PLAN) is None:
        raise RunError(f"arms are {sorted(arms)}; expected one named {PLAN}, and {BASELINE} only without a plan")


def _prepare(model: Model, task: Task, options: RunOptions) -> _Work:
    tokenizer = model.tokenizer
    questions = {
        language: [_Question(i, render(tokenizer, i, task), continuations(tokenizer, i, task)) for i in items]
        for language, items in task.items.items()
    }
    return _Work(model, task, options, not uses_chat(tokenizer, task), questions)


def _settings(work: _Work, plans: Mapping[str, Plan | None]) -> EvaluationSettings:
    asked = {language: [list(question) for question in found] for language, found in work.questions.items()}
    settings = {
        **work.model.describe(),
        **work.task.describe(),
        "uses_chat": not work.add_special_tokens,
        "items_sha256": hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest(),
        "arms": {name: None if plan is None else plan.sha256 for name, plan in plans.items()},
        "batch_size": work.options.batch_size,
        "sampling": to_json(work.options.sampling),
        "pivot": work.options.pivot,
    }
    copied = json.loads(json.dumps(settings, default=str))  # as it will be read back
    return from_json(EvaluationSettings, copied, SETTINGS)


def _effect(work: _Work, plan: Plan, folder: Path) -> ArmEffect:
    """Measure what a plan changes on the task's own prompts, or read what a stopped run measured; refuse no effect."""
    path = folder / _EFFECT
    if path.is_file():
        return read_typed(path, ArmEffect)
    requests = {language: plan.for_request(language) for language in work.task.items}
    changes = {
        language: work.model.change(request, work.probes(language), add_special_tokens=work.add_special_tokens)
        for language, request in requests.items()
    }
    largest = max(changes, key=lambda language: sum(changes[language].changed.values()))
    changes[largest].require(plan)
    layers = changes[largest].changed
    mean = {layer: math.fsum(each.changed[layer] for each in changes.values()) / len(changes) for layer in layers}
    return ArmEffect(mean, {language: each.kl for language, each in changes.items()})


def _keep(folder: Path, plan: Plan | None, effect: ArmEffect) -> None:
    if plan is not None and not (folder / _EFFECT).is_file():
        write_plan(plan, folder / "plan.json")
        write_typed(folder / _EFFECT, effect)


def _answer_language(
    work: _Work, plan: Plan | None, language: str, folder: Path, *, progress: Callable[[int], None]
) -> list[ItemRecord]:
    """Answer what is not yet answered, and return all records of one arm in one language."""
    questions, size = work.questions[language], work.options.batch_size
    identity = [(question.item.item_id, question.sha256) for question in questions]
    journal = Journal(folder / f"{language}.jsonl", identity, batch_size=size)
    records = journal.resume()
    progress(len(records))
    left = questions[len(records) :]
    with work.model.steer(plan.for_request(language)) if plan is not None and left else nullcontext():
        for batch in _batches(left, size):
            new = _answer_batch(work, language, batch)
            journal.append(new)
            records += new
            progress(len(new))
    return records


def _batches(questions: Sequence[_Question], size: int) -> Iterator[list[_Question]]:
    rest = iter(questions)
    while batch := list(islice(rest, size)):
        yield batch


def _answer_batch(work: _Work, language: str, batch: Sequence[_Question]) -> list[ItemRecord]:
    if work.task.scoring == "generated":
        return _generate(work, language, batch)
    pairs = [(question.prompt, text) for question in batch for text in question.continuations]
    measured = iter(work.model.log_likelihoods(pairs, add_special_tokens=work.add_special_tokens))
    return [_measured(work.task, each, list(islice(measured, len(each.continuations)))) for each in batch]


def _generate(work: _Work, language: str, batch: Sequence[_Question]) -> list[ItemRecord]:
    sampling = work.options.sampling
    outputs = work.model.answer(
        [question.prompt for question in batch],
        max_new_tokens=work.task.max_new_tokens,
        add_special_tokens=work.add_special_tokens,
        sampling=None if sampling is None else (sampling, [f"{language}/{each.item.item_id}" for each in batch]),
    )
    return [
        _record(question, score_output(work.task, language, question.item, output), output=output)
        for question, output in zip(batch, outputs, strict=True)
    ]


def _measured(task: Task, question: _Question, found: Sequence[Likelihood]) -> ItemRecord:
    """Score options or a reference; what was measured is kept, so that it can be scored in other ways later."""
    sums = [each.nats for each in found]
    if task.scoring == "options":
        score = score_options(task, question.item, sums)
    elif math.isfinite(sums[0]):
        score = score_bits(question.item, sums[0])
    else:
        raise RunError(
            f"task {task.name}, item {question.item.item_id!r}: the log-likelihood is {sums[0]}; expected a finite "
            "number: load the model in another dtype, or check it with `isogloss doctor`"
        )
    return _record(question, score, log_likelihoods=tuple(sums), n_tokens=tuple(each.n_tokens for each in found))


def _record(question: _Question, score: Score, **measured: Any) -> ItemRecord:  # noqa: ANN401 - fields of a ItemRecord
    item, answer = question.item.item_id, question.item.answer
    return ItemRecord(item=item, prompt_sha256=question.sha256, expected=answer, **score._asdict(), **measured)


def _silent(_: int) -> None:
    """Tell nobody."""
