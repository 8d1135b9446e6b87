"""The specificity rule against loops, enumerated permutations and planted truth."""

from __future__ import annotations

import itertools
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isogloss.analysis import experts_among_languages, find_in_groups
from isogloss.analysis.groups import ItemGroups
from isogloss.analysis.specificity import (
    SpecificityRule,
    overlap_scores,
    specificity_scores,
)
from isogloss.errors import LanguageError
from isogloss.runs import import_counts_json
from isogloss.statistics import Resampling
from known_answers.simulation import simulate_run
from known_answers.worlds import PlantedExpert, SimulatedWorld

IntArray = npt.NDArray[np.int64]

FAST = Resampling(n_resamples=100, n_permutations=50)
LAYERS = (0, 2)


def sample(seed: int, *, n_items: int = 10, n_languages: int = 3) -> ItemGroups:
    """Counts of 2 layers by 6 experts; the last expert of the first layer is never chosen; languages differ."""
    generator = np.random.default_rng(seed)
    tokens = generator.integers(5, 40, size=(n_languages, n_items))
    odds = generator.dirichlet(np.full(6, 2.0), size=(n_languages, 2))
    odds[:, 0, 5] = 0
    odds /= odds.sum(axis=-1, keepdims=True)
    drawn = [
        [[generator.multinomial(2 * n, layer) for layer in odds[language]] for n in tokens[language]]
        for language in range(n_languages)
    ]
    return ItemGroups(tuple(np.array(drawn)), tuple(tokens), LAYERS, parallel=True)


def naive(groups: ItemGroups, rule: SpecificityRule) -> dict[tuple[int, int], float]:
    """Both scores with loops and the standard library; experts that nobody uses are left out."""
    found = {}
    for place, layer in enumerate(groups.decoder_layers):
        for expert in range(groups.selections[0].shape[-1]):
            rates = [
                sum(int(item[place][expert]) for item in selections) / sum(int(n) for n in tokens)
                for selections, tokens in zip(groups.selections, groups.tokens, strict=True)
            ]
            mean = sum(rates) / len(rates)
            if mean == 0:
                continue
            if rule.target is not None:
                own = rates[rule.languages.index(rule.target)]
                found[layer, expert] = own / mean * (1 + rule.alpha * own)
            else:
                variation = statistics.pstdev(rates) / mean
                found[layer, expert] = 1 / (1 + variation) * (1 + rule.alpha * mean)
    return found


@settings(max_examples=25)
@given(
    seed=st.integers(0, 1000),
    alpha=st.sampled_from([0.0, 1.0, 10.0]),
    target=st.sampled_from([None, "a", "c"]),
    threshold=st.sampled_from([0.0, 1.5, 3.0]),
    top=st.sampled_from([None, 2, 5]),
)
def test_scores_equal_loops(*, seed: int, alpha: float, target: str | None, threshold: float, top: int | None):
    """Both kinds, several α, thresholds and tops; an expert that no language uses is never found."""
    kind: Any = "overlap" if target is None else "specific"
    rule = SpecificityRule(kind, ("a", "b", "c"), target, alpha, threshold, top)
    groups = sample(seed)
    expected = {key: value for key, value in naive(groups, rule).items() if value > threshold}
    kept = sorted(expected, key=lambda key: -expected[key])[:top]
    table = find_in_groups(groups, rule=rule, resampling=Resampling(2, 1))
    assert {(row.layer, row.expert): row.statistic for row in table.experts} == pytest.approx(
        {key: expected[key] for key in kept}
    )
    assert (0, 5) not in {(row.layer, row.expert) for row in table.experts}


def test_unused_experts_score_zero():
    """0/0 is 0 in both scores; and a language that does not use an expert has no specificity for it."""
    rates = np.array([[0.0, 0.0, 0.5], [0.0, 0.5, 0.5]])
    assert specificity_scores(rates, 0).tolist() == pytest.approx([0, 0, 6])
    assert overlap_scores(rates).tolist() == pytest.approx([0, (1 + 2.5) / 2, 6])


@given(st.integers(0, 500), st.floats(0, 20))
def test_scores_stay_in_their_range(seed: int, alpha: float):
    """Specificity is at most n(1 + α), overlap at most 1 + α, and both are 1 + α·a for languages that agree."""
    rates = np.random.default_rng(seed).uniform(size=(4, 9))
    assert (specificity_scores(rates, 2, alpha=alpha) <= 4 * (1 + alpha)).all()
    assert (overlap_scores(rates, alpha=alpha) <= 1 + alpha).all()
    same = np.repeat(rates[:1], 4, axis=0)
    np.testing.assert_allclose(specificity_scores(same, 2, alpha=alpha), 1 + alpha * rates[0])
    np.testing.assert_allclose(overlap_scores(same, alpha=alpha), 1 + alpha * rates[0])


@settings(max_examples=10)
@given(st.permutations(range(6)), st.sampled_from([None, "b"]))
def test_relabelling_experts_permutes_the_table(order: list[int], target: str | None):
    """Expert ids are names: statistics, intervals and chance count go with them."""
    rule = SpecificityRule("overlap" if target is None else "specific", ("a", "b", "c"), target, threshold=1.0)
    groups = sample(3)
    renamed = ItemGroups(tuple(array[:, :, order] for array in groups.selections), groups.tokens, LAYERS, parallel=True)
    table, other = (find_in_groups(each, rule=rule, resampling=FAST) for each in (groups, renamed))
    expected = {(row.layer, row.expert): (row.statistic, row.low, row.high) for row in table.experts}
    assert {(row.layer, order[row.expert]): (row.statistic, row.low, row.high) for row in other.experts} == expected
    assert table.expected_by_chance == other.expected_by_chance


