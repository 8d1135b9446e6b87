"""The parts of the vLLM plugin that need no vLLM; the engine itself is tested by `make test-vllm`."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from isogloss.backends.vllm.plugin import RefusedError, register
from isogloss.backends.vllm.plugin.effect import Observation, require_effect
from isogloss.backends.vllm.plugin.layer import LayerSteering, SteeredLayer, bind
from isogloss.backends.vllm.plugin.record import Recorder
from isogloss.backends.vllm.plugin.settings import n_slots_of, pass_on, read_serving_settings
from isogloss.backends.vllm.plugin.slots import Row, Slots
from isogloss.errors import ModelError, PlanError
from isogloss.organism import adapter_folder
from isogloss.routing import Fingerprint, RouterSpec, route
from isogloss.steering import KINDS, Intervention, LayerEdit, Plan, apply_choice, apply_edit, compile_layer, write_plan
from isogloss.steering.layer_edits import edit_layer

MODEL = Fingerprint("qwen3_moe", (1, 2, 3), 8, 2, "ab12")


def plan_of(*interventions):
    """A plan for the model."""
    return Plan(MODEL, interventions, {})


SOFT = Intervention("soft", 1, (1, 3), strength=0.5)
BY_PHASE = Intervention("force", 2, (5,), phase="generation")
SWAHILI = Intervention("ban", 2, (0,), languages=("sw",))


# What the environment asks for.


def test_without_variables_there_is_nothing_to_do(monkeypatch):
    """An engine whose environment names no variable is left as it is, and vLLM is not even imported."""
    for name in ("ISOGLOSS_PLAN", "ISOGLOSS_PLANS", "ISOGLOSS_KINDS", "ISOGLOSS_SLOTS", "ISOGLOSS_RECORD"):
        monkeypatch.delenv(name, raising=False)
    assert read_serving_settings({}) is None
    register()
    assert "vllm" not in sys.modules


@pytest.mark.parametrize(
    ("interventions", "kinds", "n_slots"),
    [
        ((SOFT,), ("soft",), 1),
        ((SOFT, BY_PHASE), ("soft", "force"), 2),
        ((SOFT, SWAHILI), ("soft", "ban"), 2),
        ((BY_PHASE, SWAHILI), ("force", "ban"), 4),
    ],
)
def test_a_plan_says_what_its_engine_must_do(tmp_path, interventions, kinds, n_slots):
    """Kinds and combinations of language and phase are those of the plan."""
    write_plan(plan_of(*interventions), tmp_path / "plan.json")
    settings = read_serving_settings({"ISOGLOSS_PLAN": str(tmp_path / "plan.json")})
    assert (settings.plans, settings.kinds, settings.n_slots) == ({"": plan_of(*interventions)}, kinds, n_slots)
    assert (settings.record, settings.apart) == (False, n_slots > 1)
    settings.require(settings.plans)


def test_an_engine_can_be_started_for_more_than_its_plan(tmp_path):
    """Further kinds and slots are named; plans that need others are refused with the variable to set."""
    write_plan(plan_of(SOFT), tmp_path / "plan.json")
    environ = {"ISOGLOSS_PLAN": str(tmp_path / "plan.json"), "ISOGLOSS_KINDS": "ban", "ISOGLOSS_SLOTS": "2"}
    settings = read_serving_settings(environ)
    assert settings.kinds == ("soft", "ban")
    settings.require({"": plan_of(SOFT, SWAHILI)})
    with pytest.raises(PlanError, match=r"kind force.*started for soft, ban.*ISOGLOSS_KINDS=all"):
        settings.require({"": plan_of(SOFT, BY_PHASE)})
    with pytest.raises(PlanError, match=r"3 combinations.*started for 2.*ISOGLOSS_SLOTS=3"):
        settings.require({"": plan_of(SWAHILI, Intervention("ban", 2, (1,), languages=("de",)))})
    with pytest.raises(PlanError, match=r"3 combinations.*started for 2.*ISOGLOSS_SLOTS=3"):
        settings.require({"": plan_of(SOFT), "a": plan_of(SWAHILI)})
    assert read_serving_settings({"ISOGLOSS_KINDS": "all"}).kinds == KINDS
    assert settings.summary != read_serving_settings({**environ, "ISOGLOSS_KINDS": "all"}).summary


def files(folder, **plans):
    """Plans written to a folder, as ISOGLOSS_PLANS names them."""
    for name, plan in plans.items():
        write_plan(plan, folder / f"{name}=.json")
    return ",".join(f"{name}={folder}/{name}=.json" for name in plans)


def test_plans_have_names(tmp_path):
    """Each is read; kinds and combinations are those of all, and whatever one needs, all requests are told apart."""
    soft, ban = plan_of(SOFT), plan_of(BY_PHASE, SWAHILI)
    settings = read_serving_settings({"ISOGLOSS_PLANS": files(tmp_path, a=soft)})
    assert (settings.plans, settings.n_slots, settings.apart, settings.n_rows) == ({"a": soft}, 1, True, 2)
    environ = {"ISOGLOSS_PLANS": files(tmp_path, a=soft, b=ban, c=soft), "ISOGLOSS_PLAN": str(tmp_path / "c=.json")}
    settings = read_serving_settings(environ)
    assert settings.plans == {"": soft, "a": soft, "b": ban, "c": soft}
    assert (settings.kinds, settings.n_slots, settings.n_rows) == (("soft", "force", "ban"), 7, 8)
    with pytest.raises(PlanError, match="a number from 7 to"):
        read_serving_settings({**environ, "ISOGLOSS_SLOTS": "6"})


def test_an_engine_that_edits_all_alike_takes_no_named_plan(tmp_path):
    """It does not know whose tokens are whose."""
    settings = read_serving_settings({"ISOGLOSS_PLAN": files(tmp_path, a=plan_of(SOFT)).removeprefix("a=")})
    with pytest.raises(PlanError, match=r"edits all requests alike.*ISOGLOSS_PLANS"):
        settings.require({"a": plan_of(SOFT)})


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("", "ISOGLOSS_PLANS is set and empty"),
        ("a=", "has 'a='; expected NAME=PATH"),
        ("{a}", "expected NAME=PATH"),
        ("a={a},", "has ''; expected NAME=PATH"),
        ("a={a},/tmp/with,comma.json", "has '/tmp/with'"),
        ("a={a},b={a},a={a}", "names a twice"),
        ("={a}", "'' cannot be the name"),
        ("a/b={a}", "'a/b' cannot be the name"),
        ("..={a}", "'..' cannot be the name"),
        ("ä={a}", "'ä' cannot be the name"),
        (f"{'x' * 65}={{a}}", "up to 64 letters"),
        ("Unsteered={a}", "no plan can have the name Unsteered"),
        ("a=nowhere.json", "cannot read the plan nowhere.json"),
        ("a={empty}", "has no interventions; requests that name unsteered"),
    ],
)
def test_bad_names_of_plans_are_refused(tmp_path, names, message):
    """Nothing is guessed, and no plan is left out."""
    write_plan(plan_of(SOFT), tmp_path / "a.json")
    write_plan(plan_of(), tmp_path / "empty.json")
    named = names.format(a=tmp_path / "a.json", empty=tmp_path / "empty.json")
    with pytest.raises(PlanError, match=message):
        read_serving_settings({"ISOGLOSS_PLANS": named})


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"ISOGLOSS_PLAN": ""}, "set and empty"),
        ({"ISOGLOSS_PLAN": "nowhere.json"}, "cannot read the plan nowhere.json"),
        ({"ISOGLOSS_PLAN": "hf://me/plan"}, "hf://me/plan is on the hub.*`hf download OWNER/NAME plan.json"),
        ({"ISOGLOSS_PLAN": str(adapter_folder())}, "is a router adapter.*with --as vllm"),
        ({"ISOGLOSS_KINDS": "soft,loud"}, "names loud; expected some of soft"),
        ({"ISOGLOSS_SLOTS": "0"}, "a number from 1 to"),
        ({"ISOGLOSS_SLOTS": "many"}, "a number from 1 to"),
        ({"ISOGLOSS_RECORD": "yes"}, "expected 0 or 1"),
    ],
)
def test_bad_variables_are_refused(environ, message):
    """Nothing is guessed."""
    with pytest.raises(PlanError, match=message):
        read_serving_settings(environ)


def test_a_plan_that_steers_nothing_is_not_served(tmp_path):
    """A server that starts in silence would pass for a steered one."""
    write_plan(plan_of(), tmp_path / "plan.json")
    with pytest.raises(PlanError, match="has no interventions; unset ISOGLOSS_PLAN"):
        read_serving_settings({"ISOGLOSS_PLAN": str(tmp_path / "plan.json")})


def spoiled(**changes):
    """The file of a plan whose intervention is changed after it was checked."""
    raw = plan_of(Intervention("force", 1, (5, 2))).to_json()
    raw["interventions"][0] |= changes
    return json.dumps(raw).encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (spoiled(layer=77), "layer 77 is not a routed layer"),
        pytest.param(spoiled(experts=[99]), "expert 99 is out of range; expected 0 to 7", marks=pytest.mark.slow),
        pytest.param(spoiled(experts=[1, 2, 3]), "forces 3 experts; a token chooses 2", marks=pytest.mark.slow),
        pytest.param(spoiled(kind="soft", strength=float("nan")), "NaN is not allowed", marks=pytest.mark.slow),
        pytest.param(b"layers: 3", "is not a JSON file", marks=pytest.mark.slow),
        pytest.param(b"x" * 100_000_000, "is larger than 16 MiB", marks=pytest.mark.slow),
        pytest.param(None, "cannot read the plan", marks=pytest.mark.slow),
    ],
    ids=["layer", "expert", "top-k", "NaN", "no JSON", "100 MB", "missing"],
)
def test_bad_plans_end_a_process_with_one_line(tmp_path, content, message):
    """The plugin is called by vLLM; what it raises ends the process without a traceback."""
    if content is not None:
        (tmp_path / "plan.json").write_bytes(content)
    code = "from isogloss.backends.vllm.plugin import register; register()"
    environ = {"ISOGLOSS_PLAN": str(tmp_path / "plan.json"), "PATH": "", "OMP_NUM_THREADS": "1"}
    ended = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith("isogloss: ")
    assert message in line


def test_a_refusal_can_be_caught():
    """A program that starts vLLM itself handles it as any other error of ours."""
    refusal = RefusedError("why")
    assert isinstance(refusal, PlanError)
    assert str(refusal) == "why"


def test_workers_elsewhere_find_the_same_settings(tmp_path, monkeypatch):
    """The plan's path does not depend on the folder, and Ray passes the variables on."""
    monkeypatch.chdir(tmp_path)
    environ = {
        "ISOGLOSS_PLAN": "plan.json",
        "ISOGLOSS_PLANS": "a=b.json, c=/d=e.json",
        "VLLM_RAY_EXTRA_ENV_VAR_PREFIXES_TO_COPY": "MY_",
    }
    pass_on(environ)
    pass_on(environ)
    assert environ == {
        "ISOGLOSS_PLAN": str(tmp_path / "plan.json"),
        "ISOGLOSS_PLANS": f"a={tmp_path}/b.json,c=/d=e.json",
        "VLLM_RAY_EXTRA_ENV_VAR_PREFIXES_TO_COPY": "ISOGLOSS_,MY_",
    }


