"""Edits of router logits: pure functions, the same for NumPy and torch.

Every edit happens in float32 before scoring and selection, so one definition serves all engines.

``soft``, ``adaptive`` and ``offset`` all read the original logits and add up. Each later kind reads the result of the
earlier ones, except that ``on`` and ``off`` read the same logits.

``force`` and ``ban`` guarantee which experts are selected. Between logits and selection a router may saturate, add a
bias or exclude groups of experts, so `apply_choice` applies both again to the scores that are ranked. The weights of
the selected experts come from the edited logits alone.

``select`` is what a router's selection bias does: it decides who is selected, and the weights of the selected experts
do not know of it. `apply_select` adds it where such a bias is added, after scoring and before groups of experts are
compared, so before `apply_choice`; a router that ranks its logits has it added to those. Its unit is that of what is
ranked: a score between 0 and 1 of a router by softmax or sigmoid, else a logit.

``on`` and ``off`` are SteerMoE's formula and guarantee no more than it does. The paper applies it to
``s = log_softmax(z)``, which is ``z`` minus one number per token. A router that scores by softmax gives the same result
for both, so editing ``z`` is equivalent. For other routers (sigmoid) the shift would change the weights of experts that
no plan names, so ``z`` is edited there too. Several experts that are on have equal logits, as in the paper; a plan has
at most ``top_k`` of them, so all are selected, with equal weights, however the router breaks ties.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import array_api_compat
import numpy as np
import numpy.typing as npt

from isogloss.errors import PlanError
from isogloss.steering.fields import FLOAT32_MAX
from isogloss.steering.interventions import Intervention

__all__ = ["AnyArray", "LayerEdit", "apply_choice", "apply_edit", "apply_select", "edit_layer"]

AnyArray: TypeAlias = Any
"""An array of NumPy or a tensor of torch."""

_ARRAYS = (
    *("soft", "adaptive", "offset", "suppress", "on", "off", "force_rank", "force_lift", "least_score", "ban"),
    "select",
)
_OF_LOGITS = {*_ARRAYS} - {"least_score", "select"}
_MARGIN = float(np.float32(0.01))  # distance of on and off from the extreme logit
_LEAST_MARGIN = 2.0**-20  # relative to the logit: eight times float32's spacing; exceeds _MARGIN above 10^4
_FORCE_STEP = 2.0**-16  # 128 times the spacing of float32, so ranks survive rounding and a float32 softmax
_SCORE_STEP = 2.0**-20  # of what forced experts score: 16 times the spacing of float32
_BOUNDS = {"on": (_LEAST_MARGIN, -FLOAT32_MAX), "off": (-_LEAST_MARGIN, FLOAT32_MAX), "ban": (-np.inf, np.inf)}
"""By kind: the number of an expert that it names, and of all others: a distance that is finite, so that the gradient of
what it is multiplied by is a number."""


@dataclass(frozen=True, eq=False)
class LayerEdit:
    """All interventions of one layer as dense arrays ``[n_experts]``; None for unused kinds.

    Arrays broadcast against the logits: an engine whose forward pass mixes tokens with different edits may use
    ``[n_tokens, n_experts]``, one row per token. They are such that each kind takes few operations: experts that a kind
    does not name have the value that changes nothing.

    Attributes:
        n_experts: width of the logits that this edit fits.
        soft: float32, λ; else 0.
        adaptive: float32, λ·w; else 0.
        offset: float32, constants; else 0.
        suppress: bool.
        on: float32, distance above the row's maximum, relative to its size; else the smallest float32.
        off: float32, distance from the row's minimum, negative, relative to its size; else the largest float32.
        force_rank: integer; 0 = not forced, 1 = first choice.
        force_lift: float32, distance above the row's maximum, relative to its size; else the smallest float32.
        least_score: float32, where an expert is forced or banned: what `apply_choice` raises scores to; near the
            largest float32 where forced, else the smallest one.
        ban: float32, minus infinity; else plus infinity.
        select: float32, constants that are added to what is ranked; else 0.
    """

    n_experts: int
    soft: AnyArray = None
    adaptive: AnyArray = None
    offset: AnyArray = None
    suppress: AnyArray = None
    on: AnyArray = None
    off: AnyArray = None
    force_rank: AnyArray = None
    force_lift: AnyArray = None
    least_score: AnyArray = None
    ban: AnyArray = None
    select: AnyArray = None

    @property
    def arrays(self) -> dict[str, AnyArray]:
        """The arrays that are present, by name."""
        named = {name: getattr(self, name) for name in _ARRAYS}
        return {name: array for name, array in named.items() if array is not None}

    @property
    def is_empty(self) -> bool:
        """Whether the edit changes nothing."""
        return not self.arrays

    @property
    def edits_logits(self) -> bool:
        """Whether `apply_edit` changes a logit."""
        return not _OF_LOGITS.isdisjoint(self.arrays)

    @property
    def fixes_choice(self) -> bool:
        """Whether an expert is forced or banned, so that `apply_choice` is needed."""
        return self.least_score is not None

    def to(self, like: AnyArray) -> LayerEdit:
        """Copy the arrays to the namespace and device of ``like``; do it once, not in every forward pass."""
        xp = array_api_compat.array_namespace(like)
        device = array_api_compat.device(like)
        moved = {name: xp.asarray(array, device=device, copy=True) for name, array in self.arrays.items()}
        return replace(self, **moved)


def edit_layer(interventions: Iterable[Intervention], n_experts: int) -> LayerEdit:
    """Combine the interventions of one layer into dense NumPy arrays; those that add up to zero leave the edit empty.

    Forced experts rank in the given order; the interventions' ``layer`` is ignored.

    Raises:
        PlanError: an expert id is not below ``n_experts``.
    """
    dense: dict[str, npt.NDArray[Any]] = {}
    for intervention in interventions:
        if max(intervention.experts) >= n_experts:
            raise PlanError(f"expert {max(intervention.experts)} is out of range; the layer has {n_experts} experts")
        _add(dense, intervention, n_experts)
    if "force_rank" in dense or "ban" in dense:
        rank = dense.get("force_rank", np.zeros(n_experts, dtype=np.int64))
        best = FLOAT32_MAX * (1.0 - _SCORE_STEP * rank)
        dense["least_score"] = np.where(rank > 0, best, -FLOAT32_MAX).astype(np.float32)
    if "force_rank" in dense:
        steps = rank.max() + 1.0 - rank
        dense["force_lift"] = np.where(rank > 0, _FORCE_STEP * steps, -FLOAT32_MAX).astype(np.float32)
    return LayerEdit(n_experts, **{name: array for name, array in dense.items() if array.any()})


def apply_edit(logits: AnyArray, edit: LayerEdit, *, xp: Any = None) -> AnyArray:  # noqa: ANN401 - a module
    """Edit the router logits of any number of tokens.

    Scoring and selection must use the result in float32: in bfloat16, forced experts tie with the maximum.

    Args:
        logits: ``[..., n_experts]``, any floating dtype, of NumPy or torch; finite, at most 1e18 in absolute value
            where ``soft`` is used (its variance must fit float32).
        edit: from `edit_layer` or `compile_layer`, moved to the same namespace and device by `LayerEdit.to`.
        xp: array namespace of both; None detects it, which does not work under compilers that trace the call.

    Returns:
        ``[..., n_experts]`` float32 of the same namespace and device; equal to ``logits`` where the edit is empty.

    Raises:
        PlanError: the edit is for another number of experts.
        TypeError: the edit's array namespace differs from that of the logits.

    Example:
        >>> edit = edit_layer([Intervention("force", 0, (2, 0)), Intervention("ban", 0, (1,))], n_experts=4)
        >>> apply_edit(np.array([[0.0, 5.0, -1.0, 2.0]]), edit).argsort()
        array([[1, 3, 0, 2]])
    """
    xp, edited = _in_float32(logits, edit, xp)
    if 0 in logits.shape:
        return edited
    edited = _add_shifts(xp, edited, edit)
    if edit.suppress is not None:
        edited = xp.where(edit.suppress, xp.min(edited, axis=-1, keepdims=True), edited)
    edited = _on_and_off(xp, edited, edit)
    if edit.force_lift is not None:
        top = xp.max(edited, axis=-1, keepdims=True)
        edited = xp.maximum(edited, _beyond(xp, top, edit.force_lift, 1.0))
    return edited if edit.ban is None else xp.minimum(edited, edit.ban)


def apply_choice(scores: AnyArray, edit: LayerEdit, *, xp: Any = None) -> AnyArray:  # noqa: ANN401 - a module
    """Make forced experts the best and banned experts the worst of the scores that are ranked.

    Args:
        scores: ``[..., n_experts]`` after scoring, selection bias and groups, minus infinity for excluded groups; of
            NumPy or torch. Banned experts rank below those of excluded groups.
        edit: as in `apply_edit`; kinds other than ``force`` and ``ban`` have no effect here.
        xp: as in `apply_edit`.

    Returns:
        ``[..., n_experts]`` float32 of the same namespace and device.

    Raises:
        PlanError: the edit is for another number of experts.
        TypeError: the edit's array namespace differs from that of the scores.
    """
    xp, edited = _in_float32(scores, edit, xp)
    if 0 in scores.shape:
        return edited
    return xp.clip(edited, edit.least_score, edit.ban) if edit.fixes_choice else edited


def apply_select(scores: AnyArray, edit: LayerEdit, *, xp: Any = None) -> AnyArray:  # noqa: ANN401 - a module
    """Add the constants of ``select`` to what a router ranks, or to the selection bias that it adds to that.

    A router with a selection bias adds ``bias + c`` in one, so that the same sums, bit for bit, come from a checkpoint
    whose bias is ``bias + c``.

    Args:
        scores: ``[..., n_experts]`` before groups of experts are compared: scores, logits where these are ranked, or
            the bias; of NumPy or torch.
        edit: as in `apply_edit`; the other kinds have no effect here.
        xp: as in `apply_edit`.

    Returns:
        ``[..., n_experts]`` float32 of the same namespace and device, of one row per token where the edit has that.

    Raises:
        PlanError: the edit is for another number of experts.
        TypeError: the edit's array namespace differs from that of the scores.
    """
    _, edited = _in_float32(scores, edit, xp)
    return edited if edit.select is None else edited + edit.select


def _in_float32(logits: AnyArray, edit: LayerEdit, xp: Any) -> tuple[AnyArray, AnyArray]:  # noqa: ANN401 - a module
    if logits.shape[-1] != edit.n_experts:
        raise PlanError(f"the logits are {logits.shape[-1]} wide; this edit is for {edit.n_experts} experts")
    xp = xp or array_api_compat.array_namespace(logits, *edit.arrays.values())
    return xp, logits if logits.dtype == xp.float32 else xp.astype(logits, xp.float32)


def _add_shifts(xp: AnyArray, logits: AnyArray, edit: LayerEdit) -> AnyArray:
    shifted = logits
    if edit.soft is not None:
        shifted = _plus_product(xp, shifted, edit.soft, xp.std(logits, axis=-1, correction=0, keepdims=True))
    if edit.adaptive is not None:
        shifted = _plus_product(xp, shifted, edit.adaptive, xp.abs(logits))
    return shifted if edit.offset is None else shifted + edit.offset


def _on_and_off(xp: AnyArray, logits: AnyArray, edit: LayerEdit) -> AnyArray:
    edited = logits
    if edit.on is not None:
        top = xp.max(logits, axis=-1, keepdims=True)
        edited = xp.maximum(edited, _beyond(xp, top, edit.on, _MARGIN / _LEAST_MARGIN))
    if edit.off is not None:
        bottom = xp.min(logits, axis=-1, keepdims=True)
        edited = xp.minimum(edited, _beyond(xp, bottom, edit.off, _MARGIN / _LEAST_MARGIN))
    return edited


def _beyond(xp: AnyArray, edge: AnyArray, distance: AnyArray, least_size: float) -> AnyArray:
    """Return each expert's logit at its distance from an extreme one, relative to that one's size."""
    size = xp.abs(edge)
    if _is_torch(xp):
        return _plus_product(xp, edge, distance, xp.clamp_min(size, least_size))
    with np.errstate(over="ignore"):  # of experts that are not named: infinitely far is beyond every logit too
        return _plus_product(xp, edge, distance, xp.maximum(size, least_size))


def _plus_product(xp: AnyArray, terms: AnyArray, factors: AnyArray, others: AnyArray) -> AnyArray:
    return xp.addcmul(terms, factors, others) if _is_torch(xp) else terms + factors * others


def _is_torch(xp: AnyArray) -> bool:
    """Whether the namespace has torch's own functions, which take fewer operations than the standard's."""
    return hasattr(xp, "addcmul")


def _add(dense: dict[str, npt.NDArray[Any]], intervention: Intervention, n_experts: int) -> None:
    kind, experts = intervention.kind, list(intervention.experts)
    if kind == "suppress":
        dense.setdefault(kind, np.zeros(n_experts, dtype=np.bool_))[experts] = True
    elif kind in _BOUNDS:
        value, neutral = _BOUNDS[kind]
        dense.setdefault(kind, np.full(n_experts, neutral, dtype=np.float32))[experts] = value
    elif kind == "force":
        rank = dense.setdefault("force_rank", np.zeros(n_experts, dtype=np.int64))
        rank[experts] = rank.max() + 1 + np.arange(len(experts))
    else:
        strength = 1.0 if intervention.strength is None else intervention.strength
        values = np.array(intervention.values or [1.0] * len(experts), dtype=np.float64)
        dense.setdefault(kind, np.zeros(n_experts, dtype=np.float32))[experts] += (strength * values).astype(np.float32)
