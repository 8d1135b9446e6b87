"""What a plan or an adapter changes in the routers that files hold: one tensor per layer, before and after."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch

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
    "require_fits",
    "require_offsets",
]

Change: TypeAlias = Plan | RouterAdapter

ALTERNATIVE = "serve it with the vLLM plugin instead: `ISOGLOSS_PLAN=plan.json vllm serve MODEL`"
_LISTED = 3  # interventions that a refusal names


@dataclass(frozen=True)
class StoredRouters:
    """The routers in the files of a model, of which no more than the headers and these are read.

    Attributes:
        folder: of the files.
        files: names of those that hold the model's weights.
        fingerprint: of the routers, as the loaded model has.
        weights: where the weight of each routed layer is stored, ``[n_experts (+ n_extra), width]``.
        biases: where the bias of its logits is, ``[n_experts (+ n_extra)]``; empty where it has none.
    """

    folder: Path
    files: tuple[str, ...]
    fingerprint: Fingerprint
    weights: Mapping[int, StoredTensor]
    biases: Mapping[int, StoredTensor]


@dataclass(frozen=True)
class Edit:
    """One router's bias or weight, before and after; all tensors are of one shape.

    Attributes:
        layer: 0-based, in the whole decoder stack.
        place: where it is stored.
        before: as stored.
        change: float32, what the plan or the adapter adds; of a bias in logits.
        after: what is stored instead, of the same dtype.
    """

    layer: int
    place: StoredTensor
    before: torch.Tensor
    change: torch.Tensor
    after: torch.Tensor

    @property
    def rounding(self) -> float:
        """Largest error of storing the sum; of a bias in logits."""
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


def edits_of(stored: StoredRouters, change: Change) -> tuple[Edit, ...]:
    """Add the offsets of a plan to stored biases, or an adapter to stored weights; one edit per layer that it changes.

    Raises:
        PlanError: it is for another model, a sum is not finite in the stored dtype, or none of the sums differs from
            what is stored already.
        ModelError: an adapter's routers have another shape than the stored ones.
    """
    check_plan(change, stored.fingerprint)
    edits = tuple(_edit(stored, change, layer) for layer in change.layers)
    if all(torch.equal(edit.before, edit.after) for edit in edits):
        what, which = ("plan's offsets", "bias") if isinstance(change, Plan) else ("adapter's numbers", "weight")
        raise PlanError(
            f"the {what} are so small that no {which} changes when the sum is stored as {edits[0].place.dtype}; "
            "raise the strength, or bake into a checkpoint in float32"
        )
    return edits


def require_fits(stored: StoredRouters, adapter: RouterAdapter) -> None:
    """Refuse what `edits_of` would refuse of a model stored in float32.

    Raises:
        PlanError: the adapter is for another model, or changes no weight: its scale is 0, or its parts cancel.
        ModelError: its routers have another shape than the stored ones.
    """
    check_plan(adapter, stored.fingerprint)
    for layer in adapter.layers:
        _require_shape(adapter, layer, stored.weights[layer].shape)
    weights = ((layer, read_tensor(stored.folder, stored.weights[layer]).float()) for layer in adapter.layers)
    if all(torch.equal(weight + _added(adapter, layer, weight), weight) for layer, weight in weights):
        raise PlanError(
            "the adapter changes no weight of the model, not even in float32: its scale is 0 or next to it, or the "
            "adapters cancel; give a larger --scale, or other adapters"
        )


def lost_share(edits: tuple[Edit, ...]) -> float:
    """Return what share of a change rounding loses: the Euclidean length of all errors by that of all changes."""
    error, change = (
        math.sqrt(sum(tensor.double().square().sum().item() for tensor in tensors))
        for tensors in ([edit.error for edit in edits], [edit.change for edit in edits])
    )
    return error / change


def require_offsets(plan: Plan) -> None:
    """Raise a PlanError for a plan that is empty, or does more than add constants to every token's logits."""
    if not plan.interventions:
        raise PlanError("the plan is empty; expected interventions of kind offset: use the model as it is")
    if others := [each for each in plan.interventions if each.kind != "offset"]:
        raise PlanError(
            f"the plan cannot be baked: {_listed([f'{each.kind} in layer {each.layer}' for each in others])} of "
            f"{len(plan.interventions)} interventions; expected kind offset alone, since the others depend on the "
            f"token's logits or are not finite, and a bias is one number per expert: {ALTERNATIVE}"
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


def _edit(stored: StoredRouters, change: Change, layer: int) -> Edit:
    place = (stored.biases if isinstance(change, Plan) else stored.weights)[layer]
    before = read_tensor(stored.folder, place)
    added = _added(change, layer, before)
    after = (before.double() + added.double()).to(before.dtype)
    if not after.isfinite().all():
        what, lower = ("bias and offset", "offsets") if isinstance(change, Plan) else ("weight and adapter", "scale")
        raise PlanError(
            f"{what} of layer {layer} do not add up to numbers that {place.dtype} can hold (at most "
            f"{torch.finfo(FLOATS[place.dtype]).max:.3g}); lower the {lower}"
        )
    return Edit(layer, place, before, added, after)


def _added(change: Change, layer: int, before: torch.Tensor) -> torch.Tensor:
    """Return what is added to a stored tensor, float32, of its shape."""
    if isinstance(change, Plan):
        return torch.from_numpy(compile_layer(change, layer, before.numel()).offset)
    _require_shape(change, layer, tuple(before.shape))
    delta, added = torch.from_numpy(change.delta(layer)), torch.zeros(before.shape)
    added[: len(delta)] = delta
    return added


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