# Which row edits which token.


RULES = [BY_PHASE, SWAHILI, Intervention("ban", 1, (2,), languages=("de", "sw"))]


@given(st.data())
def test_rows_are_those_of_every_token_alone(data):
    """Plan, language and position of a token decide its row, whatever is beside it in a step."""
    names = data.draw(st.lists(st.sampled_from(["", "a", "b"]), unique=True))
    plans = {name: plan_of(*data.draw(st.lists(st.sampled_from(RULES), unique=True))) for name in names}
    slots = Slots(plans, apart=names != [""] or data.draw(st.booleans()))
    n = data.draw(st.integers(0, 5))
    named = st.sampled_from(["", *names, *(["unsteered"] if slots.apart else [])])
    language = st.sampled_from([None, "swh_Latn", "deu_Latn", "fra_Latn"])
    asked = data.draw(st.lists(st.tuples(named, language), min_size=n, max_size=n))
    numbers = st.lists(st.integers(0, 9), min_size=n, max_size=n)
    starts, first, n_tokens = (np.array(data.draw(numbers), dtype=np.int64) for _ in range(3))
    expected = []
    for (name, code), start, begin, count in zip(asked, starts, first, n_tokens, strict=True):
        for position in range(begin, begin + count):
            if (plan := plans.get(name)) is None:
                expected.append(Row("unsteered"))
                continue
            phase = ("generation" if position >= start else "prompt") if plan.by_phase else None
            expected.append(Row(name, code if code in plan.languages else None, phase))
    found = slots.of_tokens(asked, starts, first=first, n_tokens=n_tokens)
    assert [slots.rows[row] for row in found] == expected


