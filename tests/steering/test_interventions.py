"""Interventions: their formulas, the laws of force and ban, NumPy and torch alike."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from isogloss.errors import PlanError
from isogloss.records import decode
from isogloss.routing import RouterSpec, route
from isogloss.steering.interventions import KINDS, Intervention
from isogloss.steering.layer_edits import LayerEdit, apply_choice, apply_edit, apply_select, edit_layer

torch = pytest.importorskip("torch")

N_EXPERTS = 12
TOP_K = 4
HUGE = float(torch.finfo(torch.bfloat16).max)

FloatArray = npt.NDArray[np.float32]


def an_intervention(kind: str, experts: tuple[int, ...] = (3, 1), **fields: Any) -> Intervention:
    """Build an intervention of any kind with valid defaults."""
    defaults: dict[str, dict[str, Any]] = {
        "soft": {"strength": 0.5},
        "adaptive": {"strength": 0.02, "values": (0.3, 0.7)},
        "offset": {"values": (1.5, -2.0)},
        "select": {"values": (0.3, -0.2)},
    }
    return Intervention(**{"kind": kind, "layer": 0, "experts": experts, **defaults.get(kind, {}), **fields})


def logits_within(largest: float) -> st.SearchStrategy[FloatArray]:
    """Draw ``[n_tokens, N_EXPERTS]`` float32 logits; few distinct values are drawn often, so rows have ties."""
    values = st.floats(-largest, largest, width=32) | st.sampled_from([0.0, 1.0, -largest, largest])
    return arrays(
        np.float32, array_shapes(min_dims=1, max_dims=1, max_side=4).map(lambda s: (*s, N_EXPERTS)), elements=values
    )


def some_logits(seed: int = 0, scale: float = 3.0) -> FloatArray:
    """Draw ordinary logits ``[5, N_EXPERTS]``."""
    return (scale * np.random.default_rng(seed).standard_normal((5, N_EXPERTS))).astype(np.float32)


@st.composite
def forced_and_banned(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Draw disjoint experts to force (in rank order) and to ban, as many as a router with TOP_K allows."""
    order = draw(st.permutations(range(N_EXPERTS)))
    n_forced = draw(st.integers(1, TOP_K))
    n_banned = draw(st.integers(0, N_EXPERTS - TOP_K))
    return tuple(order[:n_forced]), tuple(order[N_EXPERTS - n_banned :])


def forced_and_banned_logits(logits: FloatArray, forced: tuple[int, ...], banned: tuple[int, ...]) -> FloatArray:
    """Edit logits by one force and, where there are banned experts, one ban."""
    interventions = [Intervention("force", 0, forced), *([Intervention("ban", 0, banned)] if banned else [])]
    return np.asarray(apply_edit(logits, edit_layer(interventions, N_EXPERTS)))


# Formulas


def test_soft_adds_standard_deviations_of_the_population():
    """Soft adds λ times the population standard deviation of each token's logits, to its experts only."""
    logits = some_logits()
    expected = logits.copy()
    expected[:, [1, 3]] += 0.5 * logits.std(axis=1, ddof=0, keepdims=True)
    np.testing.assert_allclose(
        apply_edit(logits, edit_layer([an_intervention("soft")], N_EXPERTS)), expected, rtol=1e-6
    )


def test_adaptive_adds_a_share_of_the_magnitude():
    """Adaptive adds λ·w_k·|z_k|, which raises negative logits too."""
    logits = some_logits()
    expected = logits.copy()
    expected[:, 3] += 0.02 * 0.3 * np.abs(logits[:, 3])
    expected[:, 1] += 0.02 * 0.7 * np.abs(logits[:, 1])
    edited = apply_edit(logits, edit_layer([an_intervention("adaptive")], N_EXPERTS))
    np.testing.assert_allclose(edited, expected, rtol=1e-6)


def test_offset_adds_its_constants_to_its_experts():
    """Offset adds values[i] to experts[i], also when experts are given in descending order."""
    logits = np.zeros((2, N_EXPERTS), dtype=np.float32)
    expected = logits.copy()
    expected[:, 3], expected[:, 1] = 1.5, -2.0
    np.testing.assert_array_equal(apply_edit(logits, edit_layer([an_intervention("offset")], N_EXPERTS)), expected)


def test_suppress_gives_the_smallest_logit_of_the_row():
    """Suppressed experts get the row's minimum; the others keep their logits."""
    logits = some_logits()
    expected = logits.copy()
    expected[:, [1, 3]] = logits.min(axis=1, keepdims=True)
    np.testing.assert_array_equal(apply_edit(logits, edit_layer([an_intervention("suppress")], N_EXPERTS)), expected)


