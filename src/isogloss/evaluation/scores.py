"""Checks that two arms scored the same items, and brings their scores into arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from isogloss.arrays import FloatArray
from isogloss.errors import RunError

__all__ = ["common_languages", "is_right_or_wrong", "paired_arrays", "score_array"]


def score_array(scores: npt.ArrayLike, arm: str) -> FloatArray:
    """Return ``[n_items]`` bool or finite numbers as floats; ``arm`` names them in the message.

    Raises:
        RunError: empty, of another shape, no numbers, or not finite.
    """
    given = np.asarray(scores)
    if given.ndim != 1 or not len(given) or given.dtype.kind not in "biuf":
        raise RunError(
            f"the {arm} arm has scores of shape {given.shape} and type {given.dtype}; expected one number or one true "
            "or false per item, and at least one item"
        )
    values = given.astype(np.float64)
    if not np.isfinite(values).all():
        first = int(np.argmin(np.isfinite(values)))
        raise RunError(
            f"the {arm} arm has the score {values[first]} at item {first}; expected finite scores: score an empty "
            "answer as wrong"
        )
    return values


def paired_arrays(baseline: npt.ArrayLike, steered: npt.ArrayLike) -> FloatArray:
    """Return the scores of two arms side by side, ``[n_items, 2]``.

    Raises:
        RunError: as `score_array`, or arms of different length.
    """
    before, after = score_array(baseline, "baseline"), score_array(steered, "steered")
    if len(before) != len(after):
        raise RunError(
            f"baseline answered {len(before)} items and steered {len(after)}; expected the same items: "
            "run `isogloss evaluate` again to complete both arms"
        )
    return np.column_stack([before, after])


def is_right_or_wrong(scores: FloatArray) -> bool:
    """Whether every score is 0 or 1."""
    return bool(np.isin(scores, (0.0, 1.0)).all())


def common_languages(baseline: Mapping[str, Any], steered: Mapping[str, Any]) -> list[str]:
    """Return the languages of both arms, sorted.

    Raises:
        RunError: none, or other languages in the other arm.
    """
    if baseline.keys() != steered.keys() or not baseline:
        raise RunError(
            f"baseline has the languages {sorted(baseline)} and steered {sorted(steered)}; expected the same ones, "
            "at least one: run `isogloss evaluate` with equal --languages for both arms"
        )
    return sorted(baseline)
