"""What `doctor` asks of steering: a trial of our own, or a plan; each returns a sentence with numbers, or raises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from isogloss.backends.huggingface import CaptureOptions, LoadedModel, capture, measure_effect, steer
from isogloss.backends.huggingface.outputs import RouterOutput
from isogloss.backends.huggingface.steer import mark_generated
from isogloss.backends.huggingface.watch import watch_routers
from isogloss.errors import ModelError, PlanError
from isogloss.languages import resolve
from isogloss.routing import Fingerprint
from isogloss.steering import PHASES, Intervention, Phase, Plan
from isogloss.workflows.diagnosis import PROBE_IDS, PROBE_TEXTS, probe_ids, spans

__all__ = ["EMPTY", "Trial", "describe_change", "request_of", "try_plan", "try_trial"]

EMPTY = "the plan fits this model; it is empty and changes nothing"
"""What is said of an empty plan."""

_ALL = CaptureOptions(token_scope="all")


@dataclass(frozen=True)
class Trial:
    """The expert that is least chosen in a layer, to be forced, and then to be raised by an offset.

    Attributes:
        layer: 0-based position in the whole decoder stack.
        expert: its id.
        n_chosen: tokens of the probe texts that choose it unsteered.
        raised: the offset, in logits.
    """

    layer: int
    expert: int
    n_chosen: int
    raised: float

    def plans(self, fingerprint: Fingerprint) -> tuple[Plan, Plan]:
        """Return the plan that forces it, and the one that raises it."""
        where = self.layer, (self.expert,)
        record = {"rule": "trial of isogloss doctor"}
        force, offset = Intervention("force", *where), Intervention("offset", *where, values=(self.raised,))
        return Plan(fingerprint, (force,), record), Plan(fingerprint, (offset,), record)

    def require_change(self, plan: Plan, changed: Mapping[int, float]) -> float:
        """Return the share of tokens whose choice in the layer a plan changes; PlanError where it is none."""
        if not changed[self.layer]:
            raise PlanError(
                f"{plan.interventions[0].kind} changed no chosen expert in layer {self.layer}; expected some: steering "
                "has no effect here"
            )
        return changed[self.layer]

    def describe(self, shares: Sequence[float], *, n_forced: int, n_tokens: int) -> str:
        """Say what was found.

        Args:
            shares: what `require_change` returned for the two plans.
            n_forced: tokens that choose the expert under the first.
            n_tokens: of the probe texts.

        Raises:
            PlanError: a token did not choose the forced expert.
        """
        if n_forced != n_tokens:
            raise PlanError(
                f"force: {n_forced} of {n_tokens} tokens chose expert {self.expert} of layer {self.layer}; expected all"
            )
        forced, lifted = shares
        return (
            f"in layer {self.layer}, expert {self.expert} was chosen by {self.n_chosen} of {n_tokens} tokens, forced "
            f"by {n_forced}; force changed the choice of {forced:.1%} of tokens, offset {self.raised:+.3g} of "
            f"{lifted:.1%}"
        )


@torch.inference_mode()
def try_trial(loaded: LoadedModel) -> str:
    """Force, and then raise, the least chosen expert of the middle routed layer; then leave no trace.

    Raises:
        PlanError: the chosen experts did not change, or some token did not choose the forced one.
        ModelError: steering does not reach the router, or the model is not as before.
    """
    middle, traces = len(loaded.routers) // 2, _Traces(loaded)
    counts = capture(loaded, PROBE_TEXTS, PROBE_IDS, options=_ALL).selections[:, middle].sum(0)
    expert = int(counts.argmin())
    trial = Trial(loaded.routers[middle].spec.layer, expert, int(counts[expert]), _lift(loaded, middle))
    plans = trial.plans(loaded.fingerprint())
    shares = [trial.require_change(plan, measure_effect(loaded, plan, PROBE_TEXTS).changed) for plan in plans]
    with steer(loaded, plans[0]):
        under = capture(loaded, PROBE_TEXTS, PROBE_IDS, options=_ALL)
    n_forced = int(under.selections[:, middle, expert].sum())
    return f"{trial.describe(shares, n_forced=n_forced, n_tokens=int(under.tokens.sum()))}; {traces.require_none()}"


def _lift(loaded: LoadedModel, middle: int) -> float:
    """Twice the largest distance from a token's median logit to its best: lifts any expert near the top."""
    distances: list[float] = []

    def keep(index: int, output: RouterOutput) -> None:
        if index == middle:
            logits = output.router_logits.float()
            distances.append((logits.max(-1).values - logits.median(-1).values).max().item())

    with watch_routers(loaded, keep):
        for text in PROBE_TEXTS:
            loaded.decoder(input_ids=probe_ids(loaded, text), use_cache=False)
    return 2 * max(distances)