def log_probabilities(logits: FloatArray) -> npt.NDArray[np.float64]:
    """What SteerMoE edits, in float64: ``log_softmax(z)``."""
    wide = logits.astype(np.float64)
    return wide - np.log(np.exp(wide - wide.max(1, keepdims=True)).sum(1, keepdims=True)) - wide.max(1, keepdims=True)


def published(logits: FloatArray, on: list[int], off: list[int]) -> npt.NDArray[np.float64]:
    """SteerMoE's formula as it is published: all logits become log-probabilities, then on and off."""
    scores = log_probabilities(logits)
    edited = scores.copy()
    edited[:, on] = scores.max(axis=1, keepdims=True) + 0.01
    edited[:, off] = scores.min(axis=1, keepdims=True) - 0.01
    return edited


def on_and_off(logits: FloatArray, on: tuple[int, ...], off: tuple[int, ...]) -> FloatArray:
    """Edit logits by one on and one off."""
    edits = [Intervention("on", 0, on), Intervention("off", 0, off)]
    return np.asarray(apply_edit(logits, edit_layer(edits, N_EXPERTS)))


def test_on_and_off_are_a_hundredth_beyond_the_row():
    """On is the row's maximum plus 0.01, off its minimum minus 0.01; the others keep their logits, bit by bit."""
    logits = some_logits()
    expected = logits.copy()
    expected[:, [1, 3]] = logits.max(axis=1, keepdims=True) + np.float32(0.01)
    expected[:, [0, 7]] = logits.min(axis=1, keepdims=True) - np.float32(0.01)
    np.testing.assert_array_equal(on_and_off(logits, (3, 1), (7, 0)), expected)


@given(logits_within(80.0))
def test_on_and_off_are_the_published_formula_up_to_a_constant_per_token(logits: FloatArray):
    """Ours less the published one is the same number for all experts of a token: what log_softmax subtracts."""
    difference = on_and_off(logits, (3, 1), (7, 0)) - published(logits, [3, 1], [7, 0])
    np.testing.assert_allclose(difference - difference[:, :1], 0.0, atol=1e-4)
    np.testing.assert_allclose(difference[:, 0], (logits - log_probabilities(logits))[:, 0], atol=1e-4)


@pytest.mark.parametrize(("scoring", "renormalise"), [("softmax", True), ("softmax", False), ("topk_softmax", True)])
def test_softmax_routers_do_what_the_published_formula_makes_them_do(scoring: Any, renormalise: Any):
    """The same experts with the same weights as on the published log-probabilities."""
    logits, spec = some_logits(), RouterSpec(0, N_EXPERTS, TOP_K, scoring, renormalise=renormalise)
    ours, theirs = (route(each, spec) for each in (on_and_off(logits, (3, 1), (7,)), published(logits, [3, 1], [7])))
    np.testing.assert_array_equal(ours.expert_ids, theirs.expert_ids)
    np.testing.assert_allclose(ours.combine_weights, theirs.combine_weights, rtol=1e-5)
    assert set(ours.expert_ids[:, :2].ravel()) == {1, 3}


def test_sigmoid_routers_keep_the_scores_of_experts_that_no_plan_names():
    """Why the logits are edited and not replaced by log-probabilities: that would change everyone's sigmoid."""
    logits = some_logits()
    spec = RouterSpec(0, N_EXPERTS, TOP_K, "sigmoid", renormalise=False)
    plain, edited, shifted = (
        route(each, replace(spec, top_k=N_EXPERTS))
        for each in (logits, on_and_off(logits, (3,), (7,)), published(logits, [3], [7]))
    )
    by_expert = [np.take_along_axis(r.combine_weights, r.expert_ids.argsort(1), 1) for r in (plain, edited, shifted)]
    rest = [k for k in range(N_EXPERTS) if k not in (3, 7)]
    np.testing.assert_array_equal(by_expert[1][:, rest], by_expert[0][:, rest])
    assert (abs(by_expert[2][:, rest] - by_expert[0][:, rest]) > 1e-3).any()


@given(logits_within(2.0**100), st.permutations(range(N_EXPERTS)), st.integers(1, TOP_K))
def test_experts_that_are_on_tie_above_all_others_and_all_are_chosen(logits: FloatArray, order: list[int], n: int):
    """Equal logits strictly above the rest, so whichever way a router breaks ties, it takes the same set."""
    on, off = sorted(order[:n]), order[-1:]
    edited = on_and_off(logits, tuple(on), tuple(off))
    rest = np.delete(edited, on, axis=1)
    assert (edited[:, on] == edited[:, on[:1]]).all()
    assert (edited[:, on[0]] > rest.max(axis=1)).all()
    assert (edited[:, off[0]] < np.delete(edited, off, axis=1).min(axis=1)).all()
    spec = RouterSpec(0, N_EXPERTS, TOP_K, "topk_softmax")
    backwards = route(edited[:, ::-1], spec)  # ties go to the lower id, here the higher one
    forwards = route(edited, spec)
    np.testing.assert_array_equal(forwards.expert_ids[:, :n], [on] * len(logits))
    np.testing.assert_array_equal(N_EXPERTS - 1 - backwards.expert_ids[:, :n], [on[::-1]] * len(logits))
    assert (forwards.combine_weights[:, :n] == forwards.combine_weights[:, :1]).all()


