"""Finds the routers of a model that SGLang has loaded, and takes the fingerprint that a plan must agree with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from isogloss.backends.fingerprint import router_bytes, router_fingerprint
from isogloss.errors import ModelError
from isogloss.routing import Fingerprint

__all__ = ["Foreign", "SGLangRouter", "find_sglang_routers", "fingerprint_of_sglang"]

Foreign: TypeAlias = Any
"""An object of SGLang, which is not installed where this is checked."""


@dataclass(frozen=True)
class SGLangRouter:
    """One router of an SGLang model.

    Attributes:
        layer: 0-based position in the decoder stack, as SGLang counts it.
        topk: SGLang's module that chooses.
        block: the module that holds it.
        weight: ``[n_experts, hidden]``, gives the logits.
        top_k: routed experts per token, without slots of fused shared experts.
        linear_bias: ``[n_experts]`` of the same linear layer; None where it has none.
    """

    layer: int
    topk: Foreign
    block: torch.nn.Module
    weight: torch.Tensor
    top_k: int
    linear_bias: torch.Tensor | None = None


def find_sglang_routers(
    model: torch.nn.Module, topk_class: type, expected: Fingerprint, config: Foreign
) -> list[SGLangRouter]:
    """Return the routers by layer.

    Args:
        model: loaded.
        topk_class: SGLang's ``TopK``; layers that route by a hash of the token have another class and are left out.
        expected: of the plan; its number of experts and the hidden size tell a router's weight from others.
        config: of the text model.

    Raises:
        ModelError: the model has no such layer, two TopK in one, or not one weight of that shape beside it.
    """
    routers: dict[int, SGLangRouter] = {}
    for name, block in model.named_modules():
        for child in block.children():
            if not isinstance(child, topk_class) or getattr(child, "is_draft", False):
                continue
            topk: Foreign = child
            layer = int(topk.layer_id)
            if layer in routers:
                raise ModelError(f"layer {layer} of the model chooses experts twice ({name}); a plan edits one router")
            key = _router_weight(block, name, (expected.n_experts, config.hidden_size))
            parameters = dict(block.named_parameters())
            weight, bias = parameters[key], parameters.get(f"{key.rpartition('.')[0]}.bias")
            top_k = topk.topk_config.top_k - topk.topk_config.num_shared_topk_slots
            routers[layer] = SGLangRouter(layer, topk, block, weight, top_k, bias)
    if not routers:
        raise ModelError("the model has no layer with SGLang's TopK; nothing can be steered there: use another engine")
    if missing := sorted(set(expected.layers) - set(routers)):
        raise ModelError(
            f"layers {missing} of the plan have no SGLang TopK in this process; expected all of the plan's layers: "
            "serve the plan's model, without pipeline parallelism"
        )
    return [routers[layer] for layer in sorted(routers)]


def fingerprint_of_sglang(routers: Sequence[SGLangRouter], config: Foreign) -> Fingerprint:
    """Return what a plan must agree with, the same as that of the checkpoint loaded by transformers."""
    first = routers[0]
    return router_fingerprint(
        config.model_type,
        [router.layer for router in routers],
        n_experts=first.weight.shape[0],
        top_k=first.top_k,
        contents=(
            router_bytes(router.weight, router.linear_bias, router.topk.topk_config.correction_bias)
            for router in routers
        ),
    )


def _router_weight(block: torch.nn.Module, name: str, shape: tuple[int, int]) -> str:
    """Name the one parameter of that shape in a block, apart from its experts'."""
    named = {key: weight for key, weight in block.named_parameters() if weight.ndim == 2 and "expert" not in key}  # noqa: PLR2004 - a matrix
    matching = [key for key, weight in named.items() if tuple(weight.shape) == shape]
    if len(matching) != 1:
        shapes = {key: tuple(weight.shape) for key, weight in named.items()}
        raise ModelError(
            f"{name} has {len(matching)} matrices of shape {shape}; expected one, the router's (found {shapes}): serve "
            "the plan's model with an unquantised router, or use another engine"
        )
    return matching[0]
