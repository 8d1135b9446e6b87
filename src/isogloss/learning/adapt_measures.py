"""What is measured of a model as an adapter is made for it: moments, divergence, dev items, values of probes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import numpy as np

from isogloss.arrays import FloatArray
from isogloss.backends.joint_texts import Measured
from isogloss.backends.model import Change
from isogloss.backends.router_inputs import AdaptableModel, Moments
from isogloss.corpora import Corpus
from isogloss.evaluation.asked import AskedTask
from isogloss.learning.adapt_records import AdaptOptions, PlanAgreement, ProbeReading
from isogloss.learning.dev_values import mean_value
from isogloss.steering import Plan, RouterAdapter, Steering

__all__ = ["Measures", "Parts"]

_ANSWERED = 32  # dev items per language whose answers are read


@dataclass(frozen=True)
class Parts:
    """A corpus, divided by its items.

    Attributes:
        fit: what probes are fitted on.
        choose: what ridge and strength are chosen on.
        report: what is reported.
        most_tokens: of a text; longer ones are cut.
    """

    fit: Corpus
    choose: Corpus
    report: Corpus
    most_tokens: int


class Measures:
    """Measures one model, unsteered or under an adapter or the plan that it is made from.

    Attributes:
        parameters: layer to the full name of its router's weight.
        n_extra: layer to the number of its rows after the routed experts.
        higher_is_better: of the values.
    """

    def __init__(
        self,
        model: AdaptableModel,
        plan: Plan,
        layers: Sequence[int],
        asked: AskedTask | None,
        parts: Parts,
        options: AdaptOptions,
    ) -> None:
        self.model = model
        self.plan, self.layers, self.asked, self.parts, self.options = plan, layers, asked, parts, options
        self.parameters, self.n_extra = model.router_parameters, model.extra_rows
        self.higher_is_better = asked is None or asked.task.better == "higher"
        self._before: dict[str, float] = {}

    @property
    def metric(self) -> str:
        """What the values are."""
        return "-kl" if self.asked is None else self.asked.task.metric

    @property
    def task_name(self) -> str | None:
        """Of the task whose items choose."""
        return None if self.asked is None else self.asked.name

    def moments(self, language: str) -> Mapping[int, Moments]:
        """Return the moments of a language, by layer."""
        texts = self._measured([("", text) for text in self.parts.fit.texts[language]], 0)
        return self.model.second_moments(texts, self.layers, batch_tokens=self.options.batch_tokens)

    def obeyed(
        self, adapter: RouterAdapter, banned: Mapping[int, Sequence[int]], languages: Sequence[str]
    ) -> dict[int, float]:
        """Return by layer the share of tokens that choose no banned expert."""
        texts = self._measured([("", text) for code in languages for text in self.parts.report.texts[code]], 0)
        return self.model.share_obeying(texts, banned, adapter, batch_tokens=self.options.batch_tokens)

    def moved(self, adapter: RouterAdapter, languages: Sequence[str]) -> dict[str, float]:
        """Return how far an adapter moves each language, as the bound counts it."""
        if self.options.bound_on == "accuracy" and self.asked is not None:
            on_task = [code for code in languages if code in self.asked.questions]
            before, after = self.values(None, on_task), self.values(adapter, on_task)
            sign = 1.0 if self.higher_is_better else -1.0
            return {code: sign * (before[code] - after[code]) for code in on_task}
        texts = self.parts.choose.texts
        return {code: _kl(self.model.change(adapter, texts[code])) for code in languages}

    def values(self, plan: Steering | None, languages: Sequence[str]) -> dict[str, float]:
        """Return the mean of each language's dev items, if any; without a task, minus the divergence from the plan."""
        if self.asked is None:
            return {code: 0.0 - _kl(self._against_plan(plan, code, self.parts.choose)) for code in languages}
        return {code: self._value(plan, code) for code in languages if code in self.asked.questions}

    def agreement(self, adapter: RouterAdapter, language: str) -> PlanAgreement:
        """Compare an adapter, and the unsteered model, with the plan."""
        steered, plain = (self._against_plan(each, language, self.parts.report) for each in (adapter, None))
        return PlanAgreement(language, self._same(steered), self._same(plain), _kl(steered), _kl(plain))

    def readings(
        self, names: Sequence[str], probes: Mapping[int, FloatArray], languages: Sequence[str], *, fitted: bool = True
    ) -> list[ProbeReading]:
        """Return the values of probes on texts, and on the task's prompts and the unsteered model's answers to them."""
        rows = []
        for code in languages:
            pairs = [("", text) for text in self.parts.report.texts[code]]
            rows += self._read(names, probes, code, "text", self._measured(pairs, 0), fitted=fitted)
            if self.asked is not None and code in self.asked.questions:
                answered = self._answered(code)
                prompts = [text._replace(start=0, stop=text.start) for text in answered]
                answers = [text for text in answered if text.start < text.stop]
                rows += self._read(names, probes, code, "prompt", prompts, fitted=fitted)
                rows += self._read(names, probes, code, "answer", answers, fitted=fitted) if answers else []
        return rows

    def _read(
        self,
        names: Sequence[str],
        probes: Mapping[int, FloatArray],
        code: str,
        part: Literal["text", "prompt", "answer"],
        texts: Sequence[Measured],
        *,
        fitted: bool,
    ) -> list[ProbeReading]:
        float32 = {layer: matrix.astype(np.float32) for layer, matrix in probes.items()}
        values = self.model.probe_values(texts, float32, batch_tokens=self.options.batch_tokens)
        return [
            ProbeReading(
                name,
                code,
                part,
                fitted,
                tuple(float(values[layer][:, rank].mean(dtype=np.float64)) for layer in self.layers),
                tuple(float(values[layer][:, rank].std(dtype=np.float64)) for layer in self.layers),
            )
            for rank, name in enumerate(names)
        ]

    def _value(self, plan: Steering | None, code: str) -> float:
        assert self.asked is not None  # noqa: S101 - asked for with a task alone
        if plan is None and code in self._before:
            return self._before[code]
        with nullcontext() if plan is None else self.model.steer(plan.for_request(code)):
            value = mean_value(self.asked, code)
        if plan is None:
            self._before[code] = value
        return value

    def _against_plan(self, plan: Steering | None, code: str, corpus: Corpus) -> Change:
        """Compare with the plan, on texts of a language that it is for."""
        against = self.plan.for_request(code)
        own = Plan(self.plan.fingerprint) if plan is None else plan.for_request(code)
        return self.model.change(own, corpus.texts[code], against=against)

    def _same(self, change: Change) -> float:
        return 1.0 - math.fsum(change.changed[layer] for layer in self.layers) / len(self.layers)

    def _answered(self, code: str) -> list[Measured]:
        """Let the unsteered model answer the first dev items; measured from the first token of the answer on."""
        assert self.asked is not None  # noqa: S101 - as above
        task, uses_chat = self.asked.task, self.asked.uses_chat
        prompts = [question.content[1] for question in self.asked.questions[code][:_ANSWERED]]
        length = max(task.max_new_tokens, 1)
        answers = self.model.answer(prompts, max_new_tokens=length, add_special_tokens=not uses_chat)
        return [
            self._one(place, prompt, answer, add_special_tokens=not uses_chat)
            for place, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))
        ]

    def _measured(self, pairs: Sequence[tuple[str, str]], start: int) -> list[Measured]:
        """Tokenise texts; all of their tokens are measured from ``start`` on."""
        texts = [self._one(place, prompt, text) for place, (prompt, text) in enumerate(pairs)]
        return [text._replace(start=start) for text in texts]

    def _one(self, place: int, prompt: str, text: str, *, add_special_tokens: bool = True) -> Measured:
        tokenizer = self.model.tokenizer
        head = list(tokenizer(prompt, add_special_tokens=add_special_tokens)["input_ids"]) if prompt else []
        rest = tokenizer(text, add_special_tokens=add_special_tokens and not prompt)["input_ids"]
        ids = [*head, *rest][: self.parts.most_tokens]
        return Measured(place, ids, min(len(head), len(ids)), len(ids))


def _kl(change: Change) -> float:
    return math.nan if change.kl is None else change.kl.value
