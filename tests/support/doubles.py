"""Computes in float64 throughout, so that a gradient can be compared with a finite difference."""

from __future__ import annotations

from contextlib import contextmanager, suppress

import torch
from models import tiny
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from isogloss.backends.huggingface import offsets, watch


def in_float64(family):
    """A tiny model whose weights are float64."""
    loaded = tiny(family)
    loaded.model.double()
    with suppress(ValueError):  # families with one implementation
        loaded.model.set_experts_implementation("eager")  # the grouped products do not take float64
    return loaded


class InDouble(TorchFunctionMode):
    """Turns every cast to float32 inside a family's code into one to float64."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        func = torch.Tensor.double if func is torch.Tensor.float else func
        args = [torch.float64 if each is torch.float32 else each for each in args]
        kwargs = {key: torch.float64 if each is torch.float32 else each for key, each in (kwargs or {}).items()}
        return func(*args, **kwargs)

    def __call__(self, plain):
        """Run a function in this mode."""

        def run(*args, **kwargs):
            with InDouble():
                return plain(*args, **kwargs)

        return run


@contextmanager
def in_double(monkeypatch):
    """Compute in float64 throughout."""
    monkeypatch.setattr(watch, "_require_no_function_mode", lambda: None)

    def recomputed(plain, *args, **kwargs):
        """Enter the mode in the backward pass too, where torch has left it."""
        return checkpoint(InDouble()(plain), *args, **kwargs)

    monkeypatch.setattr(offsets, "checkpoint", recomputed)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with InDouble():
            yield
    finally:
        torch.set_default_dtype(before)


def central_difference(compute, parameters, directions, *, step=1e-6):
    """The slope of a number along directions of parameters, which afterwards are as before up to rounding.

    Args:
        compute: returns the number, of what the parameters are then.
        parameters: tensors, moved in place.
        directions: one for each.
        step: by which they are moved to either side.
    """

    def moved(by):
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.add_(direction, alpha=by)

    moved(step)
    ahead = compute().item()
    moved(-2 * step)
    behind = compute().item()
    moved(step)
    return (ahead - behind) / (2 * step)
