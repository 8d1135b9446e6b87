"""Where the middle of a model begins and ends: two change points in a curve over layers.

The papers read this range off the curve by eye. Here it is the segmentation into three runs of layers with the least
squared error around their means; how far the edges move over bootstrap resamples says how sharp they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from isogloss.analysis.statistics import Estimate, percentile_interval
from isogloss.errors import RunError
from isogloss.files import Record

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    FloatArray = npt.NDArray[np.floating[Any]]
    IntArray = npt.NDArray[np.integer[Any]]

__all__ = ["MiddleLayers", "default_min_size", "middle_layers", "segment", "segment_all"]

N_SEGMENTS = 3


@dataclass(frozen=True)
class MiddleLayers(Record):
    """The middle segment of a curve over layers.

    Attributes:
        start: first decoder layer of the middle, 0-based.
        end: last decoder layer of the middle, inclusive.
        start_interval: decoder layers between which the start falls over resamples; None without resamples.
        end_interval: the same for the end.
        is_u_shape: the middle is lower than the segment on either side. With resamples, also by more than noise
            explains (see `middle_layers`); without, no more than that is known.
        depth: mean of the outer layers minus mean of the middle ones; negative for a hump. ``n`` counts items.
    """

    start: int
    end: int
    start_interval: tuple[int, int] | None
    end_interval: tuple[int, int] | None
    is_u_shape: bool
    depth: Estimate


def default_min_size(n_layers: int) -> int:
    """Give the least layers per segment: a twelfth of the layers, at least 2."""
    return max(2, n_layers // 12)


def _require_layers(n_layers: int, min_size: int) -> None:
    if n_layers < N_SEGMENTS * min_size:
        raise RunError(
            f"the middle layers need {N_SEGMENTS} segments of at least {min_size} routed layers, and this run has "
            f"{n_layers}; name the range by hand with --layers A-B"
        )


def segment(curve: FloatArray, *, min_size: int) -> tuple[int, int]:
    """Split a curve into three segments with the least squared error around their means.

    Args:
        curve: ``[n_layers]``, finite.
        min_size: least layers per segment, at least 1.

    Returns:
        First position of the middle segment and of the last one.

    Raises:
        RunError: the curve is too short for three segments.

    Source:
        Exact dynamic programming of the l2 cost, ruptures (Truong et al. 2020). `KernelCPD` with a linear kernel
        minimises what `Dynp` with model ``l2`` and jump 1 does, in C.
    """
    # Imported here because it loads scipy.stats: two thirds of the time that `import isogloss.analysis` would take.
    from ruptures.detection.kernelcpd import KernelCPD  # noqa: PLC0415

    _require_layers(len(curve), min_size)
    centred = np.asarray(curve, dtype=np.float64)[:, None] - np.mean(curve)
    first, second, _ = KernelCPD(kernel="linear", min_size=min_size).fit(centred).predict(n_bkps=N_SEGMENTS - 1)
    return int(first), int(second)


def segment_all(curves: FloatArray, *, min_size: int) -> IntArray:
    """Split many curves as `segment` does one: what bootstrap resamples need, where a call per curve is too slow.

    Every pair of change points is tried. The squared error is least where the squared sums of the segments, each
    divided by its length, add up to most.

    Args:
        curves: ``[n_curves, n_layers]``, finite.
        min_size: least layers per segment, at least 1.

    Returns:
        ``[n_curves, 2]``, first position of the middle segment and of the last one; of equally good pairs the first.

    Raises:
        RunError: the curves are too short for three segments.
    """
    n_curves, n_layers = np.shape(curves)
    _require_layers(n_layers, min_size)
    sums = _sums(curves - np.mean(curves, axis=1, keepdims=True))
    best, edges = np.full(n_curves, -1.0), np.zeros((n_curves, 2), dtype=np.int64)
    for first in range(min_size, n_layers - 2 * min_size + 1):
        seconds = np.arange(first + min_size, n_layers - min_size + 1)[:, None]
        middle, last = sums[seconds[:, 0]] - sums[first], sums[-1] - sums[seconds[:, 0]]
        gains = sums[first] ** 2 / first + middle**2 / (seconds - first) + last**2 / (n_layers - seconds)
        place, gain = gains.argmax(axis=0), gains.max(axis=0)
        better = gain > best
        best[better] = gain[better]
        edges[better] = np.column_stack([np.full(n_curves, first), seconds[place, 0]])[better]
    return edges


def _sums(curves: FloatArray) -> FloatArray:
    """Add up each curve: ``[n_layers + 1, n_curves]``, starting with 0, so that differences are sums of segments."""
    return np.concatenate([np.zeros((1, len(curves))), np.cumsum(curves, axis=1).T])


def _contrasts(curves: FloatArray, edges: IntArray) -> tuple[FloatArray, FloatArray]:
    """Return depth, and how far the lower of the outer segments lies above the middle, by curve ``[n_curves]``.

    Args:
        curves: ``[n_curves, n_layers]``.
        edges: ``[n_curves, 2]``, or ``[1, 2]`` for all.
    """
    n_layers, every = curves.shape[1], np.arange(len(curves))
    first, second = np.broadcast_to(edges, (len(curves), 2)).T
    sums = _sums(curves)
    before, until, total = sums[first, every], sums[second, every], sums[-1]
    middle = (until - before) / (second - first)
    outer = (before + total - until) / (n_layers - second + first)
    rim = np.minimum(before / first, (total - until) / (n_layers - second))
    return outer - middle, rim - middle


def _is_u_shape(curve: FloatArray, resampled: FloatArray, edges: IntArray, *, min_size: int, level: float) -> bool:
    """Ask for a rim that stays above zero over resamples, and above what the noise of a flat curve would give."""
    rim = _contrasts(curve[None], edges)[1].item()
    steady = percentile_interval(_contrasts(resampled, edges)[1], level=level)[0] > 0
    noise = resampled - resampled.mean(axis=0)
    flat = _contrasts(noise, segment_all(noise, min_size=min_size))[1]
    return bool(rim > 0 and steady and rim > np.quantile(flat, level))


def _edge_interval(edges: IntArray, layers: Sequence[int], level: float) -> tuple[int, int]:
    tail = (1.0 - level) / 2.0
    low = int(np.quantile(edges, tail, method="lower"))
    high = int(np.quantile(edges, 1.0 - tail, method="higher"))
    return layers[low], layers[high]


def middle_layers(
    curve: FloatArray,
    resampled: FloatArray | None = None,
    *,
    layers: Sequence[int] | None = None,
    min_size: int | None = None,
    n_items: int = 1,
    level: float = 0.95,
) -> MiddleLayers:
    """Find the middle layers of a curve, and say whether they are lower than the outer ones.

    A segmentation always exists, so ``is_u_shape`` must be read with it. With resamples it asks that the rim (the lower
    outer mean minus the middle mean) stays above zero at the lower end of its interval, and exceeds the ``level``
    quantile of the rims that segmentation finds in noise alone (resampled curves minus their mean). Depth is measured
    on the segments that were fitted to the same curve: on pure noise it leans away from zero.

    Args:
        curve: ``[n_layers]``, such as the mean divergence over languages.
        resampled: ``[n_resamples, n_layers]``, the curve of every bootstrap resample; None where there are no items.
        layers: decoder layer of each position, increasing; by default 0, 1, ….
        min_size: least layers per segment; by default `default_min_size`.
        n_items: items behind the curve.
        level: coverage of the intervals.

    Returns:
        Edges as decoder layers, 0-based inclusive.

    Raises:
        RunError: too few layers for three segments.
        ValueError: the curve has a NaN, or shapes do not fit.
    """
    curve = np.asarray(curve, dtype=np.float64)
    layers = list(layers) if layers is not None else list(range(len(curve)))
    if len(layers) != len(curve) or not np.isfinite(curve).all():
        raise ValueError(f"expected a finite curve with one value per layer; found {len(curve)} for {len(layers)}")
    min_size = min_size or default_min_size(len(curve))
    split = np.array([segment(curve, min_size=min_size)])
    depth, rim = (part.item() for part in _contrasts(curve[None], split))
    edges = layers[split[0, 0]], layers[split[0, 1] - 1]
    if resampled is None:
        return MiddleLayers(*edges, None, None, rim > 0, Estimate(depth, float("nan"), float("nan"), n_items))
    resampled = np.asarray(resampled, dtype=np.float64)
    found = segment_all(resampled, min_size=min_size)
    low, high = (end.item() for end in percentile_interval(_contrasts(resampled, split)[0], level=level))
    return MiddleLayers(
        *edges,
        start_interval=_edge_interval(found[:, 0], layers, level),
        end_interval=_edge_interval(found[:, 1] - 1, layers, level),
        is_u_shape=_is_u_shape(curve, resampled, split, min_size=min_size, level=level),
        depth=Estimate(depth, low, high, n_items),
    )
