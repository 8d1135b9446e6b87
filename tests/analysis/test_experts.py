"""The difference rule: planted experts, intervals, and what chance alone would find."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isogloss.analysis import DeltaRule, ExpertTable, find_in_groups
from isogloss.analysis.groups import ItemGroups, selection_rates
from isogloss.analysis.layers import layer_positions
from isogloss.errors import RunError
from isogloss.statistics import Resampling

Array = npt.NDArray[np.float64]

LAYERS = [1, 2, 3, 5]
FAST = Resampling(n_resamples=200, n_permutations=100)


def rates(seed: int, *, n_items: int = 40, planted: float = 0.0, noise: float = 0.1) -> Array:
    """Rates of 4 layers by 12 experts; ``planted`` is added to expert 7 of decoder layer 3."""
    sample = np.random.default_rng(seed).normal(loc=0.3, scale=noise, size=(n_items, 4, 12))
    sample[:, 2, 7] += planted
    return sample


def delta_experts(
    x: Array, base: Array, *, decoder_layers: Sequence[int], rule: DeltaRule, resampling: Resampling = FAST
) -> ExpertTable:
    """Apply the rule to rates of items."""
    ones = np.ones(len(x)), np.ones(len(base))
    groups = ItemGroups((x, base), ones, tuple(decoder_layers), parallel=rule.paired)
    return find_in_groups(groups, rule, resampling=resampling)


def test_planted_expert_is_recovered_with_its_effect():
    """The one expert that differs is found, named by decoder layer, with about its effect."""
    table = delta_experts(rates(0, planted=0.5), rates(1), decoder_layers=LAYERS, rule=DeltaRule(0.3), resampling=FAST)
    assert [(row.layer, row.expert) for row in table.experts] == [(3, 7)]
    (row,) = table.experts
    # Four standard errors of a difference of means of 40 items with standard deviation 0.1.
    assert abs(row.statistic - 0.5) < 4 * 0.1 * (2 / 40) ** 0.5
    assert row.low < row.statistic < row.high
    assert table.n == 1
    assert table.expected_by_chance == 0.0


def test_statistic_is_the_difference_of_item_means():
    """Items count equally, however many tokens they have: not token-pooled."""
    selections = np.array([[[9, 1]], [[1, 0]]])
    base = np.array([[[0, 10]], [[0, 1]]])
    tokens = np.array([10, 1])
    table = delta_experts(
        selection_rates(selections, tokens),
        selection_rates(base, tokens),
        decoder_layers=[0],
        rule=DeltaRule(0.0, paired=True),
        resampling=FAST,
    )
    (row,) = table.experts
    assert row.statistic == pytest.approx((0.9 + 1.0) / 2)


@settings(max_examples=20)
@given(st.permutations(range(12)), st.floats(0, 0.2))
def test_relabelling_experts_permutes_the_table(order: list[int], threshold: float):
    """Permuted experts keep statistic, interval and chance count under their new names."""
    x, base, rule = rates(0, planted=0.2), rates(1), DeltaRule(threshold)
    table = delta_experts(x, base, decoder_layers=LAYERS, rule=rule, resampling=FAST)
    other = delta_experts(x[:, :, order], base[:, :, order], decoder_layers=LAYERS, rule=rule, resampling=FAST)
    renamed = {(row.layer, order[row.expert]): row for row in other.experts}
    assert {(row.layer, row.expert) for row in table.experts} == set(renamed)
    for row in table.experts:
        twin = renamed[row.layer, row.expert]
        np.testing.assert_allclose([row.statistic, row.low, row.high], [twin.statistic, twin.low, twin.high])
    assert table.expected_by_chance == pytest.approx(other.expected_by_chance, abs=0.02)


@pytest.mark.parametrize("paired", [True, False])
def test_chance_count_equals_what_the_rule_finds_under_the_null(paired: bool):  # noqa: FBT001 - parametrised
    """Averaged over data sets without any effect, experts found and experts expected agree."""
    rule = DeltaRule(0.03, paired=paired)
    found, expected = [], []
    for seed in range(60):
        table = delta_experts(rates(seed), rates(seed + 500), decoder_layers=LAYERS, rule=rule, resampling=FAST)
        found.append(table.n)
        expected.append(table.expected_by_chance or 0.0)
    error = np.std(found) / np.sqrt(len(found))
    assert np.mean(found) > 2
    assert abs(np.mean(found) - np.mean(expected)) < 4 * error


@pytest.mark.parametrize("paired", [True, False])
def test_intervals_cover_the_planted_difference(paired: bool):  # noqa: FBT001 - parametrised
    """The 90 % interval of a strong expert covers its effect in about 90 % of data sets."""
    rule, resampling = DeltaRule(0.1, layers=(3, 3), paired=paired), Resampling(n_resamples=300, level=0.9)
    covered = 0
    for seed in range(300):
        x, base = rates(seed, planted=0.5), rates(seed + 500)
        table = delta_experts(x, base, decoder_layers=LAYERS, rule=rule, resampling=replace(resampling, seed=seed))
        (row,) = table.experts
        covered += row.low <= 0.5 <= row.high
    assert 0.84 < covered / 300 < 0.95


def test_pairing_narrows_intervals_of_items_that_vary_together():
    """What parallel items have in common cancels when they are resampled together."""
    common = np.random.default_rng(9).normal(scale=0.5, size=(40, 1, 1))
    x, base = rates(0, planted=0.5, noise=0.02) + common, rates(1, noise=0.02) + common
    widths = []
    for paired in (True, False):
        rule = DeltaRule(0.3, paired=paired)
        (row,) = delta_experts(x, base, decoder_layers=LAYERS, rule=rule, resampling=FAST).experts
        widths.append(row.high - row.low)
    assert widths[0] < widths[1] / 5


def test_only_layers_in_the_range_are_looked_at():
    """Decoder layers, inclusive; the dense layer 4 is simply not there."""
    table = delta_experts(
        rates(0), rates(1), decoder_layers=LAYERS, rule=DeltaRule(0.0, layers=(2, 4)), resampling=FAST
    )
    assert {row.layer for row in table.experts} == {2, 3}
    assert layer_positions(LAYERS, (2, 4)) == [1, 2]
    assert layer_positions(LAYERS, None) == [0, 1, 2, 3]


def test_a_range_without_routed_layers_is_an_error():
    """The message names the layers that there are."""
    with pytest.raises(RunError, match=r"lies in 6-9; this run has layers 1-5"):
        layer_positions(LAYERS, (6, 9))


def test_single_items_have_no_interval_and_no_chance_count():
    """One record per side gives null, not a zero-width interval."""
    table = delta_experts(
        rates(0, n_items=1, planted=2), rates(1, n_items=1), decoder_layers=LAYERS, rule=DeltaRule(0.9), resampling=FAST
    )
    raw = json.loads(json.dumps(table.to_json(), allow_nan=False))
    assert raw["experts"][0].items() >= {"layer": 3, "expert": 7, "low": None, "high": None}.items()
    assert raw["expected_by_chance"] is None


def test_table_is_json_with_the_documented_fields():
    """Fields that others rely on; no weight for this rule."""
    table = delta_experts(
        rates(0, planted=0.5),
        rates(1),
        decoder_layers=LAYERS,
        rule=DeltaRule(0.3, layers=(1, 5)),
        resampling=FAST,
    )
    raw = table.to_json()
    assert json.loads(json.dumps(raw, allow_nan=False)) == raw
    assert set(raw) == {"rule", "parameters", "experts", "n", "expected_by_chance"}
    assert set(raw["experts"][0]) == {"layer", "expert", "statistic", "low", "high"}
    assert raw["parameters"]["layers"] == [1, 5]


def test_an_item_without_tokens_is_an_error():
    """A rate of nothing is refused and the item is named."""
    with pytest.raises(RunError, match="item 1 has no counted tokens"):
        selection_rates(np.ones((2, 1, 2), dtype=int), np.array([3, 0]))


@given(st.integers(0, 100))
def test_rates_sum_to_top_k_and_differences_to_zero(seed: int):
    """Each token chooses top_k experts, so that what one expert gains others lose."""
    generator = np.random.default_rng(seed)
    tokens = generator.integers(1, 20, size=5)
    selections = np.array([[generator.multinomial(2 * n, np.full(6, 1 / 6)) for _ in range(3)] for n in tokens])
    np.testing.assert_allclose(selection_rates(selections, tokens).sum(axis=-1), 2.0)


@pytest.mark.parametrize(
    ("x", "base", "layers", "paired"),
    [
        ((3, 4, 12), (3, 4, 11), LAYERS, False),
        ((3, 4, 12), (3, 4, 12), [0], False),
        ((3, 4, 12), (2, 4, 12), LAYERS, True),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    x: tuple[int, ...],
    base: tuple[int, ...],
    layers: list[int],
    paired: bool,  # noqa: FBT001 - parametrised
):
    """Other experts, other layers, or unpaired items are errors."""
    with pytest.raises(ValueError, match=r"against|do not fit"):
        delta_experts(np.ones(x), np.ones(base), decoder_layers=layers, rule=DeltaRule(paired=paired))


def test_a_threshold_outside_zero_to_one_is_refused():
    """Thirty percentage points are 0.3, not 30."""
    with pytest.raises(ValueError, match="threshold is 30"):
        DeltaRule(30)
