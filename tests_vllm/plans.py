"""Plans of every kind for the tiny checkpoints, and the way to hand one to an engine."""

from __future__ import annotations

import json

from isogloss.steering import Intervention, Plan

__all__ = ["KIND_PLANS", "hand", "make_plan"]

# By name: what is done in a layer. Experts exist in every checkpoint.
KIND_PLANS = {
    "soft": lambda layer: [Intervention("soft", layer, (1, 3), strength=0.9)],
    "adaptive": lambda layer: [Intervention("adaptive", layer, (1, 4), strength=0.5, values=(1.0, 2.0))],
    "offset": lambda layer: [Intervention("offset", layer, (7, 2), values=(3.0, -1.5))],
    "suppress": lambda layer: [Intervention("suppress", layer, (0, 1, 6))],
    "force": lambda layer: [Intervention("force", layer, (5, 2))],
    "ban": lambda layer: [Intervention("ban", layer, (0, 1, 2))],
    "on": lambda layer: [Intervention("on", layer, (6,))],
    "off": lambda layer: [Intervention("off", layer, (3, 4))],
    "together": lambda layer: [
        Intervention("soft", layer, (1,), strength=-0.5),
        Intervention("offset", layer, (2,), values=(0.7,)),
        Intervention("force", layer, (7,)),
        Intervention("ban", layer, (4,)),
    ],
    "by phase": lambda layer: [
        Intervention("force", layer, (5,), phase="generation"),
        Intervention("ban", layer, (0, 1), phase="prompt"),
    ],
    "by language": lambda layer: [
        Intervention("soft", layer, (1, 3), strength=0.5),
        Intervention("force", layer, (5,), languages=("sw",)),
        Intervention("ban", layer, (5, 6), languages=("de",)),
    ],
}


# In all routed layers but for these names: then in the one at that place among them.
PLACES = {"force": 1, "on": 0}


def make_plan(fingerprint, name):
    """A plan for a model, by its name in `KIND_PLANS`."""
    layers = (fingerprint.layers[PLACES[name]],) if name in PLACES else fingerprint.layers
    rules = [each for layer in layers for each in KIND_PLANS[name](layer)]
    return Plan(fingerprint, tuple(rules), {})


def hand(llm, plan, *name):
    """Replace the plan of every worker of an engine, or the one of a name; None for none.

    Returns:
        What each worker says of itself.
    """
    source = "" if plan is None else json.dumps(plan.to_json())
    return llm.collective_rpc("isogloss_load_plan", args=(source, *name))
