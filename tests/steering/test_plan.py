"""Plans: checks against the fingerprint, the file format, and the helpers that build them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isogloss.errors import FileError, PlanError
from isogloss.routing import Fingerprint
from isogloss.steering import (
    KINDS,
    Intervention,
    Plan,
    SelectedExpert,
    apply_edit,
    apply_select,
    check_plan,
    compile_layer,
    plan_from_experts,
    random_control,
    read_plan,
    write_plan,
)

MODEL = Fingerprint("qwen3_moe", (2, 3, 5), n_experts=8, top_k=3, router_sha256="ab12")
WEIGHTS = st.floats(-4.0, 4.0)


def a_plan(*interventions: Intervention, **provenance: object) -> Plan:
    """Make a plan for MODEL."""
    return Plan(MODEL, interventions, dict(provenance))


@st.composite
def interventions_of(draw: st.DrawFn, kind: Any, layer: int, experts: tuple[int, ...]) -> Intervention:
    """Draw strength and values for one intervention."""
    strength = draw(st.floats(-1.0, 1.0)) if kind in ("soft", "adaptive") else None
    values = draw(st.tuples(*[WEIGHTS] * len(experts))) if kind in ("adaptive", "offset", "select") else None
    return Intervention(kind, layer, experts, strength, values)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Draw legal plans of all kinds, several interventions of one kind and layer included."""
    made = []
    for layer in draw(st.lists(st.sampled_from(MODEL.layers), unique=True)):
        order = draw(st.permutations(range(8)))
        if n_forced := draw(st.integers(0, 3)):
            cut = draw(st.integers(0, n_forced))
            made += [Intervention("force", layer, part) for part in (order[:cut], order[cut:n_forced]) if part]
        for kind in draw(st.lists(st.sampled_from(("suppress", "ban")), unique=True)):
            made.append(Intervention(kind, layer, order[3 : draw(st.integers(4, 8))]))
        for kind in draw(st.lists(st.sampled_from(("soft", "adaptive", "offset", "select")), unique=True)):
            cut = draw(st.integers(0, 7))
            made += [
                draw(interventions_of(kind, layer, part)) for part in (tuple(order[:cut]), tuple(order[cut:])) if part
            ]
    text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    provenance = draw(st.dictionaries(text, text | st.integers() | st.none() | st.lists(st.booleans()), max_size=3))
    return Plan(MODEL, tuple(draw(st.permutations(made))), provenance)


# The file


@given(plans())
def test_a_file_round_trip_is_the_identity(scratch: Path, plan: Plan):
    """A plan equals the one read back from its file, hash included, and writing it again gives the same bytes."""
    path = scratch / "plan.json"
    write_plan(plan, path)
    first = path.read_bytes()
    again = read_plan(path)
    write_plan(again, path)
    assert again == plan
    assert again.sha256 == plan.sha256
    assert path.read_bytes() == first


@given(plans())
def test_the_file_holds_what_to_json_says(scratch: Path, plan: Plan):
    """The hand-made layout is plain JSON, equal to `to_json`."""
    path = scratch / "plan.json"
    write_plan(plan, path)
    assert json.loads(path.read_text(encoding="utf-8")) == plan.to_json()


def test_the_file_is_friendly_to_diff_tools(tmp_path: Path):
    """One intervention per group of lines, sorted by layer and kind; rank order of force is kept."""
    soft = Intervention("soft", 5, (7, 1), strength=0.5)
    offset = Intervention("offset", 2, (4,), values=(1.5,))
    write_plan(a_plan(soft, offset, Intervention("force", 2, (6, 0)), rule="delta"), tmp_path / "plan.json")
    assert (tmp_path / "plan.json").read_text(encoding="utf-8") == (
        "{\n"
        '  "schema_version": 1,\n'
        '  "fingerprint": {\n'
        '    "model_type": "qwen3_moe",\n'
        '    "layers": [\n      2,\n      3,\n      5\n    ],\n'
        '    "n_experts": 8,\n'
        '    "top_k": 3,\n'
        '    "router_sha256": "ab12"\n'
        "  },\n"
        '  "provenance": {\n    "rule": "delta"\n  },\n'
        '  "interventions": [\n'
        '    {"kind": "force", "layer": 2,\n     "experts": [6, 0]},\n'
        '    {"kind": "offset", "layer": 2,\n     "experts": [4],\n     "values": [1.5]},\n'
        '    {"kind": "soft", "layer": 5, "strength": 0.5,\n     "experts": [1, 7]}\n'
        "  ]\n"
        "}\n"
    )


