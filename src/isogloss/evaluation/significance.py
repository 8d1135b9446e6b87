"""Tests whether two arms differ on the same items."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from isogloss.arrays import FloatArray
from isogloss.errors import RunError
from isogloss.evaluation.scores import is_right_or_wrong, paired_arrays

__all__ = ["mcnemar_exact", "sign_flip"]

_N_FLIPS = 9999
_BATCH = 1000  # flips held at the same time


def mcnemar_exact(baseline: npt.ArrayLike, steered: npt.ArrayLike) -> float:
    """Test whether items flip from wrong to right as often as from right to wrong.

    The arms hold ``[n_items]`` 1 or true where correct, same items in the same order.

    Returns:
        Two-sided p-value of the binomial test on the items that flipped; 1 where none did.

    Raises:
        RunError: other scores than 0 and 1, empty, or of different length.

    Source:
        McNemar (1947), exact form; statsmodels ``mcnemar(exact=True)``.
    """
    from statsmodels.stats.contingency_tables import mcnemar  # noqa: PLC0415 - a second that reports need not wait

    pairs = paired_arrays(baseline, steered)
    if not is_right_or_wrong(pairs):
        raise RunError("McNemar's test found scores other than 0 and 1; expected right or wrong: use sign_flip")
    before, after = pairs.astype(bool).T
    gained, lost = int((~before & after).sum()), int((before & ~after).sum())
    if gained + lost == 0:
        return 1.0
    table = [[int((before & after).sum()), lost], [gained, int((~before & ~after).sum())]]
    return float(mcnemar(table, exact=True).pvalue)


def sign_flip(baseline: npt.ArrayLike, steered: npt.ArrayLike, *, seed: int = 0) -> float:
    """Test whether ``[n_items]`` scores differ, by swapping the two arms of each item at random.

    Exact where the items that differ allow at most 9999 ways to swap (13 items); otherwise 9999 are drawn, so that no
    p-value is below 0.0001. On scores of 0 and 1 this is McNemar's test.

    Returns:
        Two-sided p-value of the mean difference; 1 where none differs.

    Raises:
        RunError: empty, not finite, or of different length.

    Source:
        Fisher's randomisation test for pairs (1935); the same as ``scipy.stats.permutation_test`` with
        ``permutation_type="samples"``, which is about ten times slower.
    """
    before, after = paired_arrays(baseline, steered).T
    differences = (after - before)[after != before]
    if 2 ** len(differences) <= _N_FLIPS:
        signs = 1.0 - 2.0 * (np.arange(2 ** len(differences))[:, None] >> np.arange(len(differences)) & 1)
        return float(_as_extreme(signs, differences).mean())
    generator, exceeding = np.random.default_rng(seed), 0
    for start in range(0, _N_FLIPS, _BATCH):
        swapped = generator.integers(0, 2, (min(_BATCH, _N_FLIPS - start), len(differences)), dtype=np.int8)
        exceeding += int(_as_extreme(1.0 - 2.0 * swapped, differences).sum())
    return (1 + exceeding) / (1 + _N_FLIPS)


def _as_extreme(signs: npt.NDArray[np.floating[Any]], differences: FloatArray) -> npt.NDArray[np.bool_]:
    """Whether each flip, ``[n_flips, n_items]``, gives as large a sum as found; equal but for rounding counts."""
    exact = np.abs(differences.sum()) - 1e-12 * np.abs(differences).sum()
    return np.asarray(np.abs(signs @ differences) >= exact)
