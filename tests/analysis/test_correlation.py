"""Correlation of accuracy with divergence over languages."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr

from isogloss.analysis.correlation import accuracy_correlation, band_correlation, correlate, correlate_measures
from isogloss.errors import LanguageError
from isogloss.statistics import Estimate


@given(st.integers(0, 1000), st.integers(4, 20))
def test_correlations_equal_scipy(seed: int, n: int):
    """Pearson with Fisher's interval, and Spearman, as in scipy; ranks may tie."""
    generator = np.random.default_rng(seed)
    x, y = generator.normal(size=n), np.append(np.arange(2.0), generator.integers(0, 5, size=n - 2))
    found, reference = correlate(x, y), pearsonr(x, y)
    interval = reference.confidence_interval(0.95)
    assert (found.pearson.value, found.pearson.low, found.pearson.high) == pytest.approx(
        (reference.statistic, interval.low, interval.high), abs=1e-6
    )
    assert found.spearman.value == pytest.approx(spearmanr(x, y).statistic)
    assert found.pearson.n == n


def test_one_language_that_carries_the_correlation_is_exposed():
    """The leave-one-out range reaches zero when a single outlier makes the correlation."""
    x, y = np.array([0.0, 1, 0, 1, 9]), np.array([0.0, 0, 1, 1, 9])
    found = correlate(x, y)
    assert found.pearson.value > 0.9
    assert found.leave_one_out[0] == pytest.approx(0.0, abs=1e-12)


def test_a_constant_has_no_correlation():
    """Equal accuracies give null, not an error and not zero."""
    raw = correlate(np.arange(5.0), np.ones(5)).to_json()
    assert raw["pearson"] == {"value": None, "low": None, "high": None, "n": 5}
    assert json.dumps(raw, allow_nan=False)


def test_only_languages_with_both_take_part():
    """Languages without accuracy, and accuracies without routing, are left out."""
    divergence = {
        code: [Estimate(value, 0, 1, 9)] for code, value in zip("abcde", (0.1, 0.2, 0.3, 0.4, 7), strict=True)
    }
    (found,) = accuracy_correlation(divergence, {"a": 9, "b": 8, "c": 7, "d": 6, "z": 1})
    assert found.pearson.to_json() == pytest.approx({"value": -1.0, "low": -1.0, "high": -1.0, "n": 4})


def test_three_languages_are_too_few():
    """Fisher's interval needs four; the message says what to add."""
    divergence = {code: [Estimate(0.5, 0, 1, 9)] for code in "abc"}
    with pytest.raises(LanguageError, match="3 languages have divergence and accuracy; a correlation needs 4"):
        accuracy_correlation(divergence, {"a": 1, "b": 2, "c": 3})


def test_spearman_interval_equals_a_published_example():
    """Bonett's own example of his interval: 15 pairs, 0.8700 [0.5841, 0.9638]."""
    y = np.array([21.0, 4, 9, 12, 35, 18, 10, 22, 24, 1, 6, 8, 13, 16, 19])
    x = np.array([67.0, 28, 30, 28, 52, 40, 25, 37, 44, 10, 14, 20, 28, 40, 51])
    found = correlate(x, y).spearman
    assert (found.value, found.low, found.high) == pytest.approx((0.8699639, 0.5840951, 0.9638297), abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("true", [0.0, 0.5, 0.9])
def test_spearman_interval_covers_the_population_value(true: float):
    """Over 2000 samples of 15 pairs of normal variables, whose rank correlation is 6/π·arcsin(r/2)."""
    generator = np.random.default_rng(1)
    population, covered = 6 / np.pi * np.arcsin(true / 2), 0
    for _ in range(2000):
        x = generator.normal(size=15)
        y = true * x + np.sqrt(1 - true**2) * generator.normal(size=15)
        found = correlate(x, y).spearman
        covered += found.low <= population <= found.high
    assert 0.94 <= covered / 2000 <= 0.975


def test_perfect_ranks_have_no_interval():
    """Four languages agree perfectly in one of twelve random orders; a zero-width interval would lie."""
    raw = correlate(np.arange(4.0), np.array([1.0, 2, 4, 9])).to_json()
    assert raw["spearman"] == {"value": pytest.approx(1.0), "low": None, "high": None, "n": 4}


def test_bands_correlate_the_mean_over_their_layers():
    """Decoder layers, inclusive, of the languages that have both."""
    generator = np.random.default_rng(0)
    curves = {code: generator.uniform(size=4) for code in "abcdef"}
    divergence = {code: [Estimate(value, 0, 1, 9) for value in curve] for code, curve in curves.items()}
    accuracy = dict(zip("abcdez", generator.uniform(size=6).tolist(), strict=True))
    found = band_correlation(divergence, accuracy, layers=[2, 3, 5, 6], bands={"early": (0, 3), "middle": (3, 5)})
    both = [accuracy[code] for code in "abcde"]
    for name, part in (("early", slice(0, 2)), ("middle", slice(1, 3))):
        expected = pearsonr([curves[code][part].mean() for code in "abcde"], both).statistic
        assert found[name].pearson.value == pytest.approx(expected)
        assert found[name].pearson.n == 5
    with pytest.raises(LanguageError, match="2 languages have divergence and accuracy"):
        band_correlation(divergence, {"a": 1, "b": 2}, layers=[2, 3, 5, 6], bands={"all": (2, 6)})


def test_measures_correlate_where_both_have_a_value():
    """A language whose value is unknown (NaN) does not count."""
    one = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 5.0, "e": float("nan")}
    other = {"a": 2.0, "b": 1.0, "c": 4.0, "d": 9.0, "e": 0.0}
    assert correlate_measures(one, other).pearson.value == pytest.approx(pearsonr([1, 2, 3, 5], [2, 1, 4, 9])[0])
    with pytest.raises(LanguageError, match="3 languages have both measures"):
        correlate_measures({**one, "d": float("nan")}, other)


def test_too_few_or_unequal_values_are_refused():
    """Three values have no interval."""
    for x, y in ((np.ones(3), np.ones(3)), (np.ones(5), np.ones(4))):
        with pytest.raises(ValueError, match="at least 4"):
            correlate(x, y)
