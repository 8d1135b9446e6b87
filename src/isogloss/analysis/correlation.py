"""Does a language that is routed like the pivot do better? Correlation over languages, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from isogloss.analysis.layers import layer_positions
from isogloss.arrays import FloatArray
from isogloss.errors import LanguageError
from isogloss.records import Number, Record
from isogloss.statistics import Estimate

__all__ = ["LayerCorrelation", "accuracy_correlation", "band_correlation", "correlate", "correlate_measures"]

LEAST_CORRELATED = 4
"""Fisher's interval divides by the root of n - 3."""


@dataclass(frozen=True)
class LayerCorrelation(Record):
    """Correlation over languages of two measures, such as accuracy and divergence in one layer.

    Attributes:
        pearson: of the values; interval by Fisher's transformation, ``n`` languages.
        spearman: of the ranks; interval by the same transformation with the variance of Bonett and Wright. Its ends
            are NaN where the ranks agree or disagree perfectly: few languages often do so by chance.
        leave_one_out: least and greatest Pearson correlation when any one language is left out.
    """

    pearson: Estimate
    spearman: Estimate
    leave_one_out: tuple[Number, Number]


def _pearson(x: FloatArray, y: FloatArray) -> float:
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.sqrt((x @ x) * (y @ y)))
    return float(np.clip((x @ y) / scale, -1.0, 1.0)) if scale > 0 else float("nan")


def _ranks(x: FloatArray) -> FloatArray:
    """Rank from 1, ties share the mean of their ranks (scipy.stats takes longer to import than all else here)."""
    _, place, counts = np.unique(x, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[place])


def _fisher(correlation: float, n: int, *, variance: float = 1.0) -> Estimate:
    """Give a 95 % interval; ``variance`` is that of the transformed correlation, times n - 3."""
    if abs(correlation) >= 1.0:
        return Estimate(correlation, correlation, correlation, n)
    centre, reach = np.arctanh(correlation), 1.959964 * np.sqrt(variance / (n - 3))
    return Estimate(correlation, float(np.tanh(centre - reach)), float(np.tanh(centre + reach)), n)


def _spearman(correlation: float, n: int) -> Estimate:
    if abs(correlation) >= 1.0:
        return Estimate.without_interval(correlation, n)
    return _fisher(correlation, n, variance=1.0 + correlation**2 / 2.0)


def correlate(x: FloatArray, y: FloatArray) -> LayerCorrelation:
    """Correlate two variables over languages, with 95 % intervals.

    Both are ``[n_languages]``, at least 4; the result is NaN throughout where a variable is constant.

    Raises:
        ValueError: fewer than four values, or not as many of both.

    Source:
        Fisher's z with variance 1 / (n - 3); for ranks (1 + r² / 2) / (n - 3), Bonett and Wright 2000,
        Psychometrika 65, 23-28.
    """
    n = len(x)
    if n < LEAST_CORRELATED or len(y) != n:
        raise ValueError(f"{n} and {len(y)} values; a correlation needs as many of both, at least {LEAST_CORRELATED}")
    kept = [np.arange(n) != left_out for left_out in range(n)]
    without = [_pearson(x[keep], y[keep]) for keep in kept]
    ranks = _ranks(x), _ranks(y)
    return LayerCorrelation(
        _fisher(_pearson(x, y), n), _spearman(_pearson(*ranks), n), (float(np.min(without)), float(np.max(without)))
    )


def accuracy_correlation(
    divergence: Mapping[str, Sequence[Estimate]], accuracy: Mapping[str, float]
) -> tuple[LayerCorrelation, ...]:
    """Correlate accuracy, in any unit, with divergence over the languages that have both, in every layer.

    The pivot takes no part: its divergence from itself is zero by definition.

    Raises:
        LanguageError: fewer than four languages have both.
    """
    values, scores = _arrays_of_both(divergence, accuracy)
    return tuple(correlate(column, scores) for column in values.T)


def band_correlation(
    divergence: Mapping[str, Sequence[Estimate]],
    accuracy: Mapping[str, float],
    *,
    layers: Sequence[int],
    bands: Mapping[str, tuple[int, int]],
) -> dict[str, LayerCorrelation]:
    """Correlate accuracy, in any unit, with the mean divergence over each band of layers.

    ``layers`` are the decoder layers of the curves, which are without the pivot's; a band is its first and last decoder
    layer, inclusive.

    Raises:
        LanguageError: fewer than four languages have both.
        RunError: a band holds no routed layer.
    """
    places = {name: layer_positions(layers, within) for name, within in bands.items()}
    values, scores = _arrays_of_both(divergence, accuracy)
    return {name: correlate(values[:, positions].mean(axis=1), scores) for name, positions in places.items()}


def _arrays_of_both(
    divergence: Mapping[str, Sequence[Estimate]], accuracy: Mapping[str, float]
) -> tuple[FloatArray, FloatArray]:
    """Return divergence ``[n_languages, n_layers]`` and accuracy ``[n_languages]`` of the languages that have both."""
    both = _with_both(divergence, accuracy)
    values = np.array([[estimate.value for estimate in divergence[language]] for language in both])
    return values, np.array([accuracy[language] for language in both])


def correlate_measures(one: Mapping[str, float], other: Mapping[str, float]) -> LayerCorrelation:
    """Correlate two measures over the languages that have both; NaN in the first one marks a language without it.

    Raises:
        LanguageError: fewer than four languages have both.

    Example:
        >>> load = {"deu_Latn": 0.2, "fra_Latn": 0.1, "swh_Latn": 0.5, "tel_Telu": 0.7}
        >>> correlation = correlate_measures(load, {"deu_Latn": 90, "fra_Latn": 91, "swh_Latn": 60, "tel_Telu": 55})
        >>> round(correlation.pearson.value, 2), correlation.pearson.n
        (-0.97, 4)
    """
    both = _with_both(
        {language: value for language, value in one.items() if not np.isnan(value)}, other, "both measures"
    )
    return correlate(np.array([one[language] for language in both]), np.array([other[language] for language in both]))


def _with_both(
    routed: Mapping[str, object], accuracy: Mapping[str, float], what: str = "divergence and accuracy"
) -> list[str]:
    both = [language for language in routed if language in accuracy]
    if len(both) < LEAST_CORRELATED:
        raise LanguageError(
            f"{len(both)} languages have {what}; a correlation needs {LEAST_CORRELATED} besides the pivot, and there "
            f"are {', '.join(both) or 'none'}: add languages to the file of measures or to the run"
        )
    return both
