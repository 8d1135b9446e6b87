"""Proves that the routers that vLLM runs choose as their family's row says, before anything is captured."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy

from isogloss.backends.agreement import TOLERANCE, relative_difference
from isogloss.backends.model import RouterCheck
from isogloss.backends.vllm.loading import ServedModel
from isogloss.errors import ModelError
from isogloss.routing import RouterSpec, choice_scores

__all__ = ["prove_served"]


def prove_served(served: ServedModel) -> RouterCheck:
    """Show on random hidden states that every router of every worker chooses as the reference router does.

    The workers run their layers and hand back logits and choices; the reference router, with what transformers says
    about the checkpoint, must choose the same from the same logits. Where scores tie, any of the tied experts is right.

    Args:
        served: the model; an active plan is not looked at.

    Returns:
        How closely they agreed; the experts of every layer are handed the choice.

    Raises:
        ModelError: a layer was not seen, or chooses otherwise; nothing captured could be trusted.
    """
    largest, n_tokens, tolerance = 0.0, 0, TOLERANCE[served.dtype]
    workers = [safetensors.numpy.load(content) for content in served.call("isogloss_probe")]
    for spec in served.specs:
        seen = [arrays for arrays in workers if f"{spec.layer}.chosen" in arrays]
        if not seen:
            raise ModelError(f"no worker of vLLM has shown the router of layer {spec.layer}; expected every layer once")
        for arrays in seen:
            found = _deviation(arrays, spec)
            n_tokens = len(arrays[f"{spec.layer}.chosen"])
            largest = max(largest, found)
            if found > tolerance:
                raise ModelError(
                    f"in vLLM the router of layer {spec.layer} chooses otherwise than the reference router for "
                    f"{served.family.model_type} (by {found:.2g}; expected at most {tolerance:g}); this version of "
                    "vLLM is not supported for this family: capture with --backend huggingface"
                )
    return RouterCheck(n_tokens, largest, len(served.specs))


def _deviation(arrays: dict[str, npt.NDArray[Any]], spec: RouterSpec) -> float:
    """Largest difference of a chosen expert's score from the best ones possible."""
    logits, ids, bias = (arrays.get(f"{spec.layer}.{name}") for name in ("logits", "chosen", "bias"))
    if logits is None or ids is None or logits.shape[1:] != (spec.n_experts,) or ids.shape[1:] != (spec.top_k,):
        shapes = [None if part is None else part.shape for part in (logits, ids)]
        raise ModelError(
            f"vLLM shows logits and choices of shape {shapes} for layer {spec.layer}; expected {spec.n_experts} "
            f"experts and {spec.top_k} choices per token: capture with --backend huggingface"
        )
    if (bias is not None) != spec.selection_bias:
        has = "adds" if bias is not None else "does not add"
        raise ModelError(
            f"in vLLM the router of layer {spec.layer} {has} a bias for the choice; transformers does otherwise, so "
            "they choose differently: capture with --backend huggingface"
        )
    if (np.diff(np.sort(ids, axis=1), axis=1) == 0).any():
        return float("inf")  # an expert chosen twice
    scores = choice_scores(logits, spec, bias)
    best = -np.sort(-scores, axis=1)[:, : spec.top_k]
    chosen = -np.sort(-np.take_along_axis(scores, ids, axis=1), axis=1)
    return relative_difference(chosen, best)
