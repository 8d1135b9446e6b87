"""Proves on one text that a model's routers can be trusted, before anything is captured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from isogloss.backends.agreement import TOLERANCE, relative_difference, selection_deviation
from isogloss.backends.huggingface.discovery import Router
from isogloss.backends.huggingface.loading import LoadedModel, computing
from isogloss.backends.huggingface.router_outputs import RouterOutput
from isogloss.backends.huggingface.watch import attached, require_one_call_each, watch_routers
from isogloss.backends.model import RouterCheck
from isogloss.errors import ModelError
from isogloss.routing import choice_scores, combine_weights

__all__ = ["prove_routers"]

_PROBE_TOKENS = 64
# SparseMixer leaves out logits beyond a distance that the library computes in the model's dtype: three roundings.
_EDGE = {"bfloat16": 2.0**-7, "float16": 2.0**-9}


@computing
def prove_routers(loaded: LoadedModel, text: str) -> RouterCheck:
    """Show on one text that every router runs once, chooses as its family's row says, and that experts get its ids.

    Three things must agree in every layer of the unsteered model: the expert ids and weights that the router reports,
    the reference router on the reported logits, and, where the experts receive expert ids, these.

    Raises:
        ModelError: a router was not called, or two of the three differ; nothing captured could be trusted.
    """
    ids = torch.tensor([loaded.tokenizer(text)["input_ids"][:_PROBE_TOKENS]], device=loaded.device)
    outputs: dict[int, RouterOutput] = {}
    with watch_routers(loaded, outputs.__setitem__) as calls, _watch_experts(loaded) as received:
        loaded.decoder(input_ids=ids, use_cache=False)
    require_one_call_each(loaded, calls, n_forwards=1)
    largest, tolerance = 0.0, TOLERANCE[loaded.dtype]
    for index, router in enumerate(loaded.router_modules):
        _require_shapes(router, outputs[index])
        deviation = _deviation(router, outputs[index], _EDGE.get(loaded.dtype, 0.0))
        largest = max(largest, deviation)
        if deviation > tolerance:
            _require_finite(router, outputs[index], loaded.dtype)
            raise ModelError(
                f"the router of layer {router.spec.layer} chooses otherwise than the reference router for "
                f"{loaded.family.model_type} (by {deviation:.2g}; expected at most {tolerance:g}); "
                "this version of transformers is not supported for this family: see `isogloss models`"
            )
        if index in received and not _same_experts(outputs[index], received[index]):
            raise ModelError(
                f"the experts of layer {router.spec.layer} receive other expert ids than the router reports; "
                "what is captured there would not be what the model computes"
            )
    return RouterCheck(ids.shape[1], largest, len(received))


def _require_finite(router: Router, output: RouterOutput, dtype: str) -> None:
    if not output.router_logits.isfinite().all():
        raise ModelError(
            f"the router logits of layer {router.spec.layer} are not finite; expected numbers: the weights hold NaN "
            f"or activations overflow in {dtype}: load the model with --dtype float32, or fetch the checkpoint again"
        )


def _require_shapes(router: Router, output: RouterOutput) -> None:
    logits, weights, expert_ids = (tuple(part.shape[1:]) for part in output)
    chosen = (router.spec.top_k,)
    if (logits, weights, expert_ids) != ((router.spec.n_experts,), chosen, chosen):
        raise ModelError(
            f"the router of layer {router.spec.layer} returned logits, weights and ids of {logits}, {weights} and "
            f"{expert_ids} columns; expected {router.spec.n_experts} experts and {chosen[0]} chosen: "
            "this version of transformers is not supported for this family, see `isogloss models`"
        )


def _deviation(router: Router, output: RouterOutput, edge: float) -> float:
    """Largest difference from the reference: of a chosen score from the best ones possible, or of a weight."""
    logits, weights, expert_ids = (part.cpu() for part in output)
    values, ids = logits.float().numpy(), expert_ids.numpy()
    scores = choice_scores(values, router.spec, router.selection_bias())
    deviation = selection_deviation(scores, ids)
    if deviation == np.inf:
        return deviation
    order = np.argsort(-np.take_along_axis(scores, ids, axis=1), axis=1, kind="stable")
    ids, own = (np.take_along_axis(part, order, axis=1) for part in (ids, weights.float().numpy()))
    bounds = [_expected_weights(router, values, ids, 1 + side * edge) for side in (1, -1)]
    return max(deviation, relative_difference(own, np.clip(own, *bounds)))


def _expected_weights(
    router: Router, logits: npt.NDArray[Any], ids: npt.NDArray[Any], reach: float
) -> npt.NDArray[np.floating[Any]]:
    """Compute weights with SparseMixer's distance times ``reach``: the larger it is, the smaller the weights."""
    spec = replace(router.spec, jitter=router.spec.jitter * reach)
    return combine_weights(logits, ids, spec, router.expert_scale())


@contextmanager
def _watch_experts(loaded: LoadedModel) -> Iterator[dict[int, torch.Tensor]]:
    """Collect the expert ids that the experts of each layer receive, where they receive any."""
    received: dict[int, torch.Tensor] = {}

    def listen(index: int, top_k: int) -> Callable[..., None]:
        def hook(_module: torch.nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            for value in (*inputs, *named.values()):
                if isinstance(value, torch.Tensor) and value.dtype == torch.int64 and value.shape[-1] == top_k:
                    received[index] = value

        return hook

    handles = [
        experts.register_forward_pre_hook(listen(index, router.spec.top_k), with_kwargs=True)
        for index, router in enumerate(loaded.router_modules)
        if isinstance(experts := getattr(router.block, "experts", None), torch.nn.Module)
    ]
    with attached(handles):
        yield received


def _same_experts(output: RouterOutput, received: torch.Tensor) -> bool:
    """Compare expert ids; of an expert with weight 0 it does not matter which it is."""
    counts = output.combine_weights != 0
    return torch.equal(output.expert_ids[counts], received.view_as(output.expert_ids)[counts])
