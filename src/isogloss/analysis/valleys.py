"""Whether a curve over layers has one valley: against layers that differ without order, and against several valleys.

Resampled items say how well each layer's value is known, and nothing of how much layers differ from each other. A curve
of independent levels, each known exactly, has a lowest stretch too. Here the layers are the units: their order is what
is tested.
"""

from __future__ import annotations

import numpy as np

from isogloss.arrays import FloatArray

__all__ = ["LAYER_LEVEL", "RISE", "order_p_value", "rise_between_valleys", "split"]

LAYER_LEVEL = 0.05
"""Up to this `order_p_value` the order of the layers is no accident."""

RISE = 0.5
"""A rise inside by this share of the depth makes two valleys of one."""

_N_PERMUTATIONS = 999
_N_PARTS = 5  # high, low, high, low, high: the least that two valleys need
_LEAST_PART = 3


def split(curve: FloatArray, *, n_parts: int, min_size: int) -> list[int]:
    """Split a finite curve into runs of layers with the least squared error around their means.

    Returns:
        First position of every part but the first.

    Source:
        Exact dynamic programming of the l2 cost, ruptures (Truong et al. 2020). `KernelCPD` with a linear kernel
        minimises what `Dynp` with model ``l2`` and jump 1 does, in C.
    """
    # Imported here because it loads scipy.stats: two thirds of the time that `import isogloss.analysis` would take.
    from ruptures.detection.kernelcpd import KernelCPD  # noqa: PLC0415

    centred = np.asarray(curve, dtype=np.float64)[:, None] - np.mean(curve)
    starts = KernelCPD(kernel="linear", min_size=min_size).fit(centred).predict(n_bkps=n_parts - 1)
    return [int(first) for first in starts[:-1]]


def order_p_value(curve: FloatArray, edges: tuple[int, int], *, min_size: int) -> float:
    """Test whether the layers before and those after the middle are higher than it by more than layers vary.

    Either side is a test of its own: the layers of that side and of the middle together are put into random order, and
    the greatest weighted step down (for the left side; up for the right) between any two parts is compared with that
    of the true order. Both must be significant, so the greater p-value counts.

    Args:
        curve: ``[n_layers]``.
        edges: first position of the middle, and of the layers after it.
        min_size: least layers on a side of a step.

    Returns:
        At least 1 / 1000, and at least the share of orders that are as steep: two layers beside four cannot have less
        than 1 / 15, so fewer than nine layers never pass at 0.05.

    Source:
        Exact permutation test of a change point (Pettitt 1979 has the idea with ranks); the intersection-union rule
        for two sides (Berger 1982).
    """
    generator = np.random.default_rng(0)
    sides = np.asarray(curve[: edges[1]], dtype=np.float64), np.asarray(curve[edges[0] :], dtype=np.float64)[::-1]
    return max(_step_p_value(side, min_size, generator) for side in sides)


def _step_p_value(side: FloatArray, min_size: int, generator: np.random.Generator) -> float:
    """Compare the greatest step down of a side with those of its layers in random order."""
    orders = np.vstack([side, generator.permuted(np.tile(side, (_N_PERMUTATIONS, 1)), axis=1)])
    before = np.arange(min_size, len(side) - min_size + 1)
    sums, after = np.cumsum(orders, axis=1), len(side) - before
    means = sums[:, before - 1] / before, (sums[:, -1:] - sums[:, before - 1]) / after
    steps = ((means[0] - means[1]) * np.sqrt(before * after / len(side))).max(axis=1)
    rounding = 1e-12 * float(np.abs(side).max())
    return float(np.mean(steps >= steps[0] - rounding))


def rise_between_valleys(curve: FloatArray, *, min_size: int) -> float:
    """Return how far a curve rises between two valleys: 0 where it falls once and rises once.

    The curve is split into five parts of ``min_size`` layers or more, at least 3, whose levels are their medians, so
    that a single layer makes no valley. The rise is that of a part above the lowest part before it and above the lowest
    one after it; the smaller of both, of the part where that is greatest.
    """
    min_size = max(_LEAST_PART, min_size)
    if len(curve) < _N_PARTS * min_size:
        return 0.0
    parts = np.split(np.asarray(curve, dtype=np.float64), split(curve, n_parts=_N_PARTS, min_size=min_size))
    levels = [float(np.median(part)) for part in parts]
    rises = (levels[at] - max(min(levels[:at]), min(levels[at + 1 :])) for at in range(1, _N_PARTS - 1))
    return max(0.0, *rises)
