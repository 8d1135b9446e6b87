"""Task text against generic text: divergence above the noise floor, and experts of tasks and of languages."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from isogloss.analysis.divergence import divergence
from isogloss.analysis.domains import DRAWS, domain_divergence
from isogloss.analysis.groups import selection_rates
from isogloss.analysis.overlap import expert_overlap, overlap_distribution
from isogloss.errors import LanguageError, RunError
from isogloss.runs import Run, import_counts_json
from isogloss.statistics import Resampling
from known_answers.simulation import simulate_run, simulate_task_run
from known_answers.worlds import PlantedExpert, SimulatedWorld

FAST = Resampling(n_resamples=200)
MIDDLE = (4, 7)


@pytest.fixture(scope="module")
def world() -> SimulatedWorld:
    """The task has two experts in each middle layer; one of layer 5 is Swahili's too, one of layer 9 only Swahili's."""
    planted = [PlantedExpert(layer, 9, elsewhere=0.05, task=0.6) for layer in range(4, 8)]
    planted += [PlantedExpert(layer, 2, elsewhere=0.05, task=0.6) for layer in (4, 6, 7)]
    planted += [PlantedExpert(5, 2, ("swh_Latn",), rate=0.7, elsewhere=0.05, task=0.6)]
    planted += [PlantedExpert(9, 3, ("swh_Latn",), rate=0.7, elsewhere=0.05)]
    return SimulatedWorld(n_items=40, planted=tuple(planted), middle=(3, 8), strength=0.2)


@pytest.fixture(scope="module")
def runs(world: SimulatedWorld, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    """Task text in the pivot, and generic text in four languages."""
    folder = tmp_path_factory.mktemp("runs")
    return simulate_task_run(replace(world, n_items=30), folder / "task"), simulate_run(world, folder / "base")


def test_a_planted_hump_is_found(runs: tuple[Run, Run]):
    """Excess is where the task's experts are, nowhere else, and the middle is higher than the outer layers."""
    found = domain_divergence(*runs, language="eng_Latn", middle=MIDDLE, resampling=FAST)
    assert found.hump is not None
    assert (found.hump.start, found.hump.end) == MIDDLE
    assert found.hump.is_u_shape
    assert found.hump.depth.low > 0
    assert found.rise is not None
    assert found.rise.value == pytest.approx(found.hump.depth.value)
    assert found.rise.low > 0.05
    for layer, excess in zip(found.layers, found.excess, strict=True):
        assert (excess.low > 0.05) == (4 <= layer <= 7)
        assert excess.n == 30
    raw = found.to_json()
    assert json.loads(json.dumps(raw, allow_nan=False)) == raw
    assert raw["hump"]["is_hump"] is True


def test_generic_text_has_no_excess_and_no_hump(world: SimulatedWorld, tmp_path: Path):
    """Two samples of the same world differ by the floor alone: excess is zero within its intervals."""
    plain = replace(world, planted=())
    base = simulate_run(plain, tmp_path / "base")
    misses, humps = 0, 0
    for draw in range(1, 9):
        other = simulate_run(plain, tmp_path / str(draw), draw=draw)
        found = domain_divergence(other, base, language="eng_Latn", middle=MIDDLE, resampling=FAST)
        misses += sum(not point.low <= 0 <= point.high for point in found.excess)
        humps += found.hump is not None and found.hump.is_u_shape
        assert all(point.value > 0.1 for point in found.floor)
        assert found.rise is not None
        assert abs(found.rise.value) < 0.02
    assert misses <= 0.1 * 8 * 12
    assert humps <= 1


def test_curves_estimate_all_pairs(runs: tuple[Run, Run]):
    """Raw and floor approach the mean over every pair, computed with scipy's Jensen-Shannon distance in one layer."""
    task, base = (run.load("eng_Latn").profiles.astype(np.float64) for run in runs)
    found = domain_divergence(*runs, language="eng_Latn", resampling=FAST)

    def apart(p: np.ndarray, q: np.ndarray) -> float:
        mean = -(p * np.log(p) + q * np.log(q)).sum() / 2
        return jensenshannon(p, q) ** 2 / (np.log(len(p)) - mean)

    raw = np.mean([apart(p, q) for p, q in itertools.product(task[:, 5], base[:, 5])])
    floor = np.mean([apart(p, q) for p, q in itertools.permutations(base[:, 5], 2)])
    assert found.raw[5].value == pytest.approx(raw, abs=0.01)
    assert found.floor[5].value == pytest.approx(floor, abs=0.01)
    assert found.excess[5].value == pytest.approx(found.raw[5].value - found.floor[5].value)
    every = np.mean([divergence(base, np.roll(base, shift, axis=0)).mean(axis=0) for shift in range(1, 40)], axis=0)
    np.testing.assert_allclose([point.value for point in found.floor], every, atol=0.012)
    assert DRAWS >= 2


