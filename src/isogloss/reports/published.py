"""A paper's numbers beside those that were measured here, and in what both were measured otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from isogloss.records import Number, Record
from isogloss.reports.figures import Section, Table
from isogloss.reports.text import MISSING, plain
from isogloss.statistics import MINUS, Estimate

Quantity = Literal[
    "baseline", "steered", "gain", "pivot change", "experts", "lowest correlation", "highest correlation"
]
"""What of a study a paper prints; ``baseline`` to ``pivot change`` in percent or percentage points of the task's score,
correlations (Pearson, of accuracy with divergence) as the least and greatest over the layers."""

_TEXT = {
    "baseline": "score without a plan, %",
    "steered": "score with the plan, %",
    "gain": "gain, points",
    "pivot change": "change of the pivot, points",
    "experts": "experts steered",
    "lowest correlation": "Pearson r of accuracy and divergence, lowest layer",
    "highest correlation": "Pearson r of accuracy and divergence, highest layer",
}


@dataclass(frozen=True)
class Published(Record):
    """One number of a paper.

    Attributes:
        quantity: what it is of.
        value: as printed.
        source: paper and table or figure.
    """

    quantity: Quantity
    value: float
    source: str


@dataclass(frozen=True)
class PublishedRow(Record):
    """A published number beside the measured one.

    Attributes:
        quantity: see `Quantity`.
        published: as printed.
        measured: with its interval; None where the study did not measure it.
        difference: measured minus published, with the interval of the measured one; None as above.
        source: paper and table or figure.
    """

    quantity: Quantity
    published: Number
    measured: Estimate | None
    difference: Estimate | None
    source: str

    @property
    def cells(self) -> tuple[str, str, str, str, str]:
        """Quantity, published, measured with interval, difference with interval, source."""
        digits = "{:.0f}" if self.quantity == "experts" else "{:.2f}" if "correlation" in self.quantity else "{:.1f}"
        signed = digits.replace("{:", "{:+")
        published = digits.format(self.published).replace("-", MINUS)
        measured = MISSING if self.measured is None else self.measured.text(digits.format)
        difference = MISSING if self.difference is None else self.difference.text(signed.format)
        return _TEXT[self.quantity], published, measured, difference, self.source


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
        "measured number alone: papers print none."
    )
    table = Table("Published and measured", caption, HEADER, rows, text_columns=(0, 4), folded=False)
    conditions = [(plain(each.name), plain(each.published), plain(each.here)) for each in comparison.conditions]
    stated = Table(
        "Conditions", "As the paper or its recipe states them, and as they were here.", ("", "published", "here"),
        conditions, text_columns=(0, 1, 2),
    )  # fmt: skip
    blocks = [table, *([stated] if conditions else [])]
    return Section("published", "Beside the published numbers", list(map(plain, comparison.sentences)), blocks)
