"""Experts of each language, load, coverage and consistency by band, against loops and planted truth."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import pearsonr

from isogloss.analysis import experts_among_languages, resources
from isogloss.analysis.resources import COLUMNS, ResourceRule, coverage_sizes, language_resources, relate
from isogloss.analysis.shares import ShareRule
from isogloss.errors import LanguageError, RunError
from isogloss.runs import Run, import_counts_json
from isogloss.statistics import Resampling, chance_consistency
from known_answers.simulation import simulate_run
from known_answers.worlds import PlantedExpert, SimulatedWorld

FAST = Resampling(n_resamples=60)
BANDS = {"early": (0, 3), "middle": (4, 8), "late": (9, 11)}


@pytest.fixture(scope="module")
def world() -> SimulatedWorld:
    """Swahili has an expert of its own in layers 0, 1 and 10; Telugu one in layer 10."""
    planted = [PlantedExpert(layer, 3, ("swh_Latn",), rate=0.8, elsewhere=0.05) for layer in (0, 1, 10)]
    planted += [PlantedExpert(10, 7, ("tel_Telu",), rate=0.8, elsewhere=0.05)]
    return SimulatedWorld(n_items=30, planted=tuple(planted), strength=0.3)


@pytest.fixture(scope="module")
def run(world: SimulatedWorld, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Four languages, twelve layers of sixteen experts."""
    return simulate_run(world, tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def counts(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Published counts, pooled."""
    folder = shared_data / "routing" / "conctsai_qwen3-30b-a3b_mgsm"
    return import_counts_json(folder, tmp_path_factory.mktemp("runs") / "counts")


def naive(run: Run, rule: ResourceRule, band: tuple[int, int]) -> dict[str, list[float]]:
    """All counted columns of a band, through the share rule's own tables and loops."""
    found = {}
    within = {"top": rule.top, "layers": band}
    common = experts_among_languages(
        run, ShareRule("common", rule.languages, threshold=rule.common_threshold, **within), resampling=FAST
    )
    for language in rule.languages:
        own = ShareRule("exclusive", rule.languages, (language,), threshold=rule.exclusive_threshold, **within)
        mine = {(row.layer, row.expert) for row in experts_among_languages(run, own, resampling=FAST).experts}
        pooled = run.load(language).selections.sum(axis=0)[band[0] : band[1] + 1]
        kept = {
            (band[0] + place, int(expert))
            for place, row in enumerate(pooled)
            for expert in sorted(range(len(row)), key=lambda e, row=row: (-row[e], e))[: rule.top]
            if row[expert] > 0
        }
        ours = {(row.layer, row.expert) for row in common.experts} & kept
        sizes = []
        for row in pooled:
            ranked, carried, needed = sorted(row.tolist(), reverse=True), 0, 0
            while carried < rule.coverage * sum(ranked) * (1 - 1e-9):
                carried, needed = carried + ranked[needed], needed + 1
            sizes.append(needed)
        loads = [
            sum(pooled[layer - band[0], expert] for layer, expert in cells) / pooled.sum() for cells in (mine, ours)
        ]
        found[language] = [len(mine), len(ours), *loads, sum(sizes) / len(sizes)]
    return found


@pytest.mark.parametrize("rule", [{}, {"top": 5, "exclusive_threshold": 0.5, "common_threshold": 0.4, "coverage": 0.5}])
def test_columns_equal_loops(run: Run, rule: dict[str, Any]):
    """Counts, loads and coverage in every band, from the share rule's own tables."""
    asked = ResourceRule(run.languages, **rule)
    table = language_resources(run, rule=asked, bands=BANDS, resampling=FAST)
    for band, within in BANDS.items():
        expected = naive(run, asked, within)
        for row in (row for row in table.rows if row.band == band):
            values = [getattr(row, name).value for name in COLUMNS[:-1]]
            assert values == pytest.approx(expected[row.language])


def test_published_counts_equal_loops_and_refuse_by_name(counts: Run):
    """Pooled: every counted column, no interval, no consistency, and the table says why."""
    rule = ResourceRule(counts.languages)
    bands = {"middle": (10, 39), "last": (47, 47)}
    table = language_resources(counts, rule=rule, bands=bands)
    for band, within in bands.items():
        expected = naive(counts, rule, within)
        for row in (row for row in table.rows if row.band == band):
            assert [getattr(row, name).value for name in COLUMNS[:-1]] == pytest.approx(expected[row.language])
            assert row.consistency is None
            assert np.isnan([row.exclusive.low, row.coverage.high]).all()
    assert set(table.refused) == {"consistency", "intervals"}
    assert "needs one record per item" in table.refused["consistency"]
    raw = table.to_json()
    assert json.loads(json.dumps(raw, allow_nan=False)) == raw
    assert len(raw["rows"]) == 2 * len(counts.languages)


def test_planted_exclusive_experts_are_counted_with_their_load(run: Run):
    """Two in Swahili's early layers, one of Swahili and Telugu each in the late ones; load is rate over top_k."""
    table = language_resources(
        run, rule=ResourceRule(run.languages, top=16, exclusive_threshold=0.7), bands=BANDS, resampling=FAST
    )
    found = {(row.language, row.band): row for row in table.rows}
    for (language, band), row in found.items():
        expected = {("swh_Latn", "early"): 2, ("swh_Latn", "late"): 1, ("tel_Telu", "late"): 1}.get((language, band), 0)
        assert row.exclusive.value == expected
        n_layers = BANDS[band][1] - BANDS[band][0] + 1
        assert row.exclusive_load.value == pytest.approx(expected * 0.8 / 2 / n_layers, abs=0.03)
        assert row.exclusive_load.low <= row.exclusive_load.value <= row.exclusive_load.high


@pytest.mark.parametrize(("read", "block"), [(1, 1), (30 * 16 * 14 * 5, 2_000)])
def test_parts_change_no_bit(run: Run, monkeypatch: pytest.MonkeyPatch, read: int, block: int):
    """However many layers are read and resamples are held at a time; bands may overlap and leave layers out."""
    rule, bands = ResourceRule(run.languages), {"early": (0, 3), "wide": (2, 9), "one": (7, 7)}
    whole = language_resources(run, rule=rule, bands=bands, resampling=FAST)
    monkeypatch.setattr(resources, "READ_ENTRIES", read)
    monkeypatch.setattr(resources, "BLOCK_ENTRIES", block)
    assert language_resources(run, rule=rule, bands=bands, resampling=FAST).to_json() == whole.to_json()
    alone = language_resources(run, rule=rule, bands={"one": (7, 7)}, resampling=FAST).rows
    same = [(row.exclusive_load, row.coverage) for row in whole.rows if row.band == "one"]
    assert same == [(row.exclusive_load, row.coverage) for row in alone]


def test_consistency_is_above_chance_by_what_the_run_says(run: Run):
    """Mean over items and layers of the band, minus the similarity of random sets."""
    table = language_resources(run, rule=ResourceRule(run.languages), bands=BANDS, resampling=FAST)
    (row,) = (row for row in table.rows if (row.language, row.band) == ("tel_Telu", "middle"))
    expected = run.load("tel_Telu").consistency[:, 4:9].mean() - chance_consistency(16, 2)
    assert row.consistency is not None
    assert row.consistency.value == pytest.approx(expected, abs=1e-6)
    assert row.consistency.low < row.consistency.value < row.consistency.high
    assert row.consistency.n == 30


def test_intervals_equal_resampling_by_hand(run: Run):
    """Each resample draws the same items in all languages and counts anew, shares included."""
    rule, resampling = ResourceRule(run.languages, top=6), Resampling(25)
    table = language_resources(run, rule=rule, bands={"early": (0, 3)}, resampling=resampling)
    routings = {code: run.load(code) for code in run.languages}

    class Drawn:
        """A Run of the drawn items, as far as `naive` and the share rule read it."""

        def __init__(self, items: Any) -> None:
            self.items, self.manifest, self.languages = items, run.manifest, run.languages

        def require(self, languages: Any) -> None:
            run.require(languages)

        def load(self, code: str) -> Any:
            return replace(routings[code], **{name: a[self.items] for name, a in self._arrays(code).items()})

        def load_items(self, code: str, name: str, _items: slice) -> Any:
            return self._arrays(code)[name][self.items]

        def _arrays(self, code: str) -> dict[str, Any]:
            return {name: getattr(routings[code], name) for name in ("selections", "tokens")}

    counts = np.random.default_rng(0).multinomial(30, np.full(30, 1 / 30), size=25)
    drawn = [naive(Drawn(np.repeat(np.arange(30), row)), rule, (0, 3)) for row in counts]  # type: ignore[arg-type]
    for found in table.rows:
        ends = np.quantile([sample[found.language] for sample in drawn], [0.025, 0.975], axis=0)
        for column, low, high in zip(COLUMNS, *ends, strict=False):
            estimate = getattr(found, column)
            assert (estimate.low, estimate.high) == pytest.approx((low, high))


def test_load_intervals_cover_the_planted_load(world: SimulatedWorld, tmp_path: Path):
    """The 95 % interval of the load on Swahili's expert in layer 10 covers 0.8 / 2 in most samples."""
    covered = 0
    for draw in range(20):
        run = simulate_run(world, tmp_path / str(draw), draw=draw)
        rule = ResourceRule(run.languages, exclusive_threshold=0.7)
        table = language_resources(run, rule=rule, bands={"ten": (10, 10)}, resampling=FAST)
        (row,) = (row for row in table.rows if row.language == "swh_Latn")
        assert row.exclusive.value == 1
        covered += row.exclusive_load.low <= 0.4 <= row.exclusive_load.high
    assert covered >= 16


@given(st.integers(0, 1000), st.floats(0.05, 1.0))
def test_coverage_is_the_least_number_that_suffices(seed: int, coverage: float):
    """The best n carry the share, and the best n - 1 do not."""
    row = np.random.default_rng(seed).integers(0, 50, size=9)
    row[seed % 9] += 1
    size = int(coverage_sizes(row, coverage))
    ranked = np.sort(row)[::-1]
    assert ranked[:size].sum() >= coverage * row.sum() * (1 - 1e-9)
    assert ranked[: size - 1].sum() < coverage * row.sum()


def test_coverage_of_even_and_single_experts():
    """Even use of ten experts needs eight for 80 %; a single expert carries all."""
    assert coverage_sizes(np.full(10, 7), 0.8) == 8
    assert coverage_sizes(np.array([0, 5, 0]), 1.0) == 1


def test_columns_relate_to_a_measure(run: Run):
    """Every column by band, over the languages that have both; a constant column is NaN, three languages too few."""
    table = language_resources(run, rule=ResourceRule(run.languages), bands=BANDS, resampling=FAST)
    web = {"deu_Latn": 5.0, "eng_Latn": 60.0, "swh_Latn": 0.1, "tel_Telu": 0.2, "fra_Latn": 4.0}
    related = relate(table, web)
    assert set(related) == set(BANDS)
    assert set(related["late"]) == set(COLUMNS)
    column = table.column("coverage", "late")
    expected = pearsonr([column[code] for code in column], [web[code] for code in column]).statistic
    assert related["late"]["coverage"].pearson.value == pytest.approx(expected)
    assert related["late"]["coverage"].pearson.n == 4
    with pytest.raises(LanguageError, match="3 languages have both measures"):
        relate(table, {code: web[code] for code in ("deu_Latn", "eng_Latn", "swh_Latn")})


def test_refused_columns_are_not_related(counts: Run):
    """Pooled counts have no consistency to relate."""
    table = language_resources(counts, rule=ResourceRule(counts.languages), bands={"all": (0, 47)})
    related = relate(table, {code: float(place) for place, code in enumerate(counts.languages)})
    assert set(related["all"]) == set(COLUMNS) - {"consistency"}
    assert related["all"]["coverage"].pearson.n == 8


def test_wrong_rules_and_bands_are_refused(run: Run):
    """Languages, cuts and layers are checked by name."""
    with pytest.raises(LanguageError, match="two or more"):
        ResourceRule(("eng_Latn",))
    for wrong in ({"top": 0}, {"coverage": 0.0}, {"coverage": 1.1}, {"common_threshold": 0.0}):
        with pytest.raises(ValueError, match="expected top of at least 1"):
            ResourceRule(run.languages, **wrong)  # type: ignore[arg-type]
    with pytest.raises(LanguageError, match="fra_Latn not in this run"):
        language_resources(run, rule=ResourceRule(("eng_Latn", "fra_Latn")), bands=BANDS)
    with pytest.raises(RunError, match="no routed layer lies in 20-30"):
        language_resources(run, rule=ResourceRule(run.languages), bands={"far": (20, 30)})
