"""Control plans: each differs from its original in one thing, is legal for the same model, and says what it is."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isogloss.errors import PlanError
from isogloss.routing import Fingerprint
from isogloss.steering import (
    Intervention,
    Plan,
    opposed,
    plan_from_experts,
    random_control,
    replaced,
    shifted_control,
    with_strength,
)

MODEL = Fingerprint("qwen3_moe", (0, 1, 2, 4, 5, 6, 7), n_experts=8, top_k=3, router_sha256="ab12")
PROMOTING = ("soft", "adaptive", "offset", "select", "force", "on")

SOFT = Plan(
    MODEL,
    (
        Intervention("soft", 2, (1, 6), strength=0.5, phase="generation"),
        Intervention("soft", 4, (0,), strength=0.5, languages=("sw",)),
        Intervention("soft", 5, (2, 3, 7), strength=0.5),
    ),
    {"rule": "delta"},
)


def rows(layer: int, *experts: int) -> list[tuple[int, int, float, None]]:
    """Rows of a table, the first expert ranked first."""
    return [(layer, expert, 0.9 - 0.1 * rank, None) for rank, expert in enumerate(experts)]


def where(plan: Plan) -> list[tuple[Any, ...]]:
    """Layer, kind and experts of every intervention."""
    return [(each.layer, each.kind, each.experts) for each in plan.interventions]


def rest(plan: Plan) -> Counter[tuple[Any, ...]]:
    """What a control of place or experts keeps of every intervention."""
    fields = ((e.kind, e.strength, tuple(sorted(e.values or ())), e.phase, e.languages) for e in plan.interventions)
    return Counter((*field, len(e.experts)) for field, e in zip(fields, plan.interventions, strict=True))


@st.composite
def promoting(draw: st.DrawFn) -> Plan:
    """Draw plans that promote one to three experts in some of the layers 2, 4 and 5."""
    made = []
    for layer in draw(st.lists(st.sampled_from((2, 4, 5)), unique=True, min_size=1)):
        kind: Any = draw(st.sampled_from(PROMOTING))
        experts = tuple(draw(st.lists(st.integers(0, 7), unique=True, min_size=1, max_size=3)))
        strength = draw(st.floats(-1, 1)) if kind in ("soft", "adaptive") else None
        values = tuple(draw(st.floats(-2, 2)) for _ in experts) if kind in ("adaptive", "offset", "select") else None
        made.append(Intervention(kind, layer, experts, strength, values))
    return Plan(MODEL, tuple(made), {"rule": "delta"})


@given(promoting(), st.integers(0, 5))
def test_every_control_names_what_it_is_and_its_origin(plan: Plan, seed: int):
    """Its provenance holds the original's hash and provenance; made again, it is equal."""
    table = [row for layer in MODEL.layers for row in rows(layer, 3, 1, 4)]
    made = {
        "random": lambda: random_control(plan, seed=seed),
        "shifted": lambda: shifted_control(plan, (0, 1)),
        "replaced": lambda: replaced(plan, table, name="multilingual"),
        "opposed": lambda: opposed(plan),
    }
    for name, make in made.items():
        control = make()
        assert control == make()
        assert control.provenance["control"] == name
        assert control.provenance["plan_sha256"] == plan.sha256
        assert control.provenance["plan_provenance"] == {"rule": "delta"}
        assert control.fingerprint == plan.fingerprint


# Other layers


def test_shifting_moves_layer_by_layer_and_keeps_the_ids():
    """The first layer of the plan goes to the first one given, and so on; nothing else changes."""
    control = shifted_control(SOFT, (7, 0, 1))
    assert where(control) == [(0, "soft", (0,)), (1, "soft", (2, 3, 7)), (7, "soft", (1, 6))]
    assert control.provenance["layers"] == [[2, 7], [4, 0], [5, 1]]
    assert control.provenance["left_out_layers"] == []
    assert rest(control) == rest(SOFT)


def test_too_few_layers_leave_out_those_with_the_fewest_experts():
    """The control says that it is smaller; of equally small layers the deeper one stays out."""
    control = shifted_control(SOFT, (6, 7))
    assert where(control) == [(6, "soft", (1, 6)), (7, "soft", (2, 3, 7))]
    assert control.provenance["left_out_layers"] == [4]
    equal = Plan(MODEL, tuple(Intervention("ban", layer, (layer,)) for layer in (2, 4, 5)))
    assert shifted_control(equal, (6, 7)).provenance["left_out_layers"] == [5]
    assert shifted_control(SOFT, (6, 7, 0, 1)).layers == (0, 6, 7)


