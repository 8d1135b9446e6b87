"""Estimates, the bootstrap over items, and chance levels."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from isogloss.statistics import (
    Estimate,
    Resampling,
    bootstrap_counts,
    chance_consistency,
    estimate_means,
    interval_around,
    percentile_interval,
    resampled_means,
)


@given(st.integers(1, 40), st.integers(1, 30), st.integers(0, 1000))
def test_bootstrap_counts_draw_as_many_items_as_there_are(n_items: int, n_resamples: int, seed: int):
    """Every resample holds n_items items, and the same seed gives the same resamples."""
    counts = bootstrap_counts(n_items, n_resamples=n_resamples, seed=seed)
    assert counts.shape == (n_resamples, n_items)
    assert (counts.sum(axis=1) == n_items).all()
    assert (counts == bootstrap_counts(n_items, n_resamples=n_resamples, seed=seed)).all()


def test_another_seed_gives_other_resamples():
    """The seed matters."""
    assert (bootstrap_counts(20, seed=0) != bootstrap_counts(20, seed=1)).any()


def test_no_items_are_an_error():
    """A bootstrap of nothing is refused, not empty."""
    with pytest.raises(ValueError, match="at least one item"):
        bootstrap_counts(0)


def test_resampled_means_equal_drawing_the_items():
    """The matrix product equals the mean of the items that were drawn, NaN entries left out."""
    values = np.random.default_rng(1).normal(size=(6, 2, 3))
    values[2, 1, 0] = np.nan
    counts = bootstrap_counts(6, n_resamples=20, seed=3)
    drawn = [np.nanmean(values[np.repeat(np.arange(6), row)], axis=0) for row in counts]
    np.testing.assert_allclose(resampled_means(values, counts), drawn)


def test_a_resample_without_known_values_has_no_mean():
    """Only a resample that drew the one known item has a mean."""
    means = resampled_means(np.array([np.nan, 2.0]), np.array([[2, 0], [1, 1]]))
    np.testing.assert_array_equal(means, [np.nan, 2.0])


def test_percentile_interval_leaves_out_unknown_resamples():
    """NaN resamples do not spoil the others; a cell that is NaN throughout has no interval."""
    resampled = np.column_stack([np.arange(101.0), np.full(101, np.nan), np.arange(101.0)])
    resampled[:50, 2] = np.nan
    low, high = percentile_interval(resampled, level=0.9)
    np.testing.assert_allclose(low, [5.0, np.nan, 52.5])
    np.testing.assert_allclose(high, [95.0, np.nan, 97.5])


def test_one_item_has_a_value_and_no_interval():
    """One item says nothing about the spread between items: null in JSON."""
    (estimate,) = estimate_means(np.array([[0.25]]), bootstrap_counts(1))
    assert estimate.to_json() == {"value": 0.25, "low": None, "high": None, "n": 1}


def test_n_counts_the_items_with_a_value():
    """An item without a value in a cell is left out there and only there."""
    values = np.array([[1.0, np.nan, np.nan], [2.0, 5.0, np.nan], [3.0, 7.0, np.nan]])
    estimates = estimate_means(values, bootstrap_counts(3))
    assert [estimate.n for estimate in estimates] == [3, 2, 0]
    assert [estimate.to_json()["value"] for estimate in estimates] == [2.0, 6.0, None]


def test_estimates_survive_strict_json():
    """NaN never reaches a JSON file."""
    assert json.dumps(Estimate(float("nan"), float("nan"), 1.0, 0).to_json(), allow_nan=False)


def test_intervals_cover_the_truth_at_their_level():
    """Of 600 data sets of 60 skewed items, the 90 % interval covers the true mean in about 90 %."""
    items = np.random.default_rng(0).gamma(4.0, size=(60, 600))
    estimates = estimate_means(items, bootstrap_counts(60, n_resamples=500, seed=5), level=0.9)
    covered = sum(estimate.low <= 4.0 <= estimate.high for estimate in estimates)
    # One set of resamples serves all data sets, so that the count is a little more than binomial: 4 points of slack.
    low, high = binom.ppf([0.001, 0.999], 600, 0.9)
    assert low - 24 <= covered <= high + 24


@given(st.integers(2, 8).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, min(n, 4)))))
def test_chance_consistency_equals_listing_all_sets(sizes: tuple[int, int]):
    """The exact expectation equals the mean over every pair of sets."""
    n_experts, top_k = sizes
    first = set(range(top_k))
    others = [set(other) for other in itertools.combinations(range(n_experts), top_k)]
    listed = np.mean([len(first & other) / len(first | other) for other in others])
    assert chance_consistency(n_experts, top_k) == pytest.approx(listed)


@pytest.mark.parametrize("top_k", [0, 9])
def test_impossible_top_k_is_an_error(top_k: int):
    """A router cannot choose none, or more than it has."""
    with pytest.raises(ValueError, match="top_k"):
        chance_consistency(8, top_k)


@pytest.mark.parametrize("wrong", [{"n_resamples": 0}, {"n_permutations": 0}, {"level": 0.0}, {"level": 1.0}])
def test_resampling_refuses_what_gives_no_interval(wrong: dict[str, int]):
    """Counts start at 1 and a level lies between 0 and 1."""
    with pytest.raises(ValueError, match="Resampling"):
        Resampling(**wrong)


@pytest.mark.parametrize(
    ("low", "high", "side"),
    [(0.1, 0.2, "above"), (-0.2, -0.1, "below"), (0.0, 0.2, None), (-0.1, 0.1, None), (math.nan, math.nan, None)],
)
def test_an_interval_lies_on_one_side_of_zero_or_on_none(low: float, high: float, side: str | None) -> None:
    """One that holds or touches zero shows nothing, as does one that is missing."""
    assert Estimate(0.1, low, high, 5).side == side


def test_an_estimate_is_written_with_its_interval_where_it_has_one() -> None:
    """Every number by the same writer."""
    assert Estimate(0.1, 0.05, 0.25, 5).text() == "0.100 [0.050, 0.250]"
    assert Estimate(0.1, 0.05, 0.25, 5).text("{:+.1%}".format) == "+10.0% [+5.0%, +25.0%]"
    assert Estimate(0.1, math.nan, math.nan, 5).text() == "0.100"
    assert Estimate(-0.1, -0.25, -0.05, 5).text() == "−0.100 [−0.250, −0.050]"


def test_resampling_draws_and_estimates_as_the_functions_do():
    """Its settings are those of the draws and of the intervals; another stream has another seed."""
    resampling = Resampling(n_resamples=50, level=0.8, seed=3)
    values = np.random.default_rng(0).normal(size=(12, 2))
    counts = resampling.draw(12)
    np.testing.assert_array_equal(counts, bootstrap_counts(12, n_resamples=50, seed=3))
    np.testing.assert_array_equal(resampling.draw(12, stream=1), bootstrap_counts(12, n_resamples=50, seed=4))
    assert resampling.estimate(values, counts) == estimate_means(values, counts, level=0.8)


@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.floats(0.5, 0.99))
def test_an_interval_around_a_value_holds_it(seed: int, n: int, level: float):
    """It is that of the percentiles where the value lies inside, and goes up to the value where it lies beside."""
    rng = np.random.default_rng(seed)
    resampled, values = rng.integers(0, 6, size=(20, n)).astype(float), rng.integers(-3, 9, size=n).astype(float)
    low, high = interval_around(values, resampled, level=level)
    inner, outer = percentile_interval(resampled, level=level)
    inside = (inner <= values) & (values <= outer)
    assert ((low <= values) & (values <= high)).all()
    np.testing.assert_array_equal(low[inside], inner[inside])
    np.testing.assert_array_equal(high[inside], outer[inside])
    np.testing.assert_array_equal(np.minimum(inner, values), low)
    np.testing.assert_array_equal(np.maximum(outer, values), high)


def test_no_interval_stays_none():
    """Neither around a value that is not known, nor where no resample has one."""
    ends = interval_around(np.array([np.nan, 1.0]), np.array([[0.0, np.nan], [2.0, np.nan]]))
    assert np.isnan(ends).all()
