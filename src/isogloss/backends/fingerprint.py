"""The fingerprint of a model's routers, the same whatever runs them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import torch

from isogloss.routing import Fingerprint

__all__ = ["router_bytes", "router_fingerprint"]


def router_bytes(*tensors: torch.Tensor | None) -> bytes:
    """Return what a router's weight, and its linear bias where it has one, give to the fingerprint.

    In bfloat16, so that one checkpoint has one fingerprint in every dtype. A plan may have been baked into the bias.
    """
    present = (tensor.detach() for tensor in tensors if tensor is not None)
    return b"".join(tensor.to(torch.bfloat16).view(torch.int16).cpu().numpy().tobytes() for tensor in present)


def router_fingerprint(
    model_type: str, layers: Sequence[int], *, n_experts: int, top_k: int, contents: Iterable[bytes]
) -> Fingerprint:
    """Make the fingerprint of routers.

    Args:
        model_type: of the text configuration.
        layers: routed ones, ascending.
        n_experts: of each.
        top_k: of each.
        contents: `router_bytes` of each layer, in order.
    """
    digest = hashlib.sha256()
    for content in contents:
        digest.update(content)
    return Fingerprint(model_type, tuple(layers), n_experts, top_k, digest.hexdigest())
