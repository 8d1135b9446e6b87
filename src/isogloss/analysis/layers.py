"""Where the middle of a model begins and ends: two change points in a curve over layers.

The papers choose this range by looking at the curve. Here it is the segmentation into three runs of layers with the
least squared error around their means; how far the edges move over bootstrap resamples shows how sharp they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from isogloss.analysis.valleys import LAYER_LEVEL, RISE, order_p_value, rise_between_valleys, split
from isogloss.arrays import FloatArray, IntArray
from isogloss.errors import RunError
from isogloss.records import Number, Record
from isogloss.statistics import Estimate, percentile_interval

__all__ = [
    "THIRDS",
    "MiddleLayers",
    "default_min_size",
    "layer_positions",
    "middle_layers",
    "segment",
    "segment_all",
    "thirds",
]

N_SEGMENTS = 3
THIRDS = ("first third", "second third", "last third")


@dataclass(frozen=True)
class MiddleLayers(Record):
    """The middle segment of a curve over layers.

    Attributes:
        start: first decoder layer of the middle, 0-based.
        end: last decoder layer of the middle, inclusive.
        start_interval: decoder layers between which the start falls over resamples; None without resamples.
        end_interval: the same for the end.
        is_u_shape: the middle is one valley, lower than the segment on either side by more than layers differ from
            each other, and, with resamples, by more than noise of the items explains (see `middle_layers`). Where it
            is false, start and end are those of the best segmentation, and no middle was found.
        depth: mean of the outer layers minus mean of the middle ones; negative for a hump. ``n`` counts items.
        p_value: of layers in random order (`isogloss.analysis.valleys.order_p_value`); NaN in older files.
        rise: between two valleys, as a share of how far the lower outer mean lies above the middle one; 0 where there
            is one valley, NaN in older files, and where an outer mean lies below the middle.
    """

    start: int
    end: int
    start_interval: tuple[int, int] | None
    end_interval: tuple[int, int] | None
    is_u_shape: bool
    depth: Estimate
    p_value: Number = float("nan")
    rise: Number = float("nan")

    @property
    def reason(self) -> str:
        """Why the segment is no middle, to be read after *because*; empty where it is one."""
        if self.is_u_shape:
            return ""
        if not self.rise >= 0:  # NaN
            return "it is not lower there than on both sides"
        if self.rise >= RISE:
            return "the curve has several valleys, between which it rises by half their depth or more"
        if self.p_value > LAYER_LEVEL:
            return f"layers in random order are as steep too often (p = {self.p_value:.3f}, above {LAYER_LEVEL:g})"
        return "it is not lower there than on both sides by more than the noise of the items"

    @property
    def words(self) -> str:
        """``the middle layers``, or, where they are no middle, their numbers alone."""
        return "the middle layers" if self.is_u_shape else f"layers {self.start}-{self.end}"


def layer_positions(decoder_layers: Sequence[int], within: tuple[int, int] | None) -> list[int]:
    """Find the positions of the routed layers in an inclusive range of decoder layers.

    Raises:
        RunError: the range has no routed layer, or goes on behind the last one.
    """
    first, last = within or (min(decoder_layers), max(decoder_layers))
    if first < 0 or (first <= max(decoder_layers) < last):
        raise RunError(
            f"layers {first}-{last} go beyond the model: its last routed layer is {max(decoder_layers)} (0-based, "
            "inclusive)"
        )
    positions = [position for position, layer in enumerate(decoder_layers) if first <= layer <= last]
    if not positions:
        raise RunError(
            f"no routed layer lies in {first}-{last}; this run has layers {min(decoder_layers)}-{max(decoder_layers)}"
            " (0-based, inclusive): change --layers"
        )
    return positions


def thirds(layers: Sequence[int]) -> dict[str, tuple[int, int]]:
    """Give the first and last layer of each third of the layers; fewer layers have fewer names.

    They are not called early, middle and late: those are the layers before, in and after a middle that was found.
    """
    parts = np.array_split(np.asarray(layers), min(3, len(layers)))
    return {name: (int(part[0]), int(part[-1])) for name, part in zip(THIRDS, parts, strict=False)}


def default_min_size(n_layers: int) -> int:
    """Give the least layers per segment: a twelfth of the layers, at least 2."""
    return max(2, n_layers // 12)


def _require_layers(n_layers: int, min_size: int) -> None:
    if n_layers < N_SEGMENTS * min_size:
        raise RunError(
            f"the middle layers need {N_SEGMENTS} segments of at least {min_size} routed layers, and this run has "
            f"{n_layers}; name the range yourself with --layers A-B"
        )


def segment(curve: FloatArray, *, min_size: int) -> tuple[int, int]:
    """Split a finite curve into three segments with the least squared error around their means, as `split` does.

    Returns:
        First position of the middle segment and of the last one.

    Raises:
        RunError: the curve is too short for three segments.
    """
    _require_layers(len(curve), min_size)
    first, second = split(curve, n_parts=N_SEGMENTS, min_size=min_size)
    return first, second


def segment_all(curves: FloatArray, *, min_size: int) -> IntArray:
    """Split many curves ``[n_curves, n_layers]`` as `segment` does one; a call for each resample would be too slow.

    Every pair of change points is tried. The squared error is least where the squared sums of the segments, each
    divided by its length, add up to most. The edges are ``[n_curves, 2]``; of equally good pairs the first.

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
    """Return depth, and how far the lower of the outer segments lies above the middle; one pair of edges serves all."""
    n_layers, every = curves.shape[1], np.arange(len(curves))
    first, second = np.broadcast_to(edges, (len(curves), 2)).T
    sums = _sums(curves)
    before, until, total = sums[first, every], sums[second, every], sums[-1]
    middle = (until - before) / (second - first)
    outer = (before + total - until) / (n_layers - second + first)
    rim = np.minimum(before / first, (total - until) / (n_layers - second))
    return outer - middle, rim - middle


