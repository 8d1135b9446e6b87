"""How a plan is learned, and what is written down as it is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from isogloss.errors import RunError
from isogloss.files import LONGEST_NAME
from isogloss.notebook import Shown
from isogloss.records import Name, Number, Record, to_json
from isogloss.steering import CONSTANT_KINDS, Plan, RouterAdapter

if TYPE_CHECKING:
    import pandas as pd

Objective = Literal["answers", "alignment", "both"]
"""Cross-entropy of answers after their prompts, divergence of parallel texts from the pivot's, or their sum."""

Estimator = Literal["gradient", "straight-through", "search"]

ParametersName = Literal["offset", "select", "low-rank", "router"]
"""Offsets on router logits, or on the scores that routers rank, a plan; matrices of low rank that are added to router
weights, an adapter; or router weights whole, an adapter of full rank."""

_RATES = {"offset": 0.03, "select": 0.003, "low-rank": 0.005, "router": 0.001}  # of Adam
_LEASHES = {"offset": 0.0, "select": 0.0, "low-rank": 3.0, "router": 3.0}
_OF_ADAPTERS = ("rank", "probes", "tolerance")


@dataclass(frozen=True)
class LearnOptions:
    """How a plan or an adapter is learned.

    Attributes:
        objective: what is minimised.
        parameters: what is learned: a plan (``offset``, or ``select``, which only ``search`` can move), or an adapter
            (``low-rank``, ``router``), which acts on every request, whatever its language.
        rank: of a ``low-rank`` adapter that starts from nothing, at least 1.
        probes: whether those of a ``low-rank`` adapter are ``learned``, or ``fixed`` as the adapter that it starts from
            has them.
        tolerance: largest loss on the dev items of protected languages that an adapter may have to be chosen, in the
            unit of the metric: of their mean, and of the pivot.
        shared: one set of offsets for all requests, instead of one for each language's; an adapter is one set anyway.
        layers: first and last decoder layer, inclusive; None for all routed ones.
        estimator: ``gradient``; ``straight-through``, in which experts that were not chosen take part by a softmax over
            all; or ``search`` (SPSA), which needs no gradient.
        leash: weight of the divergence of the next token from the unsteered model on generic text of the pivot and, for
            an adapter, of all protected languages, in nats per token; 0 for none. None is 0 for a plan, 3 for an
            adapter, which must have one.
        alignment_weight: factor of the divergence of parallel texts.
        divergence: ``hjs``, divided by the room that entropies leave as in an analysis, or ``js`` in nats.
        steps: of Adam, for each set.
        batch_size: examples, pairs and generic texts of a step.
        batch_tokens: most tokens of one forward, padding included; larger batches are summed up.
        learning_rate: of Adam. None is 0.03 for offsets, in logits, 0.003 for ``select``, in scores, of which
            search tries 0.01 (more where the rate is higher); 0.005 for matrices of low rank, 0.001 for routers.
        dev_every: steps between two measurements on the dev items; the last step is always measured.
        checkpointing: compute layers again in the backward pass, which takes less memory and more time.
        seed: of batches and search.
        pivot: reference language.

    Raises:
        RunError: a number out of its range.
    """

    objective: Objective = "answers"
    parameters: ParametersName = "offset"
    rank: int = 8
    probes: Literal["learned", "fixed"] = "learned"
    tolerance: float = 0.02
    shared: bool = False
    layers: tuple[int, int] | None = None
    estimator: Estimator = "gradient"
    leash: float = None  # type: ignore[assignment]
    alignment_weight: float = 10.0
    divergence: Literal["hjs", "js"] = "hjs"
    steps: int = 120
    batch_size: int = 8
    batch_tokens: int = 4096
    learning_rate: float = None  # type: ignore[assignment]
    dev_every: int = 20
    checkpointing: bool = False
    seed: int = 0
    pivot: str = "eng_Latn"

    def __post_init__(self) -> None:
        for name, defaults in (("leash", _LEASHES), ("learning_rate", _RATES)):
            if getattr(self, name) is None:
                object.__setattr__(self, name, defaults[self.parameters])
        for name in ("steps", "batch_size", "batch_tokens", "dev_every", "rank"):
            if getattr(self, name) < 1:
                raise RunError(f"{name.replace('_', ' ')} is {getattr(self, name)}; expected at least 1")
        for name in ("learning_rate", "alignment_weight"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise RunError(f"{name.replace('_', ' ')} is {getattr(self, name)}; expected a number above 0")
        if not all(math.isfinite(each) and each >= 0 for each in (self.leash, self.tolerance)) or self.seed < 0:
            raise RunError(
                f"leash {self.leash}, tolerance {self.tolerance}, seed {self.seed}; expected numbers of at least 0"
            )
        if self.is_adapter and self.leash == 0:
            raise RunError(
                "leash is 0: an adapter acts on every request, so without one nothing holds the other languages; "
                "expected a number above 0"
            )
        if self.probes == "fixed" and self.parameters != "low-rank":
            raise RunError(f"probes are fixed in an adapter of low rank, and {self.parameters} has none")

    @property
    def is_adapter(self) -> bool:
        """Whether an adapter is learned, not a plan."""
        return self.parameters not in CONSTANT_KINDS

    @property
    def one_set(self) -> bool:
        """Whether one set of numbers serves all requests."""
        return self.shared or self.is_adapter

    def recorded(self) -> dict[str, Any]:
        """Return the options that decide what is learned, as JSON types."""
        left_out = {*(() if self.is_adapter else _OF_ADAPTERS), *(("parameters",) * (self.parameters == "offset"))}
        return {name: value for name, value in to_json(self).items() if name not in left_out}

    @property
    def answers(self) -> bool:
        """Whether the likelihood of answers takes part."""
        return self.objective != "alignment"

    @property
    def alignment(self) -> bool:
        """Whether parallel texts take part."""
        return self.objective != "answers"


@dataclass(frozen=True)
class LearnSettings(Record):
    """All that decides a learned plan, as in ``settings.json``; stopped learning goes on under equal ones only.

    Attributes:
        model: engine, versions, kernels and fingerprint.
        threads: of the processor; None on other devices.
        options: as in `LearnOptions`; and ``step_0``, which is ``start`` where learning starts from an adapter.
        languages: that are learned.
        dev_task: name of what is measured on the dev items.
        dev_metric: its metric.
        texts_sha256: of the examples, dev items, parallel, generic and protected texts, by these names.
        date: that the chat template wrote into prompts for today's; None where it writes none.
        start_sha256: of the adapter that learning starts from; None for none.
    """

    model: Mapping[str, Any]
    threads: int | None
    options: Mapping[str, Any]
    languages: tuple[str, ...]
    dev_task: Name
    dev_metric: Name
    texts_sha256: Mapping[str, str]
    date: str | None = None
    start_sha256: str | None = None

    def __post_init__(self) -> None:
        if len(name := str(self.model.get("model_name"))) > LONGEST_NAME:
            raise RunError(f"model.model_name has {len(name):,} characters; expected at most {LONGEST_NAME:,}")


@dataclass(frozen=True)
class StepRecord(Record):
    """One step of one set; a line of ``history.jsonl``. Losses are those before the step, of its batch.

    Attributes:
        languages: of the set.
        step: 0 for what learning starts from, which is only measured: an adapter, else the unsteered model.
        loss: weighted sum of those that follow.
        answers: nats per token of the answers.
        alignment: divergence of the parallel texts.
        leash: nats per token from the unsteered model.
        largest: offset, in logits; or number that is added to a router's weight.
        deviation: root of the mean square of these.
        without_gradient: experts of the set that no step so far has moved.
        dev: language to the dev items' mean value; empty where not measured.
        protected: the same of protected languages; None where nothing was measured, or no dev items are theirs.
    """

    languages: tuple[str, ...]
    step: int
    loss: Number = math.nan
    answers: Number = math.nan
    alignment: Number = math.nan
    leash: Number = math.nan
    largest: float = 0.0
    deviation: float = 0.0
    without_gradient: int = 0
    dev: Mapping[str, float] | None = None
    protected: Mapping[str, float] | None = None


@dataclass(frozen=True)
class LearnedSet(Record):
    """How the learning of one set of offsets went.

    Attributes:
        languages: of the set.
        best_step: whose dev value was best, the earliest of equals, of those that cost protected languages no more
            than the tolerance; 0 where nothing was better than what learning started from, which is no change unless
            an adapter was given. None where that adapter cost more than the tolerance, and every step.
        dev_before: language to value of the unsteered model on the dev items.
        dev: the same with the numbers of the best step, on which it was chosen: biased upwards; of the unsteered model
            where there is no best step.
        without_gradient: experts that no step has moved.
        n_experts: of the set.
        kl: of the next token from the unsteered model on generic text of the pivot, in nats per token; NaN without.
        protected_before: language to value of the unsteered model on the dev items of protected languages; None where
            none are theirs: of an adapter, nothing guarded the choice of the step then.
        protected: the same at the best step.
        protected_kl: language to ``kl`` on text of the protected languages; None without.
        dev_start: language to value on the dev items with the adapter that learning starts from; None without one, and
            not written then.
        protected_start: the same of protected languages.
    """

    languages: tuple[str, ...]
    best_step: int | None
    dev_before: Mapping[str, float]
    dev: Mapping[str, float]
    without_gradient: int
    n_experts: int
    kl: Number = math.nan
    protected_before: Mapping[str, float] | None = None
    protected: Mapping[str, float] | None = None
    protected_kl: Mapping[str, float] | None = None
    dev_start: Mapping[str, float] | None = None
    protected_start: Mapping[str, float] | None = None

    @property
    def started(self) -> bool:
        """Whether learning started from an adapter."""
        return self.dev_start is not None

    @property
    def is_chosen(self) -> bool:
        """Whether the numbers of a step were chosen, those that were given to start from included."""
        return self.best_step is not None and (self.started or self.best_step > 0)

    def is_worse(self, metric: str) -> bool:
        """Whether the learned languages' mean on the dev items is worse than that of the unsteered model."""
        sign = -1 if metric == "bits_per_byte" else 1
        return sign * (math.fsum(self.dev.values()) - math.fsum(self.dev_before.values())) < 0

    def unguarded(self, pivot: str) -> str | None:
        """Say of an adapter that nothing guarded the choice of its step, or not the pivot; None where both did."""
        if not self.protected_before:
            return (
                "Nothing guarded the choice of the step: no dev items are in a protected language, so the tolerance "
                "bounded nothing."
            )
        if pivot not in self.protected_before and pivot not in self.languages:
            return f"The pivot {pivot} did not guard the choice of the step: no dev items are in it."
        return None

    @property
    def guards(self) -> tuple[str, ...]:
        """The languages whose dev items guarded the choice of the step."""
        return tuple(self.protected_before or ())

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON types; those of a start only where there was one."""
        left_out = () if self.started else ("dev_start", "protected_start")
        return {name: value for name, value in super().to_json().items() if name not in left_out}


@dataclass(frozen=True, repr=False)
class Learned(Shown):
    """What was learned.

    Attributes:
        plan: of kind ``offset`` or ``select``, or an adapter; one that changes nothing where no step was better than no
            change. An adapter to start from is kept where no step was better than it.
        sets: in the order of the languages.
        metric: of the dev values.
    """

    plan: Plan | RouterAdapter
    sets: tuple[LearnedSet, ...]
    metric: str

    def to_frame(self) -> pd.DataFrame:
        """Return one row per language that was learned or protected.

        Columns: ``language``, ``role`` (``learned`` or ``protected``), ``best_step``, and the value on its dev items
        ``before``, under the unsteered model, and ``after``, in the unit of the metric; the step was chosen on them.
        Where learning started from an adapter, ``start`` is the value under it.
        """
        import pandas as pd  # noqa: PLC0415 - takes a third of a second, and learning shows no table

        rows = [
            (language, role, each.best_step, value, (start or {}).get(language), after[language])
            for each in self.sets
            for role, before, start, after in (
                ("learned", each.dev_before, each.dev_start, each.dev),
                ("protected", each.protected_before or {}, each.protected_start, each.protected or {}),
            )
            for language, value in before.items()
        ]
        frame = pd.DataFrame(rows, columns=["language", "role", "best_step", "before", "start", "after"])
        return frame if any(each.started for each in self.sets) else frame.drop(columns="start")

    def __repr__(self) -> str:
        better, n = sum((each.best_step or 0) > 0 for each in self.sets), len(self.sets)
        sets = f"{better} of {n} set{'' if n == 1 else 's'}"
        return f"Learned({self.plan!r}, {sets} better on dev items by {self.metric})"
