"""Which row of the arrays edits which token: one row for every combination of plan, language and phase."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from isogloss.backends.vllm.plugin.names import UNSTEERED
from isogloss.routing import PHASES, Phase
from isogloss.steering import LayerEdit, Plan, compile_layer

__all__ = ["Row", "Slots", "positions"]


class Row(NamedTuple):
    """The tokens that one row edits.

    Attributes:
        plan: name of the plan, "" of the one without a name; `UNSTEERED` for none.
        language: that rules name; None for all others.
        phase: where rules name one.
    """

    plan: str
    language: str | None = None
    phase: Phase | None = None


@dataclass(frozen=True)
class Slots:
    """The rows of the plans that are served.

    Attributes:
        plans: by name; that of requests which name none has the name "".
        apart: whether requests are told apart: then row 0 edits nothing, for those that no plan is for.
    """

    plans: Mapping[str, Plan] = field(default_factory=dict)
    apart: bool = False

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """What each row edits, in the order of the arrays."""
        return (
            *((Row(UNSTEERED),) if self.apart else ()),
            *(
                Row(name, language, phase)
                for name, plan in self.plans.items()
                for language in (None, *plan.languages)
                for phase in (PHASES if plan.by_phase else (None,))
            ),
        )

    @cached_property
    def hashes(self) -> dict[str, str]:
        """The plans' hashes, by name."""
        return {name: plan.sha256 for name, plan in self.plans.items()}

    def words(self, row: Row) -> str:
        """Say what a row of a plan edits, as one among the rows of its plan."""
        word = (row.language or "other languages") if self.plans[row.plan].languages else "all"
        return f"{word}, {row.phase}" if row.phase else word

    def edits(self, layer: int) -> list[LayerEdit]:
        """Return what each row does in one layer, NumPy arrays."""
        return [
            LayerEdit(n_experts) if plan is None else compile_layer(plan, layer, n_experts, phase=row.phase)
            for row, plan, n_experts in self._requests
        ]

    @cached_property
    def _requests(self) -> list[tuple[Row, Plan | None, int]]:
        """Return each row with what its plan does for its language, and the number of experts."""
        n_experts = next((plan.fingerprint.n_experts for plan in self.plans.values()), 0)
        return [
            (row, self.plans[row.plan].for_request(row.language) if row.plan in self.plans else None, n_experts)
            for row in self.rows
        ]

    @cached_property
    def _places(self) -> dict[tuple[str, str | None], tuple[int, int]]:
        """The rows of prompt and generation by plan and language."""
        places: dict[tuple[str, str | None], tuple[int, int]] = {}
        for index, (plan, language, _) in enumerate(self.rows):
            prompt, _ = places.get((plan, language), (index, index))
            places[plan, language] = (prompt, index)
        return {("", None): (0, 0)} | places

    def of_tokens(
        self,
        asked: Sequence[tuple[str, str | None]],
        starts: npt.NDArray[np.int64],
        *,
        first: npt.NDArray[np.int64],
        n_tokens: npt.NDArray[np.int64],
    ) -> npt.NDArray[np.int64]:
        """Return the row of every token of a step, ``[n_tokens.sum()]``; each argument is by request.

        Args:
            asked: name of the plan, "" for none, and full code of the language.
            starts: position from which tokens are generated.
            first: position of the first token of this step.
            n_tokens: in this step.

        Raises:
            KeyError: there is no plan of that name; where requests enter, none of these passes.
        """
        places = [self._places.get((plan, language)) or self._places[plan, None] for plan, language in asked]
        prompt, generation = np.array(places, dtype=np.int64).reshape(-1, 2).T
        if not any(plan.by_phase for plan in self.plans.values()):
            return np.repeat(prompt, n_tokens)
        generated = positions(first, n_tokens) >= np.repeat(starts, n_tokens)
        return np.where(generated, np.repeat(generation, n_tokens), np.repeat(prompt, n_tokens))


def positions(first: npt.NDArray[np.int64], n_tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the position of every token of a step in its own text; see `Slots.of_tokens`."""
    before = np.repeat(n_tokens.cumsum() - n_tokens, n_tokens)
    found: npt.NDArray[np.int64] = np.arange(n_tokens.sum()) - before + np.repeat(first, n_tokens)
    return found
