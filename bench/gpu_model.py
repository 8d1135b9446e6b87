"""The model that a GPU is measured with: the shape of Qwen3-30B-A3B, random weights made on the device, no files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, Qwen3MoeConfig

from isogloss.backends.huggingface import HuggingFaceModel
from isogloss.organism.tokenizer import train_tokenizer
from serving import SHAPE

__all__ = ["SHAPES", "Sizes", "build", "fitting_layers", "layer_bytes", "random_texts"]

_OF_A_FILE = ("architectures", "model_type", "torch_dtype")
_QWEN3 = {name: value for name, value in SHAPE.items() if name not in _OF_A_FILE} | {
    "vocab_size": 151_936,
    "max_position_embeddings": 40_960,
    "num_hidden_layers": 48,
}
_TINY = _QWEN3 | {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 96,
    "moe_intermediate_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_experts": 16,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 3,
}
SHAPES: dict[str, dict[str, Any]] = {"qwen3-30b-a3b": _QWEN3, "tiny": _TINY}

_WORDS = [f"{first}{last}" for first in "bdfgklmnprst" for last in ("a", "e", "i", "o", "u", "an", "en", "in")]
_BYTES = 2  # of a number in bfloat16


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        batch_tokens: of a forward of a capture.
        n_batches: that a capture reads.
        prompts: that are answered together.
        prompt_tokens: of each.
        new_tokens: written after each.
        learn_texts: of a step of learning.
        learn_tokens: of each of them, of which the second half is the answer.
        rounds: most rounds of a comparison.
    """

    batch_tokens: int = 8192
    n_batches: int = 3
    prompts: int = 16
    prompt_tokens: int = 64
    new_tokens: int = 24
    learn_texts: int = 8
    learn_tokens: int = 512
    rounds: int = 7


TINY_SIZES = Sizes(128, 2, 2, 8, 3, 2, 16, 2)


def layer_bytes(shape: dict[str, Any]) -> int:
    """Bytes of one decoder layer in bfloat16: experts, attention, router."""
    hidden, head = shape["hidden_size"], shape["head_dim"]
    experts = 3 * shape["num_experts"] * hidden * shape["moe_intermediate_size"]
    attention = 2 * hidden * head * (shape["num_attention_heads"] + shape["num_key_value_heads"])
    return _BYTES * (experts + attention + shape["num_experts"] * hidden)


def fitting_layers(shape: dict[str, Any], free: int, sizes: Sizes) -> int:
    """Return how many layers leave room for a step of learning with a leash, layers computed again, at least one.

    The arithmetic is that of the part on learning of docs/performance.md: for each token of an answer, half of them,
    and of the vocabulary 30 bytes of logits, log-softmaxes, probabilities and gradients; what one layer keeps; and 2 GB
    for kernels and what lies between allocations.

    Args:
        shape: one of `SHAPES`.
        free: bytes.
        sizes: of a step.
    """
    tokens, hidden = sizes.learn_texts * sizes.learn_tokens, shape["hidden_size"]
    ends = 2 * _BYTES * shape["vocab_size"] * hidden
    predictions = 30 * (tokens // 2) * shape["vocab_size"]
    again = 2 * _BYTES * tokens * shape["num_experts_per_tok"] * (2 * hidden + 4 * shape["moe_intermediate_size"])
    kept = _BYTES * tokens * hidden  # what enters a layer
    room = free - ends - predictions - again - 2 * 10**9
    return max(1, min(shape["num_hidden_layers"], room // (layer_bytes(shape) + kept)))


def build(shape: dict[str, Any], n_layers: int, device: torch.device) -> HuggingFaceModel:
    """Make the model on the device in bfloat16, with a stand-in tokenizer that has a token for each word."""
    torch.manual_seed(0)
    config = Qwen3MoeConfig(**shape | {"num_hidden_layers": n_layers})
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    tokenizer = train_tokenizer([" ".join(_WORDS)] * 20, vocab_size=500)
    return HuggingFaceModel(model, tokenizer, name="random weights")


def random_texts(n_tokens: int, *, longest: int) -> list[str]:
    """Return texts of different lengths, of about so many tokens together."""
    rng, texts, left = np.random.default_rng(0), list[str](), n_tokens
    while left > 0:
        size = int(rng.integers(max(2, longest // 8), longest))
        texts.append(" ".join(rng.choice(_WORDS, size)))
        left -= size + 1
    return texts
