"""Turns sums over counted tokens into the routing of a language; the same for every backend."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from isogloss.arrays import Int64Array
from isogloss.backends.token_batches import Text
from isogloss.backends.token_counts import TokenCounter
from isogloss.routing import entropy
from isogloss.runs import LanguageRouting

__all__ = ["PortionRunner", "gather", "pair_consistency"]

PortionRunner: TypeAlias = Callable[[Sequence[Text]], Mapping[str, npt.NDArray[Any]]]
"""Runs a portion of texts, and returns what `gather` asks for, by name."""


def gather(
    portions: Iterable[Sequence[Text]],
    n_texts: int,
    *,
    run: PortionRunner,
    counter: TokenCounter | None = None,
    progress: Callable[[int], None] | None = None,
) -> LanguageRouting:
    """Run texts portion by portion, and turn sums over tokens into means, and ids into a vocabulary.

    Args:
        portions: of texts; together every text once.
        n_texts: in all portions.
        run: gives, for the texts of a portion, ``profiles`` and ``selections`` ``[n, n_layers, n_experts]``, sums over
            the counted tokens; ``consistency`` ``[n, n_layers]``; where distinct tokens were asked for, the sums
            ``distinct_profiles`` over them; and where asked for, ``hidden`` ``[n, n_layers, hidden_size]``, and
            ``expert_ids`` ``[n_counted, n_layers, top_k]``, chosen for the counted tokens, text after text.
        counter: counts ``expert_ids`` by token; None where they are not asked for.
        progress: called with the number of texts of each portion that has run.
    """
    arrays: dict[str, npt.NDArray[Any]] = {}
    tokens = np.zeros((2, n_texts), dtype=np.int32)  # counted, distinct
    ids: list[Int64Array] = []
    for portion in portions:
        items = [text.item for text in portion]
        ids += [np.array(text.ids)[text.counted] for text in portion]
        tokens[0, items] = [len(text.counted) for text in portion]
        tokens[1, items] = [0 if text.distinct is None else len(text.distinct) for text in portion]
        sums = dict(run(portion))
        if counter is not None:
            counter.add(np.concatenate(ids[-len(portion) :]), sums.pop("expert_ids"))
        for name, part in sums.items():
            whole = arrays.setdefault(name, np.zeros((n_texts, *part.shape[1:]), dtype=np.float32))
            whole[items] = part
        if progress is not None:
            progress(len(items))
    return replace(
        _routing(arrays, tokens, np.concatenate(ids)), token_counts=None if counter is None else counter.counts(ids)
    )


def _routing(
    arrays: dict[str, npt.NDArray[Any]], tokens: npt.NDArray[np.int32], ids: npt.NDArray[np.int64]
) -> LanguageRouting:
    counted, distinct = tokens
    for name, n_tokens in (("profiles", counted), ("hidden", counted), ("distinct_profiles", np.maximum(distinct, 1))):
        if name in arrays:
            arrays[name] /= n_tokens[:, None, None].astype(np.float32)
    vocabulary, counts = np.unique(ids, return_counts=True)
    return LanguageRouting(
        profiles=arrays["profiles"],
        selections=np.rint(arrays["selections"]).astype(np.int32),
        tokens=counted,
        consistency=arrays["consistency"],
        entropy=entropy(arrays["profiles"]).astype(np.float32),
        vocabulary=vocabulary.astype(np.int32),
        vocabulary_counts=counts.astype(np.int32),
        distinct_profiles=arrays.get("distinct_profiles"),
        distinct_tokens=distinct if "distinct_profiles" in arrays else None,
        hidden=arrays.get("hidden"),
    )


def pair_consistency(sampled: torch.Tensor, n_sampled: torch.Tensor) -> torch.Tensor:
    """Mean Jaccard similarity of chosen sets over pairs of sampled tokens.

    Args:
        sampled: 1 for a chosen expert, else 0, ``[n, sample, n_experts]``; only the first ``n_sampled`` of each text
            are used.
        n_sampled: ``[n]``.

    Returns:
        ``[n]``, as `isogloss.routing.consistency`; NaN for a single token.
    """
    shared = sampled @ sampled.transpose(1, 2)
    size = sampled[:, :1].sum(-1, keepdim=True)
    position = torch.arange(sampled.shape[1], device=sampled.device)
    pairs = (position[:, None] < position[None, :]) & (position < n_sampled[:, None]).unsqueeze(1)
    jaccard = shared / (2 * size - shared)
    return (jaccard * pairs).sum((1, 2)) / pairs.sum((1, 2))
