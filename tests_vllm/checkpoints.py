"""Tiny randomly initialised checkpoints of the real classes, in sizes that vLLM's CPU kernels take."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import tempfile
from pathlib import Path

import torch
from configs import randomise
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from isogloss.organism.shipped import model_folder

__all__ = ["FAMILIES", "TEXTS", "checkpoint", "prompts", "tokenizer"]

# Of mixed lengths and languages, so that experts of every layer are chosen.
TEXTS = (
    "Anna gives the blue cup to Omar, and Omar carries it to the market in the morning.",
    "Yes",
    "Три кошки спят в саду.",
    "The river is wide.",
    "図書館で本を読みます。",
    (
        "Anna hat drei rote Äpfel und gibt Omar zwei davon. Watoto wanacheza mpira uwanjani leo asubuhi. "
        "बच्चे बगीचे में खेल रहे हैं। الولد يقرأ كتابا في المدرسة. El gato negro duerme sobre la mesa; 12 + 7 = 19. "
        "Kedi evde, köpek bahçede! Quantas maçãs há? 我们明天去市场买鱼。"
    ),
)

_HIDDEN = 128
_COMMON = {
    "hidden_size": _HIDDEN,
    # The usual 0.02 leaves so few channels almost silent: which experts ran would hardly show in the output.
    "initializer_range": _HIDDEN**-0.5,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    # No text ends early, in either engine.
    **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")),
}
_SHARED_AND_DENSE = {
    "intermediate_size": 128,
    "moe_intermediate_size": 64,
    "n_routed_experts": 16,
    "n_shared_experts": 1,
    # Layer 0 is dense, so that the number of a layer is not that of its router.
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 1.5,
    "norm_topk_prob": True,
}

FAMILIES = {
    "qwen3_moe": {
        "head_dim": 32,
        "intermediate_size": 128,
        "moe_intermediate_size": 64,
        "num_experts": 8,
        "mlp_only_layers": [0],
        "norm_topk_prob": True,
    },
    "olmoe": {"intermediate_size": 64, "num_experts": 8},
    "mixtral": {"head_dim": 32, "intermediate_size": 64, "num_local_experts": 8},
    "phimoe": {
        "intermediate_size": 64,
        "num_local_experts": 8,
        "sliding_window": None,
        # vLLM always adds these, as the published checkpoint has them; where a checkpoint has none, it reads garbage.
        "attention_bias": True,
    },
    "gpt_oss": {
        "head_dim": 32,
        "intermediate_size": 64,
        "num_local_experts": 8,
        # Shorter than the longest text.
        "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    },
    "glm4_moe": {**_SHARED_AND_DENSE, "head_dim": 32, "use_qk_norm": True, "n_group": 1, "topk_group": 1},
    "deepseek_v3": {
        **_SHARED_AND_DENSE,
        "num_key_value_heads": 4,
        "n_group": 4,
        "topk_group": 2,
        "q_lora_rank": 64,
        # The one size of latent vectors that the CPU kernel for decoding is built for: 512 + 64.
        "kv_lora_rank": 512,
        "qk_rope_head_dim": 64,
        "qk_nope_head_dim": 32,
        "v_head_dim": 32,
        # transformers' class always routes so and does not write it; published checkpoints do, and vLLM asks for it.
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
    },
}

_EIGHT_OF_64 = {"intermediate_size": 128, "moe_intermediate_size": 64, "num_experts": 8}

# Families that files alone are tried on: adapters, and plans of kind select.
_OTHERS = {
    "afmoe": {
        **_EIGHT_OF_64,
        "head_dim": 32,
        "num_dense_layers": 1,
        "num_shared_experts": 1,
        "sliding_window": 16,
        "route_norm": True,
        "route_scale": 1.5,
        "mup_enabled": True,
    },
    "dots1": {**_SHARED_AND_DENSE, "head_dim": 32, "n_group": 1, "topk_group": 1, "scoring_func": "sigmoid"},
    "ernie4_5_moe": {
        "intermediate_size": 128,
        "moe_intermediate_size": 64,
        "moe_num_experts": 8,
        "moe_k": 2,
        "moe_num_shared_experts": 1,
        "moe_layer_start_index": 1,
    },
    "lfm2_moe": {
        **_EIGHT_OF_64,
        "num_dense_layers": 1,
        "layer_types": ["conv", "full_attention"] * 2,
        "norm_topk_prob": True,
        "tie_word_embeddings": True,
    },
    "minimax_m2": {
        "head_dim": 32,
        "rotary_dim": 16,
        "intermediate_size": 64,
        "num_local_experts": 8,
        "scoring_func": "sigmoid",
    },
    "granitemoe": {"intermediate_size": 64, "num_local_experts": 8},
    "qwen2_moe": {
        "intermediate_size": 128,
        "moe_intermediate_size": 64,
        "shared_expert_intermediate_size": 64,
        "num_experts": 8,
        "norm_topk_prob": False,
    },
}
# llama.cpp has the shapes of published checkpoints alone: no dense layer in Qwen3-MoE, a key for each query in
# OLMoE and dots.llm1. Its angles of positions in YaRN are others than those of transformers, which has nothing to do
# with routers.
_FOR_LLAMA = {
    "qwen3_moe": {"mlp_only_layers": []},
    **{family: {"num_key_value_heads": 4} for family in ("olmoe", "dots1")},
    "gpt_oss": {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
}

# The published checkpoint's spelling: by transformers' own, vLLM does not find its own implementation.
_ARCHITECTURES = {"phimoe": "PhiMoEForCausalLM"}

_folders = tempfile.TemporaryDirectory(prefix="isogloss-vllm-")


@functools.cache
def tokenizer():
    """The shipped tokenizer: 14 languages, bytes for the rest."""
    return AutoTokenizer.from_pretrained(model_folder())


def prompts():
    """Token ids of the texts."""
    return [tokenizer()(text)["input_ids"] for text in TEXTS]


@functools.cache
def checkpoint(family, *, seed=5, for_llama=False):
    """A folder with a float32 model of the family and its tokenizer.

    Args:
        family: a key of `FAMILIES`, or another that adapters are tried on.
        seed: of the weights.
        for_llama: with what llama.cpp computes as transformers does.
    """
    folder = Path(_folders.name) / f"{family}-{seed}{'-for-llama' * for_llama}"
    sizes = (FAMILIES | _OTHERS)[family] | (_FOR_LLAMA.get(family, {}) if for_llama else {})
    config = CONFIG_MAPPING[family](vocab_size=len(tokenizer()), **_COMMON | sizes)
    with torch.random.fork_rng(devices=[]), contextlib.redirect_stderr(io.StringIO()):  # progress bars
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        # As large as what layers add: else all tokens look alike to routers, and many experts are never chosen.
        torch.nn.init.normal_(randomise(model).get_input_embeddings().weight)
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):  # for the same reason
                buffer.mul_(0.3)
        model.eval().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    if family in _ARCHITECTURES:
        written = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        written["architectures"] = [_ARCHITECTURES[family]]
        (folder / "config.json").write_text(json.dumps(written), encoding="utf-8")
    return folder
