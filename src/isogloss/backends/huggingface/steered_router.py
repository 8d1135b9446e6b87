"""One router that is steered: its logits are edited while its forward runs, before it scores and chooses.

transformers 5 chooses inside the router module, so editing what the router returns has no effect. While a router's
forward runs, a torch function mode replaces the result of the linear product with that router's weight; the family's
own scoring, choice and renormalisation then work on the edited logits. Where a plan forces or bans experts, the same
mode edits the scores that the router hands to its last ``topk``, so that no bias, group or saturation undoes it.

What a plan adds for the choice alone (``select``) leaves the logits as they are, dtype included. It is added to the
selection bias in the sum of scores and bias, so that the router does, bit for bit, what one with another bias does; a
router without a bias is handed edited scores where it chooses, or, where it compares groups before, in place of its
scores, and the weights are taken from the plain ones.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal

import array_api_compat.torch
import torch
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack, _pop_mode, _push_mode

from isogloss.backends.huggingface.discovery import Router
from isogloss.backends.huggingface.phases import TokenPhases
from isogloss.backends.huggingface.router_outputs import LOGITS_AT
from isogloss.errors import ModelError
from isogloss.routing import PHASES, Phase, RouterSpec
from isogloss.steering import LayerEdit, apply_choice, apply_edit, apply_select

__all__ = ["PlannedRouter", "SteeredRouter", "remove_runs", "where_selected"]

_PRODUCTS = (torch.nn.functional.linear, torch.mm)  # mm where a router asks for float32 logits of 16-bit inputs
_TOPK = (torch.topk, torch.Tensor.topk)
_GATHER = (torch.gather, torch.Tensor.gather)
_MAX = (torch.max, torch.Tensor.max)  # of sparsemixer, which chooses two experts in turn
_SUMS = (torch.add, torch.Tensor.add, torch.Tensor.__add__, torch.Tensor.__radd__)
_SCORES = (torch.softmax, torch.Tensor.softmax, torch.nn.functional.softmax, torch.sigmoid, torch.Tensor.sigmoid)


def _edit(logits: torch.Tensor, edit: LayerEdit) -> torch.Tensor | None:
    return apply_edit(logits, edit, xp=array_api_compat.torch) if edit.edits_logits else None


def _select(scores: torch.Tensor, edit: LayerEdit) -> torch.Tensor | None:
    return None if edit.select is None else apply_select(scores, edit, xp=array_api_compat.torch)


def _choose(scores: torch.Tensor, edit: LayerEdit) -> torch.Tensor | None:
    return apply_choice(scores, edit, xp=array_api_compat.torch) if edit.fixes_choice else None


def _select_and_choose(scores: torch.Tensor, edit: LayerEdit) -> torch.Tensor | None:
    selected = _select(scores, edit)
    chosen = _choose(scores if selected is None else selected, edit)
    return selected if chosen is None else chosen


def _choose_next(scores: torch.Tensor, edit: LayerEdit) -> torch.Tensor | None:
    """Edit what sparsemixer takes a maximum of; what it has taken before is at minus infinity, and must stay there."""
    edited = _select_and_choose(scores, edit)
    return None if edited is None else edited.masked_fill(scores == -torch.inf, -torch.inf)


_AT = {"choice": _select_and_choose, "maxima": _choose_next}
"""What edits a choice, by where something is added for it; see `SteeredRouter.selects_at`."""


def _uncompiled(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Leave a part of a compiled model as it is: a graph that is traced under a mode runs under it, and edits twice."""
    disabled: Callable[..., Any] = torch.compiler.disable(forward)
    return disabled