def test_on_and_off_read_what_suppress_left_and_not_each_other():
    """The row is edited by the earlier kinds first; turning the lowest on does not change what off is below."""
    logits = np.float32([[4.0, 0.0, -3.0, 1.0]])
    edits = [Intervention("on", 0, (2,)), Intervention("off", 0, (3,)), Intervention("offset", 0, (1,), values=(6.0,))]
    np.testing.assert_array_equal(apply_edit(logits, edit_layer(edits, 4)), np.float32([[4, 6, 6.01, -3.01]]))


def test_force_and_ban_act_after_on_and_off():
    """A forced expert is above those that are on, a banned one below those that are off."""
    edits = [
        Intervention("on", 0, (2,)),
        Intervention("off", 0, (3,)),
        Intervention("force", 0, (0,)),
        Intervention("ban", 0, (1,)),
    ]
    np.testing.assert_array_equal(np.argsort(apply_edit(np.zeros((1, 5)), edit_layer(edits, 5))), [[1, 3, 4, 2, 0]])


def test_additive_kinds_read_the_original_logits_and_add_up():
    """Soft, adaptive and offset on one expert give the sum of the three shifts of the original logit."""
    logits = some_logits()
    kinds = ("soft", "adaptive", "offset")
    shifts = [apply_edit(logits, edit_layer([an_intervention(kind)], N_EXPERTS)) - logits for kind in kinds]
    together = apply_edit(logits, edit_layer([an_intervention(kind) for kind in kinds], N_EXPERTS))
    np.testing.assert_allclose(together, logits + sum(shifts), rtol=1e-5, atol=1e-5)


def test_later_kinds_read_what_earlier_ones_left():
    """Suppress takes the minimum, and force the maximum, after the additive kinds."""
    logits = np.zeros((1, 4), dtype=np.float32)
    offset = Intervention("offset", 0, (0, 1), values=(9.0, -9.0))
    edit = edit_layer([Intervention("force", 0, (3,)), Intervention("suppress", 0, (2,)), offset], 4)
    edited = apply_edit(logits, edit)
    np.testing.assert_array_equal(edited[0, :3], [9.0, -9.0, -9.0])
    assert 9.0 < edited[0, 3] < 9.001


def test_two_soft_interventions_of_one_layer_both_act():
    """Interventions of one kind with different strengths are added, none overwrites another."""
    first, second = an_intervention("soft", (1,)), an_intervention("soft", (2,), strength=-0.25)
    np.testing.assert_array_equal(edit_layer([first, second], 4).soft, np.float32([0, 0.5, -0.25, 0]))


