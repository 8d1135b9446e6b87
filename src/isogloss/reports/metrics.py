"""How scores of an evaluation are written: shares in percent, other metrics as they are; and what each arm is."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from isogloss.evaluation import PLAN, Better, Comparison, EvaluationSummary, is_random
from isogloss.reports.text import MISSING, label, number, plain
from isogloss.statistics import MINUS, Estimate

_TITLES = {
    "accuracy": "accuracy",
    "f1": "F1",
    "chrf": "chrF",
    "bits_per_byte": "bits per byte",
    "language": "answers in the language asked for",
}
_SHARES = ("accuracy", "f1", "language")
_LAYERS = re.compile(r"layers-(\d+)-(\d+)")
_STRENGTH = re.compile(r"strength-([-+]?\d*\.?\d+(?:e[-+]?\d+)?)")
_MOVED = re.compile(r"(deeper|shallower)-(\d+)")
_THRESHOLD = re.compile(r"threshold-(\d*\.?\d+)")
_NAMED = {
    PLAN: "the plan",
    "early": "as many experts in early layers",
    "late": "as many experts in late layers",
    "suppress": "the opposite of the plan, same experts",
    "other-probes": "what is added for each language, on the tokens of another",
    "rule-early": "the rule's experts before the layers",
    "rule-late": "the rule's experts after the layers",
}


@dataclass(frozen=True)
class Metric:
    """A metric with its scale and direction.

    Attributes:
        name: as people write it.
        is_share: values lie between 0 and 1 and are written in percent, differences in percentage points.
        better: which values are better.
    """

    name: str
    is_share: bool = True
    better: Better = "higher"

    @classmethod
    def of(cls, summary: EvaluationSummary) -> Metric:
        """Return the metric that an evaluation compares; one that is not ours keeps its own name."""
        return cls(_TITLES.get(summary.metric, plain(summary.metric)), summary.is_share, summary.better)

    @classmethod
    def named(cls, metric: str) -> Metric:
        """Return the metric of one of our tasks."""
        better: Better = "lower" if metric == "bits_per_byte" else "higher"
        return cls(_TITLES.get(metric, plain(metric)), metric in _SHARES, better)

    @property
    def factor(self) -> float:
        """What a value is multiplied by before it is drawn."""
        return 100.0 if self.is_share else 1.0

    @property
    def percent(self) -> str:
        """The sign after a value, with a blank before it; nothing for what is no share."""
        return " %" if self.is_share else ""

    @property
    def points(self) -> str:
        """The unit after a difference, with a blank before it; nothing for what is no share."""
        return " points" if self.is_share else ""

    @property
    def change_unit(self) -> str:
        """What differences are in: percentage points, or the metric itself."""
        return "percentage points" if self.is_share else self.name

    @property
    def direction(self) -> str:
        """Which values are better, in brackets with a blank before them; nothing where higher ones are."""
        return "" if self.better == "higher" else f" ({self.better} is better)"

    def value(self, value: float) -> str:
        """Write a value without its unit: ``76.4`` for a share of 0.764, ``54.31`` for chrF, ``0.254`` for bits."""
        return self._write(value, "")

    def written(self, value: float) -> str:
        """Write a value with its unit, such as ``76.4 %``."""
        return f"{self.value(value)}{self.percent}"

    def change(self, value: float) -> str:
        """Write a difference with its sign, without its unit: ``+1.6``, ``−0.28`` or ``−0.028``."""
        return self._write(value, "+")

    def value_text(self, estimate: Estimate) -> str:
        """Write a value with its unit and interval, such as ``66.7 % [44.0, 88.1]``."""
        return _insert(self.percent, estimate.text(self.value))

    def change_text(self, estimate: Estimate) -> str:
        """Write a difference with its unit and interval, such as ``+0.6 points [−4.2, +5.4]``."""
        return _insert(self.points, estimate.text(self.change))

    def loss_text(self, estimate: Estimate) -> str:
        """Write a loss with its unit and interval, and a sign only where it is a gain: ``4.2 points [−0.6, 9.1]``."""
        return _insert(self.points, estimate.text(self.value))

    def _write(self, value: float, sign: str) -> str:
        if math.isnan(value):
            return MISSING
        if self.is_share or self.name == _TITLES["chrf"]:
            digits = 1 if self.is_share else 2
            return f"{self.factor * value:{sign}.{digits}f}".replace("-", MINUS)
        return f"{sign if value >= 0 else ''}{number(value)}"


def _insert(unit: str, text: str) -> str:
    """Put a unit between a number and its interval."""
    written, blank, ends = text.partition(" ")
    return f"{written}{unit}{blank}{ends}"


def ordered_arms(summary: EvaluationSummary) -> list[str]:
    """List the plan, then the controls: random ones first, the others as they were given."""
    return [PLAN, *sorted(summary.controls, key=lambda arm: not is_random(arm))]


def arm_text(arm: str) -> str:
    """Describe an arm by its name, as `isogloss evaluate --arms` gives it; any other name is returned itself."""
    if is_random(arm):
        return f"random experts, as many per layer, seed {arm.removeprefix('random-')}"
    if match := _LAYERS.fullmatch(arm):
        return f"as many experts in layers {match[1]}–{match[2]}"
    if match := _STRENGTH.fullmatch(arm):
        return f"the plan at strength {match[1]}"
    if match := _MOVED.fullmatch(arm):
        return f"the rule's experts in the layers moved {match[1]} by {match[2]}"
    if match := _THRESHOLD.fullmatch(arm):
        return f"the rule's experts at the threshold {match[1]}"
    return _NAMED.get(arm, plain(arm))


def ranked_languages(comparison: Comparison) -> list[str]:
    """List the mean over languages, which is empty, then each language from the greatest gain to the least."""
    sign = 1.0 if comparison.better == "lower" else -1.0
    each = comparison.per_language
    return ["", *sorted(each, key=lambda code: (sign * each[code].difference.value, label(code)))]