def _is_beyond_noise(curve: FloatArray, resampled: FloatArray, edges: IntArray, *, min_size: int, level: float) -> bool:
    """Require a rim above zero over resamples, and above what the noise of a flat curve would give."""
    rim = _contrasts(curve[None], edges)[1].item()
    steady = percentile_interval(_contrasts(resampled, edges)[1], level=level)[0] > 0
    noise = resampled - resampled.mean(axis=0)
    flat = _contrasts(noise, segment_all(noise, min_size=min_size))[1]
    return bool(rim > 0 and steady and rim > np.quantile(flat, level))


def _is_one_place(curve: FloatArray, starts: tuple[int, int], ends: tuple[int, int]) -> bool:
    """Require that the start lies before the end over resamples, and a rim above zero at the ends of both intervals."""
    if starts[1] > ends[0]:
        return False
    extremes = np.array([(starts[0], ends[1] + 1), (starts[1], ends[0] + 1)])
    return bool((_contrasts(np.tile(curve, (2, 1)), extremes)[1] > 0).all())


def _edge_interval(edges: IntArray, level: float) -> tuple[int, int]:
    tail = (1.0 - level) / 2.0
    low = int(np.quantile(edges, tail, method="lower"))
    high = int(np.quantile(edges, 1.0 - tail, method="higher"))
    return low, high


def _shape(curve: FloatArray, edges: tuple[int, int], rim: float, min_size: int) -> tuple[float, float]:
    """Return the p-value over layers, and the rise between two valleys as a share of the rim."""
    share = rise_between_valleys(curve, min_size=min_size) / rim if rim > 0 else float("nan")
    return order_p_value(curve, edges, min_size=min_size), share


def middle_layers(
    curve: FloatArray,
    resampled: FloatArray | None = None,
    *,
    layers: Sequence[int] | None = None,
    n_items: int = 1,
    level: float = 0.95,
) -> MiddleLayers:
    """Find the middle layers of a curve, and whether they are lower than the outer ones.

    A segmentation always exists, so ``is_u_shape`` must be read with it. It requires that the rim (the lower outer mean
    minus the middle mean) is above zero; that the layers of each side are higher than the middle by more than layers in
    random order would be, at 0.05; and that the curve does not rise in between by half of the rim, which would be two
    valleys. With resamples it also requires that the rim stays above zero at the lower end of its interval, and exceeds
    the ``level`` quantile of the rims that segmentation finds in noise alone (resampled curves minus their mean); that
    the interval of the start lies before that of the end; and that the rim is above zero at the ends of both intervals.
    A curve that wanders smoothly without a cause can still end higher on both sides (docs/decisions/0015).
    Depth is measured on the segments that were fitted to the same curve: on pure noise it is biased away from zero.

    Args:
        curve: ``[n_layers]``, such as the mean divergence over languages.
        resampled: ``[n_resamples, n_layers]``, the curve of every bootstrap resample; None where there are no items.
        layers: decoder layer of each position, increasing; by default 0, 1, ….
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
    min_size = default_min_size(len(curve))
    edges = np.array([segment(curve, min_size=min_size)])
    first, second = edges[0].tolist()
    depth, rim = (part.item() for part in _contrasts(curve[None], edges))
    p_value, rise = _shape(curve, (first, second), rim, min_size)
    is_valley = rim > 0 and p_value <= LAYER_LEVEL and rise < RISE
    unknown = Estimate.without_interval(depth, n_items)
    middle = MiddleLayers(layers[first], layers[second - 1], None, None, is_valley, unknown, p_value, rise)
    if resampled is None:
        return middle
    resampled = np.asarray(resampled, dtype=np.float64)
    low, high = (end.item() for end in percentile_interval(_contrasts(resampled, edges)[0], level=level))
    splits = segment_all(resampled, min_size=min_size)
    starts, ends = (_edge_interval(splits[:, edge] - edge, level) for edge in (0, 1))
    holds = _is_one_place(curve, starts, ends) and _is_beyond_noise(
        curve, resampled, edges, min_size=min_size, level=level
    )
    return replace(
        middle,
        start_interval=(layers[starts[0]], layers[starts[1]]),
        end_interval=(layers[ends[0]], layers[ends[1]]),
        is_u_shape=is_valley and holds,
        depth=replace(unknown, low=low, high=high),
    )
