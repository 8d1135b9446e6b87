"""Routing in NumPy: the reference that every backend is tested against.

A router turns the logits of one token into ``top_k`` expert ids and the weights that mix their outputs. Families
differ in the order of scoring, choosing and renormalising; `RouterSpec` names these differences, `route` computes them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, NamedTuple, Self, TypeAlias, get_args

import numpy as np

from isogloss.arrays import FloatArray, IntArray

__all__ = [
    "PHASES",
    "Fingerprint",
    "Phase",
    "RouterSpec",
    "Routing",
    "Scoring",
    "choice_margin",
    "choice_scores",
    "combine_weights",
    "consistency",
    "entropy",
    "profile",
    "route",
    "selections",
    "softmax",
]


Phase: TypeAlias = Literal["prompt", "generation"]
"""Prompt tokens are given; generation tokens were written by the model and are fed back to it."""

PHASES: tuple[Phase, ...] = get_args(Phase)

Scoring: TypeAlias = Literal["softmax", "sigmoid", "sqrtsoftplus", "topk_softmax", "topk_sigmoid", "sparsemixer"]

_SMALLEST_SUM = np.float32(1e-20)  # lower bound of the divisor when weights are renormalised: all scores may be 0
_CHOOSE_ON_LOGITS = ("topk_softmax", "topk_sigmoid", "sparsemixer")


@dataclass(frozen=True)
class RouterSpec:
    """How one router scores and chooses.

    Attributes:
        layer: 0-based position in the whole decoder stack, dense layers included.
        n_experts: routed experts, including zero-computation experts that the router can choose.
        top_k: experts chosen per token.
        scoring: ``softmax``, ``sigmoid`` or ``sqrtsoftplus`` over all experts before the choice; ``topk_softmax`` and
            ``topk_sigmoid`` choose on raw logits and score the chosen ones; ``sparsemixer`` chooses the best two in
            turn, each weighted among the logits close to its own (arXiv 2409.12136).
        renormalise: divide the chosen weights by their sum (no effect on ``topk_softmax``, whose weights sum to 1, and
            on ``sparsemixer``).
        selection_bias: a bias per expert is added to the scores for the selection only, not to the weights.
        n_groups: experts are split into this many equal consecutive groups.
        top_groups: groups that stay eligible for a token.
        group_score: how a group is scored: its best expert, or the sum of its two best.
        others_score_zero: experts of the other groups score 0 instead of being excluded (matters if scores can be
            negative).
        scaling: factor on the final weights.
        expert_scale: a factor per expert on the final weights.
        jitter: half of ``sparsemixer``'s relative distance beyond which a logit is masked.
    """

    layer: int
    n_experts: int
    top_k: int
    scoring: Scoring = "softmax"
    renormalise: bool = True
    selection_bias: bool = False
    n_groups: int = 1
    top_groups: int = 1
    group_score: Literal["max", "top2_sum"] = "max"
    others_score_zero: bool = False
    scaling: float = 1.0
    expert_scale: bool = False
    jitter: float = 0.0


@dataclass(frozen=True)
class Fingerprint:
    """The properties that a model shares with every plan or Run made for it.

    Attributes:
        model_type: the architecture, as in the model's configuration.
        layers: routed layers, 0-based in the decoder stack.
        n_experts: routed experts per layer.
        top_k: experts chosen per token.
        router_sha256: hash of all router weights, of biases in their linear layers and of selection biases, rounded to
            bfloat16 so that loading in float32 or bfloat16 does not matter.
        float16_sha256: the same rounded to float16; None in files of older versions. Loading in float16 rounds small
            weights more than bfloat16 does, so models agree where either hash does.
    """

    model_type: str
    layers: tuple[int, ...]
    n_experts: int
    top_k: int
    router_sha256: str
    float16_sha256: str | None = field(default=None, compare=False)

    @property
    def is_possible(self) -> bool:
        """Whether a model can have it, by the types and ranges of what a file says."""
        counts = (self.n_experts, self.top_k, *self.layers)
        texts = (self.model_type, self.router_sha256)
        typed = all(type(count) is int for count in counts)
        typed = typed and all(isinstance(text, str) and text.isprintable() for text in texts)
        return typed and min(self.layers, default=0) >= 0 and 1 <= self.top_k <= self.n_experts

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON types."""
        given = {name: value for name, value in asdict(self).items() if value is not None}
        return {**given, "layers": list(self.layers)}

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Self:
        """Build from `to_json`'s output; unknown or missing keys raise TypeError."""
        return cls(**{**raw, "layers": tuple(raw["layers"])})

    def differences(self, other: Fingerprint) -> dict[str, tuple[Any, Any]]:
        """Return the fields that differ, with their values as (own, other)."""
        names = [each.name for each in fields(self) if each.compare]
        if self.float16_sha256 is not None and self.float16_sha256 == other.float16_sha256:
            names.remove("router_sha256")
        pairs = {name: (getattr(self, name), getattr(other, name)) for name in names}
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


