"""Build plans from lists of experts."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from isogloss.errors import PlanError
from isogloss.routing import Fingerprint, Phase
from isogloss.steering.checks import check_plan
from isogloss.steering.interventions import CONSTANT_KINDS, Intervention, Kind
from isogloss.steering.plan import Plan

__all__ = ["STRENGTH_KINDS", "SelectedExpert", "by_rank", "conditional", "plan_from_experts", "united"]

STRENGTH_KINDS: tuple[Kind, ...] = ("soft", "adaptive", *CONSTANT_KINDS)
"""Kinds for which `plan_from_experts` takes a strength."""

_CAPPED = ("force", "on")


class SelectedExpert(NamedTuple):
    """An expert that a rule selected; functions also accept a plain tuple of the four values.

    Attributes:
        layer: 0-based position in the whole decoder stack.
        expert: expert id.
        statistic: the number that the rule ranks experts by.
        weight: weight w_k of kind ``adaptive``.
    """

    layer: int
    expert: int
    statistic: float
    weight: float | None = None


def plan_from_experts(
    experts: Sequence[tuple[int, int, float, float | None]],
    *,
    kind: Kind,
    strength: float | None,
    fingerprint: Fingerprint,
    provenance: Mapping[str, Any],
) -> Plan:
    """Make a plan with one intervention per layer from the experts that a rule selected.

    Args:
        experts: (layer, expert, statistic, weight) each; see `SelectedExpert`. An empty sequence gives an empty plan.
        kind: of the interventions. ``force`` and ``on`` rank experts by the absolute statistic, ties by expert id, and
            keep the first ``top_k`` per layer. ``adaptive`` uses the weights as values.
        strength: ``soft``, ``adaptive``: λ; ``offset``, ``select``: the constant added to each expert, in logits or in
            the unit of the scores that are ranked; else None.
        fingerprint: of the model.
        provenance: where the experts come from. ``dropped_experts`` is added if ``force`` or ``on`` dropped some.

    Raises:
        PlanError: the strength or a weight is missing, not allowed or out of range, or the model has no such expert.
    """
    by_layer: dict[int, list[SelectedExpert]] = defaultdict(list)
    for entry in experts:
        by_layer[entry[0]].append(SelectedExpert(*entry))
    interventions, dropped = [], []
    for rows in by_layer.values():
        kept = rows
        if kind in _CAPPED:
            ranked = by_rank(rows)
            kept, left_over = ranked[: fingerprint.top_k], ranked[fingerprint.top_k :]
            dropped += [_record(row) for row in left_over]
        interventions.append(_intervention(kept, kind, strength))
    record = {**provenance, "dropped_experts": dropped} if dropped else dict(provenance)
    return Plan(fingerprint, tuple(interventions), record)


def conditional(plan: Plan, *, phase: Phase | None = None, languages: Sequence[str] = ()) -> Plan:
    """Restrict all interventions of an unrestricted plan to a phase, to languages, or both.

    Raises:
        PlanError: the phase or a language is unknown, or the plan is already restricted to phases or languages.

    Example:
        >>> plan = Plan(Fingerprint("qwen3_moe", (2,), 8, 2, "ab12"), (Intervention("ban", 2, (0,)),))
        >>> conditional(plan, phase="generation", languages=["sw"]).interventions[0].to_json()
        {'kind': 'ban', 'layer': 2, 'phase': 'generation', 'languages': ['swh_Latn'], 'experts': [0]}
    """
    for name, given, present in (("phase", phase, plan.phases), ("languages", languages, plan.languages)):
        if given and present:
            raise PlanError(f"the plan is already restricted to {name} {', '.join(present)}; pass an unrestricted plan")
    conditions: dict[str, Any] = {"phase": phase} if phase else {}
    if languages:
        conditions["languages"] = tuple(languages)
    return replace(plan, interventions=tuple(replace(each, **conditions) for each in plan.interventions))


def united(first: Plan, second: Plan) -> Plan:
    """Combine the interventions of two plans for one model, such as rules for different languages.

    Returns:
        A plan whose provenance lists under ``parts`` the hash and provenance of every original plan; nested unions are
        flattened.

    Raises:
        PlanError: the plans are for different models, or their interventions contradict each other.
    """
    check_plan(first, second.fingerprint)
    parts = [part for plan in (first, second) for part in _parts(plan)]
    return Plan(first.fingerprint, first.interventions + second.interventions, {"parts": parts})


def _parts(plan: Plan) -> list[dict[str, Any]]:
    if list(plan.provenance) == ["parts"]:
        parts: list[dict[str, Any]] = plan.provenance["parts"]
        return parts
    return [{"plan_sha256": plan.sha256, "provenance": plan.provenance}]


def by_rank(rows: Sequence[SelectedExpert]) -> list[SelectedExpert]:
    """Sort experts by the absolute statistic, largest first, ties by expert id; PlanError where one is not finite."""
    for row in rows:
        if not math.isfinite(row.statistic):
            raise PlanError(
                f"experts are ranked by their statistic; that of expert {row.expert} in layer {row.layer} is "
                f"{row.statistic}; expected a finite number"
            )
    return sorted(rows, key=lambda row: (-abs(row.statistic), row.expert))


def _intervention(rows: Sequence[SelectedExpert], kind: Kind, strength: float | None) -> Intervention:
    layer, experts = rows[0].layer, tuple(row.expert for row in rows)
    if kind == "adaptive":
        if without := [row.expert for row in rows if row.weight is None]:
            raise PlanError(
                f"adaptive in layer {layer}: experts {without} have no weight; use a rule that computes "
                "weights, such as `--rule share`, or another kind"
            )
        return Intervention(kind, layer, experts, strength, tuple(row.weight for row in rows if row.weight is not None))
    if kind in CONSTANT_KINDS:
        if strength is None:
            unit = "logits" if kind == "offset" else "the unit of the scores that the router ranks"
            raise PlanError(f"{kind} in layer {layer} has no strength; expected the constant to add, in {unit}")
        return Intervention(kind, layer, experts, None, (strength,) * len(experts))
    return Intervention(kind, layer, experts, strength)


def _record(row: SelectedExpert) -> dict[str, int | float]:
    """Convert an expert to JSON types; rules may use NumPy's numbers."""
    return {"layer": int(row.layer), "expert": int(row.expert), "statistic": float(row.statistic)}
