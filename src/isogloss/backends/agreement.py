"""How closely two computations of one router must agree."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["MOVED", "TOLERANCE", "moved_share", "relative_difference", "selection_deviation"]

TOLERANCE = MappingProxyType({"float64": 1e-4, "float32": 1e-4, "bfloat16": 2e-2, "float16": 5e-3})
"""By dtype of the model: scores and weights of one token may differ by what rounding to it changes."""

# Sums of another shape round otherwise and move tokens between experts that nearly tie; padding that reaches a token,
# or a plan that does not, moves far more of them.
MOVED = MappingProxyType({"float32": 0.01, "bfloat16": 0.05, "float16": 0.05})
"""By dtype of the model: largest share of selections that may fall on other experts in sums of another shape."""


def moved_share(selections: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """Share of all selections that fall on other experts than expected; both count the same tokens, 0 of none."""
    total = float(expected.sum())
    return float(np.abs(selections - expected).sum() / 2 / total) if total else 0.0


def relative_difference(values: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """Largest difference, relative where the expected value is above 1."""
    difference = np.zeros(values.shape)
    np.subtract(values, expected, where=values != expected, out=difference)  # infinities may be equal
    difference = np.abs(difference) / np.maximum(1, np.abs(expected))
    return float(np.nan_to_num(difference, nan=np.inf, posinf=np.inf).max())


def selection_deviation(scores: npt.NDArray[Any], expert_ids: npt.NDArray[Any]) -> float:
    """Largest difference of chosen experts' scores from the best ones possible; infinite where one is chosen twice.

    Where scores tie, as they do in 16 bits, any of the tied experts is right.

    Args:
        scores: ``[n_tokens, n_experts]``.
        expert_ids: ``[n_tokens, top_k]``, in any order.
    """
    if (np.diff(np.sort(expert_ids, axis=1), axis=1) == 0).any():
        return float("inf")
    best = -np.sort(-scores, axis=1)[:, : expert_ids.shape[1]]
    chosen = -np.sort(-np.take_along_axis(scores, expert_ids, axis=1), axis=1)
    return relative_difference(chosen, best)