def test_two_interventions_of_one_expert_add_up():
    """Dense arrays hold the sum of the strengths that reach an expert."""
    edit = edit_layer([an_intervention("soft", (1,)), an_intervention("soft", (1, 2), strength=0.25)], 4)
    np.testing.assert_array_equal(edit.soft, np.float32([0, 0.75, 0.25, 0]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_every_kind_computes_in_float32(kind: str, dtype: Any):
    """Logits of another precision give exactly what their float32 copies give."""
    logits = torch.tensor(some_logits()).to(dtype)
    edit = edit_layer([an_intervention(kind)], N_EXPERTS).to(logits)
    edited = apply_edit(logits, edit)
    assert edited.dtype == torch.float32
    assert torch.equal(edited, apply_edit(logits.float(), edit))


# Laws of force and ban


@given(logits_within(2.0**100), forced_and_banned())
def test_forced_experts_come_first_and_banned_ones_never_where_logits_choose(
    logits: FloatArray, experts: tuple[tuple[int, ...], tuple[int, ...]]
):
    """A router that chooses on logits takes forced experts for every token, in rank order, and banned ones never."""
    forced = experts[0]
    chosen = route(
        forced_and_banned_logits(logits, *experts), RouterSpec(0, N_EXPERTS, TOP_K, "topk_softmax")
    ).expert_ids
    np.testing.assert_array_equal(chosen[:, : len(forced)], [forced] * len(logits))
    assert not np.isin(chosen, experts[1]).any()


@given(logits_within(2.0**16), forced_and_banned())
def test_forced_experts_come_first_where_probabilities_choose(
    logits: FloatArray, experts: tuple[tuple[int, ...], tuple[int, ...]]
):
    """A softmax router takes forced experts for every token, in rank order, as long as no rank underflows to zero."""
    forced = experts[0]
    chosen = route(forced_and_banned_logits(logits, *experts), RouterSpec(0, N_EXPERTS, TOP_K, "softmax")).expert_ids
    np.testing.assert_array_equal(chosen[:, : len(forced)], [forced] * len(logits))


@given(logits_within(40.0), forced_and_banned())
def test_banned_experts_are_never_chosen_by_softmax(
    logits: FloatArray, experts: tuple[tuple[int, ...], tuple[int, ...]]
):
    """A softmax router never chooses a banned expert, as long as no other probability underflows to zero as well."""
    chosen = route(forced_and_banned_logits(logits, *experts), RouterSpec(0, N_EXPERTS, TOP_K, "softmax")).expert_ids
    assert not np.isin(chosen, experts[1]).any()


@given(logits_within(HUGE), forced_and_banned())
def test_forced_logits_are_strictly_above_all_others(
    logits: FloatArray, experts: tuple[tuple[int, ...], tuple[int, ...]]
):
    """In float32 each forced logit is finite, above the next rank, and the last one above every other logit."""
    forced = list(experts[0])
    edited = apply_edit(logits, edit_layer([Intervention("force", 0, experts[0])], N_EXPERTS))
    others = np.delete(edited, forced, axis=1).max(axis=1, keepdims=True)
    ladder = np.concatenate([edited[:, forced], others], axis=1)
    assert np.isfinite(edited).all()
    assert (ladder[:, :-1] > ladder[:, 1:]).all()


@given(logits_within(HUGE), forced_and_banned())
def test_force_is_exact_for_bfloat16_logits(logits: FloatArray, experts: tuple[tuple[int, ...], tuple[int, ...]]):
    """Logits that arrive in bfloat16 are cast up first, so ranks do not round away."""
    forced = list(experts[0])
    low_precision = torch.tensor(logits).to(torch.bfloat16)
    edited = apply_edit(low_precision, edit_layer([Intervention("force", 0, experts[0])], N_EXPERTS).to(low_precision))
    assert edited.dtype == torch.float32
    best = edited.sort(dim=-1, descending=True, stable=True).indices[:, : len(forced)]
    assert (best == torch.tensor(forced)).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e5])
def test_every_gradient_is_a_number(kind: str, scale: float):
    """Whatever the size of the logits: also of the experts that no intervention names."""
    logits = torch.tensor(some_logits(scale=scale)).requires_grad_()
    apply_edit(logits, edit_layer([an_intervention(kind, (3, 1))], N_EXPERTS).to(logits.detach()))[
        :, :6
    ].sum().backward()
    assert logits.grad.isfinite().all()
    assert (logits.grad[:, 4] != 0).all()


def test_several_force_interventions_rank_in_the_order_given():
    """The second force of a layer ranks after the first."""
    edit = edit_layer([Intervention("force", 0, (2, 0)), Intervention("force", 0, (1,))], 4)
    np.testing.assert_array_equal(edit.force_rank, [2, 3, 1, 0])


def test_the_other_experts_keep_their_logits_under_force_and_ban():
    """Force and ban leave every other logit bit-identical."""
    logits = some_logits()
    edit = edit_layer([Intervention("force", 0, (2, 0)), Intervention("ban", 0, (5, 7))], N_EXPERTS)
    rest = [k for k in range(N_EXPERTS) if k not in (0, 2, 5, 7)]
    np.testing.assert_array_equal(apply_edit(logits, edit)[:, rest], logits[:, rest])


# One function for NumPy and torch


@pytest.mark.parametrize("kinds", [(kind,) for kind in KINDS] + [("soft", "offset", "adaptive", "suppress")])
@pytest.mark.parametrize("shape", [(5, N_EXPERTS), (2, 3, N_EXPERTS), (N_EXPERTS,), (0, N_EXPERTS)])
def test_numpy_and_torch_agree(kinds: tuple[str, ...], shape: tuple[int, ...]):
    """Both namespaces give the same float32 numbers for any number of leading axes, no tokens included."""
    logits = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    edit = edit_layer([an_intervention(kind) for kind in kinds], N_EXPERTS)
    tensor = torch.tensor(logits)
    of_numpy, of_torch = apply_edit(logits, edit), apply_edit(tensor, edit.to(tensor))
    assert of_numpy.dtype == np.float32
    assert of_torch.dtype == torch.float32
    assert of_numpy.shape == shape
    np.testing.assert_allclose(of_torch.numpy(), of_numpy, rtol=1e-6, atol=1e-6)


