"""The reference router against one written token by token, and the laws of its summaries."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from isogloss.routing import (
    Fingerprint,
    RouterSpec,
    choice_margin,
    choice_scores,
    consistency,
    entropy,
    profile,
    route,
    selections,
)

LOGITS = hnp.arrays(np.float32, (5, 8), elements=st.floats(-20, 20, width=32), unique=True)
BIAS = np.array([0.3, -0.2, 0.0, 0.5, -0.4, 0.1, 0.2, -0.1], dtype=np.float32)

SPECS = [
    RouterSpec(0, 8, 2),
    RouterSpec(0, 8, 2, renormalise=False),
    RouterSpec(0, 8, 3, scoring="topk_softmax"),
    RouterSpec(0, 8, 2, scoring="sigmoid", scaling=2.5),
    RouterSpec(0, 8, 3, scoring="sigmoid", selection_bias=True, renormalise=False),
    RouterSpec(0, 8, 2, scoring="sigmoid", selection_bias=True, n_groups=4, top_groups=2, group_score="top2_sum"),
    RouterSpec(0, 8, 2, n_groups=2, top_groups=1),
    RouterSpec(0, 8, 3, scoring="sqrtsoftplus", selection_bias=True, scaling=1.5),
    RouterSpec(0, 8, 2, scoring="topk_sigmoid", selection_bias=True),
    RouterSpec(0, 8, 2, scoring="topk_sigmoid", renormalise=False, expert_scale=True),
    RouterSpec(0, 8, 2, scoring="topk_softmax", expert_scale=True, scaling=0.5),
    RouterSpec(0, 8, 2, scoring="sparsemixer", jitter=0.1),
    RouterSpec(0, 8, 3, scoring="sigmoid", selection_bias=True, n_groups=4, top_groups=1, others_score_zero=True),
]
SINGLE = 1e-5  # float32 may round scores that are nearer to a tie, or to the other order
SCALE = np.array([1.0, 0.5, 2.0, 1.5, 0.0, 1.0, 3.0, 0.7], dtype=np.float32)


def score_one(logits, k, scoring):
    """Score of expert k in plain Python."""
    if scoring == "softmax":
        return math.exp(logits[k] - max(logits)) / sum(math.exp(z - max(logits)) for z in logits)
    if scoring == "sqrtsoftplus":
        return math.sqrt(math.log1p(math.exp(logits[k])))
    return 1 / (1 + math.exp(-logits[k]))


def mix_two(logits, ids, jitter):
    """SparseMixer's weights: each choice against what is left and near it."""
    weights = []
    for turn, chosen in enumerate(ids):
        left = [k for k in range(len(logits)) if k not in ids[:turn]]
        best = logits[chosen]
        near = [k for k in left if (best - logits[k]) / max(abs(logits[k]), best) <= 2 * jitter]
        weights.append(math.exp(best) / sum(math.exp(logits[k]) for k in near))
    return weights


def nearest(values):
    """Smallest difference between any two."""
    ordered = sorted(values)
    return min((high - low for low, high in itertools.pairwise(ordered)), default=math.inf)


def without_ties(seed):
    """Draw logits whose order survives rounding to float32: ties go to the lower id, which moves with the columns."""
    logits = np.random.default_rng(seed).normal(0, 2, (6, 8)).astype(np.float32)
    assume(min(nearest(row) for row in logits.tolist()) > SINGLE)
    return logits


