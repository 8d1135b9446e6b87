"""What the checks of `isogloss doctor` have in common for all backends: their texts, and the trial of steering.

Every check returns a sentence with numbers, or raises.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar, NamedTuple

import numpy as np

from isogloss.arrays import FloatArray
from isogloss.backends.capture_options import CaptureOptions
from isogloss.backends.families import Family
from isogloss.backends.model import Model
from isogloss.backends.writing import Writing, n_read
from isogloss.errors import ModelError, PlanError
from isogloss.languages import resolve
from isogloss.routing import RouterSpec
from isogloss.steering import Intervention, Plan, Steering

__all__ = ["PROBE_IDS", "PROBE_TEXTS", "Observation", "Observer", "describe_routers", "try_own_plans", "try_plan"]

PROBE_TEXTS = (
    "The ferry leaves at seven, but in winter the captain waits for the school children.",
    "Kivuko huondoka saa moja.",
    "Паром отходит в семь часов, а зимой капитан ждёт школьников.",
    "渡轮七点出发，冬天船长会等学生。",
    "تغادر العبّارة في السابعة، وفي الشتاء ينتظر القبطان تلاميذ المدرسة.",
    "नाव सात बजे चलती है, पर सर्दियों में नाविक बच्चों की प्रतीक्षा करता है।",
)
"""Written for this purpose, in six languages and five scripts, and of unlike lengths, so that a batch is padded."""

PROBE_IDS = tuple(f"probe-{index}" for index in range(len(PROBE_TEXTS)))


class Observation(NamedTuple):
    """What a model computes for the probe texts: its answers, and numbers by which it chooses them."""

    answers: list[str]
    numbers: FloatArray


class Observer(ABC):
    """Compares a model with what it was before it was steered; made before.

    Attributes:
        measured: what the numbers of an observation are, for messages.
        remedy: what to do where the model is not as before.
        before: what the model computed then.
        noise: by how much two unsteered runs differ, since some kernels add up in an order of their own.
    """

    measured: ClassVar[str]
    remedy: ClassVar[str]

    def __init__(self) -> None:
        self.before = self.observe()
        self.noise = self._difference(self.observe())

    @abstractmethod
    def observe(self) -> Observation:
        """Return what the model computes now."""

    def _difference(self, now: Observation) -> float:
        """Return by how much numbers differ at most; those of what the model rules out are infinite in both."""
        one, other = now.numbers, self.before.numbers
        with np.errstate(invalid="ignore"):
            return float(np.where(one == other, 0.0, np.abs(one - other)).max())

    def require_unchanged(self) -> str:
        """Return a sentence that the model is as before; ModelError where it is not."""
        after = self.observe()
        difference = self._difference(after)
        if not difference <= 10 * self.noise:
            raise ModelError(
                f"after steering the {self.measured} differ by {difference:.2g}; expected at most what two unsteered "
                f"runs differ by, {self.noise:.2g}: {self.remedy}"
            )
        if self.noise:
            return f"afterwards {self.measured} repeat only to {self.noise:.2g} here, steered before or not"
        if after.answers != self.before.answers:
            raise ModelError(f"after steering, answers are not those of before; expected the same: {self.remedy}")
        return f"afterwards answers and {self.measured} are bit-identical"


def describe_routers(family: Family, specs: Sequence[RouterSpec], *, n_layers: int) -> str:
    """Describe which of a model's decoder layers are routed, and how."""
    layers = [spec.layer for spec in specs]
    unrouted = sorted(set(range(n_layers)) - set(layers))
    note = f"; note: {family.note}" if family.note else ""
    return (
        f"{family.model_type}: {len(layers)} of {n_layers} layers are routed ({_ranges(layers)}), "
        f"{_ranges(unrouted) or 'none'} without a router; {specs[0].n_experts} experts, top {specs[0].top_k}, "
        f"{' or '.join(sorted(set(map(_how, specs))))}{note}"
    )


def _how(spec: RouterSpec) -> str:
    """Describe how a router scores, chooses and weighs."""
    parts = [
        spec.scoring,
        "weights sum to 1" if spec.renormalise else "weights as scored",
        "a selection bias" if spec.selection_bias else "no selection bias",
        f"best {spec.top_groups} of {spec.n_groups} groups" if spec.n_groups > 1 else "no groups",
    ]
    return ", ".join(parts)


def _ranges(numbers: Sequence[int]) -> str:
    """Write ascending integers as ranges.

    Example:
        >>> _ranges([0, 1, 2, 5])
        '0-2, 5'
    """
    ends: list[list[int]] = []
    for number in numbers:
        if ends and number == ends[-1][1] + 1:
            ends[-1][1] = number
        else:
            ends.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in ends)


