"""Reads what the router modules of all families return into one shape."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from isogloss.backends.families import Returns

__all__ = ["LOGITS_AT", "READERS", "RouterOutput", "logits_of"]


class RouterOutput(NamedTuple):
    """What one router computed in one forward, for all tokens of the batch, padding included.

    Attributes:
        router_logits: ``[n_tokens, n_experts]`` before any gating function, in the router's dtype.
        combine_weights: ``[n_tokens, top_k]``.
        expert_ids: ``[n_tokens, top_k]`` int64; not sorted in every family.
    """

    router_logits: torch.Tensor
    combine_weights: torch.Tensor
    expert_ids: torch.Tensor


def _triple(output: Any, _top_k: int) -> RouterOutput:  # noqa: ANN401 - a tuple of the family's own
    return RouterOutput(*output[:3])


def _probabilities(output: Any, _top_k: int) -> RouterOutput:  # noqa: ANN401 - as above
    _, weights, expert_ids = output
    return RouterOutput(logits_of(output, "probabilities"), weights, expert_ids)


def _dense(output: Any, top_k: int) -> RouterOutput:  # noqa: ANN401 - as above
    """Read scores of all experts, 0 where not chosen, and logits."""
    scores, logits = output
    return RouterOutput(logits, *scores.topk(top_k, dim=-1))


def _sorted(output: Any, top_k: int) -> RouterOutput:  # noqa: ANN401 - as above
    """Read selections sorted by expert: the place of each before sorting, its weight, and the number of each expert."""
    position, _, weights, n_chosen, logits = output
    experts = torch.repeat_interleave(torch.arange(len(n_chosen)), torch.tensor(n_chosen)).to(position.device)
    expert_ids = torch.empty_like(position).scatter_(0, position, experts)
    by_token = torch.empty_like(weights).scatter_(0, position, weights)
    return RouterOutput(logits, by_token.view(-1, top_k), expert_ids.view(-1, top_k))


def _skipping(output: Any, _top_k: int) -> RouterOutput:  # noqa: ANN401 - as above
    """Read expert ids whose last class skips the layer, which the router reports as expert 0 with weight 0."""
    logits, weights, expert_ids, _ = output
    return RouterOutput(logits, weights, expert_ids.masked_fill(weights == 0, logits.shape[-1] - 1))


def _shared(output: Any, _top_k: int) -> RouterOutput:  # noqa: ANN401 - as above
    """Read weights that sum to 1 together with those of shared experts; renormalise them over the chosen ones."""
    logits, weights, expert_ids, _ = output
    return RouterOutput(logits, weights / weights.sum(-1, keepdim=True), expert_ids)


READERS = MappingProxyType(
    {
        "triple": _triple,
        "probabilities": _probabilities,
        "dense": _dense,
        "sorted": _sorted,
        "skipping": _skipping,
        "shared": _shared,
    }
)
"""By `isogloss.backends.families.Returns`; each takes the router's output and ``top_k``."""

LOGITS_AT = MappingProxyType({"triple": 0, "probabilities": 0, "dense": 1, "sorted": 4, "skipping": 0, "shared": 0})
"""Where each of these outputs has the logits that it reports, or their probabilities."""


def logits_of(output: Any, returns: Returns) -> torch.Tensor:  # noqa: ANN401 - as above
    """Return the logits ``[n_tokens, n_experts]`` of a router's output; known up to a constant from probabilities."""
    if returns == "logits":
        logits: torch.Tensor = output
        return logits
    reported: torch.Tensor = output[LOGITS_AT[returns]]
    if returns != "probabilities":
        return reported
    # The gradient of a logarithm of 0 is no number.
    return reported.clamp_min(torch.finfo(reported.dtype).tiny).log()
