"""The share rule against loops and dictionaries, on random and on published counts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slow import slow_but

from isogloss.analysis import ExpertTable, find_in_groups
from isogloss.analysis.groups import ItemGroups
from isogloss.analysis.shares import ShareRule, language_shares, top_experts
from isogloss.errors import LanguageError, RunError
from isogloss.statistics import Resampling

IntArray = npt.NDArray[np.int64]
Found = dict[tuple[int, int], tuple[float, float]]

FAST = Resampling(n_resamples=50, n_permutations=40)
SHORT = {"eng_Latn": "en", "zho_Hans": "zh", "deu_Latn": "de", "swh_Latn": "sw", "jpn_Jpan": "ja", "ben_Beng": "bn"}


def naive(counts: dict[str, list[list[int]]], tokens: dict[str, int], rule: ShareRule) -> Found:
    """Paper B's rule with loops: (layer, expert) -> (statistic, weight)."""
    found: Found = {}
    first, last = rule.layers or (0, 10**9)
    for layer in range(first, min(last + 1, len(counts[rule.languages[0]]))):
        kept: dict[str, dict[int, float]] = {}
        for language in rule.languages:
            row = counts[language][layer]
            best = sorted(range(len(row)), key=lambda expert, row=row: (-row[expert], expert))[: rule.top]
            kept[language] = {expert: row[expert] / tokens[language] for expert in best}
        for expert in range(len(counts[rule.languages[0]][layer])):
            rates = [kept[language].get(expert, 0.0) for language in rule.languages]
            if sum(rates) == 0:
                continue
            share = {language: rate / sum(rates) for language, rate in zip(rule.languages, rates, strict=True)}
            weight = share[rule.languages[0]]
            if rule.kind == "common" and all(part < rule.threshold for part in share.values()):
                found[layer, expert] = max(share.values()), weight
            total = sum(share[language] for language in rule.target)
            if rule.kind == "exclusive" and total > rule.threshold:
                found[layer, expert] = total, weight
    return found


def share_experts(
    selections: IntArray,
    tokens: IntArray,
    *,
    decoder_layers: Sequence[int],
    rule: ShareRule,
    resampling: Resampling = FAST,
) -> ExpertTable:
    """Apply the rule to stacked counts [languages, items, layers, experts]."""
    groups = ItemGroups(tuple(selections), tuple(tokens), tuple(decoder_layers), parallel=True)
    return find_in_groups(groups, rule, resampling=resampling)


def compare(counts: IntArray, tokens: IntArray, rule: ShareRule) -> int:
    """Assert that both implementations agree on pooled counts [languages, layers, experts]; return how many."""
    table = share_experts(
        counts[:, None], tokens[:, None], decoder_layers=range(counts.shape[1]), rule=rule, resampling=FAST
    )
    expected = naive(
        dict(zip(rule.languages, counts.tolist(), strict=True)),
        dict(zip(rule.languages, tokens.tolist(), strict=True)),
        rule,
    )
    assert [(row.layer, row.expert) for row in table.experts] == sorted(expected)
    for row in table.experts:
        assert (row.statistic, row.weight) == pytest.approx(expected[row.layer, row.expert])
    return table.n


@pytest.fixture(scope="session")
def published(shared_data: Path) -> dict[str, tuple[IntArray, int]]:
    """Qwen3-30B-A3B on MGSM prompts: language -> counts [48, 128] and tokens."""
    counted = {}
    for language, code in SHORT.items():
        path = shared_data / "routing" / "conctsai_qwen3-30b-a3b_mgsm" / f"mgsm_{code}.json"
        raw: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        counts = np.zeros((48, 128), dtype=np.int64)
        for layer, experts in raw.items():
            for expert, record in experts.items():
                if expert != "total_tokens":
                    counts[int(layer), int(expert)] = record["activation_tokens"]
        counted[language] = counts, int(raw["0"]["total_tokens"])
    return counted


def chosen(published: dict[str, tuple[IntArray, int]], languages: tuple[str, ...]) -> tuple[IntArray, IntArray]:
    """Stack counts and tokens of some languages."""
    return np.stack([published[code][0] for code in languages]), np.array([published[code][1] for code in languages])


def test_published_common_experts_of_english_and_chinese_are_420(published: dict[str, tuple[IntArray, int]]):
    """Paper B's setting on the published counts gives 420 experts, by both implementations."""
    rule = ShareRule("common", ("eng_Latn", "zho_Hans"), top=20, threshold=0.7, layers=(10, 39))
    assert compare(*chosen(published, rule.languages), rule) == 420


