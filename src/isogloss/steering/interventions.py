"""What an intervention does to router logits: pure functions, the same for NumPy and torch.

Every edit happens in float32 before scoring and choosing, so one definition serves all engines. Kinds, in the order in
which they act on one token's logits ``z``:

* ``soft``      ``z_k + λ·std(z)``, std over the token's logits
* ``adaptive``  ``z_k + λ·w_k·|z_k|``
* ``offset``    ``z_k + c_k``
* ``suppress``  the smallest logit of the row
* ``force``     just above the largest logit of the row, in the plan's order
* ``ban``       minus infinity

The first three all read the original logits and add up; each later kind reads what the earlier ones left.

``force`` and ``ban`` promise something about the choice, and between logits and choice a router may saturate, add a
bias or leave groups of experts out. So `apply_choice` does both once more on the scores that the choice is made on;
the weights of the chosen experts come from the edited logits alone.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any, Literal, Self, TypeAlias, get_args

import array_api_compat
import numpy as np
import numpy.typing as npt

from isogloss.errors import PlanError

__all__ = ["KINDS", "Array", "Intervention", "Kind", "LayerEdit", "apply_choice", "apply_edit", "edit_layer"]

Array: TypeAlias = Any
"""An array of NumPy or a tensor of torch."""

Kind: TypeAlias = Literal["soft", "force", "suppress", "ban", "adaptive", "offset"]

KINDS: tuple[Kind, ...] = get_args(Kind)

_TAKES_STRENGTH = ("soft", "adaptive")
_TAKES_VALUES = ("adaptive", "offset")
_ARRAYS = ("soft", "adaptive", "offset", "suppress", "force_rank", "force_lift", "ban")
_LARGEST = float(np.finfo(np.float32).max)
_FORCE_STEP = 2.0**-16  # 128 times the spacing of float32, so ranks survive rounding and a float32 softmax


@dataclass(frozen=True)
class Intervention:
    """One edit of some experts' logits in one layer, checked at construction.

    Numbers are stored as Python ints and floats. Experts are stored in ascending order, their values with them, so
    that equal edits are equal objects; only ``force`` keeps the given order, which is its rank order.

    Attributes:
        kind: what happens to the logits, see the module.
        layer: 0-based position in the whole decoder stack.
        experts: expert ids, each once, at least one; for ``force`` the first choice comes first.
        strength: ``soft``: λ in [-1, 1], in standard deviations; ``adaptive``: λ; the other kinds take none.
        values: one per expert; ``adaptive``: weights w_k; ``offset``: constants c_k in logits; the others take none.

    Raises:
        PlanError: a field is missing, superfluous, of the wrong type, or out of its range.

    Source:
        soft, force, suppress: arXiv 2510.04694, equations 4 and 5 (std of the population; the paper breaks ties among
        forced experts by noise); ban, adaptive: arXiv 2601.14050.

    Example:
        >>> Intervention("soft", layer=12, experts=(7, 3), strength=0.5).experts
        (3, 7)
    """

    kind: Kind
    layer: int
    experts: tuple[int, ...]
    strength: float | None = None
    values: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise PlanError(f"unknown kind of intervention {self.kind!r}; expected one of {', '.join(KINDS)}")
        layer = _integer(self.layer, "layer")
        name = f"{self.kind} in layer {layer}"
        experts = _experts(self.experts, name)
        values = _values(self.kind, self.values, len(experts), name=name)
        strength = _strength(self.kind, self.strength, values, name=name)
        if self.kind != "force":
            order = sorted(range(len(experts)), key=experts.__getitem__)
            experts = tuple(experts[i] for i in order)
            values = None if values is None else tuple(values[i] for i in order)
        checked = {"layer": layer, "experts": experts, "strength": strength, "values": values}
        for field, value in checked.items():
            object.__setattr__(self, field, value)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON types; ``strength`` and ``values`` only where the kind takes them."""
        raw: dict[str, Any] = {"kind": self.kind, "layer": self.layer}
        if self.strength is not None:
            raw["strength"] = self.strength
        raw["experts"] = list(self.experts)
        if self.values is not None:
            raw["values"] = list(self.values)
        return raw

    @classmethod
    def from_json(cls, raw: object) -> Self:
        """Build from `to_json`'s output.

        Raises:
            PlanError: not an object, a field is missing or unknown, or the intervention is invalid.
        """
        if not isinstance(raw, Mapping):
            raise PlanError(f"an intervention is a {type(raw).__name__}; expected a JSON object")
        required, optional = {"kind", "layer", "experts"}, {"strength", "values"}
        if missing := required - raw.keys():
            raise PlanError(f"an intervention lacks {sorted(missing)}; found {sorted(raw)}")
        if unknown := raw.keys() - required - optional:
            raise PlanError(
                f"an intervention has unknown fields {sorted(unknown)}; expected {sorted(required | optional)}"
            )
        return cls(**raw)