def route_one_token(logits, spec, bias):
    """Ids and weights of one token in plain Python, by the definition; None where float32 may see another order."""
    late = spec.scoring in ("topk_softmax", "topk_sigmoid", "sparsemixer")
    scores = [logits[k] if late else score_one(logits, k, spec.scoring) for k in range(len(logits))]
    ranking = [score + (bias[k] if spec.selection_bias else 0) for k, score in enumerate(scores)]
    size = spec.n_experts // spec.n_groups
    groups = [sorted(ranking[g * size : (g + 1) * size], reverse=True) for g in range(spec.n_groups)]
    worth = [group[0] if spec.group_score == "max" else group[0] + group[1] for group in groups]
    if min(nearest(ranking), nearest(worth)) < SINGLE:
        return None
    kept = sorted(range(spec.n_groups), key=lambda g: (-worth[g], g))[: spec.top_groups]
    if spec.others_score_zero:
        ranking = [score if k // size in kept else 0.0 for k, score in enumerate(ranking)]
        kept = range(spec.n_groups)
    eligible = [k for k in range(spec.n_experts) if k // size in kept]
    ids = sorted(eligible, key=lambda k: (-ranking[k], k))[: spec.top_k]
    if spec.scoring == "sparsemixer":
        weights = mix_two(logits, ids, spec.jitter)
    elif spec.scoring == "topk_softmax":
        weights = [score_one([logits[k] for k in ids], place, "softmax") for place in range(len(ids))]
    else:
        weights = [score_one(logits, k, spec.scoring) for k in ids]
    if spec.renormalise and spec.scoring != "sparsemixer":
        weights = [w / sum(weights) for w in weights]
    return ids, [w * spec.scaling * (SCALE[k] if spec.expert_scale else 1) for k, w in zip(ids, weights, strict=True)]


@pytest.mark.parametrize("spec", SPECS, ids=str)
@given(seed=st.integers(0, 10**6))
def test_equals_the_definition_token_by_token(spec, seed):
    """Every scoring, grouping, bias and scaling gives the ids and weights of the plain definition."""
    logits = np.random.default_rng(seed).normal(0, 2, (6, 8)).astype(np.float32)
    bias = BIAS if spec.selection_bias else None
    found = route(logits, spec, bias, expert_scale=SCALE if spec.expert_scale else None)
    for token, row in enumerate(logits.astype(float)):
        if (expected := route_one_token(row.tolist(), spec, BIAS.astype(float))) is not None:
            assert found.expert_ids[token].tolist() == expected[0]
            np.testing.assert_allclose(found.combine_weights[token], expected[1], rtol=1e-4)


@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec.n_groups == 1], ids=str)
def test_ties_go_to_the_lower_expert(spec):
    """Ties are those of scores in float32, though doubles may differ: here both saturate, and all logits are near."""
    near = np.float32(30) + np.arange(8, dtype=np.float32)[::-1] / 2**19 * np.array([[0], [1]], dtype=np.float32)
    bias = np.zeros(8, dtype=np.float32) if spec.selection_bias else None
    found = route(near, spec, bias, expert_scale=SCALE if spec.expert_scale else None).expert_ids
    scores = choice_scores(near, spec, bias)
    for token in range(2):
        expected = sorted(range(8), key=lambda k: (-scores[token, k], k))[: spec.top_k]
        assert found[token].tolist() == expected
    assert len(set(scores[0].tolist())) == 1
    if spec.scoring == "sigmoid":  # equal in float32, while logits and scores in double precision differ
        assert len(set(near[1].tolist())) == 8
        assert len(set(scores[1].tolist())) == 1


def test_two_scores_that_tie_in_float32_alone():
    """A draw of the test above: two sigmoids equal in float32 and not in float64; the lower expert goes first."""
    logits = np.random.default_rng(32162).normal(0, 2, (6, 8)).astype(np.float32)
    spec = RouterSpec(0, 8, 2, scoring="sigmoid", scaling=2.5)
    scores = choice_scores(logits, spec)
    ties = [token for token in range(6) if len(set(scores[token].tolist())) < 8]
    assert ties
    for token in range(6):
        expected = sorted(range(8), key=lambda k: (-scores[token, k], k))[:2]
        assert route(logits, spec).expert_ids[token].tolist() == expected


@pytest.mark.parametrize("spec", [SPECS[0], SPECS[1], SPECS[2]], ids=str)
@given(seed=st.integers(0, 10**6), shift=st.floats(-30, 30))
def test_a_constant_added_to_softmax_logits_changes_nothing(spec, seed, shift):
    """Softmax routers see differences of logits only."""
    logits = without_ties(seed)
    plain, shifted = route(logits, spec), route(logits + np.float32(shift), spec)
    np.testing.assert_array_equal(plain.expert_ids, shifted.expert_ids)
    np.testing.assert_allclose(plain.combine_weights, shifted.combine_weights, atol=1e-4)
    np.testing.assert_allclose(profile(logits), profile(logits + np.float32(shift)), atol=1e-5)


@given(seed=st.integers(0, 10**6), permutation=st.permutations(range(8)))
def test_relabelling_experts_relabels_the_choice(seed, permutation):
    """Permuting the columns permutes ids, counts and profiles, and nothing else."""
    logits = without_ties(seed)
    plain, moved = route(logits, SPECS[0]), route(logits[:, permutation], SPECS[0])
    np.testing.assert_array_equal(np.array(permutation)[moved.expert_ids], plain.expert_ids)
    np.testing.assert_array_equal(selections(moved.expert_ids, 8), selections(plain.expert_ids, 8)[list(permutation)])
    np.testing.assert_allclose(profile(logits[:, permutation]), profile(logits)[list(permutation)], atol=1e-6)


