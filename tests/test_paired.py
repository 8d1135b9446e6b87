"""Paired comparison of two arms: exact test, intervals, Holm, and the summary over languages."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from isogloss.errors import RunError
from isogloss.evaluation.paired import (
    accuracy,
    compare,
    holm,
    mcnemar_exact,
    paired_accuracy,
    paired_difference,
)

pairs = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)
p_value_lists = st.lists(st.floats(0.0, 1.0), max_size=12)


def arms(items: list[tuple[bool, bool]]) -> tuple[list[bool], list[bool]]:
    """Split (baseline, steered) pairs into two arms."""
    return [before for before, _ in items], [after for _, after in items]


@given(pairs)
def test_mcnemar_is_the_binomial_test_on_flipped_items(items: list[tuple[bool, bool]]):
    """The p-value equals scipy's two-sided binomial test with p = 1/2; without flips it is 1."""
    gained, lost = items.count((False, True)), items.count((True, False))
    expected = binomtest(gained, gained + lost, 0.5).pvalue if gained + lost else 1.0
    assert mcnemar_exact(*arms(items)) == pytest.approx(expected)


def test_mcnemar_by_hand():
    """Five gained and none lost has p = 2 / 2^5."""
    assert mcnemar_exact([False] * 5 + [True] * 7, [True] * 12) == pytest.approx(2 / 32)


@given(pairs)
def test_mcnemar_does_not_care_which_arm_is_first(items: list[tuple[bool, bool]]):
    """Swapping the arms leaves the p-value and turns the sign of the difference."""
    before, after = arms(items)
    assert mcnemar_exact(before, after) == mcnemar_exact(after, before)
    there, back = paired_difference(before, after), paired_difference(after, before)
    assert (there.value, there.low, there.high) == pytest.approx((-back.value, -back.high, -back.low), nan_ok=True)


@given(pairs, st.integers(0, 99))
def test_estimates_are_the_accuracies_inside_their_intervals(items: list[tuple[bool, bool]], seed: int):
    """Values are plain means; the difference is theirs; n counts items; ends are within what is possible."""
    before, after = arms(items)
    pair = paired_accuracy(before, after, seed=seed, n_resamples=200)
    assert pair.baseline.value == pytest.approx(np.mean(before))
    assert pair.steered.value == pytest.approx(np.mean(after))
    assert pair.difference.value == pytest.approx(np.mean(after) - np.mean(before))
    assert pair.difference.n == len(items)
    if len(items) > 1:
        assert -1 <= pair.difference.low <= pair.difference.high <= 1
        assert 0 <= pair.baseline.low <= pair.baseline.high <= 1


def test_one_item_has_no_interval():
    """The spread between items cannot be seen in one item."""
    assert math.isnan(paired_difference([True], [False]).low)


def test_the_accuracy_of_one_arm_is_that_of_the_pair():
    """One arm alone has the estimate that it has beside another arm; no answers are refused."""
    answers = np.random.default_rng(0).random(50) < 0.4
    assert accuracy(answers, seed=4) == paired_accuracy(answers, ~answers, seed=4).baseline
    with pytest.raises(RunError, match="at least one item"):
        accuracy([])


def test_the_interval_keeps_the_pairing():
    """Equal arms differ by exactly zero in every resample, though each accuracy varies."""
    answers = np.random.default_rng(0).random(100) < 0.5
    pair = paired_accuracy(answers, answers)
    assert (pair.difference.low, pair.difference.high) == (0.0, 0.0)
    assert pair.baseline.low < pair.baseline.high


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    """Of 300 samples with a true difference of 0.1, between 90 % and 98 % of the 95 % intervals hold it."""
    generator, held = np.random.default_rng(5), 0
    for seed in range(300):
        before = generator.random(120) < 0.5
        gain, loss = generator.random((2, 120)) < [[0.3], [0.1]]
        after = np.where(before, ~loss, gain)
        interval = paired_difference(before, after, n_resamples=300, seed=seed)
        held += interval.low <= 0.1 <= interval.high
    assert 0.90 <= held / 300 <= 0.98


def test_the_interval_narrows_with_more_items():
    """A hundred times as many items shrink the interval about tenfold."""
    generator = np.random.default_rng(2)
    widths = []
    for n_items in (50, 5000):
        estimate = paired_difference(generator.random(n_items) < 0.5, generator.random(n_items) < 0.6)
        widths.append(estimate.high - estimate.low)
    assert 6 < widths[0] / widths[1] < 16


@settings(max_examples=25)  # statsmodels collects garbage at every call
@given(p_value_lists)
def test_holm_follows_its_definition(p_values: list[float]):
    """The i-th smallest of m is multiplied by m - i, made monotone, and capped at 1."""
    order = np.argsort(p_values, kind="stable")
    steps = [(len(p_values) - rank) * p_values[index] for rank, index in enumerate(order)]
    expected = np.empty(len(p_values))
    expected[order] = [min(1.0, step) for step in itertools.accumulate(steps, max)]
    assert holm(p_values) == pytest.approx(tuple(expected))


@pytest.mark.parametrize("bad", [-0.1, 1.1, float("nan")])
def test_holm_refuses_what_is_no_p_value(bad: float):
    """Values outside 0 to 1 are an error, not a silent result."""
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm([0.5, bad])


