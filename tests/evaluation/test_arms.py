"""The arms that a command line asks for, made from the plan under test."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from isogloss.analysis import ExpertTable
from isogloss.analysis.experts import ExpertRow
from isogloss.errors import IsoglossError, PlanError
from isogloss.evaluation.arms import dose_of, make_arms
from isogloss.routing import Fingerprint
from isogloss.steering import (
    AdaptedRouter,
    Intervention,
    Plan,
    RouterAdapter,
    random_control,
    write_adapter,
    write_plan,
)

FINGERPRINT = Fingerprint("qwen3_moe", tuple(range(10)), 16, 4, "ab12")


def plan_in(*layers, kind="soft", strength=0.5, experts=(1, 2)):
    """A plan with the same experts in some layers."""
    return Plan(FINGERPRINT, tuple(Intervention(kind, layer, experts, strength) for layer in layers))


def places(plan):
    """Layer to number of experts."""
    return {each.layer: len(each.experts) for each in plan.interventions}


def test_every_arm_by_name(tmp_path):
    """The plan comes first; each specification gives arms with the names that results have."""
    plan = plan_in(4, 5)
    other = plan_in(6, kind="ban", strength=None)
    write_plan(other, tmp_path / "other.json")
    given = ["random:2", "early", "late", "suppress", "strength=0.25,0.5,1", f"plan=multilingual:{tmp_path}/other.json"]
    arms = make_arms(plan, given)
    names = ["plan", "random-0", "random-1", "early", "late", "suppress", "strength-0.25", "strength-1", "multilingual"]
    assert list(arms) == names
    assert arms["plan"] is plan
    assert [arms[f"random-{seed}"] for seed in (0, 1)] == [random_control(plan, seed=seed) for seed in (0, 1)]
    assert places(arms["early"]) == {0: 2, 1: 2}
    assert places(arms["late"]) == {8: 2, 9: 2}
    assert {each.strength for each in arms["suppress"].interventions} == {-0.5}
    assert dose_of(arms["strength-0.25"]) == 0.25
    assert arms["multilingual"] == other


def table_of(path, *rows):
    """A file as ``isogloss experts --json`` prints it, of (layer, expert, statistic)."""
    experts = tuple(ExpertRow(*row, math.nan, math.nan) for row in rows)
    path.write_text(json.dumps(ExpertTable("delta", {}, experts, None).to_json()), encoding="utf-8")
    return path


def test_experts_of_a_table_take_the_place_of_the_plans(tmp_path):
    """The strongest of each layer of the plan, as many as the plan has there, under its kind and strength."""
    rows = [(4, 7, 0.1), (4, 9, -0.5), (4, 3, 0.3), (5, 2, 0.9), (5, 11, 0.2), (6, 1, 1.0)]
    path = table_of(tmp_path / "table.json", *rows)
    arm = make_arms(plan_in(4, 5), [f"experts=multilingual:{path}"])["multilingual"]
    assert [(each.layer, each.experts) for each in arm.interventions] == [(4, (3, 9)), (5, (2, 11))]
    assert {(each.kind, each.strength) for each in arm.interventions} == {("soft", 0.5)}
    assert (arm.provenance["control"], arm.provenance["experts"]) == ("replaced", "multilingual")


def test_layers_by_number(tmp_path):
    """The plan's number of experts per layer in the layers named, with its ids or those that a rule found there."""
    path = table_of(tmp_path / "table.json", (7, 9, 0.5), (7, 8, 0.6), (8, 3, 0.1), (8, 4, 0.2), (8, 5, 0.3))
    arms = make_arms(plan_in(4, 5), ["layers=1-2", f"layers=7-8:{path}"])
    assert list(arms) == ["plan", "layers-1-2", "layers-7-8"]
    assert [(e.layer, e.experts) for e in arms["layers-1-2"].interventions] == [(1, (1, 2)), (2, (1, 2))]
    assert [(e.layer, e.experts) for e in arms["layers-7-8"].interventions] == [(7, (8, 9)), (8, (4, 5))]


