"""Entropy-normalised divergence: its laws, its value against a loop, and shuffled pairing."""

from __future__ import annotations

import importlib
import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import rel_entr, softmax
from scipy.stats import entropy as scipy_entropy

from isogloss.analysis.divergence import divergence, divergence_ceiling, shuffled_partners

Array = npt.NDArray[np.float64]

profiles = arrays(np.float64, (3, 8), elements=st.floats(0, 1, width=32)).filter(lambda p: (p.sum(axis=1) > 1e-3).all())


def by_hand(p: Array, q: Array) -> float:
    """METHOD's formula, term by term."""

    def entropy(distribution: list[float]) -> float:
        return -math.fsum(share * math.log(share) for share in distribution if share > 0)

    first, second = [float(x) / float(p.sum()) for x in p], [float(x) / float(q.sum()) for x in q]
    middle = [(a + b) / 2 for a, b in zip(first, second, strict=True)]
    mean = (entropy(first) + entropy(second)) / 2
    room = math.log(len(p)) - mean
    return (entropy(middle) - mean) / room if room > 1e-10 else 0.0


@given(profiles, profiles)
def test_divergence_equals_the_formula(p: Array, q: Array):
    """Vectorised and term by term agree."""
    np.testing.assert_allclose(divergence(p, q), [by_hand(a, b) for a, b in zip(p, q, strict=True)], atol=2e-5)


@given(profiles, profiles)
def test_divergence_is_symmetric_and_below_its_ceiling(p: Array, q: Array):
    """Exactly symmetric; between 0 and the ceiling, which is at most 1."""
    forth, ceiling = divergence(p, q), divergence_ceiling(p, q)
    assert (forth == divergence(q, p)).all()
    assert (forth >= 0).all()
    assert (forth <= ceiling + 1e-5).all()
    assert (ceiling <= 1).all()


@given(profiles)
def test_divergence_of_equals_is_exactly_zero(p: Array):
    """No rounding residue where nothing differs."""
    assert (divergence(p, p.copy()) == 0).all()


@given(profiles, profiles, st.permutations(range(8)))
def test_relabelling_experts_changes_nothing(p: Array, q: Array, order: list[int]):
    """Expert ids are names: permuting them in both profiles leaves the divergence."""
    np.testing.assert_allclose(divergence(p[:, order], q[:, order]), divergence(p, q), atol=2e-5)


@given(profiles, profiles, st.floats(0.5, 100))
def test_counts_and_distributions_give_the_same_divergence(p: Array, q: Array, scale: float):
    """Profiles are rescaled to sum to 1."""
    np.testing.assert_allclose(divergence(p * scale, q), divergence(p, q), atol=2e-5)


@given(
    arrays(np.float64, (2, 16), elements=st.floats(-30, 30)),
    st.sampled_from([np.float32, np.float64]),
    st.floats(0, 1),
)
def test_divergence_equals_scipy_to_a_millionth(logits: Array, dtype: type, near: float):
    """Against scipy's relative entropies and entropy, for peaked, flat and close pairs alike."""
    p = softmax(logits[0]).astype(dtype)
    q = softmax(near * logits[0] + (1 - near) * logits[1]).astype(dtype)
    exact_p, exact_q = (np.float64(x) / np.float64(x).sum() for x in (p, q))
    room = math.log(16) - (scipy_entropy(exact_p) + scipy_entropy(exact_q)) / 2
    assume(room > 1e-8)
    middle = (exact_p + exact_q) / 2
    jsd = (rel_entr(exact_p, middle).sum() + rel_entr(exact_q, middle).sum()) / 2
    assert abs(divergence(p, q).item() - jsd / room) < 1e-6


@pytest.mark.parametrize("block", [1, 7, 64, 1 << 20])
def test_blocks_change_no_bit(block: int, monkeypatch: pytest.MonkeyPatch):
    """Every cell is computed alone: in whichever block, broadcast or not."""
    core = importlib.import_module("isogloss.analysis.divergence")
    p, q = np.random.default_rng(0).dirichlet(np.full(13, 0.2), size=(2, 5, 4))
    before, across = divergence(p, q), divergence(p[:1], q)
    monkeypatch.setattr(core, "BLOCK", block)
    assert (divergence(p, q) == before).all()
    assert (divergence(p[:1], q) == across).all()
    assert (before[2, 3], across[2, 3]) == (divergence(p[2, 3], q[2, 3]), divergence(p[0, 3], q[2, 3]))


def test_uniform_profiles_diverge_by_zero_also_in_single_precision():
    """The undefined 0/0 is 0, not rounding noise divided by rounding noise."""
    p = np.full((1, 96), 1 / 96, dtype=np.float32)
    q = p * (1 + np.random.default_rng(0).normal(size=(1, 96)).astype(np.float32) * np.float32(1e-7))
    assert (p != q).any()
    assert divergence(p, q).tolist() == [0.0]
    assert divergence_ceiling(p, q).tolist() == [1.0]


def test_disjoint_halves_reach_one_and_disjoint_peaks_their_ceiling():
    """Two halves of the experts diverge fully; two single experts only up to log 2 / log E."""
    eye = np.eye(8)
    halves = np.repeat([[1.0, 0.0], [0.0, 1.0]], 4, axis=1)
    assert divergence(halves[0], halves[1]) == pytest.approx(1.0)
    assert divergence(eye[0], eye[1]) == pytest.approx(math.log(2) / math.log(8))
    assert divergence_ceiling(eye[0], eye[1]) == pytest.approx(math.log(2) / math.log(8))


@pytest.mark.parametrize("wrong", [[-0.1, 1.1], [np.nan, 1.0], [0.0, 0.0], [np.inf, 1.0]])
def test_what_is_no_distribution_is_refused(wrong: list[float]):
    """A negative, missing or empty profile is an error, never a number."""
    with pytest.raises(ValueError, match="finite, not negative"):
        divergence(np.array(wrong), np.array([0.5, 0.5]))


def test_unequal_numbers_of_experts_are_refused():
    """Profiles of different models are not broadcast against each other."""
    with pytest.raises(ValueError, match="4 and 1 experts"):
        divergence(np.ones(4), np.ones(1))


@given(st.integers(2, 60), st.integers(0, 100))
def test_shuffled_partners_are_others_and_each_serves_once(n_items: int, seed: int):
    """A permutation without fixed points."""
    partners = shuffled_partners(n_items, seed)
    assert sorted(partners) == list(range(n_items))
    assert (partners != np.arange(n_items)).all()


def test_a_single_item_has_no_partner():
    """Shuffled pairing of one item is refused."""
    with pytest.raises(ValueError, match="at least two items"):
        shuffled_partners(1, 0)
