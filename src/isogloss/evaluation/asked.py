"""A task prepared for one model: questions by language, and how its answers become the lines of an evaluation."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from isogloss.backends.chat_template import TemplateDate
from isogloss.backends.joint_texts import encode_start
from isogloss.backends.model import Likelihood, Model, Sampling
from isogloss.errors import RunError
from isogloss.evaluation.records import EvaluationSettings, ItemRecord, RunSettings
from isogloss.evaluation.summarise import Facts, summarise
from isogloss.evaluation.summary import EvaluationSummary
from isogloss.evaluation.tasks.render import continuations, render, uses_chat
from isogloss.evaluation.tasks.score import Score, score_bits, score_options, score_output
from isogloss.evaluation.tasks.task import Item, Task
from isogloss.records import to_json
from isogloss.steering import Steering

__all__ = ["AskedTask", "Question"]


class Question(NamedTuple):
    """What is asked once: its hash covers what the model reads, and on ``text`` is measured what a plan changes."""

    item_id: str
    sha256: str
    text: str
    content: Any


class AskedTask:
    """A task of our own, prepared for one model.

    Args:
        model: that is asked.
        task: the items.
        sampling: how tokens are drawn; None for greedy answers.
        today: the date for chat templates that write one; None for today's.

    Attributes:
        questions: by language, or by what takes its place.
        uses_chat: whether a chat template adds all special tokens of a text.
        settings: class of the settings that decide the answers.
        record: class of a line of answers.

    Raises:
        RunError: the task generates nothing, and is to be sampled; or a question is too long for the model.
    """

    settings: type[RunSettings] = EvaluationSettings
    record: type[Any] = ItemRecord

    def __init__(self, model: Model, task: Task, sampling: Sampling | None, today: TemplateDate | None = None) -> None:
        if sampling is not None and task.scoring != "generated":
            raise RunError(
                f"task {task.name} generates nothing, so there is nothing to sample; leave the temperature out"
            )
        self.model, self.task, self.sampling, self.name = model, task, sampling, task.name
        self.uses_chat, self.today = uses_chat(model.tokenizer, task), today or TemplateDate()
        self.questions: Mapping[str, Sequence[Question]] = {
            language: [_question(model.tokenizer, item, task, self.today) for item in items]
            for language, items in task.items.items()
        }
        self._require_room()

    def _require_room(self) -> None:
        """Refuse the first question that is too long for the model, before any is asked."""
        if (limit := self.model.context_length) is None:
            return
        n_new = self.task.max_new_tokens if self.task.scoring == "generated" else 0
        for language, questions in self.questions.items():
            for item_id, _, _, (_, prompt, texts) in questions:
                longest = max(self._length(prompt, text) for text in texts or ("",))
                if longest + n_new > limit:
                    after = f" and {n_new} after it" if n_new else ""
                    raise RunError(
                        f"task {self.name}, {language}, item {item_id!r}: a text of {longest} tokens{after}; expected "
                        f"at most the {limit} that the model takes: leave the item out of every language"
                    )

    def _length(self, prompt: str, text: str) -> int:
        return len(encode_start(self.model.tokenizer, prompt, text, add_special_tokens=not self.uses_chat))

    def describe(self) -> dict[str, Any]:
        """Return all that decides the answers besides the model, plans and batches, as JSON types."""
        asked = {language: [each.content for each in questions] for language, questions in self.questions.items()}
        return {
            **self.task.describe(),
            "uses_chat": self.uses_chat,
            "date": self.today.kept,
            "items_sha256": hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest(),
            "sampling": to_json(self.sampling),
        }

    def adapt(self, plan: Steering, language: str) -> Steering:
        """Return the part of a plan that applies to the questions of a language."""
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


def _question(tokenizer: Any, item: Item, task: Task, today: TemplateDate) -> Question:  # noqa: ANN401 - transformers' own
    prompt, texts = render(tokenizer, item, task, today), continuations(tokenizer, item, task)
    digest = hashlib.sha256(prompt.encode()).hexdigest()
    return Question(
        item.item_id, digest, prompt or texts[0], (item, prompt, texts)
    )  # a text without a prompt is its own


def _record(question: Question, score: Score, **measured: Any) -> ItemRecord:  # noqa: ANN401 - fields of an ItemRecord
    item_id, digest, _, (item, _, _) = question
    return ItemRecord(item=item_id, prompt_sha256=digest, expected=item.answer, **score._asdict(), **measured)
