"""What a router does, in NumPy: the definition that every backend is tested against.

A router turns the logits of one token into ``top_k`` expert ids and the weights that mix their outputs. Families
differ in the order of scoring, choosing and renormalising; `RouterSpec` names these differences, `route` computes them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from scipy.special import expit, softmax, xlogy

__all__ = [
    "Fingerprint",
    "RouterSpec",
    "Routing",
    "consistency",
    "entropy",
    "profile",
    "route",
    "selections",
    "softmax",
]

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class RouterSpec:
    """How one router scores and chooses.

    Attributes:
        layer: 0-based position in the whole decoder stack, dense layers included.
        n_experts: routed experts.
        top_k: experts chosen per token.
        scoring: ``softmax`` or ``sigmoid`` over all experts before the choice; ``topk_softmax`` chooses on raw logits
            and takes the softmax over the chosen ones.
        renormalise: divide the chosen weights by their sum (no effect on ``topk_softmax``, whose weights sum to 1).
        selection_bias: a bias per expert is added to the scores for the choice only.
        n_groups: experts are split into this many equal consecutive groups.
        top_groups: groups that stay eligible for a token.
        group_score: how a group is scored: its best expert, or the sum of its two best.
        scaling: factor on the final weights.
    """

    layer: int
    n_experts: int
    top_k: int
    scoring: Literal["softmax", "sigmoid", "topk_softmax"] = "softmax"
    renormalise: bool = True
    selection_bias: bool = False
    n_groups: int = 1
    top_groups: int = 1
    group_score: Literal["max", "top2_sum"] = "max"
    scaling: float = 1.0

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Self:
        """Build from `to_json`'s output; unknown or missing keys raise TypeError."""
        return cls(**raw)


@dataclass(frozen=True)
class Fingerprint:
    """What must agree between a model and a plan or Run made for it.

    Attributes:
        model_type: the architecture, as in the model's configuration.
        layers: routed layers, 0-based in the decoder stack.
        n_experts: routed experts per layer.
        top_k: experts chosen per token.
        router_sha256: hash of all router weights, rounded to bfloat16 so that the loading dtype does not matter.
    """

    model_type: str
    layers: tuple[int, ...]
    n_experts: int
    top_k: int
    router_sha256: str

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON types."""
        return {**asdict(self), "layers": list(self.layers)}

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Self:
        """Build from `to_json`'s output; unknown or missing keys raise TypeError."""
        return cls(**{**raw, "layers": tuple(raw["layers"])})

    def differences(self, other: Fingerprint) -> dict[str, tuple[Any, Any]]:
        """Name the fields that differ, with (own, other) values."""
        pairs = {field.name: (getattr(self, field.name), getattr(other, field.name)) for field in fields(self)}
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


class Routing(NamedTuple):
    """The choice of a router for every token.

    Attributes:
        expert_ids: ``[n_tokens, top_k]``, best first.
        combine_weights: ``[n_tokens, top_k]`` float32, the weights that mix the experts' outputs.
    """

    expert_ids: IntArray
    combine_weights: FloatArray


