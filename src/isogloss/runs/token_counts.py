"""How often each expert was chosen for each token of a language: sparse, without items and positions."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from isogloss.arrays import BoolArray, Int32Array, Int64Array, IntArray

__all__ = ["TokenCounts"]


@dataclass(frozen=True, eq=False)
class TokenCounts:
    """Choices by layer, token id and expert, over all counted tokens of a language.

    The ids are those of ``vocabulary`` of the same `isogloss.runs.LanguageRouting`, in its order. There is an entry for
    every expert that was chosen at least once for an id in a layer, so that there are at most
    ``n_layers * min(n_types * n_experts, top_k * n_tokens)`` of them, 6 bytes each, however many texts there are.

    Attributes:
        token_bytes: ``[n_bytes]`` uint8, the ids' texts one after the other in UTF-8; of an id that is a part of a
            character, its bytes.
        token_ends: ``[n_types]`` int64, where each text ends in ``token_bytes``.
        token_items: ``[n_types]`` int32, items that hold the id.
        token_squares: ``[n_types]`` int64, sum over items of the squared number of times that an item holds the id.
        choice_ends: ``[n_layers, n_types]`` int64, where the entries of an id in a layer end: they are sorted by layer,
            then id, then expert.
        choice_experts: ``[n_choices]`` uint16.
        choice_counts: ``[n_choices]`` int32, at least 1.
    """

    token_bytes: npt.NDArray[np.uint8]
    token_ends: Int64Array
    token_items: Int32Array
    token_squares: Int64Array
    choice_ends: Int64Array
    choice_experts: npt.NDArray[np.uint16]
    choice_counts: Int32Array

    @classmethod
    def names(cls) -> set[str]:
        """Names of the arrays."""
        return {field.name for field in fields(cls)}

    def texts(self) -> list[bytes]:
        """Return what each id stands for."""
        ends = self.token_ends.tolist()
        return [self.token_bytes[start:end].tobytes() for start, end in zip([0, *ends], ends, strict=False)]

    def of_expert(self, layer: int, expert: int) -> Int64Array:
        """Return how often an expert was chosen for each id, ``[n_types]``.

        Args:
            layer: position among the routed layers.
            expert: id.
        """
        ends = self.choice_ends[layer]
        start = 0 if layer == 0 else int(self.choice_ends[layer - 1, -1])
        places = start + np.flatnonzero(self.choice_experts[start : ends[-1]] == expert)
        counts = np.zeros(len(ends), dtype=np.int64)
        counts[np.searchsorted(ends, places, side="right")] = self.choice_counts[places]
        return counts

    def expected_shapes(self, n_layers: int, n_types: int) -> dict[str, tuple[type, tuple[int, ...]]]:
        """Return dtype and shape of every array; where the length is free, as many as there are."""
        return {
            "token_bytes": (np.uint8, (self.token_bytes.size,)),
            "token_ends": (np.int64, (n_types,)),
            "token_items": (np.int32, (n_types,)),
            "token_squares": (np.int64, (n_types,)),
            "choice_ends": (np.int64, (n_layers, n_types)),
            "choice_experts": (np.uint16, (self.choice_experts.size,)),
            "choice_counts": (np.int32, (self.choice_experts.size,)),
        }

    def violations(self, counts: IntArray, selections: IntArray, top_k: IntArray) -> dict[str, BoolArray]:
        """Mark where an invariant is violated.

        Args:
            counts: ``[n_types]``, how often each id was counted.
            selections: ``[n_items, n_layers, n_experts]``.
            top_k: ``[n_layers]``.
        """
        if not len(counts):
            return {}  # an empty vocabulary is refused as such
        ends = {"token_ends": (self.token_ends, len(self.token_bytes))}
        ends["choice_ends"] = self.choice_ends.ravel(), len(self.choice_experts)
        wrong: dict[str, BoolArray] = {
            f"{name}: not ascending from above 0 to the length of what they divide": np.diff(
                places, prepend=0, append=length + 1
            )
            < 1
            for name, (places, length) in ends.items()
        }
        wrong |= {f"{name}: not up to the end": np.atleast_1d(places[-1] != n) for name, (places, n) in ends.items()}
        n_experts = selections.shape[2]
        wrong["choice_experts: no expert of the layer"] = self.choice_experts >= n_experts
        if any(map(np.any, wrong.values())):
            return wrong  # the rest cannot be computed
        squared = np.square(counts, dtype=np.float64)
        wrong["token_items: below 1, or more than the items, or than the counts"] = (self.token_items < 1) | (
            self.token_items > np.minimum(len(selections), counts)
        )
        wrong["token_squares: not those of so many counts in so many items"] = (
            self.token_squares < squared / np.maximum(self.token_items, 1) * (1 - 1e-12)
        ) | (self.token_squares > squared)
        return wrong | self._choice_violations(counts, selections, top_k)

    def _choice_violations(self, counts: IntArray, selections: IntArray, top_k: IntArray) -> dict[str, BoolArray]:
        """Mark choices that do not add up to what else is known."""
        _, n_layers, n_experts = selections.shape
        ends = self.choice_ends.ravel()
        starts = np.concatenate([[0], ends[:-1]])
        by_id = np.add.reduceat(self.choice_counts, starts, dtype=np.int64).reshape(n_layers, -1)
        first = np.zeros(len(self.choice_experts), dtype=bool)
        first[starts] = True
        sizes = np.diff(self.choice_ends[:, -1], prepend=0)
        cells = np.repeat(np.arange(n_layers) * n_experts, sizes) + self.choice_experts
        by_expert = np.bincount(cells, weights=self.choice_counts, minlength=n_layers * n_experts)
        return {
            "choice_counts: below 1": self.choice_counts < 1,
            "choice_experts: not ascending": ~first & (np.diff(self.choice_experts.astype(np.int64), prepend=-1) < 1),
            "choice_counts: not top_k of every counted token": by_id != top_k[:, None] * np.asarray(counts, np.int64),
            "choice_counts: not the selections of every expert": by_expert.reshape(n_layers, n_experts)
            != selections.sum(axis=0, dtype=np.int64),
        }

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays by name."""
        return dict(vars(self))