def test_an_engine_without_a_plan_that_edits_all_alike_has_one_row():
    """It edits nothing."""
    assert Slots().of_tokens([("", None)], np.array([1]), first=np.array([0]), n_tokens=np.array([2])).tolist() == [
        0,
        0,
    ]


def test_a_name_that_nobody_let_in_is_an_error():
    """Never an answer without a plan."""
    slots = Slots({"a": plan_of(SOFT)}, apart=True)
    with pytest.raises(KeyError):
        slots.of_tokens([("b", None)], np.array([1]), first=np.array([0]), n_tokens=np.array([1]))


def test_every_row_has_the_edits_of_its_plan_language_and_phase():
    """Row by row, the arrays are those that the transformers backend compiles."""
    plans = {"": plan_of(SOFT, BY_PHASE, SWAHILI), "a": plan_of(SWAHILI)}
    slots = Slots(plans, apart=True)
    assert len(slots.rows) == 1 + n_slots_of(plans) == 7
    for layer in MODEL.layers:
        rows = slots.edits(layer)
        wanted = [
            LayerEdit(8),
            *(
                compile_layer(plans[name].for_request(code), layer, 8, phase=phase)
                for name, phases in (("", ("prompt", "generation")), ("a", (None,)))
                for code in (None, "sw")
                for phase in phases
            ),
        ]
        assert len(rows) == len(wanted)
        for mine, theirs in zip(rows, wanted, strict=True):
            assert mine.arrays.keys() == theirs.arrays.keys()
            for name, array in theirs.arrays.items():
                np.testing.assert_array_equal(mine.arrays[name], array)
    words = ["other languages, prompt", "other languages, generation", "swh_Latn, prompt", "swh_Latn, generation"]
    assert [slots.words(row) for row in slots.rows[1:]] == [*words, "other languages", "swh_Latn"]


