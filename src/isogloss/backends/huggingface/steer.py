"""Applies a plan to a loaded model: logits are edited inside the router, before it scores and chooses.

transformers 5 chooses inside the router module, so editing what the router returns has no effect. While a router's
forward runs, a torch function mode replaces the result of the linear product with that router's own weight; the
family's own scoring, choice and renormalisation then work on the edited logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from isogloss.backends.huggingface.capture import watch_routers
from isogloss.backends.huggingface.loading import LoadedModel, Router
from isogloss.errors import ModelError, PlanError
from isogloss.steering import LayerEdit, Plan, apply_edit, check_plan, compile_layer

__all__ = ["Effect", "measure_effect", "steer"]

_LINEAR = torch.nn.functional.linear


class _EditLogits(TorchFunctionMode):
    """Edits the product with one router's weight while that router's forward runs."""

    def __init__(self, router: Router, edit: LayerEdit) -> None:
        super().__init__()
        self.router, self.edit = router, edit
        self.weight: Any = router.module.weight
        self.calls = self.edits = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - torch's signature
        """Run ``func``; edit its result where it is the router's linear product."""
        result = func(*args, **(kwargs or {}))
        if func is not _LINEAR or args[1] is not self.weight:
            return result
        self.edits += 1
        return apply_edit(result, self.edit)

    def attach(self) -> list[torch.utils.hooks.RemovableHandle]:
        """Be active exactly while the router's forward runs, also when it raises."""

        def begin(*_: object) -> None:
            self.__enter__()  # type: ignore[no-untyped-call]  # torch leaves it untyped

        def end(_module: torch.nn.Module, _inputs: object, output: object) -> None:
            self.__exit__(None, None, None)  # type: ignore[no-untyped-call]  # as above
            self.calls += output is not None  # None where the forward raised

        module = self.router.module
        return [
            module.register_forward_pre_hook(begin),
            module.register_forward_hook(end, always_call=True, prepend=True),
        ]


@contextmanager
def steer(loaded: LoadedModel, plan: Plan) -> Iterator[None]:
    """Apply a plan to every forward inside the context; afterwards the model is as before, bit by bit.

    Args:
        loaded: the model; plans may not be nested.
        plan: made for this model. An empty plan attaches nothing.

    Raises:
        PlanError: the plan was made for another model.
        ModelError: a router ran without its logits being edited.
    """
    check_plan(plan, loaded.fingerprint())
    edited = {intervention.layer for intervention in plan.interventions}
    modes = [
        _EditLogits(router, compile_layer(plan, router.spec.layer, router.spec.n_experts).to(router.module.weight))
        for router in loaded.routers
        if router.spec.layer in edited
    ]
    handles = [handle for mode in modes for handle in mode.attach()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    for mode in modes:
        if mode.edits != mode.calls:
            raise ModelError(
                f"the router of layer {mode.router.spec.layer} ran {mode.calls} times and was edited {mode.edits} "
                "times; it computes its logits in a way that steering does not reach, so the plan was not applied"
            )


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

    def keep(index: int, _logits: torch.Tensor, _weights: torch.Tensor, expert_ids: torch.Tensor) -> None:
        seen[index].append(expert_ids.sort(-1).values)

    with watch_routers(loaded, keep):
        for text in texts:
            ids = loaded.tokenizer(text, return_tensors="pt")["input_ids"].to(loaded.model.device)
            loaded.model.base_model(input_ids=ids, use_cache=False)
    return [torch.cat(parts) for parts in seen]
