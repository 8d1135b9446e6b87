"""Writes an adapter as a folder of PEFT: under transformers' names, or under those of vLLM's own modules.

vLLM loads LoRA adapters by the names of its own modules, and passes over a name that it does not know: an adapter of
Mixtral's routers as PEFT names them changes nothing there. So the names below are those of vLLM, tried in
``tests_vllm`` against the model with its weights changed, and other families are refused.
"""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType

from safetensors.numpy import save

from isogloss.backends.bake.baked import Baked, adapter_written
from isogloss.backends.bake.checkpoint import open_checkpoint, without_weights
from isogloss.backends.bake.edits import require_fits
from isogloss.backends.bake.folder import RECORD, checkpoint_folder
from isogloss.backends.open import folder_of
from isogloss.errors import ModelError
from isogloss.files import write_atomically, write_json
from isogloss.folders import new_folder, require_new_folder
from isogloss.steering import AdaptedRouter, RouterAdapter, peft_tensors, write_adapter

__all__ = ["VLLM_ROUTERS", "write_peft", "write_vllm"]

VLLM_ROUTERS = MappingProxyType(
    {
        "deepseek_v3": "mlp.gate",
        "glm4_moe": "mlp.gate",
        "gpt_oss": "mlp.router",
        "granitemoe": "block_sparse_moe.gate",
        "mixtral": "block_sparse_moe.gate",
        "olmoe": "mlp.gate",
        "qwen2_moe": "mlp.gate",
        "qwen3_moe": "mlp.gate",
    }
)
"""Model type -> the router's module inside a decoder layer of vLLM's own class, where that takes adapters."""

_SCHEMA_VERSION = 1


def write_peft(name: str, adapter: RouterAdapter, output: Path) -> Baked:
    """Write an adapter for transformers and PEFT, its scale multiplied into B: engines disagree about what 0 means.

    Args:
        name: hub id or folder of the model, or ``organism``; its routers are read alone.
        adapter: made for that model.
        output: a folder that does not exist or is empty.

    Raises:
        PlanError: the adapter is for another model.
        ModelError: the model's files are damaged or quantised in their routers.
        FileError: the folder is in use, or cannot be written.
    """
    require_new_folder(output)
    baked = _checked(name, adapter, output, "peft")
    write_adapter(adapter.unscaled(), output)
    return baked


def write_vllm(name: str, adapter: RouterAdapter, output: Path) -> Baked:
    """Write an adapter as vLLM loads it (``--enable-lora``); arguments and errors are those of `write_peft`.

    Raises:
        ModelError: besides, how vLLM names the routers of this family is not known.
    """
    require_new_folder(output)
    model_type = adapter.fingerprint.model_type
    if (router_path := VLLM_ROUTERS.get(model_type)) is None:
        raise ModelError(
            f"adapters for vLLM are not known to act on {model_type}; expected {', '.join(VLLM_ROUTERS)}: write a "
            "whole checkpoint with the adapter inside, --as checkpoint, which vLLM serves as any other"
        )
    baked = _checked(name, adapter, output, "vllm")
    unscaled = adapter.unscaled()
    renamed = tuple(_renamed(router, router_path) for router in unscaled.routers)
    tensors = peft_tensors(replace(unscaled, routers=renamed))
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": adapter.base_model,
        "bias": "none",
        "r": adapter.rank,
        "lora_alpha": adapter.rank,
        "target_modules": [router_path.rpartition(".")[2]],
    }
    record = {"schema_version": _SCHEMA_VERSION, "isogloss_version": version("isogloss"), "adapter": adapter.to_json()}
    with new_folder(output) as folder:
        write_atomically(folder / "adapter_model.safetensors", save(tensors))
        write_json(folder / "adapter_config.json", config)
        write_json(folder / RECORD, record | {"form": "vllm", "adapter_sha256": adapter.sha256})
    return baked


def _renamed(router: AdaptedRouter, path: str) -> AdaptedRouter:
    """Name the weight by the path of its module inside the decoder layer."""
    before, place, _ = router.parameter.partition(f".{router.layer}.")
    return replace(router, parameter=f"{before}{place}{path}.weight")


def _checked(name: str, adapter: RouterAdapter, output: Path, form: str) -> Baked:
    """Compare the adapter with the routers in the model's files, nothing is written."""
    name = folder_of(name)
    skeleton = without_weights(adapter, name)
    stored = open_checkpoint(checkpoint_folder(name), skeleton, adapter)
    require_fits(stored, adapter)
    return adapter_written(output, form, adapter)
