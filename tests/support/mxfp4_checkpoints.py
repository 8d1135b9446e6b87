"""A tiny checkpoint of GPT-OSS in the layout in which its experts are published, MXFP4."""

from __future__ import annotations

import json

import numpy as np
import torch
from configs import randomise, tiny_config
from models import tokenizer
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

# OCP Microscaling Formats (MX) specification 1.0, section 5.3.3: the sixteen values of E2M1, sign in the high bit.
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], dtype=np.float32)


def unpacked(blocks, scales):
    """Weights ``[n_experts, in, out]`` of packed rows: low nibble first, 32 values per power of two."""
    codes = np.stack([blocks & 15, blocks >> 4], axis=-1).reshape(*blocks.shape[:-1], 32)
    values = E2M1[codes] * np.exp2(scales.astype(np.float32) - 127)[..., None]
    return torch.from_numpy(values.reshape(*values.shape[:2], -1).transpose(0, 2, 1).copy())


def write_mxfp4(packed, dense):
    """Write a gpt_oss checkpoint stored as openai/gpt-oss-20b is, and the same with the weights that its bytes mean."""
    config = tiny_config("gpt_oss")
    config.hidden_size, config.intermediate_size = 64, 96
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = randomise(AutoModelForCausalLM.from_config(config, dtype=torch.float32))
    rng = np.random.default_rng(0)
    stored = {}
    for name, weight in model.state_dict().items():
        if not name.endswith("_proj") or "experts" not in name:
            stored[name] = weight
            continue
        n_experts, n_in, n_out = weight.shape
        blocks = rng.integers(0, 256, (n_experts, n_out, n_in // 32, 16), dtype=np.uint8)
        scales = rng.integers(121, 125, (n_experts, n_out, n_in // 32), dtype=np.uint8)
        stored |= {f"{name}_blocks": torch.from_numpy(blocks), f"{name}_scales": torch.from_numpy(scales)}
        weight.copy_(unpacked(blocks, scales))
    for folder in (packed, dense):
        model.save_pretrained(folder)
        tokenizer().save_pretrained(folder)
    save_file(stored, packed / "model.safetensors", metadata={"format": "pt"})
    settings = json.loads((packed / "config.json").read_text(encoding="utf-8"))
    skipped = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
    settings["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": skipped}
    (packed / "config.json").write_text(json.dumps(settings), encoding="utf-8")
