"""What a change of routers or weights is learned from: answers, profiles of texts, distance from the plain model.

`divergences` and `profiles_of` pass gradient on to whatever the router logits depend on; the other losses to the
change of an open `isogloss.backends.huggingface.offsets.offsets_applied`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch

from isogloss.backends.capture_options import CaptureOptions
from isogloss.backends.huggingface.change import divergence_terms
from isogloss.backends.huggingface.likelihood import next_token_logits
from isogloss.backends.huggingface.loading import LoadedModel
from isogloss.backends.huggingface.offsets import RouterChange
from isogloss.backends.huggingface.padded_batches import make_batch
from isogloss.backends.huggingface.router_outputs import RouterOutput
from isogloss.backends.huggingface.watch import watch_routers
from isogloss.backends.joint_texts import Measured
from isogloss.backends.token_batches import Text

__all__ = [
    "Divergence",
    "RoutedProfiles",
    "answer_loss",
    "divergence_loss",
    "divergences",
    "leash_loss",
    "profiles_of",
    "without_rounding",
]

Divergence = Literal["hjs", "js", "kl"]
"""Jensen-Shannon divided by the room that the entropies leave (0 to 1), Jensen-Shannon (0 to log 2 nats), or the
Kullback-Leibler divergence of the pivot from the other (nats)."""

_ROUNDING = 1e-6  # of a layer's largest gradient; what cancels in float32 leaves about 1e-7
_TINY = 1e-300  # as of `isogloss.analysis.divergence`: log 0 becomes a number that a share of 0 cancels
_UNIFORM_NATS = 1e-10  # as there: profiles that are together closer to uniform are both uniform up to rounding


def answer_loss(loaded: LoadedModel, batch: Sequence[Measured]) -> torch.Tensor:
    """Return the cross-entropy of the measured tokens, in nats per token over the whole batch.

    Args:
        loaded: the model.
        batch: longest text first.
    """
    logits, first = next_token_logits(loaded, batch)
    losses = [
        torch.nn.functional.cross_entropy(
            row[text.start - first : text.stop - first].float(),
            torch.tensor(text.ids[text.start + 1 : text.stop + 1], device=row.device),
            reduction="sum",
        )
        for row, text in zip(logits, batch, strict=True)
    ]
    return torch.stack(losses).sum() / sum(text.stop - text.start for text in batch)


def leash_loss(loaded: LoadedModel, change: RouterChange, batch: Sequence[Measured]) -> torch.Tensor:
    """Return the divergence of the steered next-token distribution from the unsteered one, in nats per token.

    As `isogloss.backends.model.Change.kl` has it, over the measured positions of the whole batch.

    Args:
        loaded: the model.
        change: that is applied.
        batch: longest text first.
    """
    with change.left_out():
        plain, _ = next_token_logits(loaded, batch)
    steered, first = next_token_logits(loaded, batch)
    sums = []
    for before, after, text in zip(plain, steered, batch, strict=True):
        measured = slice(text.start - first, text.stop - first)
        sums.append(divergence_terms(before[measured], after[measured]).sum())
    return torch.stack(sums).sum() / sum(text.stop - text.start for text in batch)


class RoutedProfiles:
    """Takes profiles of texts from the routers of some layers, with their gradient.

    Args:
        loaded: the model.
        layers: decoder layers.
    """

    def __init__(self, loaded: LoadedModel, layers: Sequence[int]) -> None:
        self.loaded = loaded
        self._at = {index for index, spec in enumerate(loaded.routers) if spec.layer in set(layers)}
        self._logits: list[torch.Tensor] | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listen to the routers; forwards and backward passes of `of` run inside."""
        with watch_routers(self.loaded, self._keep):
            yield

    def of(self, texts: Sequence[Text]) -> torch.Tensor:
        """Return ``[n, n_layers, n_experts]``, float32, in the order of the texts.

        Args:
            texts: as `isogloss.backends.token_batches.portions` yields them.
        """
        batch = make_batch(self.loaded, texts, CaptureOptions())
        self._logits = []
        try:
            self.loaded.decoder(input_ids=batch.input_ids, use_cache=False)
            return profiles_of(self._logits, batch.counted)
        finally:
            self._logits = None  # a layer that is computed again in a backward pass is not a new one

    def _keep(self, index: int, output: RouterOutput) -> None:
        if self._logits is not None and index in self._at:
            self._logits.append(output.router_logits)


def profiles_of(router_logits: Sequence[torch.Tensor], counted: torch.Tensor) -> torch.Tensor:
    """Return the mean routing weights of the counted tokens of every text, in float32, with their gradient.

    Args:
        router_logits: of each layer, ``[n * length, n_experts]``, padding included.
        counted: 0/1 mask ``[n, length]``, at least one token of every text.

    Returns:
        ``[n, n_layers, n_experts]``; the last axis sums to 1.

    Source:
        arXiv 2510.04694, equation 1.
    """
    share = counted / counted.sum(1, keepdim=True)
    layers = [logits.float().softmax(-1).view(*counted.shape, -1) for logits in router_logits]
    return torch.stack([torch.einsum("nt,nte->ne", share.to(layer), layer) for layer in layers], dim=1)


def divergences(profiles: torch.Tensor, pivot: torch.Tensor, divergence: Divergence) -> torch.Tensor:
    """Return how far profiles are from those of the pivot, with the gradient of both.

    Args:
        profiles: ``[n, n_layers, n_experts]``.
        pivot: the same shape.
        divergence: which.

    Returns:
        ``[n, n_layers]`` float64.

    Source:
        ``hjs``: arXiv 2510.04694, appendix A.4, equations 6-8; ``js``: the same without the division, as in arXiv
        2606.25821; ``kl``: KL(pivot || other), as in arXiv 2610.01921.
    """
    p, q = profiles.double() + _TINY, pivot.double() + _TINY
    if divergence == "kl":
        distance: torch.Tensor = (q * (q.log() - p.log())).sum(-1)
        return distance
    entropy = torch.special.entr(torch.stack([p, q, (p + q) / 2])).sum(-1)
    mean = (entropy[0] + entropy[1]) / 2
    distance = entropy[2] - mean
    if divergence == "js":
        return distance
    room = torch.log(torch.tensor(float(p.shape[-1]), dtype=p.dtype)).to(mean) - mean
    return torch.where(room > _UNIFORM_NATS, distance / room.clamp_min(_UNIFORM_NATS), 0.0)


def divergence_loss(profiles: torch.Tensor, pivot: torch.Tensor, divergence: Divergence) -> torch.Tensor:
    """Return the mean of `divergences` over items and layers; the pivot is fixed."""
    return divergences(profiles, pivot.detach(), divergence).mean()


def without_rounding(gradient: torch.Tensor) -> torch.Tensor:
    """Set to 0 what is 0 but for rounding, which Adam would take for a direction.

    Where weights are renormalised, the logit of an expert that no token chose cancels out of them; its gradient is then
    a difference of equal numbers.

    Args:
        gradient: of one layer.
    """
    size = gradient.abs()
    return torch.where(size > _ROUNDING * size.amax(), gradient, 0.0)