@given(logits_within(64.0), st.floats(-64.0, 64.0))
def test_soft_follows_a_shift_of_all_logits(logits: FloatArray, shift: float):
    """A constant added to all logits moves the result of soft by that constant, since a deviation ignores it."""
    edit = edit_layer([an_intervention("soft")], N_EXPERTS)
    moved = apply_edit(logits.astype(np.float64) + shift, edit)
    np.testing.assert_allclose(moved, apply_edit(logits, edit) + shift, atol=1e-3)


@given(st.permutations(range(N_EXPERTS)), st.sampled_from(KINDS))
def test_relabelling_experts_permutes_the_result(order: list[int], kind: str):
    """Renaming experts in logits and intervention renames them in the result."""
    logits, label = some_logits(), np.argsort(order)
    plain = apply_edit(logits, edit_layer([an_intervention(kind, (3, 1))], N_EXPERTS))
    renamed = an_intervention(kind, (int(label[3]), int(label[1])))
    permuted = apply_edit(logits[:, order], edit_layer([renamed], N_EXPERTS))
    np.testing.assert_allclose(permuted, plain[:, order], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_an_empty_edit_changes_no_logit(dtype: Any):
    """Without interventions the logits come back bit-identical, in float32."""
    logits = torch.tensor(some_logits()).to(dtype)
    edit = edit_layer([], N_EXPERTS).to(logits)
    assert edit.is_empty
    edited = apply_edit(logits, edit)
    assert edited.dtype == torch.float32
    assert torch.equal(edited, logits.float())


@pytest.mark.parametrize("kind", KINDS)
def test_the_given_logits_are_not_written_to(kind: str):
    """An edit returns new logits; those of the caller stay as they were."""
    logits = some_logits()
    apply_edit(logits, edit_layer([an_intervention(kind)], N_EXPERTS))
    np.testing.assert_array_equal(logits, some_logits())


def test_moved_arrays_are_copies():
    """Changing the original arrays later does not change an edit that was moved."""
    edit = edit_layer([an_intervention("offset")], N_EXPERTS)
    moved = edit.to(torch.zeros(1))
    edit.offset[:] = 7.0
    assert moved.offset[1] == -2.0


@pytest.mark.parametrize("like", [np.zeros(1), torch.zeros(1), torch.zeros(1, dtype=torch.bfloat16)])
def test_moving_keeps_every_array_and_dtype(like: Any):
    """Only namespace and device of the example count, not its dtype; moving twice is the same as once."""
    edit = edit_layer([an_intervention("soft"), an_intervention("force"), an_intervention("ban", (5,))], N_EXPERTS)
    moved = edit.to(like).to(like)
    assert moved.arrays.keys() == {"soft", "force_rank", "force_lift", "least_score", "ban"}
    for name, array in edit.arrays.items():
        assert type(moved.arrays[name]) is type(like)
        assert np.asarray(moved.arrays[name]).dtype == array.dtype
        np.testing.assert_array_equal(np.asarray(moved.arrays[name]), array)


def test_an_edit_of_another_namespace_is_refused():
    """Torch logits with a NumPy edit raise; they are not converted in every forward."""
    with pytest.raises(TypeError, match="namespaces"):
        apply_edit(torch.zeros(1, N_EXPERTS), edit_layer([an_intervention("offset")], N_EXPERTS))


def test_logits_of_another_width_are_refused():
    """Extra columns would change maximum, minimum and deviation, so the widths must agree."""
    with pytest.raises(PlanError, match="13 wide; this edit is for 12"):
        apply_edit(np.zeros((1, N_EXPERTS + 1)), LayerEdit(N_EXPERTS))


def test_dense_arrays_need_experts_in_range():
    """An expert id that the layer lacks is refused, not wrapped around."""
    with pytest.raises(PlanError, match="expert 3 is out of range; the layer has 3 experts"):
        edit_layer([an_intervention("ban", (3,))], 3)


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")  # of array_api_compat
def test_an_edit_compiles_into_one_graph():
    """torch.compile traces an edit without a graph break, so engines may compile it."""
    logits = torch.tensor(some_logits())
    edit = edit_layer([an_intervention(kind) for kind in KINDS if kind != "suppress"], N_EXPERTS).to(logits)
    compiled = torch.compile(lambda z: apply_edit(z, edit), backend="eager", fullgraph=True)
    assert torch.equal(compiled(logits), apply_edit(logits, edit))


def test_steering_does_not_import_torch():
    """Importing steering and editing NumPy logits leaves torch unloaded."""
    code = (
        "import sys, numpy, isogloss.steering as s, isogloss.steering.layer_edits as i\n"
        "s.apply_edit(numpy.zeros((1, 4)), i.edit_layer([s.Intervention('ban', 0, (1,))], 4))\n"
        "sys.exit('torch' in sys.modules)"
    )
    source = Path(__file__).parents[2] / "src"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=source).returncode == 0


