"""Where no expert passes a threshold, what is named as nearest and as lower thresholds holds when it is tried."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from isogloss.analysis import ContrastRule, DeltaRule, ExpertTable, ShareRule, SpecificityRule, find_in_groups
from isogloss.analysis.groups import ItemGroups
from isogloss.analysis.nearest import nearest
from isogloss.errors import PlanError
from isogloss.routing import Fingerprint
from isogloss.statistics import Resampling

FAST = Resampling(n_resamples=20, n_permutations=10)
LANGUAGES = ("eng_Latn", "deu_Latn")
RULES = (
    DeltaRule(0.9),
    ContrastRule(0.9),
    ContrastRule(0.9, sign="negative"),
    ShareRule("exclusive", LANGUAGES, ("deu_Latn",), top=8, threshold=0.99),
    ShareRule("common", LANGUAGES, top=8, threshold=0.01),
    SpecificityRule("specific", LANGUAGES, "deu_Latn", threshold=100.0),
)


def groups(seed: int) -> ItemGroups:
    """Selections of 2 groups of 6 items, 3 layers of 8 experts, 2 of 20 tokens chosen each."""
    generator = np.random.default_rng(seed)
    selections = tuple(generator.multinomial(40, np.ones(8) / 8, size=(6, 3)) for _ in LANGUAGES)
    return ItemGroups(selections, (np.full(6, 20), np.full(6, 20)), (2, 3, 5), parallel=True)


@given(st.integers(0, 50), st.sampled_from(RULES))
def test_a_threshold_that_is_named_gives_what_is_said(seed, rule):
    """The nearest expert is the first that comes, and no threshold between finds more than the one before it."""
    table = find_in_groups(groups(seed), rule, resampling=FAST)
    assert not table.experts
    assert table.nearest is not None
    near, counts = table.nearest, []
    for lower in near.thresholds:
        found = find_in_groups(groups(seed), replace(rule, threshold=lower.threshold), resampling=FAST)
        assert found.n == lower.n
        assert found.nearest is None
        counts.append(lower.n)
    assert counts == sorted(counts)
    assert counts[0] >= 1
    row = {(row.layer, row.expert): row.statistic for row in found.experts}
    assert row[near.layer, near.expert] == near.statistic


@given(arrays.arrays(float, (2, 3), elements=st.floats(-1, 1)), st.sampled_from([1, -1]))
def test_any_statistics(statistic, sign):
    """Ties, negative and tiny numbers: thresholds are passed by as many as is said, and are never below 0."""
    reach = statistic if sign > 0 else np.where(statistic > 0, statistic, np.nan)
    near = nearest(statistic, reach, (0, 1), sign=sign)
    if near is None:
        assert np.isnan(reach).all()
        return
    for lower in near.thresholds:
        assert lower.threshold >= 0
        assert lower.n == (sign * reach > sign * lower.threshold).sum()
    assert bool(near.thresholds) == ((reach > 0).any())


def test_a_table_without_experts_keeps_it_as_json_and_says_it():
    """Read back it is the same; a plan is refused with the sentence."""
    model = Fingerprint("m", (2, 3, 5), 8, 2, "00")
    table = replace(find_in_groups(groups(1), DeltaRule(0.9), resampling=FAST), fingerprint=model)
    again = ExpertTable.from_json(table.to_json(), "table")
    assert again.nearest == table.nearest
    with pytest.raises(PlanError, match=r"The nearest is expert \d of layer \d, with 0\.\d+: a threshold of"):
        table.plan("soft", strength=0.5)
    found = find_in_groups(groups(1), DeltaRule(0.0), resampling=FAST)
    assert "nearest" not in found.to_json()
