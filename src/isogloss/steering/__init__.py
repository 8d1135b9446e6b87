"""Plans that steer routers: validated edits per layer, applied as pure functions on logits."""

from __future__ import annotations

from typing import TypeAlias

from isogloss.steering.adapter import AdaptedRouter, RouterAdapter
from isogloss.steering.adapter_controls import exchanged_probes, permuted_experts, rescaled
from isogloss.steering.adapter_folder import (
    ADAPTER_FILES,
    peft_tensors,
    read_adapter,
    write_adapter,
    write_adapter_into,
)
from isogloss.steering.build import STRENGTH_KINDS, SelectedExpert, conditional, plan_from_experts, united
from isogloss.steering.checks import check_plan
from isogloss.steering.commits import note_other_commit
from isogloss.steering.controls import opposed, random_control, replaced, shifted_control, with_strength
from isogloss.steering.interventions import CONSTANT_KINDS, KINDS, Intervention, Kind
from isogloss.steering.layer_edits import LayerEdit, apply_choice, apply_edit, apply_select
from isogloss.steering.plan import (
    Plan,
    compile_layer,
    parse_plan,
    read_plan,
    require_plan_file,
    write_plan,
)
from isogloss.steering.stored import read_served_plan, read_steering, write_steering

Steering: TypeAlias = Plan | RouterAdapter
"""What steers a model."""

__all__ = [
    "ADAPTER_FILES",
    "CONSTANT_KINDS",
    "KINDS",
    "STRENGTH_KINDS",
    "AdaptedRouter",
    "Intervention",
    "Kind",
    "LayerEdit",
    "Plan",
    "RouterAdapter",
    "SelectedExpert",
    "Steering",
    "apply_choice",
    "apply_edit",
    "apply_select",
    "check_plan",
    "compile_layer",
    "conditional",
    "exchanged_probes",
    "note_other_commit",
    "opposed",
    "parse_plan",
    "peft_tensors",
    "permuted_experts",
    "plan_from_experts",
    "random_control",
    "read_adapter",
    "read_plan",
    "read_served_plan",
    "read_steering",
    "replaced",
    "require_plan_file",
    "rescaled",
    "shifted_control",
    "united",
    "with_strength",
    "write_adapter",
    "write_adapter_into",
    "write_plan",
    "write_steering",
]