# What a layer does.


class Router:
    """vLLM's router as the plugin sees it: chooses by softmax of the logits that it is given."""

    def _compute_routing(self, _hidden_states, router_logits, indices_type, **_):
        weights, ids = router_logits.float().softmax(-1).topk(2)
        return weights, ids.to(indices_type or torch.int32)


class Runner(torch.nn.Module):
    """vLLM's MoERunner as the plugin sees it."""

    def __init__(self):
        super().__init__()
        self.router = Router()

    def _apply_quant_method(self, hidden_states, router_logits, shared=None):
        return router_logits, self.router._compute_routing(hidden_states, router_logits, None), shared


class SteeredRunner(SteeredLayer, Runner):
    """As the plugin builds it."""


def steered(*, kinds=KINDS, n_slots=1, token_slots=None, **options):
    """A layer that is bound."""
    runner = SteeredRunner()
    bind(runner, LayerSteering(8, kinds=kinds, n_slots=n_slots, token_slots=token_slots, **options))
    return runner


@pytest.fixture
def logits():
    """Of five tokens."""
    return torch.randn((5, 8), generator=torch.Generator().manual_seed(0))


def test_logits_are_edited_before_the_choice(logits):
    """What goes on is what the pure function makes of the logits; a layer that is not bound passes them through."""
    assert SteeredRunner()._apply_quant_method(None, logits)[0] is logits
    runner = steered()
    edit = edit_layer([SOFT, Intervention("force", 1, (6,)), Intervention("ban", 1, (0,))], 8)
    runner.isogloss.load([edit])
    edited, (_, ids), shared = runner._apply_quant_method(None, logits, shared="kept")
    expected = apply_edit(logits, edit.to(logits))
    torch.testing.assert_close(edited, expected, rtol=0, atol=0)
    assert torch.equal(ids, expected.softmax(-1).topk(2).indices.int())
    assert shared == "kept"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_neutral_arrays_change_no_bit(logits, dtype):
    """An engine that could do everything, and is asked for nothing, hands on the numbers that it got, in float32."""
    edited, *_ = steered()._apply_quant_method(None, logits.to(dtype))
    assert edited.dtype == torch.float32
    assert torch.equal(edited, logits.to(dtype).float())
    untouched, *_ = steered(kinds=())._apply_quant_method(None, logits.to(dtype))
    assert untouched.dtype == dtype