def test_a_table_that_is_none_is_refused(tmp_path):
    """Other JSON, rows of other types, no JSON, and no file are each one message with the file's name."""
    path = tmp_path / "table.json"
    odd = ['{"n": 3}', "[]", '{"experts": [{"layer": 1}]}', '{"experts": [3]}']
    rows = [(4.5, 1, 1), (4, True, 1), (4, -1, 1), (4, 1, "x"), (4, 1, None), (4, 1, True)]
    names = ("layer", "expert", "statistic")
    odd += [json.dumps({"experts": [dict(zip(names, row, strict=True))]}) for row in rows]
    for content in odd:
        path.write_text(content, encoding="utf-8")
        with pytest.raises(PlanError, match=r"table\.json"):
            make_arms(plan_in(4), [f"experts=x:{path}"])
    path.write_text("{", encoding="utf-8")
    for file in (path, tmp_path / "nowhere.json"):
        with pytest.raises(IsoglossError, match=file.name):
            make_arms(plan_in(4), [f"experts=x:{file}"])
    table_of(path, (9, 1, 1.0))
    with pytest.raises(PlanError, match=r"none of the x experts is in the plan.s layers \[4\]"):
        make_arms(plan_in(4), [f"experts=x:{path}"])


def test_random_counts():
    """One by default, none for 0."""
    assert list(make_arms(plan_in(4), ["random"])) == ["plan", "random-0"]
    assert list(make_arms(plan_in(4), ["random:0"])) == ["plan"]


def test_few_layers_outside_take_what_they_can():
    """Where fewer layers lie outside, the plan's smallest layers stay out, and the arm says so."""
    early = make_arms(plan_in(1, 2, 3), ["early"])["early"]
    assert places(early) == {0: 2}
    assert early.provenance["left_out_layers"] == [2, 3]


@pytest.mark.parametrize(
    ("plan", "dose"),
    [
        (plan_in(4, 5), 0.5),
        (plan_in(4, kind="ban", strength=None), None),
        (Plan(FINGERPRINT, (Intervention("offset", 1, (1, 2), None, (0.5, 0.5)),)), 0.5),
        (Plan(FINGERPRINT, (Intervention("offset", 1, (1, 2), None, (0.5, 1.0)),)), None),
        (Plan(FINGERPRINT), None),
    ],
)
def test_dose(plan, dose):
    """One strength of all interventions, or none."""
    assert dose_of(plan) == dose


@pytest.mark.parametrize(
    ("plan", "given", "message"),
    [
        (plan_in(4), ["randon"], "unknown arm 'randon'; expected random"),
        (plan_in(4), ["random:x"], "unknown arm"),
        (plan_in(4), ["random:-1"], "unknown arm"),
        (plan_in(4), ["early", "early"], "'early' already"),
        (plan_in(4), ["random:2", "random"], "'random-0' already"),
        (plan_in(0), ["early"], "no routed layer before 0"),
        (plan_in(9), ["late"], "no routed layer after 9"),
        (Plan(FINGERPRINT), ["early"], "arm plan: the plan has no intervention"),
        (Plan(FINGERPRINT), [], "arm plan: the plan has no intervention"),
        (plan_in(4), ["strength=0.1,x"], "'x' is no finite number"),
        (plan_in(4), ["strength=nan"], "'nan' is no finite number"),
        (plan_in(4), ["strength=0.1,-inf"], "'-inf' is no finite number"),
        (plan_in(4), ["strength=3"], r"expected a number in \[-1, 1\]"),
        (plan_in(4, kind="ban", strength=None), ["strength=1"], "with a strength"),
        (plan_in(4, kind="ban", strength=None), ["suppress"], "no opposite"),
        (plan_in(4), ["experts=x"], "expected experts=NAME:FILE.json"),
        (plan_in(4), ["layers=3"], "expected layers=A-B"),
        (plan_in(4), ["layers=3-5"], r"the plan itself steers layers \[4\]"),
        (plan_in(4), ["layers=20-30"], "no routed layer there"),
        (plan_in(4), ["layers=6-5"], "no routed layer there"),
        (plan_in(4), ["plan=x"], "expected plan=NAME:PLAN"),
        (plan_in(4), ["plan=../x:file.json"], "expected plan=NAME:PLAN"),
        (plan_in(4), [f"plan={'x' * 81}:file.json"], "at most 80 letters"),
        (plan_in(4), ["plan=summary.json:file.json"], "not settings.json or summary.json"),
        (plan_in(4), ["experts=Settings.json:file.json"], "not settings.json or summary.json"),
        (plan_in(4), ["plan=x:nowhere.json"], "cannot read the plan"),
    ],
)
def test_arms_that_cannot_be_made_are_refused(plan, given, message):
    """The message names the specification or what the plan lacks."""
    with pytest.raises(PlanError, match=message):
        make_arms(plan, given)


