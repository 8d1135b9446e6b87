"""A task as one model meets it: questions by language, and how its answers become the lines of an evaluation."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from isogloss.backends.model import Likelihood, Model, Sampling
from isogloss.errors import RunError
from isogloss.evaluation.records import EvaluationSettings, ItemRecord, RunSettings
from isogloss.evaluation.summarise import Facts, summarise
from isogloss.evaluation.summary import EvaluationSummary
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
from isogloss.files import to_json
from isogloss.steering import Plan

__all__ = ["AskedTask", "Question"]


class Question(NamedTuple):
    """What is asked once.

    Attributes:
        item_id: of the item, within its language.
        sha256: of what the model reads.
        text: what it reads first; on it is measured what a plan changes.
        content: what the task needs to ask it.
    """

    item_id: str
    sha256: str
    text: str
    content: Any


class AskedTask:
    """A task of our own, before one model.

    Args:
        model: that is asked.
        task: the items.
        sampling: None for greedy answers.

    Attributes:
        questions: by language, or by what stands in its place.
        uses_chat: whether a chat template has set all special tokens of a text.
        settings: what is written of all that decides the answers.
        record: what a line of answers is.

    Raises:
        RunError: the task generates nothing, and is to be sampled.
    """

    settings: type[RunSettings] = EvaluationSettings
    record: type[Any] = ItemRecord

    def __init__(self, model: Model, task: Task, sampling: Sampling | None) -> None:
        if sampling is not None and task.scoring != "generated":
            raise RunError(
                f"task {task.name} generates nothing, so there is nothing to sample; leave the temperature out"
            )
        self.model, self.task, self.sampling, self.name = model, task, sampling, task.name
        self.uses_chat = uses_chat(model.tokenizer, task)
        self.questions: Mapping[str, Sequence[Question]] = {
            language: [_question(model.tokenizer, item, task) for item in items]
            for language, items in task.items.items()
        }

    def describe(self) -> dict[str, Any]:
        """Return all that decides the answers besides the model, plans and batches, as JSON types."""
        asked = {language: [each.content for each in questions] for language, questions in self.questions.items()}
        return {
            **self.task.describe(),
            "uses_chat": self.uses_chat,
            "items_sha256": hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest(),
            "sampling": to_json(self.sampling),
        }

    def adapt(self, plan: Plan, language: str) -> Plan:
        """Return what of a plan applies to the questions of a language."""
        return plan.for_request(language)

    def answer(self, language: str, batch: Sequence[Question]) -> list[ItemRecord]:
        """Ask a batch of questions under whatever plan is active; return one record each."""
        if self.task.scoring == "generated":
            return self._generate(language, batch)
        pairs = [(prompt, text) for _, _, _, (_, prompt, texts) in batch for text in texts]
        measured = iter(self.model.log_likelihoods(pairs, add_special_tokens=not self.uses_chat))
        return [self._measured(each, list(islice(measured, len(each.content[2])))) for each in batch]

    def summarise(self, answers: Mapping[str, Mapping[str, Sequence[Any]]], facts: Facts) -> EvaluationSummary:
        """Compare every arm with the baseline; see `isogloss.evaluation.summary.summarise`."""
        return summarise(self.task, answers, facts)

    def _generate(self, language: str, batch: Sequence[Question]) -> list[ItemRecord]:
        keys = [f"{language}/{each.item_id}" for each in batch]
        outputs = self.model.answer(
            [question.content[1] for question in batch],
            max_new_tokens=self.task.max_new_tokens,
            add_special_tokens=not self.uses_chat,
            sampling=None if self.sampling is None else (self.sampling, keys),
        )
        return [
            _record(question, score_output(self.task, language, question.content[0], output), output=output)
            for question, output in zip(batch, outputs, strict=True)
        ]

    def _measured(self, question: Question, likelihoods: Sequence[Likelihood]) -> ItemRecord:
        """Score options or a reference; what was measured is kept, so that it can be scored in other ways later."""
        task, sums = self.task, [each.nats for each in likelihoods]
        if task.scoring == "options":
            score = score_options(task, question.content[0], sums)
        elif math.isfinite(sums[0]):
            score = score_bits(question.content[0], sums[0])
        else:
            raise RunError(
                f"task {task.name}, item {question.item_id!r}: the log-likelihood is {sums[0]}; expected a finite "
                "number: load the model in another dtype, or check it with `isogloss doctor`"
            )
        measured = {"log_likelihoods": tuple(sums), "n_tokens": tuple(each.n_tokens for each in likelihoods)}
        return _record(question, score, **measured)


def _question(tokenizer: Any, item: Item, task: Task) -> Question:  # noqa: ANN401 - transformers' own
    prompt, texts = render(tokenizer, item, task), continuations(tokenizer, item, task)
    digest = hashlib.sha256(prompt.encode()).hexdigest()
    return Question(
        item.item_id, digest, prompt or texts[0], (item, prompt, texts)
    )  # a text without a prompt is its own


def _record(question: Question, score: Score, **measured: Any) -> ItemRecord:  # noqa: ANN401 - fields of an ItemRecord
    item_id, digest, _, (item, _, _) = question
    return ItemRecord(item=item_id, prompt_sha256=digest, expected=item.answer, **score._asdict(), **measured)
