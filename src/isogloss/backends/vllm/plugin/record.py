"""Keeps the routing of named items while an engine runs them: sums over counted tokens, never the tokens themselves.

A step of an engine holds tokens of many requests, and a long request takes several steps. Every step's buffers of
edited logits and expert ids are split by request and position, and added up per item on the device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import safetensors.torch
import torch

from isogloss.arrays import Int64Array
from isogloss.backends.vllm.plugin.layer import LayerSteering
from isogloss.backends.vllm.plugin.requests import ITEM
from isogloss.errors import ModelError

__all__ = ["Recorder"]


class _Step(NamedTuple):
    """Tokens of a running step that count: their places in the step, and whose they are.

    Attributes:
        sums: by name of a sum, ``[2, n]``: place in the step, and item.
        sampled: ``[3, n]``: place in the step, item, and place in the item's sample.
    """

    sums: dict[str, Int64Array]
    sampled: Int64Array


class Recorder:
    """Sums over the counted tokens of every item, on the device.

    Args:
        layers: decoder layer -> steering that keeps logits and expert ids.
        device: of their buffers.
    """

    def __init__(self, layers: Mapping[int, LayerSteering], device: torch.device) -> None:
        self.layers, self.device = tuple(layers), device
        kept = ((steering.logits, steering.expert_ids) for steering in layers.values())
        self._kept = [(logits, ids) for logits, ids in kept if logits is not None and ids is not None]
        self._items: list[dict[str, Int64Array]] = []
        self._left: list[set[int]] = []
        self._step: _Step | None = None
        self._arrays: dict[str, torch.Tensor] = {}

    def start(self, items: Sequence[Mapping[str, Sequence[int]]]) -> None:
        """Forget what was recorded, and expect items.

        Args:
            items: ``counted``, ``sampled`` and ``distinct`` positions of each; ``sampled`` are some of the counted
                ones, so are ``distinct``, which may be absent.
        """
        names = ("counted", "sampled", "distinct")
        self._items = [{name: np.array(item.get(name, ()), dtype=np.int64) for name in names} for item in items]
        self._left = [set(item["counted"].tolist()) for item in self._items]
        logits, expert_ids = self._kept[0]
        n, n_layers, n_experts = len(items), len(self._kept), logits.shape[1]
        n_sampled = max((len(item["sampled"]) for item in self._items), default=0)
        top_k = expert_ids.shape[1]
        shape, sampled = (n, n_layers, n_experts), (n, n_layers, n_sampled, top_k)
        sums = ("profiles", "selections", "distinct_profiles")
        self._arrays = {name: torch.zeros(shape, device=self.device) for name in sums}
        self._arrays["sampled"] = torch.zeros(sampled, dtype=torch.int64, device=self.device)

    def begin(self, extra: Sequence[Mapping[str, Any]], first: Int64Array, n_tokens: Int64Array) -> None:
        """Note which tokens of a step count.

        Args:
            extra: arguments of each request, in the order of its tokens.
            first: position of each request's first token of this step.
            n_tokens: of each request in this step.
        """
        self._step = None
        if not self._items:
            return
        rows: dict[str, list[Int64Array]] = {"counted": [], "distinct": []}
        sampled: list[Int64Array] = []
        for request, begin, start, n in zip(extra, n_tokens.cumsum() - n_tokens, first, n_tokens, strict=True):
            index = request.get(ITEM, len(self._items))
            if index >= len(self._items):  # of a client that is none of the capture's
                continue
            # A request that was pushed out of memory runs its tokens again: they count once.
            new = self._left[index].intersection(range(start, start + n))
            self._left[index] -= new
            item, shift = self._items[index], begin - start
            for name, parts in rows.items():
                here = np.array(sorted(new.intersection(item[name].tolist())), dtype=np.int64)
                parts.append(np.stack([here + shift, np.full_like(here, index)]))
            place = np.flatnonzero(np.isin(item["sampled"], list(new)))
            sampled.append(np.stack([item["sampled"][place] + shift, np.full_like(place, index), place]))
        if sampled:
            self._step = _Step(
                {name: np.concatenate(parts, axis=1) for name, parts in rows.items()}, np.concatenate(sampled, axis=1)
            )

    def end(self) -> None:
        """Add a finished step up."""
        if self._step is None:
            return
        step, self._step = self._step, None
        counted, distinct = (torch.from_numpy(step.sums[name]).to(self.device) for name in ("counted", "distinct"))
        sampled = torch.from_numpy(step.sampled).to(self.device)
        for index, (logits, expert_ids) in enumerate(self._kept):
            tokens, items = counted
            probabilities = logits[tokens].softmax(-1)
            chosen = torch.zeros_like(probabilities).scatter_(1, expert_ids[tokens], 1.0)
            self._arrays["profiles"][:, index].index_add_(0, items, probabilities)
            self._arrays["selections"][:, index].index_add_(0, items, chosen)
            if distinct.shape[1]:
                apart = logits[distinct[0]].softmax(-1)
                self._arrays["distinct_profiles"][:, index].index_add_(0, distinct[1], apart)
            tokens, items, place = sampled
            self._arrays["sampled"][items, index, place] = expert_ids[tokens]

    def stop(self) -> bytes:
        """Return what was recorded, and forget it.

        Returns:
            A safetensors file of ``profiles``, ``selections`` and ``distinct_profiles``, float32 sums over tokens
            ``[n_items, n_layers, n_experts]``; ``sampled`` ``[n_items, n_layers, n_sampled, top_k]`` int64, chosen
            experts; and ``layers`` ``[n_layers]`` int64, the decoder layers of this process.

        Raises:
            ModelError: a token that was to be counted did not run.
        """
        missing = [index for index, left in enumerate(self._left) if left]
        arrays, self._items, self._left, self._arrays = self._arrays, [], [], {}
        if missing:
            raise ModelError(
                f"tokens of {len(missing)} items did not run, of item {missing[0]} first; expected each to run once: "
                "capture needs an engine without prefix caching"
            )
        arrays["layers"] = torch.tensor(self.layers, dtype=torch.int64)
        return safetensors.torch.save({name: array.contiguous().cpu() for name, array in arrays.items()})
