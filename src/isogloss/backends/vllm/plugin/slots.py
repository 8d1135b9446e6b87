"""Which row of a plan's arrays edits which token: one row for every combination of language and phase."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from isogloss.routing import PHASES, Phase
from isogloss.steering import LayerEdit, Plan, compile_layer

__all__ = ["Slots"]


@dataclass(frozen=True)
class Slots:
    """The rows of one plan.

    Attributes:
        languages: that rules name; row 0 (and 1, by phase) serves requests in none of them.
        phases: prompt and generation where rules name one; else empty.
    """

    languages: tuple[str, ...] = ()
    phases: tuple[Phase, ...] = ()

    @classmethod
    def of(cls, plan: Plan) -> Slots:
        """Return the rows that a plan needs."""
        return cls(plan.languages, PHASES if plan.by_phase else ())

    @property
    def names(self) -> tuple[str, ...]:
        """What each row serves, in words."""
        words = [(language or "other languages") if self.languages else "all" for language in (None, *self.languages)]
        return tuple(f"{word}, {phase}" for word in words for phase in self.phases) if self.phases else tuple(words)

    def edits(self, plan: Plan, layer: int) -> list[LayerEdit]:
        """Return what each row does in one layer, NumPy arrays."""
        n_experts = plan.fingerprint.n_experts
        requests = [plan.for_request(language) for language in (None, *self.languages)]
        return [
            compile_layer(request, layer, n_experts, phase=phase)
            for request in requests
            for phase in (self.phases or (None,))
        ]

    def rows(
        self,
        languages: Sequence[str | None],
        starts: npt.NDArray[np.int64],
        *,
        first: npt.NDArray[np.int64],
        n_tokens: npt.NDArray[np.int64],
    ) -> npt.NDArray[np.int64]:
        """Return the row of every token of a step, ``[n_tokens.sum()]``; each argument is by request.

        Args:
            languages: full codes.
            starts: position from which tokens are generated.
            first: position of the first token of this step.
            n_tokens: in this step.
        """
        order = {language: index for index, language in enumerate(self.languages, 1)}
        row = np.array([order.get(language or "", 0) for language in languages], dtype=np.int64)
        if not self.phases:
            return np.repeat(row, n_tokens)
        before = np.repeat(n_tokens.cumsum() - n_tokens, n_tokens)
        position = np.arange(n_tokens.sum()) - before + np.repeat(first, n_tokens)
        return np.repeat(2 * row, n_tokens) + (position >= np.repeat(starts, n_tokens))
