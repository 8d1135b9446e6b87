"""The tokens of an expert: lifts are those of a plain loop, intervals hold, and rare tokens do not win by luck."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest
from run_examples import EXPERTS, LAYERS, MANIFEST, write
from statsmodels.stats.proportion import proportion_confint
from token_runs import draw_items, write_counted

from isogloss.analysis import ExpertTokens, SpecificExperts, expert_tokens, require_token_counts, specific_experts
from isogloss.analysis.expert_tokens import _Counted, _lifts
from isogloss.errors import LanguageError, RunError
from isogloss.records import to_json


@pytest.fixture(scope="module")
def items():
    """Texts of two languages."""
    return {"eng_Latn": draw_items(1, n_items=40), "deu_Latn": draw_items(2, n_items=40)}


@pytest.fixture(scope="module")
def run(tmp_path_factory, items):
    """Their Run; one token is a part of a character, one a line feed."""
    return write_counted(tmp_path_factory.mktemp("run") / "run", items, {0: b"\xe0\xa4", 1: b"\n"})


@pytest.mark.parametrize("expert", [0, 4])
def test_numbers_are_those_of_a_loop(run, items, expert):
    """Counts, the share of the expert's choices, and the lift by both of its definitions."""
    result = expert_tokens(run, LAYERS[0], expert, languages=["en", "de"], least=1)
    assert [each.language for each in result.languages] == ["eng_Latn", "deu_Latn"]
    for each in result.languages:
        flat = [(token, expert in layers[0]) for item in items[each.language] for token, layers in item]
        n_chosen = sum(chosen for _, chosen in flat)
        assert each.n_tokens == len(flat)
        assert each.rate.value == pytest.approx(n_chosen / len(flat))
        assert each.rate.low < each.rate.value < each.rate.high
        assert {row.token_id for row in each.tokens} == {token for token, chosen in flat if chosen}
        for row in each.tokens:
            n, chosen = sum(t == row.token_id for t, _ in flat), sum(t == row.token_id and c for t, c in flat)
            assert (row.n, row.chosen) == (n, chosen)
            assert row.lift.n == sum(any(t == row.token_id for t, _ in item) for item in items[each.language])
            assert row.share == pytest.approx(chosen / n_chosen)
            assert row.lift.value == pytest.approx(chosen / n / (n_chosen / len(flat)))
            assert row.lift.value == pytest.approx(row.share / (n / len(flat)))
            assert row.lift.low < row.lift.value < row.lift.high
        ends = [row.lift.low for row in each.tokens]
        assert ends == sorted(ends, reverse=True)
    names = {row.token_id: row.token for each in result.languages for row in each.tokens}
    assert (names[0], names[1], names[2]) == (r"\xe0\xa4", "\n", "t2")


def test_the_token_that_always_goes_there_is_first(run):
    """With evidence, and no other, though the intervals are for all tokens together."""
    for each in expert_tokens(run, LAYERS[0], 4).languages:
        assert each.tokens[0].token_id == 3
        assert each.tokens[0].chosen == each.tokens[0].n
        assert each.n_above == 1
        assert each.tokens[0].lift.low > 1
    for each in expert_tokens(run, LAYERS[1], 4).languages:
        assert each.n_above == 0


def test_a_file_is_not_held(run):
    """What is kept of one language while the next is read is none of its large arrays, nor a view of them."""
    kept = vars(_Counted.of(run.load("en"), 0, 4))
    assert all(array.base is None for name, array in kept.items() if name != "texts")


