"""Applies a plan to a loaded model: logits are edited inside the router, before it scores and chooses.

transformers 5 chooses inside the router module, so editing what the router returns has no effect. While a router's
forward runs, a torch function mode replaces the result of the linear product with that router's weight; the family's
own scoring, choice and renormalisation then work on the edited logits. Where a plan forces or bans experts, the same
mode edits the scores that the router hands to its last ``topk``, so that no bias, group or saturation undoes it.

A plan may edit prompt and generation differently; see `isogloss.backends.huggingface.phases` for which token is which.
One forward serves requests in one language: choose the plan's interventions by `Plan.for_request`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch.overrides import TorchFunctionMode

from isogloss.backends.huggingface.discovery import Router
from isogloss.backends.huggingface.loading import LoadedModel
from isogloss.backends.huggingface.phases import TokenPhases
from isogloss.backends.huggingface.watch import bypassed
from isogloss.errors import ModelError, PlanError
from isogloss.steering import PHASES, LayerEdit, Phase, Plan, apply_choice, apply_edit, check_plan, compile_layer

__all__ = ["mark_generated", "steer"]

_PRODUCTS = (torch.nn.functional.linear, torch.mm)  # mm where a router asks for float32 logits of 16-bit inputs
_TOPK = (torch.topk, torch.Tensor.topk)


class _EditRouter(TorchFunctionMode):
    """Edits the product with one router's weight, and then its choice, while that router's forward runs."""

    def __init__(self, router: Router, edit_by_phase: Mapping[Phase, LayerEdit], tokens: TokenPhases) -> None:
        super().__init__()
        self.router, self.edit_by_phase, self.tokens = router, dict(edit_by_phase), tokens
        self.fixes_choice = any(edit.fixes_choice for edit in edit_by_phase.values())
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
        if func in _TOPK and self.fixes_choice and self._is_choice(*args, **kwargs):
            return self._edit_choice(func, *args, **kwargs)
        return func(*args, **kwargs)

    def _is_product(self, func: Callable[..., Any], args: tuple[Any, ...]) -> bool:
        shape = args[1].shape if func is not torch.mm else args[1].shape[::-1]
        return bool(shape == self.router.weight_shape)

    def _edit_logits(self, logits: torch.Tensor) -> torch.Tensor:
        self.edits += 1
        self.n_dims, self.dtype = logits.ndim, logits.dtype
        if self.device != logits.device:
            self.edit_by_phase = {phase: edit.to(logits) for phase, edit in self.edit_by_phase.items()}
            self.device = logits.device
        n_experts = self.router.spec.n_experts
        edited = self._by_phase(apply_edit, logits[..., :n_experts])
        if edited is None or logits.shape[-1] == n_experts:
            return logits if edited is None else edited
        return torch.cat([edited, logits[..., n_experts:].float()], dim=-1)

    def _by_phase(
        self, function: Callable[[torch.Tensor, LayerEdit], torch.Tensor], values: torch.Tensor
    ) -> torch.Tensor | None:
        """Apply to each token the edit of its phase; None where no token has one, so that not even the dtype changes.

        Args:
            function: `apply_edit` or `apply_choice`.
            values: ``[n_tokens, n_experts]`` or ``[batch, length, n_experts]``, tokens in the order of the input ids.
        """
        generated = self.tokens.generated
        if isinstance(generated, bool):
            edit = self.edit_by_phase["generation" if generated else "prompt"]
            return None if edit.is_empty else function(values, edit)
        if generated.numel() != values[..., 0].numel():
            raise ModelError(
                f"the router of layer {self.router.spec.layer} sees {values[..., 0].numel()} tokens of a forward of "
                f"{generated.numel()}; phases cannot be told apart there: use a plan without conditions on phases"
            )
        edited = {
            phase: values.float() if edit.is_empty else function(values, edit)
            for phase, edit in self.edit_by_phase.items()
        }
        mask = generated.to(values.device).reshape(*values.shape[:-1], 1)
        return torch.where(mask, edited["generation"], edited["prompt"])

    def _is_choice(self, input: torch.Tensor, k: int, *_: object, **__: object) -> bool:  # noqa: A002 - torch's name
        n_experts, top_k = self.router.spec.n_experts, self.router.spec.top_k
        return input.shape[-1] == n_experts and input.ndim == self.n_dims and k == top_k

    def _edit_choice(self, func: Callable[..., Any], scores: torch.Tensor, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        self.choices += 1
        edited = self._by_phase(apply_choice, scores)
        if edited is None:
            return func(scores, *args, **kwargs)
        chosen = func(edited, *args, **kwargs).indices
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
        choosing = self.fixes_choice and (spec.selection_bias or spec.n_groups > 1)
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


_steered: WeakSet[torch.nn.Module] = WeakSet()
_tokens: WeakKeyDictionary[torch.nn.Module, TokenPhases] = WeakKeyDictionary()


@contextmanager
def steer(loaded: LoadedModel, plan: Plan) -> Iterator[None]:
    """Apply a plan to every forward inside the context; afterwards the model is as before, bit by bit.

    In ``loaded.model.generate`` the tokens that the model writes are of the generation; in other forwards all tokens
    are of the prompt, apart from those that `mark_generated` names.

    Args:
        loaded: the model; plans may not be nested.
        plan: made for this model. An empty plan attaches nothing. Of a plan with conditions on languages, give what
            `Plan.for_request` chooses.

    Raises:
        PlanError: the plan was made for another model, has conditions on languages, or another plan is active.
        ModelError: a forward of the decoder stack ended in which a router of the plan did not run, or ran without its
            logits being edited; or a plan with conditions on phases met a forward whose phases are not known.
    """
    check_plan(plan, loaded.fingerprint())
    if loaded.model in _steered:
        raise PlanError("another plan is active on this model; leave its context first, or make one plan of the two")
    edited = {intervention.layer for intervention in plan.interventions}
    tokens = _tokens.setdefault(loaded.model, TokenPhases()) if plan.by_phase else TokenPhases()
    routers = [router for router in loaded.routers if router.spec.layer in edited]
    modes = [_EditRouter(router, _compile(plan, router), tokens) for router in routers]
    with ExitStack() as stack:
        for handle in _attach(loaded, modes, tokens if plan.by_phase else None):
            stack.callback(handle.remove)
        stack.enter_context(tokens.followed(loaded.model) if plan.by_phase else nullcontext())
        stack.callback(_steered.discard, loaded.model)
        _steered.add(loaded.model)
        yield
    for mode in modes:
        mode.require_done()


def _compile(plan: Plan, router: Router) -> dict[Phase, LayerEdit]:
    layer, n_experts = router.spec.layer, router.spec.n_experts
    if not plan.by_phase:
        return dict.fromkeys(PHASES, compile_layer(plan, layer, n_experts))
    return {phase: compile_layer(plan, layer, n_experts, phase=phase) for phase in PHASES}


def _attach(
    loaded: LoadedModel, modes: Sequence[_EditRouter], tokens: TokenPhases | None
) -> list[torch.utils.hooks.RemovableHandle]:
    handles = [handle for mode in modes for handle in mode.attach()]
    handles += [loaded.decoder.register_forward_pre_hook(mode.begin_forward) for mode in modes]
    handles += [loaded.decoder.register_forward_hook(mode.end_forward) for mode in modes]
    if tokens is not None:
        handles.append(loaded.decoder.register_forward_pre_hook(tokens.begin_forward, with_kwargs=True))
    return handles


@contextmanager
def mark_generated(loaded: LoadedModel, generated: torch.Tensor) -> Iterator[None]:
    """Say which tokens of the forwards inside stand for text that the model wrote.

    So that the likelihood of a given answer is read under the edits that would act while the model writes it. Without
    a plan, and under one without conditions on phases, this changes nothing.

    In 16 bits, tokens of a phase without edits are bit-identical to unsteered ones where the whole forward is of that
    phase; in a forward of both they are scored in float32, like their neighbours, and differ by rounding.

    Args:
        loaded: the model, inside `steer` or not.
        generated: ``[batch, length]`` bool like the forwards' input ids, True from the first token of the answer on.

    Raises:
        ModelError: the mask is no matrix of bools, or a forward inside has input ids of another shape.
    """
    with _tokens.setdefault(loaded.model, TokenPhases()).marked(generated):
        yield
