"""Plans that steer routers: validated edits per layer, applied as pure functions on logits."""

from __future__ import annotations

from isogloss.steering.build import STRENGTH_KINDS, SelectedExpert, conditional, plan_from_experts, united
from isogloss.steering.controls import opposed, random_control, replaced, shifted_control, with_strength
from isogloss.steering.interventions import (
    KINDS,
    PHASES,
    Intervention,
    Kind,
    LayerEdit,
    Phase,
    apply_choice,
    apply_edit,
)
from isogloss.steering.plan import Plan, check_plan, compile_layer, parse_plan, read_plan, write_plan

__all__ = [
    "KINDS",
    "PHASES",
    "STRENGTH_KINDS",
    "Intervention",
    "Kind",
    "LayerEdit",
    "Phase",
    "Plan",
    "SelectedExpert",
    "apply_choice",
    "apply_edit",
    "check_plan",
    "compile_layer",
    "conditional",
    "opposed",
    "parse_plan",
    "plan_from_experts",
    "random_control",
    "read_plan",
    "replaced",
    "shifted_control",
    "united",
    "with_strength",
    "write_plan",
]
