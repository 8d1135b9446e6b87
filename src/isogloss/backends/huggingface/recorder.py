"""Records the router logits of a model's forwards with their gradient, whoever calls the model.

Hooks read every router where it runs; what a model reports by ``output_router_logits`` is not used, since many families
leave it out of their outputs, or out of their signature.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any
from weakref import WeakSet

import torch

from isogloss.backends.huggingface.discovery import find_routers
from isogloss.backends.huggingface.loading import fingerprint_of, unwrapped
from isogloss.backends.huggingface.router_outputs import logits_of
from isogloss.backends.huggingface.watch import bypassed
from isogloss.errors import ModelError

__all__ = ["RoutedForward", "RouterRecorder"]

_recorded: WeakSet[torch.nn.Module] = WeakSet()


@dataclass
class RoutedForward:
    """What one forward computed and was given.

    Attributes:
        given: what the caller handed over for the recorder, by name; the model's own forward did not see it.
        attention_mask: ``[n, length]``; None where the caller gave none.
        logits: index among the routed layers to ``[n * length, n_experts]``.
        calls: how often each router ran.
    """

    given: Mapping[str, torch.Tensor]
    attention_mask: torch.Tensor | None
    logits: dict[int, torch.Tensor] = field(default_factory=dict)
    calls: list[int] = field(default_factory=list)


class RouterRecorder:
    """Listens to the routers of one model for as long as it is not closed.

    A forward is recorded where gradients are computed, or where it is given one of the recorder's own arguments. What
    runs again in a backward pass, as gradient checkpointing lets it, is not recorded.

    Args:
        model: of transformers, perhaps inside a wrapper of PEFT or `torch.compile`.
        arguments: names that are taken out of the arguments of the model's forward.

    Attributes:
        model: the class of transformers itself.
        routers: one per routed layer, by layer.
        fingerprint: of the routers as they are now.

    Raises:
        ModelError: the family is unknown, a router is quantised, replaced or not what the family's row says, or another
            recorder listens to the model.
    """

    def __init__(self, model: Any, arguments: tuple[str, ...]) -> None:  # noqa: ANN401 - whatever a user hands over
        self.model = unwrapped(model)
        self.routers = find_routers(self.model)
        self.fingerprint = fingerprint_of(self.routers)
        if self.model in _recorded:
            raise ModelError(
                "another alignment listens to this model's routers, and would take this one's pairs: close() it first"
            )
        _recorded.add(self.model)
        self._arguments = arguments
        self._running: RoutedForward | None = None
        self._last: RoutedForward | None = None
        self._handles = [
            self.model.register_forward_pre_hook(self._begin, with_kwargs=True),
            *(
                router.module.register_forward_hook(partial(self._keep, index))
                for index, router in enumerate(self.routers)
            ),
            self.model.register_forward_hook(self._end),
        ]

    def close(self) -> None:
        """Remove the hooks; the model is as before."""
        for handle in self._handles:
            handle.remove()
        self._running = self._last = None
        _recorded.discard(self.model)

    def take(self) -> RoutedForward | None:
        """Return the last forward that was recorded, once; None where there is none.

        Raises:
            ModelError: a router did not run exactly once in it.
        """
        last, self._last = self._last, None
        if last is not None:
            for router, n in zip(self.routers, last.calls, strict=True):
                if n != 1:
                    raise bypassed(router, n, n_forwards=1)
        return last

    def _begin(
        self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if module is not self.model:
            raise ModelError(
                "the model runs as a copy of itself, as in torch.nn.DataParallel, which alignment does not reach; "
                "expected one process for each device: start with torchrun or accelerate launch"
            )
        given = {name: kwargs[name] for name in self._arguments if name in kwargs}
        self._running = self._last = None
        if given or torch.is_grad_enabled():
            self._running = RoutedForward(
                MappingProxyType(given), _attention_mask(args, kwargs), calls=[0] * len(self.routers)
            )
        return args, {name: value for name, value in kwargs.items() if name not in given}

    def _keep(self, index: int, _module: torch.nn.Module, _args: Any, output: Any) -> None:  # noqa: ANN401 - torch's
        # Outside of the condition, since a layer that runs again in a backward pass must compute what it did at first.
        logits = logits_of(output, self.routers[index].family.returns)
        if self._running is not None:
            self._running.logits[index] = logits
            self._running.calls[index] += 1

    def _end(self, _module: torch.nn.Module, _args: Any, _output: Any) -> None:  # noqa: ANN401 - torch's signature
        self._running, self._last = None, self._running


def _attention_mask(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> torch.Tensor | None:
    """Return the second argument of every causal language model's forward, by name or by position."""
    mask: torch.Tensor | None = args[1] if len(args) > 1 else kwargs.get("attention_mask")
    return mask