@dataclass(frozen=True, eq=False)
class LayerEdit:
    """All interventions of one layer as dense arrays ``[n_experts]``; None for what the layer does not do.

    Attributes:
        n_experts: width of the logits that this edit fits.
        soft: float32, λ.
        adaptive: float32, λ·w.
        offset: float32, constants.
        suppress: bool.
        force_rank: integer; 0 = not forced, 1 = first choice.
        force_lift: float32, steps above the row's maximum, minus infinity where not forced (from ``force_rank``).
        ban: bool.
    """

    n_experts: int
    soft: Array = None
    adaptive: Array = None
    offset: Array = None
    suppress: Array = None
    force_rank: Array = None
    force_lift: Array = None
    ban: Array = None

    @property
    def arrays(self) -> dict[str, Array]:
        """The arrays that are present, by name."""
        named = {name: getattr(self, name) for name in _ARRAYS}
        return {name: array for name, array in named.items() if array is not None}

    @property
    def is_empty(self) -> bool:
        """True where the edit changes nothing."""
        return not self.arrays

    @property
    def fixes_choice(self) -> bool:
        """True where an expert is forced or banned, so that `apply_choice` has something to do."""
        return self.force_lift is not None or self.ban is not None

    def to(self, like: Array) -> LayerEdit:
        """Copy the arrays to the namespace and device of ``like``; do it once, not in every forward."""
        xp = array_api_compat.array_namespace(like)
        device = array_api_compat.device(like)
        moved = {name: xp.asarray(array, device=device, copy=True) for name, array in self.arrays.items()}
        return replace(self, **moved)


def edit_layer(interventions: Iterable[Intervention], n_experts: int) -> LayerEdit:
    """Add up the interventions of one layer into dense NumPy arrays.

    Args:
        interventions: of one layer; their ``layer`` is not looked at. Forced experts rank in the order given.
        n_experts: routed experts of the layer.

    Raises:
        PlanError: an expert id is not below ``n_experts``.
    """
    dense: dict[str, npt.NDArray[Any]] = {}
    for intervention in interventions:
        if max(intervention.experts) >= n_experts:
            raise PlanError(f"expert {max(intervention.experts)} is out of range; the layer has {n_experts} experts")
        _add(dense, intervention, n_experts)
    if "force_rank" in dense:
        rank = dense["force_rank"]
        dense["force_lift"] = np.where(rank > 0, rank.max() + 1.0 - rank, -np.inf).astype(np.float32)
    return LayerEdit(n_experts, **dense)


def apply_edit(logits: Array, edit: LayerEdit) -> Array:
    """Edit the router logits of any number of tokens.

    The result must reach scoring and choosing in float32: cast down to bfloat16, forced experts tie with the maximum.

    Args:
        logits: ``[..., n_experts]``, any floating dtype, of NumPy or torch; finite, at most 1e18 in absolute value
            where ``soft`` is used (its variance must fit float32).
        edit: from `edit_layer` or `compile_layer`, moved to the same namespace and device by `LayerEdit.to`.

    Returns:
        ``[..., n_experts]`` float32 of the same namespace and device; equal to ``logits`` where the edit is empty.

    Raises:
        PlanError: the edit is for another number of experts.
        TypeError: the edit lives in another namespace than the logits.

    Example:
        >>> edit = edit_layer([Intervention("force", 0, (2, 0)), Intervention("ban", 0, (1,))], n_experts=4)
        >>> apply_edit(np.array([[0.0, 5.0, -1.0, 2.0]]), edit).argsort()
        array([[1, 3, 0, 2]])
    """
    xp, edited = _in_float32(logits, edit)
    if 0 in logits.shape:
        return edited
    edited = _add_shifts(xp, edited, edit)
    if edit.suppress is not None:
        edited = xp.where(edit.suppress, xp.min(edited, axis=-1, keepdims=True), edited)
    return _force_and_ban(xp, edited, edit)


def apply_choice(scores: Array, edit: LayerEdit) -> Array:
    """Make forced experts the best and banned ones the worst of the scores that the choice is made on.

    Args:
        scores: ``[..., n_experts]`` after scoring, selection bias and groups, minus infinity where a group is left
            out; of NumPy or torch. Banned experts rank below those of groups left out.
        edit: as in `apply_edit`; its other kinds change nothing here.

    Returns:
        ``[..., n_experts]`` float32 of the same namespace and device.

    Raises:
        PlanError: the edit is for another number of experts.
        TypeError: the edit lives in another namespace than the scores.
    """
    xp, edited = _in_float32(scores, edit)
    if 0 in scores.shape:
        return edited
    return _force_and_ban(xp, xp.maximum(edited, xp.full_like(edited, -_LARGEST)), edit)


