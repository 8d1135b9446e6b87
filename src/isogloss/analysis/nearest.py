"""How far experts are from a rule's threshold, where none passes it: the greatest statistic, and lower thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context

import numpy as np

from isogloss.arrays import FloatArray
from isogloss.records import Record

__all__ = ["LowerThreshold", "Nearest", "nearest"]

_COUNTS = (1, 5, 20)  # experts that the thresholds named would give
_DIGITS = 3  # significant ones of a threshold


@dataclass(frozen=True)
class LowerThreshold(Record):
    """A threshold that experts would pass.

    Attributes:
        threshold: that many experts pass.
        n: how many.
    """

    threshold: float
    n: int


@dataclass(frozen=True)
class Nearest(Record):
    """The expert that comes nearest to a threshold which none passes.

    Attributes:
        layer: decoder layer, 0-based.
        expert: id within the layer.
        statistic: of this expert.
        thresholds: that would give some; empty where no threshold of the rule gives any.
    """

    layer: int
    expert: int
    statistic: float
    thresholds: tuple[LowerThreshold, ...]

    @property
    def text(self) -> str:
        """One sentence, with what a threshold chosen by it is worth."""
        near = f"The nearest is expert {self.expert} of layer {self.layer}, with {self.statistic:.3g}"
        if not self.thresholds:
            return f"{near}: no threshold gives any."
        given = ", ".join(f"{each.threshold:g} gives {each.n}" for each in self.thresholds)
        return (
            f"{near}: a threshold of {given}. Compare what it gives with the number expected by chance: a threshold "
            "that was chosen by what it gives is no evidence by itself."
        )


def nearest(statistic: FloatArray, reach: FloatArray, layers: Sequence[int], *, sign: int = 1) -> Nearest | None:
    """Find the expert that comes nearest to a threshold, and thresholds that 1, 5 and 20 experts pass.

    Args:
        statistic: of every expert, ``[n_layers, n_experts]``.
        reach: the greatest threshold that each expert does not quite pass, of the same shape; where ``sign`` is -1 the
            least. NaN for experts that no threshold finds.
        layers: decoder layer of each row.
        sign: 1 where experts above a threshold are found, -1 where those below it are.

    Returns:
        None where no threshold finds any expert.
    """
    place = np.flatnonzero(~np.isnan(reach))
    if not place.size:
        return None
    order = place[np.argsort(-sign * reach.ravel()[place], kind="stable")]
    row, expert = np.unravel_index(order[0], reach.shape)
    ordered = reach.ravel()[order]
    passed: dict[float, LowerThreshold] = {}
    for n in _COUNTS:
        if n <= len(ordered) and (threshold := _short_of(float(ordered[n - 1]), sign)) is not None:
            passed[threshold] = LowerThreshold(threshold, int((sign * ordered > sign * threshold).sum()))
    return Nearest(layers[int(row)], int(expert), float(statistic[row, expert]), tuple(passed.values()))


def _short_of(value: float, sign: int) -> float | None:
    """Round a value to what it passes: down, or up where ``sign`` is -1; None where no threshold is passed."""
    if sign > 0 and value <= 0:
        return None
    rounding = Context(prec=_DIGITS, rounding=ROUND_FLOOR if sign > 0 else ROUND_CEILING)
    short = rounding.create_decimal(value)
    if float(short) == value:
        short = rounding.next_minus(short) if sign > 0 else rounding.next_plus(short)
    return float(short)
