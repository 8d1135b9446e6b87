"""What of a plan becomes a rank of an adapter: the offsets of one condition on languages, by layer."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from isogloss.arrays import FloatArray
from isogloss.errors import PlanError
from isogloss.languages import resolve
from isogloss.learning.probes import CONSTANT
from isogloss.steering import Intervention, Plan

__all__ = ["Rank", "banned_by", "ranks_of"]

_DEPTH = 4.0  # times the largest distance that a ban must bridge: probes vary between tokens


@dataclass(frozen=True)
class Rank:
    """Offsets that act together.

    Attributes:
        languages: on whose tokens; None for every token.
        offsets: layer to ``[n_experts]``, in logits.
    """

    languages: tuple[str, ...] | None
    offsets: Mapping[int, FloatArray]

    @property
    def name(self) -> str:
        """The language, or the languages of a group."""
        return CONSTANT if self.languages is None else "+".join(self.languages)


def banned_by(plan: Plan) -> dict[int, tuple[int, ...]]:
    """Return the experts that a plan bans, by layer."""
    bans = [each for each in plan.interventions if each.kind == "ban"]
    layers = sorted({each.layer for each in bans})
    return {layer: tuple(k for each in bans if each.layer == layer for k in each.experts) for layer in layers}


def ranks_of(
    plan: Plan, languages: Sequence[str] = (), *, reaches: Mapping[int, float] | None = None
) -> tuple[Rank, ...]:
    """Collect a plan's offsets by the languages that they are conditional on, in the order of their names.

    Args:
        plan: of kinds ``offset`` and ``ban``, without conditions on phases; ``ban`` without any.
        languages: of a plan with conditions those to keep; of one without, a group whose tokens alone it is to act on.
        reaches: layer to how far a token's best logit may lie above the others; a ban lowers experts by four times as
            much. None where the size does not matter yet.

    Raises:
        PlanError: another kind, a condition on a phase, no offset, or a language that no rule of the plan is for.
    """
    _require_offsets(plan, languages)
    wanted = tuple(sorted({resolve(code) for code in languages}))
    if unknown := sorted(set(wanted) - set(plan.languages)) if plan.languages else []:
        raise PlanError(f"the plan has no rule for {', '.join(unknown)}; it has some for {', '.join(plan.languages)}")
    by_group: dict[tuple[str, ...] | None, dict[int, FloatArray]] = {}
    for each in plan.interventions:
        group = _group(each, plan, wanted)
        if group != ():
            offsets = by_group.setdefault(group, {})
            row = offsets.setdefault(each.layer, np.zeros(plan.fingerprint.n_experts))
            reach = (reaches or {}).get(each.layer, 1.0)
            row[list(each.experts)] += -_DEPTH * reach if each.values is None else np.array(each.values)
    return tuple(sorted((Rank(group, offsets) for group, offsets in by_group.items()), key=lambda rank: rank.name))


def _group(intervention: Intervention, plan: Plan, wanted: Collection[str]) -> tuple[str, ...] | None:
    """Return the languages of an intervention that are wanted; None for every token."""
    if intervention.languages is None:
        return tuple(wanted) or None if not plan.languages else None
    return tuple(code for code in intervention.languages if not wanted or code in wanted)


def _require_offsets(plan: Plan, languages: Sequence[str]) -> None:
    if plan.is_empty:
        raise PlanError("the plan is empty, so there is nothing to make an adapter of; give one with offsets")
    if others := sorted({each.kind for each in plan.interventions} - {"offset", "ban"}):
        raise PlanError(
            f"the plan has interventions of kind {', '.join(others)}; expected offset, the only kind that adds the "
            "same numbers to every token's logits, as a change of weights can, or ban, which nearly does: serve the "
            "plan itself"
        )
    if any(each.kind == "ban" and (languages or each.languages is not None) for each in plan.interventions):
        raise PlanError(
            "experts are to be banned for some languages alone; a probe of a language is low on many of its tokens, "
            "which would go on choosing them: serve the plan itself"
        )
    if plan.by_phase:
        raise PlanError(
            f"the plan is for the {' and the '.join(plan.phases)} alone; a weight acts on prompt and answer alike: "
            "serve the plan itself, or make it for both"
        )
