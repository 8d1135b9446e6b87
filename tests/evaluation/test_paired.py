"""Paired comparison of two arms: exact test, intervals, Holm, and the summary over languages."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, permutation_test

from isogloss.errors import RunError
from isogloss.evaluation.paired import accuracy, compare_arms, compare_scores, paired_scores
from isogloss.evaluation.power import detectable_change, detectable_mean
from isogloss.evaluation.significance import mcnemar_exact, sign_flip
from isogloss.records import to_json
from isogloss.statistics import benjamini_hochberg, holm

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
    there, back = paired_scores(before, after).difference, paired_scores(after, before).difference
    assert (there.value, there.low, there.high) == pytest.approx((-back.value, -back.high, -back.low), nan_ok=True)


@given(pairs, st.integers(0, 99))
def test_estimates_are_the_accuracies_inside_their_intervals(items: list[tuple[bool, bool]], seed: int):
    """Values are plain means; the difference is theirs; n counts items; ends are within what is possible."""
    before, after = arms(items)
    pair = paired_scores(before, after, seed=seed, n_resamples=200)
    assert pair.baseline.value == pytest.approx(np.mean(before))
    assert pair.steered.value == pytest.approx(np.mean(after))
    assert pair.difference.value == pytest.approx(np.mean(after) - np.mean(before))
    assert pair.difference.n == len(items)
    if len(items) > 1:
        assert -1 <= pair.difference.low <= pair.difference.high <= 1
        assert 0 <= pair.baseline.low <= pair.baseline.high <= 1


def test_one_graded_item_has_no_interval():
    """The spread between items cannot be seen in one item; one right answer at least bounds a share."""
    assert math.isnan(paired_scores([0.5], [0.25]).difference.low)
    assert paired_scores([True], [False]).difference.high > 0.5


def test_the_accuracy_of_one_arm_is_that_of_the_pair():
    """One arm alone has the estimate that it has beside another arm; graded scores and no answers are refused."""
    answers = np.random.default_rng(0).random(50) < 0.4
    assert accuracy(answers) == paired_scores(answers, ~answers).baseline
    with pytest.raises(RunError, match="at least one item"):
        accuracy([])
    with pytest.raises(RunError, match="other than 0 and 1"):
        accuracy([0.5, 1.0])


def test_the_interval_keeps_the_pairing():
    """Arms that differ by the same amount on every item differ by exactly that, though each mean varies."""
    scores = np.random.default_rng(0).random(100)
    pair = paired_scores(scores, scores + 0.25)
    assert (pair.difference.low, pair.difference.high) == pytest.approx((0.25, 0.25))
    assert pair.baseline.low < pair.baseline.high


def test_equal_arms_of_right_and_wrong_still_leave_doubt():
    """No flip in 100 items rules out large differences only; a bootstrap would claim to know it exactly."""
    answers = np.random.default_rng(0).random(100) < 0.5
    difference = paired_scores(answers, answers).difference
    assert difference.value == 0
    assert difference.high == -difference.low == pytest.approx(1.96**2 / (100 + 1.96**2), rel=1e-3)


@pytest.mark.parametrize("graded", [False, True])
def test_the_interval_covers_the_truth_about_as_often_as_it_says(graded):
    """Of 300 samples with a true difference of 0.1, between 90 % and 98 % of the 95 % intervals hold it."""
    generator, held = np.random.default_rng(5), 0
    for seed in range(300):
        before = generator.random(120) < 0.5
        gain, loss = generator.random((2, 120)) < [[0.3], [0.1]]
        after = np.where(before, ~loss, gain)
        noise = graded * generator.random(120)
        interval = paired_scores(before + noise, after + noise, n_resamples=300, seed=seed).difference
        held += interval.low <= 0.1 <= interval.high
    assert 0.90 <= held / 300 <= 0.98


def test_the_interval_narrows_with_more_items():
    """A hundred times as many items shrink the interval about tenfold."""
    generator = np.random.default_rng(2)
    widths = []
    for n_items in (50, 5000):
        estimate = paired_scores(generator.random(n_items) < 0.5, generator.random(n_items) < 0.6).difference
        widths.append(estimate.high - estimate.low)
    assert 6 < widths[0] / widths[1] < 16


@settings(max_examples=8)
@given(p_value_lists)
def test_holm_follows_its_definition(p_values: list[float]):
    """The i-th smallest of m is multiplied by m - i, made monotone, and capped at 1."""
    order = np.argsort(p_values, kind="stable")
    steps = [(len(p_values) - rank) * p_values[index] for rank, index in enumerate(order)]
    expected = np.empty(len(p_values))
    expected[order] = [min(1.0, step) for step in itertools.accumulate(steps, max)]
    assert holm(p_values) == pytest.approx(tuple(expected))


@given(p_value_lists)
def test_benjamini_hochberg_follows_its_definition(p_values: list[float]):
    """The i-th smallest of m is multiplied by m / i, and made monotone from above."""
    order = np.argsort(p_values, kind="stable")
    steps = [len(p_values) * p_values[index] / (rank + 1) for rank, index in enumerate(order)]
    expected = np.empty(len(p_values))
    expected[order] = list(itertools.accumulate(reversed(steps), min, initial=1.0))[:0:-1]
    assert benjamini_hochberg(p_values) == pytest.approx(tuple(expected))


@pytest.mark.parametrize("bad", [-0.1, 1.1, float("nan")])
def test_adjusting_refuses_what_is_no_p_value(bad: float):
    """Values outside 0 to 1 are an error, not a silent result."""
    for adjust in (holm, benjamini_hochberg):
        with pytest.raises(ValueError, match="between 0 and 1"):
            adjust([0.5, bad])


@settings(max_examples=50)
@given(st.lists(st.integers(-4, 4), min_size=1, max_size=8))
def test_sign_flip_counts_every_way_to_swap(differences: list[int]):
    """For few items the p-value is twice the smaller share of swaps that are as extreme, at most 1."""
    moving = [value for value in differences if value]
    sums = [
        sum(sign * value for sign, value in zip(signs, moving, strict=True))
        for signs in itertools.product((-1, 1), repeat=len(moving))
    ]
    tails = [np.mean([total >= sum(moving) for total in sums]), np.mean([total <= sum(moving) for total in sums])]
    assert sign_flip([7.0] * len(differences), 7.0 + np.array(differences)) == pytest.approx(min(1.0, 2 * min(tails)))


def test_sign_flip_agrees_with_scipy():
    """Exactly where all swaps are counted, nearly where they are drawn; what was found is one of the draws."""
    assert sign_flip(np.zeros(80), np.ones(80)) == 1 / 10_000
    generator = np.random.default_rng(6)
    for n_items, within in ((12, 1e-9), (80, 0.02)):
        change = generator.normal(0.2, 1.0, n_items)
        expected = permutation_test((change,), np.mean, permutation_type="samples", n_resamples=5000).pvalue
        assert sign_flip(np.zeros(n_items), change) == pytest.approx(expected, abs=within)


def test_sign_flip_of_right_and_wrong_is_mcnemar():
    """Exactly where all swaps are counted, nearly where they are drawn."""
    before, after = np.arange(60) % 2 == 0, np.arange(60) % 3 == 0
    few = slice(0, 20)
    assert sign_flip(before[few], after[few]) == pytest.approx(mcnemar_exact(before[few], after[few]))
    assert sign_flip(before, after) == pytest.approx(mcnemar_exact(before, after), abs=0.02)


def test_sign_flip_holds_its_level():
    """Of 400 comparisons without an effect, about 5 % have p <= 0.05."""
    generator = np.random.default_rng(1)
    p_values = [sign_flip(*generator.standard_t(3, (2, 9)), seed=seed) for seed in range(400)]
    assert 0.03 <= np.mean(np.array(p_values) <= 0.05) <= 0.07


def two_arms(seed: int = 0) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Draw three languages with 40, 40 and 60 items; steering helps in Swahili."""
    generator = np.random.default_rng(seed)
    sizes = {"swh_Latn": 40, "deu_Latn": 40, "ben_Beng": 60}
    before = {language: generator.random(size) < 0.5 for language, size in sizes.items()}
    return before, {**before, "swh_Latn": before["swh_Latn"] | (generator.random(40) < 0.6)}


