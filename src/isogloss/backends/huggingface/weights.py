"""A hash of all weights of a loaded model, by values sampled at fixed places of every tensor."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from types import MappingProxyType
from typing import Any

import torch

from isogloss.backends.huggingface.devices import fetched
from isogloss.backends.stored_tensors import part_of

__all__ = ["bytes_by_dtype", "hash_weights", "is_wrapped"]

_SAMPLED = 4096  # values of a tensor, evenly spread: of one that holds 512 experts, 8 of each or more
_BITS = MappingProxyType({1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64})  # by bytes of a value
_COMPILED = "_orig_mod."  # what torch.compile puts before the names of a module


def hash_weights(model: torch.nn.Module) -> str | None:
    """Hash name, dtype, shape and sampled values of every parameter and persistent buffer of a model.

    A tensor of up to 4,096 values counts whole, a larger one by 1,365 to 4,096 values at equal distances. So every
    tensor is seen, and every expert's matrix in it, that was scaled, negated, trained, merged with an adapter,
    quantised otherwise or replaced; and every contiguous change of a thousandth of a tensor. A change of a share p of
    its values, here and there, is missed with probability (1 - p)^1365 at most. Adapters count, and so do dtype and
    quantisation; what kernels keep outside of parameters and buffers, as those of MXFP4 do, is not seen. What is
    offloaded is fetched once, as in every forward pass.

    Returns:
        64 hexadecimal digits, the same on all devices; None where a tensor holds no data.
    """
    digest = hashlib.sha256()
    for path, module in model.named_modules():
        with fetched(module):
            for name, tensor in _own_tensors(module):
                if tensor.is_meta:
                    return None
                full_name = f"{path}.{name}".replace(_COMPILED, "")
                digest.update(f"{full_name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
                digest.update(_sample(tensor))
    return digest.hexdigest()


def bytes_by_dtype(model: torch.nn.Module) -> dict[tuple[str, str], int]:
    """Count the bytes of all that a model saves by part (`part_of`) and dtype; tied weights count once."""
    sizes: defaultdict[tuple[str, str], int] = defaultdict(int)
    seen: set[int] = set()
    for path, module in model.named_modules():
        for name, tensor in _own_tensors(module):
            if tensor.is_meta or tensor.data_ptr() not in seen:
                seen.add(tensor.data_ptr())
                dtype = str(tensor.dtype).removeprefix("torch.")
                sizes[part_of(f"{path}.{name}"), dtype] += tensor.numel() * tensor.element_size()
    return dict(sizes)


def is_wrapped(tensor: torch.Tensor) -> bool:
    """Whether a tensor holds its values in other tensors, as those of torchao and quanto do."""
    return type(tensor) not in (torch.Tensor, torch.nn.Parameter) and hasattr(tensor, "__tensor_flatten__")


def _own_tensors(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield what the module itself saves, which includes the scales of quantised weights, in parts that are stored."""
    saved: dict[str, Any] = {}
    module._save_to_state_dict(saved, "", keep_vars=False)  # noqa: SLF001 - `state_dict` would take the modules below
    for name, value in saved.items():
        if isinstance(value, torch.Tensor):
            yield from _parts(name, value)


def _parts(name: str, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors inside one that wraps them."""
    if not is_wrapped(tensor):
        yield name, tensor
        return
    wrapped: Any = tensor
    for inner in wrapped.__tensor_flatten__()[0]:
        yield from _parts(f"{name}.{inner}", getattr(tensor, inner))


def _sample(tensor: torch.Tensor) -> bytes:
    n_values = tensor.numel()
    step = -(-n_values // _SAMPLED) | 1  # odd, so that it does not fall into one column of a matrix
    places = torch.arange(0, n_values, step, device=tensor.device)
    bits = tensor.detach().view(_BITS[tensor.element_size()])  # torch gathers no 8-bit floats
    return bits.take(places).cpu().numpy().tobytes()
