"""Mantel's test, plain and partial, against naive loops, scikit-bio's numbers and simulation."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, pearsonr, spearmanr

from isogloss.analysis import mantel
from isogloss.analysis.mantel import permuted_correlations
from isogloss.errors import LanguageError
from isogloss.statistics import Resampling


def far(places):
    """Euclidean distances between rows."""
    return np.sqrt(((places[:, None] - places[None]) ** 2).sum(axis=-1))


def random_distances(seed, n=9, count=2):
    """Distances between independent random places."""
    generator = np.random.default_rng(seed)
    return [far(generator.normal(size=(n, 2))) for _ in range(count)]


def upper(matrix):
    """Pairs above the diagonal, by a loop."""
    return np.array([matrix[i, j] for i, j in itertools.combinations(range(len(matrix)), 2)])


def residuals(values, controls):
    """What a regression on the controls leaves."""
    design = np.column_stack([np.ones(len(values)), *controls])
    return values - design @ np.linalg.lstsq(design, values, rcond=None)[0]


def naive(x, y, controls=()):
    """Correlation of all orders of the languages, regressions and all, the observed order first."""
    held = [upper(control) for control in controls]
    n = len(x)
    left = np.zeros((n, n))
    left[np.triu_indices(n, 1)] = residuals(upper(x), held)
    left = left + left.T
    target = residuals(upper(y), held)
    return [
        pearsonr(residuals(upper(left[np.ix_(order, order)]), held), target).statistic
        for order in itertools.permutations(range(n))
    ]


@given(st.integers(0, 10_000), st.integers(0, 3))
@settings(max_examples=15)
def test_all_orders_of_five_languages_as_a_naive_loop_counts_them(seed: int, n_controls: int):
    """Correlation and exact p-value, with any number of controls, equal regressions in a loop over all orders."""
    x, y, *controls = random_distances(seed, n=5, count=2 + n_controls)
    orders = naive(x, y, controls)
    found = mantel(x, y, control={str(i): control for i, control in enumerate(controls)})
    assert found.correlation.value == pytest.approx(orders[0], abs=1e-7)
    assert found.p_value == np.mean(np.array(orders) >= orders[0] - 1e-6)
    assert found.n_permutations == 119


def test_permuted_partial_correlations_equal_regressions():
    """Every order's partial correlation, not its count alone, is that of a regression of the permuted residuals."""
    x, y, first, second = random_distances(3, n=5, count=4)
    null = permuted_correlations(x[None], y, [first, second])
    assert sorted(null.permuted[:, 0]) == pytest.approx(sorted(naive(x, y, [first, second])[1:]), abs=1e-9)


def test_scikit_bio_agrees():
    """Statistic and p-value on fixed data are those of skbio.stats.distance.mantel 0.7.4, 19,999 permutations."""
    generator = np.random.default_rng(1)
    places = generator.normal(size=(12, 2))
    x, y = far(places), far(places + generator.normal(size=places.shape) * 2)
    more = Resampling(n_permutations=19_999)
    pearson, spearman = mantel(x, y, resampling=more), mantel(x, y, method="spearman", resampling=more)
    assert (pearson.correlation.value, spearman.correlation.value) == pytest.approx(
        (-0.13015900350417425, -0.09696273875378353)
    )
    assert (pearson.p_value, spearman.p_value) == pytest.approx((0.72295, 0.6815), abs=0.015)


@pytest.mark.parametrize("method", ["pearson", "spearman"])
def test_correlation_and_leave_one_out_equal_scipy(method):
    """The value is scipy's over pairs; the range is that of deleting each language and correlating again."""
    x, y = random_distances(5, n=12)
    found = mantel(x, y, method=method)
    reference = pearsonr if method == "pearson" else spearmanr
    assert found.correlation.value == pytest.approx(reference(upper(x), upper(y)).statistic)
    if method == "pearson":
        without = [
            pearsonr(upper(np.delete(np.delete(x, i, 0), i, 1)), upper(np.delete(np.delete(y, i, 0), i, 1))).statistic
            for i in range(12)
        ]
        assert found.leave_one_out == pytest.approx((min(without), max(without)))


