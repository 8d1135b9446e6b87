"""How an adapter is made from a plan, and what is written down of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from isogloss.errors import RunError
from isogloss.records import Number, Record
from isogloss.steering import RouterAdapter

__all__ = [
    "ADAPT_REPORT",
    "AdaptOptions",
    "AdaptReport",
    "Adapted",
    "BoundOn",
    "CurvePoint",
    "PlanAgreement",
    "ProbeReading",
]

ADAPT_REPORT = "adapt.json"
"""Name of the file, in the adapter's folder."""

BoundOn = Literal["kl", "accuracy"]


@dataclass(frozen=True)
class AdaptOptions:
    """How probes are fitted, and how ridge and strength are chosen.

    Attributes:
        languages: of the plan, to keep; of a plan without conditions, those whose tokens it is for. Empty: all of a
            plan with conditions, and every token under a plan without.
        protected: languages that must not move; empty for all of the corpus that are no targets. A plan for all
            requests moves every language, so that this and the bound must be left as they are.
        weights: language to its weight in the fit, above 0; 3 for the pivot and 1 for others where not given.
        bound_on: what the bound is on: ``kl``, the divergence of the next token in nats per token, in that protected
            language in which it is largest; or ``accuracy``, how much the mean value of the protected languages' dev
            items falls.
        bound: largest that is allowed.
        ridges: multiples of the mean diagonal, above 0, to choose from.
        strengths: factors on the plan's offsets, above 0, to choose from.
        n_texts: most texts per language on which divergence and agreement are measured.
        batch_tokens: tokens of a forward, padding included.
        pivot: reference language, which is always protected but from a plan for all requests.

    Raises:
        RunError: a number out of its range.
    """

    languages: tuple[str, ...] = ()
    protected: tuple[str, ...] = ()
    weights: Mapping[str, float] = field(default_factory=dict)
    bound_on: BoundOn = "kl"
    bound: float = 0.02
    ridges: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1)
    strengths: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0, 3.0)
    n_texts: int = 16
    batch_tokens: int = 4096
    pivot: str = "eng_Latn"

    def __post_init__(self) -> None:
        for name, numbers in {
            "ridge": self.ridges,
            "strength": self.strengths,
            "weight": self.weights.values(),
        }.items():
            if not (name == "weight" or numbers) or not all(math.isfinite(each) and each > 0 for each in numbers):
                raise RunError(f"{name}s are {list(numbers)}; expected numbers above 0")
        if not (math.isfinite(self.bound) and self.bound >= 0):
            raise RunError(f"the bound is {self.bound}; expected a number of at least 0")
        if min(self.n_texts, self.batch_tokens) < 1:
            raise RunError(f"{self.n_texts} texts, {self.batch_tokens} tokens per forward; expected at least 1")

    def weight(self, language: str) -> float:
        """Return the weight of a language in the fit."""
        return self.weights.get(language, 3.0 if language == self.pivot else 1.0)


@dataclass(frozen=True)
class CurvePoint(Record):
    """One ridge and strength, on the texts and items that choose among them.

    Attributes:
        ridge: as a multiple of the mean diagonal.
        strength: factor on the offsets.
        moved: what the bound is on, by protected language: nats per token, or the fall of the mean value.
        keeps_bound: whether it is within the bound.
        value: by target language: mean value on the dev items or, without a task, minus the divergence from the plan in
            nats per token; empty where the bound is not kept.
    """

    ridge: float
    strength: float
    moved: Mapping[str, Number]
    keeps_bound: bool
    value: Mapping[str, Number]


@dataclass(frozen=True)
class ProbeReading(Record):
    """The value of one probe on the tokens of one language, strength left out; on texts that nothing was chosen on.

    Attributes:
        rank: name of the probe.
        language: of the text.
        part: ``text`` of the corpus; ``prompt`` of the task's dev items; or the ``answer`` that the unsteered model
            gives to it.
        fitted: whether the language was among those that the probe was fitted on. Where it was not, this is of another
            fit, without that language and some others.
        mean: over tokens, by layer of the adapter.
        deviation: standard deviation over tokens, by layer of the adapter.
    """

    rank: str
    language: str
    part: Literal["text", "prompt", "answer"]
    fitted: bool
    mean: tuple[Number, ...]
    deviation: tuple[Number, ...]


@dataclass(frozen=True)
class PlanAgreement(Record):
    """How an adapter compares with the plan that it was made from, on texts that nothing was chosen on.

    Attributes:
        language: of the texts and of the plan's condition.
        same_experts: share of tokens with the same chosen experts, mean over the adapter's layers.
        same_without: the same for the unsteered model in place of the adapter.
        kl: of the next token, adapter from plan, in nats per token.
        kl_without: the same for the unsteered model.
    """

    language: str
    same_experts: float
    same_without: float
    kl: Number
    kl_without: Number


@dataclass(frozen=True)
class AdaptReport(Record):
    """What was fitted, chosen and measured; written as ``adapt.json`` into the adapter's folder.

    Attributes:
        plan_sha256: of the plan.
        layers: of the adapter.
        ranks: name of each rank, in the adapter's order.
        targets: languages that the plan is for.
        protected: languages under the bound; none of a plan for all requests, in which the bound does not act.
        left_out: languages whose leakage was measured by a fit without them.
        bound_on: what the bound is on.
        bound: largest that is allowed.
        metric: what the values are: of the dev items, or ``-kl`` from the plan.
        dev_task: name of the task; None without.
        ridge: that was chosen.
        strength: that was chosen.
        before: target language to the unsteered model's value.
        plan: target language to the plan's value.
        curve: every ridge and strength.
        probes: values of the probes.
        agreement: with the plan, by target language.
        obeyed: layer to the share of tokens that choose none of the experts that the plan bans there, over all targets,
            on texts that nothing was chosen on; empty without a ban.
    """

    plan_sha256: str
    layers: tuple[int, ...]
    ranks: tuple[str, ...]
    targets: tuple[str, ...]
    protected: tuple[str, ...]
    left_out: tuple[str, ...]
    bound_on: BoundOn
    bound: float
    metric: str
    dev_task: str | None
    ridge: float
    strength: float
    before: Mapping[str, Number]
    plan: Mapping[str, Number]
    curve: tuple[CurvePoint, ...]
    probes: tuple[ProbeReading, ...]
    agreement: tuple[PlanAgreement, ...]
    obeyed: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Adapted:
    """An adapter that was made from a plan.

    Attributes:
        adapter: with the chosen ridge, and the chosen strength as its scale.
        report: how it was chosen, and what it does.
    """

    adapter: RouterAdapter
    report: AdaptReport
