"""Steers one Mixture-of-Experts layer of vLLM: edits its router logits, from buffers that a plan fills.

Everything that a graph reads lies in buffers of fixed shape, so a plan is replaced by copying into them: nothing is
compiled or captured again. Which arrays there are decides which operations a graph has (`Settings.kinds`).

With one slot all tokens are edited alike. With several, ``token_slots`` holds for every token of a step the row of
the arrays that edits it: there is one row per combination of plan, language and phase.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import array_api_compat.torch
import torch

from isogloss.backends.reference_router import choose_experts
from isogloss.routing import RouterSpec
from isogloss.steering import Kind, LayerEdit, apply_edit

__all__ = ["LayerSteering", "Observation", "SteeredLayer", "bind"]

_ARRAYS: dict[str, tuple[tuple[Kind, ...], torch.dtype, float]] = {
    "soft": (("soft",), torch.float32, 0.0),
    "adaptive": (("adaptive",), torch.float32, 0.0),
    "offset": (("offset",), torch.float32, 0.0),
    "suppress": (("suppress",), torch.bool, 0.0),
    "on": (("on",), torch.float32, -torch.inf),
    "off": (("off",), torch.float32, torch.inf),
    "force_lift": (("force",), torch.float32, -torch.inf),
    "ban": (("ban",), torch.float32, torch.inf),
}
"""The arrays of `LayerEdit`: the kinds that fill each, its dtype, and the value that changes nothing."""

_CHOICE: dict[str, tuple[tuple[Kind, ...], torch.dtype, float]] = {
    "least_score": (("force", "ban"), torch.float32, torch.finfo(torch.float32).min),
    "select": (("select",), torch.float32, 0.0),
}
"""What only the choice of the reference router reads, with ``ban``."""


class Observation:
    """What one layer did in one forward that is watched.

    Attributes:
        logits: ``[n_tokens, n_experts]`` float32, as the router gave them.
        plain: ``[n_tokens, top_k]`` ids that the router chooses from the logits as they were.
        chosen: ids that it chose from the edited ones; None where a kernel chose for itself.
    """

    logits: torch.Tensor | None = None
    plain: torch.Tensor | None = None
    chosen: torch.Tensor | None = None


def _edit(router_logits: torch.Tensor, edit: LayerEdit) -> torch.Tensor:
    edited: torch.Tensor = apply_edit(router_logits, edit, xp=array_api_compat.torch)
    return edited


@functools.cache
def _fused_edit() -> Callable[[torch.Tensor, LayerEdit], torch.Tensor]:
    """Compile the edit for any number of tokens; all layers share it."""
    compiled: Callable[[torch.Tensor, LayerEdit], torch.Tensor] = torch.compile(_edit, dynamic=True, fullgraph=True)
    return compiled


class LayerSteering(torch.nn.Module):
    """The buffers of one layer, and what is done with them.

    Args:
        n_experts: routed experts; logits may be wider, the rest stays as it is.
        kinds: that plans may use.
        n_slots: rows of every array.
        token_slots: ``[max_tokens]`` int64, the row of each token of a step, shared by all layers; None for one slot.
        reference: how the layer's router chooses, and its selection bias, where the reference router chooses in its
            place: where the bias or groups could undo what a plan forces or bans, or where a plan may select, for which
            vLLM's kernels have no place; else None.
        fused: compile the edit into one kernel. On a GPU it runs inside an operation that vLLM's own compiler does not
            look into; on a processor it does, and this is of no use.
    """

    token_slots: torch.Tensor | None
    logits: torch.Tensor | None
    expert_ids: torch.Tensor | None
    counts: torch.Tensor
    places: torch.Tensor
    one: torch.Tensor

    def __init__(
        self,
        n_experts: int,
        *,
        kinds: Sequence[Kind],
        n_slots: int,
        token_slots: torch.Tensor | None,
        reference: tuple[RouterSpec, torch.Tensor | None] | None = None,
        fused: bool = False,
    ) -> None:
        super().__init__()
        self._apply_edit = _fused_edit() if fused else _edit
        self.n_experts = n_experts
        arrays = _ARRAYS if reference is None else _ARRAYS | _CHOICE
        self.arrays = {name: row for name, row in arrays.items() if set(row[0]) & set(kinds)}
        self.edit_names = tuple(name for name in self.arrays if name in _ARRAYS)
        self.choice_names = tuple(name for name in self.arrays if name in ("ban", *_CHOICE))
        self.reference = reference
        self.plain_routing: Callable[..., tuple[torch.Tensor, torch.Tensor]] | None = None
        self.observation: Observation | None = None
        self.counting = False
        for name, (_, dtype, neutral) in self.arrays.items():
            array = torch.full((n_slots, n_experts), neutral, dtype=dtype)
            self.register_buffer(name, array, persistent=False)
        self.register_buffer("token_slots", token_slots, persistent=False)
        self.register_buffer("logits", None, persistent=False)
        self.register_buffer("expert_ids", None, persistent=False)

    @property
    def selects(self) -> bool:
        """Whether plans may select here."""
        return "select" in self.arrays

    def load(self, edits: Sequence[LayerEdit]) -> None:
        """Replace the edits in place, one per slot in use, NumPy arrays; the slots left over change nothing."""
        for name, (_, _, neutral) in self.arrays.items():
            buffer = self.get_buffer(name)
            rows = torch.full(buffer.shape, neutral, dtype=buffer.dtype)
            for slot, edit in enumerate(edits):
                if (array := edit.arrays.get(name)) is not None:
                    rows[slot] = torch.as_tensor(array)
            buffer.copy_(rows)

    def keep(self, max_tokens: int, top_k: int, device: torch.device) -> None:
        """Keep the edited logits and the chosen experts of every step in buffers, for capture."""
        self.logits = torch.zeros((max_tokens, self.n_experts), dtype=torch.float32, device=device)
        self.expert_ids = torch.zeros((max_tokens, top_k), dtype=torch.int64, device=device)

    def count(self, places: torch.Tensor, n_rows: int) -> None:
        """Count the chosen experts of every step in a buffer.

        Args:
            places: ``[max_tokens, 1]`` int64, shared by all layers: for every token of a step the row that counts it,
                times ``n_experts``.
            n_rows: of the buffer.
        """
        self.counting = True
        self.register_buffer("places", places, persistent=False)
        self.register_buffer("one", places.new_ones(1), persistent=False)
        self.register_buffer("counts", places.new_zeros(n_rows * self.n_experts), persistent=False)

    def edit(self, router_logits: torch.Tensor) -> torch.Tensor:
        """Edit the logits ``[n_tokens, at least n_experts]`` of a step; the result is float32 where there is a kind."""
        if not self.edit_names:
            return router_logits
        rows = self._rows(router_logits.shape[0], self.edit_names)
        edited = self._apply_edit(router_logits[..., : self.n_experts], rows)
        if router_logits.shape[-1] == self.n_experts:
            return edited
        return torch.cat([edited, router_logits[..., self.n_experts :].float()], dim=-1)

    def _rows(self, n_tokens: int, names: Sequence[str]) -> LayerEdit:
        """Return some arrays of the edit: of all tokens, or one row per token."""
        rows = 0 if self.token_slots is None else self.token_slots[:n_tokens]
        return LayerEdit(self.n_experts, **{name: self.get_buffer(name)[rows] for name in names})

    def route(
        self,
        hidden_states: torch.Tensor,
        router_logits: torch.Tensor,
        indices_type: torch.dtype | None,
        **options: Any,  # noqa: ANN401 - vLLM's own
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Choose experts from edited logits, in place of the ``_compute_routing`` of vLLM's router."""
        assert self.plain_routing is not None  # noqa: S101 - set where this method is installed
        if self.reference is None:
            weights, ids = self.plain_routing(hidden_states, router_logits, indices_type, **options)
        else:
            (spec, bias), edit = self.reference, self._rows(router_logits.shape[0], self.choice_names)
            weights, ids = choose_experts(router_logits, spec, selection_bias=bias, edit=edit)
            ids = ids.to(torch.int32 if indices_type is None else indices_type)
        if self.logits is not None and self.expert_ids is not None:
            self.logits[: len(ids)] = router_logits[..., : self.n_experts]
            self.expert_ids[: len(ids)] = ids
        if self.counting:
            chosen = (self.places[: len(ids)] + ids).flatten()
            self.counts.scatter_add_(0, chosen, self.one.expand_as(chosen))
        if self.observation is not None:
            self.observation.chosen = ids
        return weights, ids


