"""Intervals, tests and rules keep what they promise on simulated routing; a wrong interval is told from a right one.

Bounds are wide, and draws are seeded: a test fails where the method changed, not by luck. `docs/calibration.py`
measures the same with more simulations.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from statsmodels.stats.proportion import proportion_confint

from isogloss import statistics
from isogloss.analysis import experts, groups
from isogloss.statistics import Resampling


@pytest.fixture
def calibration(document_script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script with fewer resamples."""
    script = document_script("calibration")
    monkeypatch.setattr(script, "N_RESAMPLES", 200)
    return script


@pytest.fixture
def rows(document_script: Callable[[str], ModuleType]) -> ModuleType:
    """Shares, means and tables."""
    return document_script("calibration_rows")


def measured(found: list[Any]) -> dict[str, Any]:
    """Rows by what was measured."""
    assert len({row.quantity for row in found}) == len(found)
    return {row.quantity: row for row in found}


def coverage(found: list[Any]) -> dict[str, float]:
    """Measured coverage of every row with a nominal one."""
    return {row.quantity: row.measured for row in found if row.nominal == 0.95}


def narrower(ends: Any, factor: float) -> Any:
    """Ends pulled towards their middle."""

    def changed(resampled: Any, *, level: float = 0.95) -> Any:
        low, high = ends(resampled, level=level)
        centre, reach = (low + high) / 2, factor * (high - low) / 2
        return centre - reach, centre + reach

    return changed


def unpaired(items: groups.ItemGroups, resampling: Resampling) -> Any:
    """Resamples of every group on its own."""
    return tuple(
        statistics.bootstrap_counts(len(array), n_resamples=resampling.n_resamples, seed=1000 * place + resampling.seed)
        for place, array in enumerate(items.selections)
    )


@pytest.mark.slow
def test_intervals_of_means_cover_the_truth(calibration: ModuleType):
    """Near 95 %: 85 % to 99 % of 100 samples of 30 items, for divergence, entropy and consistency, in both places."""
    found = calibration.intervals(30, 100, n_truth=1500)
    assert len(coverage(found)) == 6
    for name, share in coverage(found).items():
        assert 0.85 <= share <= 0.99, name


@pytest.mark.slow
@pytest.mark.parametrize(("factor", "least", "most"), [(0.5, 0.0, 0.82), (2.0, 0.99, 1.0)])
def test_a_wrong_interval_is_noticed(
    calibration: ModuleType, monkeypatch: pytest.MonkeyPatch, factor: float, least: float, most: float
):
    """Intervals of half the width cover far too little, and of twice the width too much."""
    monkeypatch.setattr(statistics, "percentile_interval", narrower(statistics.percentile_interval, factor))
    found = coverage(calibration.intervals(30, 60, n_truth=1500))
    assert least <= np.mean(list(found.values())) <= most


@pytest.mark.slow
def test_resampling_too_many_is_noticed(calibration: ModuleType, monkeypatch: pytest.MonkeyPatch):
    """Resamples of four times as many units, as if an item were several independent ones, cover too little."""
    right = statistics.resampled_means
    monkeypatch.setattr(
        statistics,
        "resampled_means",
        lambda values, counts: right(values, sum(np.roll(counts, shift, axis=0) for shift in range(4))),
    )
    found = [row for row in calibration.intervals(30, 60, n_truth=1500) if row.nominal]
    assert [row.verdict for row in found if row.quantity.startswith("divergence")] == ["does not hold"] * 2


def test_more_items_narrow_the_interval(calibration: ModuleType):
    """Four times the items halve it: what a researcher plans with."""
    width = "divergence, outer layer: width"
    few, many = (measured(calibration.intervals(n, 20, n_truth=250))[width].measured for n in (20, 80))
    assert few / many == pytest.approx(2.0, rel=0.15)


@pytest.mark.slow
def test_planted_edges_are_found(calibration: ModuleType):
    """In a clear U nearly always, and the intervals of edges and depth hold the truth."""
    found = measured(calibration.curves(20, 30, strength=0.6, n_truth=500))
    assert found["both edges as planted"].measured >= 0.8
    assert found["both edges within one layer"].measured >= 0.9
    assert found["called a U"].measured >= 0.9
    assert found["interval of the start"].measured >= 0.9
    assert found["interval of the end"].measured >= 0.9
    assert found["interval of the depth"].measured >= 0.8


@pytest.mark.slow
def test_a_flat_curve_is_rarely_called_a_u(calibration: ModuleType):
    """At most one in six of 60; a method that always says yes is far off."""
    assert measured(calibration.flat(20, 60))["flat curve called a U"].measured <= 1 / 6


@pytest.mark.slow
def test_intervals_of_planted_experts_cover_their_statistic(calibration: ModuleType):
    """For every rule; where a threshold chose the expert by luck, its statistic lies too high."""
    found = measured(calibration.expert_intervals(30, 60))
    always = [row for name, row in found.items() if "found in 60 of 60" in name]
    assert len(always) == 4
    assert all(0.85 <= row.measured <= 1.0 for row in always)
    lucky = [row for name, row in found.items() if "statistic above the truth" in name]
    assert all(row.low > 0 and row.verdict == "does not hold" for row in lucky)
    assert all(15 <= row.n <= 45 for row in lucky)


@pytest.mark.slow
def test_expert_intervals_that_are_too_narrow_are_noticed(calibration: ModuleType, monkeypatch: pytest.MonkeyPatch):
    """Half the width is told for delta and contrast."""
    monkeypatch.setattr(statistics, "percentile_interval", narrower(statistics.percentile_interval, 0.5))
    found = measured(calibration.expert_intervals(30, 60))
    for rule in ("delta", "contrast"):
        assert found[f"{rule}: interval, found in 60 of 60"].verdict == "does not hold"


