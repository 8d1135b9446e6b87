"""The contrast rule against loops, enumerated permutations and planted truth; queries and plans made of it."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isogloss.analysis import (
    ContrastRule,
    ExpertQuery,
    find_in_groups,
    language_experts,
    query_experts,
    task_experts,
)
from isogloss.analysis.groups import ItemGroups
from isogloss.errors import IsoglossError, LanguageError, PlanError, RunError
from isogloss.routing import Fingerprint
from isogloss.runs import Run, import_counts_json
from isogloss.statistics import Resampling
from known_answers.simulation import simulate_run, simulate_task_run
from known_answers.worlds import PlantedExpert, SimulatedWorld

IntArray = npt.NDArray[np.int64]

LAYERS = (1, 2, 4)
FAST = Resampling(n_resamples=100, n_permutations=50)


def sample(seed: int, n_items: int = 12, *, n_experts: int = 8, boost: float = 0.0) -> tuple[IntArray, IntArray]:
    """Selections [items, 3 layers, experts] and tokens of one group; ``boost`` moves choices to expert 5 of layer 2."""
    generator = np.random.default_rng(seed)
    tokens = generator.integers(5, 60, size=n_items)
    odds = np.tile(np.arange(n_experts, 0, -1.0), (3, 1))
    odds[1, 5] += boost
    odds /= odds.sum(axis=-1, keepdims=True)
    drawn = [[generator.multinomial(2 * n, odds[layer]) for layer in range(3)] for n in tokens]
    return np.array(drawn), tokens


def pair(
    first: int, second: int, *, parallel: bool, sizes: tuple[int, int] = (12, 12), boost: float = 0.0
) -> ItemGroups:
    """Two groups of items."""
    one, other = sample(first, sizes[0], boost=boost), sample(second, sizes[1])
    return ItemGroups((one[0], other[0]), (one[1], other[1]), LAYERS, parallel)


def naive(groups: ItemGroups) -> dict[tuple[int, int], float]:
    """The risk difference with loops: (layer, expert) -> a1/(a1+d1) - a2/(a2+d2)."""
    found = {}
    for place, layer in enumerate(groups.decoder_layers):
        for expert in range(groups.selections[0].shape[-1]):
            shares = []
            for selections, tokens in zip(groups.selections, groups.tokens, strict=True):
                chosen = sum(int(item[place][expert]) for item in selections)
                others = sum(int(number) for number in tokens) - chosen
                shares.append(chosen / (chosen + others))
            found[layer, expert] = shares[0] - shares[1]
    return found


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize(("threshold", "sign"), [(0.0, "both"), (0.03, "both"), (0.03, "positive"), (0.03, "negative")])
def test_statistics_equal_loops(parallel: bool, threshold: float, sign: Any):  # noqa: FBT001 - parametrised
    """Token-pooled, signed, and chosen by size on the wanted side."""
    groups = pair(0, 1, parallel=parallel, boost=8)
    table = find_in_groups(groups, rule=ContrastRule(threshold, sign=sign), resampling=FAST)
    sized = {"both": abs, "positive": lambda value: value, "negative": lambda value: -value}[sign]
    expected = {key: value for key, value in naive(groups).items() if sized(value) > threshold}
    assert {(row.layer, row.expert): row.statistic for row in table.experts} == pytest.approx(expected)
    assert expected


def test_the_difference_is_pooled_over_tokens_not_over_items():
    """One long item outweighs one short one."""
    selections = np.array([[[9, 1]], [[0, 1]]]), np.array([[[5, 5]], [[1, 0]]])
    groups = ItemGroups(selections, (np.array([10, 1]), np.array([10, 1])), (0,), parallel=True)
    statistics = [row.statistic for row in find_in_groups(groups, rule=ContrastRule(), resampling=FAST).experts]
    assert statistics == pytest.approx([9 / 11 - 6 / 11, 2 / 11 - 5 / 11])


@pytest.mark.parametrize("top", [1, 3, 7])
def test_top_keeps_the_largest_absolute_differences(top: int):
    """Over all layers, both signs; a larger threshold still holds."""
    groups = pair(0, 1, parallel=False, boost=8)
    ranked = sorted(naive(groups).items(), key=lambda entry: -abs(entry[1]))
    table = find_in_groups(groups, rule=ContrastRule(top=top), resampling=FAST)
    assert {(row.layer, row.expert) for row in table.experts} == {key for key, _ in ranked[:top]}
    assert [(row.layer, row.expert) for row in table.experts] == sorted(
        (row.layer, row.expert) for row in table.experts
    )
    cut = abs(ranked[0][1]) * 0.999
    assert find_in_groups(groups, rule=ContrastRule(cut, top=top), resampling=FAST).n == 1


@settings(max_examples=15)
@given(st.permutations(range(8)), st.sampled_from([0.0, 0.02]), st.booleans())
def test_relabelling_experts_permutes_the_table(order: list[int], threshold: float, parallel: bool):  # noqa: FBT001 - drawn
    """Expert ids are names: statistics, intervals and chance count go with them."""
    groups, rule = pair(0, 1, parallel=parallel, boost=8), ContrastRule(threshold)
    renamed = replace(groups, selections=tuple(array[:, :, order] for array in groups.selections))
    table = find_in_groups(groups, rule=rule, resampling=FAST)
    other = find_in_groups(renamed, rule=rule, resampling=FAST)
    expected = {(row.layer, row.expert): (row.statistic, row.low, row.high) for row in table.experts}
    assert {(row.layer, order[row.expert]): (row.statistic, row.low, row.high) for row in other.experts} == expected
    assert table.expected_by_chance == other.expected_by_chance


def every_labelling(groups: ItemGroups) -> list[ItemGroups]:
    """All ways to swap the labels of parallel items, or to deal items to groups of the same sizes."""
    stacked, tokens = np.concatenate(groups.selections), np.concatenate(groups.tokens)
    n, total = len(groups.selections[0]), len(stacked)
    if groups.parallel:
        firsts = [[i + n * swap for i, swap in enumerate(swaps)] for swaps in itertools.product((0, 1), repeat=n)]
        seconds = [[(i + n) % total for i in first] for first in firsts]
    else:
        firsts = [list(first) for first in itertools.combinations(range(total), n)]
        seconds = [[i for i in range(total) if i not in first] for first in firsts]
    return [
        ItemGroups((stacked[one], stacked[two]), (tokens[one], tokens[two]), LAYERS, groups.parallel)
        for one, two in zip(firsts, seconds, strict=True)
    ]


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize("rule", [ContrastRule(0.05), ContrastRule(top=4), ContrastRule(0.05, sign="negative")])
def test_chance_count_equals_every_permutation(parallel: bool, rule: ContrastRule):  # noqa: FBT001 - parametrised
    """The mean over all labellings of a tiny case; under a top, of those that reach the weakest expert kept."""
    groups = pair(0, 1, parallel=parallel, sizes=(4, 4), boost=4)
    table = find_in_groups(groups, rule=rule, resampling=Resampling(10, n_permutations=4000))
    weakest = min(abs(row.statistic) for row in table.experts) if rule.top else 0.0
    found = []
    for labelled in every_labelling(groups):
        values = np.array(list(naive(labelled).values()))
        sized = -values if rule.sign == "negative" else np.abs(values)
        found.append(int(((sized > rule.threshold) & (sized >= weakest - 1e-12)).sum()))
    assert table.expected_by_chance == pytest.approx(np.mean(found), abs=5 * np.std(found) / np.sqrt(4000))
    assert 0 < np.mean(found) < 23


@pytest.mark.parametrize("parallel", [True, False])
def test_intervals_equal_resampling_by_hand(parallel: bool):  # noqa: FBT001 - parametrised
    """Selections and tokens are both resampled: the ratio of two sums over drawn items."""
    groups = pair(0, 1, parallel=parallel, sizes=(9, 9), boost=8)
    table = find_in_groups(groups, rule=ContrastRule(top=5), resampling=FAST)
    seeds = 0, 0 if parallel else 1
    drawn = [np.random.default_rng(seed).multinomial(9, np.full(9, 1 / 9), size=100) for seed in seeds]
    shares = []
    for counts, selections, tokens in zip(drawn, groups.selections, groups.tokens, strict=True):
        items = [np.repeat(np.arange(9), row) for row in counts]
        shares.append(np.array([selections[chosen].sum(axis=0) / tokens[chosen].sum() for chosen in items]))
    for row in table.experts:
        place = LAYERS.index(row.layer), row.expert
        low, high = np.quantile((shares[0] - shares[1])[:, *place], [0.025, 0.975])
        assert (row.low, row.high) == pytest.approx((low, high))


@pytest.mark.parametrize("parallel", [True, False])
def test_intervals_cover_a_known_difference(parallel: bool):  # noqa: FBT001 - parametrised
    """The 90 % interval covers the planted difference in about 90 % of data sets, items being of unequal length."""
    odds = np.arange(8, 0, -1.0)
    boosted = odds + 8 * (np.arange(8) == 5)
    truth = 2 * (boosted[5] / boosted.sum() - odds[5] / odds.sum())
    covered = 0
    for seed in range(200):
        groups = pair(2 * seed, 2 * seed + 1, parallel=parallel, sizes=(30, 30), boost=8).within((2, 2))
        resampling = Resampling(200, 1, level=0.9, seed=seed)
        (row,) = find_in_groups(groups, rule=ContrastRule(top=1), resampling=resampling).experts
        assert row.expert == 5
        covered += row.low <= truth <= row.high
    assert 0.82 < covered / 200 < 0.96


@pytest.fixture(scope="module")
def world() -> SimulatedWorld:
    """Expert 3 of layer 4 is Swahili's, expert 9 of layer 5 a task's, expert 2 of layer 6 is avoided by the task."""
    planted = (
        PlantedExpert(4, 3, ("swh_Latn",), rate=0.7, elsewhere=0.05),
        PlantedExpert(5, 9, rate=0.05, elsewhere=0.05, task=0.6),
        PlantedExpert(6, 2, elsewhere=0.6, task=0.05),
    )
    return SimulatedWorld(n_items=40, planted=planted, topic=0.3)


@pytest.fixture(scope="module")
def run(world: SimulatedWorld, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Generic text in four languages."""
    return simulate_run(world, tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def task(world: SimulatedWorld, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Task text in the pivot."""
    return simulate_task_run(world, tmp_path_factory.mktemp("runs") / "task")


def test_planted_experts_are_recovered_in_languages_and_corpora(run: Run, task: Run):
    """With their sign and about their difference, and nearly none by chance."""
    language = language_experts(run, "swh_Latn", pivot="eng_Latn", rule=ContrastRule(0.5), resampling=FAST)
    (row,) = language.experts
    assert (row.layer, row.expert) == (4, 3)
    assert row.low < 0.65 < row.high
    assert language.expected_by_chance == 0
    assert language.parameters.items() >= {"language": "swh_Latn", "pivot": "eng_Latn", "paired": True}.items()
    corpora = task_experts(task, run, language="eng_Latn", rule=ContrastRule(top=2), resampling=FAST)
    assert [(row.layer, row.expert, row.statistic > 0) for row in corpora.experts] == [(5, 9, True), (6, 2, False)]
    assert corpora.expected_by_chance == 0
    assert corpora.parameters.items() >= {"corpus": "simulated task", "base": "simulated", "paired": False}.items()


def test_pooled_counts_give_statistics_without_intervals(shared_data: Any, tmp_path: Any):
    """Published counts: the signed differences, no interval, no chance count; the delta rule refuses."""
    counts = import_counts_json(shared_data / "routing" / "conctsai_qwen3-30b-a3b_mgsm", tmp_path / "run")
    table = query_experts(counts, ExpertQuery("contrast", top=10, languages=("sw",)))
    assert table.n == 10
    assert table.expected_by_chance is None
    assert all(np.isnan([row.low, row.high]).all() for row in table.experts)
    with pytest.raises(RunError, match=r"delta rule .* needs one record per item"):
        query_experts(counts, ExpertQuery("delta", 0.3, languages=("sw",)))


@pytest.mark.parametrize(
    ("query", "with_base", "message"),
    [
        (ExpertQuery("contrast"), True, "needs --threshold, --top, or both"),
        (ExpertQuery("delta"), True, "needs --threshold"),
        (ExpertQuery("delta", 0.3), False, "compares with --base RUN, or one language"),
        (ExpertQuery("delta", 0.3, top=3), True, "takes no --top"),
        (ExpertQuery("delta", 0.3, alpha=1), True, "takes no --alpha"),
        (ExpertQuery("delta", 30, languages=("sw",)), False, "threshold is 30"),
        (ExpertQuery("contrast", 2.0), True, "threshold is 2.0"),
        (ExpertQuery("contrast", top=0), True, "top is 0"),
        (ExpertQuery("contrast", 0.1, kind="common"), True, "takes no --kind"),
        (ExpertQuery("contrast", 0.1, target=("sw",)), True, "takes no --target"),
        (ExpertQuery("contrast", 0.1), False, "two languages"),
        (ExpertQuery("contrast", 0.1, languages=("sw", "de", "te")), False, "two languages"),
        (ExpertQuery("contrast", 0.1, languages=("sw", "de")), True, "in one language; found swh_Latn, deu_Latn"),
        (ExpertQuery("contrast", 0.1, languages=("en",)), False, "both are eng_Latn"),
        (ExpertQuery("contrast", 0.1, languages=("fr",)), False, "fra_Latn not in this run"),
        (ExpertQuery("contrast", 0.1, layers=(50, 60)), True, "no routed layer lies in 50-60"),
        (ExpertQuery("share", 0.7, top=4), True, "takes no --base"),
        (ExpertQuery("share", 0.7), False, "share rule needs --top"),
        (ExpertQuery("share", top=4), False, "share rule needs --threshold"),
        (ExpertQuery("share", 0.7, top=4, kind="overlap"), False, "share rule has no kind overlap"),
        (ExpertQuery("share", 0.7, top=4, sign="both"), False, "takes no --sign"),
        (ExpertQuery("share", -1, top=4), False, "threshold -1"),
        (ExpertQuery("specificity", 2.0), False, "only 'specific' takes a target, and needs one"),
        (ExpertQuery("specificity", 2.0, target=("sw", "de")), False, "one --target"),
        (ExpertQuery("specificity", 2.0, target=("sw",), alpha=-1), False, "alpha is -1"),
        (ExpertQuery("specificity", target=("sw",)), False, "needs --threshold, --top, or both"),
        (ExpertQuery("specificity", 2.0, target=("sw",), kind="common"), False, "has no kind common"),
    ],
)
def test_queries_that_do_not_fit_are_refused(run: Run, task: Run, query: ExpertQuery, *, with_base: bool, message: str):
    """Each wrong combination is one readable error, none a traceback."""
    with pytest.raises(IsoglossError, match=message):
        query_experts(task if with_base else run, query, base=run if with_base else None)


def test_other_routers_cannot_be_contrasted(run: Run, world: SimulatedWorld, tmp_path: Any):
    """Counts of different models do not meet."""
    other = simulate_task_run(replace(world, n_experts=12, planted=()), tmp_path / "other")
    with pytest.raises(RunError, match=r"different models.* routers \("):
        task_experts(other, run, language="eng_Latn", rule=ContrastRule(0.1))


@pytest.fixture
def model(task: Run) -> Run:
    """The task's Run as if a model had been captured."""
    fingerprint = Fingerprint(
        model_type="simulated", layers=tuple(range(12)), n_experts=16, top_k=2, router_sha256="0" * 64
    )
    return Run(task.path, replace(task.manifest, fingerprint=fingerprint))


def test_plans_of_both_signs_promote_and_suppress(run: Run, task: Run, model: Run):
    """Soft and offset push both ways; force suppresses the negative ones; one sign does one thing."""
    table = query_experts(task, ExpertQuery("contrast", top=2), base=run)
    soft = table.of(model).plan("soft", strength=0.5)
    assert {(each.layer, each.experts, each.strength) for each in soft.interventions} == {
        (5, (9,), 0.5),
        (6, (2,), -0.5),
    }
    offset = table.of(model).plan("offset", strength=2.0)
    assert {(each.layer, each.values) for each in offset.interventions} == {(5, (2.0,)), (6, (-2.0,))}
    force = table.of(model).plan("force")
    assert {(each.layer, each.kind) for each in force.interventions} == {(5, "force"), (6, "suppress")}
    with pytest.raises(PlanError, match="choose --sign positive or --sign negative"):
        table.of(model).plan("ban")
    negative = query_experts(task, ExpertQuery("contrast", 0.4, sign="negative"), base=run)
    ban = negative.of(model).plan("ban")
    assert [(each.layer, each.experts, each.kind) for each in ban.interventions] == [(6, (2,), "ban")]


def test_shapes_that_do_not_fit_are_refused():
    """Three groups, unequal parallel items, and items without tokens."""
    one, other = sample(0), sample(1)
    with pytest.raises(ValueError, match="contrast rule compares 2"):
        find_in_groups(ItemGroups((one[0],) * 3, (one[1],) * 3, LAYERS, parallel=True), rule=ContrastRule())
    with pytest.raises(ValueError, match="12 against 11"):
        ItemGroups((one[0], other[0][:11]), (one[1], other[1][:11]), LAYERS, parallel=True)
    with pytest.raises(ValueError, match="do not fit"):
        ItemGroups((one[0], other[0]), (one[1], other[1][:11]), LAYERS, parallel=False)
    with pytest.raises(RunError, match="no counted tokens"):
        ItemGroups((one[0],), (one[1] * 0,), LAYERS, parallel=False)
    with pytest.raises(LanguageError, match="both are deu_Latn"):
        language_experts(None, "deu_Latn", pivot="deu_Latn", rule=ContrastRule())  # type: ignore[arg-type]