@given(LOGITS)
def test_sums(logits):
    """Profiles sum to 1, selections to top-k times tokens, entropy lies between 0 and log n_experts."""
    spec = SPECS[2]
    mean = profile(logits)
    counts = selections(route(logits, spec).expert_ids, 8)
    assert mean.sum() == pytest.approx(1, abs=1e-5)
    assert counts.sum() == spec.top_k * len(logits)
    assert counts.max() <= len(logits)
    assert -1e-6 <= entropy(mean) <= math.log(8) + 1e-5


def test_ties_go_to_the_lower_id():
    """Equal logits choose the first experts."""
    assert route(np.zeros((1, 8), dtype=np.float32), SPECS[0]).expert_ids.tolist() == [[0, 1]]


@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec.selection_bias])
@given(seed=st.integers(0, 2**32 - 1), size=st.floats(1e-4, 0.05))
def test_the_margin_is_how_far_scores_may_move(spec, seed, size):
    """Scores that move by less than a quarter of it change no choice; without groups, moves by all of it do."""
    drawn = np.random.default_rng(seed)
    logits, shift = drawn.normal(size=(40, 8)) * 2, drawn.uniform(-size, size, 8)
    margins = choice_margin(logits, spec, BIAS)
    plain, moved = (np.sort(route(logits, spec, bias).expert_ids, axis=1) for bias in (BIAS, BIAS + shift))
    far = margins > 4 * size + SINGLE
    assert (plain == moved)[far].all()
    if spec.n_groups > 1:
        return
    for token in range(3):
        order = np.argsort(-choice_scores(logits, spec, BIAS)[token])
        raised = BIAS.copy()
        raised[order[spec.top_k]] += margins[token] + SINGLE
        assert order[spec.top_k] in route(logits[token : token + 1], spec, raised).expert_ids
        raised[order[spec.top_k]] -= 3 * SINGLE
        assert order[spec.top_k] not in route(logits[token : token + 1], spec, raised).expert_ids


def test_the_margin_of_groups_is_that_of_the_sum_of_their_best_two():
    """Half of it, added to both of the best two of another group, lets that group in."""
    spec = RouterSpec(0, 4, 1, scoring="topk_sigmoid", selection_bias=True, n_groups=2, group_score="top2_sum")
    logits, none = np.array([[3.0, 0.0, 2.0, 0.75]]), np.zeros(4)
    assert choice_margin(logits, spec, none).tolist() == [0.25]
    assert route(logits, spec, none + np.array([0, 0, 0.12, 0.12])).expert_ids.tolist() == [[0]]
    assert route(logits, spec, none + np.array([0, 0, 0.13, 0.13])).expert_ids.tolist() == [[2]]


def test_entropy_of_certainty_and_of_ignorance():
    """One sure expert gives 0, a uniform profile log n_experts, also along further axes."""
    profiles = np.array([[1.0, 0, 0, 0], [0.25] * 4])
    np.testing.assert_allclose(entropy(profiles), [0, math.log(4)])


def test_consistency_is_the_mean_jaccard_over_pairs():
    """Sets {0,1}, {0,1}, {1,2}: similarities 1, 1/3, 1/3."""
    assert consistency(np.array([[0, 1], [1, 0], [1, 2]]), 4) == pytest.approx(5 / 9)
    assert math.isnan(consistency(np.array([[0, 1]]), 4))


@pytest.mark.parametrize(
    ("logits", "spec", "bias", "message"),
    [
        (np.zeros((2, 7)), SPECS[0], None, r"shape \(2, 7\); expected \[n_tokens, 8\]"),
        (np.zeros(8), SPECS[0], None, "shape"),
        (np.zeros((2, 8)), SPECS[0], BIAS, "selection_bias given: True; expected: False"),
        (np.zeros((2, 8)), SPECS[4], None, "selection_bias given: False; expected: True"),
    ],
)
def test_misfits_are_refused(logits, spec, bias, message):
    """Wrong widths and a missing or unexpected bias are errors."""
    with pytest.raises(ValueError, match=message):
        route(logits, spec, bias)


def test_a_missing_scale_is_refused():
    """A factor per expert is given exactly where the spec says so."""
    spec = next(spec for spec in SPECS if spec.expert_scale)
    with pytest.raises(ValueError, match="expert_scale given: False; expected: True"):
        route(np.zeros((2, 8)), spec)


def test_a_fingerprint_round_trips():
    """A fingerprint comes back equal; a difference is named."""
    print_ = Fingerprint("olmoe", (0, 2), 8, 2, "a" * 64)
    assert Fingerprint.from_json(print_.to_json()) == print_
    assert print_.differences(dataclasses.replace(print_, top_k=4)) == {"top_k": (2, 4)}
    assert print_.differences(print_) == {}
