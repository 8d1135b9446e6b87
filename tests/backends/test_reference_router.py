"""The choice in torch against the reference router in NumPy, also traced into one graph."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from slow import slow_but

from isogloss.errors import PlanError
from isogloss.routing import RouterSpec, Routing, choice_scores, route
from isogloss.steering import Intervention, LayerEdit, apply_choice, apply_edit
from isogloss.steering.layer_edits import edit_layer

torch = pytest.importorskip("torch")

from isogloss.backends.reference_router import choose_experts  # noqa: E402 - torch first

N_EXPERTS, TOP_K, N_TOKENS = 12, 4, 6
SPECS = [
    RouterSpec(0, N_EXPERTS, TOP_K),
    RouterSpec(0, N_EXPERTS, TOP_K, renormalise=False, scaling=0.5),
    RouterSpec(0, N_EXPERTS, TOP_K, selection_bias=True),
    RouterSpec(0, N_EXPERTS, TOP_K, renormalise=False, n_groups=4, top_groups=2, others_score_zero=True),
    RouterSpec(0, N_EXPERTS, TOP_K, "sigmoid", scaling=2.5),
    RouterSpec(0, N_EXPERTS, TOP_K, "sigmoid", selection_bias=True, renormalise=False),
    RouterSpec(
        0,
        N_EXPERTS,
        TOP_K,
        "sigmoid",
        selection_bias=True,
        n_groups=4,
        top_groups=2,
        group_score="top2_sum",
        scaling=2.5,
    ),
    RouterSpec(0, N_EXPERTS, 2, "sigmoid", selection_bias=True, n_groups=12, top_groups=3, group_score="top2_sum"),
    RouterSpec(0, N_EXPERTS, 3, "sigmoid", selection_bias=True, n_groups=4, top_groups=1, others_score_zero=True),
    RouterSpec(0, N_EXPERTS, TOP_K, "sqrtsoftplus", selection_bias=True, scaling=1.5),
    RouterSpec(0, N_EXPERTS, TOP_K, "topk_softmax"),
    RouterSpec(0, N_EXPERTS, TOP_K, "topk_softmax", selection_bias=True, expert_scale=True, n_groups=3, top_groups=2),
    RouterSpec(0, N_EXPERTS, TOP_K, "topk_sigmoid", selection_bias=True),
    RouterSpec(0, N_EXPERTS, TOP_K, "topk_sigmoid", renormalise=False, expert_scale=True),
]
DEEPSEEK = SPECS[6]
SCALE = np.linspace(0.0, 2.0, N_EXPERTS, dtype=np.float32)

FloatArray = npt.NDArray[np.float32]


def some_logits(seed: int, scale: float, n_tokens: int = N_TOKENS) -> FloatArray:
    """Draw logits ``[n_tokens, N_EXPERTS]``; a scale of hundreds saturates every score in float32."""
    return (scale * np.random.default_rng(seed).standard_normal((n_tokens, N_EXPERTS))).astype(np.float32)


def a_bias(spec: RouterSpec, largest: float) -> FloatArray | None:
    """From ``largest`` for expert 0 down to its opposite for the last, or None where the router has no bias."""
    return np.linspace(largest, -largest, N_EXPERTS, dtype=np.float32) if spec.selection_bias else None


def an_edit(order: list[int], n_forced: int, n_banned: int, selected: float = 0.0) -> LayerEdit:
    """Force the first experts of an order and ban the last ones; select one of each and one in between."""
    forced, banned = order[:n_forced], order[N_EXPERTS - n_banned :]
    edits = [Intervention("force", 0, tuple(forced))] if forced else []
    edits.append(Intervention("select", 0, (order[0], order[3], order[-1]), values=(selected, -selected, 2 * selected)))
    return edit_layer([*edits, *([Intervention("ban", 0, tuple(banned))] if banned else [])], N_EXPERTS)


def stacked(edits: list[LayerEdit]) -> LayerEdit:
    """One edit with a row per token, of edits that all force and ban."""
    return LayerEdit(N_EXPERTS, **{name: np.stack([e.arrays[name] for e in edits]) for name in edits[0].arrays})


def chosen_in_numpy(logits: FloatArray, spec: RouterSpec, bias: FloatArray | None, edit: LayerEdit) -> Routing:
    """Edit and choose by the reference."""
    scale = SCALE if spec.expert_scale else None
    edited = apply_edit(logits, edit)
    return route(
        edited,
        spec,
        bias,
        select=edit.select,
        expert_scale=scale,
        edit_choice=lambda scores: apply_choice(scores, edit),
    )


def chosen_in_torch(logits: Any, spec: RouterSpec, bias: FloatArray | None, edit: LayerEdit) -> tuple[Any, Any]:
    """Edit and choose by the function under test; ``logits`` and ``edit`` of torch."""
    return choose_experts(
        apply_edit(logits, edit),
        spec,
        selection_bias=None if bias is None else torch.from_numpy(bias),
        expert_scale=torch.from_numpy(SCALE) if spec.expert_scale else None,
        edit=edit,
    )


def assert_same(found: tuple[Any, Any], expected: Routing) -> None:
    """Equal ids in equal order, weights to float32 rounding."""
    weights, ids = found
    assert (weights.dtype, ids.dtype) == (torch.float32, torch.int64)
    np.testing.assert_array_equal(ids.numpy(), expected.expert_ids)
    np.testing.assert_allclose(weights.numpy(), expected.combine_weights, rtol=2e-6, atol=1e-6)


def same_order(logits: FloatArray, spec: RouterSpec, bias: FloatArray | None, edit: LayerEdit) -> FloatArray:
    """Keep the tokens whose choice rounding cannot change: NumPy and torch have the same scores, or all are apart.

    Scores whose squares have too few digits in float32, far below 0, are left out: weights are their shares.
    """
    edited, alone = apply_edit(logits, edit), replace(spec, n_groups=1)
    theirs = choice_scores(edited, alone, bias, select=edit.select)
    order, weights = replace(alone, top_k=N_EXPERTS, renormalise=False, scaling=1.0, expert_scale=False), theirs
    if spec.scoring not in ("topk_softmax", "topk_sigmoid"):
        scale = {"selection_bias": None if bias is None else torch.from_numpy(bias)}
        weights, ids = (each.numpy() for each in choose_experts(torch.from_numpy(edited), order, **scale))
        added = [each for each in (bias, edit.select) if each is not None]
        weights = np.take_along_axis(weights, ids.argsort(1), 1) + np.sum(added, axis=0, dtype=np.float32)
    groups = np.sort(theirs.reshape(len(theirs), spec.n_groups, -1), axis=2)
    zeros = [np.zeros((len(theirs), 1), np.float32)] if spec.others_score_zero else []
    some = np.where((theirs == 0) & (weights == 0), -np.inf, theirs)  # banned: zero in both libraries
    clear = apart(np.hstack([some, *zeros])) & apart(groups[:, :, -2:].sum(2)) & apart(groups[:, :, -1])
    raw = chosen_in_numpy(logits, replace(spec, renormalise=False, scaling=1.0), bias, edit).combine_weights.sum(1)
    exact = (raw > 1e-17) | (spec.scoring != "sqrtsoftplus")
    return logits[exact & (clear | (theirs == weights).all(axis=1))]


def apart(values: FloatArray) -> npt.NDArray[np.bool_]:
    """Whether each row's values differ by more than rounding; values at minus infinity are alike in both libraries."""
    ranked = np.sort(values, axis=1)
    with np.errstate(invalid="ignore"):
        gaps = np.diff(ranked, axis=1)
    return np.asarray((np.isnan(gaps) | (gaps > 2e-6 * (1 + abs(ranked[:, 1:])))).all(axis=1))


