"""One intervention of every kind, the dtypes in which all of them must hold, and plans for a model at hand."""

from __future__ import annotations

from dataclasses import replace

import torch

from isogloss.steering import Intervention, Plan

DTYPES = [torch.float32, torch.bfloat16]
LAST = 3  # of the olmoe model

EVERY_KIND = [
    Intervention("soft", LAST, (1, 5), strength=1.0),
    Intervention("force", LAST, (6, 2)),
    Intervention("suppress", LAST, (0, 2)),
    Intervention("ban", LAST, (0, 4)),
    Intervention("adaptive", LAST, (1, 7), strength=1.0, values=(0.5, 0.9)),
    Intervention("offset", LAST, (2, 4), values=(1.5, -2.0)),
    Intervention("on", LAST, (5,)),
    Intervention("off", LAST, (0,)),
    Intervention("select", LAST, (2, 4), values=(0.4, -0.3)),
]

# Changes of every logit, of some, and of what is ranked; that force and ban are obeyed has tests of its own.
LOGIT_KINDS = [each for each in EVERY_KIND if each.kind in ("soft", "offset", "select")]


def plan_of(loaded, *interventions):
    """A plan for this model."""
    return Plan(loaded.fingerprint, interventions, {"test": "test"})


def everywhere(loaded, *interventions, layers=None):
    """A plan with the same interventions in every routed layer, or in some; their own layer is not looked at."""
    chosen = [router.layer for router in loaded.routers if layers is None or router.layer in layers]
    return plan_of(loaded, *(replace(each, layer=layer) for layer in chosen for each in interventions))


def forced_and_banned(loaded, *, layers=None):
    """A plan that forces expert 5 and bans expert 0, in every routed layer or in some."""
    return everywhere(loaded, Intervention("force", 0, (5,)), Intervention("ban", 0, (0,)), layers=layers)


def forced(loaded, **conditions):
    """A plan that forces an expert in every routed layer."""
    return everywhere(loaded, Intervention("force", 0, (5,), **conditions))