class Routing(NamedTuple):
    """The experts that a router chose for every token, and their weights.

    Attributes:
        expert_ids: ``[n_tokens, top_k]``, best first.
        combine_weights: ``[n_tokens, top_k]`` float32, the weights that mix the experts' outputs.
    """

    expert_ids: IntArray
    combine_weights: FloatArray


def route(
    router_logits: FloatArray,
    spec: RouterSpec,
    selection_bias: FloatArray | None = None,
    *,
    select: FloatArray | None = None,
    expert_scale: FloatArray | None = None,
    edit_choice: Callable[[FloatArray], FloatArray] | None = None,
) -> Routing:
    """Choose experts and weights for every token, in float32; ties go to the lower expert id.

    Ties are those of the float32 scores, also where float64 would tell them apart. vLLM's kernels take the lower id
    too; ``torch.topk``, which transformers calls, leaves the order of equal values open. So where a model is compared
    with this function, either expert of a tie is right.

    Args:
        router_logits: ``[n_tokens, n_experts]`` before any gating function.
        spec: how this router scores and chooses.
        selection_bias: ``[n_experts]``; required exactly when ``spec.selection_bias`` is set.
        select: ``[n_experts]`` or ``[n_tokens, n_experts]``, of any router: added to the bias, or to what is ranked.
        expert_scale: ``[n_experts]``; required exactly when ``spec.expert_scale`` is set.
        edit_choice: function applied to the scores that are ranked; the weights do not change.

    Raises:
        ValueError: shapes do not fit the spec, or the bias is missing or unexpected.

    Source:
        Group-limited choice with an additive bias: DeepSeek-V3 (arXiv 2412.19437), section 2.1.2; softmax after
        top-k: GPT-OSS; SparseMixer: arXiv 2409.12136; the rest is common practice since Shazeer et al.
        (arXiv 1701.06538).
    """
    scores = choice_scores(router_logits, spec, selection_bias, select=select)
    if edit_choice is not None:
        scores = edit_choice(scores)
    expert_ids = np.argsort(-scores, axis=1, kind="stable")[:, : spec.top_k]
    return Routing(expert_ids, combine_weights(router_logits, expert_ids, spec, expert_scale))


def choice_scores(
    router_logits: FloatArray,
    spec: RouterSpec,
    selection_bias: FloatArray | None = None,
    *,
    select: FloatArray | None = None,
) -> FloatArray:
    """Return the scores that a router ranks: ``[n_tokens, n_experts]``, minus infinity for excluded experts.

    Arguments and errors are those of `route`.
    """
    logits = _checked(router_logits, spec)
    if (selection_bias is not None) != spec.selection_bias:
        raise ValueError(f"selection_bias given: {selection_bias is not None}; expected: {spec.selection_bias}")
    scores = logits if spec.scoring in _CHOOSE_ON_LOGITS else _scores(logits, spec.scoring)
    added = [np.asarray(each, dtype=np.float32) for each in (selection_bias, select) if each is not None]
    if added:
        scores = scores + sum(added[1:], added[0])  # the bias and select first, as in a checkpoint that has both in one
    return _keep_best_groups(scores, spec)


def choice_margin(router_logits: FloatArray, spec: RouterSpec, selection_bias: FloatArray | None = None) -> FloatArray:
    """Return how far scores are from another choice of experts or of groups: ``[n_tokens]``, at least 0.

    It is the smaller of two distances: of the worst chosen score from the best one that is not, and of the worst kept
    group's score from the best one of the others. Arguments and errors are those of `route`.
    """
    scores = -np.sort(-choice_scores(router_logits, spec, selection_bias), axis=1)
    margin = _step(scores, spec.top_k)
    if spec.n_groups > 1:
        ungrouped = choice_scores(router_logits, replace(spec, n_groups=1), selection_bias)
        margin = np.minimum(margin, _step(-np.sort(-_group_scores(ungrouped, spec), axis=1), spec.top_groups))
    return margin


def _step(descending: FloatArray, n_first: int) -> FloatArray:
    """Return the distance between the last of the first values and the next; infinite where there is none."""
    if n_first == descending.shape[1]:
        return np.full(len(descending), np.inf, dtype=np.float32)
    with np.errstate(invalid="ignore"):  # both excluded
        return np.nan_to_num(descending[:, n_first - 1] - descending[:, n_first], nan=0.0, posinf=np.inf)


def combine_weights(
    router_logits: FloatArray, expert_ids: IntArray, spec: RouterSpec, expert_scale: FloatArray | None = None
) -> FloatArray:
    """Return the weights ``[n_tokens, top_k]`` float32 that mix the outputs of experts already chosen.

    Arguments and errors are those of `route`; ``expert_ids`` are ``[n_tokens, top_k]``, for ``sparsemixer`` best first.
    """
    logits = _checked(router_logits, spec)
    if (expert_scale is not None) != spec.expert_scale:
        raise ValueError(f"expert_scale given: {expert_scale is not None}; expected: {spec.expert_scale}")
    if spec.scoring == "sparsemixer":
        weights = _sparsemixer(logits, expert_ids, spec.jitter)
    elif spec.scoring == "topk_softmax":
        weights = softmax(np.take_along_axis(logits, expert_ids, axis=1))
    else:
        scores = _scores(logits, "sigmoid" if spec.scoring == "topk_sigmoid" else spec.scoring)
        weights = np.take_along_axis(scores, expert_ids, axis=1)
        if spec.renormalise:
            weights = weights / np.maximum(weights.sum(axis=1, keepdims=True), _SMALLEST_SUM)
    if expert_scale is not None:
        weights = weights * np.asarray(expert_scale, dtype=np.float32)[expert_ids]
    return np.asarray(weights * np.float32(spec.scaling), dtype=np.float32)