class _RouterRun(TorchFunctionMode):
    """Edits the product with one router's weight, and the scores it chooses by, during one run of that router.

    Attributes:
        steered: the router and its edits.
        ended: whether the run is over; what else runs under the mode then is left alone.
        dtype: of the logits before they were edited; float32 where they were not.
        n_dims: number of axes of the logits.
        edits: how often the logits were seen.
        selections: how often a choice was seen.
        sums: how often scores were seen where ``select`` is added: in the sum with the bias, or before groups.
    """

    def __init__(self, steered: SteeredRouter, *, n_dims: int = 0) -> None:
        super().__init__()
        self.steered = steered
        self.ended = False
        self.dtype = torch.float32
        self.n_dims = n_dims
        self.edits = self.selections = self.sums = 0
        self._biases: list[torch.Tensor] = []  # the selection bias in other shapes and dtypes
        self._plain_scores: torch.Tensor | None = None
        self._edited_scores: torch.Tensor | None = None

    def of(self, plain: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:  # noqa: ANN401
        """Run a forward; the edit ends with it, whatever is raised."""
        try:
            with self:
                return plain(*args, **kwargs)
        except BaseException as error:
            self.ended = True
            remove_runs()
            if error.__context__ is None or isinstance(error.__context__, Exception):
                raise
            raise error.__context__ from None  # an interrupt that torch's stack of modes did not survive
        finally:
            self.ended = True

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401 - torch's signature
        """Run ``func``; edit its result where it is the router's product, its input where it chooses the experts."""
        kwargs = kwargs or {}
        if self.ended:
            return func(*args, **kwargs)
        if func in _PRODUCTS:
            result = func(*args, **kwargs)
            return self._edit_logits(args[0], result) if self._is_product(func, args) else result
        if func in _TOPK and self.steered.edits_choice and self._is_selection(*args, **kwargs):
            return self._edit_selection(func, torch.return_types.topk, *args, **kwargs)
        if self.steered.selects_at is None:
            return func(*args, **kwargs)
        return self._select(func, args, kwargs)

    def _select(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:  # noqa: ANN401
        """Run ``func`` as above, for ``select`` where a router adds a bias, compares groups or takes maxima."""
        at = self.steered.selects_at
        if at == "sum" and (bias := self._bias_of(args)) is not None:
            return self._edit_sum(func, bias, args, kwargs)
        if at == "maxima" and func in _MAX and kwargs.get("keepdim") and self._is_row(args[0]):
            return self._edit_selection(func, torch.return_types.max, *args, **kwargs)
        if at == "scores" and func in _GATHER and args[0] is self._edited_scores:
            args = (self._plain_scores, *args[1:])  # weights are those of the plain scores
        result = func(*args, **kwargs)
        if at == "scores" and func in _SCORES and self._is_row(result):
            self.sums += 1
            if (edited := self.steered.edit_scores(result)) is not None:
                self._plain_scores, self._edited_scores = result, edited
                return edited
        return result

    def _bias_of(self, args: tuple[Any, ...]) -> torch.Tensor | None:
        """Return the argument that is the selection bias, if any."""
        biases = (self.steered.router.held_bias, *self._biases)
        return next((each for each in args if any(each is bias for bias in biases)), None)

    def _edit_sum(
        self, func: Callable[..., Any], bias: torch.Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:  # noqa: ANN401 - torch's own
        """Add an edited bias to scores; note a bias that changes its shape or dtype."""
        scores = next((each for each in args if each is not bias and isinstance(each, torch.Tensor)), None)
        if scores is None:
            result = func(*args, **kwargs)
            if isinstance(result, torch.Tensor) and result.numel() == bias.numel():
                self._biases.append(result)
            return result
        if func not in _SUMS or not self._is_row(scores):
            return func(*args, **kwargs)
        self.sums += 1
        edited = self.steered.edit_scores(bias.expand(scores.shape))
        return func(*args, **kwargs) if edited is None else func(scores, edited, **kwargs)

    def _is_row(self, scores: torch.Tensor) -> bool:
        return scores.ndim == self.n_dims and scores.shape[-1] == self.steered.router.spec.n_experts

    def _is_product(self, func: Callable[..., Any], args: tuple[Any, ...]) -> bool:
        shape = args[1].shape if func is not torch.mm else args[1].shape[::-1]
        return bool(shape == self.steered.router.weight_shape)

    def _edit_logits(self, hidden: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        self.edits += 1
        self.n_dims = logits.ndim
        n_experts = self.steered.router.spec.n_experts
        is_wider = logits.shape[-1] > n_experts
        edited = self.steered.edit_logits(hidden, logits[..., :n_experts] if is_wider else logits)
        if edited is None:
            return logits
        self.dtype = logits.dtype
        return torch.cat([edited, logits[..., n_experts:].float()], dim=-1) if is_wider else edited

    def _is_selection(self, input: torch.Tensor, k: int, *_: object, **__: object) -> bool:  # noqa: A002 - torch's name
        return self._is_row(input) and k == self.steered.router.spec.top_k

    def _edit_selection(
        self,
        func: Callable[..., Any],
        returned: Callable[..., Any],
        scores: torch.Tensor,
        *args: Any,  # noqa: ANN401 - torch's own
        **kwargs: Any,  # noqa: ANN401 - as above
    ) -> Any:  # noqa: ANN401 - as above
        self.selections += 1
        edited, plain = self.steered.edit_choice(scores), self._plain_scores
        if edited is None and plain is None:
            return func(scores, *args, **kwargs)
        chosen = func(scores if edited is None else edited, *args, **kwargs).indices
        return returned(((scores if plain is None else plain).gather(-1, chosen), chosen))

    def require_edited(self, expected: tuple[int | None, ...]) -> None:
        """Raise a ModelError where the router ran and ``edits``, ``sums`` or ``selections`` are not as expected."""
        seen = self.edits, self.sums, self.selections
        if any(n != wanted for n, wanted in zip(seen, expected, strict=True) if wanted is not None):
            raise ModelError(
                f"the router of layer {self.steered.router.spec.layer} ran once; its logits were edited {self.edits} "
                f"times, what it ranks {self.sums} times and its choice {self.selections} times; it computes them in a "
                "way that steering does not reach, so the plan was not applied"
            )


class SteeredRouter:
    """One router, and a forward that edits its logits.

    Attributes:
        router: to edit.
        fixes_choice: whether experts are forced or banned.
        selects_at: where something is added for the choice alone: in the ``sum`` of scores and selection bias; to the
            ``scores``, which groups are compared by; at the ``choice``; or at both ``maxima`` of sparsemixer. None
            where nothing is.
    """

    fixes_choice = False
    selects_at: Literal["sum", "scores", "choice", "maxima"] | None = None

    def __init__(self, router: Router) -> None:
        self.router = router
        self._handed_on: tuple[torch.dtype | None, ...] | None = None

    @property
    def edits_choice(self) -> bool:
        """Whether `edit_choice` does anything, or the weights of what is chosen must be those of plain scores."""
        return self.fixes_choice or self.selects_at in ("scores", "choice")

    @property
    def expected(self) -> tuple[int, int | None, int | None]:
        """How often a run must edit logits, sums and choices; None where it does not matter, or is done elsewhere."""
        spec, at = self.router.spec, self.selects_at
        n_chosen = 1 if at == "choice" or (self.fixes_choice and (spec.selection_bias or spec.n_groups > 1)) else None
        if self.router.family.returns == "logits":
            n_chosen = None
        return 1, 1 if at in ("sum", "scores") else None, spec.top_k if at == "maxima" else n_chosen

    def forward(self, plain: Callable[..., Any], run_ended: Callable[[int], None]) -> Callable[..., Any]:
        """Wrap the router's forward; the edit ends with it, whatever is raised.

        A forward hook would not do: torch runs none, not even with ``always_call``, when a KeyboardInterrupt passes.
        """

        @functools.wraps(plain)
        def forward(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - the family's signature
            run = _RouterRun(self)
            output = run.of(plain, args, kwargs)
            run.require_edited(self.expected)
            run_ended(self.router.spec.layer)
            if run.dtype == torch.float32 or self.router.family.returns == "logits":
                return output
            if self._handed_on is None:
                with torch.no_grad():
                    self._handed_on = tuple(getattr(part, "dtype", None) for part in plain(*args, **kwargs))
            return self._rounded(output)

        return _uncompiled(forward)

    def choosing(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap the method of a block that chooses from what its router returned, ``[n_tokens, n_experts]``."""

        @functools.wraps(plain)
        def choose(logits: torch.Tensor, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - the family's signature
            run = _RouterRun(self, n_dims=logits.ndim)
            output = run.of(plain, (logits, *args), kwargs)
            run.require_edited((0, 0, 1))
            return output

        return _uncompiled(choose)

    def _rounded(self, output: tuple[Any, ...]) -> tuple[Any, ...]:
        """Round what the router hands to the experts as it does without a plan; reported logits stay float32."""
        reported = LOGITS_AT[self.router.family.returns]
        return tuple(
            part.to(dtype) if isinstance(part, torch.Tensor) and index != reported else part
            for index, (part, dtype) in enumerate(zip(output, self._handed_on or (), strict=True))
        )

    def bring(self) -> None:
        """Copy what the edits need to the router's device, where it has one.

        Before the first forward: one that is captured as a CUDA graph may copy nothing from the host, and would keep
        what it copied in memory that the next replay overwrites.
        """

    def edit_logits(self, hidden: torch.Tensor, logits: torch.Tensor) -> torch.Tensor | None:
        """Return the router's logits as steered; None where nothing steers them, so that not even the dtype changes.

        Args:
            hidden: ``[..., width]``, what the router's weight is multiplied with.
            logits: ``[..., n_experts]``, their product.
        """
        raise NotImplementedError

    def edit_scores(self, scores: torch.Tensor) -> torch.Tensor | None:
        """Return ``scores`` or the bias, ``[..., n_experts]``, with what is added for the choice; None as above."""
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
        if any(edit.select is not None for edit in edit_by_phase.values()):
            self.selects_at = where_selected(router.spec)
        self._edits_by_device: dict[torch.device, dict[Phase, LayerEdit]] = {}

    def edit_logits(self, hidden: torch.Tensor, logits: torch.Tensor) -> torch.Tensor | None:  # noqa: ARG002 - of adapters
        """Apply the edits."""
        return self.by_phase(_edit, logits)

    def edit_scores(self, scores: torch.Tensor) -> torch.Tensor | None:
        """Add the constants of ``select``."""
        return self.by_phase(_select, scores)

    def edit_choice(self, scores: torch.Tensor) -> torch.Tensor | None:
        """Make forced experts the best and banned ones the worst, after ``select`` where that acts here."""
        return self.by_phase(_AT.get(self.selects_at or "", _choose), scores)

    def by_phase(
        self, function: Callable[[torch.Tensor, LayerEdit], torch.Tensor | None], values: torch.Tensor
    ) -> torch.Tensor | None:
        """Apply to each token the edit of its phase; None where none does anything: not even the dtype changes."""
        edits, generated = self._edits_on(values.device), self.tokens.generated
        if isinstance(generated, bool):
            return function(values, edits["generation" if generated else "prompt"])
        if generated.numel() != values[..., 0].numel():
            raise ModelError(
                f"the router of layer {self.router.spec.layer} sees {values[..., 0].numel()} tokens of a forward of "
                f"{generated.numel()}; phases cannot be told apart there: use a plan without conditions on phases"
            )
        prompt, generation = (function(values, edits[phase]) for phase in PHASES)
        if prompt is None and generation is None:
            return None
        mask = generated.to(values.device).reshape(*values.shape[:-1], 1)
        either, other = (values.float() if each is None else each for each in (generation, prompt))
        return torch.where(mask, either, other)

    def bring(self) -> None:
        """Copy the edits."""
        if (device := self.router.device) is not None:
            self._edits_on(device)

    def _edits_on(self, device: torch.device) -> dict[Phase, LayerEdit]:
        """Copy the edits to a device once, not in every run; those of both phases may be one."""
        if device not in self._edits_by_device:
            with torch.inference_mode(False):  # noqa: FBT003 - as torch compiles it; backward passes may need them later
                like = torch.empty(0, device=device)
                moved = {id(edit): edit.to(like) for edit in self.edit_by_phase.values()}
            self._edits_by_device[device] = {phase: moved[id(edit)] for phase, edit in self.edit_by_phase.items()}
        return self._edits_by_device[device]


def where_selected(spec: RouterSpec) -> Literal["sum", "scores", "choice", "maxima"]:
    """Return where a router is reached by what is added for the choice alone; see `SteeredRouter.selects_at`."""
    if spec.selection_bias:
        return "sum"
    if spec.n_groups > 1:
        return "scores"
    return "maxima" if spec.scoring == "sparsemixer" else "choice"


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
