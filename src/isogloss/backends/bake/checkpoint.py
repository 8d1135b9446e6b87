"""Finds the routers of a checkpoint in its files: by the model's structure, under the names that are stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from isogloss.backends.bake.edits import (
    ALTERNATIVE,
    Change,
    StoredRouters,
    parts_of,
    require_constants,
    require_places,
)
from isogloss.backends.bake_forms import PARTS, Part
from isogloss.backends.huggingface import HuggingFaceModel, LoadedModel
from isogloss.backends.huggingface.discovery import Router, model_without_weights
from isogloss.backends.reading import find_checkpoint, reading
from isogloss.backends.stored_tensors import FLOATS, StoredTensor, read_places, read_tensor
from isogloss.errors import ModelError
from isogloss.steering import Plan

__all__ = ["open_checkpoint", "part_names", "without_weights"]

_QUANTISED = (
    "scales",
    "biases",
    "qweight",
    "qzeros",
    "weight_scale",
    "weight_scale_inv",
    "weight_packed",
    "weight.absmax",
)
"""What formats of quantisation store beside a weight, which then is not what is multiplied with."""


def part_names(router: Router) -> dict[Part, str]:
    """Return the name of each part that a router has, in the router or, of a selection bias, perhaps in its block."""
    named: dict[Part, str | None] = {
        "weight": router.weight_name,
        "logit bias": router.linear_bias_name,
        "selection bias": router.bias_name,
    }
    return {part: name for part, name in named.items() if name is not None}


def without_weights(change: Change, name: str) -> LoadedModel:
    """Build a model without weights or tokenizer, and refuse what cannot be baked before a weight is fetched.

    Raises:
        PlanError: the plan is empty, or does more than add constants for every token.
        ModelError: the model is not supported, or its routers have no bias for a kind of the plan.
    """
    if isinstance(change, Plan):
        require_constants(change)
    skeleton = HuggingFaceModel(_without_weights(name), tokenizer=None, name=name)  # type: ignore[arg-type]  # no text is read
    if isinstance(change, Plan):
        parts_by_layer = {router.spec.layer: part_names(router) for router in skeleton.router_modules}
        held: dict[Part, list[int]] = {
            part: [layer for layer, names in parts_by_layer.items() if part in names] for part in PARTS.values()
        }
        require_places(change, held, skeleton.family.model_type)
    return skeleton


def open_checkpoint(folder: Path, skeleton: LoadedModel, change: Change) -> StoredRouters:
    """Find the routers in a checkpoint's files, and put what these hold into the model without weights.

    A selection bias that is in no file is zeros, as transformers makes it; then the change must not need it.

    Raises:
        ModelError: the files are damaged, or hold the routers under other names, shapes or dtypes than the model, or
            quantised.
    """
    places = read_places(folder)
    stored_names = _stored_names(skeleton, places)
    found: dict[Part, dict[int, StoredTensor]] = {"weight": {}, "logit bias": {}, "selection bias": {}}
    names_by_module = {module: name for name, module in skeleton.model.named_modules()}
    for router in skeleton.router_modules:
        for part, local in part_names(router).items():
            whole = f"{names_by_module[router.holder(local)]}.{local}"
            name, tensor = stored_names.get(whole, whole), torch.zeros(router.tensor(local).shape)
            if part != "selection bias" or part in parts_of(change) or name in places:
                found[part][router.spec.layer] = place = _stored(part, tensor.shape, places, name)
                tensor = read_tensor(folder, place)
            router.holder(local).load_state_dict({local: tensor}, strict=False, assign=True)
    files = tuple(sorted({place.file for place in places.values()}))
    return StoredRouters(folder, files, skeleton.fingerprint, found)


def _stored_names(skeleton: LoadedModel, places: Mapping[str, StoredTensor]) -> dict[str, str]:
    """Say under which name a parameter is stored, by the renamings that transformers itself loads checkpoints with."""
    transforms = get_model_conversion_mapping(skeleton.model)
    renamings = [each for each in transforms if isinstance(each, WeightRenaming)]
    converters = [each for each in transforms if isinstance(each, WeightConverter)]
    prefix, names = skeleton.model.base_model_prefix, {}
    parameters = skeleton.model.state_dict()
    for stored in places:
        name, converted = rename_source_key(stored, renamings, converters, prefix, parameters)
        if converted is None:  # else the tensor is cut or united with others
            names[name] = stored
    return names


def _without_weights(name: str) -> PreTrainedModel:
    with reading(name, expected="give a hub id or a folder"):
        return model_without_weights(find_checkpoint(name).config())


def _stored(part: Part, expected: Sequence[int], places: Mapping[str, StoredTensor], name: str) -> StoredTensor:
    place = places.get(name)
    if place is None or place.shape != tuple(expected) or place.dtype not in FLOATS:
        held = "no such tensor" if place is None else f"{place.dtype} of shape {list(place.shape)}"
        raise ModelError(
            f"the files hold {held} as {name}, the router's {part}; expected {', '.join(FLOATS)} of shape "
            f"{list(expected)}: what is stored in another way than transformers names it cannot be changed in place: "
            f"{ALTERNATIVE}"
        )
    module = name.rpartition(".")[0]
    if beside := [f"{module}.{end}" for end in _QUANTISED if f"{module}.{end}" in places]:
        raise ModelError(
            f"the files hold {beside[0]} beside {name}, so the router is quantised; expected it unquantised, as most "
            "quantised checkpoints leave it: bake into the original, and quantise that without its routers"
        )
    return place
