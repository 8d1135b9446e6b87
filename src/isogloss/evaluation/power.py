"""Says how large a difference must be for an evaluation of a given size to find it."""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

__all__ = ["detectable_change", "detectable_mean", "mcnemar_power"]

_PRECISION = 1e-9


def mcnemar_power(difference: float, *, n_items: int, flipped: float, alpha: float = 0.05) -> float:
    """Give the chance that the exact McNemar test finds a gain.

    Args:
        difference: true gain as a share of items, between 0 and ``flipped``.
        n_items: items, the same in both arms.
        flipped: true share of items on which the arms differ, above 0 and at most 1.
        alpha: two-sided level of the test.

    Returns:
        Probability that p <= alpha and more items are gained than lost.

    Source:
        Enumeration: the number of flipped items is binomial, and so, given it, is the number gained.
    """
    from scipy.stats import binom  # noqa: PLC0415 - 0.5 s

    if not 0.0 <= difference <= flipped <= 1.0 or flipped == 0.0:
        raise ValueError(f"difference is {difference} and flipped {flipped}; expected 0 <= difference <= flipped <= 1")
    n_flipped = np.arange(n_items + 1)
    found = binom.sf(_needed(n_items, alpha) - 1, n_flipped, min(1.0, (1.0 + difference / flipped) / 2.0))
    return float(binom.pmf(n_flipped, n_items, flipped) @ found)


@lru_cache(maxsize=4096)
def detectable_change(n_items: int, n_flipped: int, *, power: float = 0.8, alpha: float = 0.05) -> float:
    """Give the smallest gain that the exact McNemar test finds with the given chance.

    The share of items that flip is taken as observed; a gain above it flips more, and then every flip is a gain. It
    tells what the evaluation could have seen, not what is there.

    Args:
        n_items: items, at least 1.
        n_flipped: items on which the arms differed, 0 to ``n_items``.
        power: chance to find it, above ``alpha`` and below 1.
        alpha: two-sided level of the test.

    Returns:
        A share of items; NaN where not even all items gained would be found (5 items at 5 %).

    Example:
        >>> round(detectable_change(250, 25), 3)
        0.058
    """
    from scipy.optimize import brentq  # noqa: PLC0415 - 0.1 s

    observed = n_flipped / n_items

    def chance(difference: float) -> float:
        return mcnemar_power(difference, n_items=n_items, flipped=max(observed, difference), alpha=alpha)

    if chance(1.0) < power:
        return math.nan
    # Without any flip there is nothing to test: the search starts just above no gain.
    return float(brentq(lambda difference: chance(difference) - power, _PRECISION, 1.0, xtol=_PRECISION))


def detectable_mean(standard_error: float, *, power: float = 0.8, alpha: float = 0.05) -> float:
    """Give the smallest mean difference that a two-sided test finds with the given chance: 2.8 standard errors.

    Args:
        standard_error: of the mean difference; 0 or NaN where it is not known.
        power: chance to find it.
        alpha: two-sided level of the test.

    Returns:
        In the units of the standard error; NaN where it is not known.
    """
    quantile = NormalDist().inv_cdf
    known = standard_error > 0.0
    return (quantile(1.0 - alpha / 2.0) + quantile(power)) * standard_error if known else math.nan


@lru_cache(maxsize=64)
def _needed(n_items: int, alpha: float) -> npt.NDArray[np.int64]:
    """By number of flipped items, the least number gained at which two-sided p <= alpha (more than all: never)."""
    from scipy.stats import binom  # noqa: PLC0415 - as above

    sizes = np.arange(n_items + 1)
    # isf(q) is the least k with P(X > k) <= q, so the least number with P(X >= number) <= alpha / 2 is one above it.
    return np.asarray(binom.isf(alpha / 2.0, sizes, 0.5), dtype=np.int64) + 1