def test_no_other_plan_takes_the_place_of_the_arms_every_run_has(tmp_path):
    """``baseline`` and ``plan`` are taken."""
    write_plan(plan_in(4), tmp_path / "p.json")
    for name in ("baseline", "plan"):
        with pytest.raises(PlanError, match=f"'{name}' already"):
            make_arms(plan_in(4), [f"plan={name}:{tmp_path}/p.json"])


def adapter_in(*layers, ranks=("swh_Latn", "tel_Telu")):
    """An adapter of the model of `plan_in`."""
    drawn = np.random.default_rng(0)
    fingerprint = plan_in(4).fingerprint
    routers = tuple(
        AdaptedRouter(
            layer,
            f"model.layers.{layer}.mlp.gate.weight",
            drawn.normal(size=(fingerprint.n_experts, len(ranks))),
            drawn.normal(size=(len(ranks), 6)),
        )
        for layer in layers
    )
    return RouterAdapter(fingerprint, routers, ranks, {"made": "for a test"}, scale=2.0)


def test_arms_of_an_adapter(tmp_path):
    """Permuted experts, other probes, other scales, and any plan or adapter beside it."""
    adapter, plan = adapter_in(4, 5), plan_in(4)
    write_plan(plan, tmp_path / "p.json")
    write_adapter(adapter_in(3), tmp_path / "a")
    given = ["random:2", "suppress", "strength=1,2,3", "other-probes", f"plan=rule:{tmp_path}/p.json"]
    arms = make_arms(adapter, [*given, f"plan=more:{tmp_path}/a"])
    names = ["plan", "random-0", "random-1", "suppress", "strength-1", "strength-3", "other-probes", "rule", "more"]
    assert list(arms) == names
    assert (arms["rule"], arms["more"]) == (plan, adapter_in(3))
    assert make_arms(plan, [f"plan=more:{tmp_path}/a"])["more"] == adapter_in(3)
    assert (dose_of(adapter), dose_of(arms["suppress"]), dose_of(arms["strength-3"])) == (2.0, -2.0, 3.0)
    for name in names[1:7]:
        assert arms[name].provenance["original_sha256"] == adapter.sha256
    permuted, exchanged = arms["random-0"], arms["other-probes"]
    for layer in (4, 5):
        ours, theirs = adapter.router(layer), permuted.router(layer)
        assert (ours.a == theirs.a).all()
        assert (ours.b != theirs.b).any()
        assert sorted(map(tuple, ours.b)) == sorted(map(tuple, theirs.b))
        assert (exchanged.router(layer).a == ours.a[::-1]).all()
        assert (exchanged.router(layer).b == ours.b).all()
    assert (arms["random-1"].router(4).b != permuted.router(4).b).any()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("early", "'early' is no arm of a router adapter; expected random"),
        ("other-probes", "single rank"),
        ("strength=a", "no finite number"),
    ],
)
def test_arms_that_an_adapter_cannot_have(given, message):
    """Each with the reason."""
    with pytest.raises(PlanError, match=message):
        make_arms(adapter_in(4, ranks=("constant",)), [given])


def test_an_adapter_without_change_is_refused():
    """Its answers would be the baseline's."""
    with pytest.raises(PlanError, match="the adapter changes no weight"):
        make_arms(adapter_in(4).scaled(0.0), [])
