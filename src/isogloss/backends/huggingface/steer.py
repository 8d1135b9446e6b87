"""Applies a plan to a loaded model: logits are edited inside the router, before it scores and chooses.

transformers 5 chooses inside the router module, so editing what the router returns has no effect. While a router's
forward runs, a torch function mode replaces the result of the linear product with that router's weight; the family's
own scoring, choice and renormalisation then work on the edited logits. Where a plan forces or bans experts, the same
mode edits the scores that the router hands to its last ``topk``, so that no bias, group or saturation undoes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from isogloss.backends.huggingface.discovery import Router
from isogloss.backends.huggingface.loading import LoadedModel
from isogloss.backends.huggingface.outputs import RouterOutput
from isogloss.backends.huggingface.watch import bypassed, require_one_call_each, watch_routers
from isogloss.errors import ModelError, PlanError
from isogloss.steering import LayerEdit, Plan, apply_choice, apply_edit, check_plan, compile_layer

__all__ = ["Effect", "measure_effect", "steer"]

_PRODUCTS = (torch.nn.functional.linear, torch.mm)  # mm where a router asks for float32 logits of 16-bit inputs
_TOPK = (torch.topk, torch.Tensor.topk)


class _EditRouter(TorchFunctionMode):
    """Edits the product with one router's weight, and then its choice, while that router's forward runs."""

    def __init__(self, router: Router, edit: LayerEdit) -> None:
        super().__init__()
        self.router, self.edit = router, edit
        self.device: torch.device | None = None
        self.active = False
        self.dtype = torch.float32
        self.n_dims = 0
        self.calls = self.edits = self.choices = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - torch's signature
        """Run ``func``; edit its result where it is the router's product, its input where it is the choice."""
        kwargs = kwargs or {}
        if func in _PRODUCTS:
            result = func(*args, **kwargs)
            return self._edit_logits(result) if self._is_product(func, args) else result
        if func in _TOPK and self.edit.fixes_choice and self._is_choice(*args, **kwargs):
            return self._edit_choice(func, *args, **kwargs)
        return func(*args, **kwargs)

    def _is_product(self, func: Callable[..., Any], args: tuple[Any, ...]) -> bool:
        shape = args[1].shape if func is not torch.mm else args[1].shape[::-1]
        return bool(shape == self.router.weight_shape)

    def _edit_logits(self, logits: torch.Tensor) -> torch.Tensor:
        self.edits += 1
        self.n_dims, self.dtype = logits.ndim, logits.dtype
        if self.device != logits.device:
            self.edit, self.device = self.edit.to(logits), logits.device
        n_experts = self.router.spec.n_experts
        if logits.shape[-1] == n_experts:
            edited: torch.Tensor = apply_edit(logits, self.edit)
            return edited
        return torch.cat([apply_edit(logits[..., :n_experts], self.edit), logits[..., n_experts:].float()], dim=-1)

    def _is_choice(self, input: torch.Tensor, k: int, *_: object, **__: object) -> bool:  # noqa: A002 - torch's name
        n_experts, top_k = self.router.spec.n_experts, self.router.spec.top_k
        return input.shape[-1] == n_experts and input.ndim == self.n_dims and k == top_k

    def _edit_choice(self, func: Callable[..., Any], scores: torch.Tensor, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        self.choices += 1
        chosen = func(apply_choice(scores, self.edit), *args, **kwargs).indices
        return torch.return_types.topk((scores.gather(-1, chosen), chosen))

    def attach(self) -> list[torch.utils.hooks.RemovableHandle]:
        """Be active exactly while the router's forward runs, also when it raises."""
        module, returns = self.router.module, self.router.family.returns

        def begin(*_: object) -> None:
            self.__enter__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            self.active = True

        def end(_module: torch.nn.Module, _inputs: object, output: Any) -> Any:  # noqa: ANN401 - torch's signature
            if self.active:
                self.__exit__(None, None, None)  # type: ignore[no-untyped-call]  # as above
                self.active = False
            self.calls += output is not None  # None where the forward raised
            return tuple(part.to(self.dtype) for part in output) if returns == "dense" and output is not None else None

        handles = [
            module.register_forward_pre_hook(begin),
            module.register_forward_hook(end, always_call=True, prepend=True),
        ]
        if returns == "logits":
            experts: Any = self.router.block.experts
            handles.append(experts.register_forward_pre_hook(_cast_weights))
        return handles

    def begin_forward(self, *_: object) -> None:
        """Count anew: the decoder stack begins a forward."""
        self.calls = self.edits = self.choices = 0

    def end_forward(self, *_: object) -> None:
        """Fail loudly where the decoder stack has ended a forward in which the router did not run, or was not edited.

        At once, and not when the plan is left: until then unsteered answers could be taken for steered ones, and kept.
        """
        if not self.calls:
            raise bypassed(self.router, 0, n_forwards=1)
        self.require_done()

    def require_done(self) -> None:
        """Fail loudly where the router ran without being edited, once each time."""
        spec = self.router.spec
        choosing = self.edit.fixes_choice and (spec.selection_bias or spec.n_groups > 1)
        if self.edits != self.calls or (choosing and self.choices != self.calls):
            raise ModelError(
                f"the router of layer {spec.layer} ran {self.calls} times; its logits were edited {self.edits} times "
                f"and its choice {self.choices} times; it computes them in a way that steering does not reach, so the "
                "plan was not applied"
            )


def _cast_weights(_module: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Hand weights over in the dtype of the hidden states: they were chosen from edited logits, in float32."""
    hidden, expert_ids, weights = inputs
    return hidden, expert_ids, weights.to(hidden.dtype)


@contextmanager
def steer(loaded: LoadedModel, plan: Plan) -> Iterator[None]:
    """Apply a plan to every forward inside the context; afterwards the model is as before, bit by bit.

    Args:
        loaded: the model; plans may not be nested.
        plan: made for this model. An empty plan attaches nothing.

    Raises:
        PlanError: the plan was made for another model.
        ModelError: a forward of the decoder stack ended in which a router of the plan did not run, or ran without its
            logits being edited.
    """
    check_plan(plan, loaded.fingerprint())
    edited = {intervention.layer for intervention in plan.interventions}
    modes = [
        _EditRouter(router, compile_layer(plan, router.spec.layer, router.spec.n_experts))
        for router in loaded.routers
        if router.spec.layer in edited
    ]
    handles = [handle for mode in modes for handle in mode.attach()]
    handles += [loaded.decoder.register_forward_pre_hook(mode.begin_forward) for mode in modes]
    handles += [loaded.decoder.register_forward_hook(mode.end_forward) for mode in modes]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    for mode in modes:
        mode.require_done()


@dataclass(frozen=True)
class Effect:
    """What a plan changes on a probe text.

    Attributes:
        changed: decoder layer to the share of tokens whose set of chosen experts differs from the unsteered one.
    """

    changed: dict[int, float]

    def require(self, plan: Plan) -> None:
        """Fail loudly when the plan is not empty and changed no choice at all.

        Raises:
            PlanError: no token of the probe text chose other experts.
        """
        if plan.interventions and not any(self.changed.values()):
            raise PlanError(
                "the plan changed no chosen expert on the probe text; "
                "expected some token to be routed otherwise: raise the strength, or check layers and experts"
            )


@torch.inference_mode()
def measure_effect(loaded: LoadedModel, plan: Plan, texts: Sequence[str]) -> Effect:
    """Compare the chosen experts with and without the plan, token by token.

    Later layers also see changed inputs, so layers without intervention may change too.

    Args:
        loaded: the model, unsteered.
        plan: the plan to try.
        texts: probe texts, each run alone.
    """
    plain, steered = _choices(loaded, texts), []
    with steer(loaded, plan):
        steered = _choices(loaded, texts)
    shares = [(a != b).any(-1).float().mean().item() for a, b in zip(plain, steered, strict=True)]
    return Effect({router.spec.layer: share for router, share in zip(loaded.routers, shares, strict=True)})


def _choices(loaded: LoadedModel, texts: Sequence[str]) -> list[torch.Tensor]:
    """Sorted expert ids ``[n_tokens, top_k]`` of every routed layer."""
    seen: list[list[torch.Tensor]] = [[] for _ in loaded.routers]

    def keep(index: int, output: RouterOutput) -> None:
        seen[index].append(output.expert_ids.sort(-1).values)

    with watch_routers(loaded, keep) as calls:
        for text in texts:
            ids = loaded.tokenizer(text, return_tensors="pt")["input_ids"].to(loaded.device)
            loaded.decoder(input_ids=ids, use_cache=False)
    require_one_call_each(loaded, calls, n_forwards=len(texts))
    return [torch.cat(parts) for parts in seen]