def softmax(logits: FloatArray) -> FloatArray:
    """Softmax over the last axis."""
    from scipy import special  # noqa: PLC0415 - a third of a second that reading results need not wait for

    return np.asarray(special.softmax(logits, axis=-1))


def _checked(router_logits: FloatArray, spec: RouterSpec) -> FloatArray:
    logits = np.asarray(router_logits, dtype=np.float32)
    if logits.ndim != 2 or logits.shape[1] != spec.n_experts:  # noqa: PLR2004 - tokens by experts
        raise ValueError(f"router_logits has shape {logits.shape}; expected [n_tokens, {spec.n_experts}]")
    return logits


def _scores(logits: FloatArray, scoring: Scoring) -> FloatArray:
    if scoring == "softmax":
        return softmax(logits)
    from scipy.special import expit, log_expit  # noqa: PLC0415 - as of `softmax`

    return np.asarray(expit(logits) if scoring == "sigmoid" else np.sqrt(-log_expit(-logits)))


def _sparsemixer(logits: FloatArray, expert_ids: IntArray, jitter: float) -> FloatArray:
    """Weight each chosen expert by the softmax over the nearby logits that were not chosen before it."""
    remaining, weights = logits.copy(), []
    for chosen in expert_ids.T[:, :, None]:
        best = np.take_along_axis(remaining, chosen, axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):  # a banned logit is -inf: NaN here, 0 after softmax
            far = (best - logits) / np.maximum(np.abs(logits), best) > 2 * jitter
        near = softmax(np.where(far, -np.inf, remaining))
        weights.append(np.take_along_axis(near, chosen, axis=1))
        np.put_along_axis(remaining, chosen, values=-np.inf, axis=1)
    return np.concatenate(weights, axis=1)


def _keep_best_groups(scores: FloatArray, spec: RouterSpec) -> FloatArray:
    if spec.n_groups == 1:
        return scores
    group_scores = _group_scores(scores, spec)
    best = np.argsort(-group_scores, axis=1, kind="stable")[:, : spec.top_groups]
    keep = np.zeros(group_scores.shape, dtype=bool)
    np.put_along_axis(keep, best, values=True, axis=1)
    others = 0.0 if spec.others_score_zero else -np.inf
    grouped = scores.reshape(len(scores), spec.n_groups, -1)
    return np.where(keep[:, :, None], grouped, others).reshape(scores.shape)


def _group_scores(scores: FloatArray, spec: RouterSpec) -> FloatArray:
    """Return ``[n_tokens, n_groups]``."""
    best_two = np.sort(scores.reshape(len(scores), spec.n_groups, -1), axis=2)[:, :, -2:]
    return np.asarray(best_two.max(axis=2) if spec.group_score == "max" else best_two.sum(axis=2))


def profile(router_logits: FloatArray) -> FloatArray:
    """Average the softmax of the counted tokens of one sequence, ``[n_tokens, n_experts]``, to ``[n_experts]``.

    Source:
        arXiv 2510.04694, equation 1.
    """
    return np.asarray(softmax(np.asarray(router_logits, dtype=np.float32)).mean(axis=0))


def selections(expert_ids: IntArray, n_experts: int) -> IntArray:
    """Count how many tokens chose each expert: ``[n_experts]``, sums to ``top_k`` times ``n_tokens``."""
    return np.bincount(np.asarray(expert_ids).ravel(), minlength=n_experts)


def entropy(profiles: FloatArray) -> FloatArray:
    """Shannon entropy in nats over the last axis, with 0 log 0 = 0; between 0 and log ``n_experts``."""
    from scipy.special import xlogy  # noqa: PLC0415 - as of `softmax`

    return np.asarray(-xlogy(profiles, profiles).sum(axis=-1))


def consistency(expert_ids: IntArray, n_experts: int) -> float:
    """Mean Jaccard similarity of the chosen sets ``[n_tokens, top_k]`` over all pairs of tokens of one sequence.

    Between 0 and 1; NaN for fewer than two tokens.

    Source:
        arXiv 2510.04694, section 4.4.
    """
    chosen = np.zeros((len(expert_ids), n_experts))
    np.put_along_axis(chosen, np.asarray(expert_ids), values=1.0, axis=1)
    shared = (chosen @ chosen.T)[np.triu_indices(len(chosen), k=1)]
    size = np.asarray(expert_ids).shape[1]
    return float(np.mean(shared / (2 * size - shared))) if len(shared) else float("nan")