def test_tokens_have_rows_of_their_own(logits):
    """Each token is edited by its row; rows that a plan does not use change nothing."""
    slots = torch.tensor([0, 1, 2, 1, 0, 0])
    runner = steered(n_slots=3, token_slots=slots)
    edits = [edit_layer([SOFT], 8), edit_layer([Intervention("ban", 1, (2, 3))], 8)]
    runner.isogloss.load(edits)
    edited, *_ = runner._apply_quant_method(None, logits)
    for token, slot in enumerate(slots[:5].tolist()):
        expected = (
            apply_edit(logits[token : token + 1], edits[slot].to(logits)) if slot < 2 else logits[token : token + 1]
        )
        torch.testing.assert_close(edited[token : token + 1], expected, rtol=0, atol=0)


def test_loading_again_leaves_nothing_of_the_plan_before(logits):
    """Buffers are overwritten in place: graphs that read them see the new plan, and only that."""
    runner = steered()
    places = {name: buffer.data_ptr() for name, buffer in runner.isogloss.named_buffers()}
    runner.isogloss.load([edit_layer([Intervention("ban", 1, (0, 1, 2)), SOFT], 8)])
    runner.isogloss.load([edit_layer([Intervention("offset", 1, (4,), values=(2.0,))], 8)])
    expected = logits.clone()
    expected[:, 4] += 2
    torch.testing.assert_close(runner._apply_quant_method(None, logits)[0], expected, rtol=0, atol=0)
    assert places == {name: buffer.data_ptr() for name, buffer in runner.isogloss.named_buffers()}


def test_only_the_experts_columns_are_edited(logits):
    """A gate that shares its product with a shared expert gives wider logits; the rest stays."""
    runner = steered()
    runner.isogloss.load([edit_layer([Intervention("ban", 1, (0,))], 8)])
    wide = torch.cat([logits, torch.full((5, 1), 9.0)], dim=1)
    edited, *_ = runner._apply_quant_method(None, wide)
    assert torch.equal(edited[:, 8], wide[:, 8])
    assert torch.isinf(edited[:, 0]).all()