def test_compare_reports_each_language_and_their_mean():
    """Per language: the accuracies, McNemar, Holm; overall: the unweighted mean, whose n counts languages."""
    before, after = two_arms()
    result = compare_scores(before, after, seed=3)
    assert list(result.per_language) == ["ben_Beng", "deu_Latn", "swh_Latn"]
    p_values = [mcnemar_exact(before[language], after[language]) for language in result.per_language]
    assert [entry.p_value for entry in result.per_language.values()] == p_values
    assert tuple(entry.p_adjusted for entry in result.per_language.values()) == holm(p_values)
    assert tuple(entry.p_bh for entry in result.per_language.values()) == benjamini_hochberg(p_values)
    own = paired_scores(before["swh_Latn"], after["swh_Latn"], seed=3)
    assert vars(own).items() <= vars(result.per_language["swh_Latn"]).items()
    gains = [after[language].mean() - before[language].mean() for language in before]
    assert result.overall.difference.value == pytest.approx(np.mean(gains))
    assert result.overall.difference.n == 3
    assert result.overall.difference.low <= result.overall.difference.value <= result.overall.difference.high


def test_overall_with_one_language_is_that_language():
    """There is nothing to draw among languages, so the interval over items remains."""
    before, after = two_arms()
    result = compare_scores({"swh_Latn": before["swh_Latn"]}, {"swh_Latn": after["swh_Latn"]}, seed=3)
    overall, own = result.overall.difference, result.per_language["swh_Latn"].difference
    assert (overall.value, overall.low, overall.high) == pytest.approx((own.value, own.low, own.high))


