"""Simulated routing: it keeps the laws of a Run, and what is said to be known about it is true."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import binom
from written import contents

from isogloss.analysis import (
    DeltaRule,
    ShareRule,
    analyze_curves,
    divergence,
    find_in_groups,
    task_experts,
)
from isogloss.analysis.groups import ItemGroups
from isogloss.errors import LanguageError, RunError
from isogloss.languages import FLORES_200
from isogloss.routing import RouterSpec, consistency, entropy, profile, route, selections
from isogloss.runs import open_run
from isogloss.statistics import Resampling
from known_answers.simulation import (
    _language_logits,
    _token_odds,
    draw_routing,
    simulate_run,
    simulate_task_run,
    truth,
)
from known_answers.worlds import PlantedExpert, SimulatedLanguage, SimulatedWorld

PLANTED = (
    PlantedExpert(0, 3, ("swh_Latn",), 0.6, 0.1),
    PlantedExpert(5, 1, ("deu_Latn", "eng_Latn", "swh_Latn", "tel_Telu"), 0.7),
    PlantedExpert(5, 2, elsewhere=0.1, task=0.5),
)
WORLD = SimulatedWorld(planted=PLANTED, n_items=40)
SMALL = SimulatedWorld(n_items=6, n_layers=3, middle=(1, 1), tokens=5.0, planted=PLANTED[:1])


@st.composite
def worlds(draw: st.DrawFn) -> SimulatedWorld:
    """Small worlds of many shapes, some with planted experts."""
    n_layers, n_experts = draw(st.integers(1, 4)), draw(st.integers(2, 9))
    top_k = draw(st.integers(1, n_experts - 1))
    first = draw(st.integers(0, n_layers - 1))
    codes = draw(st.lists(st.sampled_from(sorted(FLORES_200)), min_size=1, max_size=3, unique=True))
    rates = st.floats(0, 1)
    planted = PlantedExpert(first, draw(st.integers(0, n_experts - 1)), (codes[0],), draw(rates), draw(rates))
    return SimulatedWorld(
        languages=tuple(SimulatedLanguage(code, fertility=draw(st.floats(0.1, 3))) for code in codes),
        n_items=draw(st.integers(1, 5)),
        n_layers=n_layers,
        n_experts=n_experts,
        top_k=top_k,
        tokens=draw(st.floats(2, 80)),
        middle=(first, draw(st.integers(first, n_layers - 1))),
        strength=draw(st.floats(0, 5)),
        topic=draw(st.floats(0, 3)),
        planted=draw(st.sampled_from([(), (planted,)])),
        seed=draw(st.integers(0, 2**31)),
    )


@settings(max_examples=40)
@given(worlds())
def test_every_world_keeps_the_laws_of_a_run(tmp_path_factory: pytest.TempPathFactory, world: SimulatedWorld):
    """The writer takes it; choices sum to top_k per token, entropy is the profile's, and pairs have a similarity."""
    run = simulate_run(world, tmp_path_factory.mktemp("world") / "run")
    assert set(run.languages) == set(world.codes)
    for code in world.codes:
        routing = run.load(code)
        assert (routing.selections.sum(axis=-1) == world.top_k * routing.tokens[:, None]).all()
        assert (routing.tokens >= 2).all()
        np.testing.assert_allclose(routing.entropy, entropy(routing.profiles.astype(np.float64)), atol=1e-5)
        assert np.isfinite(routing.consistency).all()
        assert routing.vocabulary_counts is not None
        assert routing.vocabulary_counts.sum() == routing.tokens.sum()


