"""The folder of a router adapter: what stock PEFT loads, and beside it what isogloss checks.

``adapter_config.json`` and ``adapter_model.safetensors`` are a LoRA adapter of PEFT on the routers' weights
(``target_parameters``). ``isogloss_adapter.json`` says which model it is for, what its ranks are and where it comes
from, and holds the hash of the tensors. The folder appears whole.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from isogloss.arrays import Float32Array
from isogloss.errors import PlanError
from isogloss.files import parse_json, read_bytes, sha256, write_atomically, write_json
from isogloss.folders import new_folder, require_new_folder
from isogloss.records import decode
from isogloss.routing import Fingerprint
from isogloss.steering.adapter import AdaptedRouter, RouterAdapter
from isogloss.steering.checks import require_version

__all__ = [
    "ADAPTER_FILES",
    "ADAPTER_SCHEMA_VERSION",
    "AdapterRecord",
    "RouterRecord",
    "peft_tensors",
    "read_adapter",
    "write_adapter",
    "write_adapter_into",
]

ADAPTER_SCHEMA_VERSION = 1

_RECORD = "isogloss_adapter.json"
_CONFIG = "adapter_config.json"
_TENSORS = "adapter_model.safetensors"
ADAPTER_FILES = (_RECORD, _CONFIG, _TENSORS)
"""Names of the files of an adapter; no other LoRA adapter has the first."""

_LARGEST_JSON, _LARGEST_TENSORS = 16 * 2**20, 2**32  # bytes
_FIXED = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "inference_mode": True,
    "bias": "none",
    "lora_dropout": 0.0,
    "fan_in_fan_out": False,
    "use_rslora": False,
    "use_dora": False,
    "target_modules": [],
}
"""What PEFT must be told, whatever the adapter: the change is ``lora_alpha / r`` times B A, and nothing else."""
_UNSET: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "alpha_pattern": ({},),
        "rank_pattern": ({},),
        "modules_to_save": (None, []),
        "trainable_token_indices": (None,),
        "layer_replication": (None, []),
        "layers_pattern": (None, []),
        "init_lora_weights": (True, False, None, "gaussian", "eva", "orthogonal", "lora_ga"),  # others change the base
        "lora_dropout": (0,),
        "fan_in_fan_out": (False,),
        "lora_bias": (False,),
        "megatron_config": (None,),
        "alora_invocation_tokens": (None, []),
        "arrow_config": (None,),
        "kasa_config": (None,),
        "monteclora_config": (None,),
        "use_bdlora": (None,),
        "velora_config": (None,),
    }
)
"""Field that PEFT may be told besides -> values by which it does nothing, the default first; else B A is not all."""


@dataclass(frozen=True)
class RouterRecord:
    """One router that an adapter changes.

    Attributes:
        layer: 0-based position in the whole decoder stack.
        parameter: full name of the router's weight in transformers.
        n_extra: rows of the weight after those of the routed experts; B is 0 there.
        width: number of columns of the weight.
    """

    layer: int
    parameter: str
    n_extra: int
    width: int


@dataclass(frozen=True)
class AdapterRecord:
    """What isogloss knows of an adapter beside its tensors.

    Attributes:
        fingerprint: of the model that the adapter was made for.
        ranks: name of each rank, in the order of A's rows and B's columns.
        scale: factor on B A; ``lora_alpha`` is its product with the number of ranks.
        base_model: hub id, or null.
        routers: those that are changed, by layer.
        provenance: where the adapter comes from.
        tensors_sha256: hash of the file of tensors.
    """

    fingerprint: Fingerprint
    ranks: tuple[str, ...]
    scale: float
    base_model: str | None
    routers: tuple[RouterRecord, ...]
    provenance: dict[str, Any]
    tensors_sha256: str


def write_adapter(adapter: RouterAdapter, path: str | os.PathLike[str]) -> None:
    """Write an adapter as a folder that PEFT loads; the folder appears whole, or not at all.

    Args:
        adapter: of any model.
        path: a folder that does not exist or is empty, in one that exists.

    Raises:
        FileError: the folder is in use or cannot be written.
    """
    require_new_folder(Path(path))
    with new_folder(Path(path)) as folder:
        write_adapter_into(adapter, folder)


def write_adapter_into(adapter: RouterAdapter, folder: Path) -> None:
    """Write the files of an adapter into a folder that is there, the record last; FileError where it fails."""
    content = save(peft_tensors(adapter))
    write_atomically(folder / _TENSORS, content)
    write_json(folder / _CONFIG, _config_of(adapter))
    head = {"schema_version": ADAPTER_SCHEMA_VERSION, "tensors_sha256": sha256(content)}
    write_json(folder / _RECORD, head | adapter.to_json())


def peft_tensors(adapter: RouterAdapter) -> dict[str, Float32Array]:
    """Return A and B of every router under the names that PEFT gives them; the scale is not in them."""
    tensors: dict[str, Float32Array] = {}
    for router in adapter.routers:
        tensors |= dict(zip(_names(router.parameter), (router.a, router.whole_b), strict=True))
    return tensors


def read_adapter(path: str | os.PathLike[str]) -> RouterAdapter:
    """Read and check an adapter's folder.

    Raises:
        PlanError: the folder is missing, unfinished, damaged, or of another version; its tensors or PEFT's
            configuration are not those that the record describes.
    """
    folder = Path(path)
    if not folder.is_dir():
        state = "it is a file" if folder.exists() else "no such folder"
        raise PlanError(
            f"cannot read the adapter {path}: {state}; expected an adapter's folder: make one with `isogloss adapt`"
        )
    if not (folder / _RECORD).is_file():
        raise PlanError(
            f"{path} has no {_RECORD}: it is no adapter of isogloss, or is still being written; wait for what writes "
            "it, or make it with `isogloss adapt`"
        )
    record = _read_record(folder / _RECORD)
    content = read_bytes(folder / _TENSORS, most=_LARGEST_TENSORS, error=PlanError)
    if sha256(content) != record.tensors_sha256:
        raise PlanError(
            f"{folder / _TENSORS} is not the file that {_RECORD} describes; it was changed, or is still being written: "
            "copy the folder again, or make the adapter again"
        )
    adapter = _adapter_of(record, content, folder)
    _require_config(adapter, folder / _CONFIG)
    return adapter


def _read_record(path: Path) -> AdapterRecord:
    raw, again = _read_json(path), "make the adapter again with `isogloss adapt`"
    require_version(raw if isinstance(raw, dict) else {}, ADAPTER_SCHEMA_VERSION, again=again, where=f"{path}: ")
    try:
        return decode(AdapterRecord, {key: value for key, value in raw.items() if key != "schema_version"}, "")
    except ValueError as error:
        raise PlanError(f"{path} is malformed: {error}; make the adapter again") from error


def _adapter_of(record: AdapterRecord, content: bytes, folder: Path) -> RouterAdapter:
    try:
        if not record.ranks:
            raise ValueError("it has rank 0; expected at least one rank")  # noqa: TRY301 - as of what is read below
        tensors: Mapping[str, Any] = load(content)
        routers = tuple(_router_of(record, each, tensors) for each in record.routers)
        named = {name for each in record.routers for name in _names(each.parameter)}
        if others := sorted(set(tensors) ^ named):
            raise KeyError(f"tensor {others[0]} is missing or not expected")  # noqa: TRY301 - as of one that is read
        return RouterAdapter(
            record.fingerprint,
            routers,
            record.ranks,
            record.provenance,
            scale=record.scale,
            base_model=record.base_model,
        )
    except (SafetensorError, KeyError, ValueError, PlanError) as error:
        raise PlanError(f"{folder}: {error}; make the adapter again") from error


def _router_of(record: AdapterRecord, router: RouterRecord, tensors: Mapping[str, Any]) -> AdaptedRouter:
    a, b = (tensors[name] for name in _names(router.parameter))
    n_experts = record.fingerprint.n_experts
    shapes = ((len(record.ranks), router.width), (n_experts + router.n_extra, len(record.ranks)))
    if (a.shape, b.shape) != shapes or any(each.dtype != np.float32 for each in (a, b)):
        raise ValueError(
            f"A and B of {router.parameter} are {a.dtype} {list(a.shape)} and {b.dtype} {list(b.shape)}; expected "
            f"float32 {list(shapes[0])} and {list(shapes[1])}"
        )
    if b[n_experts:].any():
        raise ValueError(f"B of {router.parameter} changes rows that are no routed experts")
    return AdaptedRouter(router.layer, router.parameter, b[:n_experts], a, router.n_extra)


def _names(parameter: str) -> tuple[str, str]:
    """Name A and B as PEFT does, by the module that holds the parameter."""
    module = parameter.rpartition(".")[0]
    return f"base_model.model.{module}.lora_A.weight", f"base_model.model.{module}.lora_B.weight"


def _config_of(adapter: RouterAdapter) -> dict[str, Any]:
    alpha = adapter.scale * adapter.rank
    return _FIXED | {
        "base_model_name_or_path": adapter.base_model,
        "r": adapter.rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,  # some engines expect an integer
        "target_parameters": [router.parameter for router in adapter.routers],
    }


def _require_config(adapter: RouterAdapter, path: Path) -> None:
    """Refuse a configuration by which PEFT would compute something else; it may have more fields."""
    raw, expected = _read_json(path), _config_of(adapter)
    for name in (
        "peft_type",
        "bias",
        "use_rslora",
        "use_dora",
        "r",
        "lora_alpha",
        "target_modules",
        "target_parameters",
    ):
        value = raw.get(name) if isinstance(raw, dict) else None
        if value != expected[name]:
            raise PlanError(
                f"{path} has {name} {value!r}; expected {expected[name]!r}, as {_RECORD} says: make the adapter again"
            )
    for name, values in _UNSET.items():
        if (value := raw.get(name, values[0])) not in values:
            raise PlanError(
                f"{path} has {name} {value!r}, by which PEFT computes something else than {_RECORD} says, or nothing; "
                f"expected {values[0]!r}: make the adapter again"
            )


def _read_json(path: Path) -> Any:  # noqa: ANN401 - JSON before it is checked
    try:
        return parse_json(read_bytes(path, most=_LARGEST_JSON, error=PlanError))
    except ValueError as error:
        raise PlanError(f"{path} is not valid JSON ({error}); make the adapter again") from error