def test_intervals_cover_the_population_excess(world: SimulatedWorld, tmp_path: Path):
    """Over samples of both corpora, 90 % intervals of the excess cover its mean over many items."""
    small = replace(
        world, n_layers=5, middle=(2, 3), planted=(PlantedExpert(2, 9, elsewhere=0.05, task=0.6),), n_items=400
    )
    large = simulate_task_run(small, tmp_path / "t", draw=99), simulate_run(small, tmp_path / "b", draw=99)
    truth = [point.value for point in domain_divergence(*large, language="eng_Latn", resampling=Resampling(2)).excess]
    few, covered, resampling = replace(small, n_items=25), 0, Resampling(150, level=0.9)
    for draw in range(18):
        pair = (
            simulate_task_run(few, tmp_path / f"t{draw}", draw=draw),
            simulate_run(few, tmp_path / f"b{draw}", draw=draw),
        )
        found = domain_divergence(*pair, language="eng_Latn", resampling=resampling)
        covered += sum(point.low <= value <= point.high for point, value in zip(found.excess, truth, strict=True))
    assert 0.85 <= covered / 90 <= 0.99


def test_two_items_of_each_are_enough_to_compute(world: SimulatedWorld, tmp_path: Path):
    """Resamples without any pair are left out; intervals stay finite."""
    few = replace(world, n_items=2)
    pair = simulate_task_run(few, tmp_path / "t"), simulate_run(few, tmp_path / "b")
    found = domain_divergence(*pair, language="eng_Latn", resampling=FAST)
    assert all(np.isfinite([point.low, point.high]).all() for point in found.excess)


def test_what_cannot_be_compared_is_refused(
    runs: tuple[Run, Run], world: SimulatedWorld, shared_data: Path, tmp_path: Path
):
    """Single items, other routers, absent languages, pooled counts, and a middle that leaves nothing outside."""
    task, base = runs
    one = simulate_task_run(replace(world, n_items=1), tmp_path / "one")
    with pytest.raises(RunError, match="pairs items; a Run has 1"):
        domain_divergence(one, base, language="eng_Latn")
    with pytest.raises(RunError, match="a Run has 1"):
        expert_overlap(one, base, pivot="eng_Latn", thresholds=[0.3])
    with pytest.raises(LanguageError, match="swh_Latn not in this run"):
        domain_divergence(task, base, language="swh_Latn")
    with pytest.raises(LanguageError, match="multilingual experts need a language beside eng_Latn"):
        expert_overlap(task, task, pivot="eng_Latn", thresholds=[0.3])
    with pytest.raises(RunError, match="the given middle is all routed layers"):
        domain_divergence(task, base, language="eng_Latn", middle=(0, 11))
    with pytest.raises(ValueError, match="between 0 and 1"):
        expert_overlap(task, base, pivot="eng_Latn", thresholds=[0.3, 30])
    narrow = simulate_run(replace(world, n_experts=12, planted=()), tmp_path / "narrow")
    with pytest.raises(RunError, match="they differ in routers"):
        domain_divergence(task, narrow, language="eng_Latn")
    counts = import_counts_json(shared_data / "routing" / "conctsai_qwen3-30b-a3b_mgsm", tmp_path / "run")
    with pytest.raises(RunError, match="divergence of domains needs one record per item"):
        domain_divergence(counts, counts, language="eng_Latn")
    with pytest.raises(RunError, match=r"delta rule .* needs one record per item"):
        expert_overlap(counts, counts, pivot="eng_Latn", thresholds=[0.3])