def test_a_bias_does_not_undo_a_plan(logits):
    """Where the router adds a bias, the choice is computed here: as the reference router does under the same plan."""
    bias = torch.tensor([9.0, 0, 0, 0, -9.0, 0, 0, 0])
    spec = RouterSpec(1, 8, 2, scoring="sigmoid", selection_bias=True, n_groups=4, top_groups=2, group_score="top2_sum")
    runner = steered(reference=(spec, bias))
    edit = edit_layer([Intervention("ban", 1, (0,)), Intervention("force", 1, (4,))], 8)
    runner.isogloss.load([edit])
    edited, (weights, ids), _ = runner._apply_quant_method(None, logits)
    reference = route(edited.numpy(), spec, bias.numpy(), edit_choice=lambda scores: apply_choice(scores, edit))
    assert ids.dtype == torch.int32
    np.testing.assert_array_equal(ids.numpy(), reference.expert_ids)
    np.testing.assert_allclose(weights.numpy(), reference.combine_weights, atol=1e-6)
    assert (ids[:, 0] == 4).all()
    assert not (ids == 0).any()


def test_what_is_selected_leaves_logits_and_weights(logits):
    """Tokens with rows of their own: the reference router's choice, and weights that do not know of it."""
    spec = RouterSpec(1, 8, 2)
    runner = steered(reference=(spec, None), n_slots=2, token_slots=torch.tensor([0, 1, 0, 1, 0]))
    edits = [edit_layer([Intervention("select", 1, (3, 6), values=(v, -v))], 8) for v in (0.6, -0.6)]
    assert runner.isogloss.selects
    runner.isogloss.load(edits)
    edited, (weights, ids), _ = runner._apply_quant_method(None, logits)
    assert torch.equal(edited, logits)
    select = np.stack([edits[slot].select for slot in (0, 1, 0, 1, 0)])
    reference = route(logits.numpy(), spec, select=select)
    np.testing.assert_array_equal(ids.numpy(), reference.expert_ids)
    np.testing.assert_allclose(weights.numpy(), reference.combine_weights, atol=1e-6)
    assert (ids[::2, 0] == 3).all()
    assert (ids[1::2, 0] == 6).all()
    assert not steered().isogloss.selects


def test_select_is_asked_for_by_its_name():
    """Where kernels have no place for it, all kinds are those that do not replace the choice."""
    every, named = (read_serving_settings({"ISOGLOSS_KINDS": text}) for text in ("all", "all,select"))
    assert every.kinds == named.kinds == KINDS
    assert (every.selects_everywhere, named.selects_everywhere) == (False, True)
    assert every.summary != named.summary


# The proof.


def observed(plain, chosen):
    """What a layer did in a probe."""
    seen = Observation()
    seen.plain, seen.chosen = torch.tensor(plain), torch.tensor(chosen)
    return seen


def test_an_effect_is_a_changed_set():
    """Order does not matter; a row that changes nothing anywhere is refused."""
    edits = {1: edit_layer([SOFT], 8), 2: edit_layer([], 8)}
    seen = {1: observed([[1, 2], [3, 4]], [[2, 1], [3, 5]]), 2: observed([[1, 2]], [[5, 6]])}
    assert require_effect(seen, edits, "all", everywhere=True) == {1: 0.5}
    same = {1: observed([[1, 2]], [[2, 1]]), 2: seen[2]}
    with pytest.raises(PlanError, match="changed no chosen expert"):
        require_effect(same, edits, "all", everywhere=True)
    assert require_effect(same, edits, "all", everywhere=False) == {1: 0.0}  # one stage of a pipeline


