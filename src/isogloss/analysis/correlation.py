"""Does a language that is routed like the pivot do better? Correlation over languages, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from isogloss.analysis.statistics import Estimate
from isogloss.errors import LanguageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    FloatArray = npt.NDArray[np.floating[Any]]

__all__ = ["LayerCorrelation", "accuracy_correlation", "correlate"]

LEAST_LANGUAGES = 4
"""Fisher's interval divides by the root of n - 3."""


@dataclass(frozen=True)
class LayerCorrelation:
    """Correlation of accuracy with divergence in one layer.

    Attributes:
        pearson: of the values; interval by Fisher's transformation, ``n`` languages.
        spearman: of the ranks, likewise (its interval is approximate).
        leave_one_out: least and greatest Pearson correlation when any one language is left out.
    """

    pearson: Estimate
    spearman: Estimate
    leave_one_out: tuple[float, float]

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON types; NaN becomes None."""
        ends = [end if np.isfinite(end) else None for end in self.leave_one_out]
        return {"pearson": self.pearson.to_json(), "spearman": self.spearman.to_json(), "leave_one_out": ends}


def _pearson(x: FloatArray, y: FloatArray) -> float:
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.sqrt((x @ x) * (y @ y)))
    return float(np.clip((x @ y) / scale, -1.0, 1.0)) if scale > 0 else float("nan")


def _ranks(x: FloatArray) -> FloatArray:
    """Rank from 1, ties share the mean of their ranks (scipy.stats takes longer to import than all else here)."""
    _, place, counts = np.unique(x, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[place])


def _fisher(correlation: float, n: int) -> Estimate:
    if abs(correlation) >= 1.0:
        return Estimate(correlation, correlation, correlation, n)
    centre, reach = np.arctanh(correlation), 1.959964 / np.sqrt(n - 3)
    return Estimate(correlation, float(np.tanh(centre - reach)), float(np.tanh(centre + reach)), n)


def correlate(x: FloatArray, y: FloatArray) -> LayerCorrelation:
    """Correlate two variables over languages, with 95 % intervals.

    Args:
        x: ``[n_languages]``, at least 4.
        y: ``[n_languages]``.

    Returns:
        NaN throughout where a variable is constant.
    """
    n = len(x)
    kept = [np.arange(n) != left_out for left_out in range(n)]
    without = [_pearson(x[keep], y[keep]) for keep in kept]
    ranks = _ranks(x), _ranks(y)
    return LayerCorrelation(
        _fisher(_pearson(x, y), n), _fisher(_pearson(*ranks), n), (float(np.min(without)), float(np.max(without)))
    )


def accuracy_correlation(
    divergence: Mapping[str, Sequence[Estimate]], accuracy: Mapping[str, float]
) -> tuple[LayerCorrelation, ...]:
    """Correlate accuracy with divergence over the languages that have both, in every layer.

    The pivot takes no part: its divergence from itself is zero by definition.

    Args:
        divergence: language to one Estimate per layer.
        accuracy: language to accuracy, in any unit.

    Returns:
        One correlation per layer.

    Raises:
        LanguageError: fewer than four languages have both.
    """
    both = [language for language in divergence if language in accuracy]
    if len(both) < LEAST_LANGUAGES:
        raise LanguageError(
            f"{len(both)} languages have divergence and accuracy; a correlation needs {LEAST_LANGUAGES} besides the "
            "pivot: add languages to the accuracy file or the run"
        )
    scores = np.array([accuracy[language] for language in both])
    values = np.array([[estimate.value for estimate in divergence[language]] for language in both])
    return tuple(correlate(column, scores) for column in values.T)