@pytest.mark.parametrize("languages", [("zho_Hans", "eng_Latn"), ("swh_Latn", "deu_Latn", "ben_Beng"), tuple(SHORT)])
@pytest.mark.parametrize(("top", "threshold"), [(1, 0.9), (8, 0.5), (20, 0.7), (32, 0.4), (128, 0.6)])
@pytest.mark.parametrize("layers", slow_but([None, (0, 0), (10, 39), (43, 47)], quick=[(10, 39)]))
def test_published_counts_agree_with_loops(
    published: dict[str, tuple[IntArray, int]],
    languages: tuple[str, ...],
    top: int,
    threshold: float,
    layers: tuple[int, int] | None,
):
    """Common and exclusive experts, several sizes, thresholds, pairs and layer ranges."""
    counts, tokens = chosen(published, languages)
    compare(counts, tokens, ShareRule("common", languages, (), top, threshold, layers))
    compare(counts, tokens, ShareRule("exclusive", languages, languages[1:2], top, threshold, layers))
    compare(counts, tokens, ShareRule("exclusive", languages, (languages[-1], languages[0]), top, threshold, layers))


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    n_languages=st.integers(2, 4),
    top=st.integers(1, 9),
    threshold=st.sampled_from([0.3, 0.5, 0.7, 1.1]),
    exclusive=st.booleans(),
)
def test_random_counts_with_ties_agree_with_loops(
    *, seed: int, n_languages: int, top: int, threshold: float, exclusive: bool
):
    """Small counts are full of ties and zeros: the lower expert id goes first, unused experts are not common."""
    generator = np.random.default_rng(seed)
    languages = tuple("abcd"[:n_languages])
    target = languages[:1] if exclusive else ()
    rule = ShareRule("exclusive" if exclusive else "common", languages, target, top, threshold)
    compare(generator.integers(0, 5, size=(n_languages, 3, 8)), generator.integers(5, 30, size=n_languages), rule)


def sample(seed: int, *, n_items: int = 30, n_languages: int = 2) -> tuple[IntArray, IntArray]:
    """Selections [languages, items, 3 layers, 16 experts] and tokens: skewed, no language effect."""
    generator = np.random.default_rng(seed)
    tokens = generator.integers(20, 40, size=(n_languages, n_items))
    skew = np.arange(16, 0, -1) / 136
    return generator.multinomial(2 * tokens[..., None], skew, size=(n_languages, n_items, 3)), tokens


def test_planted_exclusive_expert_is_recovered():
    """An expert that one language uses far more is exclusive to it, with its interval; weight is the first's share."""
    selections, tokens = sample(0)
    selections[1, :, 2, 5] += 2 * tokens[1]
    rule = ShareRule("exclusive", ("eng_Latn", "tel_Telu"), ("tel_Telu",), top=8, threshold=0.8)
    table = share_experts(selections, tokens, decoder_layers=[4, 5, 6], rule=rule, resampling=FAST)
    assert (6, 5) in [(row.layer, row.expert) for row in table.experts]
    row = next(row for row in table.experts if (row.layer, row.expert) == (6, 5))
    assert row.low <= row.statistic <= row.high
    assert row.weight == pytest.approx(1 - row.statistic)
    assert table.expected_by_chance is not None
    assert table.expected_by_chance < table.n


def test_chance_count_equals_what_the_rule_finds_under_the_null():
    """Averaged over data sets without language effect, experts found and experts expected agree."""
    rule = ShareRule("exclusive", ("a", "b"), ("b",), top=8, threshold=0.55)
    found, expected = [], []
    for seed in range(60):
        table = share_experts(*sample(seed), decoder_layers=range(3), rule=rule, resampling=FAST)
        found.append(table.n)
        expected.append(table.expected_by_chance or 0.0)
    error = np.std(np.subtract(found, expected)) / np.sqrt(len(found))
    assert np.mean(found) > 1
    assert abs(np.mean(found) - np.mean(expected)) < 4 * error


def test_chance_count_permutes_labels_within_items():
    """The block form equals dealing the records of every item by hand, many times."""
    selections, tokens = sample(3, n_items=5, n_languages=3)
    selections[2, :, :, 1] *= 3
    rule = ShareRule("exclusive", ("a", "b", "c"), ("c",), top=4, threshold=0.45)
    table = share_experts(
        selections, tokens, decoder_layers=range(3), rule=rule, resampling=Resampling(10, n_permutations=2000)
    )
    generator, found = np.random.default_rng(7), []
    for _ in range(1000):
        deal = generator.permuted(np.tile(np.arange(3), (5, 1)), axis=1).T, np.arange(5)
        counts = selections[deal].sum(axis=1).transpose(1, 0, 2)
        found.append((language_shares(counts, tokens[deal].sum(axis=1), 4)[:, 2] > 0.45).sum())
    assert table.expected_by_chance == pytest.approx(np.mean(found), abs=6 * np.std(found) / np.sqrt(1000))


