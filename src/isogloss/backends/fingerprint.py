"""The fingerprint of a model's routers, the same whatever runs them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch

from isogloss.arrays import FloatArray
from isogloss.routing import Fingerprint

__all__ = ["RouterBytes", "router_bytes", "router_fingerprint"]


class RouterBytes(NamedTuple):
    """What one router gives to the fingerprint: its values rounded to two dtypes."""

    bfloat16: bytes
    float16: bytes


def router_bytes(*tensors: torch.Tensor | FloatArray | None) -> RouterBytes:
    """Return what a router's weight, then its linear bias, then its selection bias give, where it has them.

    Rounded, so that one checkpoint has one fingerprint in every dtype. A plan may have been baked into a bias: then it
    is another model, to which the plan is not added a second time.
    """
    present = [torch.as_tensor(tensor).detach() for tensor in tensors if tensor is not None]
    return RouterBytes(*(b"".join(_bytes(tensor, dtype) for tensor in present) for dtype in _DTYPES))


_DTYPES = (torch.bfloat16, torch.float16)


def _bytes(tensor: torch.Tensor, dtype: torch.dtype) -> bytes:
    return tensor.to(dtype).view(torch.int16).cpu().numpy().tobytes()


def router_fingerprint(
    model_type: str, layers: Sequence[int], *, n_experts: int, top_k: int, contents: Iterable[RouterBytes]
) -> Fingerprint:
    """Make the fingerprint of routers.

    Of a checkpoint that is stored in 16 bits it agrees however it is loaded. One stored in float32 agrees in float32
    with itself in bfloat16 and in float16, but not in one of these with the other, which round it differently.

    Args:
        model_type: of the text configuration.
        layers: routed ones, ascending.
        n_experts: of each.
        top_k: of each.
        contents: `router_bytes` of each layer, in order.
    """
    digests = [hashlib.sha256() for _ in _DTYPES]
    for content in contents:
        for digest, part in zip(digests, content, strict=True):
            digest.update(part)
    return Fingerprint(model_type, tuple(layers), n_experts, top_k, *(digest.hexdigest() for digest in digests))