def try_own_plans(model: Model, observer: Observer, writing: Writing, reach: Callable[[int], float]) -> str:
    """Force, raise and select the least chosen expert of the middle routed layer; then require the model as before.

    vLLM selects only where it was started for it, and `try_plan` tries that.

    Args:
        model: unsteered.
        observer: made of the model.
        writing: of the model.
        reach: of a decoder layer, the largest distance of a token's median router logit to its best. Twice that lifts
            any expert near the top.

    Raises:
        PlanError: the chosen experts did not change, or some token, read or written, did not choose the forced one.
        ModelError: steering does not reach the router, or the model is not as before.
    """
    middle, options = len(model.routers) // 2, CaptureOptions(token_scope="all")
    layer = model.routers[middle].layer
    counts = model.capture(PROBE_TEXTS, PROBE_IDS, options=options).selections[:, middle].sum(0)
    expert, offset = int(counts.argmin()), 2 * reach(layer)
    force, *others = (
        Plan(model.fingerprint, (intervention,), {"rule": "trial of isogloss doctor"})
        for intervention in (
            Intervention("force", layer, (expert,)),
            Intervention("offset", layer, (expert,), values=(offset,)),
            *_above_all(model, layer, expert),
        )
    )
    shares = [f"force changed the chosen experts of {_share_changed(model, force, layer):.1%} of tokens"]
    for plan in others:
        (added,) = plan.interventions[0].values or ()
        shares.append(f"{plan.interventions[0].kind} {added:+.3g} of {_share_changed(model, plan, layer):.1%}")
    with model.steer(force):
        steered = model.capture(PROBE_TEXTS, PROBE_IDS, options=options)
    n_forced, n_tokens = int(steered.selections[:, middle, expert].sum()), int(steered.tokens.sum())
    if n_forced != n_tokens:
        raise PlanError(f"force: {n_forced} of {n_tokens} tokens chose expert {expert} of layer {layer}; expected all")
    wrote, written = writing.try_steered(force)
    n_so, n_written = sum(int(each.selections[middle, expert]) for each in written), n_read(written)
    if n_so != n_written:
        raise PlanError(
            f"force: while writing, {n_so} of {n_written} tokens chose expert {expert} of layer {layer}; expected "
            "all: steering does not reach what is generated"
        )
    return (
        f"in layer {layer}, expert {expert} was chosen by {counts[expert]} of {n_tokens} tokens, forced by {n_forced}; "
        f"{', '.join(shares)}; under force {wrote}; {observer.require_unchanged()}"
    )


def _above_all(model: Model, layer: int, expert: int) -> Iterator[Intervention]:
    if model.backend == "huggingface":
        yield Intervention("select", layer, (expert,), values=(1000.0,))


def _share_changed(model: Model, plan: Plan, layer: int) -> float:
    """Return the share of tokens whose chosen experts in a layer a plan changes; PlanError where it is none."""
    share = model.change(plan, PROBE_TEXTS).changed[layer]
    if not share:
        raise PlanError(
            f"{plan.interventions[0].kind} changed no chosen expert in layer {layer}; expected some: steering has no "
            "effect here"
        )
    return share


def try_plan(model: Model, observer: Observer, writing: Writing, plan: Steering, *, language: str | None = None) -> str:
    """Measure what a plan changes on the probe texts, and on what is written after them.

    Chosen experts and, where the backend can, next tokens.

    Args:
        model: unsteered.
        observer: made of the model.
        writing: of the model.
        plan: to try.
        language: of the requests, which chooses among the plan's rules; None for the first that the plan names.

    Raises:
        PlanError: the plan is for another model, has no rule for the language, or is not empty and changes nothing.
        ModelError: steering does not reach a router, or the model is not as before.
        LanguageError: the language is unknown.
    """
    request, whose = _request_of(plan, language)
    change = model.change(request, PROBE_TEXTS)
    if request.is_empty:
        return f"{whose}the {plan.noun} fits this model; it is empty and changes nothing"
    change.require(request)
    parts = [_describe_changes(request, change.changed)]
    if change.kl is not None and change.other_tokens is not None:
        parts.append(
            f"the likeliest next token of {change.other_tokens:.1%} of tokens, mean KL divergence "
            f"{change.kl.value:.3g} nats"
        )
    wrote, _ = writing.try_steered(request)
    return f"{whose}{'; '.join([*parts, wrote, observer.require_unchanged()])}"


def _request_of(plan: Steering, language: str | None) -> tuple[Steering, str]:
    """Return the plan for requests in one language, and the beginning of a sentence that names the language."""
    if not plan.languages:
        return plan, ""
    code, named = plan.languages[0] if language is None else resolve(language), ", ".join(plan.languages)
    request = plan.for_request(code)
    if request.is_empty and not plan.is_empty:
        raise PlanError(f"the plan has no rule for {code}; it has some for {named}: choose of these")
    return request, f"for requests in {code} (the plan has rules for {named}) "


def _describe_changes(plan: Steering, changed: Mapping[int, float]) -> str:
    """Describe the shares of tokens whose chosen experts a plan changes; ``changed`` is by decoder layer."""
    shares = [changed[layer] for layer in plan.layers]
    return (
        f"the {plan.noun} fits this model; in its {len(shares)} layers ({_ranges(plan.layers)}) it changes the chosen "
        f"experts of {min(shares):.1%} to {max(shares):.1%} of tokens (mean {np.mean(shares):.1%})"
    )
