"""Two versions of a model: what is counted as a difference, and whether languages differ in it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_versions import model_version
from scipy.special import log_softmax

from isogloss.backends.token_routing import RoutedText
from isogloss.errors import RunError
from isogloss.evaluation.versions import (
    LAYER_MEASURES,
    MEASURES,
    VersionComparison,
    compare_versions,
    text_difference,
)
from isogloss.statistics import Resampling

N_LAYERS, N_EXPERTS, TOP_K = 3, 8, 2


def routed(seed=0, n_tokens=5, n_kept=4):
    """A text that was routed at random."""
    generator = np.random.default_rng(seed)
    ids = generator.permuted(np.tile(np.arange(N_EXPERTS), (n_tokens, N_LAYERS, 1)), axis=-1)[..., :TOP_K]
    profile = generator.dirichlet(np.ones(N_EXPERTS), N_LAYERS).astype(np.float32)
    kept = np.tile(np.arange(n_kept, dtype=np.int32), (n_tokens, 1))
    scores = log_softmax(generator.normal(size=(n_tokens, 20)), axis=-1).astype(np.float32)
    tokens = np.arange(n_tokens, dtype=np.int32)
    return RoutedText(0, tokens, ids.astype(np.uint16), profile, scores.argmax(-1), kept, scores[:, :n_kept])


@given(st.integers(0, 10**6))
def test_a_text_differs_from_itself_in_nothing(seed):
    """Exactly 0, in every measure."""
    difference = text_difference(routed(seed), routed(seed))
    assert set(difference) == set(MEASURES)
    assert all((np.asarray(value) == 0).all() for value in difference.values())


def test_differences_by_hand():
    """Of two tokens in one layer: one has the same set in another order, one has one expert of two in common."""
    one, other = (
        routed(n_tokens=2)._replace(expert_ids=np.array([[[0, 1]], [[first, 2]]], dtype=np.uint16)[:, :, ::turn])
        for first, turn in ((4, 1), (5, -1))
    )
    difference = text_difference(one, other)
    assert difference["choices"].tolist() == [0.25]
    assert difference["sets"].tolist() == [0.5]
    assert difference["first"].tolist() == [1.0]


def test_next_tokens_by_hand():
    """One of two likeliest tokens differs; the divergence is that of the kept tokens and the rest."""
    one = routed(n_tokens=2)._replace(
        likeliest=np.array([3, 4]), next_log_probabilities=np.log(np.array([[0.5, 0.25], [0.9, 0.05]]))
    )
    other = one._replace(
        likeliest=np.array([3, 7]), next_log_probabilities=np.log(np.array([[0.25, 0.25], [0.9, 0.05]]))
    )
    difference = text_difference(one, other)
    assert difference["next_token"] == 0.5
    assert difference["kl"] == pytest.approx((0.5 * np.log(2) + 0.25 * np.log(0.5)) / 2)


@given(st.integers(0, 10**6), st.integers(1, 20))
def test_divergence_of_kept_tokens_is_never_above_that_of_all(seed, n_kept):
    """And equals it where all are kept."""
    scores = log_softmax(np.random.default_rng(seed).normal(size=(2, 1, 20)) * 3, axis=-1)
    whole = float((np.exp(scores[0]) * (scores[0] - scores[1])).sum())
    one, other = (routed(n_tokens=1)._replace(next_log_probabilities=each[:, :n_kept]) for each in scores)
    kept = float(text_difference(one, other)["kl"])
    assert 0 <= kept <= whole + 1e-9
    if n_kept == 20:
        assert kept == pytest.approx(whole, abs=1e-9)


def values(means, n_items=60, seed=0):
    """Measures of texts of each language around its mean; texts that are hard are so in every language."""
    generator = np.random.default_rng(seed)
    hard = generator.normal(0, 0.02, size=(n_items, 1))
    drawn = {}
    for code, mean in means.items():
        own = np.clip(mean + hard + generator.normal(0, 0.01, size=(n_items, N_LAYERS)), 0, 1)
        drawn[code] = {name: own if name in LAYER_MEASURES else own.mean(1) for name in MEASURES}
    return drawn, {code: np.full(n_items, 7) for code in means}


def test_a_planted_language_is_shown_and_no_other():
    """One language changes more; the test says so, of it more and of the others less, with corrected p."""
    languages, overall = compare_versions(*values({"a": 0.2, "b": 0.2, "c": 0.23, "d": 0.2}))
    assert languages["c"].is_significant
    assert languages["c"].beyond.low > 0.02
    assert languages["c"].beyond.high < 0.04
    assert languages["c"].p_adjusted >= languages["c"].p_value
    assert overall.n_tokens == 4 * 60 * 7
    assert overall.means["choices"].value == pytest.approx(0.2075, abs=0.01)
    assert overall.means["choices"].n == 4
    for each in (overall, *languages.values()):
        assert each.means["choices"].value == pytest.approx(np.mean([at.value for at in each.layers["choices"]]))
        assert all(at.low <= at.value <= at.high for at in each.layers["choices"])


@pytest.mark.slow
def test_equal_languages_are_rarely_told_apart():
    """Of 40 sets of equal languages, the corrected test finds a difference in few."""
    found = [
        any(each.is_significant for each in compare_versions(*values(dict.fromkeys("abc", 0.2), 20, seed))[0].values())
        for seed in range(40)
    ]
    assert sum(found) <= 6


def test_one_language_is_compared_with_no_other():
    """No test; the overall numbers are its own."""
    languages, overall = compare_versions(*values({"a": 0.2}))
    assert (languages["a"].beyond, languages["a"].p_adjusted, languages["a"].is_significant) == (None, None, False)
    assert overall.means == languages["a"].means


def test_one_item_gives_no_interval():
    """Neither in a language nor in the mean: one item says nothing about the spread between items."""
    languages, overall = compare_versions(*values({"a": 0.2, "b": 0.3}, 1))
    for each in (overall, *languages.values()):
        assert not any(mean.has_interval for mean in each.means.values())
        assert not any(point.has_interval for curve in each.layers.values() for point in curve)


def test_overall_intervals_are_of_languages_too():
    """Languages that differ widen the interval of their mean beyond that over items."""
    means = {"a": 0.1, "b": 0.3, "c": 0.2}
    languages, overall = compare_versions(*values(means))
    own = languages["a"].means["choices"]
    assert overall.means["choices"].high - overall.means["choices"].low > 5 * (own.high - own.low)


PACKED = (("experts", "uint8", 10, 10), ("others", "bfloat16", 5, 5))
PLAIN = (("experts", "bfloat16", 10, 10), ("others", "uint8", 5, 5))
UNPACKED = (("experts", "float8_e4m3fn", 10, 0), ("experts", "bfloat16", 0, 20), ("others", "bfloat16", 5, 5))


@pytest.mark.parametrize(
    ("quantisation", "weights", "unquantised", "dequantised"),
    [
        ("bitsandbytes, 4 bits", PACKED, False, False),
        ("bitsandbytes, 4 bits", PLAIN, True, False),
        ("fp8", UNPACKED, False, True),
        (None, (("experts", "bfloat16", 10, 10),), False, False),
        ("fp8", (("experts", "bfloat16", None, 10),), False, False),
    ],
)
def test_what_the_weights_say(quantisation, weights, unquantised, dequantised):
    """Experts that a quantised checkpoint left alone are told from those that were turned back on loading."""
    found = model_version(*weights, quantisation=quantisation)
    assert (found.experts_unquantised, found.dequantised) == (unquantised, dequantised)


def comparison():
    """Two versions in two languages."""
    languages, overall = compare_versions(*values({"eng_Latn": 0.2, "swh_Latn": 0.3}))
    return VersionComparison(
        model_version(),
        model_version(quantisation="fp8"),
        "c",
        "content",
        60,
        (0, 1, 3),
        8,
        2,
        languages,
        overall,
        Resampling(),
    )


@pytest.mark.parametrize(
    ("damage", "refused"),
    [
        (lambda raw: raw.update(languages={}), "languages: none; expected at least one"),
        (lambda raw: raw["overall"]["layers"]["choices"].pop(), "overall: 2 values of choices; expected 3, one for"),
        (lambda raw: raw["languages"]["swh_Latn"]["layers"]["sets"].append(point()), "swh_Latn: 4 values of sets"),
        (lambda raw: raw["languages"]["swh_Latn"]["layers"].pop("first"), "swh_Latn: 0 values of first; expected 3"),
        (lambda raw: raw["overall"]["means"].pop("kl"), "overall: no mean of kl"),
        (lambda raw: raw.update(n_experts=0), "top_k: 2 of 0 experts"),
        (lambda raw: raw.update(top_k=0), "top_k: 0 of 8 experts"),
        (lambda raw: raw.update(n_items=0), "n_items: 0"),
    ],
)
def test_parts_that_do_not_fit_are_refused(damage, refused):
    """In one line, where the file is read; not by whatever reads a layer or a measure that is not there."""
    raw = json.loads(json.dumps(comparison().to_json()))
    damage(raw)
    with pytest.raises(RunError, match=f"^comparison.json: {refused}.*restore the file, or make it anew"):
        VersionComparison.from_json(raw, "comparison.json")


def point():
    """One estimate, as written."""
    return {"value": 0.5, "low": 0.4, "high": 0.6, "n": 60}


def test_what_is_written_is_read_back():
    """As JSON; and as a table of every number."""
    result = comparison()
    languages = result.languages
    written = json.loads(json.dumps(result.to_json()))
    assert VersionComparison.from_json(written, "file") == result
    frame = result.to_frame()
    assert len(frame) == 3 * (len(MEASURES) + N_LAYERS * len(LAYER_MEASURES))
    mine = frame[(frame.language == "swh_Latn") & (frame.measure == "choices") & (frame.layer == 3)]
    assert mine.value.item() == languages["swh_Latn"].layers["choices"][2].value
    assert "2 languages" in repr(result)
    assert "<table" in result._repr_html_()
