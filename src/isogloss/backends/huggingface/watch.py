"""Listens to routers: what each read and computed, told once per forward, and how often each ran."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from isogloss.backends.huggingface.devices import refuse_unfetched
from isogloss.backends.huggingface.discovery import Router
from isogloss.backends.huggingface.loading import LoadedModel
from isogloss.backends.huggingface.router_outputs import READERS, RouterOutput
from isogloss.errors import ModelError

__all__ = ["OnInput", "OnRouter", "bypassed", "hidden_size", "require_one_call_each", "watch_inputs", "watch_routers"]

OnRouter = Callable[[int, RouterOutput], None]
OnInput = Callable[[int, torch.Tensor], None]


@contextmanager
def watch_routers(loaded: LoadedModel, on_router: OnRouter) -> Iterator[list[int]]:
    """Call ``on_router(index, output)`` whenever a router has run.

    Args:
        loaded: the model.
        on_router: gets the router's index among the routed layers and what the router itself computed.

    Yields:
        How often each router has run so far.

    Raises:
        ModelError: a part of the model is in training mode, or computes with a weight that is offloaded.
    """
    _require_evaluation_mode(loaded)
    calls = [0] * len(loaded.routers)

    def told(index: int, output: RouterOutput) -> None:
        calls[index] += 1
        on_router(index, output)

    handles = [handle for index, router in enumerate(loaded.routers) for handle in _listen(router, index, told)]
    try:
        with refuse_unfetched(loaded.model):
            yield calls
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def watch_inputs(loaded: LoadedModel, on_input: OnInput) -> Iterator[None]:
    """Call ``on_input(index, hidden)`` whenever a router is about to run.

    The hidden states are those that its block hands to the router module: the first argument of its forward, whether
    by position or by name. In nearly all families the router's matrix multiplies these very numbers; Gemma 4 norms
    and scales them first, and ZAYA passes them through a small network, both inside the module.

    Args:
        loaded: the model.
        on_input: gets the router's index among the routed layers and ``[n_tokens, hidden_size]``, padding included.

    Raises:
        ModelError: inside the context, a router whose first argument is not of that shape.
    """
    size = hidden_size(loaded)
    handles = [_listen_before(router, index, size, on_input) for index, router in enumerate(loaded.routers)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def hidden_size(loaded: LoadedModel) -> int:
    """Width of the decoder stack's hidden states."""
    size: int = loaded.model.config.get_text_config().hidden_size
    return size


def _listen_before(router: Router, index: int, size: int, on_input: OnInput) -> torch.utils.hooks.RemovableHandle:
    name = next(iter(inspect.signature(router.module.forward).parameters), "hidden_states")

    def hook(_module: torch.nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        hidden = inputs[0] if inputs else named.get(name)
        if not isinstance(hidden, torch.Tensor) or not hidden.is_floating_point() or hidden.shape[-1] != size:
            found = list(hidden.shape) if isinstance(hidden, torch.Tensor) else type(hidden).__name__
            raise ModelError(
                f"the router of layer {router.spec.layer} reads {found} as {name}; expected hidden states of width "
                f"{size}, so what it reads cannot be told: capture without hidden states"
            )
        on_input(index, hidden.reshape(-1, size))

    return router.module.register_forward_pre_hook(hook, with_kwargs=True)


def _require_evaluation_mode(loaded: LoadedModel) -> None:
    """Dropout and jitter draw at random: what is seen in training mode is no property of the model."""
    name = next((name for name, module in loaded.model.named_modules() if module.training), None)
    if name is not None:
        raise ModelError(
            f"{name or 'the model'} is in training mode, in which jitter and dropout change routing at random; "
            "expected evaluation mode: call model.eval()"
        )


def _listen(router: Router, index: int, told: OnRouter) -> list[torch.utils.hooks.RemovableHandle]:
    if router.family.returns == "logits":
        return _listen_at_experts(router, index, told)
    read, top_k = READERS[router.family.returns], router.spec.top_k

    def hook(_module: torch.nn.Module, _inputs: Any, output: Any) -> None:  # noqa: ANN401 - torch's signature
        told(index, read(output, top_k))

    return [router.module.register_forward_hook(hook)]


def _listen_at_experts(router: Router, index: int, told: OnRouter) -> list[torch.utils.hooks.RemovableHandle]:
    """Take the logits from the router and the choice from what its block then hands to the experts."""
    waiting: list[torch.Tensor] = []

    def keep(_module: torch.nn.Module, _inputs: Any, logits: torch.Tensor) -> None:  # noqa: ANN401 - torch's signature
        waiting[:] = [logits]

    def chosen(_module: torch.nn.Module, inputs: Any) -> None:  # noqa: ANN401 - as above
        _, expert_ids, weights = inputs
        told(index, RouterOutput(waiting.pop(), weights, expert_ids))

    experts: Any = router.block.experts
    return [router.module.register_forward_hook(keep), experts.register_forward_pre_hook(chosen)]


def require_one_call_each(loaded: LoadedModel, calls: Sequence[int], *, n_forwards: int) -> None:
    """Refuse a model whose routers were not all called once in every forward.

    Raises:
        ModelError: names the first such layer.
    """
    for router, n in zip(loaded.routers, calls, strict=True):
        if n != n_forwards:
            raise bypassed(router, n, n_forwards=n_forwards)


def bypassed(router: Router, n: int, *, n_forwards: int) -> ModelError:
    """Say that a router ran ``n`` times in ``n_forwards`` forwards, and the way out."""
    return ModelError(
        f"the router of layer {router.spec.layer} ran {n} times in {n_forwards} forwards; "
        "another implementation bypasses the module, so nothing can be captured or steered there: load the "
        "model without fused or quantised expert kernels (--dequantize for MXFP4 checkpoints)"
    )