def route(router_logits: FloatArray, spec: RouterSpec, selection_bias: FloatArray | None = None) -> Routing:
    """Choose experts and weights for every token, in float32.

    Ties go to the lower expert id.

    Args:
        router_logits: ``[n_tokens, n_experts]`` before any gating function.
        spec: how this router scores and chooses.
        selection_bias: ``[n_experts]``; required exactly when ``spec.selection_bias`` is set.

    Returns:
        Expert ids, best first, and combine weights.

    Raises:
        ValueError: shapes do not fit the spec, or the bias is missing or unexpected.

    Source:
        Group-limited choice with an additive bias: DeepSeek-V3 (arXiv 2412.19437), section 2.1.2; softmax after
        top-k: GPT-OSS; the rest is common practice since Shazeer et al. (arXiv 1701.06538).
    """
    logits = np.asarray(router_logits, dtype=np.float32)
    if logits.ndim != 2 or logits.shape[1] != spec.n_experts:  # noqa: PLR2004 - tokens by experts
        raise ValueError(f"router_logits has shape {logits.shape}; expected [n_tokens, {spec.n_experts}]")
    if (selection_bias is not None) != spec.selection_bias:
        raise ValueError(f"selection_bias given: {selection_bias is not None}; the spec says {spec.selection_bias}")
    scores = _scores(logits, spec)
    eligible = scores if selection_bias is None else scores + np.asarray(selection_bias, dtype=np.float32)
    eligible = _keep_best_groups(eligible, spec)
    expert_ids = np.argsort(-eligible, axis=1, kind="stable")[:, : spec.top_k]
    weights = np.take_along_axis(scores, expert_ids, axis=1)
    if spec.scoring == "topk_softmax":
        weights = softmax(weights, axis=1)
    elif spec.renormalise:
        weights = weights / weights.sum(axis=1, keepdims=True)
    return Routing(expert_ids, (weights * np.float32(spec.scaling)).astype(np.float32))


def _scores(logits: FloatArray, spec: RouterSpec) -> FloatArray:
    if spec.scoring == "softmax":
        return np.asarray(softmax(logits, axis=1))
    return np.asarray(expit(logits)) if spec.scoring == "sigmoid" else logits


def _keep_best_groups(scores: FloatArray, spec: RouterSpec) -> FloatArray:
    if spec.n_groups == 1:
        return scores
    grouped = scores.reshape(len(scores), spec.n_groups, -1)
    best_two = np.sort(grouped, axis=2)[:, :, -2:]
    group_scores = best_two.max(axis=2) if spec.group_score == "max" else best_two.sum(axis=2)
    best = np.argsort(-group_scores, axis=1, kind="stable")[:, : spec.top_groups]
    keep = np.zeros(group_scores.shape, dtype=bool)
    np.put_along_axis(keep, best, values=True, axis=1)
    return np.where(keep[:, :, None], grouped, -np.inf).reshape(scores.shape)


def profile(router_logits: FloatArray) -> FloatArray:
    """Average the softmax over all experts over the tokens of one sequence.

    Args:
        router_logits: ``[n_tokens, n_experts]`` of the counted tokens.

    Returns:
        ``[n_experts]``, sums to 1.

    Source:
        arXiv 2510.04694, equation 1.
    """
    return np.asarray(softmax(np.asarray(router_logits, dtype=np.float32), axis=1).mean(axis=0))


def selections(expert_ids: IntArray, n_experts: int) -> IntArray:
    """Count how many tokens chose each expert: ``[n_experts]``, sums to ``top_k`` times ``n_tokens``."""
    return np.bincount(np.asarray(expert_ids).ravel(), minlength=n_experts)


def entropy(profiles: FloatArray) -> FloatArray:
    """Shannon entropy in nats over the last axis, with 0 log 0 = 0; between 0 and log ``n_experts``."""
    return np.asarray(-xlogy(profiles, profiles).sum(axis=-1))


def consistency(expert_ids: IntArray, n_experts: int) -> float:
    """Mean Jaccard similarity of the chosen sets over all pairs of tokens.

    Args:
        expert_ids: ``[n_tokens, top_k]`` of the (sampled) tokens of one sequence.
        n_experts: routed experts.

    Returns:
        Between 0 and 1; NaN for fewer than two tokens.

    Source:
        arXiv 2510.04694, section 4.4.
    """
    chosen = np.zeros((len(expert_ids), n_experts))
    np.put_along_axis(chosen, np.asarray(expert_ids), values=1.0, axis=1)
    shared = (chosen @ chosen.T)[np.triu_indices(len(chosen), k=1)]
    size = np.asarray(expert_ids).shape[1]
    return float(np.mean(shared / (2 * size - shared))) if len(shared) else float("nan")