def test_interval_is_the_jackknife_over_languages():
    """Pseudo-values on Fisher's scale, with Student's t on n - 1 degrees of freedom."""
    x, y = random_distances(6, n=10)
    null = permuted_correlations(x[None], y)
    scaled = np.arctanh(null.leave_one_out[0])
    error = math.sqrt(0.9 * ((scaled - scaled.mean()) ** 2).sum())
    centre = math.atanh(null.observed[0])
    found = mantel(x, y).correlation
    expected = math.tanh(centre - 2.262157 * error), math.tanh(centre + 2.262157 * error)
    assert (found.low, found.high, found.n) == pytest.approx((*expected, 10), abs=1e-6)


@given(st.integers(0, 10_000))
@settings(max_examples=15)
def test_the_order_of_languages_does_not_matter(seed: int):
    """Relabelling languages in both distances changes neither correlation, interval nor exact p-value."""
    x, y, control = random_distances(seed, n=6, count=3)
    order = np.random.default_rng(seed).permutation(6)
    window = np.ix_(order, order)
    one = mantel(x, y, control={"c": control})
    other = mantel(x[window], y[window], control={"c": control[window]})
    assert other.correlation.value == pytest.approx(one.correlation.value)
    assert (other.correlation.low, other.correlation.high) == pytest.approx((one.correlation.low, one.correlation.high))
    assert other.p_value == one.p_value


def test_orders_that_change_nothing_count_as_reached():
    """Two groups of three look the same in 72 of 720 orders, so no p-value is below a tenth, rounding or not."""
    groups = np.repeat([0, 1], 3)
    apart = 0.1 * (groups[:, None] != groups)
    assert mantel(apart, 3.7 * apart).p_value == pytest.approx(0.1)


def test_equal_seeds_give_equal_p_values():
    """The permutations depend on the seed alone."""
    x, y = random_distances(7, n=12)
    assert mantel(x, y) == mantel(x, y)
    assert mantel(x, y).p_value != mantel(x, y, resampling=Resampling(n_permutations=999, seed=1)).p_value


def rejections(draw, sets, **options):
    """Count p-values up to 0.05 over simulated data sets with 99 permutations."""
    return sum(mantel(**draw(seed), **options).p_value <= 0.05 for seed in range(sets))


@pytest.mark.parametrize("alternative", ["greater", "two-sided"])
@pytest.mark.parametrize("controlled", [False, True])
def test_unrelated_distances_are_rejected_at_the_level(alternative, controlled):
    """Under the null, 5 % of tests reject at 0.05, within the binomial bounds of 300 data sets."""

    def draw(seed):
        x, y, control = random_distances(seed, n=10, count=3)
        held = {"c": control} if controlled else None
        return {"x": x, "y": y, "control": held, "resampling": Resampling(n_permutations=99, seed=seed)}

    low, high = binom.ppf([0.001, 0.999], 300, 0.05)
    assert low <= rejections(draw, 300, alternative=alternative) <= high


def test_related_distances_are_found():
    """Places seen through noise are found again in nine of ten data sets of ten languages."""

    def draw(seed):
        generator = np.random.default_rng(seed)
        places = generator.normal(size=(10, 2))
        return {
            "x": far(places),
            "y": far(places + generator.normal(size=places.shape) * 0.5),
            "resampling": Resampling(n_permutations=99, seed=seed),
        }

    assert rejections(draw, 50) >= 45


def test_a_shared_cause_deceives_the_plain_test_and_not_the_partial_one():
    """Routing follows tokens alone; genealogy correlates with tokens. Held still, tokens leave genealogy nothing."""
    plain, partial = 0, 0
    sets = 100
    for seed in range(sets):
        generator = np.random.default_rng(seed)
        noise = [np.abs(far(generator.normal(size=(15, 3)))) for _ in range(2)]
        tokens = far(generator.normal(size=(15, 2)))
        genealogy, routing = tokens + 0.5 * noise[0], tokens + 0.5 * noise[1]
        few = Resampling(n_permutations=99, seed=seed)
        plain += mantel(routing, genealogy, resampling=few).p_value <= 0.05
        partial += mantel(routing, genealogy, control={"token_overlap": tokens}, resampling=few).p_value <= 0.05
    assert plain >= 0.95 * sets
    assert partial <= binom.ppf(0.999, sets, 0.05)


