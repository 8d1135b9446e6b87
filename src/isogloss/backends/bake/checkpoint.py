"""Which bytes of a checkpoint a plan changes: its routers' biases, found by structure, and what is stored instead."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from isogloss.backends.bake.tensors import FLOATS, StoredTensor, read_places, read_tensor
from isogloss.backends.huggingface.discovery import Router
from isogloss.backends.huggingface.loading import LoadedModel
from isogloss.errors import ModelError, PlanError
from isogloss.routing import Fingerprint
from isogloss.steering import Plan, check_plan, compile_layer

__all__ = ["ALTERNATIVE", "Checkpoint", "Edit", "edits_of", "open_checkpoint", "require_slots"]

ALTERNATIVE = "serve it with the vLLM plugin instead: `ISOGLOSS_PLAN=plan.json vllm serve MODEL`"
_LISTED = 3  # interventions that a refusal names


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's files, of which no more than the headers and the routers are read.

    Attributes:
        folder: of the files.
        files: names of those that hold its weights.
        fingerprint: of its routers' weights, as a loaded model has.
        bias_by_layer: where the bias of each routed layer is stored.
    """

    folder: Path
    files: tuple[str, ...]
    fingerprint: Fingerprint
    bias_by_layer: dict[int, StoredTensor]


@dataclass(frozen=True)
class Edit:
    """One router's bias, before and after; all tensors are ``[n_experts]``.

    Attributes:
        layer: 0-based, in the whole decoder stack.
        place: where it is stored.
        before: as stored.
        offset: float32, in logits, as the plan says.
        after: what is stored instead, of the same dtype.
    """

    layer: int
    place: StoredTensor
    before: torch.Tensor
    offset: torch.Tensor
    after: torch.Tensor

    @property
    def rounding(self) -> float:
        """Largest error of storing the sum, in logits."""
        return (self.after.double() - self._sum).abs().max().item()

    def allowance(self, dtype: torch.dtype) -> torch.Tensor:
        """What rounding may at most put between the sum and the plan's, in a model that loads its weights in a dtype.

        Returns:
            ``[n_experts]`` float64, in logits: a unit in the last place for storing, one each for loading either bias.
        """
        stored, loaded = (torch.finfo(each).eps for each in (self.before.dtype, dtype))
        return (stored + loaded) * self._sum.abs() + loaded * self.before.double().abs()

    @property
    def _sum(self) -> torch.Tensor:
        return self.before.double() + self.offset.double()


def require_slots(plan: Plan, name: str) -> LoadedModel:
    """Build a model without its weights, and refuse what cannot be baked before any weight is fetched.

    Args:
        plan: to bake.
        name: hub id or folder.

    Returns:
        The model on the meta device; it has no tokenizer.

    Raises:
        PlanError: the plan is empty, or does more than add constants to every token's logits.
        ModelError: the model is not supported, or its routers' logits have no bias.
    """
    _require_offsets(plan)
    skeleton = LoadedModel(_without_weights(name), tokenizer=None, name=name)  # type: ignore[arg-type]  # no text is read
    for router in skeleton.routers:
        _require_slot(router)
    return skeleton


def open_checkpoint(folder: Path, skeleton: LoadedModel) -> Checkpoint:
    """Find the routers' biases in a checkpoint's files and read its fingerprint.

    Args:
        folder: of the files.
        skeleton: from `require_slots`; the routers' weights and biases are put into it.

    Raises:
        ModelError: the files are damaged, or hold the routers under other names, shapes or dtypes than the model.
    """
    places = read_places(folder)
    biases = {}
    for router in skeleton.routers:
        prefix = _name_of(skeleton.model, router.module)
        bias_name = router.linear_bias_name
        assert bias_name is not None  # noqa: S101 - `require_slots` has seen to it
        names = {local: f"{prefix}.{local}" for local in (router.weight_name, bias_name)}
        found = {local: _stored(router, local, places.get(name), name) for local, name in names.items()}
        router.module.load_state_dict(
            {local: read_tensor(folder, place) for local, place in found.items()}, strict=False, assign=True
        )
        biases[router.spec.layer] = found[bias_name]
    files = tuple(sorted({place.file for place in places.values()}))
    return Checkpoint(folder, files, skeleton.fingerprint(), biases)


