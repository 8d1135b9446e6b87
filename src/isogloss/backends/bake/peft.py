"""Writes an adapter as a folder of PEFT: under transformers' names, or under those of vLLM's own modules.

vLLM loads LoRA adapters by the names of its own modules, and passes over a name that it does not know: an adapter of
Mixtral's routers as PEFT names them changes nothing there. So the names below are those of vLLM, tried in
``tests_vllm`` against the model with its weights changed, and other families are refused.
"""

from __future__ import annotations

import shlex
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType

from safetensors.numpy import save

from isogloss.backends.bake.baked import Baked, adapter_written
from isogloss.backends.bake.checkpoint import open_checkpoint, without_weights
from isogloss.backends.bake.edits import require_fits, with_own_names
from isogloss.backends.bake.folder import RECORD, checkpoint_folder
from isogloss.backends.open import folder_of
from isogloss.errors import ModelError
from isogloss.files import write_atomically, write_json
from isogloss.folders import new_folder, require_new_folder
from isogloss.hub import split_revision
from isogloss.steering import AdaptedRouter, RouterAdapter, peft_tensors, write_adapter

__all__ = ["VLLM_RANKS", "VLLM_ROUTERS", "write_peft", "write_vllm"]

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

VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values that vLLM 0.32 takes as ``--max-lora-rank``, by default 16; it serves adapters of that rank at most."""

_SCHEMA_VERSION = 1


def write_peft(name: str, adapter: RouterAdapter, output: Path) -> Baked:
    """Write an adapter for transformers and PEFT, its scale multiplied into B: engines disagree about what 0 means.

    Args:
        name: hub id or folder of the model, or ``organism``; its routers are read alone.
        adapter: made for that model.
        output: a folder that does not exist or is empty.

    Raises:
        PlanError: the adapter is for another model, or names something else than its routers.
        ModelError: the model's files are damaged or quantised in their routers.
        FileError: the folder is in use, or cannot be written.
    """
    require_new_folder(output)
    write_adapter(_checked(name, adapter).unscaled(), output)
    return adapter_written(output, "peft", adapter)


def write_vllm(name: str, adapter: RouterAdapter, output: Path) -> Baked:
    """Write an adapter as vLLM loads it (``--enable-lora``); arguments and errors are those of `write_peft`.

    Raises:
        ModelError: besides, how vLLM names the routers of this family is not known, or the rank is more than it serves.
    """
    require_new_folder(output)
    model_type = adapter.fingerprint.model_type
    if (router_path := VLLM_ROUTERS.get(model_type)) is None:
        raise ModelError(
            f"adapters for vLLM are not known to act on {model_type}; expected {', '.join(VLLM_ROUTERS)}: write a "
            "whole checkpoint with the adapter inside, --as checkpoint, which vLLM serves as any other"
        )
    if adapter.rank > VLLM_RANKS[-1]:
        raise ModelError(
            f"the adapter has rank {adapter.rank}; expected at most {VLLM_RANKS[-1]}, the largest that vLLM serves: "
            "write a whole checkpoint with the adapter inside, --as checkpoint"
        )
    unscaled = _checked(name, adapter).unscaled()
    renamed = tuple(_renamed(router, router_path) for router in unscaled.routers)
    tensors = peft_tensors(replace(unscaled, routers=renamed))
    module = router_path.rpartition(".")[2]
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": adapter.base_model,
        "bias": "none",
        "r": adapter.rank,
        "lora_alpha": adapter.rank,
        "target_modules": [module],
    }
    record = {"schema_version": _SCHEMA_VERSION, "isogloss_version": version("isogloss"), "adapter": adapter.to_json()}
    with new_folder(output) as folder:
        write_atomically(folder / "adapter_model.safetensors", save(tensors))
        write_json(folder / "adapter_config.json", config)
        write_json(folder / RECORD, record | {"form": "vllm", "adapter_sha256": adapter.sha256})
    return adapter_written(output, "vllm", adapter, serve=_command(name, adapter.rank, module, output))


def _command(name: str, rank: int, module: str, output: Path) -> str:
    """Return how vLLM serves one adapter: the rank is the smallest that it takes for it, the slots are one more."""
    source, revision = split_revision(folder_of(name))
    return shlex.join(
        [
            *("vllm", "serve", source, *([] if revision is None else ["--revision", revision])),
            *("--enable-lora", "--lora-target-modules", module, "--max-loras", "2"),
            *("--max-lora-rank", str(next(most for most in VLLM_RANKS if most >= rank))),
            *("--lora-modules", f"adapter={output}"),
        ]
    )


def _renamed(router: AdaptedRouter, path: str) -> AdaptedRouter:
    """Name the weight by the path of its module inside the decoder layer."""
    before, place, _ = router.parameter.partition(f".{router.layer}.")
    return replace(router, parameter=f"{before}{place}{path}.weight")


def _checked(name: str, adapter: RouterAdapter) -> RouterAdapter:
    """Compare the adapter with the routers in the model's files, and return it under the model's own names."""
    name = folder_of(name)
    skeleton = without_weights(adapter, name)
    stored = open_checkpoint(checkpoint_folder(name), skeleton, adapter)
    require_fits(stored, adapter)
    return with_own_names(adapter, skeleton.router_parameters)
