"""Tasks of lm-evaluation-harness for one model: its requests and scores, our answers.

A document's line holds the answers to its requests, and the values that lm-eval gives it in every metric after every
filter. So a finished evaluation is compared in another metric without running anything.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import islice
from typing import Any

import numpy as np

from isogloss.backends.chat_template import TemplateDate
from isogloss.backends.joint_texts import JointText
from isogloss.backends.model import Model, Sampling
from isogloss.errors import PlanError, RunError
from isogloss.evaluation.arms import BASELINE
from isogloss.evaluation.asked import Question
from isogloss.evaluation.paired import Better
from isogloss.evaluation.records import DocumentRecord, ItemRecord, LmEvalSettings, RunSettings
from isogloss.evaluation.summarise import Facts, MetricOfTasks, summarise
from isogloss.evaluation.summary import ArmEffect, EvaluationSummary
from isogloss.evaluation.tasks.lm_eval import Continued, LmEvalTasks, Requests, task_language
from isogloss.steering import Steering

__all__ = ["AskedLmEval"]

DocumentAnswers = Mapping[str, Mapping[str, Sequence[DocumentRecord]]]
"""Arm to task to records in the order of the documents."""

_ROUNDING = 1e-6  # between lm-eval's mean and ours
_TOP_K = 50  # what transformers keeps where neither a task nor the checkpoint sets it
_OF_DRAWS = ("min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")  # would shape draws as well


class AskedLmEval:
    """Tasks of lm-eval, prepared for one model; each task takes the place of a language.

    Args:
        model: that is asked.
        source: the tasks.
        today: the date for chat templates that write one; None for today's.
    """

    settings: type[RunSettings] = LmEvalSettings
    record: type[Any] = DocumentRecord

    def __init__(self, model: Model, source: LmEvalTasks, today: TemplateDate | None = None) -> None:
        self.model, self.source, self.name = model, source, source.name
        self.today = today or TemplateDate()
        self.requests = Requests(model.tokenizer, model.context_length)
        self.uses_chat = source.options.chat
        with self.today.fixed():
            source.build(self.requests)
        self.questions: Mapping[str, Sequence[Question]] = {
            name: _questions(task) for name, task in source.tasks.items()
        }
        self.stored = model.describe().get("generation_config_ignored", {})

    def describe(self) -> dict[str, Any]:
        """Return all that decides the answers besides the model, plans and batches, as JSON types."""
        asked = {task: [each.sha256 for each in documents] for task, documents in self.questions.items()}
        return {
            "task": self.name,
            "harness": {**asdict(self.source.options), "version": self.source.version},
            "versions": self._versions(),
            "date": self.today.kept,
            "items_sha256": hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest(),
        }

    def _versions(self) -> dict[str, Any]:
        return {name: task.VERSION for name, task in self.source.tasks.items()}

    def adapt(self, plan: Steering, language: str) -> Steering:
        """Return the part of a plan that applies to the documents of a task, whose name ends in their language.

        Raises:
            PlanError: the plan has rules for some languages alone, and the name contains none; or for one phase alone,
                and the task measures texts that have no prompt.
        """
        code = task_language(language)
        if plan.languages and code is None:
            raise PlanError(
                f"the plan has rules for some languages alone, and the name of task {language} ends in no language; "
                "use tasks that are named by their language, or a plan made without --for-languages"
            )
        kinds = {each.request_type for each in self.questions[language][0].content}
        if plan.by_phase and "loglikelihood_rolling" in kinds:
            raise PlanError(
                f"the plan edits prompt and generation differently, but task {language} measures texts without a "
                "prompt, so it is unknown which of their tokens are an answer; use other tasks, or a plan without "
                "conditions on phases"
            )
        return plan.for_request(code)

    def answer(self, language: str, batch: Sequence[Question]) -> list[DocumentRecord]:
        """Answer and score a batch of documents of a task, under whatever plan is active; return one record each."""
        self._fill(batch, language)
        task = self.source.tasks[language]
        records = [_record(task, *each) for each in zip(batch, _scored(task, batch), strict=True)]
        for each in (request for document in batch for request in document.content):
            each.resps, each.filtered_resps = [], {}  # the next arm is asked the same
        return records

    def summarise(self, answers: DocumentAnswers, facts: Facts) -> EvaluationSummary:
        """Compare every arm with the baseline in one metric.

        Returns:
            As `isogloss.evaluation.summarise.summarise`, by the language that ends the name of each task, else by
            its name; ``metrics``, all that can be compared; ``left_out``, ``TASK: METRIC`` of those that are no mean
            of values of single documents (perplexity, corpus BLEU); ``harness`` and ``versions``.

        Raises:
            RunError: there is no such metric.
        """
        values, left_out = self._values(answers)
        metric = _metric(sorted({name for _, name in values}), self.source.metric)
        names = _names([task for task, name in values if name == metric])
        selected = {
            arm: {name: [_in_metric(row, metric) for row in by_task[task]] for task, name in names.items()}
            for arm, by_task in answers.items()
        }
        view = MetricOfTasks(
            self.name,
            metric,
            selected[BASELINE],
            self._better(metric, names),
            _margin([row.value for by_name in selected.values() for row in by_name.get(facts.pivot, ())]),
        )
        effects = {
            arm: ArmEffect(effect.changed, {name: effect.kl[task] for task, name in names.items() if task in effect.kl})
            for arm, effect in facts.effects.items()
        }
        return replace(
            summarise(view, selected, replace(facts, effects=effects)),
            metrics=tuple(sorted({name for _, name in values})),
            left_out=tuple(left_out),
            harness=f"lm-eval {self.source.version}",
            versions=self._versions(),
        )

    def _better(self, metric: str, tasks: Iterable[str]) -> Better:
        name = metric.partition(",")[0]
        higher = {self.source.tasks[task].higher_is_better().get(name) is not False for task in tasks}
        if len(higher) > 1:
            raise RunError(f"in metric {metric!r}, higher is better in some of the tasks alone; evaluate them apart")
        return "higher" if higher.pop() else "lower"

    def _values(self, answers: DocumentAnswers) -> tuple[set[tuple[str, str]], list[str]]:
        """Return (task, metric) of what can be compared document by document, and ``TASK: METRIC`` of what cannot."""
        kept, left_out = set(), []
        for task, rows in sorted(answers[BASELINE].items()):
            for metric in sorted({name for row in rows for name in row.values}):
                arms = ([row.values.get(metric, math.nan) for row in by_task[task]] for by_task in answers.values())
                if all(self._is_mean(task, metric, values) for values in arms):
                    kept.add((task, metric))
                else:
                    left_out.append(f"{task}: {metric}")
        return kept, left_out

    def _is_mean(self, task: str, metric: str, values: Sequence[float]) -> bool:
        """Whether lm-eval reports the mean over the values of documents."""
        if not np.isfinite(values).all():
            return False
        reported = self.source.tasks[task].aggregation().get(metric.partition(",")[0], np.mean)(list(values))
        return isinstance(reported, int | float) and abs(float(np.mean(values)) - reported) <= _ROUNDING

    def _fill(self, batch: Sequence[Question], task: str) -> None:
        """Answer all requests of some documents, and hand lm-eval the answers."""
        measured: list[tuple[Any, list[JointText]]] = []
        prompts: list[tuple[Any, Continued, str]] = []
        for document in batch:
            for place, instance in enumerate(document.content):
                request = self.requests.of(instance)
                if isinstance(request, Continued):
                    key = f"{task}/{document.item_id}/{place}"
                    prompts += [(instance, request, f"{key}/{turn}") for turn in range(instance.repeats)]
                else:
                    measured.append((instance, request))
        self._measure(measured)
        self._continue(prompts)

    def _measure(self, requests: Sequence[tuple[Any, list[JointText]]]) -> None:
        """Answer by log-likelihoods; that of a long text is the sum over its parts."""
        if not requests:
            return
        parts = (part for _, parts in requests for part in parts)
        likelihoods = iter(self.model.joint_log_likelihoods([part._replace(place=k) for k, part in enumerate(parts)]))
        for instance, own in requests:
            first, *others = islice(likelihoods, len(own))
            nats = math.fsum(each.nats for each in (first, *others))
            rolling = instance.request_type == "loglikelihood_rolling"
            instance.resps = [nats if rolling else (nats, first.greedy)] * instance.repeats

    def _continue(self, prompts: Sequence[tuple[Any, Continued, str]]) -> None:
        """Answer prompts, those that are continued alike together, each under a key of its draws."""
        from lm_eval.models.utils import postprocess_generated_text  # noqa: PLC0415 - an optional extra

        alike: dict[str, list[tuple[Any, Continued, str]]] = {}
        for each in prompts:
            alike.setdefault(json.dumps(each[1]._replace(prompt=""), sort_keys=True, default=str), []).append(each)
        for group in alike.values():
            first = group[0][1]
            sampling = _sampling(first.how, self.stored)
            outputs = self.model.answer(
                [request.prompt for _, request, _ in group],
                max_new_tokens=first.max_new_tokens,
                add_special_tokens=first.add_special_tokens,
                sampling=None if sampling is None else (sampling, [key for *_, key in group]),
                stop=first.stop,
            )
            for (instance, request, _), output in zip(group, outputs, strict=True):
                text = postprocess_generated_text(generation=output, stop=list(request.stop), think_end_token=None)
                instance.resps.append(text)


def _questions(task: Any) -> list[Question]:  # noqa: ANN401 - lm-eval has no types
    """Make one question of all requests of a document."""
    by_document: dict[int, list[Any]] = {}
    for instance in task.instances:
        by_document.setdefault(instance.doc_id, []).append(instance)
    questions = []
    for place, instances in by_document.items():
        instances.sort(key=lambda each: int(each.idx))
        asked = [instances[0].doc, task.doc_to_target(instances[0].doc), [each.args for each in instances]]
        digest = hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()
        text = "".join(part for part in instances[0].args if isinstance(part, str))
        questions.append(Question(str(place), digest, text, instances))
    return questions


def _scored(task: Any, documents: Sequence[Question]) -> list[dict[str, float]]:  # noqa: ANN401 - lm-eval has no types
    """Score answered documents as lm-eval does; NaN for what is no finite number."""
    task._instances = [each for document in documents for each in document.content]  # noqa: SLF001 - what it filters
    task.apply_filters()
    scored = []
    for document in documents:
        values = {}
        for name in document.content[0].filtered_resps:
            filtered = [each.filtered_resps[name] for each in document.content]
            for metric, value in task.process_results(document.content[0].doc, filtered).items():
                is_number = isinstance(value, int | float | np.number | np.bool_) and math.isfinite(value)
                values[f"{metric},{name}"] = float(value) if is_number else math.nan
        scored.append(values)
    return scored


def _record(task: Any, document: Question, values: dict[str, float]) -> DocumentRecord:  # noqa: ANN401 - as above
    responses = [response for each in document.content for response in each.resps]
    measured = [each if isinstance(each, tuple) else (each,) for each in responses if not isinstance(each, str)]
    return DocumentRecord(
        item=document.item_id,
        prompt_sha256=document.sha256,
        outputs=tuple(each for each in responses if isinstance(each, str)),
        log_likelihoods=tuple(each[0] if math.isfinite(each[0]) else math.nan for each in measured),
        greedy=tuple(each[1] for each in measured if len(each) > 1),
        expected=str(task.doc_to_target(document.content[0].doc)),
        values=values,
    )


def _in_metric(record: DocumentRecord, metric: str) -> ItemRecord:
    return ItemRecord(
        item=record.item,
        prompt_sha256=record.prompt_sha256,
        parsed=None,
        expected=record.expected,
        correct=None,
        value=record.values[metric],
    )


def _sampling(how: Mapping[str, Any], stored: Mapping[str, Any]) -> Sampling | None:
    """Read how a task draws tokens, as transformers does where the task leaves it to the checkpoint; None for greedy.

    Raises:
        RunError: the task or the checkpoint needs anything else.
    """
    given = {name: value for name, value in how.items() if (name, value) not in (("num_beams", 1), ("use_cache", True))}
    drawn = bool(given.pop("do_sample", False))
    own = {name: given.pop(name) for name in ("temperature", "top_p", "top_k") if name in given}
    odd = [*given, *(name for name in _OF_DRAWS if drawn and name in stored)]
    if odd:
        raise RunError(
            f"the task generates with {', '.join(sorted(odd))}, which is not supported; choose a task that generates "
            "greedily or with temperature, top_p and top_k"
        )
    if not drawn:
        return None
    kept = {"top_p": 1.0, "top_k": _TOP_K} | {name: stored[name] for name in ("top_p", "top_k") if name in stored} | own
    return Sampling(float(own.get("temperature", 0.0)), float(kept["top_p"]), int(kept["top_k"]) or None)


def _metric(metrics: Sequence[str], wanted: str | None) -> str:
    """Return the requested metric, or the first."""
    alike = [name for name in metrics if wanted is None or wanted in (name, name.partition(",")[0])]
    if not alike or (wanted is not None and wanted not in alike and len(alike) > 1):
        raise RunError(
            f"--metric {wanted} names {', '.join(alike) or 'no metric'} of these tasks; they have "
            f"{', '.join(metrics) or 'none that is a mean over documents'}: name one of them in full"
        )
    return alike[0] if wanted is None or wanted not in alike else wanted


def _names(tasks: Iterable[str]) -> dict[str, str]:
    """Task to language, or to its own name where it has none, or shares it with another task."""
    languages = {task: task_language(task) or task for task in sorted(tasks)}
    counts = Counter(languages.values())
    return {task: name if counts[name] == 1 else task for task, name in languages.items()}


def _margin(values: Sequence[float]) -> float | None:
    """One point is what the pivot may lose where values are shares; other scales have no such unit."""
    return 0.01 if all(0 <= value <= 1 for value in values) else None