def test_overall_of_arms_that_never_flip_is_as_wide_as_a_language():
    """Every arm right everywhere: the bootstrap sees nothing, so the ends are those of one language of such items."""
    right = dict.fromkeys(("deu_Latn", "fra_Latn"), np.ones(80, dtype=bool))
    result = compare_scores(right, right)
    own = result.per_language["deu_Latn"]
    for found in (result.overall, result.overall_these_languages):
        assert (found.difference.low, found.difference.high) == (own.difference.low, own.difference.high)
        assert found.baseline.low == own.baseline.low < 1
        assert math.isnan(found.minimum_detectable)


def test_overall_of_one_item_is_as_wide_as_a_language():
    """One item has no spread between items, so a mean over languages is no surer than a language."""
    graded = compare_scores({"a": [0.5], "b": [0.5]}, {"a": [0.25], "b": [1.0]})
    right = compare_scores({"a": [True], "b": [True]}, {"a": [False], "b": [True]})
    for found in (graded.overall, graded.overall_these_languages):
        assert not found.difference.has_interval
        assert math.isnan(found.minimum_detectable)
    for found in (right.overall, right.overall_these_languages):
        ends = [(own.difference.low, own.difference.high) for own in right.per_language.values()]
        assert (found.difference.low, found.difference.high) == pytest.approx(np.mean(ends, axis=0))


def test_these_languages_leave_out_the_spread_between_languages():
    """Languages that differ much: a wide interval for languages like these, a narrow one for exactly these."""
    generator = np.random.default_rng(0)
    before = {f"l{index}": np.zeros(100, dtype=bool) for index in range(8)}
    after = {language: generator.random(100) < index / 8 for index, language in enumerate(before)}
    result = compare_scores(before, after)
    wide, narrow = result.overall.difference, result.overall_these_languages.difference
    assert wide.value == narrow.value
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)
    error = np.stack(list(after.values())).mean(axis=0).std() / 10
    assert narrow.high - narrow.low == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert result.overall_these_languages.minimum_detectable == pytest.approx(2.80 * error, rel=0.1)


