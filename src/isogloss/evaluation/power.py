"""Computes how large a difference must be for an evaluation of a given size to detect it."""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

__all__ = ["detectable_change", "detectable_mean", "mcnemar_power"]

_PRECISION = 1e-9


def mcnemar_power(difference: float, *, n_items: int, flipped: float, alpha: float = 0.05) -> float:
    """Return the probability that the exact McNemar test finds p <= alpha and more items gained than lost.

    ``difference`` is the true gain as a share of items, between 0 and ``flipped``, the true share of items on which the
    arms differ, which is above 0 and at most 1.

    Source:
        Enumeration: the number of flipped items is binomial, and so, given it, is the number gained.
    """
    from scipy.stats import binom  # noqa: PLC0415 - 0.5 s

    if not 0.0 <= difference <= flipped <= 1.0 or flipped == 0.0:
        raise ValueError(f"difference is {difference} and flipped {flipped}; expected 0 <= difference <= flipped <= 1")
    n_flipped = np.arange(n_items + 1)
    detected = binom.sf(_needed(n_items, alpha) - 1, n_flipped, min(1.0, (1.0 + difference / flipped) / 2.0))
    return float(binom.pmf(n_flipped, n_items, flipped) @ detected)


@lru_cache(maxsize=4096)
def detectable_change(n_items: int, n_flipped: int, *, power: float = 0.8, alpha: float = 0.05) -> float:
    """Return the smallest gain, a share of items, that the exact McNemar test detects with the given power.

    The share of items that flip is taken as observed; a gain above it flips more, and then every flip is a gain. It
    describes what the evaluation could have detected, not the effect that there is. NaN where not even all items gained
    would be detected (5 items at 5 %).

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
    """Return the smallest mean difference that a two-sided test detects with the given power: 2.8 standard errors.

    NaN where the standard error is 0 or NaN, and thus not known.
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
