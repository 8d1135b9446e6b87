"""The plan against random plans: the mean of paired differences, and an interval over all that is drawn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isogloss.evaluation import compare_scores
from isogloss.evaluation.random_arms import AgainstRandom, against_random, is_random
from isogloss.records import to_json

CODES = ("ben_Beng", "eng_Latn", "swh_Latn")


def scores(generator: np.random.Generator, n_items: int = 40) -> dict[str, np.ndarray]:
    """Right or wrong answers by language."""
    return {code: (generator.random(n_items) < 0.5).astype(float) for code in CODES}


def test_one_random_plan_gives_the_paired_comparison_of_two_arms() -> None:
    """Against one plan, which is not resampled, items are drawn as in any comparison of two arms."""
    generator = np.random.default_rng(0)
    plan, other = scores(generator), scores(generator)
    shown, known = against_random(plan, [other]), compare_scores(other, plan)
    expected = known.overall_these_languages.difference
    assert vars(shown.these_languages) == pytest.approx(vars(expected))
    assert shown.difference.value == known.overall.difference.value
    assert (shown.difference.low, shown.difference.high) == pytest.approx(
        (known.overall.difference.low, known.overall.difference.high), abs=0.05
    )


@given(st.integers(2, 6), st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_value_is_the_mean_over_languages_of_the_mean_over_plans(n_plans: int, seed: int) -> None:
    """Computed one difference at a time; a shift of the plan shifts all of it."""
    generator = np.random.default_rng(seed)
    plan, arms = scores(generator), [scores(generator) for _ in range(n_plans)]
    known = np.mean([[np.mean(plan[code] - arm[code]) for arm in arms] for code in CODES])
    shown = against_random(plan, arms, n_resamples=50)
    moved = against_random({code: each + 1 for code, each in plan.items()}, arms, n_resamples=50)
    assert shown.difference.value == pytest.approx(known)
    assert moved.these_languages.low == pytest.approx(shown.these_languages.low + 1)
    assert shown.n_plans == n_plans
    assert set(shown.per_language) == set(CODES)


def test_interval_counts_that_random_plans_differ() -> None:
    """Where plans differ and items do not, the interval is that of the plans; of equal plans there is none."""
    plan = {code: np.ones(30) for code in CODES}
    arms = [{code: np.full(30, level) for code in CODES} for level in (0.0, 0.2, 0.4, 0.6, 0.8)]
    wide = against_random(plan, arms).these_languages
    drawn = 1 - np.random.default_rng(1).choice([0.0, 0.2, 0.4, 0.6, 0.8], (20_000, 5)).mean(axis=1)
    assert (wide.low, wide.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.03)
    same = against_random(plan, arms[:1] * 5).these_languages
    assert same.value == 1.0
    assert not same.has_interval


def test_interval_covers_the_truth() -> None:
    """Over simulated plans, items and languages, 95 % intervals hold the true difference as often as they say."""
    generator, inside = np.random.default_rng(2), 0
    for _ in range(150):
        hardness = generator.random(60)
        plan = {code: (generator.random(60) < hardness).astype(float) for code in CODES}
        arms = [{code: (generator.random(60) < hardness).astype(float) for code in CODES} for _ in range(5)]
        shown = against_random(plan, arms, n_resamples=200).these_languages
        inside += shown.low <= 0 <= shown.high
    assert 0.88 <= inside / 150 <= 1.0


def test_round_trip_and_names() -> None:
    """The result is read back by its own class, and only arms that are random plans count as such."""
    generator = np.random.default_rng(3)
    shown = against_random(scores(generator), [scores(generator)])
    assert AgainstRandom.from_json(to_json(shown), "it") == shown
    assert is_random("random-12")
    assert not is_random("random")
    with pytest.raises(ValueError, match="no random plan"):
        against_random(scores(generator), [])