def test_graded_scores_are_compared_as_they_are():
    """Means, differences and a sign-flip test; which direction is better is recorded and changes no sign."""
    generator = np.random.default_rng(0)
    before = {language: generator.random(60) for language in ("deu_Latn", "swh_Latn")}
    after = {**before, "swh_Latn": before["swh_Latn"] - 0.1 * generator.random(60)}
    result = compare_scores(before, after, better="lower", seed=2)
    assert (result.better, result.test) == ("lower", "sign_flip")
    swahili = result.per_language["swh_Latn"]
    change = after["swh_Latn"] - before["swh_Latn"]
    assert swahili.difference.value == pytest.approx(change.mean())
    assert swahili.difference.high < 0
    assert swahili.p_value == sign_flip(before["swh_Latn"], after["swh_Latn"], seed=2) < 0.001
    assert swahili.minimum_detectable == pytest.approx(detectable_mean(change.std(ddof=1) / 60**0.5))
    assert result.per_language["deu_Latn"].p_value == 1.0
    with pytest.raises(ValueError, match="'higher' or 'lower'"):
        compare_scores(before, after, better="more")


def test_one_graded_score_makes_the_whole_comparison_graded():
    """All languages are tested alike, even one whose scores happen to be 0 and 1."""
    before = {"deu_Latn": np.zeros(30), "swh_Latn": np.full(30, 0.5)}
    after = {"deu_Latn": np.arange(30) % 5 == 0, "swh_Latn": np.full(30, 0.75)}
    result = compare_scores(before, after)
    assert result.test == "sign_flip"
    assert result.per_language["deu_Latn"].p_value == sign_flip(before["deu_Latn"], after["deu_Latn"])
    assert compare_scores(before, {**before}).test == "sign_flip"
    assert compare_scores({"deu_Latn": [0, 1]}, {"deu_Latn": [1.0, 1.0]}).test == "mcnemar"


def test_several_arms_are_adjusted_within_each_and_over_all():
    """Holm within an arm as if it were alone, and once more over every language of every arm."""
    before, plan = two_arms()
    _, control = two_arms(seed=1)
    control = {language: np.roll(control[language], 1) for language in before}
    found = compare_arms(before, {"plan": plan, "control": control}, seed=3)
    alone = compare_scores(before, plan, seed=3)
    entries = [entry for comparison in found.values() for entry in comparison.per_language.values()]
    assert [entry.p_familywise for entry in entries] == list(holm([entry.p_value for entry in entries]))
    assert alone.per_language["swh_Latn"].p_familywise is None
    assert "p_familywise" not in to_json(alone)["per_language"]["swh_Latn"]
    stripped = {**to_json(found["plan"])}
    for entry in stripped["per_language"].values():
        entry.pop("p_familywise")
    assert stripped == to_json(alone)


def test_each_language_says_what_it_could_have_detected():
    """The detectable difference of a language follows from its items and how many flipped, gained or lost."""
    before, after = np.arange(40) % 2 == 0, np.arange(40) % 3 == 0
    found = compare_scores({"swh_Latn": before}, {"swh_Latn": after}).per_language["swh_Latn"]
    assert found.minimum_detectable == detectable_change(40, int((before != after).sum()))
    assert found.minimum_detectable != detectable_change(40, int((after & ~before).sum()))


def test_both_adjustments_are_reported():
    """Three languages with different p-values, adjusted by hand as Holm and as Benjamini and Hochberg define."""
    before = {language: np.zeros(40, dtype=bool) for language in ("deu_Latn", "fra_Latn", "swh_Latn")}
    after = {language: np.arange(40) < 7 + index for index, language in enumerate(before)}
    entries = compare_scores(before, after).per_language.values()
    p_values = [entry.p_value for entry in entries]
    assert p_values == [2 / 2**7, 2 / 2**8, 2 / 2**9]
    assert [entry.p_adjusted for entry in entries] == pytest.approx([2 / 2**7, 4 / 2**8, 6 / 2**9])
    assert [entry.p_bh for entry in entries] == pytest.approx([2 / 2**7, 3 / 2**8, 6 / 2**9])


