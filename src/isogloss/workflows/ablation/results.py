"""The results of an ablation: the cells of its matrix, the means by band, and the selectivity tests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from isogloss.arrays import FloatArray, IntArray
from isogloss.evaluation import BASELINE, Asked, AskedTask, Better, ItemRecord
from isogloss.evaluation.ablation import BandLoss, Cell, Family, Measure, Selectivity
from isogloss.evaluation.output_language import ENGLISH, asked_language, in_language
from isogloss.evaluation.selectivity import Axis, BandValues, Limits, Losses, band_loss, estimate_mean, selectivity
from isogloss.languages import resolve
from isogloss.statistics import Resampling
from isogloss.workflows.ablation.families import TASK_FAMILY
from isogloss.workflows.ablation.settings import Ablation

__all__ = ["Measured", "Place", "own_axes", "random_arm", "results", "values_of"]

Place = tuple[Measure, str, Axis]
"""What is measured, under which arm, on which axis."""


def values_of(asked: Asked, language: str, records: Sequence[ItemRecord]) -> Iterator[tuple[Measure, FloatArray]]:
    """Yield the values of every item: the task's own, and of answers whether they are in the language asked for."""
    yield "score", np.array([record.value for record in records], dtype=np.float64)
    if isinstance(asked, AskedTask) and asked.task.scoring == "generated":
        wanted, among = asked_language(asked.name, language), {*asked.questions, ENGLISH}
        verdicts = in_language([record.output or "" for record in records], wanted, among=among)
        yield "language", np.array([np.nan if each is None else each for each in verdicts], dtype=np.float64)


def random_arm(family: Family, seed: int) -> str:
    """Return the name of a random ban beside a family's."""
    return f"{family.arm}.random-{seed}"


def own_axes(family: Family, axes: Sequence[Axis], settings: Ablation) -> list[Axis]:
    """List the own axes of a family: its language in every corpus, or the task's."""
    n_corpora = len(settings.tasks)
    if family.name == TASK_FAMILY:
        return [(n_corpora, resolve(settings.pivot))]
    return [axis for axis in axes if axis[0] < n_corpora and axis[1] == family.name]


@dataclass(frozen=True)
class Measured:
    """All values of an ablation.

    Attributes:
        values: of every item, ``[n_items]`` each.
        tasks: names, by place.
        better: which values are better, by task.
    """

    values: Mapping[Place, FloatArray]
    tasks: Sequence[str]
    better: Sequence[Better]

    @cached_property
    def axes(self) -> list[Axis]:
        """All axes, by task."""
        return [axis for measure, arm, axis in self.values if (measure, arm) == ("score", BASELINE)]

    def measures(self, place: int) -> list[Measure]:
        """List what is measured of a task; a measure that no item has is not."""
        known = ((key, each) for key, each in self.values.items() if key[2][0] == place and not np.isnan(each).all())
        return list(dict.fromkeys(measure for (measure, _, _), _ in known))

    def draw(self, resampling: Resampling) -> list[IntArray]:
        """Draw the resamples of every task's items."""
        sizes = {axis[0]: len(self.values["score", BASELINE, axis]) for axis in self.axes}
        return [resampling.draw(sizes[place], stream=place) for place in sorted(sizes)]

    def loss(self, measure: Measure, arm: str, axis: Axis) -> FloatArray:
        """Return by how much every item is worse than without a ban; NaN where either could not be judged."""
        worse = self.values[measure, arm, axis] - self.values[measure, BASELINE, axis]
        return worse if measure == "score" and self.better[axis[0]] == "lower" else -worse


def results(
    measured: Measured, banned: Sequence[Family], settings: Ablation
) -> tuple[list[Cell], list[Selectivity], list[BandLoss]]:
    """Make the cells of the matrix, test every family in every corpus, and average the families of every band.

    Args:
        measured: all values.
        banned: families that have a ban.
        settings: of the ablation.
    """
    counts = measured.draw(Resampling(n_resamples=settings.n_resamples, seed=settings.seed))
    cells = [cell for family in banned for cell in _cells(measured, family, counts)]
    tests = [test for family in banned for test in _tests(measured, family, counts, settings)]
    return cells, tests, list(_bands(measured, banned, counts, settings))


def _cells(measured: Measured, family: Family, counts: Sequence[IntArray]) -> Iterator[Cell]:
    for axis in measured.axes:
        for measure in measured.measures(axis[0]):
            yield Cell(
                band=family.band,
                masked=family.name,
                task=measured.tasks[axis[0]],
                evaluated=axis[1],
                before=estimate_mean(measured.values[measure, BASELINE, axis], counts[axis[0]]),
                loss=estimate_mean(measured.loss(measure, family.arm, axis), counts[axis[0]]),
                measure=measure,
            )


def _tests(measured: Measured, family: Family, counts: Sequence[IntArray], settings: Ablation) -> Iterator[Selectivity]:
    names, n_corpora = measured.tasks, len(settings.tasks)
    for corpus in range(n_corpora):
        of_corpus = [axis for axis in measured.axes if axis[0] in (corpus, n_corpora)]
        own = next((axis for axis in own_axes(family, measured.axes, settings) if axis in of_corpus), None)
        if own is None or len(of_corpus) == 1:
            continue
        null = np.stack([measured.loss("score", random_arm(family, seed), own) for seed in range(settings.n_null)])
        by_axis = {axis: measured.loss("score", family.arm, axis) for axis in of_corpus}
        limits = Limits(settings.deviations, settings.largest_other)
        losses = Losses(family.band, family.name, own, by_axis, null)
        yield selectivity(losses, counts, names, limits, task=names[corpus])


def _bands(
    measured: Measured, banned: Sequence[Family], counts: Sequence[IntArray], settings: Ablation
) -> Iterator[BandLoss]:
    for band in dict.fromkeys(family.band for family in banned):
        for corpus, task in enumerate(measured.tasks[: len(settings.tasks)]):
            axes = [axis for axis in measured.axes if axis[0] == corpus]
            families = [each for each in banned if each.band == band and (corpus, each.name) in axes]
            if not families:
                continue
            for measure in measured.measures(corpus):
                values = _of_band(measured, measure, families, axes, settings.n_null)
                yield band_loss(values, counts[corpus], band=band, task=task, measure=measure)


def _of_band(
    measured: Measured, measure: Measure, families: Sequence[Family], axes: Sequence[Axis], n_null: int
) -> BandValues:
    """Collect what the bans of one band do on one task."""
    place = axes[0][0]
    own = [(place, family.name) for family in families]
    pairs = list(zip(families, own, strict=True))
    others = [measured.loss(measure, family.arm, axis) for family, mine in pairs for axis in axes if axis != mine]
    random = [
        measured.loss(measure, random_arm(family, seed), axis) for family, axis in pairs for seed in range(n_null)
    ]
    return BandValues(
        before=np.stack([measured.values[measure, BASELINE, axis] for axis in own], axis=1),
        own=np.stack([measured.loss(measure, family.arm, axis) for family, axis in pairs], axis=1),
        others=np.stack(others, axis=1)
        if others
        else np.full((len(measured.values[measure, BASELINE, own[0]]), 1), np.nan),
        random=np.stack(random, axis=1),
    )
