"""Shows that a baked checkpoint's routers compute what steering computes, one model in memory at a time.

Texts are run through the original, under the plan where it is one, and what each router reads is kept. Then every
router of the original runs on that once more in float32, steered, or with the adapter added to its weight; and so does
every router of the baked model, as it is. The logits must be equal up to the rounding of the stored sums, and so must
the chosen experts be, apart from those that tie up to it, and their weights. Routers are compared on equal inputs,
layer by layer: over a whole model, experts that tie up to rounding are sometimes chosen differently, and later layers
then read other states.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

from isogloss.backends.bake.checkpoint import part_names
from isogloss.backends.bake.edits import Change, Edit
from isogloss.backends.bake_forms import Part
from isogloss.backends.huggingface.discovery import Router
from isogloss.backends.huggingface.loading import LoadedModel, computing
from isogloss.backends.huggingface.prove import prove_routers
from isogloss.backends.huggingface.router_outputs import READERS, RouterOutput
from isogloss.backends.huggingface.steer import steer
from isogloss.backends.huggingface.watch import attached, require_one_call_each, watch_routers
from isogloss.errors import ModelError, PlanError
from isogloss.routing import choice_margin, route
from isogloss.steering import Plan

__all__ = ["RouterInput", "SteeredRouting", "Verification", "compare_routers", "record_routers"]

_TOLERANCE = 1e-5  # of a float32 product, relative above 1
_MOVES = 4  # scores that one rounding moves at most, where two sums of two experts decide between groups
_DIFFERENT = "nothing is written: this version of transformers may load the checkpoint in another way than it is stored"


@dataclass(frozen=True)
class RouterInput:
    """What one router reads, of all texts.

    Attributes:
        hidden: ``[n_tokens, hidden_size]`` in the model's dtype, on the processor.
        n_dims: of the tensor that its block hands over: some routers take batches alone.
    """

    hidden: torch.Tensor
    n_dims: int


@dataclass(frozen=True)
class SteeredRouting:
    """What the original's routers read and computed, by routed layer, in float32.

    Attributes:
        inputs: of each router.
        plain: of the original.
        exact: under the plan, or with the adapter added in float32.
        stored: by what the files hold, as a model of the same dtype loads it; ``exact`` under a plan.
    """

    inputs: tuple[RouterInput, ...]
    plain: tuple[RouterOutput, ...]
    exact: tuple[RouterOutput, ...]
    stored: tuple[RouterOutput, ...]


@dataclass(frozen=True)
class Verification:
    """How closely a baked model's routers agree with the steered ones.

    Attributes:
        n_texts: texts that were run.
        n_tokens: their tokens.
        largest_difference: of any logit from the exact one.
        largest_change: of any logit by the plan or the adapter.
        different_choices: share of all choices of experts that differ from the exact ones, by rounding.
        changed_choices: share that the plan or the adapter changes.
    """

    n_texts: int
    n_tokens: int
    largest_difference: float
    largest_change: float
    different_choices: float
    changed_choices: float


@computing
def record_routers(loaded: LoadedModel, change: Change, edits: Sequence[Edit], texts: Sequence[str]) -> SteeredRouting:
    """Run texts through the original, one by one; afterwards its routers are changed and in float32.

    Raises:
        ModelError: its routers are not those of the files, one did not run, or is offloaded.
        PlanError: the plan is for another model, or changes nothing that any text reads.
    """
    plan = change if isinstance(change, Plan) else None
    for edit in edits:
        _require_loaded(loaded, edit)
    dtypes = {edit.layer: _tensor(loaded, edit).dtype for edit in edits}
    inputs = _read(loaded, plan, texts)
    plain = _outputs(loaded, inputs, None)
    if plan is not None:
        exact = _outputs(loaded, inputs, plan)
        if not _moved_share(plain, exact) and not _largest(plain, exact):
            raise PlanError(
                f"the plan changes no choice of experts and no logit on {len(texts)} texts "
                f"({len(inputs[0].hidden)} tokens); expected some: raise the strength, or bake with --no-verify"
            )
        return SteeredRouting(inputs, plain, exact, exact)
    exact = _outputs(loaded, inputs, None, {edit.layer: edit.before + edit.change for edit in edits})
    stored = _outputs(loaded, inputs, None, {edit.layer: edit.after.to(dtypes[edit.layer]) for edit in edits})
    return SteeredRouting(inputs, plain, exact, stored)


def _read(loaded: LoadedModel, plan: Plan | None, texts: Sequence[str]) -> tuple[RouterInput, ...]:
    """Run texts under a plan, and keep what each router is given."""
    given: list[list[torch.Tensor]] = [[] for _ in loaded.router_modules]

    def keep(module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        index = next(index for index, router in enumerate(loaded.router_modules) if router.module is module)
        given[index].append(inputs[0].cpu())

    handles = [router.module.register_forward_pre_hook(keep) for router in loaded.router_modules]
    steered = nullcontext() if plan is None else steer(loaded, plan)
    with steered, attached(handles), watch_routers(loaded, lambda *_: None) as calls:
        for text in texts:
            ids = torch.tensor([loaded.tokenizer(text)["input_ids"]], device=loaded.device)
            loaded.decoder(input_ids=ids, use_cache=False)
    require_one_call_each(loaded, calls, n_forwards=len(texts))
    return tuple(
        RouterInput(torch.cat([each.reshape(-1, each.shape[-1]) for each in parts]), parts[0].ndim) for parts in given
    )


def _require_loaded(loaded: LoadedModel, edit: Edit) -> None:
    """Raise a ModelError where a router that is changed was not loaded as the files hold it."""
    tensor = _tensor(loaded, edit)
    if tensor.is_meta or not torch.equal(edit.before.to(tensor.dtype), tensor.detach().cpu()):
        state = "is offloaded" if tensor.is_meta else f"is not {edit.place.name} of its files"
        raise ModelError(
            f"the loaded model's router {edit.part} of layer {edit.layer} {state}, so it cannot be compared; load the "
            f"model on one device or bake with --no-verify; {_DIFFERENT}"
        )


def _tensor(loaded: LoadedModel, edit: Edit) -> torch.Tensor:
    router = next(each for each in loaded.router_modules if each.spec.layer == edit.layer)
    return router.tensor(part_names(router)[edit.part])


@computing
def compare_routers(
    baked: LoadedModel, original: SteeredRouting, change: Change, edits: Sequence[Edit], texts: Sequence[str]
) -> Verification:
    """Compare a baked model's routers with those of the original, recorded on the same texts.

    On the first text, the baked model's routers are proven to choose by their logits. Afterwards they are in float32.

    Raises:
        ModelError: some logit, choice or weight differs by more than storing its sum and a float32 product can round.
    """
    prove_routers(baked, texts[0])
    allowances: dict[tuple[int, Part], torch.Tensor] = {
        (edit.layer, edit.part): edit.allowance(_tensor(baked, edit).dtype).float().reshape(-1)
        for edit in edits
        if isinstance(change, Plan)
    }
    computed = _outputs(baked, original.inputs, None)
    for router, ours, expected in zip(baked.router_modules, computed, original.stored, strict=True):
        layer, nothing = router.spec.layer, torch.zeros(1)
        _require_equal_logits(layer, ours, expected, allowances.get((layer, "logit bias"), nothing))
        _require_equal_choice(router, ours, expected, allowances.get((layer, "selection bias"), nothing))
    if wrong := [edit for edit in edits if not edit.is_sum]:
        raise _differs(wrong[0].layer, f"has another {wrong[0].part} than the sum with the {change.noun}")
    return Verification(
        len(texts),
        len(original.inputs[0].hidden),
        largest_difference=_largest(computed, original.exact),
        largest_change=_largest(original.plain, original.exact),
        different_choices=_moved_share(computed, original.exact),
        changed_choices=_moved_share(original.plain, original.exact),
    )


def _differs(layer: int, how: str) -> ModelError:
    return ModelError(f"the baked router of layer {layer} {how}; expected rounding alone: {_DIFFERENT}")


def _require_equal_logits(layer: int, ours: RouterOutput, expected: RouterOutput, rounding: torch.Tensor) -> None:
    difference = (ours.router_logits - expected.router_logits).abs()
    allowed = _TOLERANCE * expected.router_logits.abs().clamp_min(1.0) + rounding
    if not (difference <= allowed).all():
        raise _differs(
            layer, f"computes logits that differ from the steered ones by up to {difference.max().item():.3g}"
        )


def _require_equal_choice(router: Router, ours: RouterOutput, expected: RouterOutput, rounding: torch.Tensor) -> None:
    """Raise a ModelError where other experts are chosen, unless they tie, or their weights differ.

    Scores move by no more than the logits, whose gating functions have slopes of at most 1, and the selection bias.
    """
    ids, weights = _by_expert(ours)
    expected_ids, expected_weights = _by_expert(expected)
    moved = (ids != expected_ids).any(1)
    layer, logits = router.spec.layer, expected.router_logits
    by = (ours.router_logits - logits).abs().amax(1) + _TOLERANCE * logits.abs().amax(1).clamp_min(1.0) + rounding.max()
    margins = choice_margin(ours.router_logits.numpy(), router.spec, router.selection_bias())
    wrong = moved & (torch.from_numpy(margins) > _MOVES * by)
    if wrong.any():
        raise _differs(layer, f"chooses other experts than the steered one for {wrong.sum()} of {len(wrong)} tokens")
    off = (weights - expected_weights).abs().amax(1) / expected_weights.abs().amax(1).clamp_min(1.0)
    if wrong := (off[~moved] > _MOVES * by[~moved]).any():
        raise _differs(layer, f"computes weights that differ from the steered ones by up to {off[~moved].max():.3g}")


def _by_expert(output: RouterOutput) -> tuple[torch.Tensor, torch.Tensor]:
    """Return expert ids and weights in the order of the ids."""
    ids, order = output.expert_ids.sort(dim=1)
    return ids, output.combine_weights.gather(1, order)


def _largest(ours: Sequence[RouterOutput], theirs: Sequence[RouterOutput]) -> float:
    """Largest difference of any logit."""
    pairs = zip(ours, theirs, strict=True)
    return max((one.router_logits - other.router_logits).abs().max().item() for one, other in pairs)


def _moved_share(ours: Sequence[RouterOutput], theirs: Sequence[RouterOutput]) -> float:
    """Share of choices of experts that differ, over all tokens and layers."""
    moved = n = 0
    for one, other in zip(ours, theirs, strict=True):
        same = (one.expert_ids[:, :, None] == other.expert_ids[:, None, :]).any(2)
        moved, n = moved + int((~same).sum()), n + same.numel()
    return moved / n


def _outputs(
    loaded: LoadedModel,
    inputs: Sequence[RouterInput],
    plan: Plan | None,
    weights: Mapping[int, torch.Tensor] = MappingProxyType({}),
) -> tuple[RouterOutput, ...]:
    """Run every router alone in float32.

    Args:
        loaded: the model, whose routers are turned into float32.
        inputs: what each router reads.
        plan: to steer by.
        weights: of routers, by layer; they replace the router's own, which are lost.
    """
    for router in loaded.router_modules:
        router.module.float()
        if (weight := weights.get(router.spec.layer)) is not None:
            router.tensor(router.weight_name).data.copy_(weight)
    with nullcontext() if plan is None else steer(loaded, plan):
        return tuple(_output(router, given) for router, given in zip(loaded.router_modules, inputs, strict=True))


def _output(router: Router, given: RouterInput) -> RouterOutput:
    """Run one router; on the processor, in float32."""
    module: Any = router.module
    hidden = given.hidden.float().to(router.tensor(router.weight_name).device)
    hidden = hidden.reshape(*[1] * (given.n_dims - hidden.ndim), *hidden.shape)
    name = router.bias_name
    handed_over = name is not None and router.holder(name) is router.block
    output = module(hidden, *([router.held_bias] if handed_over else []))
    if router.family.returns == "logits":
        logits = output.reshape(len(given.hidden), -1).float().cpu()
        chosen = route(logits.numpy(), router.spec, router.selection_bias(), expert_scale=router.expert_scale())
        return RouterOutput(logits, torch.from_numpy(chosen.combine_weights), torch.from_numpy(chosen.expert_ids))
    logits, weights, ids = READERS[router.family.returns](output, router.spec.top_k)
    return RouterOutput(logits.float().cpu(), weights.float().cpu(), ids.cpu())