@pytest.mark.parametrize("spec", SPECS, ids=str)
@given(
    st.tuples(st.integers(0, 10**6), st.sampled_from([0.1, 3.0, 300.0])),
    st.sampled_from([0.2, 30.0]),
    st.builds(
        an_edit,
        st.permutations(range(N_EXPERTS)),
        st.integers(0, 2),
        st.integers(0, N_EXPERTS - TOP_K),
        st.sampled_from([0.0, 0.3, 20.0]),
    ),
)
@settings(max_examples=60)
def test_equals_the_reference_router(spec: RouterSpec, drawn: tuple[int, float], largest: float, edit: LayerEdit):
    """Ids and weights of every router, saturated, with a bias above all scores, forced, banned and selected experts."""
    bias = a_bias(spec, largest)
    logits = same_order(some_logits(*drawn), spec, bias, edit)
    assume(len(logits))
    tensor = torch.from_numpy(logits)
    assert_same(chosen_in_torch(tensor, spec, bias, edit.to(tensor)), chosen_in_numpy(logits, spec, bias, edit))


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_exact_ties_go_to_the_lower_expert(spec: RouterSpec):
    """Equal logits are decided as the reference does, among experts and among groups."""
    logits, edit = np.zeros((2, N_EXPERTS), np.float32), LayerEdit(N_EXPERTS)
    bias = np.zeros(N_EXPERTS, np.float32) if spec.selection_bias else None
    assert_same(chosen_in_torch(torch.from_numpy(logits), spec, bias, edit), chosen_in_numpy(logits, spec, bias, edit))


