"""One steered layer: its edit on the device, and its own choice where SGLang's could undo the plan."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from isogloss.backends.reference_router import choose
from isogloss.backends.sglang_plugin.model import Foreign, FoundRouter
from isogloss.errors import ModelError, PlanError
from isogloss.routing import RouterSpec
from isogloss.steering import LayerEdit, Plan, compile_layer

__all__ = ["Steered", "router_spec", "steer_layer"]


@dataclass(eq=False)
class Steered:
    """What one layer does while a plan acts.

    Attributes:
        layer: 0-based position in the decoder stack.
        edit: on the device of the logits.
        own_choice: the choice is computed here and not by SGLang's kernels.
        keep_dtype: hand edited logits on in the dtype they came in, as kernels that route by themselves want.
        inside: the logits of the current call are edited already.
        seen: logits were edited since the block began its forward.
        seen_ever: logits were edited since the server started.
    """

    layer: int
    edit: LayerEdit
    own_choice: bool
    keep_dtype: bool
    inside: bool = False
    seen: bool = False
    seen_ever: bool = False

    def require_plain(self, options: Mapping[str, Any]) -> None:
        """Refuse calls of SGLang's TopK that say more than the logits do.

        Raises:
            ModelError: logits are still partial sums, or every token has a bias of its own and the choice is ours.
        """
        if options.get("router_logits_partials") is not None:
            raise ModelError(f"the logits of layer {self.layer} are partial sums (ROCm); the plan cannot edit them")
        if self.own_choice and options.get("dynamic_expert_bias") is not None:
            raise ModelError(f"the tokens of layer {self.layer} have biases of their own; force and ban cannot be kept")


def steer_layer(plan: Plan, router: FoundRouter) -> Steered:
    """Make a layer ready; where needed, put the choice of `isogloss.backends.reference_router` in place of SGLang's.

    Raises:
        PlanError: SGLang's kernels could undo the plan there; says why and what to do.
    """
    config: Foreign = router.topk.topk_config
    edit = compile_layer(plan, router.layer, router.weight.shape[0]).to(router.weight)
    format_name = getattr(config.output_format, "name", "unknown")
    bypassed = format_name == "BYPASSED"
    if bypassed and (edit.fixes_choice or edit.on is not None or edit.off is not None):
        raise _undone(router, "it is made in a fused kernel, from logits rounded to 16 bits")
    spec = router_spec(config, router)
    own_choice = edit.fixes_choice and _could_undo(spec, config)
    if own_choice:
        _refuse_own_choice(router, config, format_name)
        config.custom_routing_function = _routing_function(config, spec, edit)
        config.use_grouped_topk = False  # the branch that calls the function
    return Steered(router.layer, edit, own_choice, keep_dtype=bypassed)


def router_spec(config: Foreign, router: FoundRouter) -> RouterSpec:
    """Describe how SGLang's TopK chooses, as its reference implementations in torch do; scaling is SGLang's part."""
    grouped, biased = bool(config.use_grouped_topk), config.correction_bias is not None
    return RouterSpec(
        router.layer,
        router.weight.shape[0],
        router.top_k,
        scoring="sigmoid" if grouped and biased else config.scoring_func,
        renormalise=config.renormalize,
        selection_bias=biased,
        n_groups=config.num_expert_group if grouped else 1,
        top_groups=config.topk_group if grouped else 1,
        group_score="top2_sum" if biased else "max",
        others_score_zero=grouped and not biased,
    )


def _could_undo(spec: RouterSpec, config: Foreign) -> bool:
    """Whether something between logits and choice may change who is best; a plain softmax does not."""
    plain = spec.scoring == "softmax" and not spec.selection_bias and spec.n_groups == 1
    return not plain or config.custom_routing_function is not None


def _refuse_own_choice(router: FoundRouter, config: Foreign, format_name: str) -> None:
    if config.custom_routing_function is not None:
        raise _undone(router, "the model brings a routing function of its own")
    if config.num_shared_topk_slots:
        raise _undone(router, "shared experts are fused into it; start with --disable-shared-experts-fusion")
    if format_name != "STANDARD":
        raise _undone(router, f"its format is {format_name}; start with --moe-runner-backend triton")
    module = sys.modules[type(router.topk).__module__]
    if other := [name for name in ("_use_aiter", "_is_npu") if getattr(module, name, False)]:
        raise _undone(router, f"another code path chooses on this hardware ({', '.join(other)})")


def _undone(router: FoundRouter, reason: str) -> PlanError:
    return PlanError(
        f"force, ban, on and off cannot be kept in layer {router.layer}: SGLang's choice could undo them and cannot be "
        f"replaced: {reason}; or use a plan of other kinds, or another engine"
    )


def _routing_function(
    config: Foreign, spec: RouterSpec, edit: LayerEdit
) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    def choose_experts(
        hidden_states: torch.Tensor,  # noqa: ARG001 - SGLang's signature
        gating_output: torch.Tensor,
        topk: int,
        renormalize: bool,  # noqa: FBT001, ARG001 - as above
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if topk != spec.top_k:
            raise ModelError(f"layer {spec.layer} asks for {topk} experts; expected {spec.top_k}")
        weights, ids = choose(gating_output, spec, selection_bias=config.correction_bias, edit=edit)
        return weights, ids.to(torch.int32)

    return choose_experts
