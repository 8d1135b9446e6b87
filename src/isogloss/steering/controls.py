"""Control plans: each changes one property of a plan, keeps the rest, and records the change in its provenance.

Controls are plans for the same model and pass the same checks. Conditions on phase and language are kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from isogloss.errors import PlanError
from isogloss.steering.build import STRENGTH_KINDS, SelectedExpert, by_rank
from isogloss.steering.interventions import CONSTANT_KINDS, Intervention, Kind
from isogloss.steering.plan import Plan

__all__ = ["opposed", "random_control", "replaced", "shifted_control", "with_strength"]

_OPPOSITE: Mapping[Kind, Kind] = {"force": "suppress", "on": "off", "off": "on"}


def random_control(plan: Plan, *, seed: int) -> Plan:
    """Replace the experts of a plan by random ones, layer by layer.

    Every expert of the plan is replaced by another one of its layer, the same one for all kinds, so the control has the
    same number of experts per layer and kind, and the same strengths, values and ranks. New experts are drawn uniformly
    from those that the plan does not name in that layer or, if these are too few, from the whole layer. A layer's draw
    depends on the seed, at least 0, and the layer, not on other layers.

    Returns:
        A plan whose provenance has the seed, the original's hash and provenance, and the layers in which control and
        original may share experts.

    Raises:
        PlanError: the seed is negative.
    """
    if seed < 0:
        raise PlanError(f"seed is {seed}; expected an integer of at least 0")
    n_experts = plan.fingerprint.n_experts
    substitutes, overlapping = {}, []
    for layer, used in _experts_by_layer(plan).items():
        unused = np.setdiff1d(np.arange(n_experts), used)
        if len(unused) < len(used):
            overlapping.append(layer)
        pool = unused if len(unused) >= len(used) else np.arange(n_experts)
        drawn = np.random.default_rng([seed, layer]).choice(pool, size=len(used), replace=False).tolist()
        substitutes[layer] = dict(zip(sorted(used), drawn, strict=True))
    record = _record("random", plan, seed=seed, overlapping_layers=overlapping)
    return Plan(plan.fingerprint, tuple(_rename(each, substitutes[each.layer]) for each in plan.interventions), record)


def shifted_control(
    plan: Plan, layers: Sequence[int], *, table: Sequence[tuple[int, int, float, float | None]] | None = None
) -> Plan:
    """Move a plan to other layers, to control for the depth at which it acts.

    The plan's first layer moves to the first of ``layers``, the second to the second, and so on. Without a table the
    expert ids stay the same; ids of different layers are unrelated, so this controls for number and depth. With a
    table, the experts are those that the same rule selects in the new layers, as in the papers' controls outside the
    middle. If ``layers`` are too few, the plan's layers with the fewest experts are omitted, deeper ones first.

    Args:
        plan: the plan to compare with.
        layers: routed layers that the plan does not steer, such as an early or a late block, in the order of use.
        table: experts that a rule selected in the new layers, as for `plan_from_experts`.

    Returns:
        A plan whose provenance has the original's hash and provenance, the new layer of each old one, the omitted
        layers, and the layers in which the table had too few experts.

    Raises:
        PlanError: ``layers`` is empty or has repetitions, the plan steers one of them, or the model does not route one.
    """
    if both := sorted(set(layers).intersection(plan.layers)):
        raise PlanError(f"the plan itself steers layers {both}; give layers outside of {list(plan.layers)}")
    if not layers or len(set(layers)) < len(layers):
        raise PlanError(f"layers are {list(layers)}; expected at least one, each once")
    used = _experts_by_layer(plan)
    kept = sorted(sorted(used, key=lambda layer: (-len(used[layer]), layer))[: len(layers)])
    target = dict(zip(kept, layers, strict=False))
    moved = [replace(each, layer=target[each.layer]) for each in plan.interventions if each.layer in target]
    record = _record(
        "shifted",
        plan,
        layers=[[int(old), int(new)] for old, new in target.items()],
        left_out_layers=[layer for layer in plan.layers if layer not in target],
    )
    shifted = Plan(plan.fingerprint, tuple(moved), record)
    if table is None:
        return shifted
    interventions, fewer = _substitute(shifted, table)
    return Plan(plan.fingerprint, interventions, {**record, "fewer": fewer})


def replaced(plan: Plan, table: Sequence[tuple[int, int, float, float | None]], *, name: str) -> Plan:
    """Replace a plan's experts by as many per layer from a table, such as multilingual or unrelated-task experts.

    A layer's experts, in the plan's order, are replaced by those of the table, ranked by the absolute statistic, ties
    by expert id; strengths, values and ranks are kept. If the table has fewer, the plan's last experts are omitted.

    Args:
        plan: the plan to compare with.
        table: experts that a rule selected, as for `plan_from_experts`; those of other layers are ignored.
        name: of the new experts, such as ``multilingual``; recorded in the provenance.

    Returns:
        A plan whose provenance has the original's hash and provenance, the layers in which the table had too few
        experts, and the experts that both plans use.

    Raises:
        PlanError: the table has no expert in any layer of the plan, or one that the model does not have.
    """
    interventions, fewer = _substitute(plan, table)
    if not interventions and plan.interventions:
        raise PlanError(
            f"none of the {name} experts is in the plan's layers {list(plan.layers)}; lower their threshold, or "
            "include more layers"
        )
    replacement = Plan(plan.fingerprint, interventions)
    ours, theirs = _experts_by_layer(plan), _experts_by_layer(replacement)
    same = [{"layer": layer, "expert": k} for layer in theirs for k in sorted({*ours[layer]} & {*theirs[layer]})]
    return replace(replacement, provenance=_record("replaced", plan, experts=name, fewer=fewer, in_both=same))


def opposed(plan: Plan) -> Plan:
    """Turn promotion into suppression: if the experts help, suppressing them should hurt.

    ``soft`` and ``adaptive`` change the sign of λ, ``offset`` and ``select`` that of their constants; ``force`` becomes
    ``suppress``, ``on`` becomes ``off`` and ``off`` becomes ``on``.

    Raises:
        PlanError: the plan has ``suppress`` or ``ban``, which have no opposite: they do not rank experts.
    """
    return Plan(plan.fingerprint, tuple(map(_oppose, plan.interventions)), _record("opposed", plan))


def with_strength(plan: Plan, strength: float) -> Plan:
    """Change the strength of a plan, for a dose-response curve; kinds without a strength do not change.

    ``strength`` is λ of ``soft`` and ``adaptive``, and the constant of every expert of ``offset`` and ``select``.

    Raises:
        PlanError: none or several of the plan's kinds take a strength, its interventions differ in strength, or the new
            strength is out of range.
    """
    kinds = sorted({each.kind for each in plan.interventions if each.kind in STRENGTH_KINDS})
    if len(kinds) != 1:
        names = " and ".join(kinds) or "none"
        raise PlanError(
            f"kinds with a strength in the plan: {names}; expected exactly one of {', '.join(STRENGTH_KINDS)}"
        )
    doses = {dose for each in plan.interventions if each.kind in kinds for dose in _doses(each)}
    if len(doses) > 1:
        raise PlanError(
            f"{kinds[0]} has strengths {sorted(doses)} in this plan; expected a single one, so that only the dose "
            "changes"
        )
    interventions = tuple(_dose(each, strength) for each in plan.interventions)
    return Plan(plan.fingerprint, interventions, _record("strength", plan, strength=strength))


def _doses(intervention: Intervention) -> tuple[float, ...]:
    if intervention.kind in CONSTANT_KINDS:
        return intervention.values or ()
    return () if intervention.strength is None else (intervention.strength,)


def _dose(intervention: Intervention, strength: float) -> Intervention:
    if intervention.kind not in STRENGTH_KINDS:
        return intervention
    if intervention.kind in CONSTANT_KINDS:
        return replace(intervention, values=(strength,) * len(intervention.experts))
    return replace(intervention, strength=strength)


def _oppose(intervention: Intervention) -> Intervention:
    kind = intervention.kind
    if kind in _OPPOSITE:
        return replace(intervention, kind=_OPPOSITE[kind])
    if kind in CONSTANT_KINDS:
        return replace(intervention, values=tuple(-value for value in intervention.values or ()))
    if intervention.strength is None:
        raise PlanError(f"{kind} in layer {intervention.layer} has no opposite; expected kinds that promote experts")
    return replace(intervention, strength=-intervention.strength)


def _experts_by_layer(plan: Plan) -> dict[int, list[int]]:
    """Return the distinct experts of each layer, in the plan's order."""
    used: dict[int, dict[int, None]] = {layer: {} for layer in plan.layers}
    for each in plan.interventions:
        used[each.layer].update(dict.fromkeys(each.experts))
    return {layer: list(experts) for layer, experts in used.items()}