@pytest.mark.parametrize("task", [False, True])
def test_arrays_are_what_the_reference_router_makes_of_the_logits(task: bool):  # noqa: FBT001 - both kinds of text
    """Token by token, `isogloss.routing` gives the same choices, profiles and consistency."""
    world = replace(SMALL, planted=(PlantedExpert(1, 3, ("swh_Latn",), 0.5, task=0.9),), top_k=3)
    language = world.languages[2]
    routing = draw_routing(world, "sw", task=task)
    tokens, layers = _token_odds(world, language, corpus="simulated", draw=0, task=task)
    for layer, odds in enumerate(layers):
        logits, spec = np.log(odds), RouterSpec(layer, world.n_experts, world.top_k)
        for item, part in enumerate(np.split(logits, np.cumsum(tokens)[:-1])):
            chosen = route(part, spec).expert_ids
            np.testing.assert_array_equal(routing.selections[item, layer], selections(chosen, world.n_experts))
            np.testing.assert_allclose(routing.profiles[item, layer], profile(part), atol=1e-6)
            assert routing.consistency[item, layer] == pytest.approx(consistency(chosen, world.n_experts), abs=1e-6)


def test_consistency_of_long_items_is_of_their_first_64_tokens():
    """Long items cost no more than 64 tokens squared."""
    world = replace(SMALL, tokens=100.0)
    tokens, layers = _token_odds(world, world.languages[0], corpus="simulated", draw=0, task=False)
    assert tokens.max() > 64
    chosen = route(np.log(next(layers))[: min(64, tokens[0])], RouterSpec(0, world.n_experts, world.top_k)).expert_ids
    found = draw_routing(world, world.pivot).consistency[0, 0]
    assert found == pytest.approx(consistency(chosen, world.n_experts), abs=1e-6)


def test_equal_arguments_give_equal_bytes_and_others_do_not(tmp_path: Path):
    """Seed, draw and corpus each change the data; nothing else does."""
    first = contents(simulate_run(SMALL, tmp_path / "a").path)
    assert contents(simulate_run(SMALL, tmp_path / "b").path) == first
    others = {
        "seed": simulate_run(replace(SMALL, seed=1), tmp_path / "c"),
        "draw": simulate_run(SMALL, tmp_path / "d", draw=1),
        "corpus": simulate_run(SMALL, tmp_path / "e", corpus="other texts"),
    }
    for name, run in others.items():
        for language in run.languages:
            assert contents(run.path)[f"{language}.safetensors"] != first[f"{language}.safetensors"], name


def test_another_draw_or_corpus_has_other_items():
    """Their lengths differ too, in every language alike: not only the tokens are drawn anew."""
    world = replace(SMALL, tokens=300.0, languages=SMALL.languages[:1], planted=())
    first = draw_routing(world, "eng_Latn").tokens
    assert (draw_routing(world, "eng_Latn", draw=1).tokens != first).any()
    assert (draw_routing(world, "eng_Latn", corpus="other texts").tokens != first).any()


def test_a_killed_simulation_continues_and_another_draw_is_refused(tmp_path: Path):
    """The folder of a Run that lacks a language is completed; one of other items is not mixed in."""
    whole = contents(simulate_run(SMALL, tmp_path / "run").path)
    (tmp_path / "run" / "swh_Latn.safetensors").unlink()
    assert contents(simulate_run(SMALL, tmp_path / "run").path) == whole
    with pytest.raises(RunError, match="item_ids"):
        simulate_run(SMALL, tmp_path / "run", draw=1)


def test_a_language_does_not_depend_on_the_others():
    """Drawn in a world of two languages, it is what it is in a world of four."""
    fewer = replace(SMALL, languages=(SMALL.languages[0], SMALL.languages[2]), planted=())
    alone, together = (draw_routing(world, "swh_Latn") for world in (fewer, replace(SMALL, planted=())))
    np.testing.assert_array_equal(alone.selections, together.selections)
    np.testing.assert_array_equal(alone.tokens, together.tokens)


def test_planted_experts_have_their_rate():
    """In every language, and in task text, the share of tokens lies where a binomial draw puts it (no item spread)."""
    world = replace(WORLD, spread=0.0, n_items=200)
    for task in (False, True):
        for code in world.codes:
            routing = draw_routing(world, code, task=task)
            total = int(routing.tokens.sum())
            for expert in world.planted:
                chosen = routing.selections[:, expert.layer, expert.expert].sum()
                low, high = binom.interval(0.9999, total, expert.rate_in(code, task=task))
                assert low <= chosen <= high


