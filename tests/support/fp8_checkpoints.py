"""Checkpoints whose experts are stored in 8-bit floats with a scale each, as DeepSeek-V3's are."""

from __future__ import annotations

import json
import shutil

import torch
from models import checkpoint
from safetensors.torch import load_file, save_file

_SKIPPED = ("self_attn", "shared_experts", "mlp.gate", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "lm_head")


def fp8_folders(family, folder, *, plain=torch.float32):
    """Write a tiny model with packed experts, and the same model with the values that they stand for.

    Args:
        family: of the model.
        folder: of both.
        plain: dtype of the matrices that are not packed.

    Returns:
        The folders of both.
    """
    packed, dense = folder / "packed", folder / "dense"
    for each in (packed, dense):
        shutil.copytree(checkpoint(family), each)
    stored, weights = {}, {}
    for name, weight in load_file(dense / "model.safetensors").items():
        stored[name] = weights[name] = weight.to(plain) if weight.ndim > 1 else weight
        if "experts." in name and weight.ndim == 2 and name.endswith(".weight"):
            scale = weight.abs().max() / torch.finfo(torch.float8_e4m3fn).max
            stored[name] = (weight / scale).to(torch.float8_e4m3fn)
            stored[f"{name}_scale_inv"] = scale.view(1, 1)
            weights[name] = stored[name].float() * scale
    assert len(stored) > len(weights)
    save_file(stored, packed / "model.safetensors", metadata={"format": "pt"})
    save_file(weights, dense / "model.safetensors", metadata={"format": "pt"})
    set_quantisation(
        packed, {"quant_method": "fp8", "weight_block_size": [128, 128], "modules_to_not_convert": _SKIPPED}
    )
    return packed, dense


def set_quantisation(folder, quantisation):
    """Say in a checkpoint's configuration how it is quantised."""
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    settings["quantization_config"] = quantisation
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
