"""Builds plans from lists of experts, and the random plans that they are compared with."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from isogloss.errors import PlanError
from isogloss.routing import Fingerprint
from isogloss.steering.interventions import Intervention, Kind
from isogloss.steering.plan import Plan

__all__ = ["STRENGTH_KINDS", "SelectedExpert", "plan_from_experts", "random_control"]

STRENGTH_KINDS = ("soft", "adaptive", "offset")
"""Kinds for which `plan_from_experts` takes a strength."""


class SelectedExpert(NamedTuple):
    """An expert that a rule chose; a plain tuple of the four will do.

    Attributes:
        layer: 0-based position in the whole decoder stack.
        expert: expert id.
        statistic: what the rule ranks by.
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
    """Make one intervention per layer from the experts that a rule chose.

    Args:
        experts: (layer, expert, statistic, weight) each; see `SelectedExpert`. None at all make an empty plan.
        kind: what to do with them. ``force`` ranks them by the absolute statistic, ties by expert id, and keeps the
            first ``top_k`` of a layer. ``adaptive`` takes the weights as values.
        strength: ``soft``, ``adaptive``: λ; ``offset``: the constant added to each expert, in logits; else None.
        fingerprint: of the model.
        provenance: where the experts come from. ``dropped_experts`` is added when ``force`` had to drop some.

    Raises:
        PlanError: the strength or a weight is missing, superfluous or out of range, or experts do not fit the model.
    """
    by_layer: dict[int, list[SelectedExpert]] = defaultdict(list)
    for entry in experts:
        by_layer[entry[0]].append(SelectedExpert(*entry))
    interventions, dropped = [], []
    for rows in by_layer.values():
        kept = rows
        if kind == "force":
            ranked = sorted(rows, key=_force_rank)
            kept, left_over = ranked[: fingerprint.top_k], ranked[fingerprint.top_k :]
            dropped += [_record(row) for row in left_over]
        interventions.append(_intervention(kept, kind, strength))
    record = {**provenance, "dropped_experts": dropped} if dropped else dict(provenance)
    return Plan(fingerprint, tuple(interventions), record)


def random_control(plan: Plan, *, seed: int) -> Plan:
    """Replace the experts of a plan by random ones, layer by layer, and keep everything else.

    Every expert of the plan is replaced by another one of its layer, the same one in all kinds, so the control has
    as many experts per layer and kind, and the same strengths, values and ranks. New experts are drawn uniformly from
    those that the plan does not touch in that layer, or, where fewer remain than are needed, from all of the layer.

    Args:
        plan: the plan to compare with.
        seed: at least 0; equal seeds give equal controls, and a layer's draw does not depend on other layers.

    Returns:
        A plan whose provenance names the seed, the original's hash and provenance, and the layers whose control may
        overlap with the original.

    Raises:
        PlanError: the seed is negative.
    """
    if seed < 0:
        raise PlanError(f"seed is {seed}; expected an integer of at least 0")
    n_experts = plan.fingerprint.n_experts
    interventions: list[Intervention] = []
    overlapping = []
    for layer in plan.layers:
        of_layer = [each for each in plan.interventions if each.layer == layer]
        used = sorted({expert for each in of_layer for expert in each.experts})
        unused = np.setdiff1d(np.arange(n_experts), used)
        if len(unused) < len(used):
            overlapping.append(layer)
        pool = unused if len(unused) >= len(used) else np.arange(n_experts)
        drawn = np.random.default_rng([seed, layer]).choice(pool, size=len(used), replace=False).tolist()
        stand_in = dict(zip(used, drawn, strict=True))
        interventions += [
            replace(each, experts=tuple(stand_in[expert] for expert in each.experts)) for each in of_layer
        ]
    record = {"control": "random", "seed": seed, "plan_sha256": plan.sha256, "plan_provenance": plan.provenance}
    return Plan(plan.fingerprint, tuple(interventions), {**record, "overlapping_layers": overlapping})


def _intervention(rows: Sequence[SelectedExpert], kind: Kind, strength: float | None) -> Intervention:
    layer, experts = rows[0].layer, tuple(row.expert for row in rows)
    if kind == "adaptive":
        if without := [row.expert for row in rows if row.weight is None]:
            raise PlanError(
                f"adaptive in layer {layer}: experts {without} have no weight; choose experts by a rule that gives "
                "weights, such as `--rule share`, or another kind"
            )
        return Intervention(kind, layer, experts, strength, tuple(row.weight for row in rows if row.weight is not None))
    if kind == "offset":
        if strength is None:
            raise PlanError(f"offset in layer {layer} has no strength; this kind needs a constant in logits")
        return Intervention(kind, layer, experts, None, (strength,) * len(experts))
    return Intervention(kind, layer, experts, strength)


def _record(row: SelectedExpert) -> dict[str, int | float]:
    """Write an expert as JSON types, whatever integers and floats a rule used."""
    return {"layer": int(row.layer), "expert": int(row.expert), "statistic": float(row.statistic)}


def _force_rank(row: SelectedExpert) -> tuple[float, int]:
    if not math.isfinite(row.statistic):
        raise PlanError(
            f"force ranks experts by their statistic; that of expert {row.expert} in layer {row.layer} is "
            f"{row.statistic}; expected a finite number"
        )
    return -abs(row.statistic), row.expert