def test_rates_of_a_planted_expert_vary_over_items_together():
    """Items differ more than a binomial draw does, and an item above the mean is so in every language."""
    world = replace(WORLD, spread=1.0, n_items=300, tokens=100.0)
    rates = {}
    for code in ("eng_Latn", "tel_Telu"):
        routing = draw_routing(world, code)
        rates[code] = routing.selections[:, 5, 1] / routing.tokens
        assert rates[code].std() == pytest.approx(0.3 / np.sqrt(3), rel=0.25)  # uniform from 0.4 to 1
    assert np.corrcoef(*rates.values())[0, 1] > 0.8


def test_a_rate_of_one_takes_every_token_and_a_rate_of_zero_none():
    """The ends are exact, also where a layer has as many planted experts as a token chooses."""
    planted = (PlantedExpert(0, 1, ("swh_Latn",), 1.0, 0.0), PlantedExpert(0, 2, ("swh_Latn",), 1.0, 0.0))
    world = replace(SMALL, planted=planted)
    taken, left = draw_routing(world, "swh_Latn"), draw_routing(world, "eng_Latn")
    np.testing.assert_array_equal(taken.selections[:, 0, 1:3], np.repeat(taken.tokens[:, None], 2, axis=1))
    assert not left.selections[:, 0, 1:3].any()


def test_with_one_expert_per_token_rates_are_the_softmax():
    """Without topics, the share of each expert is the softmax of base and voice, and so consistency is Σ p²."""
    world = replace(SMALL, top_k=1, topic=0.0, planted=(), tokens=40.0)
    true = truth(world, n_items=2000)
    for language in world.languages:
        expected = softmax(_language_logits(world, language), axis=1)
        error = np.sqrt(expected * (1 - expected) / (2000 * 0.9 * 40 * language.fertility))
        assert (abs(true.rates[language.code] - expected) < 6 * error).all()
        np.testing.assert_allclose(true.consistency[language.code], (expected**2).sum(axis=1), rtol=0.05)


def test_means_over_items_converge_to_the_truth():
    """Divergence of other items lies within the standard errors of both; rates of planted experts are exact."""
    true, many = truth(WORLD, n_items=500), replace(WORLD, n_items=750)
    assert true.n_items == 500
    drawn = {code: draw_routing(many, code) for code in many.codes}
    for code, curve in true.divergence.items():
        apart = divergence(drawn["eng_Latn"].profiles, drawn[code].profiles)
        error = np.sqrt(apart.var(axis=0) / len(apart) + true.divergence_error[code] ** 2)
        assert (abs(apart.mean(axis=0) - curve) < 4.5 * error).all()
        assert true.divergence_error[code] == pytest.approx(apart.std(axis=0) / np.sqrt(500), rel=0.2)
    for code, routing in drawn.items():
        for name in ("entropy", "consistency"):
            values = getattr(routing, name)
            error = values.std(axis=0) * np.sqrt(1 / 500 + 1 / 750)
            assert (abs(values.mean(axis=0) - getattr(true, name)[code]) < 4.5 * error).all()
        for expert in PLANTED:
            assert true.rates[code][expert.layer, expert.expert] == expert.rate_in(code)


def test_the_truth_is_drawn_apart_from_runs():
    """Its items are not those of a Run: else a Run would be held against itself."""
    true, run = truth(SMALL, n_items=1), draw_routing(replace(SMALL, n_items=250), "eng_Latn")
    assert true.n_items == 250
    assert (abs(true.entropy["eng_Latn"] - run.entropy.mean(axis=0, dtype=np.float64)) > 1e-5).all()


