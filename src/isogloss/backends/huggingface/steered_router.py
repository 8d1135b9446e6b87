"""One router that is steered: its logits are edited while its forward runs, before it scores and chooses.

transformers 5 chooses inside the router module, so editing what the router returns has no effect. While a router's
forward runs, a torch function mode replaces the result of the linear product with that router's weight; the family's
own scoring, choice and renormalisation then work on the edited logits. Where a plan forces or bans experts, the same
mode edits the scores that the router hands to its last ``topk``, so that no bias, group or saturation undoes it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import array_api_compat.torch
import torch
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack, _pop_mode, _push_mode

from isogloss.backends.huggingface.discovery import Router
from isogloss.backends.huggingface.phases import TokenPhases
from isogloss.backends.huggingface.router_outputs import LOGITS_AT
from isogloss.errors import ModelError, PlanError
from isogloss.routing import Phase
from isogloss.steering import LayerEdit, RouterAdapter, apply_choice, apply_edit

__all__ = ["LowRankRouter", "PlannedRouter", "SteeredRouter", "add_low_rank", "remove_runs"]

_PRODUCTS = (torch.nn.functional.linear, torch.mm)  # mm where a router asks for float32 logits of 16-bit inputs
_TOPK = (torch.topk, torch.Tensor.topk)

_apply_edit = functools.partial(apply_edit, xp=array_api_compat.torch)
_apply_choice = functools.partial(apply_choice, xp=array_api_compat.torch)


class _RouterRun(TorchFunctionMode):
    """Edits the product with one router's weight, and the scores it chooses by, during one run of that router."""

    def __init__(self, steered: SteeredRouter) -> None:
        super().__init__()
        self.steered = steered
        self.ended = False
        self.dtype = torch.float32
        self.n_dims = 0
        self.edits = self.selections = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401 - torch's signature
        """Run ``func``; edit its result where it is the router's product, its input where it chooses the experts."""
        kwargs = kwargs or {}
        if self.ended:
            return func(*args, **kwargs)
        if func in _PRODUCTS:
            result = func(*args, **kwargs)
            return self._edit_logits(args[0], result) if self._is_product(func, args) else result
        if func in _TOPK and self.steered.fixes_choice and self._is_selection(*args, **kwargs):
            return self._edit_selection(func, *args, **kwargs)
        return func(*args, **kwargs)

    def _is_product(self, func: Callable[..., Any], args: tuple[Any, ...]) -> bool:
        shape = args[1].shape if func is not torch.mm else args[1].shape[::-1]
        return bool(shape == self.steered.router.weight_shape)

    def _edit_logits(self, hidden: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        self.edits += 1
        self.n_dims, self.dtype = logits.ndim, logits.dtype
        n_experts = self.steered.router.spec.n_experts
        is_wider = logits.shape[-1] > n_experts
        edited = self.steered.edit_logits(hidden, logits[..., :n_experts] if is_wider else logits)
        if edited is None:
            return logits
        return torch.cat([edited, logits[..., n_experts:].float()], dim=-1) if is_wider else edited

    def _is_selection(self, input: torch.Tensor, k: int, *_: object, **__: object) -> bool:  # noqa: A002 - torch's name
        spec = self.steered.router.spec
        return input.shape[-1] == spec.n_experts and input.ndim == self.n_dims and k == spec.top_k

    def _edit_selection(self, func: Callable[..., Any], scores: torch.Tensor, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        self.selections += 1
        edited = self.steered.edit_choice(scores)
        if edited is None:
            return func(scores, *args, **kwargs)
        chosen = func(edited, *args, **kwargs).indices
        return torch.return_types.topk((scores.gather(-1, chosen), chosen))

    def require_edited(self) -> None:
        """Raise a ModelError where the router ran without being edited, exactly once."""
        spec = self.steered.router.spec
        choosing = self.steered.fixes_choice and (spec.selection_bias or spec.n_groups > 1)
        if self.edits != 1 or (choosing and self.selections != 1):
            raise ModelError(
                f"the router of layer {spec.layer} ran once; its logits were edited {self.edits} times and its choice "
                f"{self.selections} times; it computes them in a way that steering does not reach, so the plan was not "
                "applied"
            )


class SteeredRouter:
    """One router, and a forward that edits its logits.

    Attributes:
        router: to edit.
        fixes_choice: whether `edit_choice` does anything.
    """

    fixes_choice = False

    def __init__(self, router: Router) -> None:
        self.router = router
        self._handed_on: tuple[torch.dtype | None, ...] | None = None

    def forward(self, plain: Callable[..., Any], run_ended: Callable[[int], None]) -> Callable[..., Any]:
        """Wrap the router's forward; the edit ends with it, whatever is raised.

        A forward hook would not do: torch runs none, not even with ``always_call``, when a KeyboardInterrupt passes.
        """

        @functools.wraps(plain)
        def forward(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - the family's signature
            run = _RouterRun(self)
            try:
                with run:
                    output = plain(*args, **kwargs)
            except BaseException as error:
                run.ended = True
                remove_runs()
                if error.__context__ is None or isinstance(error.__context__, Exception):
                    raise
                raise error.__context__ from None  # an interrupt that torch's stack of modes did not survive
            run.ended = True
            run.require_edited()
            run_ended(self.router.spec.layer)
            if run.dtype == torch.float32 or self.router.family.returns == "logits":
                return output
            if self._handed_on is None:
                with torch.no_grad():
                    self._handed_on = tuple(getattr(part, "dtype", None) for part in plain(*args, **kwargs))
            return self._rounded(output)

        return forward

    def _rounded(self, output: tuple[Any, ...]) -> tuple[Any, ...]:
        """Round what the router hands to the experts as it does without a plan; reported logits stay float32."""
        reported = LOGITS_AT[self.router.family.returns]
        return tuple(
            part.to(dtype) if isinstance(part, torch.Tensor) and index != reported else part
            for index, (part, dtype) in enumerate(zip(output, self._handed_on or (), strict=True))
        )

    def edit_logits(self, hidden: torch.Tensor, logits: torch.Tensor) -> torch.Tensor | None:
        """Return the router's logits as steered; None where nothing steers them, so that not even the dtype changes.

        Args:
            hidden: ``[..., width]``, what the router's weight is multiplied with.
            logits: ``[..., n_experts]``, their product.
        """
        raise NotImplementedError

    def edit_choice(self, scores: torch.Tensor) -> torch.Tensor | None:
        """Return the scores ``[..., n_experts]`` that the router ranks, as steered; None as of `edit_logits`."""
        raise NotImplementedError


class PlannedRouter(SteeredRouter):
    """One router under a plan: the edit of each phase."""

    def __init__(self, router: Router, edit_by_phase: Mapping[Phase, LayerEdit], tokens: TokenPhases) -> None:
        super().__init__(router)
        self.edit_by_phase, self.tokens = dict(edit_by_phase), tokens
        self.fixes_choice = any(edit.fixes_choice for edit in edit_by_phase.values())
        self._edits_by_device: dict[torch.device, dict[Phase, LayerEdit]] = {}

    def edit_logits(self, hidden: torch.Tensor, logits: torch.Tensor) -> torch.Tensor | None:  # noqa: ARG002 - of adapters
        """Apply the edits."""
        return self.by_phase(_apply_edit, logits)

    def edit_choice(self, scores: torch.Tensor) -> torch.Tensor | None:
        """Make forced experts the best and banned ones the worst."""
        return self.by_phase(_apply_choice, scores)

    def by_phase(
        self, function: Callable[[torch.Tensor, LayerEdit], torch.Tensor], values: torch.Tensor
    ) -> torch.Tensor | None:
        """Apply to each token the edit of its phase; None where none has one, so that not even the dtype changes."""
        edits, generated = self._edits_on(values.device, like=values), self.tokens.generated
        if isinstance(generated, bool):
            edit = edits["generation" if generated else "prompt"]
            return None if edit.is_empty else function(values, edit)
        if generated.numel() != values[..., 0].numel():
            raise ModelError(
                f"the router of layer {self.router.spec.layer} sees {values[..., 0].numel()} tokens of a forward of "
                f"{generated.numel()}; phases cannot be told apart there: use a plan without conditions on phases"
            )
        edited = {phase: values.float() if edit.is_empty else function(values, edit) for phase, edit in edits.items()}
        mask = generated.to(values.device).reshape(*values.shape[:-1], 1)
        return torch.where(mask, edited["generation"], edited["prompt"])

    def _edits_on(self, device: torch.device, *, like: torch.Tensor) -> dict[Phase, LayerEdit]:
        """Copy the edits to a device once, not in every run."""
        if device not in self._edits_by_device:
            with torch.inference_mode(False):  # noqa: FBT003 - as torch compiles it; backward passes may need them later
                self._edits_by_device[device] = {phase: edit.to(like) for phase, edit in self.edit_by_phase.items()}
        return self._edits_by_device[device]


class LowRankRouter(SteeredRouter):
    """One router under an adapter: its weight is ``W + scale · B A``, whatever its product is computed with."""

    def __init__(self, router: Router, adapter: RouterAdapter) -> None:
        super().__init__(router)
        self.of_layer, self.scale = adapter.router(router.spec.layer), adapter.scale
        self._by_device: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = {}
        if self.of_layer.a.shape[1] != router.weight_shape[1]:
            raise PlanError(
                f"the adapter's probes of layer {router.spec.layer} read {self.of_layer.a.shape[1]} numbers; the "
                f"router reads {router.weight_shape[1]}"
            )

    def edit_logits(self, hidden: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Add ``scale · B A`` times what the router reads, in float32, in every phase."""
        a, b = self._matrices_on(logits.device)
        return add_low_rank(hidden, logits, b, a)

    def _matrices_on(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        if device not in self._by_device:
            with torch.inference_mode(False):  # noqa: FBT003 - as torch compiles it
                a, b = (torch.tensor(each, device=device) for each in (self.of_layer.a, self.of_layer.b))
                self._by_device[device] = a, self.scale * b
        return self._by_device[device]


def add_low_rank(hidden: torch.Tensor, logits: torch.Tensor, b: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
    """Return ``logits + B A hidden`` in float32, with the gradient of all.

    Args:
        hidden: ``[..., width]``, what the router's weight is multiplied with.
        logits: ``[..., n_experts]``, their product.
        b: ``[n_experts, rank]``.
        a: ``[rank, width]``.
    """
    return logits.float() + (hidden.float() @ a.T) @ b.T


def remove_runs() -> None:
    """Take runs of routers off this thread's stack of modes.

    An interrupt between two instructions of torch, which takes a mode off and puts it back around every function, can
    leave one there or lose it.
    """
    modes = _get_current_function_mode_stack()
    kept = [mode for mode in modes if not isinstance(mode, _RouterRun)]
    if len(kept) < len(modes):
        for _ in modes:
            _pop_mode()
        for mode in kept:
            _push_mode(mode)
