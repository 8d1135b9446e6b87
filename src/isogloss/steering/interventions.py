"""Interventions on router logits: what a plan may do to some experts of a layer.

Kinds, in the order in which they act on one token's logits ``z``:

* ``soft``      ``z_k + λ·std(z)``, std over the token's logits
* ``adaptive``  ``z_k + λ·w_k·|z_k|``
* ``offset``    ``z_k + c_k``
* ``suppress``  the smallest logit of the row
* ``on``        the largest logit of the row, plus 0.01
* ``off``       the smallest logit of the row, minus 0.01
* ``force``     just above the largest logit of the row, in the plan's order
* ``ban``       minus infinity

``select`` leaves the logits as they are and adds ``c_k`` to the scores that a router ranks.

`isogloss.steering.layer_edits` carries them out, and says what each of them guarantees.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from isogloss.errors import PlanError
from isogloss.routing import PHASES, Phase
from isogloss.steering.fields import as_experts, as_integer, as_languages, as_strength, as_values

__all__ = ["CONSTANT_KINDS", "KINDS", "Intervention", "Kind"]

Kind: TypeAlias = Literal["soft", "force", "suppress", "ban", "adaptive", "offset", "on", "off", "select"]

KINDS: tuple[Kind, ...] = get_args(Kind)

CONSTANT_KINDS: tuple[Kind, ...] = ("offset", "select")
"""Kinds whose values are what is added to each expert."""

_TAKES_STRENGTH = ("soft", "adaptive")
_LARGEST_SELECT = 1e30  # so that sums with a router's bias, and those of groups, stay finite in float32
_TAKES_VALUES = ("adaptive", *CONSTANT_KINDS)
_BOTH: Literal["both"] = "both"


@dataclass(frozen=True)
class Intervention:
    """One edit of some experts' logits in one layer, checked at construction.

    Numbers are stored as Python ints and floats. Experts are stored in ascending order, their values with them, so
    that equal edits are equal objects; only ``force`` keeps the given order, which is its rank order.

    Attributes:
        kind: what happens to the logits; see `isogloss.steering.interventions`.
        layer: 0-based position in the whole decoder stack.
        experts: expert ids, each once, at least one; for ``force`` the first choice comes first.
        strength: ``soft``: λ in [-1, 1], in standard deviations; ``adaptive``: λ; the other kinds take none.
        values: one per expert; ``adaptive``: weights w_k; ``offset``: constants c_k in logits; ``select``: constants
            c_k in the unit of the scores that are ranked, at most 1e30 each; the others take none.
        phase: which tokens to edit: ``prompt``, ``generation`` or ``both``.
        languages: which requests to edit; any codes, stored as sorted full codes. None edits all requests.

    Raises:
        PlanError: a field is missing, not allowed, of the wrong type, or out of range.

    Source:
        soft, force, suppress: arXiv 2510.04694, equations 4 and 5 (std of the population; the paper breaks ties among
        forced experts by noise); ban, adaptive: arXiv 2601.14050; on, off: arXiv 2509.09660; select: the bias of arXiv
        2412.19437, section 2.1.2.

    Example:
        >>> Intervention("soft", layer=12, experts=(7, 3), strength=0.5).experts
        (3, 7)
        >>> Intervention("on", layer=12, experts=(7,), phase="generation", languages=("sw", "de")).to_json()
        {'kind': 'on', 'layer': 12, 'phase': 'generation', 'languages': ['deu_Latn', 'swh_Latn'], 'experts': [7]}
    """

    kind: Kind
    layer: int
    experts: tuple[int, ...]
    strength: float | None = None
    values: tuple[float, ...] | None = None
    phase: Literal["prompt", "generation", "both"] = _BOTH
    languages: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise PlanError(f"unknown kind of intervention {self.kind!r}; expected one of {', '.join(KINDS)}")
        layer = as_integer(self.layer, "layer")
        name = f"{self.kind} in layer {layer}"
        if self.phase not in (*PHASES, _BOTH):
            raise PlanError(f"{name} has phase {self.phase!r}; expected {', '.join(PHASES)} or {_BOTH}")
        experts = as_experts(self.experts, name)
        values = as_values(self.values, len(experts), needed=self.kind in _TAKES_VALUES, name=name)
        strength = as_strength(self.strength, values, needed=self.kind in _TAKES_STRENGTH, name=name)
        if self.kind == "soft" and strength is not None and abs(strength) > 1.0:
            raise PlanError(f"strength of {name}: found {strength}; expected a number in [-1, 1] (the paper uses 0.5)")
        if self.kind == "select" and any(abs(value) > _LARGEST_SELECT for value in values or ()):
            raise PlanError(
                f"values of {name}: found {max(values or (), key=abs):.3g}; expected numbers of at most "
                f"{_LARGEST_SELECT:g}, so that sums with a router's scores stay finite"
            )
        if self.kind != "force":
            order = sorted(range(len(experts)), key=experts.__getitem__)
            experts = tuple(experts[i] for i in order)
            values = None if values is None else tuple(values[i] for i in order)
        languages = as_languages(self.languages, name)
        checked = {"layer": layer, "experts": experts, "strength": strength, "values": values, "languages": languages}
        for field, value in checked.items():
            object.__setattr__(self, field, value)

    def acts_on(self, phase: Phase) -> bool:
        """Return whether it edits tokens of a phase."""
        return self.phase in (phase, _BOTH)

    def applies_to(self, language: str | None) -> bool:
        """Return whether it edits a request in a language; None is edited only by interventions without languages."""
        return self.languages is None or language in self.languages

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON types, without unused fields and conditions that are always true."""
        raw: dict[str, Any] = {"kind": self.kind, "layer": self.layer}
        if self.phase != _BOTH:
            raw["phase"] = self.phase
        if self.languages is not None:
            raw["languages"] = list(self.languages)
        if self.strength is not None:
            raw["strength"] = self.strength
        raw["experts"] = list(self.experts)
        if self.values is not None:
            raw["values"] = list(self.values)
        return raw
