"""Counts which experts a running engine chooses, by plan, language and phase, in memory of a fixed size.

Every layer adds the ids that it chooses to a buffer of its own; one number per token of a step says to which row.
Tokens that pad a step, that nobody asked for, or that run again after their request was pushed out of memory go to a
last row, which is never read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from isogloss.arrays import Int64Array
from isogloss.backends.vllm.plugin.layer import LayerSteering, Observation
from isogloss.backends.vllm.plugin.slots import positions
from isogloss.errors import ModelError, PlanError
from isogloss.routing import PHASES
from isogloss.runs.served_usage import OTHER, USAGE_SCHEMA_VERSION

__all__ = ["Counted", "Usage", "of_all_stages"]

_SEEN = "isogloss_counted"


class Counted(NamedTuple):
    """What a request is counted as.

    Attributes:
        plan: name of the plan that it runs under; None where it names none.
        plan_sha256: its hash; None where there is no plan.
        language: that it states.
    """

    plan: str | None
    plan_sha256: str | None
    language: str | None


class Usage:
    """Counts of chosen experts, on the device, and of tokens.

    Args:
        layers: decoder layer -> steering; each gets a buffer.
        n_apart: combinations of plan and language that are told apart, the first that come.
        max_tokens: of a step.
        device: of the buffers.
    """

    def __init__(
        self, layers: Mapping[int, LayerSteering], *, n_apart: int, max_tokens: int, device: torch.device
    ) -> None:
        self.layers, self.n_apart = layers, n_apart
        self.n_experts = next(iter(layers.values())).n_experts
        self.n_rows = (n_apart + 1) * len(PHASES)
        self._unread = self.n_rows * self.n_experts
        self._places = torch.full((max_tokens, 1), self._unread, dtype=torch.int64, device=device)
        for steering in layers.values():
            steering.count(self._places, self.n_rows + 1)
        self.reset()

    def reset(self) -> None:
        """Forget all counts, and what was told apart."""
        for steering in self.layers.values():
            steering.counts.zero_()
        self._tokens: Int64Array = np.zeros(self.n_rows + 1, dtype=np.int64)
        self._apart: dict[Counted, int] = {}

    def prove(self, probe: Callable[[], Mapping[int, Observation]]) -> None:
        """Show that a forward is counted, id by id, and leave nothing of it.

        Args:
            probe: runs all layers.

        Raises:
            ModelError: a layer counted other experts than it chose.
        """
        self.reset()
        self._places.zero_()
        seen = probe()
        self.end()
        for layer, steering in self.layers.items():
            chosen = seen[layer].chosen
            assert chosen is not None  # noqa: S101 - a probe refuses that
            expected = torch.bincount(chosen.flatten().long(), minlength=steering.counts.numel())
            if not torch.equal(steering.counts, expected) or chosen.max() >= self.n_experts:
                raise ModelError(
                    f"layer {layer} chose {chosen.numel()} experts for random tokens and counted "
                    f"{int(steering.counts[: self.n_experts].sum())} of them; expected each once: its router also "
                    "gives ids that are no routed experts; start without ISOGLOSS_USAGE"
                )
        self.reset()

    def begin(
        self,
        requests: Sequence[Any],
        kinds: Sequence[Counted],
        starts: Int64Array,
        *,
        first: Int64Array,
        n_tokens: Int64Array,
    ) -> None:
        """Note which token of a step is counted where; each argument is by request.

        Args:
            requests: as the runner keeps them while they live; what has been counted of each is noted there.
            kinds: what they are counted as.
            starts: position from which tokens are generated.
            first: position of the first token of this step.
            n_tokens: in this step.
        """
        seen = np.array([_seen(*pair) for pair in zip(requests, kinds, strict=True)], dtype=np.int64)
        for request, kind, end in zip(requests, kinds, np.maximum(seen, first + n_tokens).tolist(), strict=True):
            setattr(request, _SEEN, (kind, end))
        position = positions(first, n_tokens)
        rows = np.repeat(np.array([len(PHASES) * self._place(kind) for kind in kinds], dtype=np.int64), n_tokens)
        rows += position >= np.repeat(starts, n_tokens)
        rows[position < np.repeat(seen, n_tokens)] = self.n_rows
        self._tokens += np.bincount(rows, minlength=self.n_rows + 1)
        self._places[: len(rows), 0].copy_(torch.from_numpy(rows * self.n_experts), non_blocking=True)

    def _place(self, kind: Counted) -> int:
        """Return the place of a kind among those that are told apart; all others have the last."""
        if kind not in self._apart and len(self._apart) < self.n_apart:
            self._apart[kind] = len(self._apart)
        return self._apart.get(kind, self.n_apart)

    def end(self) -> None:
        """Count nothing until the next step begins: what runs in between is no request's."""
        self._places.fill_(self._unread)

    def read(self, *reset: object) -> dict[str, Any]:
        """Return what was counted, as JSON types.

        Args:
            reset: true where counts are to begin anew after what is returned; nothing else is taken.

        Returns:
            ``schema_version``; ``n_apart``; ``layers`` of this process; and ``counts``: one record for each plan,
            language and phase with tokens, ``selections`` ``[n_layers, n_experts]`` among its fields.

        Raises:
            PlanError: something else is asked for.
        """
        if reset not in ((), (False,), (True,)):
            raise PlanError("isogloss_usage takes one argument: true to begin anew after the answer, or false")
        each = [steering.counts.cpu().numpy().reshape(-1, self.n_experts) for steering in self.layers.values()]
        selections = np.stack(each)
        kinds = {place: kind for kind, place in self._apart.items()} | {self.n_apart: Counted(None, None, OTHER)}
        counts = [
            {
                **kinds[row // len(PHASES)]._asdict(),
                "phase": PHASES[row % len(PHASES)],
                "tokens": int(self._tokens[row]),
                "selections": selections[:, row].tolist(),
            }
            for row in np.flatnonzero(self._tokens[: self.n_rows]).tolist()
        ]
        if any(reset):
            self.reset()
        known = {"schema_version": USAGE_SCHEMA_VERSION, "n_apart": self.n_apart, "layers": list(self.layers)}
        return {**known, "counts": counts}


def _seen(request: Any, kind: Counted) -> int:  # noqa: ANN401 - vLLM's own
    """Return how many of a request's tokens have been counted as this."""
    before, n = getattr(request, _SEEN, (kind, 0))
    return n if before == kind else 0


def of_all_stages(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Put together what the workers of an engine have counted: those of a stage count the same, each stage its layers.

    Args:
        results: of `SteeredWorker.isogloss_usage`, by worker.
    """
    stages = {tuple(result["layers"]): result for result in results}
    ordered = [stages[layers] for layers in sorted(stages)]
    counts = [
        {**same[0], "selections": [layer for each in same for layer in each["selections"]]}
        for same in zip(*(stage["counts"] for stage in ordered), strict=True)
    ]
    return {**ordered[0], "layers": [layer for stage in ordered for layer in stage["layers"]], "counts": counts}
