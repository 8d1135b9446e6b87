"""Compares two arms by a score of the whole corpus that is no mean over items, such as corpus chrF or bits per byte.

Such scores are functions of sums over items (of matches, of bits and bytes), so a resample needs the sums alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from isogloss.arrays import FloatArray
from isogloss.errors import RunError
from isogloss.evaluation.paired import PairedScores
from isogloss.evaluation.power import detectable_mean
from isogloss.statistics import Estimate, bootstrap_counts, interval_around

__all__ = ["CorpusScore", "paired_corpus_scores"]

CorpusScore = Callable[[FloatArray], npt.NDArray[np.floating[Any]]]
"""Turns sums over items, ``[..., n_sums]``, into scores, ``[...]``."""


def paired_corpus_scores(
    baseline: npt.ArrayLike,
    steered: npt.ArrayLike,
    *,
    corpus_score: CorpusScore,
    n_resamples: int = 1000,
    seed: int = 0,
) -> PairedScores:
    """Estimate the corpus score of both arms and its difference, with 95 % percentile intervals over items.

    The arms hold ``[n_items, n_sums]``: what each item adds to the sums. Each resample draws items and sums both arms'
    statistics of them.

    Raises:
        RunError: the arms do not have the same items and sums, or none.

    Source:
        Paired bootstrap of corpus metrics: Koehn, Statistical significance tests for machine translation evaluation
        (2004).
    """
    before, after = _sums(baseline, steered)
    counts = bootstrap_counts(len(before), n_resamples=n_resamples, seed=seed).astype(np.float64)
    resampled = np.stack([corpus_score(counts @ before), corpus_score(counts @ after)], axis=1)
    first, second = (float(corpus_score(arm.sum(axis=0))) for arm in (before, after))
    values = np.array([first, second, second - first])
    columns = np.column_stack([resampled, resampled[:, 1] - resampled[:, 0]])
    low, high = interval_around(values, columns) if len(before) > 1 else (np.full(3, math.nan),) * 2
    rows = zip(values.tolist(), low.tolist(), high.tolist(), strict=True)
    baseline_score, steered_score, difference = (Estimate(*row, len(before)) for row in rows)
    return PairedScores(baseline_score, steered_score, difference, detectable_mean(float(columns[:, 2].std())))


def _sums(baseline: npt.ArrayLike, steered: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    before, after = np.asarray(baseline, dtype=np.float64), np.asarray(steered, dtype=np.float64)
    if before.ndim != 2 or before.shape != after.shape or not before.size:  # noqa: PLR2004 - items by sums
        raise RunError(
            f"baseline has sums of shape {before.shape} and steered {after.shape}; expected the same items and sums, "
            "at least one: run `isogloss evaluate` again to complete both arms"
        )
    return before, after
