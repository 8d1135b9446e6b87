"""Corpus scores: sums over items, resampled in pairs, tested by swapping arms."""

from __future__ import annotations

import numpy as np
import pytest

from isogloss.errors import RunError
from isogloss.evaluation.corpus_score import paired_corpus_scores
from isogloss.evaluation.paired import paired_scores


def ratio(sums: np.ndarray) -> np.ndarray:
    """Bits over bytes."""
    return sums[..., 0] / sums[..., 1]


def with_bytes(bits: np.ndarray, n_bytes: np.ndarray | float = 1.0) -> np.ndarray:
    """Stack bits and bytes."""
    return np.column_stack([bits, np.broadcast_to(n_bytes, bits.shape)])


def test_the_score_of_a_resample_is_that_of_its_items():
    """Equal to drawing items by index, concatenating them, and scoring the whole."""
    generator = np.random.default_rng(0)
    n_bytes = generator.integers(20, 200, 40)
    before = with_bytes(generator.random(40) * n_bytes, n_bytes)
    after = with_bytes(before[:, 0] * generator.uniform(0.7, 1.2, 40), n_bytes)
    found = paired_corpus_scores(before, after, corpus_score=ratio, n_resamples=4000)
    assert found.baseline.value == pytest.approx(before[:, 0].sum() / n_bytes.sum())
    naive = []
    for _ in range(4000):
        drawn = generator.integers(0, 40, 40)
        naive.append((after[drawn, 0].sum() - before[drawn, 0].sum()) / n_bytes[drawn].sum())
    low, high = np.quantile(naive, [0.025, 0.975])
    width = high - low
    assert found.difference.low == pytest.approx(low, abs=width / 12)
    assert found.difference.high == pytest.approx(high, abs=width / 12)
    assert found.minimum_detectable == pytest.approx(2.80 * np.std(naive), rel=0.08)


def test_where_the_score_is_a_mean_the_estimates_are_those_of_items():
    """Items of one byte each: the same values and intervals as for scores per item."""
    before, after = np.random.default_rng(1).random((2, 30))
    found = paired_corpus_scores(with_bytes(before), with_bytes(after), corpus_score=ratio, seed=4)
    expected = paired_scores(before, after, seed=4)
    for name in ("baseline", "steered", "difference"):
        one, other = getattr(found, name), getattr(expected, name)
        assert (one.value, one.low, one.high, one.n) == pytest.approx((other.value, other.low, other.high, other.n))


@pytest.mark.parametrize("shape", [(3,), (2, 2), (3, 1)])
def test_sums_that_do_not_pair_up_are_refused(shape: tuple[int, ...]):
    """Both shapes are named."""
    with pytest.raises(RunError, match=r"baseline has sums of shape \(3, 2\)"):
        paired_corpus_scores(np.ones((3, 2)), np.ones(shape), corpus_score=ratio)