def test_the_middle_is_where_it_was_planted():
    """Every outer layer is further from the pivot than every middle one; within each, layers are alike up to noise."""
    world = replace(WORLD, planted=(), middle=(4, 9))
    true = truth(world, n_items=750)
    assert true.middle == (4, 9)
    inside = np.zeros(12, dtype=bool)
    inside[4:10] = True
    for code, curve in true.divergence.items():
        assert curve[~inside].min() > curve[inside].max() + 0.02
        for part in (inside, ~inside):
            assert np.ptp(curve[part]) < 7 * true.divergence_error[code].max()
    mean = np.mean(list(true.divergence.values()), axis=0)
    assert true.depth == pytest.approx(mean[~inside].mean() - mean[inside].mean())


def test_layers_differ_by_the_numbering_of_experts_alone():
    """So that a curve over layers is flat but for the strength, and layers are no copies of each other."""
    logits = _language_logits(SimulatedWorld(strength=0.5, middle_strength=0.5), SimulatedLanguage("swh_Latn"))
    np.testing.assert_allclose(np.sort(logits, axis=1), np.tile(np.sort(logits[0]), (12, 1)))
    assert len({tuple(row) for row in logits}) == 12


def test_a_world_without_strength_is_flat():
    """Then outer layers are like the middle."""
    true = truth(replace(WORLD, planted=(), strength=0.0), n_items=500)
    assert abs(true.depth) < 4 * max(error.max() for error in true.divergence_error.values())


def test_pairing_matters(tmp_path: Path):
    """Translations are closer than other items, as languages share an item's topic; without topics they are not."""
    few = Resampling(n_resamples=100, n_permutations=1)
    for topic, least, most in ((1.0, 0.05, 1.0), (0.0, -0.02, 0.02)):
        world = replace(SimulatedWorld(topic=topic), n_items=60)
        found = analyze_curves(simulate_run(world, tmp_path / str(topic)), resampling=few)
        gaps = [
            shuffled.value - paired.value
            for code, curve in found.divergence.items()
            for shuffled, paired in zip(found.shuffled[code][3:9], curve[3:9], strict=True)
        ]
        assert least < np.mean(gaps) < most


def test_languages_at_no_distance_are_routed_as_the_pivot_is():
    """Distance scales the voice; a family with full kinship has one voice."""
    twins = (SimulatedLanguage("deu_Latn", family="f"), SimulatedLanguage("nld_Latn", family="f"))
    near = SimulatedLanguage("fra_Latn", distance=0.0)
    world = SimulatedWorld(languages=(SimulatedLanguage("eng_Latn", 0.0), near, *twins), kinship=1.0)
    pivot, same, one, other = (_language_logits(world, language) for language in world.languages)
    np.testing.assert_array_equal(pivot, same)
    np.testing.assert_allclose(one, other)
    outer, inner = abs(one - pivot)[0], abs(one - pivot)[5]
    assert outer.max() > 0.5
    assert not inner.any()
    loose = replace(world, kinship=0.0)
    assert abs(_language_logits(loose, twins[0]) - _language_logits(loose, twins[1]))[0].max() > 0.5


def test_the_vocabulary_overlaps_as_said():
    """About ``shared_tokens`` of another language's tokens have ids of the pivot's range; of the pivot's own, all."""
    world = replace(WORLD, shared_tokens=0.3, n_items=100)
    for code, expected in (("eng_Latn", 1.0), ("swh_Latn", 0.3)):
        routing = draw_routing(world, code)
        assert routing.vocabulary is not None
        assert routing.vocabulary_counts is not None
        shared = routing.vocabulary_counts[routing.vocabulary < 4000].sum() / routing.tokens.sum()
        assert shared == pytest.approx(expected, abs=0.04)


def test_fertile_languages_have_longer_items():
    """Tokens per item follow the fertility, for the same item in the same proportion."""
    world = replace(WORLD, tokens=200.0)
    lengths = {code: draw_routing(world, code).tokens for code in ("eng_Latn", "tel_Telu")}
    np.testing.assert_allclose(lengths["tel_Telu"] / lengths["eng_Latn"], 2.0, atol=0.02)
    assert lengths["eng_Latn"].max() > 1.5 * lengths["eng_Latn"].min()