def test_shifting_takes_the_experts_of_a_table():
    """In the new layers the rule's own experts stand, best first, as many as the plan has; lacking ones are named."""
    table = [*rows(0, 5, 4), *rows(1, 6, 5, 4, 3), *rows(2, 7)]
    control = shifted_control(SOFT, (0, 7, 1), table=table)
    assert where(control) == [(0, "soft", (4, 5)), (1, "soft", (4, 5, 6))]
    assert control.provenance["fewer"] == [{"layer": 7, "wanted": 1, "found": 0}]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ((1, 2), r"the plan itself steers layers \[2\]"),
        ((), r"layers are \[\]; expected at least one"),
        ((0, 0), r"layers are \[0, 0\]; expected at least one, each once"),
        ((3,), "layer 3 is not a routed layer"),
    ],
)
def test_layers_that_are_no_control_are_refused(layers: tuple[int, ...], message: str):
    """A shifted plan steers other layers, each once, that the model routes in."""
    with pytest.raises(PlanError, match=message):
        shifted_control(SOFT, layers)


# Other experts


def test_replacing_puts_the_best_of_a_table_in_place():
    """As many per layer, ranked by the absolute statistic, ties by id, whatever the order of the rows."""
    table = [(2, 3, 0.4, None), (2, 5, -0.9, None), (2, 0, 0.4, None), *rows(4, 7, 6), *rows(5, 4, 5, 6), *rows(7, 1)]
    control = replaced(SOFT, table, name="multilingual")
    assert where(control) == [(2, "soft", (0, 5)), (4, "soft", (7,)), (5, "soft", (4, 5, 6))]
    assert rest(control) == rest(SOFT)
    assert {name: control.provenance[name] for name in ("experts", "fewer", "in_both")} == {
        "experts": "multilingual",
        "fewer": [],
        "in_both": [],
    }


def test_a_table_with_too_few_experts_is_said_and_used():
    """The last experts of a layer stay without one; a layer without any is left alone; overlap is named."""
    control = replaced(SOFT, [*rows(2, 6), *rows(5, 0, 2)], name="medicine")
    assert where(control) == [(2, "soft", (6,)), (5, "soft", (0, 2))]
    assert control.provenance["fewer"] == [
        {"layer": 2, "wanted": 2, "found": 1},
        {"layer": 4, "wanted": 1, "found": 0},
        {"layer": 5, "wanted": 3, "found": 2},
    ]
    assert control.provenance["in_both"] == [{"layer": 2, "expert": 6}, {"layer": 5, "expert": 2}]


def test_ranks_values_and_shared_experts_follow_their_place():
    """Force keeps its ranks, adaptive its weights by place, and one expert in two kinds gets one stand-in."""
    plan = Plan(
        MODEL,
        (
            Intervention("force", 2, (6, 0)),
            Intervention("soft", 2, (6,), strength=1.0),
            Intervention("adaptive", 4, (1, 5), strength=0.1, values=(0.25, 0.75)),
        ),
    )
    control = replaced(plan, [*rows(2, 3, 7), *rows(4, 7, 2)], name="x")
    assert where(control) == [(2, "soft", (3,)), (2, "force", (3, 7)), (4, "adaptive", (2, 7))]
    assert control.interventions[-1].values == (0.75, 0.25)
    short = replaced(plan, [*rows(2, 3), *rows(4, 7)], name="x")
    assert short.interventions[-1].values == (0.25,)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (rows(7, 1), r"none of the unrelated experts .* layers \[2, 4, 5\]"),
        ([*rows(2, 1), *rows(2, 1)], r"names experts \[1\] of layer 2 more than once"),
        (rows(2, 8), "expert 8 is out of range"),
        ([(2, 1, float("nan"), None)], "expert 1 in layer 2 is nan"),
    ],
)
def test_tables_that_do_not_fit_are_refused(table: Any, message: str):
    """Nothing in place, twice the same, unknown to the model, or without a rank."""
    with pytest.raises(PlanError, match=message):
        replaced(SOFT, table, name="unrelated")


# The opposite, and other strengths


def test_the_opposite_of_every_kind_that_promotes():
    """λ and constants change their sign, force becomes suppress, on and off change places."""
    plan = Plan(
        MODEL,
        (
            Intervention("soft", 0, (1,), strength=0.5, phase="prompt"),
            Intervention("adaptive", 1, (1, 2), strength=0.02, values=(0.3, 0.7)),
            Intervention("offset", 2, (1, 2), values=(1.0, -2.0)),
            Intervention("select", 2, (0, 2), values=(0.1, -0.2)),
            Intervention("force", 4, (5, 2), languages=("sw",)),
            Intervention("on", 5, (1, 2)),
            Intervention("off", 5, (3,)),
        ),
    )
    assert opposed(plan).interventions == (
        Intervention("soft", 0, (1,), strength=-0.5, phase="prompt"),
        Intervention("adaptive", 1, (1, 2), strength=-0.02, values=(0.3, 0.7)),
        Intervention("offset", 2, (1, 2), values=(-1.0, 2.0)),
        Intervention("select", 2, (0, 2), values=(-0.1, 0.2)),
        Intervention("suppress", 4, (5, 2), languages=("sw",)),
        Intervention("on", 5, (3,)),
        Intervention("off", 5, (1, 2)),
    )


