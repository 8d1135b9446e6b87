"""How far a task's texts are routed from generic texts, and in which layers.

The items of the two corpora are not parallel, so they are compared in random pairs, and generic texts with each other
for the noise that any two texts would show.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from isogloss.analysis.divergence import divergence, read_shares, shuffled_partners
from isogloss.analysis.groups import LEAST_ITEMS, corpus_groups
from isogloss.analysis.layers import MiddleLayers, layer_positions, middle_layers
from isogloss.arrays import FloatArray, IntArray
from isogloss.errors import RunError
from isogloss.records import Name, Record
from isogloss.runs import Run
from isogloss.statistics import (
    DEFAULT_RESAMPLING,
    Estimate,
    Resampling,
    estimates,
)

__all__ = ["DomainCurve", "domain_divergence"]

DRAWS = 8
"""Random partners of each item; more draws narrow the part of the interval that comes from the pairing."""


@dataclass(frozen=True)
class DomainCurve(Record):
    """Divergence of task texts from generic texts in one language. Curves hold one Estimate per routed layer.

    Attributes:
        language: of both corpora.
        corpus: name of the task's corpus.
        base: name of the generic one.
        layers: decoder layer of each position, 0-based.
        raw: mean divergence of a task item from a generic item.
        floor: mean divergence of a generic item from another one.
        excess: raw minus floor; what the task adds to the difference of any two texts. Texts whose length varies
            otherwise than the generic ones' have another noise of their own, which stays in.
        hump: of the excess turned upside down, by its own change points: ``is_u_shape`` then says that the excess is
            higher in the middle than on either side (∩), by more than noise explains, and ``depth`` is by how much
            (middle minus outer layers). None where there are too few layers.
        middle_range: first and last decoder layer that were given as the middle, such as those of the languages.
        rise: excess in the given middle minus excess outside; None where no middle was given.
        resampling: behind the intervals.
    """

    language: Name
    corpus: Name
    base: Name
    layers: tuple[int, ...]
    raw: tuple[Estimate, ...]
    floor: tuple[Estimate, ...]
    excess: tuple[Estimate, ...]
    hump: MiddleLayers | None
    middle_range: tuple[int, int] | None
    rise: Estimate | None
    resampling: Resampling

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON types; ``hump`` has its verdict and its height under these names too."""
        hump = self.hump and {
            **self.hump.to_json(),
            "is_hump": self.hump.is_u_shape,
            "height": self.hump.depth.to_json(),
        }
        return {**super().to_json(), "hump": hump}

    @classmethod
    def fields_of_json(cls, raw: Any) -> Any:  # noqa: ANN401 - as in Record
        """Read the verdict and the height of ``hump``, which older files hold under these names alone."""
        hump = raw.get("hump") if isinstance(raw, dict) else None
        if not isinstance(hump, dict):
            return raw
        return {**raw, "hump": {"is_u_shape": hump.get("is_hump"), "depth": hump.get("height"), **hump}}


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Divergences of random pairs, ``[n_pairs, n_layers]``, and which items met."""

    values: FloatArray
    first: IntArray
    second: IntArray

    def resampled(self, first_counts: IntArray, second_counts: IntArray) -> FloatArray:
        """Average over pairs as often as both items were drawn; NaN where no pair was, ``[n_resamples, n_layers]``."""
        weights = (first_counts[:, self.first] * second_counts[:, self.second]).astype(np.float64)
        totals, sums = weights.sum(axis=1, keepdims=True), weights @ self.values
        return np.asarray(np.divide(sums, totals, out=np.full_like(sums, np.nan), where=totals > 0))


def _task_pairs(task: FloatArray, generic: FloatArray, seed: int) -> _Pairs:
    """Meet every task item with random generic items; each generic item serves about equally often."""
    generator, n = np.random.default_rng(seed), len(task) * DRAWS
    decks = [generator.permutation(len(generic)) for _ in range(-(-n // len(generic)))]
    first, second = np.tile(np.arange(len(task)), DRAWS), np.concatenate(decks)[:n]
    return _Pairs(_divergences(task, generic, first, second), first, second)


def _floor_pairs(generic: FloatArray, seed: int) -> _Pairs:
    """Meet every generic item with others, never with itself."""
    partners = [shuffled_partners(len(generic), seed + draw) for draw in range(DRAWS)]
    first, second = np.tile(np.arange(len(generic)), DRAWS), np.concatenate(partners)
    return _Pairs(_divergences(generic, generic, first, second), first, second)


def _divergences(one: FloatArray, other: FloatArray, first: IntArray, second: IntArray) -> FloatArray:
    """Divergence of each pair, a thousand pairs in memory at a time."""
    parts = range(0, len(first), 1000)
    return np.concatenate([divergence(one[first[i : i + 1000]], other[second[i : i + 1000]]) for i in parts])


def domain_divergence(
    task_run: Run,
    base_run: Run,
    *,
    language: str,
    middle: tuple[int, int] | None = None,
    resampling: Resampling = DEFAULT_RESAMPLING,
) -> DomainCurve:
    """Measure how far task texts are routed from generic texts in one language, layer by layer.

    Both Runs have at least two items, whose profiles are compared; ``n`` counts the items of the smaller one.

    Args:
        task_run: of the task's texts.
        base_run: of generic texts, captured from the same model.
        language: ``xxx_Xxxx``, usually the pivot.
        middle: first and last decoder layer that are to be compared with the others; None for none.
        resampling: of the items of both Runs, independently. Pairs count as often as both of their items were drawn,
            which makes intervals a little wide rather than narrow.

    Raises:
        RunError: a Run is pooled or has a single item, the Runs are of different routers, or the given middle is
            all layers or none.
        LanguageError: a Run lacks the language.

    Source:
        arXiv 2510.04694 (∩-shape of domains); pairing at random, floor and intervals are ours.
    """
    for run in (task_run, base_run):
        run.manifest.require_items("divergence of domains")
    layers = corpus_groups(task_run, base_run, language).decoder_layers
    task, generic = (read_shares(run, language) for run in (task_run, base_run))
    n = min(len(task), len(generic))
    if n < LEAST_ITEMS:
        raise RunError(f"divergence of domains pairs items; a Run has {n}: capture at least {LEAST_ITEMS} of each")
    raw, floor = _task_pairs(task, generic, resampling.seed), _floor_pairs(generic, resampling.seed)
    task_counts, counts = resampling.draw(len(task)), resampling.draw(len(generic), stream=1)
    raw_drawn, floor_drawn = raw.resampled(task_counts, counts), floor.resampled(counts, counts)
    known = ~(np.isnan(raw_drawn) | np.isnan(floor_drawn)).any(axis=1)  # else none of the drawn pairs was measured
    raw_mean, floor_mean = raw.values.mean(axis=0), floor.values.mean(axis=0)
    excess, drawn, level = raw_mean - floor_mean, (raw_drawn - floor_drawn)[known], resampling.level
    return DomainCurve(
        language=language,
        corpus=task_run.manifest.corpus["name"],
        base=base_run.manifest.corpus["name"],
        layers=layers,
        raw=estimates(raw_mean, raw_drawn[known], n=n, level=level),
        floor=estimates(floor_mean, floor_drawn[known], n=len(generic), level=level),
        excess=estimates(excess, drawn, n=n, level=level),
        hump=_hump(excess, drawn, layers, n=n, level=level),
        middle_range=middle,
        rise=_rise(excess, drawn, layer_positions(layers, middle), n=n, level=level) if middle else None,
        resampling=resampling,
    )


def _hump(
    excess: FloatArray, drawn: FloatArray, layers: tuple[int, ...], *, n: int, level: float
) -> MiddleLayers | None:
    try:
        return middle_layers(-excess, -drawn, layers=layers, n_items=n, level=level)
    except RunError:  # too few layers for three segments
        return None


def _rise(excess: FloatArray, drawn: FloatArray, inside: list[int], *, n: int, level: float) -> Estimate:
    outside = [position for position in range(len(excess)) if position not in inside]
    if not outside:
        raise RunError("the given middle is all routed layers; name a smaller one with --layers A-B")
    values = excess[inside].mean() - excess[outside].mean()
    resampled = drawn[:, inside].mean(axis=1) - drawn[:, outside].mean(axis=1)
    return estimates(values[None], resampled[:, None], n=n, level=level)[0]
