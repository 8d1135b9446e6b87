"""A model whose answers depend on one known expert: the whole chain must find it, and measure what it does."""

from __future__ import annotations

import pytest

from isogloss.analysis import ExpertQuery, query_experts
from isogloss.backends.open import load
from isogloss.evaluation import Item, Task
from isogloss.evaluation.run import run_evaluation
from isogloss.evaluation.tasks.parse import parse_number
from isogloss.steering import random_control
from isogloss.workflows.capture import capture_corpus
from known_answers.planted import LEXICON, PIVOT, planted_corpora, planted_problems
from known_answers.planted_model import PLANTED_EXPERT, PLANTED_LAYER, planted_model

OTHERS = [code for code in LEXICON if code != PIVOT]
CONTROLS = ("random-0", "random-1", "random-2")


def chain(folder, *, effective, controls):
    """Capture, find experts, plan, evaluate; the table of experts and the summary."""
    model = load(str(planted_model(folder / "model", effective=effective)), device="cpu")
    solved, generic = planted_corpora()
    run = capture_corpus(model, solved, folder / "sums")
    base = capture_corpus(model, generic, folder / "texts")
    table = query_experts(run, ExpertQuery("delta", 0.4), base=base)
    plan = table.plan("soft", strength=0.5)
    items = {code: [Item(*row) for row in rows] for code, rows in planted_problems().items()}
    arms = {"plan": plan} | {name: random_control(plan, seed=seed) for seed, name in enumerate(controls)}
    task = Task("planted", items, parse_number, max_new_tokens=2)
    return table, run_evaluation(model, task, arms, out=folder / "evaluation")


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Of the model that needs the expert."""
    return chain(tmp_path_factory.mktemp("planted"), effective=True, controls=CONTROLS)


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    """Of the model whose planted expert writes its answer where nothing reads it."""
    return chain(tmp_path_factory.mktemp("twin"), effective=False, controls=())


@pytest.mark.parametrize("which", ["planted", "twin"])
def test_the_difference_rule_finds_the_planted_expert_and_no_other(which, request):
    """Precision and recall are 1, whether or not the expert helps: a rule sees routing, not its use."""
    table, _ = request.getfixturevalue(which)
    assert [(row.layer, row.expert) for row in table.experts] == [(PLANTED_LAYER, PLANTED_EXPERT)]
    assert table.experts[0].low > 0.9
    assert table.expected_by_chance < 0.01


def test_the_plan_gains_in_every_language_but_english(planted):
    """Exact McNemar with Holm's adjustment is below 0.01, and the overall interval above 0."""
    _, summary = planted
    for code in OTHERS:
        compared = summary.per_language[code]
        assert 0.2 <= compared.baseline.value <= 0.4
        assert 0.6 <= compared.steered.value <= 0.95
        assert compared.p_adjusted < 0.01
        assert compared.difference.low > 0.1
    assert summary.overall.difference.low > 0


def test_english_does_not_fall(planted):
    """The pivot has the expert already; it is neither right nor wrong everywhere, so it could have fallen."""
    _, summary = planted
    english = summary.per_language[PIVOT]
    assert 0.6 < english.baseline.value < 0.95
    assert english.difference.value >= 0
    assert english.p_value > 0.05


@pytest.mark.parametrize("control", CONTROLS)
def test_random_experts_change_choices_but_not_answers(planted, control):
    """Their interval holds 0 in every language and overall, although tokens were routed otherwise."""
    _, summary = planted
    found = summary.controls[control]
    assert max(summary.changed_choices[control].values()) > 0.05
    assert found.overall.difference.low <= 0 <= found.overall.difference.high
    for compared in found.per_language.values():
        assert compared.difference.low <= 0 <= compared.difference.high
        assert compared.p_value > 0.05


def test_an_expert_without_effect_gains_nothing(twin):
    """The same expert is promoted and changes choices, but what it writes is not read: no gain is reported."""
    _, summary = twin
    assert max(summary.changed_choices["plan"].values()) > 0.05
    assert summary.overall.difference.low <= 0 <= summary.overall.difference.high
    for compared in summary.per_language.values():
        assert compared.p_value > 0.05
        assert 0 < compared.baseline.value < 0.5


def test_no_sum_is_captured_and_asked():
    """The experts are looked for on other sums than the plan is tested on, and ids agree between languages."""
    solved, _ = planted_corpora()
    asked = {code: [item for item, _, _ in rows] for code, rows in planted_problems().items()}
    assert not set(solved.item_ids) & set(asked[PIVOT])
    assert len(set(map(tuple, asked.values()))) == 1
    assert len(solved.item_ids) + len(asked[PIVOT]) == 100
