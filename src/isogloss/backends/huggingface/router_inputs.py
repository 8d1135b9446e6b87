"""Reads what the product of each router gets: after any norm and scaling inside the router, before its weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from isogloss.arrays import Float32Array
from isogloss.backends.huggingface.discovery import Router
from isogloss.backends.huggingface.loading import LoadedModel, computing
from isogloss.backends.huggingface.padded_batches import by_length, pad
from isogloss.backends.huggingface.router_outputs import RouterOutput
from isogloss.backends.huggingface.steer import steer, steered_by
from isogloss.backends.huggingface.steered_router import SteeredRouter
from isogloss.backends.huggingface.watch import watch_routers
from isogloss.backends.joint_texts import Measured
from isogloss.backends.router_inputs import Moments
from isogloss.errors import ModelError
from isogloss.steering import RouterAdapter

__all__ = ["probe_values", "second_moments", "share_obeying"]

_OnInput = Callable[[int, torch.Tensor], None]


class _ReadRouter(SteeredRouter):
    """One router that hands on what its weight is multiplied with, and is not changed."""

    def __init__(self, router: Router, on_input: _OnInput) -> None:
        super().__init__(router)
        self.on_input = on_input

    def edit_logits(self, hidden: torch.Tensor, logits: torch.Tensor) -> None:  # noqa: ARG002 - they are only read
        """Hand on the hidden states ``[n_tokens, width]``, padding included."""
        self.on_input(self.router.spec.layer, hidden.reshape(-1, hidden.shape[-1]))


def second_moments(
    loaded: LoadedModel, texts: Sequence[Measured], layers: Sequence[int], *, batch_tokens: int = 4096
) -> dict[int, Moments]:
    """Sum x and x xᵀ over the tokens of texts; see `AdaptableModel.second_moments`.

    Sums are float64, on the device of the router; what is held is one matrix of the router's width by layer.
    """
    sums: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def add(layer: int, read: torch.Tensor) -> None:
        x = read.double()
        total, products = sums.get(layer, (0.0, 0.0))
        sums[layer] = total + x.sum(0), products + x.T @ x

    _read(loaded, texts, layers, add, batch_tokens)
    n_tokens = sum(text.stop - text.start for text in texts)
    return {layer: Moments(n_tokens, *(part.cpu().numpy() for part in parts)) for layer, parts in sums.items()}


def probe_values(
    loaded: LoadedModel,
    texts: Sequence[Measured],
    probes: Mapping[int, Float32Array],
    *,
    batch_tokens: int = 4096,
) -> dict[int, Float32Array]:
    """Return the value of probes on the tokens of texts; see `AdaptableModel.probe_values`."""
    values: dict[int, list[Float32Array]] = {layer: [] for layer in probes}
    tensors = {layer: torch.tensor(matrix) for layer, matrix in probes.items()}

    def keep(layer: int, read: torch.Tensor) -> None:
        values[layer].append((read.float() @ tensors[layer].to(read.device).T).cpu().numpy())

    _read(loaded, texts, list(probes), keep, batch_tokens)
    return {layer: np.concatenate(parts) for layer, parts in values.items()}


@computing
def share_obeying(
    loaded: LoadedModel,
    texts: Sequence[Measured],
    banned: Mapping[int, Sequence[int]],
    adapter: RouterAdapter,
    *,
    batch_tokens: int = 4096,
) -> dict[int, float]:
    """Return by layer the share of tokens that choose none of its banned experts under an adapter, from 0 to 1."""
    masks = [torch.zeros(0, dtype=torch.bool)]
    counts: dict[int, torch.Tensor] = {}
    experts = {
        router.spec.layer: torch.tensor(banned[router.spec.layer], device=router.device)
        for router in loaded.router_modules
        if router.spec.layer in banned
    }

    def count(index: int, output: RouterOutput) -> None:
        layer = loaded.routers[index].layer
        if layer in banned:
            ids = output.expert_ids
            chosen = torch.isin(ids, experts[layer].to(ids.device)).any(-1).flatten()
            counts[layer] = counts.get(layer, 0) + (chosen & masks[0].to(ids.device)).sum()

    with steer(loaded, adapter), watch_routers(loaded, count):
        for batch in by_length(texts, batch_tokens):
            input_ids = pad(loaded, batch)
            masks[0] = _measured(batch, input_ids.shape[1]).to(input_ids.device)
            loaded.decoder(input_ids=input_ids, use_cache=False)
    n_tokens = sum(text.stop - text.start for text in texts)
    return {layer: 1.0 - int(counts[layer]) / n_tokens for layer in banned}


def _measured(batch: Sequence[Measured], length: int) -> torch.Tensor:
    """Return the mask ``[n * length]`` of the measured tokens."""
    positions = torch.arange(length)
    return torch.stack([(positions >= text.start) & (positions < text.stop) for text in batch]).flatten()


@computing
def _read(
    loaded: LoadedModel, texts: Sequence[Measured], layers: Sequence[int], on_input: _OnInput, batch_tokens: int
) -> None:
    """Call ``on_input`` with each layer and what its router reads at the measured tokens of a batch."""
    n_read, places = 0, torch.zeros(0, dtype=torch.int64)

    def pick(layer: int, hidden: torch.Tensor) -> None:
        if len(hidden) != n_read:
            raise ModelError(
                f"the router of layer {layer} reads {len(hidden)} hidden states of {n_read} tokens; expected one "
                "each, so its input is not known"
            )
        on_input(layer, hidden[places.to(hidden.device)])

    routers = [_ReadRouter(router, pick) for router in loaded.router_modules if router.spec.layer in layers]
    with steered_by(loaded, routers):
        for batch in by_length(texts, batch_tokens):
            input_ids = pad(loaded, batch)
            n_read = input_ids.numel()
            places = _measured(batch, input_ids.shape[1]).nonzero().squeeze(1).to(input_ids.device)
            loaded.decoder(input_ids=input_ids, use_cache=False)
