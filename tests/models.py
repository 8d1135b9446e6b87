"""Tiny randomly initialised models of the real transformers classes, and a tokenizer for them."""

from __future__ import annotations

import functools

import torch
from transformers import OlmoeConfig, OlmoeForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from isogloss.backends.huggingface import LoadedModel
from isogloss.organism.tokenizer import train_tokenizer

FAMILIES = ("qwen3_moe", "olmoe")

_SHAPE = {
    "vocab_size": 400,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

TEXTS = (
    "The river is wide.",
    "Anna gives the blue cup to Omar, and Omar carries it to the market in the morning.",
    "Три кошки спят в саду.",
    "図書館で本を読みます。",
    "Yes.",
    "When the rain stopped, the children ran out of the school and counted the snails on the wall.",
)
ITEM_IDS = tuple(f"item-{index}" for index in range(len(TEXTS)))


@functools.cache
def tokenizer():
    """A byte-level tokenizer of 400 tokens."""
    return train_tokenizer(TEXTS * 20, vocab_size=400)


def tiny(model_type, *, dtype=torch.float32, seed=0):
    """A model of the real class; its second layer is dense where the family allows it."""
    torch.manual_seed(seed)
    if model_type == "qwen3_moe":
        config = Qwen3MoeConfig(
            **_SHAPE,
            head_dim=8,
            intermediate_size=48,
            moe_intermediate_size=24,
            mlp_only_layers=[1],
            norm_topk_prob=True,
        )
        model = Qwen3MoeForCausalLM(config)
    else:
        model = OlmoeForCausalLM(OlmoeConfig(**_SHAPE, intermediate_size=24, norm_topk_prob=False))
    for name, parameter in model.named_parameters():
        if name.endswith("gate.weight"):
            torch.nn.init.normal_(parameter, std=0.5)
    return LoadedModel(model.to(dtype), tokenizer(), name=f"tiny-{model_type}")