@given(promoting())
def test_the_opposite_of_the_opposite_is_the_plan(plan: Plan):
    """Apart from force, whose order suppression has lost."""
    if any(each.kind == "force" for each in plan.interventions):
        with pytest.raises(PlanError, match=r"suppress in layer \d has no opposite"):
            opposed(opposed(plan))
    else:
        assert opposed(opposed(plan)).interventions == plan.interventions


@pytest.mark.parametrize("kind", ["ban", "suppress"])
def test_what_suppresses_has_no_opposite(kind: Any):
    """Refused, since it does not say which expert would come first."""
    with pytest.raises(PlanError, match=f"{kind} in layer 2 has no opposite"):
        opposed(Plan(MODEL, (Intervention(kind, 2, (0,)),)))


def test_more_experts_off_than_a_token_chooses_have_no_opposite():
    """What would be on is checked as in any plan."""
    with pytest.raises(PlanError, match="turns on 4 experts"):
        opposed(Plan(MODEL, (Intervention("off", 2, (0, 1, 2, 3)),)))


def test_another_strength_is_the_plan_built_with_it():
    """Equal to what `plan_from_experts` makes of the same experts, for every kind with a strength."""
    experts = [(2, 1, 0.5, 0.25), (2, 3, 0.4, 0.75), (4, 0, 0.3, 0.5)]
    for kind in ("soft", "adaptive", "offset", "select"):
        weak, strong = (
            plan_from_experts(experts, kind=kind, strength=strength, fingerprint=MODEL, provenance={})  # type: ignore[arg-type]
            for strength in (0.25, -0.75)
        )
        control = with_strength(weak, -0.75)
        assert control.interventions == strong.interventions
        assert (control.provenance["control"], control.provenance["strength"]) == ("strength", -0.75)
        assert control.provenance["plan_sha256"] == weak.sha256


def test_other_kinds_keep_what_they_are_under_another_strength():
    """A dose-response changes the dose alone."""
    ban = Intervention("ban", 2, (0,))
    plan = Plan(MODEL, (ban, Intervention("soft", 2, (1,), strength=0.5)))
    assert with_strength(plan, 0.0).interventions == (Intervention("soft", 2, (1,), strength=0.0), ban)


@pytest.mark.parametrize(
    ("interventions", "strength", "message"),
    [
        ([Intervention("force", 2, (0,))], 0.5, "kinds with a strength in the plan: none"),
        (
            [Intervention("soft", 2, (0,), strength=0.5), Intervention("offset", 2, (0,), values=(1.0,))],
            0.5,
            "kinds with a strength in the plan: offset and soft",
        ),
        ([Intervention("offset", 2, (0, 1), values=(1.0, 2.0))], 0.5, r"offset has strengths \[1.0, 2.0\]"),
        (
            [Intervention("soft", 2, (0,), strength=0.5), Intervention("soft", 2, (1,), strength=-0.5)],
            0.5,
            r"soft has strengths \[-0.5, 0.5\]",
        ),
        ([Intervention("soft", 2, (0,), strength=0.5)], 1.5, r"found 1.5; expected a number in \[-1, 1\]"),
    ],
)
def test_doses_that_are_none_are_refused(interventions: list[Intervention], strength: float, message: str):
    """A plan must have one strength to change, and the new one must be legal."""
    with pytest.raises(PlanError, match=message):
        with_strength(Plan(MODEL, tuple(interventions)), strength)


def test_on_keeps_the_best_of_a_layer():
    """As force: no more than a token chooses, the largest by absolute statistic; off keeps all."""
    table = [(2, 4, -0.9, None), *rows(2, 1, 0, 7)]
    on, off = (
        plan_from_experts(table, kind=kind, strength=None, fingerprint=MODEL, provenance={})  # type: ignore[arg-type]
        for kind in ("on", "off")
    )
    assert on.interventions == (Intervention("on", 2, (0, 1, 4)),)
    assert on.provenance["dropped_experts"] == [{"layer": 2, "expert": 7, "statistic": pytest.approx(0.7)}]
    assert off.interventions[0].experts == (0, 1, 4, 7)
