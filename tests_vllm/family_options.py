"""What engines of some families are started with, so that they compute on a processor what they should."""

from __future__ import annotations

__all__ = ["FAMILY_OPTIONS"]

FAMILY_OPTIONS = {
    "deepseek_v3": {
        # vLLM's CPU kernel for rotary embeddings misreads queries of shape [tokens, heads, channels], as latent
        # attention gives them, wherever there is more than one head: log-probabilities were off by up to 1. Compiled
        # engines do not use it.
        "compilation_config": {"custom_ops": ["-rotary_embedding"]},
        # Where a processor has AMX, vLLM takes kernels for latent attention that read no float32 unless told otherwise.
        "attention_config": {"backend": "CPU_MLA"},
    }
}
"""By model type: arguments of `vllm.LLM`."""
