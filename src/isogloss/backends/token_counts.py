"""Counts how often each expert is chosen for each token id, while a capture runs; the same for every backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from isogloss.arrays import Int64Array, IntArray
from isogloss.backends.token_routing import token_bytes
from isogloss.runs import TokenCounts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["TokenCounter"]

_IDS = 2**32  # above every token id
_BUFFERED = 2**20


class TokenCounter:
    """Adds up choices by layer, token id and expert; they are whole numbers, so that portions change nothing.

    Memory holds what is counted so far as 16 bytes for each entry of `TokenCounts`, and up to as much again, or 16 MiB,
    that is not added yet.

    Args:
        tokenizer: gives the ids' texts.
        n_experts: of every layer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, n_experts: int) -> None:
        self._tokenizer, self._n_experts = tokenizer, n_experts
        self._keys, self._counts = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        self._new: list[tuple[Int64Array, Int64Array]] = []
        self._n_layers = 0

    def add(self, ids: Int64Array, expert_ids: IntArray) -> None:
        """Count tokens.

        Args:
            ids: ``[n_tokens]``.
            expert_ids: ``[n_tokens, n_layers, top_k]``, chosen for them.
        """
        types, place = np.unique(ids, return_inverse=True)
        self._n_layers = expert_ids.shape[1]
        for layer in range(self._n_layers):
            cells = place[:, None] * self._n_experts + expert_ids[:, layer]
            counts = np.bincount(cells.ravel(), minlength=len(types) * self._n_experts)
            chosen = np.flatnonzero(counts)
            type_of, expert = np.divmod(chosen, self._n_experts)
            self._new.append(((layer * _IDS + types[type_of]) * self._n_experts + expert, counts[chosen]))
        if sum(len(keys) for keys, _ in self._new) > max(len(self._keys), _BUFFERED):
            self._add_up()

    def counts(self, ids: Sequence[Int64Array]) -> TokenCounts:
        """Return all that was counted.

        Args:
            ids: of each text's counted tokens, those that were added.
        """
        self._add_up()
        vocabulary = np.unique(np.concatenate(ids))
        items, squares = np.zeros((2, len(vocabulary)), dtype=np.int64)
        for of_text in ids:
            types, times = np.unique(of_text, return_counts=True)
            place = np.searchsorted(vocabulary, types)
            items[place] += 1
            squares[place] += times**2
        rows, experts = np.divmod(self._keys, self._n_experts)
        layers, types = np.divmod(rows, _IDS)
        rows = layers * len(vocabulary) + np.searchsorted(vocabulary, types)
        sizes = np.bincount(rows, minlength=self._n_layers * len(vocabulary))
        texts = [token_bytes(self._tokenizer, int(token)) for token in vocabulary]
        return TokenCounts(
            token_bytes=np.frombuffer(b"".join(texts), dtype=np.uint8),
            token_ends=np.cumsum([len(text) for text in texts]),
            token_items=items.astype(np.int32),
            token_squares=squares,
            choice_ends=np.cumsum(sizes).reshape(self._n_layers, -1),
            choice_experts=experts.astype(np.uint16),
            choice_counts=self._counts.astype(np.int32),
        )

    def _add_up(self) -> None:
        """Merge what is new into what was counted before; both are sorted runs, which a stable sort merges quickly."""
        keys = np.concatenate([self._keys, *(keys for keys, _ in self._new)])
        counts = np.concatenate([self._counts, *(counts for _, counts in self._new)])
        self._new = []
        order = np.argsort(keys, kind="stable")
        keys, counts = keys[order], counts[order]
        first = np.flatnonzero(np.diff(keys, prepend=-1))
        self._keys, self._counts = keys[first], np.add.reduceat(counts, first)
