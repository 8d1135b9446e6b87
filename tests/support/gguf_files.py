"""GGUF files with a model's routers, as llama.cpp's converter writes them, and other tensors around them."""

from __future__ import annotations

import gguf
import numpy as np

__all__ = ["gguf_tensors", "write_gguf"]

NAMES = {"gpt_oss": "gpt-oss", "qwen3_moe": "qwen3moe", "deepseek_v3": "deepseek2", "glm4_moe": "glm4moe"}


def write_gguf(path, loaded, *, dtype=np.float32, biases=True, routers=True, n_guessing=0, **fields):
    """Write a file of the model's architecture; return its path.

    Args:
        path: of the file.
        loaded: the model.
        dtype: of the routers.
        biases: whether their biases are written, where they have some.
        routers: whether any router is written.
        n_guessing: layers after the last, with routers of their own, that guess tokens after the next.
        fields: further fields, by name with ``_`` for ``.``.
    """
    drawn = np.random.default_rng(0)
    name = NAMES[loaded.fingerprint.model_type]
    writer = gguf.GGUFWriter(path, name)
    writer.add_expert_count(loaded.fingerprint.n_experts)
    writer.add_expert_used_count(loaded.fingerprint.top_k)
    writer.add_block_count(max(loaded.fingerprint.layers) + 1 + n_guessing)
    if n_guessing:
        writer.add_nextn_predict_layers(n_guessing)
    writer.add_token_list([f"token {each}" for each in range(50)])
    for field, value in fields.items():
        writer.add_uint16(field.replace("_", "."), value)
    writer.add_tensor("token_embd.weight", drawn.normal(size=(50, 64)).astype("f2"))
    for router in loaded.router_modules if routers else ():
        layer = router.spec.layer
        packed = gguf.quantize(drawn.normal(size=(64, 64)).astype("f4"), gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor(f"blk.{layer}.ffn_down_exps.weight", packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor(f"blk.{layer}.ffn_gate_inp.weight", router.weight().numpy().astype(dtype))
        if biases and router.linear_bias() is not None:
            writer.add_tensor(f"blk.{layer}.ffn_gate_inp.bias", router.linear_bias().numpy())
        if biases and router.selection_bias() is not None:
            writer.add_tensor(f"blk.{layer}.exp_probs_b.bias", router.selection_bias())
        writer.add_tensor(f"blk.{layer}.ffn_gate_inp_shexp.weight", drawn.normal(size=64).astype("f4"))
    for layer in range(n_guessing):
        place = max(loaded.fingerprint.layers) + 1 + layer
        writer.add_tensor(f"blk.{place}.ffn_gate_inp.weight", drawn.normal(size=(8, 32)).astype("f4"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def gguf_tensors(path):
    """Name -> (place of its first byte, array) of every tensor in a file."""
    return {each.name: (int(each.data_offset), np.array(each.data)) for each in gguf.GGUFReader(path).tensors}