def test_overlap_equals_sets_of_a_loop(runs: tuple[Run, Run]):
    """Counts, overlap, Jaccard and expectation against Python sets, over thresholds."""
    task, base = runs
    curve = expert_overlap(task, base, pivot="eng_Latn", thresholds=[0.02, 0.1, 0.3, 0.9], resampling=FAST)
    means = {
        code: selection_rates(base.load(code).selections, base.load(code).tokens).mean(axis=0)
        for code in base.languages
    }
    own = selection_rates(task.load("eng_Latn").selections, task.load("eng_Latn").tokens).mean(axis=0)
    cells = list(itertools.product(range(12), range(16)))
    for point in curve.points:
        of_task = {cell for cell in cells if own[cell] - means["eng_Latn"][cell] > point.threshold}
        of_languages = {
            cell for cell in cells for code in means if means[code][cell] - means["eng_Latn"][cell] > point.threshold
        }
        assert (point.n_task, point.n_multilingual) == (len(of_task), len(of_languages))
        assert point.overlap.value == len(of_task & of_languages)
        union = of_task | of_languages
        if union:
            assert point.jaccard.value == pytest.approx(len(of_task & of_languages) / len(union))
        else:
            assert np.isnan(point.jaccard.value)
        by_layer = [
            sum(cell[0] == layer for cell in of_task) * sum(cell[0] == layer for cell in of_languages)
            for layer in range(12)
        ]
        assert point.expected == pytest.approx(sum(by_layer) / 16)
        assert point.overlap.low <= point.overlap.high
    assert json.loads(json.dumps(curve.to_json(), allow_nan=False)) == curve.to_json()
    assert curve.languages == ("deu_Latn", "swh_Latn", "tel_Telu")


def test_planted_overlap_is_found(runs: tuple[Run, Run]):
    """At 0.3: eight task experts, two of Swahili, one of both; more than by chance. Without that layer: disjoint."""
    (point,) = expert_overlap(*runs, pivot="eng_Latn", thresholds=[0.3], resampling=FAST).points
    assert (point.n_task, point.n_multilingual, point.overlap.value) == (8, 2, 1)
    assert (point.overlap.low, point.overlap.high) == (1, 1)
    assert point.expected == pytest.approx(2 / 16)
    assert (point.p_fewer, point.p_more) == pytest.approx((1.0, 2 / 16))
    (outer,) = expert_overlap(*runs, pivot="eng_Latn", thresholds=[0.3], layers=(6, 11), resampling=FAST).points
    assert (outer.n_task, outer.n_multilingual, outer.overlap.value, outer.expected) == (4, 1, 0, 0)
    assert (outer.p_fewer, outer.p_more) == (1.0, 1.0)


@settings(max_examples=20)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=2))
def test_overlap_distribution_equals_every_permutation(sizes: list[tuple[int, int]]):
    """All subsets of four experts in each layer, counted; its mean is the expectation."""
    first, second = np.array(sizes).T
    law = overlap_distribution(first, second, 4)
    counted = np.zeros(len(law))
    choices = [list(itertools.combinations(range(4), n)) for n in second]
    for chosen in itertools.product(*choices):
        counted[sum(len(set(range(n)) & set(members)) for n, members in zip(first, chosen, strict=True))] += 1
    np.testing.assert_allclose(law, counted / counted.sum(), atol=1e-12)
    assert law @ np.arange(len(law)) == pytest.approx((first * second).sum() / 4)


def test_overlap_intervals_equal_resampling_by_hand(runs: tuple[Run, Run]):
    """Items of both corpora are drawn, those of the generic text once for all its languages."""
    task, base = runs
    (point,) = expert_overlap(task, base, pivot="eng_Latn", thresholds=[0.05], resampling=FAST).points
    rates = {code: selection_rates(base.load(code).selections, base.load(code).tokens) for code in base.languages}
    own = selection_rates(task.load("eng_Latn").selections, task.load("eng_Latn").tokens)
    draws = [np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=200) for seed, n in ((0, 30), (1, 40))]
    found = []
    for of_task, of_base in zip(*draws, strict=True):
        means = {code: np.repeat(values, of_base, axis=0).mean(axis=0) for code, values in rates.items()}
        more = np.max([means[code] - means["eng_Latn"] for code in curve_languages(base)], axis=0) > 0.05
        found.append(int(((np.repeat(own, of_task, axis=0).mean(axis=0) - means["eng_Latn"] > 0.05) & more).sum()))
    assert (point.overlap.low, point.overlap.high) == pytest.approx(tuple(np.quantile(found, [0.025, 0.975])))


def curve_languages(base: Run) -> list[str]:
    """Languages besides the pivot."""
    return [code for code in base.languages if code != "eng_Latn"]
