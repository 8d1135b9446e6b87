"""The arrays of one language of a Run, and the laws that they keep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from isogloss.arrays import BoolArray, Float32Array, Int32Array
from isogloss.errors import RunError
from isogloss.runs.manifest import Manifest
from isogloss.runs.token_counts import TokenCounts

__all__ = ["LanguageRouting", "check_shapes", "check_values"]

_SUM_TOLERANCE = 1e-3  # means of bfloat16 softmaxes still pass, other quantities do not


@dataclass(frozen=True, eq=False)
class LanguageRouting:
    """The routing of one language's items.

    Attributes:
        profiles: ``[n_items, n_layers, n_experts]`` float32, mean routing weights of an item's counted tokens; they sum
            to 1 over experts. In an imported Run: mean combine weights, see `isogloss.runs.import_counts_json`.
        selections: the same shape, int32, number of counted tokens that chose the expert; sums to top_k x tokens,
            exactly if the Run has items.
        tokens: ``[n_items]`` int32, counted tokens, at least 1.
        consistency: ``[n_items, n_layers]`` float32 in [0, 1], mean Jaccard similarity of token pairs; NaN if unknown.
        entropy: ``[n_items, n_layers]`` float32, of the item's profile, in nats; NaN if unknown.
        vocabulary: ``[n_types]`` int32, ids of the counted tokens, ascending; None if unknown.
        vocabulary_counts: ``[n_types]`` int32, how often each was counted, over all items.
        distinct_profiles: profiles over an item's counted tokens whose ids never occur in the texts of the manifest's
            ``distinct_from`` language; zero if an item has no such token; None if they were not captured.
        distinct_tokens: ``[n_items]`` int32, number of those tokens.
        hidden: ``[n_items, n_layers, hidden_size]`` float32, each router's input, averaged over the counted tokens;
            None if it was not captured.
        token_counts: choices by token id and expert; None if they were not captured.
    """

    profiles: Float32Array
    selections: Int32Array
    tokens: Int32Array
    consistency: Float32Array
    entropy: Float32Array
    vocabulary: Int32Array | None = None
    vocabulary_counts: Int32Array | None = None
    distinct_profiles: Float32Array | None = None
    distinct_tokens: Int32Array | None = None
    hidden: Float32Array | None = None
    token_counts: TokenCounts | None = None

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> LanguageRouting:
        """Build it from what `arrays` returned; TypeError where an array is missing or unknown."""
        counts = {name: array for name, array in arrays.items() if name in TokenCounts.names()}
        own = {name: array for name, array in arrays.items() if name not in counts}
        return cls(**own, token_counts=TokenCounts(**counts) if counts else None)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays that are not None, by name."""
        own = {name: array for name, array in vars(self).items() if array is not None and name != "token_counts"}
        return own if self.token_counts is None else {**own, **self.token_counts.arrays()}


def check_shapes(routing: LanguageRouting, manifest: Manifest, where: str) -> None:
    """Raise RunError for arrays of another dtype or shape than the manifest implies, missing or not expected."""
    n_items, n_layers, n_experts = manifest.shape
    n_types = () if routing.vocabulary is None else (routing.vocabulary.size,)
    counts = routing.token_counts
    expected: dict[str, tuple[type, tuple[int, ...]]] = {
        "profiles": (np.float32, (n_items, n_layers, n_experts)),
        "selections": (np.int32, (n_items, n_layers, n_experts)),
        "tokens": (np.int32, (n_items,)),
        "consistency": (np.float32, (n_items, n_layers)),
        "entropy": (np.float32, (n_items, n_layers)),
        "vocabulary": (np.int32, n_types),
        "vocabulary_counts": (np.int32, n_types),
        "distinct_profiles": (np.float32, (n_items, n_layers, n_experts)),
        "distinct_tokens": (np.int32, (n_items,)),
        "hidden": (np.float32, (n_items, n_layers, manifest.hidden_size or 0)),
        **({} if counts is None else counts.expected_shapes(n_layers, *n_types or (0,))),
    }
    arrays = routing.arrays()
    for name, array in arrays.items():
        dtype, shape = expected[name]
        if array.dtype != dtype or array.shape != shape:
            raise RunError(f"{where}: {name} is {array.dtype} {array.shape}; expected {np.dtype(dtype)} {shape}")
    optional = {
        "vocabulary": "vocabulary" in arrays or manifest.token_counts,
        "vocabulary_counts": "vocabulary" in arrays,
        "distinct_profiles": manifest.distinct_from is not None,
        "distinct_tokens": manifest.distinct_from is not None,
        "hidden": manifest.hidden_size is not None,
        "choice_counts": manifest.token_counts,
    }
    for name, wanted in optional.items():
        if wanted != (name in arrays):
            state = "missing" if wanted else "present"
            raise RunError(f"{where}: {name} is {state}, contrary to the manifest; capture this language again")