def test_limits_are_kept(run):
    """How many are listed and compared; what is compared changes the intervals, what is listed does not."""
    whole, short = expert_tokens(run, LAYERS[0], 4), expert_tokens(run, LAYERS[0], 4, top=2)
    assert [len(each.tokens) for each in short.languages] == [2, 2]
    assert [each.tokens[:2] for each in whole.languages] == [each.tokens for each in short.languages]
    one = expert_tokens(run, LAYERS[0], 4, languages=["eng_Latn"])
    (english,) = (each for each in whole.languages if each.language == "eng_Latn")
    assert one.languages[0].tokens[0].lift.low > english.tokens[0].lift.low
    often = max(row.n for row in english.tokens)
    few = expert_tokens(run, LAYERS[0], 4, languages=["eng_Latn"], least=often)
    assert few.languages[0].n_compared == 1
    none = expert_tokens(run, LAYERS[0], 4, least=10**6)
    assert [(each.n_compared, each.tokens) for each in none.languages] == [(0, ()), (0, ())]
    for wrong in ({"top": 0}, {"least": 0}, {"level": 1.0}):
        with pytest.raises(ValueError, match="expected at least 1"):
            expert_tokens(run, LAYERS[0], 4, **wrong)


def test_the_interval_of_one_token_is_wilsons():
    """Where every item holds the token once, and the rate is known, the ends are those of statsmodels."""
    for chosen, n in ((7, 10), (10, 10), (1, 400)):
        z = NormalDist().inv_cdf(0.975)
        lift, low, high = (
            float(end[0]) for end in _lifts(np.array([chosen]), np.array([n]), np.array([n]), (0.2, 0.0), z)
        )
        ends = proportion_confint(chosen, n, alpha=0.05, method="wilson")
        assert (lift, low, high) == pytest.approx((chosen / n / 0.2, ends[0] / 0.2, ends[1] / 0.2))


def test_items_are_the_units():
    """Ten occurrences in one item say as much as one; in ten items, ten times as much; n alone decides nothing."""
    chosen, n = np.array([8, 8, 1]), np.array([10, 10, 1])
    squares = np.array([100, 10, 1])
    _, low, high = _lifts(np.array([10, 10, 1]), n, squares, (0.1, 0.05), 2.0)
    assert low[0] == pytest.approx(low[2])
    assert low[1] > low[0]
    _, low, high = _lifts(chosen, n, squares, (0.1, 0.05), 2.0)
    assert (high - low)[1] < (high - low)[0]


def test_a_frequent_token_beats_a_rare_one_of_greater_lift(tmp_path):
    """The rare one was there in a single text, by chance always with the expert."""
    random = np.random.default_rng(5)

    def item(place):
        ids = [1] * 3 + [2] * 12 + ([7] * 6 if place == 0 else [])
        return [(t, [[0 if t == 7 or random.random() < {1: 0.9, 2: 0.1}[t] else 3, 5] for _ in LAYERS]) for t in ids]

    run = write_counted(tmp_path, {"eng_Latn": [item(place) for place in range(80)]})
    (each,) = expert_tokens(run, LAYERS[0], 0).languages
    lifts = {row.token_id: row.lift for row in each.tokens}
    assert lifts[7].value > lifts[1].value
    assert [row.token_id for row in each.tokens] == [1, 7, 2]
    assert lifts[1].low > 1
    assert lifts[7].low < 1


def test_intervals_hold_together_when_items_agree_with_themselves():
    """Of 300 corpora whose items route alike within themselves, all true lifts lie inside in 95 of 100 or more."""
    random = np.random.default_rng(3)
    n_types, n_items, probability = 8, 60, np.linspace(0.05, 0.9, 8)
    z = NormalDist().inv_cdf(1 - 0.05 / 2 / n_types)
    weights = np.full(n_types, 1.0 / n_types)
    true = probability / (weights @ probability)
    held = 0
    for _ in range(300):
        times = random.multinomial(24, weights, size=n_items)
        own = random.beta(2 * probability, 2 * (1 - probability), size=(n_items, n_types))  # correlation 1/3
        chosen = random.binomial(times, own)
        tokens, selections = times.sum(1), chosen.sum(1)
        rate = selections.sum() / tokens.sum()
        residuals = selections - rate * tokens
        spread = math.sqrt(n_items / (n_items - 1) * (residuals**2).sum()) / selections.sum()
        _, low, high = _lifts(np.maximum(chosen.sum(0), 1), times.sum(0), (times**2).sum(0), (rate, spread), z)
        held += bool(((low <= true) & (true <= high)).all())
    assert held >= 0.95 * 300