def test_an_empty_plan_is_legal_and_edits_nothing(tmp_path: Path):
    """No interventions: the file round trip works and every layer's edit is empty."""
    write_plan(a_plan(), tmp_path / "plan.json")
    plan = read_plan(tmp_path / "plan.json")
    assert plan == a_plan()
    assert all(compile_layer(plan, layer, 8).is_empty for layer in MODEL.layers)


def test_writing_replaces_the_file_and_leaves_no_other(tmp_path: Path):
    """The temporary file is gone after a successful write."""
    for plan in (a_plan(), a_plan(Intervention("ban", 2, (1,)))):
        write_plan(plan, tmp_path / "plan.json")
    assert read_plan(tmp_path / "plan.json").layers == (2,)
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def test_writing_does_not_touch_the_old_content(tmp_path: Path):
    """Who has the old file open keeps reading all of it: it is replaced as a whole, not written over."""
    path = tmp_path / "plan.json"
    write_plan(a_plan(rule="old"), path)
    with path.open(encoding="utf-8") as old:
        write_plan(a_plan(rule="new"), path)
        assert '"rule": "old"' in old.read()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """When the disk fails in the middle, the old plan stays whole and no temporary file remains."""
    path = tmp_path / "plan.json"
    write_plan(a_plan(rule="old"), path)

    def fail(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(FileError, match="No space left on device"):
        write_plan(a_plan(rule="new"), path)
    assert read_plan(path).provenance == {"rule": "old"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["plan.json"]


@pytest.mark.parametrize("name", ["absent/plan.json", "file/plan.json", ""])
def test_a_path_that_cannot_be_written_is_refused(tmp_path: Path, name: str):
    """A missing folder, a file in place of a folder, a folder in place of a file: an error that says so."""
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="cannot write"):
        write_plan(a_plan(), tmp_path / name)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


# The hash


def test_the_hash_does_not_depend_on_the_spelling_of_the_file(tmp_path: Path):
    """Order of keys, white space, order of interventions, a byte order mark and 1 for 1.0 leave the hash."""
    first, second = Intervention("soft", 2, (3, 1), strength=1), Intervention("ban", 2, (0,))
    plan = a_plan(first, second, corpus="flores")
    raw = dict(reversed(plan.to_json().items()))
    raw["interventions"] = [dict(reversed(entry.items())) for entry in reversed(raw["interventions"])]
    (tmp_path / "plan.json").write_text("\ufeff" + json.dumps(raw, indent=7).replace("1.0", "1"), encoding="utf-8")
    assert read_plan(tmp_path / "plan.json").sha256 == plan.sha256


def test_the_hash_changes_with_every_part():
    """Another model, intervention, rank order or provenance has another hash."""
    force = Intervention("force", 2, (1, 0))
    variants = [
        a_plan(force),
        a_plan(Intervention("force", 2, (0, 1))),
        a_plan(force, rule="delta"),
        Plan(replace(MODEL, router_sha256="cd"), (force,)),
        a_plan(),
    ]
    assert len({plan.sha256 for plan in variants}) == len(variants)


def test_the_hash_is_that_of_canonical_json():
    """Sorted keys, no white space, UTF-8: other programs can compute it."""
    expected = (
        '{"fingerprint":{"layers":[2,3,5],"model_type":"qwen3_moe","n_experts":8,"router_sha256":"ab12","top_k":3},'
        '"interventions":[{"experts":[1],"kind":"ban","layer":2}],"provenance":{"who":"Ünal"},"schema_version":1}'
    )
    plan = a_plan(Intervention("ban", 2, (1,)), who="Ünal")
    assert plan.sha256 == hashlib.sha256(expected.encode()).hexdigest()


# Checks


@pytest.mark.parametrize(
    ("interventions", "message"),
    [
        ([Intervention("ban", 4, (1,))], "layer 4 is not a routed layer of the model; expected 2, 3, 5"),
        ([Intervention("soft", 2, (8,), strength=0.1)], "soft in layer 2: expert 8 is out of range; expected 0 to 7"),
        ([Intervention("force", 2, (0, 1, 2, 3))], "forces 4 experts; a token chooses 3"),
        ([Intervention("force", 2, (0, 1)), Intervention("force", 2, (2, 3))], "forces 4 experts"),
        ([Intervention("ban", 2, (0, 1, 2, 3, 4, 5))], "ban leaves 2 experts; a token chooses 3: ban at most 5"),
        ([Intervention("ban", 2, (0, 1, 2)), Intervention("ban", 2, (3, 4, 5))], "ban leaves 2 experts"),
        ([Intervention("force", 2, (0, 1)), Intervention("ban", 2, (1,))], r"\[1\] under both force and ban"),
        ([Intervention("force", 2, (0,)), Intervention("suppress", 2, (0,))], r"\[0\] under both force and suppress"),
        (
            [Intervention("soft", 2, (0, 1), strength=0.1), Intervention("soft", 2, (1,), strength=0.2)],
            r"soft in layer 2 has experts \[1\] in two interventions",
        ),
    ],
)
def test_plans_that_the_routers_cannot_follow_are_refused(interventions: list[Intervention], message: str):
    """Construction checks range, duplicates, contradictions and the number of experts that remain."""
    with pytest.raises(PlanError, match=message):
        a_plan(*interventions)


def test_the_limits_themselves_are_legal():
    """As many forced as chosen, as few left as chosen, and the same expert in other kinds or layers are fine."""
    plan = a_plan(
        Intervention("force", 2, (0, 1, 2)),
        Intervention("ban", 2, (3, 4, 5, 6, 7)),
        Intervention("soft", 2, (0,), strength=-1.0),
        Intervention("soft", 3, (0,), strength=1.0),
    )
    logits = np.zeros((1, 8), dtype=np.float32)
    assert np.isfinite(apply_edit(logits, compile_layer(plan, 2, 8))).sum() == 3


@pytest.mark.parametrize(
    "provenance", [{"x": float("nan")}, {"x": {1, 2}}, {"x": "\ud800"}, {"x": np.float32(1)}, ["rule"], None]
)
def test_provenance_that_json_cannot_carry_is_refused(provenance: Any):
    """Only finite JSON types: what is stored is what is read back."""
    with pytest.raises(PlanError, match="provenance"):
        Plan(MODEL, (), provenance)


def test_provenance_is_a_copy():
    """A caller who changes the dictionary later does not change the plan."""
    provenance = {"languages": ["deu_Latn"]}
    plan = Plan(MODEL, (), provenance)
    provenance["languages"].append("swh_Latn")
    assert plan.provenance == {"languages": ["deu_Latn"]}


@pytest.mark.parametrize(
    "changed",
    [{"top_k": 9}, {"top_k": 0}, {"n_experts": "8"}, {"layers": (-1,)}, {"layers": ("2",)}, {"model_type": "\ud800"}],
)
def test_fingerprints_of_no_model_are_refused(changed: dict[str, Any]):
    """Counts must be integers that make sense together."""
    with pytest.raises(PlanError, match="1 <= top_k <= n_experts"):
        Plan(replace(MODEL, **changed))


@pytest.mark.parametrize(
    ("field", "value"),
    [("model_type", "mixtral"), ("layers", (2, 3)), ("n_experts", 16), ("top_k", 2), ("router_sha256", "ff")],
)
def test_a_plan_for_another_model_is_refused(field: str, value: object):
    """The message names the field that differs, what the plan expects and what the model has."""
    with pytest.raises(PlanError) as caught:
        check_plan(a_plan(), replace(MODEL, **{field: value}))  # type: ignore[arg-type]
    assert f"({field}: expected {getattr(MODEL, field)!r}, found {value!r})" in str(caught.value)


def test_a_plan_for_this_model_passes_the_check():
    """An equal fingerprint raises nothing, and two differing fields are both named."""
    check_plan(a_plan(), replace(MODEL))
    with pytest.raises(PlanError, match="n_experts: expected 8, found 9; top_k: expected 3, found 4"):
        check_plan(a_plan(), replace(MODEL, n_experts=9, top_k=4))


@pytest.mark.parametrize(("layer", "n_experts", "message"), [(4, 8, "layer 4 is not"), (2, 9, "has 9 experts")])
def test_compiling_for_other_routers_is_refused(layer: int, n_experts: int, message: str):
    """A layer or width that the plan's model lacks is an error, not an empty edit."""
    with pytest.raises(PlanError, match=message):
        compile_layer(a_plan(), layer, n_experts)


def test_compiling_takes_only_the_layer_asked_for():
    """Interventions of other layers stay out."""
    plan = a_plan(Intervention("ban", 2, (1,)), Intervention("suppress", 3, (4,)))
    assert compile_layer(plan, 2, 8).arrays.keys() == {"ban", "least_score"}
    np.testing.assert_array_equal(np.flatnonzero(compile_layer(plan, 3, 8).suppress), [4])


def test_several_force_of_a_layer_keep_their_order(tmp_path: Path):
    """Sorting and the file leave the rank order over interventions as it was given."""
    plan = a_plan(Intervention("force", 2, (6, 3)), Intervention("ban", 2, (0,)), Intervention("force", 2, (1,)))
    write_plan(plan, tmp_path / "plan.json")
    ranks = compile_layer(read_plan(tmp_path / "plan.json"), 2, 8).force_rank
    np.testing.assert_array_equal(ranks, [0, 3, 0, 2, 0, 0, 1, 0])


# Reading what others wrote

VALID = json.dumps(a_plan(Intervention("ban", 2, (1,))).to_json())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a JSON file"),
        (b"layers: 3", "is not a JSON file"),
        (b"\xff\xfe\x00", "is not a JSON file"),
        (b"[" * 200_000, "is not a JSON file"),
        (b"[]", "a plan is a JSON object; found list"),
        (b"{}", "schema_version is None; this version of isogloss reads 1"),
        (VALID.replace('"schema_version": 1', '"schema_version": 2').encode(), "schema_version is 2"),
        (VALID.replace('"schema_version": 1', '"schema_version": true').encode(), "schema_version is True"),
        (VALID.replace('"provenance": {}', '"provenance": NaN').encode(), "NaN is not allowed"),
        (VALID.replace('"provenance": {}, ', "").encode(), r"lacks \['provenance'\]"),
        (VALID.replace('"provenance"', '"note": 1, "provenance"').encode(), "malformed: note: unknown field"),
        (VALID.replace('"layer": 2', '"layer": 2, "layer": 3').encode(), "key 'layer' more than once"),
        (
            VALID.replace('"layer": 2', '"layer": 2, "phase": "all"').encode(),
            "phase: Input should be 'prompt', 'generation' or 'both', found 'all'",
        ),
        (VALID.replace('"layer": 2', '"layer": 2, "task": "all"').encode(), r"interventions\.0\.task: unknown field"),
        (VALID.replace('"kind": "ban"', '"kind": "boost"').encode(), r"interventions\.0\.kind: .* 'boost'"),
        (VALID.replace('"top_k": 3', '"k": 3').encode(), r"fingerprint\.top_k: missing; fingerprint\.k: unknown field"),
        (VALID.replace("[2, 3, 5]", "7").encode(), r"fingerprint\.layers: Input should be a valid array, found 7"),
        (
            VALID.replace("[2, 3, 5]", '"235"').encode(),
            r"fingerprint\.layers: Input should be a valid array, found '235'",
        ),
        (
            VALID.replace('"experts": [1]', '"experts": [1.0]').encode(),
            r"experts\.0: Input should be a valid integer, found 1\.0",
        ),
        (VALID.replace('"experts": [1]', '"experts": [99]').encode(), "expert 99 is out of range"),
        (VALID.replace("[{", "{").replace("}]", "}").encode(), "interventions: Input should be a valid array, found {"),
        (b" " * (16 * 2**20 + 1), "is larger than 16 MiB"),
    ],
    ids=range(22),
)
def test_files_that_are_no_plan_are_refused_with_the_reason(tmp_path: Path, content: bytes, message: str):
    """The message starts with the path and says what was found."""
    path = tmp_path / "plan.json"
    path.write_bytes(content)
    with pytest.raises(PlanError, match=message) as caught:
        read_plan(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(("name", "found"), [("absent.json", "no such file"), ("", "it is a folder")])
def test_a_missing_file_is_refused(tmp_path: Path, name: str, found: str):
    """A file that is absent, or a folder, is an error that says which, and names the next command."""
    with pytest.raises(PlanError, match=rf"cannot read the plan .*: {found}; .*isogloss plan"):
        read_plan(tmp_path / name)


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_no_file_raises_anything_but_a_plan_error(scratch: Path, content: bytes):
    """Arbitrary bytes never escape as another exception."""
    (scratch / "noise.json").write_bytes(content)
    with pytest.raises(PlanError):
        read_plan(scratch / "noise.json")


# Building

CHOSEN = [(3, 6, 0.31, None), (2, 4, -0.9, None), (2, 1, 0.4, None), (2, 0, 0.5, None), (2, 7, 0.4, None)]


def build(kind: Any, strength: float | None = None, experts: Any = CHOSEN) -> Plan:
    """Build a plan for MODEL."""
    return plan_from_experts(experts, kind=kind, strength=strength, fingerprint=MODEL, provenance={"rule": "delta"})


def test_experts_are_grouped_by_layer():
    """Every layer gets one intervention with all of its experts."""
    assert build("soft", 0.5).interventions == (
        Intervention("soft", 2, (0, 1, 4, 7), strength=0.5),
        Intervention("soft", 3, (6,), strength=0.5),
    )
    assert build("suppress").provenance == {"rule": "delta"}


def test_force_keeps_the_largest_statistics_in_rank_order_and_records_the_rest():
    """More experts than a token chooses: the largest by absolute statistic stay, ties go to the lower id."""
    plan = build("force")
    assert plan.interventions == (Intervention("force", 2, (4, 0, 1)), Intervention("force", 3, (6,)))
    assert plan.provenance == {"rule": "delta", "dropped_experts": [{"layer": 2, "expert": 7, "statistic": 0.4}]}


def test_adaptive_takes_the_weights_as_values():
    """Weights go to their experts."""
    plan = build("adaptive", 0.022, [SelectedExpert(2, 5, 0.1, 0.75), SelectedExpert(2, 3, 0.2, 0.25)])
    assert plan.interventions == (Intervention("adaptive", 2, (3, 5), strength=0.022, values=(0.25, 0.75)),)


def test_offset_gives_each_expert_the_strength():
    """The constant of every expert is the strength."""
    assert build("offset", -1.5).interventions[0].values == (-1.5,) * 4


def test_no_experts_make_an_empty_plan():
    """A rule that found nothing is not an error."""
    assert build("soft", 0.5, []).interventions == ()


def test_numbers_of_numpy_are_accepted():
    """Rows taken from arrays work, also where they are recorded as dropped."""
    rows = [(np.int64(2), np.int64(expert), np.float32(expert), None) for expert in range(4)]
    assert build("force", None, rows).provenance["dropped_experts"] == [{"layer": 2, "expert": 0, "statistic": 0.0}]


@pytest.mark.parametrize(
    ("kind", "strength", "experts", "message"),
    [
        ("soft", None, CHOSEN, "soft in layer 3 has no strength"),
        ("offset", None, CHOSEN, "offset in layer 3 has no strength"),
        ("select", None, CHOSEN, "select in layer 3 has no strength; expected .* the scores that the router ranks"),
        ("ban", 0.5, CHOSEN, "takes no strength"),
        ("adaptive", 0.02, CHOSEN, r"experts \[6\] have no weight; .*--rule share"),
        ("force", None, [(2, 1, float("nan"), None)], "expert 1 in layer 2 is nan"),
        ("soft", 0.5, [(2, 1, 0.1, None)] * 2, "more than once"),
        ("soft", 0.5, [(4, 1, 0.1, None)], "layer 4 is not a routed layer"),
        ("ban", None, [(2, expert, 0.1, None) for expert in range(8)], "ban leaves 0 experts"),
        ("boost", None, CHOSEN, "unknown kind"),
    ],
)
def test_experts_that_make_no_plan_are_refused(kind: str, strength: float | None, experts: Any, message: str):
    """What is missing or does not fit is named."""
    with pytest.raises(PlanError, match=message):
        build(kind, strength, experts)


# Random controls


def shape_of(plan: Plan) -> list[tuple[object, ...]]:
    """List what a control must keep of every intervention: all but the experts' names."""
    return sorted((e.layer, e.kind, e.strength, sorted(e.values or ()), len(e.experts)) for e in plan.interventions)


@given(plans(), st.integers(0, 2**40))
def test_a_control_keeps_all_but_the_experts(plan: Plan, seed: int):
    """Layers, kinds, strengths, values and numbers of experts stay, and the control is a legal plan."""
    assert str(shape_of(random_control(plan, seed=seed))) == str(shape_of(plan))


@given(plans(), st.integers(0, 2**40))
def test_a_control_uses_other_experts_where_enough_remain(plan: Plan, seed: int):
    """Layers with enough untouched experts share none with the plan; the others are named."""
    control = random_control(plan, seed=seed)
    for layer in plan.layers:
        used, drawn = ({k for e in p.interventions if e.layer == layer for k in e.experts} for p in (plan, control))
        assert (layer in control.provenance["overlapping_layers"]) == (len(used) > 4)
        assert len(drawn) == len(used)
        assert len(used) > 4 or not used & drawn


def test_a_control_is_reproducible_and_names_its_origin():
    """The same seed gives the same control; the original's hash and provenance are kept."""
    plan = build("soft", 0.5, [(2, 0, 0.5, None), (2, 1, 0.5, None), (5, 3, 0.4, None)])
    control = random_control(plan, seed=7)
    assert control == random_control(plan, seed=7)
    assert control.provenance["plan_sha256"] == plan.sha256
    assert control.provenance["plan_provenance"] == {"rule": "delta"}
    assert control.provenance["seed"] == 7
    others = {random_control(plan, seed=seed).interventions for seed in range(20)}
    assert len(others) > 10


def test_the_draw_of_a_layer_does_not_depend_on_other_layers():
    """Leaving out a layer keeps the draws of the others, and layers draw differently."""
    rows = [(layer, 0, 0.5, None) for layer in MODEL.layers]
    both = [
        [random_control(build("soft", 0.5, part), seed=s).interventions for part in (rows, rows[1:])] for s in range(10)
    ]
    assert all(whole[1:] == part for whole, part in both)
    assert any(whole[0].experts != whole[1].experts for whole, _ in both)


def test_a_control_draws_uniformly():
    """Each of the seven untouched experts is drawn about equally often; five standard deviations are allowed."""
    plan = build("soft", 0.5, [(2, 0, 0.5, None)])
    drawn = [random_control(plan, seed=s).interventions[0].experts[0] for s in range(1400)]
    counts = np.bincount(drawn, minlength=8)
    assert counts[0] == 0
    assert (abs(counts[1:] - 200) < 5 * np.sqrt(1400 * 6 / 49)).all()


def test_a_control_with_a_negative_seed_is_refused():
    """Seeds start at 0."""
    with pytest.raises(PlanError, match="seed is -1"):
        random_control(a_plan(), seed=-1)


def test_every_kind_can_be_planned_and_compiled():
    """From experts to edited logits, or scores, works for every kind, and changes them."""
    strengths = {"soft": 0.5, "adaptive": 0.5, "offset": 1.0, "select": 0.1}
    logits = np.random.default_rng(0).standard_normal((2, 8)).astype(np.float32)
    for kind in KINDS:
        plan = build(kind, strengths.get(kind), [(2, 1, 0.5, 0.5), (2, 6, 0.4, 0.5)])
        edit = compile_layer(plan, 2, 8)
        assert ((apply_select if kind == "select" else apply_edit)(logits, edit) != logits).any()