class _Traces:
    """What a model computes and carries before it is steered, to compare with afterwards."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        self.hooks = self._count_hooks()
        self.before, again = self._logits(), self._logits()
        # Some kernels add up in an order of their own: then no two unsteered forwards are equal either.
        self.noise = _largest_difference(self.before, again)

    def _count_hooks(self) -> int:
        modules = self.loaded.model.modules()
        return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules)  # noqa: SLF001 - torch counts them nowhere else

    def _logits(self) -> torch.Tensor:
        return _next_token_logits(self.loaded, PROBE_TEXTS[0])

    def require_none(self) -> str:
        """Say that the model is as before.

        Raises:
            ModelError: a hook is left, or the output differs by more than between two unsteered forwards.
        """
        if left := self._count_hooks() - self.hooks:
            raise ModelError(f"steering left {left} hooks in the model; expected none: load the model again")
        difference = _largest_difference(self._logits(), self.before)
        if not difference <= 10 * self.noise:
            raise ModelError(
                f"after steering the output logits differ by {difference:.2g}; expected at most what two unsteered "
                f"forwards differ by, {self.noise:.2g}: load the model again"
            )
        if self.noise:
            return f"afterwards no hook is left; logits repeat only to {self.noise:.2g} here, steered before or not"
        return "afterwards logits are bit-identical and no hook is left"


def _largest_difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Of two logits; those of tokens that the model rules out are infinite in both."""
    return (found - expected).abs().masked_fill(found == expected, 0.0).max().item()


def _next_token_logits(loaded: LoadedModel, text: str, phase: Phase = "prompt") -> torch.Tensor:
    """``[n_tokens, vocabulary]`` in float32, of a text read as tokens of a phase."""
    ids = probe_ids(loaded, text)
    with mark_generated(loaded, torch.full_like(ids, phase == "generation", dtype=torch.bool)):
        output: Any = loaded.model(input_ids=ids, use_cache=False)
    logits: torch.Tensor = output.logits[0].float()
    return logits


@torch.inference_mode()
def try_plan(loaded: LoadedModel, plan: Plan, *, language: str | None = None) -> str:
    """Measure what a plan changes on the probe texts: chosen experts and next tokens.

    Args:
        loaded: the model.
        plan: to try.
        language: of the requests, which chooses among the plan's rules; None for the first that the plan names.

    Raises:
        PlanError: the plan is for another model, or is not empty and changes no choice.
        ModelError: steering does not reach a router, or the model is not as before.
        LanguageError: the language is unknown.
    """
    request, whose = request_of(plan, language)
    return f"{whose}{_try_request(loaded, request)}"


def request_of(plan: Plan, language: str | None = None) -> tuple[Plan, str]:
    """Choose what is tried of a plan.

    Args:
        plan: any.
        language: of the requests; None for the first that the plan names.

    Returns:
        A plan without conditions on languages, and the beginning of a sentence that says for which one.

    Raises:
        PlanError: the plan has no rule for the language.
        LanguageError: the language is unknown.
    """
    if not plan.languages:
        return plan, ""
    code, named = plan.languages[0] if language is None else resolve(language), ", ".join(plan.languages)
    request = plan.for_request(code)
    if not request.interventions and plan.interventions:
        raise PlanError(f"the plan has no rule for {code}; it has some for {named}: choose of these")
    return request, f"for requests in {code} (the plan has rules for {named}) "


def describe_change(plan: Plan, changed: Mapping[int, float]) -> str:
    """Say in which of its layers a plan changes how many choices; ``changed`` is by decoder layer."""
    shares = [changed[layer] for layer in plan.layers]
    return (
        f"the plan fits this model; in its {len(shares)} layers ({spans(plan.layers)}) it changes the chosen experts "
        f"of {min(shares):.1%} to {max(shares):.1%} of tokens (mean {np.mean(shares):.1%})"
    )


def _try_request(loaded: LoadedModel, plan: Plan) -> str:
    """Measure a plan without conditions on languages."""
    traces = _Traces(loaded)
    effect = measure_effect(loaded, plan, PROBE_TEXTS)
    if not plan.interventions:
        return EMPTY
    effect.require(plan)
    flipped, divergence = _next_token_change(loaded, plan)
    return (
        f"{describe_change(plan, effect.changed)}; the likeliest next token of {flipped:.1%} of tokens, mean KL "
        f"divergence {divergence:.3g} nats; {traces.require_none()}"
    )


def _next_token_change(loaded: LoadedModel, plan: Plan) -> tuple[float, float]:
    """Share of positions whose likeliest next token changes, and mean KL(unsteered ‖ steered) in nats.

    Where the plan edits prompt and generation differently, texts are read as either, and the larger number counts.
    """
    found = [_next_token_change_in(loaded, plan, phase) for phase in plan.phases or PHASES[:1]]
    return max(flipped for flipped, _ in found), max(divergence for _, divergence in found)


def _next_token_change_in(loaded: LoadedModel, plan: Plan, phase: Phase) -> tuple[float, float]:
    """Measure the same on texts read as tokens of one phase."""
    flipped, divergences = [], []
    for text in PROBE_TEXTS:
        plain = _next_token_logits(loaded, text).log_softmax(-1)
        with steer(loaded, plan):
            steered = _next_token_logits(loaded, text, phase).log_softmax(-1)
        flipped.append((plain.argmax(-1) != steered.argmax(-1)).float())
        terms = plain.exp() * (plain - steered)
        divergences.append(terms.masked_fill(plain == steered, 0.0).sum(-1))  # equal also where both are infinite
    return torch.cat(flipped).mean().item(), torch.cat(divergences).mean().item()
