"""Plans of every kind for the tiny checkpoints, and the way to hand one to an engine."""

from __future__ import annotations

import json

from isogloss.steering import Intervention, Plan

__all__ = ["KIND_PLANS", "hand", "make_plan"]

# By name: what is done in a layer, from its place among the routed ones. Experts exist in every checkpoint.
KIND_PLANS = {
    "soft": lambda layer, place: [Intervention("soft", layer, (1, 3), strength=0.9)],
    "adaptive": lambda layer, place: [Intervention("adaptive", layer, (1, 4), strength=0.5, values=(1.0, 2.0))],
    "offset": lambda layer, place: [Intervention("offset", layer, (7, 2), values=(3.0, -1.5))],
    "suppress": lambda layer, place: [Intervention("suppress", layer, (0, 1, 6))],
    "force": lambda layer, place: [Intervention("force", layer, (5, 2))] if place == 1 else [],
    "ban": lambda layer, place: [Intervention("ban", layer, (0, 1, 2))],
    "on": lambda layer, place: [Intervention("on", layer, (6,))] if place == 0 else [],
    "off": lambda layer, place: [Intervention("off", layer, (3, 4))],
    "together": lambda layer, place: [
        Intervention("soft", layer, (1,), strength=-0.5),
        Intervention("offset", layer, (2,), values=(0.7,)),
        Intervention("force", layer, (7,)),
        Intervention("ban", layer, (4,)),
    ],
    "by phase": lambda layer, place: [
        Intervention("force", layer, (5,), phase="generation"),
        Intervention("ban", layer, (0, 1), phase="prompt"),
    ],
    "by language": lambda layer, place: [
        Intervention("soft", layer, (1, 3), strength=0.5),
        Intervention("force", layer, (5,), languages=("sw",)),
        Intervention("ban", layer, (5, 6), languages=("de",)),
    ],
}


def make_plan(fingerprint, name):
    """A plan for a model, by its name in `KIND_PLANS`."""
    rules = [each for place, layer in enumerate(fingerprint.layers) for each in KIND_PLANS[name](layer, place)]
    return Plan(fingerprint, tuple(rules), {})


def hand(llm, plan):
    """Replace the plan of every worker of an engine; None for none. Returns what each says of itself."""
    source = "" if plan is None else json.dumps(plan.to_json())
    return llm.collective_rpc("isogloss_load_plan", args=(source,))
