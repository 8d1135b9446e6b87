"""Proves that the routers that vLLM runs choose as their family's row says, before anything is captured."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy

from isogloss.backends.agreement import TOLERANCE, selection_deviation
from isogloss.backends.model import RouterCheck
from isogloss.backends.vllm.loading import ServedModel
from isogloss.errors import ModelError
from isogloss.routing import RouterSpec, choice_scores

__all__ = ["prove_served"]


def prove_served(served: ServedModel) -> RouterCheck:
    """Show on random hidden states that every router of every worker chooses as the reference router does.

    The workers run their layers, whatever plan is active, and return logits and expert ids; the reference router, with
    what transformers reads from the checkpoint, must choose the same experts from the same logits.

    Raises:
        ModelError: a layer was not seen, or chooses otherwise; nothing captured could be trusted.
    """
    largest, n_tokens, tolerance = 0.0, 0, TOLERANCE[served.dtype]
    workers = [safetensors.numpy.load(content) for content in served.call("isogloss_probe")]
    for spec in served.routers:
        seen = [arrays for arrays in workers if f"{spec.layer}.chosen" in arrays]
        if not seen:
            raise ModelError(f"no worker of vLLM has shown the router of layer {spec.layer}; expected every layer once")
        for arrays in seen:
            deviation = _deviation(arrays, spec)
            n_tokens = len(arrays[f"{spec.layer}.chosen"])
            largest = max(largest, deviation)
            if deviation > tolerance and not np.isfinite(arrays[f"{spec.layer}.logits"]).all():
                raise ModelError(
                    f"in vLLM the router logits of layer {spec.layer} are not finite; expected numbers: the weights "
                    f"hold NaN, or {served.dtype} overflows: serve with --dtype float32, or fetch the checkpoint again"
                )
            if deviation > tolerance:
                raise ModelError(
                    f"in vLLM the router of layer {spec.layer} chooses otherwise than the reference router for "
                    f"{served.family.model_type} (by {deviation:.2g}; expected at most {tolerance:g}); this version of "
                    "vLLM is not supported for this family: capture with --backend huggingface"
                )
    return RouterCheck(n_tokens, largest, len(served.routers))


def _deviation(arrays: dict[str, npt.NDArray[Any]], spec: RouterSpec) -> float:
    """Largest difference of a chosen expert's score from the best ones possible."""
    logits, ids, bias = (arrays.get(f"{spec.layer}.{name}") for name in ("logits", "chosen", "bias"))
    if logits is None or ids is None or logits.shape[1:] != (spec.n_experts,) or ids.shape[1:] != (spec.top_k,):
        shapes = [None if part is None else part.shape for part in (logits, ids)]
        raise ModelError(
            f"vLLM shows logits and expert ids of shape {shapes} for layer {spec.layer}; expected {spec.n_experts} "
            f"experts, {spec.top_k} of them chosen per token: capture with --backend huggingface"
        )
    if (bias is not None) != spec.selection_bias:
        has = "adds" if bias is not None else "does not add"
        raise ModelError(
            f"in vLLM the router of layer {spec.layer} {has} a selection bias; transformers does otherwise, so "
            "they choose differently: capture with --backend huggingface"
        )
    return selection_deviation(choice_scores(logits, spec, bias), ids)