class SteeredLayer:
    """Mixed into vLLM's ``MoERunner``: every path of a layer, whatever its kernels, passes ``_apply_quant_method``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - vLLM's own
        super().__init__(*args, **kwargs)
        self.isogloss: LayerSteering | None = None

    def _apply_quant_method(self, hidden_states: torch.Tensor, router_logits: torch.Tensor, **options: Any) -> Any:  # noqa: ANN401 - vLLM's own
        steering = self.isogloss
        if steering is None:
            return super()._apply_quant_method(hidden_states, router_logits, **options)  # type: ignore[misc]
        if steering.observation is not None and steering.plain_routing is not None:
            steering.observation.logits = router_logits[..., : steering.n_experts].float()
            _, steering.observation.plain = steering.plain_routing(hidden_states, router_logits, None)
        edited = steering.edit(router_logits)
        return super()._apply_quant_method(hidden_states, edited, **options)  # type: ignore[misc]


def bind(runner: Any, steering: LayerSteering) -> None:  # noqa: ANN401 - a class of vLLM
    """Install the steering of one layer of a loaded model, before anything is compiled."""
    runner.isogloss = steering
    steering.plain_routing = runner.router._compute_routing  # noqa: SLF001 - the one place all routers share
    runner.router._compute_routing = steering.route  # noqa: SLF001 - as above
