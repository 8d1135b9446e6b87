"""Finds the routers of a checkpoint in its files: by the model's structure, under the names that are stored."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from isogloss.backends.bake.edits import ALTERNATIVE, Change, StoredRouters, require_offsets
from isogloss.backends.huggingface import HuggingFaceModel, LoadedModel
from isogloss.backends.huggingface.discovery import Router, model_without_weights
from isogloss.backends.reading import find_checkpoint, reading
from isogloss.backends.stored_tensors import FLOATS, StoredTensor, read_places, read_tensor
from isogloss.errors import ModelError
from isogloss.steering import Plan

__all__ = ["open_checkpoint", "without_weights"]

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


def without_weights(change: Change, name: str) -> LoadedModel:
    """Build a model without weights or tokenizer, and refuse what cannot be baked before a weight is fetched.

    Raises:
        PlanError: the plan is empty, or does more than add constants to every token's logits.
        ModelError: the model is not supported, or its routers' logits have no bias for a plan.
    """
    if isinstance(change, Plan):
        require_offsets(change)
    skeleton = HuggingFaceModel(_without_weights(name), tokenizer=None, name=name)  # type: ignore[arg-type]  # no text is read
    if isinstance(change, Plan):
        for router in skeleton.router_modules:
            _require_linear_bias(router)
    return skeleton


def open_checkpoint(folder: Path, skeleton: LoadedModel) -> StoredRouters:
    """Find the routers in a checkpoint's files, and put their weights into the model without weights.

    Raises:
        ModelError: the files are damaged, or hold the routers under other names, shapes or dtypes than the model, or
            quantised.
    """
    places = read_places(folder)
    stored_names = _stored_names(skeleton, places)
    weights, biases = {}, {}
    names_by_module = {module: name for name, module in skeleton.model.named_modules()}
    for router in skeleton.router_modules:
        own = {}
        for local in (router.weight_name, router.linear_bias_name):
            if local is not None:
                name = f"{names_by_module[router.module]}.{local}"
                own[local] = _stored(router, local, places, stored_names.get(name, name))
        router.module.load_state_dict(
            {local: read_tensor(folder, place) for local, place in own.items()}, strict=False, assign=True
        )
        weights[router.spec.layer] = own[router.weight_name]
        if router.linear_bias_name is not None:
            biases[router.spec.layer] = own[router.linear_bias_name]
    files = tuple(sorted({place.file for place in places.values()}))
    return StoredRouters(folder, files, skeleton.fingerprint, weights, biases)


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


def _require_linear_bias(router: Router) -> None:
    if router.linear_bias_name is not None:
        return
    model_type, layer = router.family.model_type, router.spec.layer
    if router.bias_name is not None:
        raise ModelError(
            f"nothing can be baked into {model_type}: {router.bias_name} of layer {layer} is added to the scores "
            "after the logits, and changes the chosen experts but not their weights; expected a bias of the "
            f"logits, since an offset means another thing there: {ALTERNATIVE}"
        )
    raise ModelError(
        f"nothing can be baked into {model_type}: the router of layer {layer} has no bias; expected one of "
        f"{router.spec.n_experts} numbers that is added to its logits, as gpt_oss has: {ALTERNATIVE}"
    )


def _without_weights(name: str) -> PreTrainedModel:
    with reading(name, expected="give a hub id or a folder"):
        return model_without_weights(find_checkpoint(name).config())


def _stored(router: Router, local: str, places: Mapping[str, StoredTensor], name: str) -> StoredTensor:
    place = places.get(name)
    expected: Any = router.module.get_parameter(local).shape
    if place is None or place.shape != tuple(expected) or place.dtype not in FLOATS:
        held = "no such tensor" if place is None else f"{place.dtype} of shape {list(place.shape)}"
        raise ModelError(
            f"the files hold {held} as {name}; expected {', '.join(FLOATS)} of shape {list(expected)}: routers "
            f"stored in another way than transformers names them cannot be changed in place: {ALTERNATIVE}"
        )
    module = name.rpartition(".")[0]
    if beside := [f"{module}.{end}" for end in _QUANTISED if f"{module}.{end}" in places]:
        raise ModelError(
            f"the files hold {beside[0]} beside {name}, so the router is quantised; expected it unquantised, as most "
            "quantised checkpoints leave it: bake into the original, and quantise that without its routers"
        )
    return place