def test_overall_interval_includes_the_spread_between_languages():
    """Languages that differ without any noise in their items still leave the mean uncertain."""
    right, wrong = np.ones(50, dtype=bool), np.zeros(50, dtype=bool)
    before = dict.fromkeys(("deu_Latn", "fra_Latn", "swh_Latn", "ben_Beng"), wrong)
    after = {**before, "swh_Latn": right, "ben_Beng": right}
    overall = compare_scores(before, after).overall.difference
    assert overall.value == 0.5
    assert overall.low <= 0.25
    assert overall.high >= 0.75


def test_overall_interval_includes_the_spread_between_items():
    """Languages that are all alike still leave the mean uncertain, since their items are the same items."""
    answers = np.arange(40) % 2 == 0
    before = dict.fromkeys(("deu_Latn", "fra_Latn", "swh_Latn"), np.zeros(40, dtype=bool))
    overall = compare_scores(before, dict.fromkeys(before, answers)).overall.difference
    expected = 2 * 1.96 * math.sqrt(0.25 / 40)
    assert overall.high - overall.low == pytest.approx(expected, rel=0.15)


def test_languages_are_drawn_independently_of_items():
    """As many languages as items: each language gains another item, and the interval still holds the mean gain."""
    before = {f"l{index:02}": np.zeros(12, dtype=bool) for index in range(12)}
    after = {language: np.arange(12) == index for index, language in enumerate(before)}
    overall = compare_scores(before, after).overall.difference
    assert overall.low < overall.value < overall.high


def test_compare_is_reproducible_and_does_not_depend_on_the_order_of_languages():
    """The same seed gives the same numbers; another seed other ones; order plays no role."""
    before, after = two_arms()
    backwards = dict(reversed(after.items()))
    assert to_json(compare_scores(before, after, seed=1)) == to_json(compare_scores(before, backwards, seed=1))
    assert to_json(compare_scores(before, after, seed=1)) != to_json(compare_scores(before, after, seed=2))


def test_the_summary_has_the_fields_that_others_rely_on():
    """The JSON holds estimates and p-values per language, and estimates overall, and is valid JSON."""
    raw = json.loads(json.dumps(to_json(compare_scores(*two_arms())), allow_nan=False))
    assert set(raw) == {"per_language", "overall", "overall_these_languages", "better", "test"}
    scores = {"baseline", "steered", "difference", "minimum_detectable"}
    assert set(raw["per_language"]["deu_Latn"]) == scores | {"p_value", "p_adjusted", "p_bh"}
    assert set(raw["overall"]) == set(raw["overall_these_languages"]) == scores
    assert (raw["better"], raw["test"]) == ("higher", "mcnemar")
    assert set(raw["overall"]["difference"]) == {"value", "low", "high", "n"}


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ([True], [True, False], "baseline answered 1 items and steered 2"),
        ([], [], "at least one item"),
        (["yes"], [True], "the baseline arm has scores .* type <U3"),
        ([True], [math.nan], "the steered arm has the score nan at item 0"),
        ([[True]], [[True]], r"shape \(1, 1\)"),
    ],
)
def test_answers_that_do_not_pair_up_are_refused(before: list[object], after: list[object], message: str):
    """Both functions say which arm is wrong and how."""
    for function in (mcnemar_exact, sign_flip, paired_scores):
        with pytest.raises(RunError, match=message):
            function(before, after)


def test_mcnemar_refuses_graded_scores():
    """A graded score is neither right nor wrong; the message names the test that takes it."""
    with pytest.raises(RunError, match="use sign_flip"):
        mcnemar_exact([0.5], [1.0])


@pytest.mark.parametrize("languages", [[], ["deu_Latn"], ["deu_Latn", "swh_Latn", "fra_Latn"]])
def test_arms_with_other_languages_are_refused(languages: list[str]):
    """Languages missing in one arm are an error that names both lists; nothing is compared in silence."""
    steered = {language: [True] for language in languages}
    with pytest.raises(RunError, match=r"deu_Latn.*expected the same ones"):
        compare_scores({"deu_Latn": [True], "swh_Latn": [True]}, steered)


def test_no_languages_are_refused():
    """A comparison of nothing is an error."""
    with pytest.raises(RunError, match="at least one"):
        compare_scores({}, {})