def _substitute(
    plan: Plan, table: Sequence[tuple[int, int, float, float | None]]
) -> tuple[tuple[Intervention, ...], list[dict[str, int]]]:
    """Replace a plan's experts by a table's; also return the layers in which the table has fewer."""
    rows = [SelectedExpert(*entry) for entry in table]
    substitutes, fewer = {}, []
    for layer, used in _experts_by_layer(plan).items():
        ranked = [int(row.expert) for row in by_rank([row for row in rows if row.layer == layer])]
        if twice := sorted({expert for expert in ranked if ranked.count(expert) > 1}):
            raise PlanError(f"the table names experts {twice} of layer {layer} more than once; name each expert once")
        substitutes[layer] = dict(zip(used, ranked, strict=False))
        if len(ranked) < len(used):
            fewer.append({"layer": layer, "wanted": len(used), "found": len(ranked)})
    left = [each for each in plan.interventions if not substitutes[each.layer].keys().isdisjoint(each.experts)]
    return tuple(_rename(each, substitutes[each.layer]) for each in left), fewer


def _rename(intervention: Intervention, names: Mapping[int, int]) -> Intervention:
    """Give experts new ids and keep their values; omit experts without a new id."""
    kept = [position for position, expert in enumerate(intervention.experts) if expert in names]
    values = intervention.values
    return replace(
        intervention,
        experts=tuple(names[intervention.experts[position]] for position in kept),
        values=None if values is None else tuple(values[position] for position in kept),
    )


def _record(control: str, plan: Plan, **fields: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON types
    """Return the provenance of a control: its name, its settings and the original plan."""
    return {"control": control, **fields, "plan_sha256": plan.sha256, "plan_provenance": plan.provenance}
