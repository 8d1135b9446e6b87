"""What a plan or an adapter changes in the routers that files hold: one tensor per layer, before and after."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch

from isogloss.backends.bake_forms import PARTS, Part
from isogloss.backends.stored_tensors import FLOATS, StoredTensor, read_tensor
from isogloss.errors import ModelError, PlanError
from isogloss.routing import Fingerprint
from isogloss.steering import Plan, RouterAdapter, check_plan, compile_layer

__all__ = [
    "ALTERNATIVE",
    "Change",
    "Edit",
    "StoredRouters",
    "edits_of",
    "lost_share",
    "parts_of",
    "require_constants",
    "require_effect",
    "require_fits",
    "require_places",
    "with_own_names",
]

Change: TypeAlias = Plan | RouterAdapter

ALTERNATIVE = (
    "serve it with the vLLM plugin instead: `ISOGLOSS_PLAN=plan.json vllm serve MODEL`; or, of offsets, make an "
    "adapter with `isogloss adapt`"
)
_LISTED = 3  # interventions that a refusal names


@dataclass(frozen=True)
class StoredRouters:
    """The routers in the files of a model, of which no more than the headers and these are read.

    Attributes:
        folder: of the files.
        files: names of those that hold the model's weights.
        fingerprint: of the routers, as the loaded model has.
        places: part -> routed layer -> where it is stored: the weight, ``[n_experts (+ n_extra), width]``, and those
            biases that the files hold, of as many numbers as the router has rows, or experts.
    """

    folder: Path
    files: tuple[str, ...]
    fingerprint: Fingerprint
    places: Mapping[Part, Mapping[int, StoredTensor]]


@dataclass(frozen=True)
class Edit:
    """One part of one router, before and after; all tensors are of one shape.

    Attributes:
        layer: 0-based, in the whole decoder stack.
        part: of the router.
        place: where it is stored.
        before: as stored.
        change: float32, what the plan or the adapter adds; in logits of their bias, of the selection bias in the unit
            of the scores that are ranked.
        after: what is stored instead, of the same dtype.
    """

    layer: int
    part: Part
    place: StoredTensor
    before: torch.Tensor
    change: torch.Tensor
    after: torch.Tensor

    @property
    def rounding(self) -> float:
        """Largest error of storing the sum, in the unit of the change."""
        return self.error.abs().max().item()

    @property
    def error(self) -> torch.Tensor:
        """What is stored less what was to be stored, float64."""
        return self.after.double() - self._sum

    @property
    def is_sum(self) -> bool:
        """Whether what is stored is the sum, up to rounding each number to the stored dtype."""
        info = torch.finfo(self.before.dtype)
        return bool((self.error.abs() <= info.eps * self._sum.abs() + info.tiny).all())

    def allowance(self, dtype: torch.dtype) -> torch.Tensor:
        """What rounding may at most put between the sum and the plan's, in a model that loads its weights in a dtype.

        Returns:
            float64: a unit in the last place for storing, one each for loading either tensor.
        """
        stored, loaded = (torch.finfo(each).eps for each in (self.before.dtype, dtype))
        return (stored + loaded) * self._sum.abs() + loaded * self.before.double().abs()

    @property
    def _sum(self) -> torch.Tensor:
        return self.before.double() + self.change.double()


def parts_of(change: Change) -> tuple[Part, ...]:
    """Return which parts of routers a change is added to."""
    if isinstance(change, RouterAdapter):
        return ("weight",)
    return tuple(part for kind, part in PARTS.items() if any(each.kind == kind for each in change.interventions))


def edits_of(stored: StoredRouters, change: Change) -> tuple[Edit, ...]:
    """Add the constants of a plan to stored biases, or an adapter to stored weights; one edit per layer and part.

    Raises:
        PlanError: it is for another model, a sum is not finite in the stored dtype, or no sum of one part differs from
            what is stored already.
        ModelError: an adapter's routers have another shape than the stored ones.
    """
    check_plan(change, stored.fingerprint)
    edits = []
    for part in parts_of(change):
        of_part = [edit for layer in change.layers if (edit := _edit(stored, change, part, layer)) is not None]
        if all(torch.equal(edit.before, edit.after) for edit in of_part):
            dtype = of_part[0].place.dtype if of_part else "any dtype"
            raise PlanError(
                f"the {change.noun}'s numbers are so small that no {part} changes when the sum is stored as {dtype}; "
                "raise the strength, or bake into a checkpoint in float32"
            )
        edits += of_part
    return tuple(edits)


def require_fits(stored: StoredRouters, adapter: RouterAdapter) -> None:
    """Refuse what `edits_of` would refuse of a model stored in float32.

    Raises:
        PlanError: the adapter is for another model, or changes no weight: its scale is 0, or its parts cancel.
        ModelError: its routers have another shape than the stored ones.
    """
    check_plan(adapter, stored.fingerprint)
    for layer in adapter.layers:
        _require_shape(adapter, layer, stored.places["weight"][layer].shape)
    weights = ((layer, read_tensor(stored.folder, stored.places["weight"][layer]).float()) for layer in adapter.layers)
    deltas = {layer: torch.from_numpy(adapter.delta(layer)) for layer in adapter.layers}
    if all(torch.equal(weight + _padded(deltas[layer], weight.shape), weight) for layer, weight in weights):
        raise PlanError(
            "the adapter changes no weight of the model, not even in float32: its scale is 0 or next to it, or the "
            "adapters cancel; give a larger --scale, or other adapters"
        )


def with_own_names(adapter: RouterAdapter, parameters: Mapping[int, str]) -> RouterAdapter:
    """Return an adapter under a model's own names of its routers' weights.

    A text model and a multimodal one that holds it name the same router alike from the list of layers on, and
    differently before: there, the model's name is taken.

    Args:
        adapter: made for a model with these routers, by fingerprint.
        parameters: of the model: layer -> full name of the router's weight.

    Raises:
        PlanError: the adapter names something else than the router of a layer.
    """
    for router in adapter.routers:
        own = parameters[router.layer]
        if not f".{router.parameter}".endswith(f".{_from_the_list_of_layers_on(own)}"):
            raise PlanError(
                f"the adapter's change of layer {router.layer} is of {router.parameter}; expected {own}, as the model "
                "names that router: make the adapter again with `isogloss adapt`"
            )
    return replace(adapter, routers=tuple(replace(each, parameter=parameters[each.layer]) for each in adapter.routers))


def _from_the_list_of_layers_on(parameter: str) -> str:
    """Return the end of a name from the list that the layer lies in, such as ``layers.3.mlp.gate.weight``."""
    parts = parameter.split(".")
    position = next(place for place, part in enumerate(parts) if part.isdecimal())
    return ".".join(parts[position - 1 :])


def lost_share(edits: tuple[Edit, ...]) -> float:
    """Return what share of a change rounding loses: the Euclidean length of all errors by that of all changes."""
    error, change = (
        math.sqrt(sum(tensor.double().square().sum().item() for tensor in tensors))
        for tensors in ([edit.error for edit in edits], [edit.change for edit in edits])
    )
    return error / change


def require_constants(plan: Plan) -> None:
    """Raise a PlanError for a plan that is empty, or does more than add constants for every token."""
    if not plan.interventions:
        raise PlanError("the plan is empty; expected interventions of kind offset or select: use the model as it is")
    if others := [each for each in plan.interventions if each.kind not in PARTS]:
        raise PlanError(
            f"the plan cannot be baked: {_listed([f'{each.kind} in layer {each.layer}' for each in others])} of "
            f"{len(plan.interventions)} interventions; expected kinds offset and select alone, since the others depend "
            f"on the token's logits or are not finite, and a bias is one number per expert: {ALTERNATIVE}"
        )
    conditional = [each for each in plan.interventions if each.phase != "both" or each.languages is not None]
    if conditional:
        parts = [
            f"layer {each.layer} for {' and '.join([each.phase] * (each.phase != 'both') + list(each.languages or ()))}"
            for each in conditional
        ]
        raise PlanError(
            f"the plan cannot be baked: {_listed(parts)} of {len(plan.interventions)} interventions have conditions; "
            f"expected none on phase or language, since a bias acts on every token: {ALTERNATIVE}"
        )


def require_effect(plan: Plan, by_softmax: Collection[int]) -> None:
    """Raise a PlanError where all experts of a layer get the same, so that every choice and weight stays.

    Args:
        plan: of kinds in `PARTS` alone.
        by_softmax: layers whose routers weigh by softmax: what is added to all their logits changes nothing.
    """
    for layer in plan.layers:
        added = compile_layer(plan, layer, plan.fingerprint.n_experts).arrays
        if any(np.ptp(array) > 0 or (kind == "offset" and layer not in by_softmax) for kind, array in added.items()):
            return
    rules = [f"{each.kind} in layer {each.layer}" for each in plan.interventions]
    raise PlanError(
        f"the plan adds the same to all experts by {_listed(rules)}, which changes no choice of experts and no weight; "
        "expected numbers that differ between experts: see what it does with `isogloss doctor MODEL --plan PLAN`"
    )


def require_places(plan: Plan, held: Mapping[Part, Collection[int]], where: str) -> None:
    """Raise a ModelError where a router lacks the part that an intervention would be stored in.

    Args:
        plan: of kinds in `PARTS` alone.
        held: part -> layers whose routers have it.
        where: the model or file, for the message.
    """
    lacking = [each for each in plan.interventions if each.layer not in held.get(PARTS[each.kind], ())]
    if not lacking:
        return
    present = [f"a {part}, which holds kind {kind} alone" for kind, part in PARTS.items() if held.get(part)]
    wanted = [f"kind {kind} needs a {PARTS[kind]}" for kind in PARTS if any(each.kind == kind for each in lacking)]
    raise ModelError(
        f"the plan cannot be baked into {where}: {_listed([f'{each.kind} in layer {each.layer}' for each in lacking])} "
        f"of {len(plan.interventions)} interventions; {' and '.join(wanted)} of the router; found "
        f"{' and '.join(present) or 'no bias'}: {ALTERNATIVE}"
    )


def _edit(stored: StoredRouters, change: Change, part: Part, layer: int) -> Edit | None:
    """Return the edit of one part of one router; None where the change adds nothing to it."""
    added = _added(change, part, layer, stored.fingerprint.n_experts)
    if added is None:
        return None
    place = stored.places[part][layer]
    if isinstance(change, RouterAdapter):
        _require_shape(change, layer, place.shape)
    before = read_tensor(stored.folder, place)
    padded = _padded(added, place.shape)
    after = (before.double() + padded.double()).to(before.dtype)
    if not after.isfinite().all():
        lower = "--scale" if isinstance(change, RouterAdapter) else "values"
        raise PlanError(
            f"{part} and {change.noun} of layer {layer} do not add up to numbers that {place.dtype} can hold (at most "
            f"{torch.finfo(FLOATS[place.dtype]).max:.3g}); lower the {lower}"
        )
    return Edit(layer, part, place, before, padded, after)


def _added(change: Change, part: Part, layer: int, n_experts: int) -> torch.Tensor | None:
    """Return what is added to one part, float32, of the routed experts; None for nothing."""
    if isinstance(change, RouterAdapter):
        return torch.from_numpy(change.delta(layer))
    constants = compile_layer(change, layer, n_experts).arrays
    return next(
        (torch.from_numpy(constants[kind]) for kind in PARTS if PARTS[kind] == part and kind in constants), None
    )


def _padded(added: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Put what is added to the routed experts into a stored tensor's shape: rows of shared experts come after them."""
    padded = torch.zeros(shape)
    padded.view(-1)[: added.numel()] = added.reshape(-1)
    return padded


def _require_shape(adapter: RouterAdapter, layer: int, shape: tuple[int, ...]) -> None:
    router = adapter.router(layer)
    expected = (len(router.b) + router.n_extra, router.a.shape[1])
    if shape != expected:
        raise ModelError(
            f"the router of layer {layer} is stored as {list(shape)}; expected {list(expected)}, as the adapter was "
            "made for"
        )


def _listed(parts: list[str]) -> str:
    more = len(parts) - _LISTED
    return ", ".join(parts[:_LISTED]) + (f" and {more} more" if more > 0 else "")