@given(st.permutations(range(N_EXPERTS)), st.integers(1, TOP_K), st.integers(1, N_EXPERTS - TOP_K))
@example([0, 3, 6, 9, 1, 2, 4, 5, 7, 8, 10, 11], 4, 8)
def test_the_bias_and_the_groups_undo_neither_force_nor_ban(order: list[int], n_forced: int, n_banned: int):
    """Forced experts come first in order, also in more groups than are kept; banned ones never."""
    edit, logits = an_edit(order, n_forced, n_banned), torch.from_numpy(some_logits(0, 3.0))
    ids = chosen_in_torch(logits, DEEPSEEK, a_bias(DEEPSEEK, 50.0), edit.to(logits))[1].numpy()
    assert (ids[:, :n_forced] == order[:n_forced]).all()
    assert not np.isin(ids, order[N_EXPERTS - n_banned :]).any()


def test_without_the_edit_the_router_undoes_both():
    """Why the choice is edited: on edited logits alone the bias chooses banned experts and passes over forced ones."""
    edit = an_edit([11, *range(1, 11), 0], n_forced=1, n_banned=1)
    logits = apply_edit(some_logits(0, 3.0), edit)
    bias = a_bias(DEEPSEEK, 50.0)
    assert bias is not None
    ids = choose_experts(torch.from_numpy(logits), DEEPSEEK, selection_bias=torch.from_numpy(bias))[1]
    assert (ids == 0).any(dim=1).all()
    assert not (ids == 11).any()


@given(st.integers(0, 10**6), st.lists(st.permutations(range(N_EXPERTS)), min_size=N_TOKENS, max_size=N_TOKENS))
def test_every_token_may_have_an_edit_of_its_own(seed: int, orders: list[list[int]]):
    """Arrays ``[n_tokens, n_experts]`` do to each token what its own edit would do alone."""
    edits, logits, bias = (
        [an_edit(order, 2, 3, 0.3) for order in orders],
        some_logits(seed, 3.0),
        a_bias(DEEPSEEK, 30.0),
    )
    tensor = torch.from_numpy(logits)
    weights, ids = chosen_in_torch(tensor, DEEPSEEK, bias, stacked(edits).to(tensor))
    for token, edit in enumerate(edits):
        alone = chosen_in_torch(tensor[token : token + 1], DEEPSEEK, bias, edit.to(tensor))
        np.testing.assert_allclose(weights[token : token + 1], alone[0], rtol=1e-6)  # rows are rounded in vectors
        assert torch.equal(ids[token : token + 1], alone[1])


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")  # of array_api_compat
@pytest.mark.parametrize("by_token", [False, True])
@pytest.mark.parametrize("spec", slow_but([SPECS[3], DEEPSEEK, SPECS[9], SPECS[11]], quick=[DEEPSEEK]), ids=str)
def test_edit_and_choice_are_one_graph_for_any_number_of_tokens(spec: RouterSpec, by_token: bool):  # noqa: FBT001 - pytest
    """No value is looked at on the host: fullgraph traces it, and the arrays may change under the graph."""
    names = ("soft", "adaptive", "offset", "suppress", "on", "off", "force_lift", "least_score", "ban", "select")
    bias = a_bias(spec, 30.0)

    def step(logits: Any, *arrays: Any) -> tuple[Any, Any]:
        return chosen_in_torch(logits, spec, bias, LayerEdit(N_EXPERTS, **dict(zip(names, arrays, strict=True))))

    torch._dynamo.reset()
    compiled = torch.compile(step, backend="eager", fullgraph=True, dynamic=True)
    for n_tokens, shift in ((5, 0), (8, 1), (2, 2)):
        edit = edit_layer(_every_kind(shift), N_EXPERTS).to(torch.zeros(1))
        arrays = [edit.arrays[name].expand(n_tokens, -1) if by_token else edit.arrays[name] for name in names]
        logits = torch.from_numpy(some_logits(n_tokens, 3.0, n_tokens))
        for ours, plain in zip(compiled(logits, *arrays), step(logits, *arrays), strict=True):
            assert torch.equal(ours, plain)