# Construction


def test_experts_are_sorted_with_their_values_except_for_force():
    """Equal edits are equal objects; only force keeps the order, which ranks."""
    offset = Intervention("offset", 2, (5, 1), values=(0.1, 0.2))
    assert (offset.experts, offset.values) == ((1, 5), (0.2, 0.1))
    assert Intervention("force", 2, (5, 1)).experts == (5, 1)


def test_numpy_numbers_become_python_numbers():
    """Ids and strengths from arrays are stored as Python numbers, which JSON can write."""
    made = Intervention("soft", np.int64(2), np.array([4, 3]), strength=np.float32(0.5))  # type: ignore[arg-type]
    assert [type(value) for value in (made.layer, made.experts[0], made.strength)] == [int, int, float]


def test_minus_zero_is_zero():
    """Equal interventions have equal JSON, so equal plans have equal hashes."""
    below, above = an_intervention("soft", strength=-0.0), an_intervention("soft", strength=0.0)
    assert str(below.to_json()) == str(above.to_json())


@pytest.mark.parametrize("kind", KINDS)
def test_json_round_trip_is_the_identity(kind: str):
    """An intervention of every kind equals the one read back from its JSON."""
    made = an_intervention(kind)
    assert decode(Intervention, made.to_json(), "") == made


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("boost", {}, "unknown kind of intervention 'boost'; expected one of soft, force"),
        ("ban", {"layer": -1}, "layer: found -1; expected an integer of at least 0"),
        ("ban", {"layer": True}, "layer: found True; expected an integer"),
        ("ban", {"layer": 1.0}, "layer: found 1.0; expected an integer"),
        ("ban", {"experts": ()}, "ban in layer 0 has no experts"),
        ("ban", {"experts": (1, -2)}, "found -2; expected an integer of at least 0"),
        ("ban", {"experts": (1, "2")}, "found '2'; expected an integer"),
        ("ban", {"experts": "12"}, "is '12'; expected a list"),
        ("ban", {"experts": 3}, "is 3; expected a list"),
        ("ban", {"experts": (1, 4, 1)}, r"names experts \[1\] more than once"),
        ("ban", {"strength": 0.5}, "ban in layer 0 has strength 0.5; this kind takes no strength"),
        ("force", {"values": (1.0, 2.0)}, "this kind takes no values"),
        ("offset", {"strength": 1.0}, "this kind takes no strength"),
        ("offset", {"values": None}, "offset in layer 0 has no values"),
        ("offset", {"values": (1.0,)}, "1 values for 2 experts"),
        ("offset", {"values": (1.0, 2.0, 3.0)}, "3 values for 2 experts"),
        ("offset", {"values": ()}, "0 values for 2 experts"),
        ("offset", {"values": (1.0, NAN)}, "expected a finite number"),
        ("offset", {"values": (1.0, 1e39)}, "outside the float32 range"),
        ("offset", {"values": (1.0, 10**400)}, "outside the float32 range"),
        ("offset", {"values": (1.0, "2")}, "found '2'; expected a number"),
        ("offset", {"values": 2.0}, "is 2.0; expected a list"),
        ("select", {"strength": 1.0}, "this kind takes no strength"),
        ("select", {"values": None}, "select in layer 0 has no values"),
        ("select", {"values": (1.0, -3.4e38)}, r"values of select in layer 0: found -3\.4e\+38; .* at most 1e\+30"),
        ("soft", {"strength": None}, "soft in layer 0 has no strength"),
        ("soft", {"strength": 1.01}, r"found 1.01; expected a number in \[-1, 1\]"),
        ("soft", {"strength": -2}, r"expected a number in \[-1, 1\]"),
        ("soft", {"strength": NAN}, "expected a finite number"),
        ("soft", {"strength": "0.5"}, "found '0.5'; expected a number"),
        ("soft", {"strength": True}, "found True; expected a number"),
        ("adaptive", {"strength": INF}, "expected a finite number"),
        ("adaptive", {"strength": None}, "adaptive in layer 0 has no strength"),
        ("adaptive", {"values": None}, "adaptive in layer 0 has no values"),
        ("adaptive", {"strength": 1e20, "values": (1e20, 0.0)}, "strength times values"),
    ],
)
def test_malformed_interventions_are_refused_with_the_reason(kind: str, fields: dict[str, Any], message: str):
    """What is wrong is said at construction, with what was found and expected."""
    with pytest.raises(PlanError, match=message):
        an_intervention(kind, **fields)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ([], r"Input should be an object, found \[\]"),
        ({"kind": "ban", "layer": 0}, "experts: missing"),
        ({"kind": "ban", "layer": 0, "experts": [1], "weights": [1]}, "weights: unknown field"),
    ],
)
def test_json_of_another_shape_is_refused(raw: object, message: str):
    """Missing and unknown fields are named."""
    with pytest.raises(ValueError, match=message):
        decode(Intervention, raw, "")