@pytest.mark.parametrize("target", [None, "b"])
@pytest.mark.parametrize("top", [None, 3])
def test_chance_count_equals_every_permutation(target: str | None, top: int | None):
    """The mean over every way to deal the records of three items to three languages."""
    groups = sample(5, n_items=3)
    kind: Any = "overlap" if target is None else "specific"
    rule = SpecificityRule(kind, ("a", "b", "c"), target, threshold=3.5, top=top)
    table = find_in_groups(groups, rule=rule, resampling=Resampling(10, n_permutations=4000))
    weakest = min(row.statistic for row in table.experts)
    stacked, tokens, found = np.array(groups.selections), np.array(groups.tokens), []
    for deal in itertools.product(itertools.permutations(range(3)), repeat=3):
        owners = np.array(deal).T
        dealt = ItemGroups(
            tuple(stacked[owner, np.arange(3)] for owner in owners),
            tuple(tokens[owner, np.arange(3)] for owner in owners),
            LAYERS,
            parallel=True,
        )
        values = np.array(list(naive(dealt, rule).values()))
        found.append(int((values > 3.5).sum() if top is None else (values >= weakest - 1e-12).sum()))
    assert table.expected_by_chance == pytest.approx(np.mean(found), abs=5 * np.std(found) / np.sqrt(4000))
    assert 0 < np.mean(found) < 11


def test_intervals_equal_resampling_by_hand():
    """The whole score on each resample of the items, the same items in all languages."""
    groups = sample(1, n_items=8)
    rule = SpecificityRule("overlap", ("a", "b", "c"), threshold=1.0)
    table = find_in_groups(groups, rule=rule, resampling=FAST)
    drawn = []
    for row in np.random.default_rng(0).multinomial(8, np.full(8, 1 / 8), size=100):
        items = np.repeat(np.arange(8), row)
        resample = ItemGroups(
            tuple(a[items] for a in groups.selections), tuple(t[items] for t in groups.tokens), LAYERS, parallel=True
        )
        drawn.append(naive(resample, rule))
    assert table.n > 3
    for found in table.experts:
        values = [scores.get((found.layer, found.expert), 0.0) for scores in drawn]
        assert (found.low, found.high) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])))


def test_planted_experts_are_recovered_and_intervals_cover_the_truth(tmp_path: Path):
    """A language's own expert is the most specific one, an even one overlaps most; truth lies in 95 % intervals."""
    planted = PlantedExpert(4, 3, ("swh_Latn",), rate=0.7, elsewhere=0.05), PlantedExpert(7, 5, elsewhere=0.8)
    world = SimulatedWorld(n_items=40, planted=planted)
    rates = [0.05, 0.05, 0.7, 0.05]
    truth = 0.7 / np.mean(rates) * (1 + 10 * 0.7), 1 + 10 * 0.8
    covered = np.zeros(2)
    for draw in range(20):
        run = simulate_run(world, tmp_path / str(draw), draw=draw)
        codes = run.languages
        own = experts_among_languages(run, SpecificityRule("specific", codes, "swh_Latn", top=1), resampling=FAST)
        even = experts_among_languages(run, SpecificityRule("overlap", codes, threshold=6, top=1), resampling=FAST)
        assert [(row.layer, row.expert) for table in (own, even) for row in table.experts] == [(4, 3), (7, 5)]
        covered += [
            table.experts[0].low <= value <= table.experts[0].high
            for table, value in zip((own, even), truth, strict=True)
        ]
        assert own.expected_by_chance == 0
    assert covered[0] >= 16
    # The overlap of an even expert leans down: noise makes any sample vary a little.
    assert covered[1] >= 12


def test_pooled_counts_give_scores_without_intervals(shared_data: Path, tmp_path: Path):
    """Published counts: the asked number of experts, null ends and null chance count in JSON."""
    run = import_counts_json(shared_data / "routing" / "conctsai_qwen3-30b-a3b_mgsm", tmp_path / "run")
    rule = SpecificityRule("specific", run.languages, "swh_Latn", top=15)
    raw = experts_among_languages(run, rule).to_json()
    assert json.loads(json.dumps(raw, allow_nan=False)) == raw
    assert raw["n"] == 15
    assert {(row["low"], row["high"]) for row in raw["experts"]} == {(None, None)}
    assert raw["expected_by_chance"] is None
    assert raw["parameters"].items() >= {"alpha": 10.0, "target": "swh_Latn", "languages": list(run.languages)}.items()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("specific", ("a",), "a"), "two or more"),
        (("specific", ("a", "a"), "a"), "two or more"),
        (("specific", ("a", "b")), "needs one"),
        (("overlap", ("a", "b"), "a"), "only 'specific' takes a target"),
        (("specific", ("a", "b"), "c"), "must be one of a, b"),
    ],
)
def test_rules_that_name_languages_wrongly_are_refused(arguments: Any, message: str):
    """Means are over two or more different languages, and a target is one of them."""
    with pytest.raises(LanguageError, match=message):
        SpecificityRule(*arguments)


@pytest.mark.parametrize("wrong", [{"alpha": -1.0}, {"alpha": float("nan")}, {"threshold": -0.1}, {"top": 0}])
def test_numbers_out_of_range_are_refused(wrong: dict[str, Any]):
    """Nothing below 0, no NaN, at least one expert."""
    with pytest.raises(ValueError, match="at least"):
        SpecificityRule("overlap", ("a", "b"), **wrong)
