"""Proves on one text that a model's routers can be trusted, before anything is captured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from isogloss.backends.agreement import TOLERANCE, relative_difference
from isogloss.backends.huggingface.discovery import Router
from isogloss.backends.huggingface.loading import LoadedModel
from isogloss.backends.huggingface.router_outputs import RouterOutput
from isogloss.backends.huggingface.watch import require_one_call_each, watch_routers
from isogloss.backends.model import RouterCheck
from isogloss.errors import ModelError
from isogloss.routing import choice_scores, combine_weights

__all__ = ["prove_routers"]

_PROBE_TOKENS = 64
# SparseMixer leaves out logits beyond a distance that the library computes in the model's dtype: three roundings.
_EDGE = {"bfloat16": 2.0**-7, "float16": 2.0**-9}


@torch.inference_mode()
def prove_routers(loaded: LoadedModel, text: str) -> RouterCheck:
    """Show on one text that every router runs once, chooses as its family's row says, and that experts get its choice.

    Three things must agree in every layer: the choice and weights that the router reports, the reference router on the
    reported logits, and, where the experts are handed a choice, what they are handed.

    Args:
        loaded: the model, unsteered.
        text: its first tokens are run through the decoder stack.

    Returns:
        How closely they agreed.

    Raises:
        ModelError: a router was not called, or two of the answers differ; nothing captured could be trusted.
    """
    ids = torch.tensor([loaded.tokenizer(text)["input_ids"][:_PROBE_TOKENS]], device=loaded.device)
    outputs: dict[int, RouterOutput] = {}
    with watch_routers(loaded, outputs.__setitem__) as calls, _watch_experts(loaded) as handed:
        loaded.decoder(input_ids=ids, use_cache=False)
    require_one_call_each(loaded, calls, n_forwards=1)
    largest, tolerance = 0.0, TOLERANCE[loaded.dtype]
    for index, router in enumerate(loaded.routers):
        _require_shapes(router, outputs[index])
        found = _deviation(router, outputs[index], _EDGE.get(loaded.dtype, 0.0))
        largest = max(largest, found)
        if found > tolerance:
            raise ModelError(
                f"the router of layer {router.spec.layer} chooses otherwise than the reference router for "
                f"{loaded.family.model_type} (by {found:.2g}; expected at most {tolerance:g}); "
                "this version of transformers is not supported for this family: see `isogloss models`"
            )
        if index in handed and not _same_choice(outputs[index], handed[index]):
            raise ModelError(
                f"the experts of layer {router.spec.layer} are handed another choice than the router reports; "
                "what is captured there would not be what the model computes"
            )
    return RouterCheck(ids.shape[1], largest, len(handed))


def _require_shapes(router: Router, output: RouterOutput) -> None:
    logits, weights, expert_ids = (tuple(part.shape[1:]) for part in output)
    chosen = (router.spec.top_k,)
    if (logits, weights, expert_ids) != ((router.spec.n_experts,), chosen, chosen):
        raise ModelError(
            f"the router of layer {router.spec.layer} returned logits, weights and ids of {logits}, {weights} and "
            f"{expert_ids} columns; expected {router.spec.n_experts} experts and {chosen[0]} choices: "
            "this version of transformers is not supported for this family, see `isogloss models`"
        )


def _deviation(router: Router, output: RouterOutput, edge: float) -> float:
    """Largest difference from the reference: of a chosen score from the best ones possible, or of a weight.

    Where scores tie, as they do in 16 bits, any of the tied experts is right.
    """
    logits, weights, expert_ids = (part.cpu() for part in output)
    ids = expert_ids.numpy()
    scores = choice_scores(logits.float().numpy(), router.spec, router.selection_bias())
    best = -np.sort(-scores, axis=1)[:, : router.spec.top_k]
    order = np.argsort(-np.take_along_axis(scores, ids, axis=1), axis=1, kind="stable")
    ids = np.take_along_axis(ids, order, axis=1)
    if len(np.unique(ids + np.arange(len(ids))[:, None] * router.spec.n_experts)) < ids.size:
        return float("inf")  # an expert chosen twice
    found = np.take_along_axis(weights.float().numpy(), order, axis=1)
    bounds = [_expected_weights(router, logits.float().numpy(), ids, 1 + side * edge) for side in (1, -1)]
    chosen = np.take_along_axis(scores, ids, axis=1)
    return max(relative_difference(chosen, best), relative_difference(found, np.clip(found, *bounds)))


def _expected_weights(
    router: Router, logits: npt.NDArray[Any], ids: npt.NDArray[Any], reach: float
) -> npt.NDArray[np.floating[Any]]:
    """Weigh the choice with SparseMixer's distance times ``reach``: the further it reaches, the smaller the weights."""
    spec = replace(router.spec, jitter=router.spec.jitter * reach)
    return combine_weights(logits, ids, spec, router.expert_scale())


@contextmanager
def _watch_experts(loaded: LoadedModel) -> Iterator[dict[int, torch.Tensor]]:
    """Collect the expert ids that each layer's experts are handed, where they are handed any."""
    handed: dict[int, torch.Tensor] = {}

    def listen(index: int, top_k: int) -> Callable[..., None]:
        def hook(_module: torch.nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            for value in (*inputs, *named.values()):
                if isinstance(value, torch.Tensor) and value.dtype == torch.int64 and value.shape[-1] == top_k:
                    handed[index] = value

        return hook

    blocks = [
        (index, router.spec.top_k, getattr(router.block, "experts", None))
        for index, router in enumerate(loaded.routers)
    ]
    handles = [
        experts.register_forward_pre_hook(listen(index, top_k), with_kwargs=True)
        for index, top_k, experts in blocks
        if isinstance(experts, torch.nn.Module)
    ]
    try:
        yield handed
    finally:
        for handle in handles:
            handle.remove()


def _same_choice(output: RouterOutput, handed: torch.Tensor) -> bool:
    """Compare choices; of an expert with weight 0 it does not matter which it is."""
    counts = output.combine_weights != 0
    return torch.equal(output.expert_ids[counts], handed.view_as(output.expert_ids)[counts])
