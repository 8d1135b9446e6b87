"""Divergence against its own control: a dip of all texts is no dip of translations."""

from __future__ import annotations

import numpy as np
import pytest

from isogloss.analysis import AnalysisRequest, analyze_run
from isogloss.analysis.translations import TranslationExcess, translation_excess
from isogloss.records import to_json
from isogloss.statistics import Resampling, resampled_means
from known_answers.simulation import simulate_run
from known_answers.worlds import SimulatedLanguage, SimulatedWorld

RESAMPLING = Resampling(n_resamples=400)
MIDDLE = [False, False, True, True, False, False]


def made(gap: list[float], seed: int = 0) -> TranslationExcess:
    """Curves that dip in the middle for all texts; translations lie below by a gap in each layer."""
    generator = np.random.default_rng(seed)
    unrelated = {code: 0.3 - 0.2 * np.array(MIDDLE) + generator.normal(0, 0.02, (50, 6)) for code in ("a", "b", "c")}
    divergence = {code: each - gap + generator.normal(0, 0.02, (50, 6)) for code, each in unrelated.items()}
    return translation_excess(divergence, unrelated, RESAMPLING.draw(50), inside=MIDDLE, resampling=RESAMPLING)


def test_dip_of_all_texts_is_no_rise() -> None:
    """Both curves dip; where translations gain nothing there, the interval of the rise holds zero."""
    flat = made([0.05] * 6)
    assert min(point.value for point in flat.divergence[2:4]) < flat.divergence[0].value - 0.1
    assert flat.rise is not None
    assert flat.rise.side is None
    assert all(point.side == "above" for point in flat.excess)


def test_rise_is_the_difference_of_the_excess() -> None:
    """Translations that are closer in the middle by 0.06 more than elsewhere have that rise."""
    shown = made([0.02, 0.02, 0.08, 0.08, 0.02, 0.02])
    assert shown.rise is not None
    assert shown.rise.low < 0.06 < shown.rise.high
    assert shown.rise.high - shown.rise.low < 0.02


def test_values_are_differences_and_intervals_are_paired() -> None:
    """The excess is what is left of both means; its interval is that of the differences of each item."""
    generator = np.random.default_rng(1)
    one, other = generator.random((2, 30, 4))
    counts = RESAMPLING.draw(30)
    shown = translation_excess(
        {"a": one}, {"a": other, "pivot": other}, counts, inside=[True] * 4, resampling=RESAMPLING
    )
    assert [point.value for point in shown.excess] == pytest.approx((other - one).mean(axis=0))
    assert [point.value for point in shown.unrelated] == pytest.approx(other.mean(axis=0))
    low, high = np.quantile(resampled_means(other - one, counts), [0.025, 0.975], axis=0)
    assert [(point.low, point.high) for point in shown.excess] == [
        pytest.approx(ends) for ends in zip(low, high, strict=True)
    ]
    assert shown.by_language["a"] == shown.excess
    assert shown.rise is None
    assert TranslationExcess.from_json(to_json(shown), "it") == shown


@pytest.mark.parametrize("inside", [[True] * 6, [False] * 6])
def test_no_rise_without_two_sides(inside: list[bool]) -> None:
    """Where all layers are middle ones, or none, nothing is compared."""
    values = {"a": np.ones((5, 6))}
    assert translation_excess(values, values, RESAMPLING.draw(5), inside=inside, resampling=RESAMPLING).rise is None


def test_analysis_of_a_run_holds_it(tmp_path) -> None:
    """The curves are those of the analysis, averaged over the languages besides the pivot."""
    codes = ("eng_Latn", "deu_Latn", "ben_Beng")
    languages = tuple(SimulatedLanguage(code, distance=0.2 * place) for place, code in enumerate(codes))
    run = simulate_run(SimulatedWorld(languages=languages, n_items=12, tokens=8), tmp_path / "run")
    shown = analyze_run(run, AnalysisRequest(resampling=Resampling(n_resamples=50, n_permutations=20)))
    assert shown.translations is not None
    for layer, point in enumerate(shown.translations.excess):
        means = [[curves[code][layer].value for code in codes[1:]] for curves in (shown.shuffled, shown.divergence)]
        assert point.value == pytest.approx(np.mean(means[0]) - np.mean(means[1]))
        assert point.n == 12
    assert set(shown.to_frame("excess")["language"]) == set(codes[1:])
    assert shown.translations.rise is not None