def two_arms(seed: int = 0) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Draw three languages with 40, 40 and 60 items; steering helps in Swahili."""
    generator = np.random.default_rng(seed)
    sizes = {"swh_Latn": 40, "deu_Latn": 40, "ben_Beng": 60}
    before = {language: generator.random(size) < 0.5 for language, size in sizes.items()}
    return before, {**before, "swh_Latn": before["swh_Latn"] | (generator.random(40) < 0.6)}


def test_compare_reports_each_language_and_their_mean():
    """Per language: the accuracies, McNemar, Holm; overall: the unweighted mean, whose n counts languages."""
    before, after = two_arms()
    result = compare(before, after, seed=3)
    assert list(result.per_language) == ["ben_Beng", "deu_Latn", "swh_Latn"]
    p_values = [mcnemar_exact(before[language], after[language]) for language in result.per_language]
    assert [entry.p_value for entry in result.per_language.values()] == p_values
    assert tuple(entry.p_adjusted for entry in result.per_language.values()) == holm(p_values)
    assert result.per_language["swh_Latn"].accuracy == paired_accuracy(before["swh_Latn"], after["swh_Latn"], seed=3)
    gains = [after[language].mean() - before[language].mean() for language in before]
    assert result.overall.difference.value == pytest.approx(np.mean(gains))
    assert result.overall.difference.n == 3
    assert result.overall.difference.low <= result.overall.difference.value <= result.overall.difference.high


def test_overall_with_one_language_is_that_language():
    """There is nothing to draw among languages, so the interval over items remains."""
    before, after = two_arms()
    result = compare({"swh_Latn": before["swh_Latn"]}, {"swh_Latn": after["swh_Latn"]}, seed=3)
    overall, own = result.overall.difference, result.per_language["swh_Latn"].accuracy.difference
    assert (overall.value, overall.low, overall.high) == pytest.approx((own.value, own.low, own.high))


def test_overall_interval_includes_the_spread_between_languages():
    """Languages that differ without any noise in their items still leave the mean uncertain."""
    right, wrong = np.ones(50, dtype=bool), np.zeros(50, dtype=bool)
    before = dict.fromkeys(("deu_Latn", "fra_Latn", "swh_Latn", "ben_Beng"), wrong)
    after = {**before, "swh_Latn": right, "ben_Beng": right}
    overall = compare(before, after).overall.difference
    assert overall.value == 0.5
    assert overall.low <= 0.25
    assert overall.high >= 0.75


def test_overall_interval_includes_the_spread_between_items():
    """Languages that are all alike still leave the mean uncertain, since their items are the same items."""
    answers = np.arange(40) % 2 == 0
    before = dict.fromkeys(("deu_Latn", "fra_Latn", "swh_Latn"), np.zeros(40, dtype=bool))
    overall = compare(before, dict.fromkeys(before, answers)).overall.difference
    expected = 2 * 1.96 * math.sqrt(0.25 / 40)
    assert overall.high - overall.low == pytest.approx(expected, rel=0.15)


def test_languages_are_drawn_independently_of_items():
    """As many languages as items: each language gains another item, and the interval still holds the mean gain."""
    before = {f"l{index:02}": np.zeros(12, dtype=bool) for index in range(12)}
    after = {language: np.arange(12) == index for index, language in enumerate(before)}
    overall = compare(before, after).overall.difference
    assert overall.low < overall.value < overall.high


def test_compare_is_reproducible_and_does_not_depend_on_the_order_of_languages():
    """The same seed gives the same numbers; another seed other ones; order plays no role."""
    before, after = two_arms()
    backwards = dict(reversed(after.items()))
    assert compare(before, after, seed=1).to_json() == compare(before, backwards, seed=1).to_json()
    assert compare(before, after, seed=1).to_json() != compare(before, after, seed=2).to_json()


def test_the_summary_has_the_fields_that_others_rely_on():
    """The JSON holds estimates and p-values per language, and estimates overall, and is valid JSON."""
    raw = json.loads(json.dumps(compare(*two_arms()).to_json(), allow_nan=False))
    assert set(raw) == {"per_language", "overall"}
    assert set(raw["per_language"]["deu_Latn"]) == {"baseline", "steered", "difference", "p_value", "p_adjusted"}
    assert set(raw["overall"]) == {"baseline", "steered", "difference"}
    assert set(raw["overall"]["difference"]) == {"value", "low", "high", "n"}


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ([True], [True, False], "baseline answered 1 items and steered 2"),
        ([], [], "at least one item"),
        ([0.5], [True], "the baseline arm has answers .* type float64"),
        ([True], [1], "the steered arm has answers .* type int64"),
        ([[True]], [[True]], r"shape \(1, 1\)"),
    ],
)
def test_answers_that_do_not_pair_up_are_refused(before: list[object], after: list[object], message: str):
    """Both functions say which arm is wrong and how."""
    for function in (mcnemar_exact, paired_difference):
        with pytest.raises(RunError, match=message):
            function(before, after)


@pytest.mark.parametrize("languages", [[], ["deu_Latn"], ["deu_Latn", "swh_Latn", "fra_Latn"]])
def test_arms_with_other_languages_are_refused(languages: list[str]):
    """Languages missing in one arm are an error that names both lists; nothing is compared in silence."""
    steered = {language: [True] for language in languages}
    with pytest.raises(RunError, match=r"deu_Latn.*expected the same ones"):
        compare({"deu_Latn": [True], "swh_Latn": [True]}, steered)


def test_no_languages_are_refused():
    """A comparison of nothing is an error."""
    with pytest.raises(RunError, match="at least one"):
        compare({}, {})