def check_values(routing: LanguageRouting, manifest: Manifest, language: str) -> None:
    """Raise RunError for arrays that violate an invariant of Runs."""
    tokens, selections, profiles = routing.tokens[:, None, None], routing.selections, routing.profiles
    sums = selections.sum(axis=-1, dtype=np.int64)
    expected = routing.tokens[:, None].astype(np.int64) * [router.top_k for router in manifest.routers]
    with_items = manifest.granularity == "items"
    violations = {
        "tokens: an item without counted tokens": routing.tokens < 1,
        "selections: an expert chosen by fewer than 0 or more than all tokens": (selections < 0)
        | (selections > tokens),
        "selections: not top_k per token": (sums != expected) & with_items,
        "profiles: negative or not finite": ~(np.isfinite(profiles) & (profiles >= 0)),
        "profiles: not summing to 1": ~(abs(profiles.sum(axis=-1, dtype=np.float64) - 1) <= _SUM_TOLERANCE),
        "entropy: not finite": ~np.isfinite(routing.entropy) & with_items,
        "consistency: outside 0 to 1": (routing.consistency < 0) | (routing.consistency > 1),
        **_optional_violations(routing),
    }
    if routing.token_counts is not None and routing.vocabulary_counts is not None:
        top_k = np.array([router.top_k for router in manifest.routers])
        violations |= routing.token_counts.violations(routing.vocabulary_counts, selections, top_k)
    for problem, violated in violations.items():
        if np.any(violated):
            place = tuple(int(index) for index in np.argwhere(violated)[0])
            raise RunError(f"{language}: {problem} at index {place}; check the capture with `isogloss doctor`")


def _optional_violations(routing: LanguageRouting) -> dict[str, BoolArray]:
    """Mark where optional arrays violate an invariant."""
    violations: dict[str, BoolArray] = {}
    vocabulary, counts = routing.vocabulary, routing.vocabulary_counts
    if vocabulary is not None and counts is not None:
        violations["vocabulary: below 0"] = vocabulary < 0
        violations["vocabulary: not ascending"] = np.diff(vocabulary) <= 0
        violations["vocabulary_counts: below 1"] = counts < 1
        total = counts.sum(dtype=np.int64) != routing.tokens.sum(dtype=np.int64)
        violations["vocabulary_counts: not the number of counted tokens"] = np.atleast_1d(total)
    profiles, tokens = routing.distinct_profiles, routing.distinct_tokens
    if profiles is not None and tokens is not None:
        off = abs(profiles.sum(axis=-1, dtype=np.float64) - (tokens > 0)[:, None])
        violations["distinct_tokens: below 0, or more than all"] = (tokens < 0) | (tokens > routing.tokens)
        violations["distinct_profiles: negative or not finite"] = ~(np.isfinite(profiles) & (profiles >= 0))
        violations["distinct_profiles: summing neither to 1 nor, without tokens, to 0"] = ~(off <= _SUM_TOLERANCE)
    if routing.hidden is not None:
        violations["hidden: not finite"] = ~np.isfinite(routing.hidden)
    return violations