def edits_of(checkpoint: Checkpoint, plan: Plan) -> tuple[Edit, ...]:
    """Add a plan's offsets to the stored biases.

    Args:
        checkpoint: made for the same model as the plan.
        plan: of offsets alone, as `require_slots` asks for.

    Returns:
        One per layer of the plan.

    Raises:
        PlanError: the plan is for another model, a sum is not finite in the stored dtype, or none of the sums differs
            from what is stored already.
    """
    check_plan(plan, checkpoint.fingerprint)
    edits = tuple(_edit(checkpoint, plan, layer) for layer in plan.layers)
    if all(torch.equal(edit.before, edit.after) for edit in edits):
        raise PlanError(
            f"the plan's offsets are so small that no bias changes when the sum is stored as {edits[0].place.dtype}; "
            "raise the strength, or bake into a checkpoint in float32"
        )
    return edits


def _edit(checkpoint: Checkpoint, plan: Plan, layer: int) -> Edit:
    place = checkpoint.bias_by_layer[layer]
    before = read_tensor(checkpoint.folder, place)
    offset = torch.from_numpy(compile_layer(plan, layer, before.numel()).offset)
    after = (before.double() + offset.double()).to(before.dtype)
    if not after.isfinite().all():
        raise PlanError(
            f"bias and offset of layer {layer} do not add up to numbers that {place.dtype} can hold (at most "
            f"{torch.finfo(before.dtype).max:.3g}); lower the offsets"
        )
    return Edit(layer, place, before, offset, after)


def _require_offsets(plan: Plan) -> None:
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


def _listed(parts: list[str]) -> str:
    more = len(parts) - _LISTED
    return ", ".join(parts[:_LISTED]) + (f" and {more} more" if more > 0 else "")


def _require_slot(router: Router) -> None:
    if router.linear_bias_name is not None:
        return
    model_type, layer = router.family.model_type, router.spec.layer
    if router.bias_name is not None:
        raise ModelError(
            f"nothing can be baked into {model_type}: {router.bias_name} of layer {layer} is added to the scores "
            "after the logits, and moves the choice alone and not the weights; expected a bias of the logits, since an "
            f"offset means another thing there: {ALTERNATIVE}"
        )
    raise ModelError(
        f"nothing can be baked into {model_type}: the router of layer {layer} has no bias; expected one of "
        f"{router.spec.n_experts} numbers that is added to its logits, as gpt_oss has: {ALTERNATIVE}"
    )


def _without_weights(name: str) -> PreTrainedModel:
    try:
        config = AutoConfig.from_pretrained(name)
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        first = str(error).strip().splitlines()[0]
        raise ModelError(f"cannot read the configuration of {name!r}: {first}; give a hub id or a folder") from error
    return model


def _name_of(model: PreTrainedModel, wanted: torch.nn.Module) -> str:
    names: list[str] = [name for name, module in model.named_modules() if module is wanted]
    return names[0]


def _stored(router: Router, local: str, place: StoredTensor | None, name: str) -> StoredTensor:
    expected: Any = router.module.get_parameter(local).shape
    if place is None or place.shape != tuple(expected) or place.dtype not in FLOATS:
        found = "no such tensor" if place is None else f"{place.dtype} of shape {list(place.shape)}"
        raise ModelError(
            f"the files hold {found} as {name}; expected {', '.join(FLOATS)} of shape {list(expected)}: routers "
            f"stored in another way than transformers names them cannot be changed in place: {ALTERNATIVE}"
        )
    return place
