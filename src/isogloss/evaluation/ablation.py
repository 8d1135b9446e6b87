"""What an ablation writes down: the families before, and their effects after the measurement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from isogloss.evaluation.output_language import LEAST_JUDGED
from isogloss.evaluation.paired import Better
from isogloss.records import Record
from isogloss.statistics import Estimate

__all__ = [
    "ABLATION",
    "AblatedTask",
    "AblationResult",
    "BandLoss",
    "Cell",
    "FamiliesFile",
    "Family",
    "Measure",
    "Selectivity",
]


ABLATION = "ablation.json"

Measure = Literal["score", "language"]
"""What is measured: the task's own metric, or the share of answers that are in the language asked for."""


@dataclass(frozen=True, kw_only=True)
class Family(Record):
    """The experts of a language or task within a band of layers.

    Attributes:
        name: of the language, ``xxx_Xxxx``, or ``task``.
        band: of `FamiliesFile.bands`.
        experts: layer to expert ids; empty where the rule found none.
        expected_by_chance: how many of them chance would give; None where that is not known.
        status: ``banned``, ``no expert``, ``no effect`` (a ban moves no token of the own axis), or ``refused``.
        reason: why it was refused; where no expert was found, how far the nearest is from the threshold.
        changed: share of the tokens of the own axis's first items that choose other experts, mean over its layers.
        plan_sha256: of the ban; None where there is none.
        null_sha256: of the random families' bans.
    """

    name: str
    band: str
    experts: Mapping[int, tuple[int, ...]]
    expected_by_chance: float | None = None
    status: Literal["banned", "no expert", "no effect", "refused"] = "no expert"
    reason: str = ""
    changed: float = 0.0
    plan_sha256: str | None = None
    null_sha256: tuple[str, ...] = ()

    @property
    def arm(self) -> str:
        """Its name among the arms, and that of its folder."""
        return f"{self.band}.{self.name}"


@dataclass(frozen=True, kw_only=True)
class AblatedTask(Record):
    """A task that families are measured on.

    Attributes:
        name: of the task.
        metric: of its values.
        better: which values are better.
        languages: that are measured.
        item_ids: that are measured, in every language.
        n_captured: items that were left out because their text was captured.
        items_sha256: of what is asked.
    """

    name: str
    metric: str
    better: Better
    languages: tuple[str, ...]
    item_ids: tuple[str, ...]
    n_captured: int
    items_sha256: str


@dataclass(frozen=True, kw_only=True)
class FamiliesFile(Record):
    """``families.json``, written before the first measurement.

    Attributes:
        settings_sha256: of ``settings.json``.
        bands: name to first and last decoder layer.
        has_middle: whether the bands lie around a middle that the captured texts show.
        tasks: by place in the settings; that of ``task`` comes last.
        families: by band and name.
        date: that chat templates write; None where none does.
    """

    settings_sha256: str
    bands: Mapping[str, tuple[int, int]]
    has_middle: bool
    tasks: tuple[AblatedTask, ...]
    families: tuple[Family, ...]
    date: str | None = None


@dataclass(frozen=True, kw_only=True)
class Cell(Record):
    """What banning a family does to one axis.

    Attributes:
        band: of the family.
        masked: name of the family.
        task: name of the task.
        evaluated: the language.
        before: value without a ban.
        loss: by how much the value gets worse, in the metric's unit: more bits per byte, or less accuracy.
        measure: that the values are of. Of ``language``, ``n`` counts the answers that could be judged, for the loss
            under both; NaN where none could.
    """

    band: str
    masked: str
    task: str
    evaluated: str
    before: Estimate
    loss: Estimate
    measure: Measure = "score"


@dataclass(frozen=True, kw_only=True)
class BandLoss(Record):
    """What the bans of one band cost on one task: means over the families of languages, with intervals over items.

    Losses are in the unit of the measure. Families that have no axis of their own in the task are left out.

    Attributes:
        band: of the families.
        task: name of the task.
        measure: that the values are of.
        n_families: banned, each the experts of one language that the task measures.
        n_asked: items that the banned languages were asked, over all families.
        n_judged: of these, those that have a value; of ``language``, answers that were long enough to judge.
        before: value without a ban, mean over the same languages.
        own: loss of the language whose experts are banned.
        others: loss of the other languages; NaN where there is none.
        random: loss of the same languages as ``own`` under random families of equal size.
        beyond_others: ``own`` minus ``others``.
        beyond_random: ``own`` minus ``random``.
    """

    band: str
    task: str
    measure: Measure
    n_families: int
    n_asked: int
    n_judged: int
    before: Estimate
    own: Estimate
    others: Estimate
    random: Estimate
    beyond_others: Estimate
    beyond_random: Estimate

    @property
    def too_few(self) -> bool:
        """Whether so few answers could be judged that their share says nothing."""
        return self.measure == "language" and self.n_judged < LEAST_JUDGED


@dataclass(frozen=True, kw_only=True)
class Selectivity(Record):
    """Whether a family is needed for its own axis alone, in one corpus.

    Attributes:
        band: of the family.
        family: its name.
        task: the corpus.
        own: its own axis, as ``task/language``.
        loss: of the own axis.
        null: losses of the own axis under the random families.
        beyond_null: loss minus the null's mean minus the allowed deviations.
        worst: the other axis that loses most, as ``task/language``.
        worst_loss: of that axis.
        room: the allowed share of the loss, minus the greatest loss of another axis.
        verdict: ``selective`` (both differences above zero at the lower ends of their intervals), ``by the point``
            (above zero, but not at the lower ends), or ``no``.
    """

    band: str
    family: str
    task: str
    own: str
    loss: Estimate
    null: tuple[float, ...]
    beyond_null: Estimate
    worst: str
    worst_loss: Estimate
    room: Estimate
    verdict: Literal["selective", "by the point", "no"]


@dataclass(frozen=True, kw_only=True)
class AblationResult(Record):
    """``ablation.json``.

    Attributes:
        model: its name.
        engine: what ran it.
        settings_sha256: of ``settings.json``, written before anything was captured.
        families_sha256: of ``families.json``, written before anything was measured.
        families: their bands, tasks and experts.
        cells: of the matrix.
        tests: one per banned family and corpus.
        bands: one per band, corpus and measure.
    """

    model: str
    engine: str
    settings_sha256: str
    families_sha256: str
    families: FamiliesFile
    cells: tuple[Cell, ...]
    tests: tuple[Selectivity, ...]
    bands: tuple[BandLoss, ...] = ()

    @property
    def selective(self) -> tuple[tuple[str, str], ...]:
        """Band and name of the families that are selective in every corpus."""
        verdicts: dict[tuple[str, str], list[str]] = {}
        for test in self.tests:
            verdicts.setdefault((test.band, test.family), []).append(test.verdict)
        return tuple(family for family, each in verdicts.items() if set(each) == {"selective"})