def _in_float32(logits: Array, edit: LayerEdit) -> tuple[Array, Array]:
    if logits.shape[-1] != edit.n_experts:
        raise PlanError(f"the logits are {logits.shape[-1]} wide; this edit is for {edit.n_experts} experts")
    xp = array_api_compat.array_namespace(logits, *edit.arrays.values())
    return xp, xp.astype(logits, xp.float32, copy=False)


def _force_and_ban(xp: Array, logits: Array, edit: LayerEdit) -> Array:
    edited = logits
    if edit.force_lift is not None:
        top = xp.max(edited, axis=-1, keepdims=True)
        step = _FORCE_STEP * xp.maximum(xp.abs(top), xp.ones_like(top))
        edited = xp.maximum(edited, top + step * edit.force_lift)
    if edit.ban is not None:
        edited = xp.where(edit.ban, xp.full_like(edited[..., :1], -math.inf), edited)
    return edited


def _add_shifts(xp: Array, logits: Array, edit: LayerEdit) -> Array:
    shifted = logits
    if edit.soft is not None:
        shifted = shifted + edit.soft * xp.std(logits, axis=-1, correction=0, keepdims=True)
    if edit.adaptive is not None:
        shifted = shifted + edit.adaptive * xp.abs(logits)
    if edit.offset is not None:
        shifted = shifted + edit.offset
    return shifted


def _add(dense: dict[str, npt.NDArray[Any]], intervention: Intervention, n_experts: int) -> None:
    kind, experts = intervention.kind, list(intervention.experts)
    if kind in ("suppress", "ban"):
        dense.setdefault(kind, np.zeros(n_experts, dtype=np.bool_))[experts] = True
    elif kind == "force":
        rank = dense.setdefault("force_rank", np.zeros(n_experts, dtype=np.int64))
        rank[experts] = rank.max() + 1 + np.arange(len(experts))
    else:
        strength = 1.0 if intervention.strength is None else intervention.strength
        values = np.array(intervention.values or [1.0] * len(experts), dtype=np.float64)
        dense.setdefault(kind, np.zeros(n_experts, dtype=np.float32))[experts] += (strength * values).astype(np.float32)


def _sequence(raw: object, check: Callable[[object, str], Any], name: str) -> tuple[Any, ...]:
    if isinstance(raw, str | bytes | Mapping) or not isinstance(raw, Iterable):
        raise PlanError(f"{name} is {raw!r}; expected a list of numbers")
    return tuple(check(entry, name) for entry in raw)


def _integer(raw: object, name: str) -> int:
    if isinstance(raw, bool) or not isinstance(raw, Integral) or raw < 0:
        raise PlanError(f"{name}: found {raw!r}; expected an integer of at least 0")
    return int(raw)


def _number(raw: object, name: str) -> float:
    if isinstance(raw, bool) or not isinstance(raw, Real):
        raise PlanError(f"{name}: found {raw!r}; expected a number")
    try:
        number = float(raw)
    except OverflowError:
        number = math.inf
    if not abs(number) <= _LARGEST:
        raise PlanError(f"{name}: found NaN, infinity or a number that float32 cannot hold; expected a finite number")
    return number + 0.0  # turns -0.0, which equals 0.0 and is written differently, into 0.0


def _experts(raw: object, name: str) -> tuple[int, ...]:
    experts: tuple[int, ...] = _sequence(raw, _integer, f"experts of {name}")
    if not experts:
        raise PlanError(f"{name} has no experts; give at least one, or leave the intervention out")
    twice = [expert for expert, times in Counter(experts).items() if times > 1]
    if twice:
        raise PlanError(f"{name} names experts {sorted(twice)} more than once; name each expert once")
    return experts


def _values(kind: Kind, raw: object, n_experts: int, *, name: str) -> tuple[float, ...] | None:
    _require(raw, "values", needed=kind in _TAKES_VALUES, name=name)
    if raw is None:
        return None
    values: tuple[float, ...] = _sequence(raw, _number, f"values of {name}")
    if len(values) != n_experts:
        raise PlanError(f"{name} has {len(values)} values for {n_experts} experts; give one value per expert")
    return values


def _strength(kind: Kind, raw: object, values: tuple[float, ...] | None, *, name: str) -> float | None:
    _require(raw, "strength", needed=kind in _TAKES_STRENGTH, name=name)
    if raw is None:
        return None
    strength = _number(raw, f"strength of {name}")
    if kind == "soft" and abs(strength) > 1.0:
        raise PlanError(f"strength of {name}: found {strength}; expected a number in [-1, 1] (the paper uses 0.5)")
    if any(abs(strength * value) > _LARGEST for value in values or ()):
        raise PlanError(f"strength times values of {name} is more than float32 can hold; use smaller ones")
    return strength


def _require(raw: object, field: str, *, needed: bool, name: str) -> None:
    if needed and raw is None:
        raise PlanError(f"{name} has no {field}; this kind needs {field}")
    if not needed and raw is not None:
        raise PlanError(f"{name} has {field} {raw!r}; this kind takes no {field}")