def _every_kind(shift: int) -> list[Intervention]:
    return [
        Intervention("soft", 0, (shift, 4), strength=0.5),
        Intervention("adaptive", 0, (shift,), strength=0.02, values=(0.3,)),
        Intervention("offset", 0, (shift + 1,), values=(1.5,)),
        Intervention("suppress", 0, (shift + 5,)),
        Intervention("on", 0, (shift + 6,)),
        Intervention("off", 0, (shift + 7,)),
        Intervention("force", 0, (shift + 9, shift + 8)),
        Intervention("ban", 0, (shift + 3,)),
        Intervention("select", 0, (shift + 2,), values=(0.4,)),
    ]


def test_no_tokens_are_no_error():
    """Engines run idle forwards: shapes come out as always."""
    edit, bias = an_edit(list(range(N_EXPERTS)), 2, 2), a_bias(DEEPSEEK, 1.0)
    weights, ids = chosen_in_torch(torch.zeros(0, N_EXPERTS), DEEPSEEK, bias, edit.to(torch.zeros(1)))
    assert weights.shape == ids.shape == (0, TOP_K)


def test_logits_of_16_bits_are_scored_in_float32():
    """As the reference: the same as of the logits' float32 copies."""
    logits, bias = torch.from_numpy(some_logits(0, 3.0)).bfloat16(), a_bias(DEEPSEEK, 0.2)
    assert bias is not None
    found = choose_experts(logits, DEEPSEEK, selection_bias=torch.from_numpy(bias))
    assert_same(found, route(logits.float().numpy(), DEEPSEEK, bias))


BIAS = torch.zeros(N_EXPERTS)


@pytest.mark.parametrize(
    ("shape", "spec", "given", "message"),
    [
        ((2, 11), SPECS[0], {}, r"shape \(2, 11\); expected \[n_tokens, 12\]"),
        ((12,), SPECS[0], {}, "shape"),
        ((2, 12), SPECS[0], {"selection_bias": BIAS}, "selection_bias given: True; the spec says False"),
        ((2, 12), DEEPSEEK, {}, "selection_bias given: False; the spec says True"),
        ((2, 12), SPECS[13], {}, "expert_scale given: False; the spec says True"),
        ((2, 12), replace(SPECS[0], scoring="sparsemixer"), {}, "sparsemixer is not computed here; it chooses on"),
    ],
)
def test_misfits_are_refused(shape: tuple[int, ...], spec: RouterSpec, given: dict[str, Any], message: str):
    """What the reference refuses is refused here, and what is not computed here says what to do."""
    with pytest.raises(ValueError, match=message):
        choose_experts(torch.zeros(shape), spec, **given)


def test_an_edit_of_another_width_is_refused():
    """As `apply_choice` does."""
    edit = edit_layer([Intervention("ban", 0, (1,))], N_EXPERTS - 1).to(BIAS)
    with pytest.raises(PlanError, match="12 wide; this edit is for 11"):
        choose_experts(torch.zeros(2, N_EXPERTS), SPECS[0], edit=edit)