def test_an_effect_beyond_the_control_survives_it():
    """The partial test is no mere refusal: what genealogy adds to tokens is found."""
    found = 0
    for seed in range(30):
        generator = np.random.default_rng(seed)
        tokens, genealogy = far(generator.normal(size=(15, 2))), far(generator.normal(size=(15, 2)))
        routing = tokens + genealogy + 0.5 * far(generator.normal(size=(15, 2)))
        few = Resampling(n_permutations=99, seed=seed)
        found += mantel(routing, genealogy, control={"tokens": tokens}, resampling=few).p_value <= 0.05
    assert found >= 27


def best_layer_p(layers, y, seed):
    """Least p-value over layers, corrected for the search and not."""
    null = permuted_correlations(layers, y, resampling=Resampling(n_permutations=99, seed=seed))
    return null.p_values_of_search().min(), null.p_values().min()


def test_a_search_over_layers_keeps_its_level():
    """The best of twelve unrelated layers is significant in 5 % of data sets, and without correction far more often."""
    corrected, naively = 0, 0
    for seed in range(300):
        generator = np.random.default_rng(seed)
        layers = np.stack([far(generator.normal(size=(8, 2))) for _ in range(12)])
        honest, greedy = best_layer_p(layers, far(generator.normal(size=(8, 2))), seed)
        corrected += honest <= 0.05
        naively += greedy <= 0.05
    low, high = binom.ppf([0.001, 0.999], 300, 0.05)
    assert low <= corrected <= high
    assert naively > 90


def test_one_permutation_serves_all_layers():
    """Equal layers have equal correlations under every permutation, so a search over copies costs nothing."""
    x, y = random_distances(8, n=9)
    null = permuted_correlations(np.stack([x, x, x]), y)
    assert (null.permuted[:, 0] == null.permuted[:, 2]).all()
    assert null.p_values_of_search() == pytest.approx(null.p_values())


def test_a_reference_that_the_control_determines_has_no_partial_correlation():
    """The residual of nothing is noise of the last digits: NaN in Python, null in JSON, no p-value."""
    x, y = random_distances(9)
    for one, other in ((x, y), (3 * y + 1, x)):
        raw = mantel(one, other, control={"same": 2 * y + 5}).to_json()
        assert raw["correlation"]["value"] is None
        assert raw["p_value"] is None
        assert raw["controls"] == ["same"]
        assert json.dumps(raw, allow_nan=False)


def test_a_constant_distance_has_no_correlation():
    """All languages in one script: nothing to correlate."""
    x, _ = random_distances(10)
    assert math.isnan(mantel(x, np.ones((9, 9))).p_value)


def test_repeated_controls_hold_still_what_one_does():
    """Controls that depend on each other do not break the regression."""
    x, y, control = random_distances(11, count=3)
    once, thrice = mantel(x, y, control={"a": control}), mantel(x, y, control={"a": control, "b": 2 * control - 1})
    assert thrice.correlation.value == pytest.approx(once.correlation.value)
    assert thrice.p_value == once.p_value


def test_few_languages_are_refused_with_the_least_p_value():
    """Four languages cannot be significant after any correction; five run over all 120 orders."""
    with pytest.raises(
        LanguageError, match=r"over 4 languages is refused: their 24 orders allow no p-value below 0\.042"
    ):
        mantel(*random_distances(0, n=4))
    x, _ = random_distances(0, n=5)
    assert mantel(x, x).p_value == pytest.approx(1 / 120)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.arange(25.0).reshape(5, 5), "not symmetric"),
        (np.full((5, 5), np.nan), "NaN or infinite"),
        (np.ones((5, 4)), r"shape \(5, 4\)"),
        (np.ones((6, 6)), r"of \[5, 6\] languages"),
    ],
)
def test_what_is_no_distance_is_refused(x, message):
    """Each kind of wrong input is named."""
    with pytest.raises(ValueError, match=message):
        mantel(x, random_distances(0, n=5)[0])
