"""Steers the layers of an SGLang process: edits logits before experts are chosen, and stops where that did not happen.

Where SGLang's kernels could undo the plan of a layer, the reference router chooses its experts.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from isogloss.backends.families import plain_scoring
from isogloss.backends.reference_router import choose_experts
from isogloss.backends.sglang_plugin.model import Foreign, SGLangRouter, find_sglang_routers, fingerprint_of_sglang
from isogloss.errors import ModelError, PlanError
from isogloss.routing import RouterSpec
from isogloss.steering import LayerEdit, Plan, apply_edit, check_plan, compile_layer

__all__ = ["Engine"]

_ATTRIBUTE = "isogloss_steered"

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Steered:
    """What one layer does while a plan acts.

    Attributes:
        layer: 0-based position in the decoder stack.
        edit: on the device of the logits.
        own_selection: the reference router chooses, and not SGLang's kernels.
        keep_dtype: hand edited logits on in the dtype they came in, as kernels that route by themselves want.
        inside: the logits of the current call are edited already.
        seen: logits were edited since the block began its forward.
        seen_ever: logits were edited since the server started.
    """

    layer: int
    edit: LayerEdit
    own_selection: bool
    keep_dtype: bool
    inside: bool = False
    seen: bool = False
    seen_ever: bool = False

    def begin(self, *_: object) -> None:
        """Note that the block begins its forward."""
        self.seen = False

    def end(self, _block: object, inputs: tuple[Any, ...], named: dict[str, Any], _output: object) -> None:
        """Raise a ModelError where the block has chosen experts without the logits being edited."""
        hidden_states = inputs[0] if inputs else named.get("hidden_states")
        if not self.seen and (hidden_states is None or hidden_states.shape[0]):
            raise ModelError(
                f"layer {self.layer} chose experts in a fused kernel that the plan does not reach; choose another "
                "--moe-runner-backend, or steer this model with transformers or vLLM"
            )

    def require_plain(self, options: Mapping[str, Any]) -> None:
        """Refuse calls of SGLang's TopK that depend on more than the logits.

        Raises:
            ModelError: logits are partial sums, or every token has its own bias and the reference router chooses.
        """
        if options.get("router_logits_partials") is not None:
            raise ModelError(f"the logits of layer {self.layer} are partial sums (ROCm); the plan cannot edit them")
        if self.own_selection and options.get("dynamic_expert_bias") is not None:
            raise ModelError(
                f"the tokens of layer {self.layer} have biases of their own; force, ban and select cannot be kept"
            )


def _steer_layer(plan: Plan, router: SGLangRouter) -> _Steered:
    """Prepare a layer; where needed, let `isogloss.backends.reference_router` choose experts in place of SGLang.

    Raises:
        PlanError: SGLang's kernels could undo the plan there.
    """
    config: Foreign = router.topk.topk_config
    edit = compile_layer(plan, router.layer, router.weight.shape[0]).to(router.weight)
    format_name = getattr(config.output_format, "name", "unknown")
    bypassed = format_name == "BYPASSED"
    selects = edit.select is not None
    if bypassed and (edit.fixes_choice or selects or edit.on is not None or edit.off is not None):
        raise _undone(router, "it is made in a fused kernel, from logits rounded to 16 bits")
    spec = _router_spec(config, router)
    if selects and not spec.selection_bias and spec.n_groups == 1:
        spec = _as_of_family(spec, plan.fingerprint.model_type, router)
    own_selection = selects or (edit.fixes_choice and _could_undo(spec, config))
    if own_selection:
        _refuse_own_selection(router, config, format_name)
        config.custom_routing_function = _routing_function(config, spec, edit)
        config.use_grouped_topk = False  # the branch that calls the function
    return _Steered(router.layer, edit, own_selection, keep_dtype=bypassed)


def _router_spec(config: Foreign, router: SGLangRouter) -> RouterSpec:
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


def _as_of_family(spec: RouterSpec, model_type: str, router: SGLangRouter) -> RouterSpec:
    try:
        return replace(spec, scoring=plain_scoring(model_type, spec.scoring, renormalises=spec.renormalise))
    except ModelError as error:
        raise _undone(router, f"it {error}") from None


def _could_undo(spec: RouterSpec, config: Foreign) -> bool:
    """Whether the order of experts may change after the logits; a plain softmax keeps it."""
    plain = spec.scoring == "softmax" and not spec.selection_bias and spec.n_groups == 1
    return not plain or config.custom_routing_function is not None


def _refuse_own_selection(router: SGLangRouter, config: Foreign, format_name: str) -> None:
    if config.custom_routing_function is not None:
        raise _undone(router, "the model brings a routing function of its own")
    if config.num_shared_topk_slots:
        raise _undone(router, "shared experts are fused into it; start with --disable-shared-experts-fusion")
    if format_name != "STANDARD":
        raise _undone(router, f"its format is {format_name}; start with --moe-runner-backend triton")
    module = sys.modules[type(router.topk).__module__]
    if other := [name for name in ("_use_aiter", "_is_npu") if getattr(module, name, False)]:
        raise _undone(router, f"another code path chooses on this hardware ({', '.join(other)})")


def _undone(router: SGLangRouter, reason: str) -> PlanError:
    return PlanError(
        f"force, ban, on, off and select cannot be kept in layer {router.layer}: SGLang's choice could undo them, or "
        f"has no place for them, and cannot be replaced: {reason}; or use a plan of other kinds, or another engine"
    )


def _routing_function(
    config: Foreign, spec: RouterSpec, edit: LayerEdit
) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    def choose_for_sglang(
        hidden_states: torch.Tensor,  # noqa: ARG001 - SGLang's signature
        gating_output: torch.Tensor,
        topk: int,
        renormalize: bool,  # noqa: FBT001, ARG001 - as above
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if topk != spec.top_k:
            raise ModelError(f"layer {spec.layer} asks for {topk} experts; expected {spec.top_k}")
        weights, ids = choose_experts(gating_output, spec, selection_bias=config.correction_bias, edit=edit)
        return weights, ids.to(torch.int32)

    return choose_for_sglang


class Engine:
    """One plan on the model of one SGLang process.

    Attributes:
        plan: without conditions; acts on all tokens.
        topk_class: SGLang's ``TopK``.
        steered: the layers that the plan edits; empty until the weights are loaded.
    """

    def __init__(self, plan: Plan, topk_class: type) -> None:
        self.plan, self.topk_class = plan, topk_class
        self.steered: list[_Steered] = []
        self.attached = self.confirmed = False

    def after_initialize(self, _result: object, runner: Foreign) -> None:
        """Attach the plan to the routers, once their weights are loaded and before graphs are captured.

        Raises:
            PlanError: the plan was made for another model, or a router could undo it.
            ModelError: routers were not found where they are expected, or the weights come later.
        """
        if runner.is_draft_worker:  # what a draft proposes is checked by the steered model
            return
        if getattr(runner, "startup_weight_load", None) is not None:
            raise ModelError(
                "SGLang loads the weights after the model is built; expected them now: start with "
                "--startup-weight-load-mode serial"
            )
        routers = find_sglang_routers(runner.model, self.topk_class, self.plan.fingerprint, _text_config(runner))
        check_plan(self.plan, fingerprint_of_sglang(routers, _text_config(runner)))
        for router in routers:
            if router.layer in self.plan.layers:
                steered = _steer_layer(self.plan, router)
                setattr(router.topk, _ATTRIBUTE, steered)
                router.block.register_forward_pre_hook(steered.begin)
                router.block.register_forward_hook(steered.end, with_kwargs=True)
                self.steered.append(steered)
        self.attached = True
        _log.info("isogloss: plan %s steers layers %s", self.plan.sha256, list(self.plan.layers))

    def around_topk(
        self,
        original: Callable[..., Any],
        topk: Foreign,
        hidden_states: torch.Tensor,
        router_logits: torch.Tensor,
        **options: Foreign,
    ) -> Foreign:
        """Edit the logits of one layer and let SGLang go on.

        Raises:
            ModelError: the plan is not attached yet, or the logits come in a form that cannot be edited.
        """
        steered: _Steered | None = getattr(topk, _ATTRIBUTE, None)
        if steered is None:
            if not self.attached and not getattr(topk, "is_draft", False):
                raise ModelError(f"layer {topk.layer_id} chooses experts before the plan was attached to the model")
            return original(topk, hidden_states, router_logits, **options)
        if steered.inside:  # forward calls forward_cuda, and both are hooked
            return original(topk, hidden_states, router_logits, **options)
        steered.require_plain(options)
        steered.seen = steered.seen_ever = steered.inside = True
        try:
            return original(topk, hidden_states, _edited(router_logits, steered), **options)
        finally:
            steered.inside = False

    def after_forward(self, _result: object, runner: Foreign, forward_batch: Foreign, *_: object, **__: object) -> None:
        """Stop where the model ran and a layer of the plan chose experts without being edited.

        Raises:
            ModelError: names the layers.
        """
        if self.confirmed or runner.is_draft_worker or forward_batch.forward_mode.is_idle():
            return
        unseen = [steered.layer for steered in self.steered if not steered.seen_ever]
        if unseen or not self.attached:
            raise ModelError(
                f"layers {unseen} of the plan chose experts without SGLang's TopK; the plan cannot reach them: "
                "choose another --moe-runner-backend, or steer this model with transformers or vLLM"
            )
        self.confirmed = True


def _edited(router_logits: torch.Tensor, steered: _Steered) -> torch.Tensor:
    """Edit the routed experts' columns; others, of fused shared experts, pass."""
    width = steered.edit.n_experts
    if router_logits.shape[-1] < width:
        raise ModelError(f"layer {steered.layer} has logits of width {router_logits.shape[-1]}; expected {width}")
    edited: torch.Tensor = apply_edit(router_logits[..., :width], steered.edit)
    if router_logits.shape[-1] > width:
        edited = torch.cat([edited, router_logits[..., width:].float()], dim=-1)
    return edited.to(router_logits.dtype) if steered.keep_dtype else edited


def _text_config(runner: Foreign) -> Foreign:
    config = runner.model_config
    return getattr(config, "hf_text_config", None) or config.hf_config
