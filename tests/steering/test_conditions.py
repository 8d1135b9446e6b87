"""Conditions on phase and language: what is stored, what is checked together, and what applies to a request."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isogloss.errors import LanguageError, PlanError
from isogloss.routing import PHASES, Fingerprint
from isogloss.steering import (
    KINDS,
    Intervention,
    LayerEdit,
    Plan,
    apply_edit,
    compile_layer,
    random_control,
    read_plan,
    united,
    write_plan,
)
from isogloss.steering import conditional as with_conditions

MODEL = Fingerprint("qwen3_moe", (2, 3, 5), n_experts=8, top_k=3, router_sha256="ab12")
CODES = ("deu_Latn", "swh_Latn", "zho_Hans")


def a_plan(*interventions: Intervention, **provenance: object) -> Plan:
    """Make a plan for MODEL."""
    return Plan(MODEL, interventions, dict(provenance))


def force(*experts: int, **conditions: Any) -> Intervention:
    """Force experts of layer 2."""
    return Intervention("force", 2, experts, **conditions)


def same(first: LayerEdit, second: LayerEdit) -> bool:
    """Whether two edits hold the same arrays."""
    return first.arrays.keys() == second.arrays.keys() and all(
        np.array_equal(array, second.arrays[name]) for name, array in first.arrays.items()
    )


@st.composite
def conditional(draw: st.DrawFn) -> Plan:
    """Draw legal plans with conditions; kinds that could clash have experts of their own."""
    interventions: list[Intervention] = []
    for layer in draw(st.lists(st.sampled_from(MODEL.layers), unique=True, min_size=1)):
        order = draw(st.permutations(range(8)))
        for kind, expert in zip(draw(st.lists(st.sampled_from(KINDS), unique=True)), order, strict=False):
            strength = 0.5 if kind in ("soft", "adaptive") else None
            values = (1.5,) if kind in ("adaptive", "offset", "select") else None
            phase: Any = draw(st.sampled_from((*PHASES, "both")))
            languages = draw(st.none() | st.lists(st.sampled_from(CODES), unique=True, min_size=1).map(tuple))
            interventions.append(Intervention(kind, layer, (expert,), strength, values, phase, languages))
    return a_plan(*interventions)


# What is stored


@given(conditional())
def test_a_file_round_trip_is_the_identity(scratch: Path, plan: Plan):
    """Conditions survive the file, hash included."""
    write_plan(plan, scratch / "plan.json")
    again = read_plan(scratch / "plan.json")
    assert (again, again.sha256) == (plan, plan.sha256)
    assert json.loads((scratch / "plan.json").read_text(encoding="utf-8")) == plan.to_json()


def test_conditions_that_always_hold_are_not_written():
    """Plans without conditions have the JSON and the hash that they had before there were any."""
    plan = a_plan(
        Intervention("soft", 2, (1, 7), strength=0.5, phase="both", languages=None), force(6, 0), rule="delta"
    )
    assert plan.sha256 == "5f7b2bb78fc6975715eac12cde6c3c66d66cec65348cb4f03322de849ab747e4"
    assert not any({"phase", "languages"} & entry.keys() for entry in plan.to_json()["interventions"])


def test_conditions_are_on_the_first_line_of_an_intervention(tmp_path: Path):
    """A diff shows kind, place and conditions together."""
    write_plan(a_plan(force(6, 0, phase="generation", languages=("sw", "de"))), tmp_path / "plan.json")
    expected = (
        '    {"kind": "force", "layer": 2, "phase": "generation", "languages": ["deu_Latn", "swh_Latn"],\n'
        '     "experts": [6, 0]}\n'
    )
    assert expected in (tmp_path / "plan.json").read_text(encoding="utf-8")


def test_languages_are_stored_as_full_codes():
    """Any spelling gives the same intervention, and the order of the codes does not count."""
    assert force(0, languages=("zh", "deu")) == force(0, languages=["de", "zho_Hans"])
    assert force(0, languages=("zh",)).languages == ("zho_Hans",)


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({"phase": "prefill"}, "has phase 'prefill'; expected prompt, generation or both"),
        ({"phase": None}, "has phase None"),
        ({"languages": ()}, "has an empty list of languages"),
        ({"languages": "de"}, "is 'de'; expected a list"),
        ({"languages": ("de", "deu_Latn")}, r"names languages \['deu_Latn'\] more than once"),
        ({"languages": ("xx",)}, "languages of force in layer 2: "),
        ({"languages": (7,)}, "found 7; expected a code"),
    ],
)
def test_malformed_conditions_are_refused(conditions: dict[str, Any], message: str):
    """What is wrong is said at construction."""
    with pytest.raises(PlanError, match=message):
        force(0, **conditions)


def test_the_order_of_conditional_interventions_does_not_change_a_plan():
    """The same kind and experts under two conditions are sorted too."""
    edits = [Intervention("soft", 2, (1,), strength=0.5, languages=(code,)) for code in CODES]
    edits += [Intervention("soft", 3, (1,), strength=0.5, phase=phase) for phase in PHASES]
    assert a_plan(*edits).sha256 == a_plan(*reversed(edits)).sha256


# What is checked together


@pytest.mark.parametrize(
    ("interventions", "message"),
    [
        ([force(0, 1), force(2, 3, phase="prompt")], "layer 2 in prompt forces 4 experts; a token chooses 3"),
        ([force(0, 1), force(2, 3, phase="generation")], "layer 2 in generation forces 4 experts"),
        ([force(0, 1), force(2, 3, languages=("sw",))], "layer 2 for swh_Latn forces 4 experts"),
        (
            [force(0, 1, languages=("de", "sw")), force(2, 3, languages=("sw", "zh"), phase="prompt")],
            "layer 2 in prompt for swh_Latn forces 4 experts",
        ),
        (
            [force(0), Intervention("ban", 2, (0,), phase="generation", languages=("de",))],
            r"layer 2 in generation for deu_Latn has experts \[0\] under both force and ban",
        ),
        (
            [Intervention("ban", 2, (0, 1, 2)), Intervention("ban", 2, (3, 4, 5), languages=("de",))],
            "layer 2 for deu_Latn: ban leaves 2 experts",
        ),
        (
            [
                Intervention("soft", 2, (1,), strength=0.5),
                Intervention("soft", 2, (1,), strength=0.2, languages=("de",)),
            ],
            r"soft in layer 2 for deu_Latn has experts \[1\] in two interventions",
        ),
        ([Intervention("on", 2, (0, 1, 2, 3))], "layer 2 turns on 4 experts; a token chooses 3"),
        ([Intervention("on", 2, (0, 1)), force(2, 3)], "layer 2 forces or turns on 4 experts"),
        ([Intervention("on", 2, (0,)), Intervention("off", 2, (0,))], r"\[0\] under both on and off"),
        ([Intervention("on", 2, (0,)), Intervention("suppress", 2, (0,))], r"\[0\] under both on and suppress"),
        ([Intervention("on", 2, (0,)), Intervention("ban", 2, (0,))], r"\[0\] under both on and ban"),
        ([force(0), Intervention("off", 2, (0,))], r"\[0\] under both force and off"),
        ([Intervention("ban", 2, (8,), languages=("de",))], "ban in layer 2: expert 8 is out of range"),
    ],
)
def test_what_acts_together_must_be_possible(interventions: list[Intervention], message: str):
    """Every phase and language is checked, and the message names it where it matters."""
    with pytest.raises(PlanError, match=message):
        a_plan(*interventions)


def test_what_never_acts_together_may_contradict_itself():
    """Each language and phase has its own top_k forced experts, strengths and bans."""
    edits = [force(*experts, languages=(code,)) for code, experts in zip(CODES, ([0, 1], [2, 3], [0, 4]), strict=True)]
    edits += [force(5, phase=phase, languages=("de",)) for phase in PHASES]
    edits += [Intervention("ban", 2, (0, 1, 4, 6, 7), languages=("sw",))]
    assert len(a_plan(*edits).interventions) == 6


def test_the_same_expert_forced_and_on_counts_once():
    """Force acts after on: an expert under both is one choice."""
    assert a_plan(Intervention("on", 2, (0, 1)), force(0, 2)).layers == (2,)


# What applies


@given(conditional(), st.none() | st.sampled_from((*CODES, "fra_Latn")))
def test_a_request_gets_the_unconditional_interventions_and_its_languages(plan: Plan, language: str | None):
    """Exactly those, in order, and no condition on languages is left; phases are kept."""
    chosen = plan.for_request(language)
    expected = [each for each in plan.interventions if each.languages is None or language in each.languages]
    assert [(e.kind, e.layer, e.experts, e.phase) for e in chosen.interventions] == [
        (e.kind, e.layer, e.experts, e.phase) for e in expected
    ]
    assert chosen.languages == ()
    assert chosen.for_request("zh") == chosen


def test_the_choice_says_where_it_comes_from():
    """Its provenance names the language and the conditional plan; a plan without languages is itself."""
    plan = a_plan(force(0, languages=("sw",)), rule="delta")
    assert plan.for_request("sw").provenance == {
        "rule": "delta",
        "language": "swh_Latn",
        "conditional_plan_sha256": plan.sha256,
    }
    assert plan.for_request(None).interventions == plan.for_request("fr").interventions == ()
    plain = a_plan(force(0, phase="prompt"))
    assert plain.for_request("sw") is plain
    with pytest.raises(LanguageError):
        plain.for_request("xx")


def test_forced_experts_of_a_request_keep_their_order():
    """Unconditional and conditional force rank in the order in which the plan names them."""
    plan = a_plan(force(6, languages=("sw",)), force(1), force(3, languages=("sw",)))
    np.testing.assert_array_equal(compile_layer(plan.for_request("sw"), 2, 8).force_rank, [0, 2, 0, 3, 0, 0, 1, 0])


@given(conditional(), st.sampled_from(CODES))
def test_both_phases_are_one_intervention_for_each(plan: Plan, language: str):
    """Splitting every intervention for both phases into two changes no edit, and compiling picks those of a phase."""
    chosen = plan.for_request(language)
    halves = [replace(each, phase=phase) for each in chosen.interventions for phase in PHASES if each.acts_on(phase)]
    split = a_plan(*halves)
    for layer in MODEL.layers:
        for phase in PHASES:
            edit = compile_layer(chosen, layer, 8, phase=phase)
            assert same(edit, compile_layer(split, layer, 8, phase=phase))
            only = [replace(e, phase="both") for e in chosen.interventions if e.phase in (phase, "both")]
            assert same(edit, compile_layer(a_plan(*only), layer, 8))


def test_edits_that_do_not_apply_are_empty():
    """The layer of a plan for the generation has nothing to do in the prompt, and leaves logits bit-identical."""
    logits = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
    edit = compile_layer(a_plan(force(1, phase="generation")), 2, 8, phase="prompt")
    assert edit.is_empty
    np.testing.assert_array_equal(apply_edit(logits, edit), logits)


def test_conditions_that_are_not_chosen_are_refused():
    """Compiling neither drops nor applies a condition that the caller does not know of."""
    with pytest.raises(PlanError, match=r"for swh_Latn only; .*Plan.for_request"):
        compile_layer(a_plan(force(1, languages=("sw",))), 2, 8, phase="prompt")
    by_phase = a_plan(force(1, phase="generation"), Intervention("ban", 3, (0,)))
    with pytest.raises(PlanError, match="edits prompt and generation of layer 2 differently"):
        compile_layer(by_phase, 2, 8)
    assert compile_layer(by_phase, 3, 8).arrays.keys() == {"ban", "least_score"}
    assert by_phase.by_phase
    assert not a_plan(force(1, languages=("sw",))).by_phase
    assert a_plan(force(1, languages=("sw", "de")), force(2)).languages == ("deu_Latn", "swh_Latn")


@given(conditional(), st.integers(0, 99))
def test_a_random_control_keeps_the_conditions(plan: Plan, seed: int):
    """Every intervention of the control acts where its original does."""
    kept = [
        [(e.layer, e.kind, e.phase, e.languages) for e in p.interventions]
        for p in (plan, random_control(plan, seed=seed))
    ]
    assert sorted(kept[0], key=str) == sorted(kept[1], key=str)


def test_conditions_are_put_on_all_interventions():
    """What acts afterwards is the plan in its phase and languages, and nothing elsewhere."""
    plan = a_plan(force(1, 2), Intervention("ban", 3, (0,)), Intervention("ban", 3, (4,)))
    found = with_conditions(plan, phase="generation", languages=["sw", "deu_Latn"])
    assert (found.phases, found.languages, found.provenance) == (("generation",), CODES[:2], plan.provenance)
    assert found.for_request("zh").interventions == ()
    for layer in (2, 3):
        request = found.for_request("swh_Latn")
        assert same(compile_layer(request, layer, 8, phase="generation"), compile_layer(plan, layer, 8))
        assert compile_layer(request, layer, 8, phase="prompt").is_empty
    assert with_conditions(plan) == plan
    assert with_conditions(with_conditions(plan, phase="prompt"), languages=["de"]).by_phase


def test_conditions_of_the_same_sort_are_not_overwritten():
    """Unknown codes and phases are refused too."""
    with pytest.raises(PlanError, match=r"already restricted to languages swh_Latn"):
        with_conditions(a_plan(force(1, languages=("sw",))), languages=["de"])
    with pytest.raises(PlanError, match=r"already restricted to phase prompt"):
        with_conditions(a_plan(force(1, phase="prompt")), phase="generation")
    with pytest.raises(PlanError, match="'xx' is unknown"):
        with_conditions(a_plan(force(1)), languages=["xx"])
    with pytest.raises(PlanError, match="has phase 'later'"):
        with_conditions(a_plan(force(1)), phase="later")  # type: ignore[arg-type] - the law under test


def test_a_union_does_what_each_part_does_for_its_language():
    """Each request gets the rules of its language; the provenance names all parts, also of a union of unions."""
    parts = [with_conditions(a_plan(force(k), run=code), languages=[code]) for k, code in enumerate(CODES)]
    whole = united(united(parts[0], parts[1]), parts[2])
    for part, code in zip(parts, CODES, strict=True):
        assert whole.for_request(code).interventions == part.for_request(code).interventions
    assert whole.provenance["parts"] == [
        {"plan_sha256": part.sha256, "provenance": {"run": code}} for part, code in zip(parts, CODES, strict=True)
    ]


def test_a_union_that_contradicts_itself_is_refused():
    """Rules that act together must agree, and be for one model."""
    with pytest.raises(PlanError, match="under both force and ban"):
        united(a_plan(force(1, languages=("sw",))), a_plan(Intervention("ban", 2, (1,))))
    with pytest.raises(PlanError, match=r"has experts \[1\] in two interventions"):
        united(a_plan(force(1)), a_plan(force(1, languages=("de",))))
    other = Plan(replace(MODEL, router_sha256="cd34"), (force(1),))
    with pytest.raises(PlanError, match="made for another model"):
        united(a_plan(force(2)), other)
