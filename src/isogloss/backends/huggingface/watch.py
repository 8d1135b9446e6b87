"""Hooks on routers: what each reads and computes in a forward, and how often each runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext

from isogloss.backends.huggingface.devices import refuse_unfetched
from isogloss.backends.huggingface.discovery import Router
from isogloss.backends.huggingface.loading import LoadedModel
from isogloss.backends.huggingface.router_outputs import READERS, RouterOutput
from isogloss.errors import ModelError

__all__ = ["OnInput", "OnRouter", "attached", "bypassed", "require_one_call_each", "watch_inputs", "watch_routers"]

OnRouter = Callable[[int, RouterOutput], None]
OnInput = Callable[[int, torch.Tensor], None]


@contextmanager
def attached(handles: Iterable[torch.utils.hooks.RemovableHandle]) -> Iterator[None]:
    """Remove hooks when the context is left."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def watch_routers(loaded: LoadedModel, on_router: OnRouter) -> Iterator[list[int]]:
    """Call ``on_router`` with the index among the routed layers, and what the router computed, whenever one has run.

    Yields:
        How often each router has run so far.

    Raises:
        ModelError: a part of the model is in training mode, or computes with a weight that is offloaded; or a torch
            function mode is active, which may change what is seen.
    """
    loaded.require_evaluation_mode()
    _require_no_function_mode()
    calls = [0] * len(loaded.router_modules)

    def count(index: int, output: RouterOutput) -> None:
        calls[index] += 1
        on_router(index, output)

    handles = [handle for index, router in enumerate(loaded.router_modules) for handle in _listen(router, index, count)]
    with attached(handles), refuse_unfetched(loaded.model):
        yield calls


@contextmanager
def watch_inputs(loaded: LoadedModel, on_input: OnInput) -> Iterator[None]:
    """Call ``on_input`` with the index among the routed layers, and the hidden states, whenever a router is to run.

    The hidden states, ``[n_tokens, hidden_size]`` with padding, are those that its block hands to the router module:
    the first argument of its forward, whether by position or by name. In nearly all families the router's matrix
    multiplies these very numbers; Gemma 4 norms and scales them first, and ZAYA passes them through a small network,
    both inside the module.

    Raises:
        ModelError: inside the context, a router whose first argument is not of that shape.
    """
    size = loaded.hidden_size
    handles = [_listen_before(router, index, size, on_input) for index, router in enumerate(loaded.router_modules)]
    with attached(handles):
        yield


def _listen_before(router: Router, index: int, size: int, on_input: OnInput) -> torch.utils.hooks.RemovableHandle:
    name = next(iter(inspect.signature(router.module.forward).parameters), "hidden_states")

    def hook(_module: torch.nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        hidden = inputs[0] if inputs else named.get(name)
        if not isinstance(hidden, torch.Tensor) or not hidden.is_floating_point() or hidden.shape[-1] != size:
            read = list(hidden.shape) if isinstance(hidden, torch.Tensor) else type(hidden).__name__
            raise ModelError(
                f"the router of layer {router.spec.layer} reads {read} as {name}; expected hidden states of width "
                f"{size}, so its input is not known: capture without hidden states"
            )
        on_input(index, hidden.reshape(-1, size))

    return router.module.register_forward_pre_hook(hook, with_kwargs=True)


def _require_no_function_mode() -> None:
    """Refuse modes that see every torch function and may replace its result; one that sets the device is none."""
    modes = [mode for mode in _get_current_function_mode_stack() if not isinstance(mode, DeviceContext)]
    if modes:
        raise ModelError(
            f"a torch function mode is active ({type(modes[-1]).__name__}), which can change what the model computes; "
            "leave its context first"
        )


def _listen(router: Router, index: int, on_router: OnRouter) -> list[torch.utils.hooks.RemovableHandle]:
    if router.family.returns == "logits":
        return _listen_at_experts(router, index, on_router)
    read, top_k = READERS[router.family.returns], router.spec.top_k

    def hook(_module: torch.nn.Module, _inputs: Any, output: Any) -> None:  # noqa: ANN401 - torch's signature
        on_router(index, read(output, top_k))

    return [router.module.register_forward_hook(hook)]


def _listen_at_experts(router: Router, index: int, on_router: OnRouter) -> list[torch.utils.hooks.RemovableHandle]:
    """Take the logits from the router, and the chosen experts from what its block then hands to the experts."""
    waiting: list[torch.Tensor] = []

    def keep(_module: torch.nn.Module, _inputs: Any, logits: torch.Tensor) -> None:  # noqa: ANN401 - torch's signature
        waiting[:] = [logits]

    def chosen(_module: torch.nn.Module, inputs: Any) -> None:  # noqa: ANN401 - as above
        _, expert_ids, weights = inputs
        on_router(index, RouterOutput(waiting.pop(), weights, expert_ids))

    experts: Any = router.block.experts
    return [router.module.register_forward_hook(keep), experts.register_forward_pre_hook(chosen)]


def require_one_call_each(loaded: LoadedModel, calls: Sequence[int], *, n_forwards: int) -> None:
    """Raise a ModelError where a router was not called once in every forward."""
    for router, n in zip(loaded.router_modules, calls, strict=True):
        if n != n_forwards:
            raise bypassed(router, n, n_forwards=n_forwards)


def bypassed(router: Router, n: int, *, n_forwards: int) -> ModelError:
    """Return the error that a router ran ``n`` times in ``n_forwards`` forwards."""
    return ModelError(
        f"the router of layer {router.spec.layer} ran {n} times in {n_forwards} forwards; "
        "another implementation bypasses the module, so nothing can be captured or steered there: load the "
        "model without fused or quantised expert kernels (--dequantize for MXFP4 checkpoints)"
    )
