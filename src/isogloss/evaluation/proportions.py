"""Intervals for shares of right answers and for the difference of two shares on the same items.

A bootstrap cannot see what did not occur: an arm that is always right, or a plan that changed three answers, gets an
interval that is too short or has no width. These intervals keep their level there.
"""

from __future__ import annotations

import math
from statistics import NormalDist

__all__ = ["paired_difference_interval", "share_interval", "share_upper_bound"]

_LARGEST = 1e9  # in place of an infinite score, which a search by secants cannot use


def share_interval(n_right: int, n_items: int, *, level: float = 0.95) -> tuple[float, float]:
    """Return Wilson's interval for the share of items that are right, between 0 and 1; never of width zero.

    Source:
        Wilson (1927); statsmodels ``proportion_confint(method="wilson")``.

    Example:
        >>> [round(end, 3) for end in share_interval(50, 50)]
        [0.929, 1.0]
    """
    from statsmodels.stats.proportion import proportion_confint  # noqa: PLC0415 - two seconds that reports need not wait

    low, high = proportion_confint(n_right, n_items, alpha=1.0 - level, method="wilson")
    return float(low), float(high)


def share_upper_bound(n_found: int, n_items: int, *, level: float = 0.95) -> float:
    """Return the exact one-sided upper bound of a share: with none counted, about 3 out of n at 95 % (rule of three).

    Source:
        Clopper and Pearson (1934); statsmodels ``proportion_confint(method="beta")``.

    Example:
        >>> round(share_upper_bound(0, 300), 4)
        0.0099
    """
    from statsmodels.stats.proportion import proportion_confint  # noqa: PLC0415 - two seconds that reports need not wait

    return float(proportion_confint(n_found, n_items, alpha=2.0 * (1.0 - level), method="beta")[1])


def paired_difference_interval(n_gained: int, n_lost: int, *, n_items: int, level: float = 0.95) -> tuple[float, float]:
    """Return Tango's score interval for the second arm's share minus the first's, on the same items.

    Its ends are the differences that a score test would just reject: between -1 and 1, never of width zero. Exact
    coverage of the 95 % interval, against that of the percentile bootstrap: at 50 items of which 5 % flip, 98.9 %
    against 85 %; at 200 items of which 1 % flip, 98.4 % against 87 %; where 10 % or more flip, both cover 95 to 96 %
    (the bootstrap 92 to 96 %).

    Args:
        n_gained: items that only the second arm got right.
        n_lost: items that only the first arm got right.
        n_items: items in all, at least ``n_gained + n_lost`` and 1.
        level: coverage, above 0 and below 1.

    Source:
        Tango, Equivalence test and confidence interval for the difference in proportions for the paired-sample design
        (1998), equations for the score statistic and the constrained estimate; doi
        10.1002/(SICI)1097-0258(19980430)17:8<891::AID-SIM780>3.0.CO;2-B.

    Example:
        >>> [round(end, 3) for end in paired_difference_interval(1, 7, n_items=21)]
        [-0.517, -0.026]
    """
    quantile = NormalDist().inv_cdf(0.5 + level / 2.0)
    high = _upper_end(n_gained, n_lost, n_items, quantile)
    return -_upper_end(n_lost, n_gained, n_items, quantile), high


def _upper_end(n_gained: int, n_lost: int, n_items: int, quantile: float) -> float:
    """Find the largest difference that is not rejected, between the one observed and 1."""
    if n_gained == n_items:
        return 1.0

    def distance(difference: float) -> float:
        return min(max(_score(n_gained, n_lost, n_items, difference), -_LARGEST), _LARGEST) + quantile

    from scipy.optimize import brentq  # noqa: PLC0415 - as above

    return float(brentq(distance, (n_gained - n_lost) / n_items, 1.0, xtol=1e-15))


def _score(n_gained: int, n_lost: int, n_items: int, difference: float) -> float:
    """Standardise what was gained beyond a supposed difference, with the share lost that is likeliest under it."""
    linear = (2 * n_items - n_gained + n_lost) * difference - n_gained - n_lost
    constant = -n_lost * difference * (1.0 - difference)
    lost = (math.sqrt(max(linear * linear - 8 * n_items * constant, 0.0)) - linear) / (4 * n_items)
    variance = n_items * (2 * lost + difference * (1.0 - difference))
    excess = n_gained - n_lost - n_items * difference
    return excess / math.sqrt(variance) if variance > 0.0 else math.copysign(math.inf, excess)