def test_rules_on_population_rates_find_what_was_planted():
    """Delta and share applied to the truth give the planted experts of the outer and the middle layers."""
    true = truth(replace(WORLD, strength=0.3), n_items=500)
    rates = true.rates["swh_Latn"][None], true.rates["eng_Latn"][None]
    layers = tuple(range(12))
    table = find_in_groups(ItemGroups(rates, (np.ones(1),) * 2, layers, parallel=False), DeltaRule(0.3))
    assert {(row.layer, row.expert) for row in table.experts} == WORLD.exclusive_experts("swh_Latn") == {(0, 3)}
    counts = np.rint(np.stack([true.rates[code] for code in WORLD.codes])[:, None] * 10**6).astype(np.int64)
    rule = ShareRule("common", WORLD.codes, top=1, threshold=0.5)
    tokens = np.full((4, 1), 10**6)
    common = find_in_groups(ItemGroups(tuple(counts), tuple(tokens), layers, parallel=True), rule)
    assert {(5, 1)} == WORLD.common_experts()
    assert {(5, 1)} <= {(row.layer, row.expert) for row in common.experts}
    np.testing.assert_allclose(true.difference("swh_Latn", "eng_Latn")[0, 3], 0.5)


def test_task_text_raises_its_experts(tmp_path: Path):
    """A task Run holds the pivot alone, and the delta rule on it finds what was planted for the task."""
    run, task = simulate_run(WORLD, tmp_path / "run"), simulate_task_run(WORLD, tmp_path / "task")
    assert task.languages == ("eng_Latn",)
    assert open_run(tmp_path / "task").manifest.corpus["name"] == "simulated task"
    table = task_experts(task, run, language="eng_Latn", rule=DeltaRule(0.2))
    assert {(row.layer, row.expert) for row in table.experts} == WORLD.task_experts() == {(5, 2)}


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"languages": ()}, "at least one"),
    ({"languages": (SimulatedLanguage("en"), SimulatedLanguage("eng_Latn"))}, "none twice"),
    ({"n_experts": 2}, "more experts than top_k"),
    ({"n_items": 0}, "counts from 1"),
    ({"tokens": 1.0}, "tokens from 2"),
    ({"middle": (3, 12)}, "middle"),
    ({"middle": (5, 4)}, "middle"),
    ({"kinship": 1.5}, "kinship"),
    ({"planted": (PlantedExpert(12, 0),)}, "12 x 16"),
    ({"planted": (PlantedExpert(0, 16),)}, "12 x 16"),
    ({"planted": (PlantedExpert(0, 1), PlantedExpert(0, 1))}, "none twice"),
    ({"planted": tuple(PlantedExpert(0, expert) for expert in range(3))}, "at most 2"),
    ({"planted": (PlantedExpert(0, 1, ("fra_Latn",)),)}, "fra_Latn"),
]


@pytest.mark.parametrize(("fields", "message"), WRONG)
def test_worlds_that_contradict_themselves_are_refused(fields: dict[str, Any], message: str):
    """The message says what was found and expected."""
    with pytest.raises(ValueError, match=message):
        replace(SimulatedWorld(), **fields)


def test_parts_of_a_world_are_checked():
    """Rates lie between 0 and 1, fertility is positive, and a language is one."""
    with pytest.raises(ValueError, match="between 0 and 1"):
        PlantedExpert(0, 0, rate=1.2)
    with pytest.raises(ValueError, match="between 0 and 1"):
        PlantedExpert(0, 0, task=-0.1)
    with pytest.raises(ValueError, match="fertility"):
        SimulatedLanguage("eng_Latn", fertility=0.0)
    with pytest.raises(LanguageError):
        SimulatedLanguage("no language")
    with pytest.raises(LanguageError, match="fra_Latn"):
        draw_routing(SMALL, "fra_Latn")
