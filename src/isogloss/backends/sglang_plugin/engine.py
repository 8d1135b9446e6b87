"""The hooks: edit the logits in front of every choice, and stop the server where a choice was made without that."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch

from isogloss.backends.sglang_plugin.layers import Steered, steer_layer
from isogloss.backends.sglang_plugin.model import Foreign, find_routers, fingerprint
from isogloss.errors import ModelError
from isogloss.steering import Plan, apply_edit, check_plan

__all__ = ["Engine"]

_ATTRIBUTE = "isogloss_steered"

_log = logging.getLogger(__name__)


class Engine:
    """One plan on the model of one SGLang process.

    Attributes:
        plan: acts on all tokens.
        steered: the layers that the plan edits; empty until the weights are loaded.
    """

    def __init__(self, plan: Plan, topk_class: type) -> None:
        """Take a plan without conditions.

        Args:
            plan: the plan.
            topk_class: SGLang's ``TopK``.
        """
        self.plan, self.topk_class = plan, topk_class
        self.steered: list[Steered] = []
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
        routers = find_routers(runner.model, self.topk_class, self.plan.fingerprint, _text_config(runner))
        check_plan(self.plan, fingerprint(routers, _text_config(runner)))
        for router in routers:
            if router.layer in self.plan.layers:
                steered = steer_layer(self.plan, router)
                setattr(router.topk, _ATTRIBUTE, steered)
                router.block.register_forward_pre_hook(_begin(steered))
                router.block.register_forward_hook(_end(steered), with_kwargs=True)
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
        steered: Steered | None = getattr(topk, _ATTRIBUTE, None)
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


def _edited(router_logits: torch.Tensor, steered: Steered) -> torch.Tensor:
    """Edit the routed experts' columns; others, of fused shared experts, pass."""
    width = steered.edit.n_experts
    if router_logits.shape[-1] < width:
        raise ModelError(f"layer {steered.layer} has logits of width {router_logits.shape[-1]}; expected {width}")
    edited: torch.Tensor = apply_edit(router_logits[..., :width], steered.edit)
    if router_logits.shape[-1] > width:
        edited = torch.cat([edited, router_logits[..., width:].float()], dim=-1)
    return edited.to(router_logits.dtype) if steered.keep_dtype else edited


def _begin(steered: Steered) -> Callable[..., None]:
    def begin(*_: object) -> None:
        steered.seen = False

    return begin


def _end(steered: Steered) -> Callable[..., None]:
    def end(_block: object, inputs: tuple[Any, ...], named: dict[str, Any], _output: object) -> None:
        hidden_states = inputs[0] if inputs else named.get("hidden_states")
        if not steered.seen and (hidden_states is None or hidden_states.shape[0]):
            raise ModelError(
                f"layer {steered.layer} chose experts in a fused kernel that the plan does not reach; choose another "
                "--moe-runner-backend, or steer this model with transformers or vLLM"
            )

    return end


def _text_config(runner: Foreign) -> Foreign:
    config = runner.model_config
    return getattr(config, "hf_text_config", None) or config.hf_config