@pytest.mark.slow
def test_expert_intervals_that_forget_the_pairing_are_noticed(calibration: ModuleType, monkeypatch: pytest.MonkeyPatch):
    """Where planted rates vary much over items, and with the item in all languages, unpaired intervals are too wide."""
    varied = replace(calibration.EXPERTS, spread=1.0, tokens=60.0)
    monkeypatch.setattr(calibration, "EXPERTS", varied)
    monkeypatch.setattr(calibration, "RULES", {"delta": calibration.RULES["delta"]})
    name = "delta: interval, found in 100 of 100"
    assert 0.85 <= measured(calibration.expert_intervals(30, 100))[name].measured <= 0.98
    monkeypatch.setattr(groups.ItemGroups, "resampled", unpaired)
    assert measured(calibration.expert_intervals(30, 100))[name].measured > 0.98


@pytest.mark.slow
def test_chance_counts_are_what_noise_gives(calibration: ModuleType):
    """On languages and texts that are routed alike, each rule finds about as many experts as its chance count says."""
    found = calibration.chance(20, 40)
    assert len(found) == 8
    assert {row.verdict for row in found} == {"holds"}


@pytest.mark.slow
def test_a_chance_count_of_half_is_noticed(calibration: ModuleType, monkeypatch: pytest.MonkeyPatch):
    """The counts are large enough that a wrong one shows."""
    right = experts._expected_by_chance
    monkeypatch.setattr(experts, "_expected_by_chance", lambda *given: (right(*given) or 0.0) / 2)
    assert {row.verdict for row in calibration.chance(20, 40)} == {"does not hold"}


def test_planted_experts_are_recovered_by_every_rule(calibration: ModuleType):
    """At least nine in ten are found; the difference rules find nothing else."""
    found = measured(calibration.recovery(20, 5))
    for rule in calibration.RULES:
        assert found[f"{rule}: planted ones found"].measured >= 0.9, rule
    for rule in ("delta", "contrast", "delta, task", "contrast, task"):
        assert found[f"{rule}: found ones planted"].measured == 1.0, rule


@pytest.mark.slow
def test_mantel_keeps_its_level_and_finds_families(calibration: ModuleType):
    """Routing that follows nothing is rarely called genealogical, routing that follows families nearly always is."""
    found = measured(calibration.genealogy(120))
    assert found["plain: routing follows nothing; rejected at 0.05"].measured <= 0.1
    assert found["plain: routing follows families; rejected at 0.05"].measured >= 0.9
    assert found["partial, controlling for the rival: routing follows families; rejected at 0.05"].measured >= 0.6


@pytest.mark.parametrize("correlation", [0.0, -0.9])
def test_correlation_intervals_cover(calibration: ModuleType, correlation: float):
    """Pearson's under normal accuracy, with 15 languages."""
    found = {(row.quantity, row.setting): row for row in calibration.accuracy(15, correlation, 300)}
    normal = [row for (name, setting), row in found.items() if name == "Pearson" and "normal" in setting]
    assert [0.9 <= row.measured <= 0.99 for row in normal] == [True]


def test_shares_have_exact_intervals_and_plain_verdicts(rows: ModuleType):
    """The interval is Clopper and Pearson's; more coverage, or less rejection, than promised holds."""
    for hits, n in ((0, 10), (93, 100), (10, 10)):
        found = rows.share([True] * hits + [False] * (n - hits), 0.95)
        expected = proportion_confint(hits, n, alpha=0.01, method="beta")
        assert (found["low"], found["high"]) == pytest.approx(np.nan_to_num(expected, nan=1.0))
    nine = [True] * 900 + [False] * 100
    assert rows.share(nine, 0.9)["verdict"] == "holds"
    assert rows.share(nine, 0.95)["verdict"] == "does not hold"
    assert rows.share(nine, 0.8)["verdict"] == "holds, with room"
    assert rows.share(nine, 0.95, better="below")["verdict"] == "holds, with room"
    assert rows.share(nine, 0.8, better="below")["verdict"] == "does not hold"
    assert rows.share(nine)["verdict"] == "–"
    assert (rows.share([])["low"], rows.share([])["high"], rows.share([])["n"]) == (0.0, 1.0, 0)


def test_means_have_t_intervals(rows: ModuleType):
    """Against the textbook: 1, 2, 3 have mean 2 and standard error 0.577; t is 9.925 at 99 % with 2 degrees."""
    found = rows.mean([1.0, 2.0, 3.0], 2.0)
    assert (found["low"], found["high"]) == pytest.approx((2 - 9.9248 * 3**-0.5, 2 + 9.9248 * 3**-0.5), abs=1e-3)
    assert found["verdict"] == "holds"
    assert rows.mean([1.0, 1.01, 1.02], 2.0)["verdict"] == "does not hold"


def test_tables_hold_every_row_once_under_its_section(rows: ModuleType):
    """Rows of a section stand together, with what was said and what was measured; all of it is strict JSON."""
    made = [
        rows.Row("B", "coverage", "here", **rows.share([True] * 9 + [False], 0.95)),
        rows.Row("A", "width", "there", **rows.mean([1.0, 2.0])),
        rows.Row("B", "found", "there", **rows.share([True] * 4)),
    ]
    results = json.loads(json.dumps({"rows": [asdict(row) for row in made]}, allow_nan=False))
    lines = rows.calibration_tables(results).splitlines()
    assert lines[0] == "### B"
    assert lines[4].startswith("| coverage | here | 0.95 | 0.900 [0.456, 0.999] | 10 | holds |")
    assert lines[5].startswith("| found | there | – | 1.000 [0.266, 1.000] | 4 | – |")
    assert [line for line in lines if line.startswith("###")] == ["### B", "### A"]