@pytest.mark.parametrize(
    ("intervention", "message"),
    [
        (Intervention("ban", 1, (5,)), "50.0% of random tokens chose expert 5, which is banned"),
        (Intervention("force", 1, (1,)), "50.0% of random tokens chose expert 1, which is forced"),
    ],
)
def test_an_engine_that_undoes_a_plan_is_refused(intervention, message):
    """A banned expert is never chosen, and a forced one always."""
    with pytest.raises(PlanError, match=message):
        require_effect(
            {1: observed([[1, 2], [3, 4]], [[1, 2], [3, 5]])},
            {1: edit_layer([intervention], 8)},
            "all",
            everywhere=True,
        )


# The recorder.


def recorder_of(n_layers=2, max_tokens=32):
    """A recorder, and the layers whose buffers it reads."""
    layers = {}
    for layer in range(1, 1 + n_layers):
        layers[layer] = LayerSteering(8, kinds=(), n_slots=1, token_slots=None)
        layers[layer].keep(max_tokens, 2, torch.device("cpu"))
    return Recorder(layers, torch.device("cpu")), layers


@given(seed=st.integers(0, 2**32 - 1))
def test_recorded_sums_are_those_of_each_item_alone(seed):
    """However texts are cut into steps and mixed with others, sums and samples are those of their counted tokens."""
    random = np.random.default_rng(seed)
    n_items = int(random.integers(1, 4))
    lengths = random.integers(1, 8, size=n_items).tolist()
    counted = [np.flatnonzero(random.random(length) < 0.7).tolist() for length in lengths]
    sampled = [each[: int(random.integers(0, 4))] for each in counted]
    distinct = [each[::2] for each in counted]
    logits = [random.normal(size=(2, length, 8)).astype(np.float32) for length in lengths]
    ids = [each.argsort(-1)[..., :-3:-1].copy() for each in logits]
    recorder, layers = recorder_of()
    names = ("counted", "sampled", "distinct")
    recorder.start([dict(zip(names, each, strict=True)) for each in zip(counted, sampled, distinct, strict=True)])
    done = [0] * n_items
    while any(at < length for at, length in zip(done, lengths, strict=True)):
        parts = [int(random.integers(0, length - at + 1)) for at, length in zip(done, lengths, strict=True)]
        extra, first, n_tokens, place = [{}], [0], [1], 1  # a stranger's token comes first
        for item, (at, n) in enumerate(zip(done, parts, strict=True)):
            for index, steering in enumerate(layers.values()):
                steering.logits[place : place + n] = torch.from_numpy(logits[item][index, at : at + n])
                steering.expert_ids[place : place + n] = torch.from_numpy(ids[item][index, at : at + n])
            extra.append({"isogloss_item": item})
            first.append(at)
            n_tokens.append(n)
            place, done[item] = place + n, at + n
        for _ in range(2):  # a request that was pushed out of memory runs again
            recorder.begin(extra, np.array(first), np.array(n_tokens))
            recorder.end()
    found = safetensors.torch.load(recorder.stop())
    assert found["layers"].tolist() == [1, 2]
    for item, values in enumerate(logits):
        weights = np.exp(values) / np.exp(values).sum(-1, keepdims=True)
        chosen = np.zeros_like(values)
        np.put_along_axis(chosen, ids[item], 1, axis=-1)
        for name, array, where in (
            ("profiles", weights, counted),
            ("selections", chosen, counted),
            ("distinct_profiles", weights, distinct),
        ):
            np.testing.assert_allclose(found[name][item], array[:, where[item]].sum(1), atol=1e-5)
        np.testing.assert_array_equal(found["sampled"][item, :, : len(sampled[item])], ids[item][:, sampled[item]])


def test_a_token_that_did_not_run_is_an_error():
    """A prefix cache would leave tokens out; nothing is returned then."""
    recorder, _ = recorder_of()
    recorder.start([{"counted": [0, 1], "sampled": []}])
    recorder.begin([{"isogloss_item": 0}], np.array([1]), np.array([1]))
    recorder.end()
    with pytest.raises(ModelError, match="tokens of 1 items did not run"):
        recorder.stop()
