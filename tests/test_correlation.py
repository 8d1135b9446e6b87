"""Correlation of accuracy with divergence over languages."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr

from isogloss.analysis.correlation import accuracy_correlation, correlate
from isogloss.analysis.statistics import Estimate
from isogloss.errors import LanguageError


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
