"""Applies a plan or a router adapter to a loaded model: every router that it changes is edited in every forward.

`isogloss.backends.huggingface.steered_router` has how one router is edited. A plan may edit prompt and generation
differently; see `isogloss.backends.huggingface.phases` for which token is which. One forward serves requests in one
language: choose the plan's interventions by `Plan.for_request`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch

from isogloss.backends.huggingface.discovery import Router
from isogloss.backends.huggingface.loading import LoadedModel
from isogloss.backends.huggingface.low_rank_router import LowRankRouter
from isogloss.backends.huggingface.methods import method_replaced
from isogloss.backends.huggingface.phases import TokenPhases
from isogloss.backends.huggingface.steered_router import PlannedRouter, SteeredRouter, remove_runs
from isogloss.backends.huggingface.steered_stack import Begin, SteeredStack
from isogloss.errors import PlanError
from isogloss.routing import PHASES, Phase
from isogloss.steering import LayerEdit, Plan, RouterAdapter, Steering, check_plan, compile_layer

__all__ = ["mark_generated", "steer", "steered_by"]


def _cast_weights(_module: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Hand weights over in the dtype of the hidden states: they were chosen from edited logits, in float32."""
    hidden, expert_ids, weights = inputs
    return hidden, expert_ids, weights.to(hidden.dtype)


_steered: WeakSet[torch.nn.Module] = WeakSet()
_tokens: WeakKeyDictionary[torch.nn.Module, TokenPhases] = WeakKeyDictionary()


@contextmanager
def steer(loaded: LoadedModel, plan: Steering) -> Iterator[None]:
    """Apply a plan or an adapter to every forward inside the context; afterwards the model is as before, bit by bit.

    What the model writes is of the generation, however it is made to generate: see
    `isogloss.backends.huggingface.phases`; all else is of the prompt, apart from what `mark_generated` names. Several
    threads may run the model inside the context; all of them must be done when it is left.

    In 16 bits the edited logits stay float32 up to the choice, and weights are then rounded as without a plan.

    Args:
        loaded: the model; plans may not be nested.
        plan: made for this model, or an adapter. An empty plan attaches nothing. Of a plan with conditions on
            languages, give what `Plan.for_request` chooses.

    Raises:
        PlanError: the plan was made for another model, has conditions on languages, or another plan is active.
        ModelError: the model is in training mode, or its routers are not those that were found in it; a router ran
            without its logits being edited; a forward of the decoder stack ended in which a router of the plan did not
            run; a plan with conditions on phases met a forward whose phases are not known; or, when the context is
            left, no forward has run, another thread is running the model, or one failed.
    """
    check_plan(plan, loaded.fingerprint)
    routers = [router for router in loaded.router_modules if router.spec.layer in plan.layers]
    if isinstance(plan, RouterAdapter):
        with steered_by(loaded, [LowRankRouter(router, plan) for router in routers]):
            yield
        return
    tokens = _tokens.setdefault(loaded.decoder, TokenPhases()) if plan.by_phase else TokenPhases()
    steered = [PlannedRouter(router, _compile(plan, router), tokens) for router in routers]
    followed = tokens.followed(loaded.core) if plan.by_phase else nullcontext()
    with steered_by(loaded, steered, begin=tokens.begin_forward if plan.by_phase else None), followed:
        yield


@contextmanager
def steered_by(loaded: LoadedModel, routers: Sequence[SteeredRouter], *, begin: Begin | None = None) -> Iterator[None]:
    """Let routers be edited inside the context.

    Args:
        loaded: the model.
        routers: those to edit; none attach nothing.
        begin: called with the arguments of every forward of the decoder stack, outside of which routers then may not
            run; None where the edits do not depend on the forward.

    Raises:
        PlanError: another plan is active.
        ModelError: as of `steer`.
    """
    if loaded.decoder in _steered:
        raise PlanError("another plan is active on this model; leave its context first, or make one plan of the two")
    loaded.require_own_routers()
    loaded.require_evaluation_mode()
    stack = SteeredStack(loaded, [each.router for each in routers], begin)
    with ExitStack() as context:
        if routers:
            context.callback(remove_runs)
            _attach(context, loaded, routers, stack)
        context.callback(_steered.discard, loaded.decoder)
        _steered.add(loaded.decoder)
        yield
        stack.note_other_threads()  # before the forwards are as they were, which one may end unnoticed
    stack.require_left()


def _compile(plan: Plan, router: Router) -> dict[Phase, LayerEdit]:
    layer, n_experts = router.spec.layer, router.spec.n_experts
    if not plan.by_phase:
        return dict.fromkeys(PHASES, compile_layer(plan, layer, n_experts))
    return {phase: compile_layer(plan, layer, n_experts, phase=phase) for phase in PHASES}


def _attach(context: ExitStack, loaded: LoadedModel, routers: Sequence[SteeredRouter], stack: SteeredStack) -> None:
    """Replace the forwards of the routers and of the decoder stack, and `generate`, until the context is left."""
    for steered in routers:
        steered.bring()
        module, wrap = steered.router.module, functools.partial(steered.forward, run_ended=stack.router_ran)
        context.enter_context(method_replaced(module, "forward", wrap))
        if steered.router.family.returns == "logits":
            experts: Any = steered.router.block.experts
            if steered.edits_choice:
                block = steered.router.block
                context.enter_context(method_replaced(block, "route_tokens_to_experts", steered.choosing))
            context.callback(experts.register_forward_pre_hook(_cast_weights).remove)
    context.enter_context(method_replaced(loaded.decoder, "forward", stack.forward))
    context.enter_context(method_replaced(loaded.core, "generate", stack.counted))


@contextmanager
def mark_generated(loaded: LoadedModel, generated: torch.Tensor) -> Iterator[None]:
    """Treat some tokens of the forwards inside as text that the model wrote.

    The likelihood of a given answer is then measured under the edits that would act while the model writes it. Without
    a plan, and under one without conditions on phases, this changes nothing.

    In 16 bits, tokens of a phase without edits are bit-identical to unsteered ones where the whole forward is of that
    phase; in a forward of both they are scored in float32, like their neighbours, and differ by rounding.

    Args:
        loaded: the model, inside `steer` or not.
        generated: ``[batch, length]`` bool like the forwards' input ids, True from the first token of the answer on.

    Raises:
        ModelError: the mask is no matrix of bools, or a forward inside has input ids of another shape.
    """
    with _tokens.setdefault(loaded.decoder, TokenPhases()).marked(generated):
        yield
