"""Adds what is being learned to routers: with its gradient, offsets or changes of weights; without, what they rank.

They are added exactly where `steer` adds those of a plan or an adapter. The weights are frozen inside the context. What
a plan or an adapter with the same numbers computes is computed bit by bit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar

import array_api_compat.torch
import torch
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from isogloss.backends.huggingface.discovery import Router
from isogloss.backends.huggingface.loading import LoadedModel
from isogloss.backends.huggingface.low_rank_router import add_low_rank
from isogloss.backends.huggingface.methods import method_replaced
from isogloss.backends.huggingface.steer import steered_by
from isogloss.backends.huggingface.steered_router import SteeredRouter, where_selected
from isogloss.routing import RouterSpec
from isogloss.steering import LayerEdit, apply_edit, apply_select

__all__ = ["Offsets", "RouterChange", "Selections", "WeightChanges", "offsets_applied"]


class RouterChange:
    """A change of routers, for as long as the context of `offsets_applied` is open.

    Attributes:
        by_layer: decoder layer to what is added there.
        selects: whether it is added to what routers rank, and not to their logits.
    """

    selects: ClassVar[bool] = False

    def __init__(self, by_layer: Mapping[int, Any]) -> None:
        self.by_layer = dict(by_layer)
        self.is_on = True

    def logits(self, spec: RouterSpec, hidden: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Return the changed logits of a layer's router.

        Args:
            spec: of the router.
            hidden: ``[..., width]``, what its weight is multiplied with.
            logits: ``[..., n_experts]``, their product.
        """
        raise NotImplementedError

    @contextmanager
    def left_out(self) -> Iterator[None]:
        """Run the unsteered model inside, without gradient."""
        self.is_on = False
        try:
            with torch.no_grad():
                yield
        finally:
            self.is_on = True


class Offsets(RouterChange):
    """Offsets on router logits.

    Attributes:
        by_layer: decoder layer to ``[n_experts]``.
    """

    by_layer: dict[int, torch.Tensor]

    def logits(self, spec: RouterSpec, hidden: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:  # noqa: ARG002 - of weights
        """Add the offsets."""
        edit = LayerEdit(spec.n_experts, offset=self.by_layer[spec.layer].to(logits.device))
        edited: torch.Tensor = apply_edit(logits, edit, xp=array_api_compat.torch)
        return edited


class Selections(RouterChange):
    """Constants that are added to what routers rank; no weight, and so no loss, has a gradient by them.

    Attributes:
        by_layer: decoder layer to ``[n_experts]``.
    """

    by_layer: dict[int, torch.Tensor]
    selects = True

    def ranked(self, spec: RouterSpec, scores: torch.Tensor) -> torch.Tensor:
        """Add the constants to scores or to the selection bias, ``[..., n_experts]``."""
        edit = LayerEdit(spec.n_experts, select=self.by_layer[spec.layer].to(scores.device))
        edited: torch.Tensor = apply_select(scores, edit, xp=array_api_compat.torch)
        return edited


class WeightChanges(RouterChange):
    """Changes of router weights, each the product of two matrices.

    Attributes:
        by_layer: decoder layer to ``[n_experts, rank]`` and ``[rank, width]``, float32.
    """

    by_layer: dict[int, tuple[torch.Tensor, torch.Tensor]]

    def logits(self, spec: RouterSpec, hidden: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Add the product of the matrices and what the router reads, in float32."""
        b, a = (matrix.to(logits.device) for matrix in self.by_layer[spec.layer])
        return add_low_rank(hidden, logits, b, a)


class _ChangedRouter(SteeredRouter):
    """One router that is changed."""

    def __init__(self, router: Router, change: RouterChange) -> None:
        super().__init__(router)
        self.change = change
        if change.selects:
            self.selects_at = where_selected(router.spec)

    def edit_logits(self, hidden: torch.Tensor, logits: torch.Tensor) -> torch.Tensor | None:
        """Change the logits, in every phase."""
        is_changed = self.change.is_on and not self.change.selects
        return self.change.logits(self.router.spec, hidden, logits) if is_changed else None

    def edit_scores(self, scores: torch.Tensor) -> torch.Tensor | None:
        """Change what is ranked, in every phase."""
        change = self.change
        return change.ranked(self.router.spec, scores) if isinstance(change, Selections) and change.is_on else None

    def edit_choice(self, scores: torch.Tensor) -> torch.Tensor | None:
        """Change what is ranked where that is not done before."""
        return self.edit_scores(scores) if self.selects_at in ("choice", "maxima") else None


class _StraightThroughRouter(_ChangedRouter):
    """One router whose weights are what they are, but have the gradient of a softmax over all experts."""

    def forward(self, plain: Callable[..., Any], run_ended: Callable[[int], None]) -> Callable[..., Any]:
        """Wrap the router's forward; its values do not change."""
        steered = super().forward(plain, run_ended)

        @functools.wraps(plain)
        def forward(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - the family's signature
            reported, weights, expert_ids, *rest = steered(*args, **kwargs)
            if not self.change.is_on:
                return reported, weights, expert_ids, *rest
            is_softmax = self.router.family.returns == "probabilities"
            shares = (reported.float() if is_softmax else reported.float().softmax(-1)).gather(-1, expert_ids)
            estimate = shares * (weights.float() / shares).detach()
            # The difference is 0 exactly: only the gradient goes on.
            weights = weights.detach() + (estimate - estimate.detach()).to(weights.dtype)
            return reported, weights, expert_ids, *rest

        return forward


@contextmanager
def offsets_applied(
    loaded: LoadedModel, change: RouterChange, *, straight_through: bool = False, checkpointing: bool = False
) -> Iterator[None]:
    """Change the routers in every forward inside the context; afterwards the model is as before.

    Gradients reach the change alone. Backward passes must run inside the context, since layers that are computed
    again there need the change too.

    Args:
        loaded: the model, unsteered.
        change: offsets, or changes of weights; float32.
        straight_through: let the weights of chosen experts have the gradient of a softmax over all experts, instead of
            their own; for routers that return the chosen weights (``triple`` and ``probabilities``).
        checkpointing: keep only what enters each decoder layer, and compute the layer again in the backward pass.

    Raises:
        PlanError: a plan or another change is active.
        ModelError: as of `steer`.
    """
    kind = _StraightThroughRouter if straight_through else _ChangedRouter
    routers = [kind(router, change) for router in loaded.router_modules if router.spec.layer in change.by_layer]
    with ExitStack() as context:
        context.enter_context(loaded.own_threads())
        context.enter_context(torch.enable_grad())
        context.enter_context(_frozen(loaded.model))
        context.enter_context(steered_by(loaded, routers))
        if checkpointing:
            for layer in loaded.decoder.modules():
                if isinstance(layer, GradientCheckpointingLayer):
                    context.enter_context(method_replaced(layer, "forward", _recomputed))
        yield


def _recomputed(plain: Callable[..., Any]) -> Callable[..., Any]:
    """Let a layer be computed again in the backward pass; the library's own switch asks for training mode."""
    return functools.wraps(plain)(functools.partial(checkpoint, plain, use_reentrant=False, preserve_rng_state=False))


@contextmanager
def _frozen(model: torch.nn.Module) -> Iterator[None]:
    """Compute no gradient of any weight inside."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in trained:
            parameter.requires_grad = False
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad = True