# The choice


GROUPED = RouterSpec(0, N_EXPERTS, TOP_K, scoring="sigmoid", selection_bias=True, n_groups=4, top_groups=2)
BIAS = np.linspace(2, -2, N_EXPERTS, dtype=np.float32)


@given(logits_within(1e4), forced_and_banned())
def test_force_and_ban_hold_behind_bias_groups_and_saturation(
    logits: FloatArray, parts: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    """Whatever the router adds or leaves out after the logits, forced experts come first, in order, banned never."""
    forced, banned = parts
    interventions = [Intervention("force", 0, forced), *([Intervention("ban", 0, banned)] if banned else [])]
    edit = edit_layer(interventions, N_EXPERTS)
    chosen = route(apply_edit(logits, edit), GROUPED, BIAS, edit_choice=lambda scores: apply_choice(scores, edit))
    assert (chosen.expert_ids[:, : len(forced)] == forced).all()
    assert not np.isin(chosen.expert_ids, banned).any()
    plain = route(apply_edit(logits, edit), GROUPED, BIAS)
    assert plain.expert_ids.shape == chosen.expert_ids.shape


def test_without_the_edit_of_the_choice_bias_and_groups_undo_force_and_ban() -> None:
    """Why the choice is edited too: at the logits alone, the bias wins."""
    edit = edit_layer([Intervention("force", 0, (11,)), Intervention("ban", 0, (0,))], N_EXPERTS)
    chosen = route(apply_edit(some_logits(), edit), GROUPED, BIAS).expert_ids
    assert (chosen == 0).any()
    assert not (chosen == 11).any()


def test_weights_come_from_the_logits() -> None:
    """Editing the choice changes who is chosen; the weights are the edited logits' scores."""
    edit = edit_layer([Intervention("force", 0, (11,))], N_EXPERTS)
    logits = np.asarray(apply_edit(some_logits(), edit))
    spec = RouterSpec(0, N_EXPERTS, TOP_K, scoring="sigmoid", selection_bias=True, renormalise=False)
    chosen = route(logits, spec, BIAS, edit_choice=lambda scores: apply_choice(scores, edit))
    expected = 1 / (1 + np.exp(-np.take_along_axis(logits, chosen.expert_ids, axis=1)))
    np.testing.assert_allclose(chosen.combine_weights, expected, rtol=1e-6)


@given(logits_within(1e4), forced_and_banned())
def test_choices_of_numpy_and_torch_are_equal(
    logits: FloatArray, parts: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    """The same function gives the same bits in both namespaces, also where groups are left out."""
    forced, banned = parts
    interventions = [Intervention("force", 0, forced), *([Intervention("ban", 0, banned)] if banned else [])]
    edit = edit_layer(interventions, N_EXPERTS)
    scores = np.where(np.arange(N_EXPERTS) < 6, -np.inf, logits).astype(np.float32)
    tensor = torch.from_numpy(scores)
    np.testing.assert_array_equal(apply_choice(tensor, edit.to(tensor)).numpy(), apply_choice(scores, edit))


def test_the_other_kinds_leave_the_choice_alone() -> None:
    """No other kind fixes who is chosen."""
    kinds = [an_intervention(kind) for kind in KINDS if kind not in ("force", "ban")]
    edit = edit_layer(kinds, N_EXPERTS)
    assert not edit.fixes_choice
    np.testing.assert_array_equal(apply_choice(some_logits(), edit), some_logits())


# Select


def test_select_adds_its_constants_to_what_is_ranked_and_to_no_logit() -> None:
    """Values[i] to experts[i], as the sum of all interventions; logits stay, and so do the other experts."""
    edit = edit_layer([an_intervention("select"), an_intervention("select", (1, 5), values=(0.5, 1.0))], N_EXPERTS)
    scores, added = some_logits(), np.zeros(N_EXPERTS, dtype=np.float32)
    added[[1, 3, 5]] = np.float32(-0.2) + np.float32(0.5), 0.3, 1.0
    np.testing.assert_array_equal(apply_select(scores, edit), scores + added)
    np.testing.assert_array_equal(apply_edit(scores, edit), scores)
    np.testing.assert_array_equal(apply_choice(scores, edit), scores)
    assert not edit.edits_logits
    assert not edit.fixes_choice
    assert not edit.is_empty


@pytest.mark.parametrize("kind", KINDS)
def test_an_edit_says_whether_it_reaches_the_logits(kind: str) -> None:
    """All kinds do, apart from select; none else is added to the scores."""
    logits, edit = some_logits(), edit_layer([an_intervention(kind)], N_EXPERTS)
    assert edit.edits_logits == (apply_edit(logits, edit) != logits).any()
    assert (kind == "select") == (apply_select(logits, edit) != logits).any()


def test_constants_of_zero_make_an_empty_edit() -> None:
    """Nothing is applied, so nothing can change."""
    assert edit_layer([an_intervention("select", values=(0.0, 0.0))], N_EXPERTS).is_empty


SPECS_OF_SELECT = [
    RouterSpec(0, N_EXPERTS, TOP_K, scoring, selection_bias=bias, n_groups=n, top_groups=n // 2 or 1, group_score=best)
    for scoring in ("softmax", "sigmoid", "sqrtsoftplus", "topk_softmax", "topk_sigmoid")
    for bias in (False, True)
    for n, best in ((1, "max"), (4, "max"), (4, "top2_sum"))
]
TWO = RouterSpec(0, N_EXPERTS, 2, "sparsemixer", jitter=0.1)


@pytest.mark.parametrize("spec", [*SPECS_OF_SELECT, TWO], ids=str)
def test_select_is_a_selection_bias(spec: RouterSpec) -> None:
    """The same choice and weights, bit for bit, as of a router whose bias is the sum: also of one that had none."""
    edit = edit_layer([an_intervention("select", (4, 3, 11), values=(9.0, -2.0, 0.5))], N_EXPERTS)
    bias = BIAS if spec.selection_bias else None
    found = route(some_logits(), spec, bias, select=edit.select)
    other = replace(spec, selection_bias=True)
    expected = route(some_logits(), other, apply_select(np.zeros(N_EXPERTS) if bias is None else bias, edit))
    np.testing.assert_array_equal(found.expert_ids, expected.expert_ids)
    np.testing.assert_array_equal(found.combine_weights, expected.combine_weights)
    plain = route(some_logits(), spec, bias)
    assert (np.sort(found.expert_ids) != np.sort(plain.expert_ids)).any()


@pytest.mark.parametrize("spec", SPECS_OF_SELECT, ids=str)
def test_select_decides_groups_and_weights_do_not_know_of_it(spec: RouterSpec) -> None:
    """A large constant brings an expert, and with it its group, to every token; its weight is that of its own score."""
    edit = edit_layer([an_intervention("select", (7,), values=(60.0,))], N_EXPERTS)
    logits, bias = some_logits(), BIAS if spec.selection_bias else None
    plain = replace(spec, renormalise=False, scoring="sigmoid" if spec.scoring == "topk_sigmoid" else spec.scoring)
    found = route(logits, replace(spec, renormalise=False), bias, select=edit.select)
    assert (found.expert_ids[:, 0] == 7).all()
    if spec.scoring != "topk_softmax":  # whose weights are shares among the chosen
        everyone = route(logits, replace(plain, top_k=N_EXPERTS, n_groups=1), bias)
        own = np.take_along_axis(everyone.combine_weights, everyone.expert_ids.argsort(1), axis=1)
        np.testing.assert_allclose(found.combine_weights, np.take_along_axis(own, found.expert_ids, axis=1), rtol=1e-6)


@given(logits_within(1e4), forced_and_banned())
def test_force_and_ban_act_after_select(logits: FloatArray, parts: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    """Against constants that favour the banned and their groups."""
    forced, banned = parts
    interventions = [Intervention("force", 0, forced), *([Intervention("ban", 0, banned)] if banned else [])]
    if banned:
        interventions.append(Intervention("select", 0, banned, values=(50.0,) * len(banned)))
    edit = edit_layer(interventions, N_EXPERTS)
    chosen = route(
        apply_edit(logits, edit),
        GROUPED,
        BIAS,
        select=edit.select,
        edit_choice=lambda scores: apply_choice(scores, edit),
    )
    assert (chosen.expert_ids[:, : len(forced)] == forced).all()
    assert not np.isin(chosen.expert_ids, banned).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_select_of_numpy_and_torch_is_equal(dtype: Any) -> None:
    """The same bits in float32, whatever the dtype of the scores."""
    scores, edit = torch.tensor(some_logits()).to(dtype), edit_layer([an_intervention("select")], N_EXPERTS)
    found = apply_select(scores, edit.to(scores))
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found.numpy(), apply_select(scores.float().numpy(), edit))
    with pytest.raises(PlanError, match="13 wide; this edit is for 12"):
        apply_select(np.zeros((1, N_EXPERTS + 1)), edit)
