"""Plans that steer routers: what to edit in which layer, checked, stored, and applied as pure functions on logits."""

from __future__ import annotations

from isogloss.steering.build import STRENGTH_KINDS, SelectedExpert, plan_from_experts, random_control
from isogloss.steering.interventions import KINDS, Intervention, Kind, LayerEdit, apply_choice, apply_edit
from isogloss.steering.plan import Plan, check_plan, compile_layer, read_plan, write_plan

__all__ = [
    "KINDS",
    "STRENGTH_KINDS",
    "Intervention",
    "Kind",
    "LayerEdit",
    "Plan",
    "SelectedExpert",
    "apply_choice",
    "apply_edit",
    "check_plan",
    "compile_layer",
    "plan_from_experts",
    "random_control",
    "read_plan",
    "write_plan",
]
