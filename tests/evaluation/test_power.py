"""What an evaluation of a given size can find: enumeration against simulation, and laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_1samp

from isogloss.evaluation.power import detectable_change, detectable_mean, mcnemar_power


def share_found(difference: float, *, n_items: int, flipped: float, n_samples: int = 4000) -> float:
    """Simulate how often McNemar's exact test finds the gain."""
    gained, lost = (flipped + difference) / 2, (flipped - difference) / 2
    samples = np.random.default_rng(3).multinomial(n_items, [gained, lost, 1 - flipped], size=n_samples)
    known: dict[tuple[int, int], bool] = {}
    for gain, loss in {(int(gain), int(loss)) for gain, loss, _ in samples}:
        known[gain, loss] = gain > loss and binomtest(gain, gain + loss).pvalue <= 0.05
    return float(np.mean([known[int(gain), int(loss)] for gain, loss, _ in samples]))


@pytest.mark.parametrize(
    ("difference", "n_items", "flipped"), [(0.05, 250, 0.1), (0.1, 60, 0.3), (0.02, 500, 0.04), (0.0, 100, 0.2)]
)
def test_power_is_what_simulation_finds(difference: float, n_items: int, flipped: float):
    """The enumerated chance is the share of simulated evaluations in which the test finds the gain."""
    expected = share_found(difference, n_items=n_items, flipped=flipped)
    assert mcnemar_power(difference, n_items=n_items, flipped=flipped) == pytest.approx(expected, abs=0.025)


@pytest.mark.parametrize(("n_items", "n_flipped"), [(250, 25), (60, 20), (200, 0)])
def test_the_detectable_change_is_found_four_times_in_five(n_items: int, n_flipped: int):
    """Simulated at the detectable change, the test finds it in 80 % of evaluations; a tenth less, in fewer."""
    change = detectable_change(n_items, n_flipped)
    flipped = max(n_flipped / n_items, change)
    assert share_found(change, n_items=n_items, flipped=flipped) == pytest.approx(0.8, abs=0.025)
    smaller = 0.9 * change
    assert mcnemar_power(smaller, n_items=n_items, flipped=max(n_flipped / n_items, smaller)) < 0.8


def test_more_items_and_fewer_flips_detect_less():
    """Detectable changes shrink with items, grow with flips and with the power that is asked for."""
    assert detectable_change(1000, 100) < detectable_change(250, 25) < detectable_change(250, 75)
    assert detectable_change(250, 25) < detectable_change(250, 25, power=0.9)
    assert detectable_change(250, 25) < detectable_change(250, 25, alpha=0.01)


def test_too_few_items_detect_nothing():
    """Five items gained have p = 0.0625; six have 0.031."""
    assert math.isnan(detectable_change(5, 0))
    assert detectable_change(6, 0) < 1


@pytest.mark.parametrize(("difference", "flipped"), [(0.2, 0.1), (-0.1, 0.1), (0.0, 0.0), (0.5, 1.5)])
def test_impossible_shares_are_refused(difference: float, flipped: float):
    """A gain beyond the flipped items is an error."""
    with pytest.raises(ValueError, match="expected 0 <= difference <= flipped"):
        mcnemar_power(difference, n_items=10, flipped=flipped)


def test_the_detectable_mean_is_found_four_times_in_five():
    """A normal mean of 2.8 standard errors is significant in 80 % of simulated evaluations."""
    change = detectable_mean(1 / 20)
    samples = np.random.default_rng(0).normal(change, 1.0, (4000, 400))
    assert np.mean(ttest_1samp(samples, 0.0, axis=1).pvalue <= 0.05) == pytest.approx(0.8, abs=0.025)


@pytest.mark.parametrize("unknown", [0.0, math.nan])
def test_no_spread_detects_nothing_known(unknown: float):
    """A standard error of zero does not mean that everything is detectable."""
    assert math.isnan(detectable_mean(unknown))
