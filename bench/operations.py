"""Counts the operations that torch runs, views included, which on a GPU are about what a forward of one token costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from isogloss.backends.huggingface import HuggingFaceModel, steer
from isogloss.steering import KINDS, Intervention, Kind, Plan

__all__ = ["added_operations", "operations"]

_FIELDS: dict[Kind, dict[str, Any]] = {
    "soft": {"strength": 0.5},
    "adaptive": {"strength": 0.1, "values": (0.3, 0.7)},
    "offset": {"values": (1.0, -1.0)},
    "select": {"values": (0.1, -0.1)},
}


class _Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - as above
        self.seen[str(func)] += 1
        return func(*args, **(kwargs or {}))


def operations(function: Callable[[], object]) -> Counter[str]:
    """Count what torch dispatches while a function runs, by the name of the operation."""
    with _Counting() as counting:
        function()
    return counting.seen


@torch.no_grad()
def added_operations(loaded: HuggingFaceModel, layers: Sequence[int]) -> Iterator[tuple[Kind, float]]:
    """Yield every kind, and how many operations it adds to each of some layers in a forward of one token."""
    ids = torch.tensor([[5]])

    def forward() -> None:
        loaded.model(input_ids=ids, use_cache=False)

    plain = operations(forward).total()
    for kind in KINDS:
        edits = (Intervention(kind, layer, (1, 5), **_FIELDS.get(kind, {})) for layer in layers)
        with steer(loaded, Plan(loaded.fingerprint, tuple(edits))):
            forward()  # moves the edit to the device
            yield kind, (operations(forward).total() - plain) / len(layers)