def test_without_items_there_is_no_interval(tmp_path):
    """One item says nothing about the spread between items; tokens are listed by their choices."""
    run = write_counted(tmp_path, {"eng_Latn": draw_items(3, n_items=1, longest=60)})
    (each,) = expert_tokens(run, LAYERS[0], 4, least=1).languages
    assert not each.rate.has_interval
    assert not any(row.lift.has_interval for row in each.tokens)
    chosen = [row.chosen for row in each.tokens]
    assert chosen == sorted(chosen, reverse=True)
    assert each.n_above == 0


def test_an_expert_that_is_never_chosen_has_no_token(tmp_path):
    """And no number that would need a division by zero."""
    items = [[(1, [[0, 1], [0, 1]])] * 6] * 3
    (each,) = expert_tokens(write_counted(tmp_path, {"eng_Latn": items}), LAYERS[0], 5).languages
    assert (each.rate.value, each.n_compared, each.tokens) == (0.0, 1, ())


def test_wrong_experts_and_runs_are_refused_in_one_line(run, tmp_path):
    """Found, expected, and what may be meant."""
    cases = {
        (LAYERS[0], EXPERTS): r"no expert 1:6; expected a routed layer from 1 to 3 and an expert from 0 to 5",
        (LAYERS[0], 44): r"did you mean 1:4\?",
        (0, 2): r"found no expert 0:2; .* did you mean 1:2\?",
        (9, 2): r"did you mean 3:2\?",
    }
    for (layer, expert), message in cases.items():
        with pytest.raises(RunError, match=message) as caught:
            expert_tokens(run, layer, expert)
        assert "\n" not in str(caught.value)
    plain = write(tmp_path / "plain")
    with pytest.raises(RunError, match=r"isogloss capture example/model --corpus example --token-counts -o RUN"):
        expert_tokens(plain, LAYERS[0], 0)
    with pytest.raises(RunError, match="no counts of choices by token"):
        require_token_counts(plain)
    imported = write(tmp_path / "imported", manifest=replace(MANIFEST, fingerprint=None))
    with pytest.raises(RunError, match=r"isogloss capture MODEL --corpus CORPUS --token-counts -o RUN"):
        require_token_counts(imported)
    with pytest.raises(LanguageError):
        expert_tokens(run, LAYERS[0], 0, languages=["sw"])


def test_results_are_read_back_and_show_themselves(run):
    """From JSON, as a table, and as a line."""
    result = expert_tokens(run, LAYERS[0], 4)
    assert ExpertTokens.from_json(to_json(result), "here") == result
    assert repr(result).startswith("ExpertTokens(example/model, 1:4: deu_Latn 't3' ×")
    frame = result.to_frame()
    assert list(frame.columns) == [
        *("language", "token", "token_id", "n", "n_items", "chosen", "share", "lift", "low", "high"),
    ]
    assert len(frame) == sum(len(each.tokens) for each in result.languages)
    assert frame["low"][0] == result.languages[0].tokens[0].lift.low
    assert "<table" in result._repr_html_()


def test_specific_experts_are_those_of_the_rule(tmp_path):
    """The greatest score of each language, and what `experts` says of it; the greatest first."""
    from isogloss.analysis import ExpertQuery, query_experts  # noqa: PLC0415 - the oracle of this test

    run = write(tmp_path)
    found = specific_experts(run)
    scores = [each.score.value for each in found.experts]
    assert scores == sorted(scores, reverse=True)
    assert {each.language for each in found.experts} == set(run.languages)
    for each in found.experts:
        query = ExpertQuery("specificity", target=(each.language,), top=1)
        (row,) = query_experts(run, query).experts
        assert (row.layer, row.expert, row.statistic) == (each.layer, each.expert, each.score.value)
        assert each.score.low <= each.score.value <= each.score.high
    assert len(specific_experts(run, top=2).experts) == 2
    assert SpecificExperts.from_json(to_json(found), "here") == found
    assert "eng_Latn" in repr(found)
    assert len(found.to_frame()) == 4
    with pytest.raises(LanguageError, match="found is eng_Latn alone"):
        specific_experts(run, languages=["en"])
