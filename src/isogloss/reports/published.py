"""A paper's numbers beside those that were measured here, and in what both were measured otherwise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from isogloss.errors import RunError
from isogloss.evaluation.ablation import Measure
from isogloss.records import Number, Record
from isogloss.reports.figures import Section, Table
from isogloss.reports.text import MISSING, plain
from isogloss.statistics import MINUS, Estimate

Quantity = Literal[
    "baseline",
    "steered",
    "gain",
    "pivot change",
    "experts",
    "lowest correlation",
    "highest correlation",
    "banned loss",
    "other loss",
    "banned beyond other loss",
]
"""What of a study a paper prints; ``baseline`` to ``pivot change`` in percent or percentage points of the task's score,
correlations (Pearson, of accuracy with divergence) as the least and greatest over the layers, and of a band of bans the
loss of the language whose experts are banned, of the other languages, and the difference of both."""

_TEXT = {
    "baseline": "score without a plan, %",
    "steered": "score with the plan, %",
    "gain": "gain, points",
    "pivot change": "change of the pivot, points",
    "experts": "experts steered",
    "lowest correlation": "Pearson r of accuracy and divergence, lowest layer",
    "highest correlation": "Pearson r of accuracy and divergence, highest layer",
    "banned loss": "loss of the banned language",
    "other loss": "loss of the other languages",
    "banned beyond other loss": "loss of the banned language beyond that of the others",
}
_VERDICTS = {"above": "as published", "below": "the opposite", None: "not shown"}


@dataclass(frozen=True)
class Published(Record):
    """One result of a paper.

    Attributes:
        quantity: what it is of.
        value: as printed; NaN where the paper says in words alone that it is above zero.
        source: paper and table or figure.
        words: how a result without a number is shown, such as ``hurts``.
        band: that bans are in, of quantities of bans.
        task: place of the task in the study, the first is 0.
        measure: ``score``, or ``language`` for the share of answers in the language asked for.
    """

    quantity: Quantity
    source: str
    value: Number = math.nan
    words: str = ""
    band: str = ""
    task: int = 0
    measure: Measure = "score"

    def __post_init__(self) -> None:
        if math.isnan(self.value) == (not self.words):
            raise RunError(f"published {self.quantity}: expected either a value or words, such as value = 76.4")


@dataclass(frozen=True)
class PublishedRow(Record):
    """A published number beside the measured one.

    Attributes:
        quantity: see `Quantity`.
        published: as printed; NaN where it is in words.
        measured: with its interval; None where the study did not measure it.
        difference: measured minus published, with the interval of the measured one; None as above, or in words.
        source: paper and table or figure.
        words: what the paper says, where it prints no number.
        where: band, task and measure of quantities of bans, for people.
    """

    quantity: Quantity
    published: Number
    measured: Estimate | None
    difference: Estimate | None
    source: str
    words: str = ""
    where: str = ""

    @property
    def verdict(self) -> str:
        """Whether the measured value is above zero beyond its interval, as the words say."""
        measured = self.measured
        return MISSING if measured is None or not measured.has_interval else _VERDICTS[measured.side]

    @property
    def cells(self) -> tuple[str, str, str, str, str]:
        """Quantity, published, measured with interval, difference with interval or verdict, source."""
        digits = "{:.0f}" if self.quantity == "experts" else "{:.2f}" if "correlation" in self.quantity else "{:.1f}"
        signed = digits.replace("{:", "{:+")
        published = self.words or digits.format(self.published).replace("-", MINUS)
        measured = MISSING if self.measured is None else self.measured.text(digits.format)
        difference = MISSING if self.difference is None else self.difference.text(signed.format)
        text = f"{_TEXT[self.quantity]}, {self.where}" if self.where else _TEXT[self.quantity]
        return text, published, measured, self.verdict if self.words else difference, self.source


@dataclass(frozen=True)
class Condition(Record):
    """One circumstance of the measurement.

    Attributes:
        name: of it.
        published: as the paper or the recipe states it.
        here: as it was in the study.
    """

    name: str
    published: str
    here: str

    @property
    def differs(self) -> bool:
        """Whether both are stated and are not the same."""
        return self.published != self.here

    @property
    def text(self) -> str:
        """One clause of a sentence."""
        return f"{self.name}: published {self.published}, here {self.here}"


@dataclass(frozen=True)
class PublishedComparison(Record):
    """What a study measured beside what a paper prints; written as ``published.json``.

    Attributes:
        rows: one per published number.
        conditions: of the measurement, those that agree included.
        remarks: on what the paper leaves open.
    """

    rows: tuple[PublishedRow, ...]
    conditions: tuple[Condition, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def differing(self) -> tuple[Condition, ...]:
        """Conditions that are not as published."""
        return tuple(each for each in self.conditions if each.differs)

    @property
    def sentences(self) -> tuple[str, ...]:
        """What differs from the published conditions, and the remarks."""
        if not self.differing:
            return ("All conditions that are stated are as published.", *self.remarks)
        clauses = "; ".join(each.text for each in self.differing)
        return (f"Conditions that differ from the published ones: {clauses}.", *self.remarks)


HEADER = ("quantity", "published", "measured [interval]", "difference", "source")


def published_section(comparison: PublishedComparison) -> Section:
    """Describe how far the study's numbers lie from the paper's."""
    rows = [tuple(map(plain, row.cells)) for row in comparison.rows]
    caption = (
        "Measured: the mean over languages with a 95 % interval over items, for these languages (Pearson r: over "
        "languages, by Fisher's transformation). Difference: measured minus published, with the interval of the "
        "measured number alone: papers print none. Where a paper says in words alone that something is lost: whether "
        "the interval of the measured loss lies above zero."
    )
    table = Table("Published and measured", caption, HEADER, rows, text_columns=(0, 4), folded=False)
    conditions = [(plain(each.name), plain(each.published), plain(each.here)) for each in comparison.conditions]
    stated = Table(
        "Conditions", "As the paper or its recipe states them, and as they were here.", ("", "published", "here"),
        conditions, text_columns=(0, 1, 2),
    )  # fmt: skip
    blocks = [table, *([stated] if conditions else [])]
    return Section("published", "Beside the published numbers", list(map(plain, comparison.sentences)), blocks)
