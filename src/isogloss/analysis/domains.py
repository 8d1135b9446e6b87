"""How far a task's texts are routed from generic texts, and in which layers.

The items of the two corpora are not parallel, so they are compared in random pairs, and generic texts with each other
for the noise that any two texts would show.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from isogloss.analysis.divergence import divergence, language_distributions, shuffled_partners
from isogloss.analysis.experts import corpus_groups, layer_positions
from isogloss.analysis.layers import MiddleLayers, middle_layers
from isogloss.analysis.statistics import (
    DEFAULT_RESAMPLING,
    Estimate,
    Resampling,
    bootstrap_counts,
    percentile_interval,
    require_items,
)
from isogloss.errors import RunError
from isogloss.files import Record

if TYPE_CHECKING:
    from isogloss.analysis.experts import FloatArray, IntArray
    from isogloss.runs import Run

__all__ = ["DomainCurve", "domain_divergence"]

DRAWS = 8
"""Random partners of each item; more draws narrow the part of the interval that comes from the pairing."""

LEAST_ITEMS = 2


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

    language: str
    corpus: str
    base: str
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


def _estimates(values: FloatArray, resampled: FloatArray, *, n: int, level: float) -> tuple[Estimate, ...]:
    low, high = percentile_interval(resampled, level=level)
    columns = zip(values.tolist(), low.tolist(), high.tolist(), strict=True)
    return tuple(Estimate(*ends, n) for ends in columns)


def domain_divergence(
    task_run: Run,
    base_run: Run,
    *,
    language: str,
    middle: tuple[int, int] | None = None,
    resampling: Resampling = DEFAULT_RESAMPLING,
) -> DomainCurve:
    """Measure how far task texts are routed from generic texts in one language, layer by layer.

    Args:
        task_run: of the task's texts, with at least two items.
        base_run: of generic texts, captured from the same model, with at least two items.
        language: ``xxx_Xxxx``, usually the pivot.
        middle: first and last decoder layer that are to be compared with the others; None for none.
        resampling: of the items of both Runs, independently. Pairs count as often as both of their items were drawn,
            which makes intervals a little wide rather than narrow.

    Returns:
        Curves of profiles' divergence; ``n`` counts the items of the smaller Run.

    Raises:
        RunError: a Run is pooled or has a single item, the Runs are of different routers, or the given middle is
            all layers or none.
        LanguageError: a Run lacks the language.

    Source:
        arXiv 2510.04694 (∩-shape of domains); pairing at random, floor and intervals are ours.
    """
    for run in (task_run, base_run):
        require_items(run.manifest.granularity, "divergence of domains")
    layers = corpus_groups(task_run, base_run, language).decoder_layers
    task, generic = (language_distributions(run.load(language), language, "profile") for run in (task_run, base_run))
    n = min(len(task), len(generic))
    if n < LEAST_ITEMS:
        raise RunError(f"divergence of domains pairs items; a Run has {n}: capture at least {LEAST_ITEMS} of each")
    raw, floor = _task_pairs(task, generic, resampling.seed), _floor_pairs(generic, resampling.seed)
    task_counts, counts = _two_draws(len(task), len(generic), resampling)
    raw_drawn, floor_drawn = _with_pairs(raw.resampled(task_counts, counts), floor.resampled(counts, counts))
    raw_mean, floor_mean = raw.values.mean(axis=0), floor.values.mean(axis=0)
    excess, drawn, level = raw_mean - floor_mean, raw_drawn - floor_drawn, resampling.level
    return DomainCurve(
        language=language,
        corpus=task_run.manifest.corpus["name"],
        base=base_run.manifest.corpus["name"],
        layers=layers,
        raw=_estimates(raw_mean, raw_drawn, n=n, level=level),
        floor=_estimates(floor_mean, floor_drawn, n=len(generic), level=level),
        excess=_estimates(excess, drawn, n=n, level=level),
        hump=_hump(excess, drawn, layers, n=n, level=level),
        middle_range=middle,
        rise=_rise(excess, drawn, layer_positions(layers, middle), n=n, level=level) if middle else None,
        resampling=resampling,
    )


def _with_pairs(raw: FloatArray, floor: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Leave out resamples of so few different items that none of their pairs was measured."""
    known = ~(np.isnan(raw) | np.isnan(floor)).any(axis=1)
    return raw[known], floor[known]


def _two_draws(n_task: int, n_generic: int, resampling: Resampling) -> tuple[IntArray, IntArray]:
    """Draw both corpora's items from two streams."""
    n, seed = resampling.n_resamples, resampling.seed
    return bootstrap_counts(n_task, n_resamples=n, seed=seed), bootstrap_counts(n_generic, n_resamples=n, seed=seed + 1)


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
    return _estimates(values[None], resampled[:, None], n=n, level=level)[0]
