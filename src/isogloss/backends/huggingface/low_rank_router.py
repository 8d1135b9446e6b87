"""One router under an adapter: what is added to its weight is added to its logits, in float32."""

from __future__ import annotations

import torch

from isogloss.backends.huggingface.discovery import Router
from isogloss.backends.huggingface.steered_router import SteeredRouter
from isogloss.errors import PlanError
from isogloss.steering import RouterAdapter

__all__ = ["LowRankRouter", "add_low_rank"]


class LowRankRouter(SteeredRouter):
    """One router under an adapter: its weight is ``W + scale · B A``, whatever its product is computed with."""

    def __init__(self, router: Router, adapter: RouterAdapter) -> None:
        super().__init__(router)
        self.of_layer, self.scale = adapter.router(router.spec.layer), adapter.scale
        self._by_device: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = {}
        if self.of_layer.a.shape[1] != router.weight_shape[1]:
            raise PlanError(
                f"the adapter's probes of layer {router.spec.layer} read {self.of_layer.a.shape[1]} numbers; the "
                f"router reads {router.weight_shape[1]}"
            )

    def edit_logits(self, hidden: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Add ``scale · B A`` times what the router reads, in float32, in every phase."""
        a, b = self._matrices_on(logits.device)
        return add_low_rank(hidden, logits, b, a)

    def bring(self) -> None:
        """Copy the matrices."""
        if (device := self.router.device) is not None:
            self._matrices_on(device)

    def _matrices_on(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        if device not in self._by_device:
            with torch.inference_mode(False):  # noqa: FBT003 - as torch compiles it
                a, b = (torch.tensor(each, device=device) for each in (self.of_layer.a, self.of_layer.b))
                self._by_device[device] = a, self.scale * b
        return self._by_device[device]


def add_low_rank(hidden: torch.Tensor, logits: torch.Tensor, b: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
    """Return ``logits + B A hidden`` in float32, with the gradient of all.

    Args:
        hidden: ``[..., width]``, what the router's weight is multiplied with.
        logits: ``[..., n_experts]``, their product.
        b: ``[n_experts, rank]``.
        a: ``[rank, width]``.
    """
    return logits.float() + (hidden.float() @ a.T) @ b.T