def test_intervals_equal_resampling_by_hand():
    """Percentiles of the whole rule, top experts included, on each resample of the items."""
    selections, tokens = sample(1, n_items=8)
    rule = ShareRule("common", ("a", "b"), top=6, threshold=0.9)
    table = share_experts(selections, tokens, decoder_layers=range(3), rule=rule, resampling=FAST)
    counts = np.random.default_rng(0).multinomial(8, np.full(8, 1 / 8), size=50)
    drawn = []
    for row in counts:
        items = np.repeat(np.arange(8), row)
        pooled = selections[:, items].sum(axis=1).transpose(1, 0, 2)
        drawn.append(language_shares(pooled, tokens[:, items].sum(axis=1), 6).max(axis=1))
    for row in table.experts:
        low, high = np.quantile(np.array(drawn)[:, row.layer, row.expert], [0.025, 0.975])
        assert (row.low, row.high) == pytest.approx((low, high))


def test_pooled_counts_have_no_interval_and_no_chance_count():
    """One record per language gives null in JSON, with 1/n beside the threshold."""
    selections, tokens = sample(0, n_items=1, n_languages=4)
    rule = ShareRule("common", ("a", "b", "c", "d"), top=5, layers=(0, 1))
    raw = share_experts(selections, tokens, decoder_layers=range(3), rule=rule).to_json()
    assert json.loads(json.dumps(raw, allow_nan=False)) == raw
    assert raw["n"] == len(raw["experts"]) > 0
    assert {(row["low"], row["high"]) for row in raw["experts"]} == {(None, None)}
    assert raw["expected_by_chance"] is None
    assert raw["parameters"]["neutral_share"] == 0.25


@given(st.permutations(range(16)))
def test_relabelling_experts_permutes_shares(order: list[int]):
    """With distinct counts, expert ids are names."""
    counts = np.random.default_rng(0).permutation(200)[:48].reshape(3, 16)
    tokens = np.array([100, 120, 90])
    shares = language_shares(counts, tokens, 5)
    np.testing.assert_allclose(language_shares(counts[:, order], tokens, 5), shares[:, order])


@given(st.integers(0, 1000), st.integers(1, 12))
def test_shares_sum_to_one_where_any_language_keeps_the_expert(seed: int, top: int):
    """Each expert's use is divided among the languages; an unused expert has none."""
    counts = np.random.default_rng(seed).integers(0, 4, size=(3, 2, 10))
    shares = language_shares(counts, np.array([7, 9]), top)
    totals = shares.sum(axis=1)
    np.testing.assert_allclose(totals[totals > 0], 1.0)
    used = (top_experts(counts, top) & (counts > 0)).any(axis=1)
    assert ((totals > 0) == used).all()


def test_ties_at_the_cut_go_to_the_lower_id():
    """Exactly ``top`` experts are kept, whatever is equal."""
    assert top_experts(np.array([3, 5, 3, 3, 0]), 2).tolist() == [True, True, False, False, False]
    assert top_experts(np.zeros(4, dtype=int), 3).tolist() == [True, True, True, False]
    assert top_experts(np.array([1, 2]), 9).tolist() == [True, True]


@pytest.mark.parametrize(
    ("kind", "languages", "target", "message"),
    [
        ("common", ("a",), (), "two or more"),
        ("common", ("a", "a"), (), "two or more"),
        ("common", ("a", "b"), ("a",), "only 'exclusive' takes a target"),
        ("exclusive", ("a", "b"), (), "needs one"),
        ("exclusive", ("a", "b"), ("c",), "must be different ones of a, b"),
        ("exclusive", ("a", "b"), ("a", "a"), "must be different ones of a, b"),
    ],
)
def test_rules_that_name_languages_wrongly_are_refused(
    kind: Any, languages: tuple[str, ...], target: tuple[str, ...], message: str
):
    """Shares are of two or more different languages, and a target belongs to them."""
    with pytest.raises(LanguageError, match=message):
        ShareRule(kind, languages, target)


@pytest.mark.parametrize("wrong", [{"top": 0}, {"threshold": 0.0}])
def test_rules_that_can_find_nothing_are_refused(wrong: dict[str, Any]):
    """At least one expert is kept, and a threshold is above 0."""
    with pytest.raises(ValueError, match="at least 1, and above 0"):
        ShareRule("common", ("a", "b"), **wrong)


def test_languages_without_tokens_and_wrong_shapes_are_refused():
    """An empty item or another number of languages is an error."""
    selections, tokens = sample(0)
    with pytest.raises(ValueError, match="do not fit"):
        share_experts(selections, tokens, decoder_layers=range(3), rule=ShareRule("common", ("a", "b", "c")))
    tokens[0, 3] = 0
    with pytest.raises(RunError, match="no counted tokens"):
        share_experts(selections, tokens, decoder_layers=range(3), rule=ShareRule("common", ("a", "b")))
