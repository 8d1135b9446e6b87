"""The pivot's guard and the intervals of shares on which it rests."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import binom

from isogloss.evaluation.guard import guard_pivot
from isogloss.evaluation.proportions import paired_difference_interval, share_interval, share_upper_bound
from isogloss.records import to_json


def flips(*, gained: int, lost: int, n_items: int) -> tuple[np.ndarray, np.ndarray]:
    """Return two arms of which some items flip and the others are right."""
    before, after = np.ones((2, n_items), dtype=bool)
    before[:gained] = False
    after[gained : gained + lost] = False
    return before, after


@pytest.mark.parametrize(
    ("gained", "lost", "n_items", "verdict"),
    [
        (0, 0, 298, "undecided"),
        (0, 0, 299, "pass"),
        (0, 0, 20, "undecided"),
        (60, 0, 300, "pass"),
        (0, 30, 300, "fail"),
        (10, 10, 300, "undecided"),
        (2, 8, 300, "undecided"),
        (10, 10, 30_000, "pass"),
    ],
)
def test_the_guard_passes_fails_or_asks_for_more(gained: int, lost: int, n_items: int, verdict: str):
    """A loss above one point is ruled out, shown, or neither; without a flip it takes 299 items to rule it out."""
    assert guard_pivot(*flips(gained=gained, lost=lost, n_items=n_items)).verdict == verdict


def test_without_flips_the_bound_is_exact():
    """If the share that would flip were at the bound, n items would show no flip with a chance of 5 %."""
    found = guard_pivot(*flips(gained=0, lost=0, n_items=40))
    assert binom.pmf(0, 40, -found.low) == pytest.approx(0.05)
    assert found.high == -found.low
    assert found.change == 0


def test_bounds_of_flips_are_one_sided():
    """Ten gained and ten lost of 300: about 1.645 standard errors to either side, not 1.96."""
    found = guard_pivot(*flips(gained=10, lost=10, n_items=300))
    assert found.high == -found.low == pytest.approx(1.645 * math.sqrt(20) / 300, rel=0.08)


def test_the_guard_rarely_passes_a_loss_at_its_margin():
    """Of plans that cost exactly the margin, at most about 5 % pass, whether few or many items flip."""
    generator = np.random.default_rng(0)
    for flipped in (0.05, 0.25):
        samples = generator.multinomial(400, [(flipped - 0.05) / 2, (flipped + 0.05) / 2, 1 - flipped], size=400)
        arms = [flips(gained=gained, lost=lost, n_items=400) for gained, lost, _ in samples]
        passed = np.mean([guard_pivot(*pair, margin=0.05).verdict == "pass" for pair in arms])
        assert passed <= 0.08


def test_lower_scores_can_be_better():
    """Bits per byte that fall are a gain, and their rise beyond the margin a loss."""
    before = 1 + np.random.default_rng(0).random(200)
    fallen, risen = before * 0.9, before * 1.1
    assert guard_pivot(before, fallen, better="lower", margin=0.01).verdict == "pass"
    assert guard_pivot(before, fallen, margin=0.01).verdict == "fail"
    found = guard_pivot(before, risen, better="lower", margin=0.01)
    assert found.verdict == "fail"
    assert found.change == pytest.approx(-0.1 * before.mean())
    assert found.low < found.change < found.high


def test_graded_bounds_cover_one_sided():
    """The lower bound of a mean is a one-sided 95 % one: about 1.645 standard errors below."""
    before, gain = np.zeros(400), np.random.default_rng(1).normal(0, 1, 400)
    found = guard_pivot(before, gain, margin=1.0)
    assert (found.change - found.low) / (gain.std() / 20) == pytest.approx(1.645, rel=0.06)
    assert (found.high - found.change) / (gain.std() / 20) == pytest.approx(1.645, rel=0.06)


def test_graded_scores_that_did_not_change_decide_nothing():
    """No spread, no bound: undecided, and JSON holds null."""
    found = guard_pivot([0.5, 0.7], [0.5, 0.7])
    assert (found.verdict, math.isnan(found.low)) == ("undecided", True)
    raw = json.loads(json.dumps(to_json(found), allow_nan=False))
    assert set(raw) == {"verdict", "change", "low", "high", "margin", "level", "n", "steered"}
    assert raw["low"] is None


@pytest.mark.parametrize("options", [{"margin": 0.0}, {"level": 0.5}, {"level": 1.0}])
def test_the_guard_refuses_settings_without_meaning(options: dict[str, float]):
    """A margin of nothing cannot be ruled out."""
    with pytest.raises(ValueError, match="expected a margin above 0"):
        guard_pivot([True], [True], **options)


def likeliest_lost(gained: int, lost: int, n_items: int, difference: float) -> float:
    """Maximise the trinomial likelihood over the share lost, for a given difference."""

    def unlikelihood(share: float) -> float:
        probabilities = share + difference, share, 1 - 2 * share - difference
        counts = gained, lost, n_items - gained - lost
        return -sum(n * math.log(max(p, 1e-300)) for n, p in zip(counts, probabilities, strict=True) if n)

    bounds = (max(0.0, -difference), (1 - difference) / 2)
    return float(minimize_scalar(unlikelihood, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x)


@pytest.mark.parametrize(("gained", "lost", "n_items"), [(1, 7, 21), (5, 2, 50), (3, 3, 30), (12, 0, 40)])
def test_the_difference_interval_inverts_the_score_test(gained: int, lost: int, n_items: int):
    """Its ends are where the score statistic, with the likelihood maximised numerically, is 1.96."""

    def score(difference: float) -> float:
        share = likeliest_lost(gained, lost, n_items, difference)
        variance = n_items * (2 * share + difference - difference**2)
        return (gained - lost - n_items * difference) / math.sqrt(variance)

    low, high = paired_difference_interval(gained, lost, n_items=n_items)
    middle = (gained - lost) / n_items
    assert low == pytest.approx(brentq(lambda end: score(end) - 1.95996, -0.999, middle - 1e-9), abs=1e-4)
    assert high == pytest.approx(brentq(lambda end: score(end) + 1.95996, middle + 1e-9, 0.9999), abs=1e-4)


counts = st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(1, 40))


@given(counts, st.sampled_from([0.8, 0.95]))
def test_the_difference_interval_is_sane(numbers: tuple[int, int, int], level: float):
    """It holds the observed difference, has width, stays within -1 and 1, turns with the arms, grows with the level."""
    gained, lost, rest = numbers
    n_items = gained + lost + rest
    low, high = paired_difference_interval(gained, lost, n_items=n_items, level=level)
    assert -1 <= low <= (gained - lost) / n_items <= high <= 1
    assert high - low > 1 / (10 * n_items)
    assert paired_difference_interval(lost, gained, n_items=n_items, level=level) == pytest.approx((-high, -low))
    wider = paired_difference_interval(gained, lost, n_items=n_items, level=0.99)
    assert wider[0] < low
    assert wider[1] > high


@pytest.mark.parametrize(
    ("n_items", "flipped", "difference"), [(50, 0.05, 0.03), (50, 0.3, 0.1), (50, 0.9, 0.8), (80, 0.02, 0.02)]
)
def test_the_difference_interval_covers_exactly_as_it_says(n_items: int, flipped: float, difference: float):
    """Summed over every possible count of gained and lost items, at least 94.5 % of intervals hold the truth."""
    covered = total = 0.0
    for n_flipped in range(n_items + 1):
        chance = binom.pmf(n_flipped, n_items, flipped)
        for gained in range(n_flipped + 1) if chance > 1e-5 else ():
            here = chance * binom.pmf(gained, n_flipped, (1 + difference / flipped) / 2)
            if here > 1e-6:
                low, high = paired_difference_interval(gained, n_flipped - gained, n_items=n_items)
                covered, total = covered + here * (low <= difference <= high), total + here
    assert total > 0.998
    assert covered / total > 0.945


@given(st.integers(0, 50))
def test_shares_have_honest_ends(n_right: int):
    """Wilson's ends solve the score equation; the exact bound leaves 5 % below what was found."""
    low, high = share_interval(n_right, 50)
    assert 0 <= low < high <= 1
    for end in (low, high):
        if 1e-9 < end < 1:
            assert abs(n_right / 50 - end) == pytest.approx(1.95996 * math.sqrt(end * (1 - end) / 50), abs=1e-5)
    bound = share_upper_bound(n_right, 50)
    assert bound == 1 or binom.cdf(n_right, 50, bound) == pytest.approx(0.05)
