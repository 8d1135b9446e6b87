"""The reference router in torch, for engines whose kernels choose experts by themselves.

Serving engines go from logits to experts in one fused kernel. Where a plan forces or bans experts and the router adds a
bias or leaves groups of experts out, such a kernel could undo what the plan did to the logits. There the experts are
chosen here instead, step by step as in `isogloss.routing.route`, with `apply_choice` in its place. What a plan adds for
the choice alone has no place in most kernels either: `apply_select` adds it here.

Everything is tensor operations of fixed shapes: no value is looked at on the host, so `choose_experts` can be traced by
``torch.compile(fullgraph=True)`` and captured in a CUDA graph.
"""

from __future__ import annotations

import array_api_compat.torch
import torch

from isogloss.routing import RouterSpec
from isogloss.steering import LayerEdit, apply_choice, apply_select

__all__ = ["choose_experts"]

_SMALLEST_SUM = 1e-20  # as in isogloss.routing: no score may be left


def choose_experts(
    router_logits: torch.Tensor,
    spec: RouterSpec,
    *,
    selection_bias: torch.Tensor | None = None,
    expert_scale: torch.Tensor | None = None,
    edit: LayerEdit | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose experts and weights for every token, in float32, as the reference router does.

    Ties go to the lower expert id. Apart from rounding, equal to `isogloss.routing.route` with
    ``select=edit.select, edit_choice=lambda scores: apply_choice(scores, edit)``.

    Args:
        router_logits: ``[n_tokens, n_experts]`` before any gating function, already edited by `apply_edit`.
        spec: how this router scores and chooses; every scoring but ``sparsemixer``, which has no bias and no groups,
            so that logits edited by `apply_edit` are enough for it, apart from ``select``.
        selection_bias: ``[n_experts]``; required exactly when ``spec.selection_bias`` is set.
        expert_scale: ``[n_experts]``; required exactly when ``spec.expert_scale`` is set.
        edit: moved to the device of the logits; its arrays are ``[n_experts]``, or ``[n_tokens, n_experts]`` where
            tokens have edits of their own. None for no edit.

    Returns:
        Combine weights ``[n_tokens, top_k]`` float32 and expert ids ``[n_tokens, top_k]`` int64, best first.

    Raises:
        ValueError: the logits do not fit the spec, a bias or scale is missing or unexpected, or the scoring is
            ``sparsemixer``.
        PlanError: the edit is for another number of experts.

    Example:
        >>> choose_experts(torch.tensor([[0.0, 2.0, 1.0, -1.0]]), RouterSpec(0, n_experts=4, top_k=2))[1].tolist()
        [[1, 2]]
    """
    _check(router_logits, spec, selection_bias, expert_scale)
    logits = router_logits.float()
    scores = _scores(logits, spec)
    ranking = logits if spec.scoring in ("topk_softmax", "topk_sigmoid") else scores
    edit = LayerEdit(spec.n_experts) if edit is None else edit
    if selection_bias is not None:
        ranking = ranking + apply_select(selection_bias, edit, xp=array_api_compat.torch)
    else:
        ranking = apply_select(ranking, edit, xp=array_api_compat.torch)
    ranking = apply_choice(_keep_best_groups(ranking, spec), edit, xp=array_api_compat.torch)
    expert_ids = _best_first(ranking, spec.top_k)
    weights = scores.gather(-1, expert_ids)
    if spec.scoring == "topk_softmax":
        weights = weights.softmax(dim=-1)
    elif spec.renormalise:
        weights = weights / weights.sum(dim=-1, keepdim=True).clamp_min(_SMALLEST_SUM)
    if expert_scale is not None:
        weights = weights * expert_scale.float()[expert_ids]
    return weights * spec.scaling, expert_ids


def _check(
    logits: torch.Tensor, spec: RouterSpec, selection_bias: torch.Tensor | None, expert_scale: torch.Tensor | None
) -> None:
    if spec.scoring == "sparsemixer":
        raise ValueError("sparsemixer is not computed here; it chooses on logits alone: edit those by apply_edit")
    if logits.ndim != 2 or logits.shape[1] != spec.n_experts:  # noqa: PLR2004 - tokens by experts
        raise ValueError(f"router_logits has shape {tuple(logits.shape)}; expected [n_tokens, {spec.n_experts}]")
    if (selection_bias is not None) != spec.selection_bias:
        raise ValueError(f"selection_bias given: {selection_bias is not None}; the spec says {spec.selection_bias}")
    if (expert_scale is not None) != spec.expert_scale:
        raise ValueError(f"expert_scale given: {expert_scale is not None}; the spec says {spec.expert_scale}")


def _scores(logits: torch.Tensor, spec: RouterSpec) -> torch.Tensor:
    """What becomes the weights: the logits themselves where only the chosen ones share a softmax."""
    if spec.scoring == "topk_softmax":
        return logits
    if spec.scoring == "softmax":
        return logits.softmax(dim=-1)
    if spec.scoring == "sqrtsoftplus":
        return torch.nn.functional.softplus(logits).sqrt()
    return logits.sigmoid()


def _keep_best_groups(ranking: torch.Tensor, spec: RouterSpec) -> torch.Tensor:
    if spec.n_groups == 1:
        return ranking
    size = spec.n_experts // spec.n_groups
    grouped = ranking.unflatten(-1, (spec.n_groups, size))
    n_best = 1 if spec.group_score == "max" else min(2, size)
    group_scores = grouped.topk(n_best, dim=-1).values.sum(dim=-1)
    best = _best_first(group_scores, spec.top_groups)
    keep = torch.zeros_like(group_scores, dtype=torch.bool).scatter(-1, best, value=True)
    others = 0.0 if spec.others_score_zero else float("-inf")
    return torch.where(keep.unsqueeze(-1), grouped, others).reshape(ranking.shape)


def _best_first(ranking: torch.Tensor, n: int) -> torch.Tensor:
    """Indices of the ``n`` largest along the last axis; a stable sort, since topk breaks ties in no fixed order."""
    return ranking.sort(dim=-1, descending=True, stable=True).indices[..., :n]
