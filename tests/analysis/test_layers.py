"""Middle layers: exact segmentation, planted shapes, and plain words where there is no U."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from ruptures import Dynp

from isogloss.analysis.layers import default_min_size, middle_layers, segment, segment_all
from isogloss.analysis.valleys import order_p_value
from isogloss.errors import RunError

Array = npt.NDArray[np.float64]


def squared_error(curve: Array, edges: tuple[int, int]) -> float:
    """Squared error around the means of three segments."""
    return float(sum(((part - part.mean()) ** 2).sum() for part in np.split(curve, edges)))


def planted(levels: tuple[float, float, float], noise: float, seed: int) -> Array:
    """200 items by 24 layers whose mean has ``levels`` in layers 0-5, 6-17 and 18-23."""
    curve = np.repeat(levels, [6, 12, 6])
    return curve + np.random.default_rng(seed).normal(scale=noise, size=(200, 24))


def resamples(items: Array, seed: int = 0) -> Array:
    """300 bootstrap means of items."""
    drawn = np.random.default_rng(seed).integers(0, len(items), size=(300, len(items)))
    return items[drawn].mean(axis=1)


@settings(max_examples=40)
@given(arrays(np.float64, st.integers(6, 14), elements=st.floats(0, 1, width=16)), st.integers(1, 2))
def test_segmentation_has_the_least_squared_error(curve: Array, min_size: int):
    """No pair of change points beats the one found."""
    first, second = segment(curve, min_size=min_size)
    assert min(first, second - first, len(curve) - second) >= min_size
    pairs = [
        pair
        for pair in itertools.combinations(range(min_size, len(curve) - min_size + 1), 2)
        if pair[1] - pair[0] >= min_size
    ]
    best = min(squared_error(curve, pair) for pair in pairs)
    assert squared_error(curve, (first, second)) == pytest.approx(best, abs=1e-9)


def test_segmentation_equals_the_textbook_implementation():
    """The fast kernel form and dynamic programming on the l2 cost give the same edges."""
    for curve in np.random.default_rng(2).normal(size=(10, 24)):
        slow = Dynp(model="l2", min_size=2, jump=1).fit(curve[:, None]).predict(n_bkps=2)
        assert [*segment(curve, min_size=2), 24] == slow


@pytest.mark.parametrize(("n_layers", "min_size"), [(6, 2), (24, 2), (48, 4)])
def test_many_curves_are_split_as_each_alone(n_layers: int, min_size: int):
    """The search for resamples finds the pair of change points that ruptures finds."""
    generator = np.random.default_rng(n_layers)
    noise = generator.normal(size=(150, n_layers))
    for curves in (noise, 5 + 0.1 * noise, np.cumsum(noise, axis=1)):
        alone = [segment(curve, min_size=min_size) for curve in curves]
        assert segment_all(curves, min_size=min_size).tolist() == [list(edges) for edges in alone]


def test_many_curves_that_are_too_short_are_refused():
    """As one is."""
    with pytest.raises(RunError, match="3 segments of at least 2"):
        segment_all(np.zeros((4, 5)), min_size=2)


def test_a_planted_u_is_found_with_its_depth():
    """Edges, depth and shape of a U survive noise."""
    items = planted((0.5, 0.2, 0.4), 0.3, 0)
    found = middle_layers(items.mean(axis=0), resamples(items), n_items=200)
    assert (found.start, found.end) == (6, 17)
    assert found.start_interval == (6, 6)
    assert found.end_interval is not None
    assert found.end_interval[0] <= 17 <= found.end_interval[1]
    assert found.is_u_shape
    assert found.depth.low < 0.25 < found.depth.high
    assert found.depth.n == 200


@pytest.mark.parametrize("levels", [(0.2, 0.5, 0.2), (0.2, 0.4, 0.6), (0.6, 0.4, 0.2)])
def test_humps_and_slopes_are_no_u(levels: tuple[float, float, float]):
    """A middle that is not below both sides is said not to be a U."""
    items = planted(levels, 0.1, 1)
    found = middle_layers(items.mean(axis=0), resamples(items), n_items=200)
    assert not found.is_u_shape
    assert not middle_layers(items.mean(axis=0)).is_u_shape
    assert found.reason


def test_the_depth_of_a_hump_is_negative():
    """The sign of the depth tells the U from its opposite."""
    items = planted((0.2, 0.5, 0.2), 0.1, 1)
    assert middle_layers(items.mean(axis=0), resamples(items)).depth.high < 0


def test_a_dip_within_the_noise_is_no_u():
    """A middle that is lower in the data but not at the lower end of the interval is not called a U."""
    curve = np.repeat([0.5, 0.499, 0.5], [6, 12, 6])
    noisy = curve + np.random.default_rng(4).normal(scale=0.05, size=(300, 24))
    assert middle_layers(curve).is_u_shape
    assert not middle_layers(curve, noisy).is_u_shape
    assert "noise of the items" in middle_layers(curve, noisy).reason


ZIGZAG, W = [0.24, 0.12] * 12, [*[0.3] * 4, *[0.2] * 5, *[0.3] * 6, *[0.2] * 5, *[0.3] * 4]


@pytest.mark.parametrize("noise", [0.001, 0.1])
@pytest.mark.parametrize("levels", [ZIGZAG, W])
def test_several_dips_are_no_middle(levels: list[float], noise: float):
    """Zigzag and W, whether the items say much of each layer or little."""
    for seed in range(5):
        items = np.random.default_rng(seed).normal(levels, noise, size=(40, 24))
        assert not middle_layers(items.mean(axis=0), resamples(items, seed), n_items=40).is_u_shape
        assert not middle_layers(items.mean(axis=0)).is_u_shape


def test_two_valleys_are_named_as_such():
    """A W is refused for its rise; a U with a low hump inside, and one with a single low layer outside, are not."""
    w = middle_layers(np.array([*[0.3] * 4, *[0.2] * 4, *[0.3] * 4, *[0.2] * 4, *[0.3] * 4]))
    assert w.rise == pytest.approx(0.1 / (0.3 - (0.2 * 8 + 0.3 * 4) / 12))
    assert "several valleys" in w.reason
    u = np.repeat([0.5, 0.2, 0.4], [6, 12, 6])
    for changed, by in (([12, 13], 0.08), ([0], -0.3)):
        bumpy = u.copy()
        bumpy[changed] += by
        assert middle_layers(bumpy).is_u_shape
        assert not middle_layers(bumpy).reason


def test_layers_of_independent_levels_are_rarely_called_a_u():
    """Levels without order, each known exactly: noise of items explains none of it, and layers do."""
    for n_layers in (12, 24, 48):
        curves = np.random.default_rng(n_layers).normal(size=(60, n_layers))
        found = [middle_layers(curve, curve + np.zeros((20, 1))) for curve in curves]
        assert sum(middle.is_u_shape for middle in found) <= 6
        assert all(middle.reason for middle in found if not middle.is_u_shape)


def test_the_p_value_over_layers_is_that_of_all_orders():
    """Of the side that is less steep: the share of orders of its layers whose greatest step down is as great."""
    curve, edges = np.array([5.0, 4.0, 1.0, 0.0, 4.5, 9.0, 8.0, 7.0]), (2, 5)

    def greatest(side: tuple[float, ...]) -> float:
        n = len(side)
        steps = ((np.mean(side[:k]) - np.mean(side[k:])) * (k * (n - k) / n) ** 0.5 for k in range(2, n - 1))
        return float(max(steps))

    sides = tuple(curve[:5]), tuple(curve[:1:-1])
    exact = [
        np.mean([greatest(order) > greatest(side) - 1e-9 for order in itertools.permutations(side)]) for side in sides
    ]
    assert order_p_value(curve, edges, min_size=2) == pytest.approx(max(exact), abs=0.05)
    assert min(exact) < max(exact) - 0.1


def test_few_layers_cannot_show_a_u():
    """Two layers beside four are one of 15 orders: more than 0.05, however deep."""
    found = middle_layers(np.repeat([9.0, 0.0, 9.0], [2, 4, 2]))
    assert found.p_value == pytest.approx(1 / 15, abs=0.03)
    assert not found.is_u_shape


def test_a_flat_curve_is_rarely_called_a_u():
    """The dip that segmentation finds in noise alone is no evidence: about 5 % of flat curves are called a U."""
    called = 0
    for seed in range(60):
        items = planted((0.3, 0.3, 0.3), 0.1, seed)
        called += middle_layers(items.mean(axis=0), resamples(items, seed)).is_u_shape
    assert called <= 8


def test_blurred_edges_have_wide_intervals():
    """The edge interval widens with the noise between items."""
    sharp, blurred = (planted((0.5, 0.2, 0.4), noise, 3) for noise in (0.1, 3.0))
    widths = [
        np.ptp(middle_layers(items.mean(axis=0), resamples(items)).end_interval or ()) for items in (sharp, blurred)
    ]
    assert widths[0] < widths[1]


def test_edges_are_decoder_layers_when_some_layers_are_dense():
    """Positions are translated: routed layers 3, 5, 7, … of a stack with dense layers between."""
    curve, layers = np.repeat([0.5, 0.2, 0.4], [6, 12, 6]), list(range(3, 51, 2))
    found = middle_layers(curve, np.tile(curve, (5, 1)), layers=layers)
    assert (found.start, found.end) == (layers[6], layers[17])
    edges = {"start": 15, "end": 37, "start_interval": [15, 15], "end_interval": [37, 37]}
    shape = {"is_u_shape": True, "depth": found.depth.to_json(), "p_value": found.p_value, "rise": 0.0}
    assert found.to_json() == {**edges, **shape}
    assert found.p_value < 0.05


def test_without_resamples_there_are_no_intervals():
    """Pooled data give edges and depth without intervals."""
    found = middle_layers(np.repeat([0.5, 0.2, 0.4], [4, 4, 4]))
    assert (found.start, found.end, found.start_interval, found.end_interval) == (4, 7, None, None)
    assert found.depth.to_json() == {"value": pytest.approx(0.25), "low": None, "high": None, "n": 1}


def test_too_few_layers_are_refused_with_the_way_out():
    """Five layers do not make three segments of two."""
    with pytest.raises(RunError, match=r"3 segments of at least 2 routed layers, and this run has 5.*--layers"):
        middle_layers(np.arange(5.0))


@pytest.mark.parametrize(("curve", "layers"), [(np.array([1.0, np.nan] * 4), None), (np.arange(8.0), [1, 2])])
def test_a_curve_with_gaps_is_refused(curve: Array, layers: list[int] | None):
    """NaN or a layer list of another length is an error."""
    with pytest.raises(ValueError, match="one value per layer"):
        middle_layers(curve, layers=layers)


@pytest.mark.parametrize(("n_layers", "size"), [(8, 2), (24, 2), (36, 3), (48, 4), (94, 7)])
def test_segments_have_a_twelfth_of_the_layers_at_least(n_layers: int, size: int):
    """Default least size of a segment."""
    assert default_min_size(n_layers) == size
