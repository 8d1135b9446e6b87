"""The plan against random plans: one paired difference from the mean of all of them, with an interval."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from isogloss.arrays import FloatArray
from isogloss.records import Record
from isogloss.statistics import Estimate, bootstrap_counts, interval_around

__all__ = ["N_RANDOM", "AgainstRandom", "against_random", "is_random"]

N_RANDOM = 5
"""Random plans that a plan is compared with unless told otherwise."""

_RANDOM = re.compile(r"random-\d+")


@dataclass(frozen=True)
class AgainstRandom(Record):
    """The plan minus the mean of random plans with as many experts per layer, in the unit of the scores.

    Attributes:
        n_plans: random plans; one alone is not resampled, so that intervals leave out how plans differ.
        difference: mean over languages like these: languages, items and random plans are resampled. ``n`` counts
            languages; there is no interval where no item shows a spread.
        these_languages: the same mean for exactly these languages: items and random plans are resampled.
        per_language: by language, items and random plans resampled; ``n`` counts items.
    """

    n_plans: int
    difference: Estimate
    these_languages: Estimate
    per_language: dict[str, Estimate]


def is_random(arm: str) -> bool:
    """Return whether an arm is one of those with random experts, as many per layer as the plan has."""
    return _RANDOM.fullmatch(arm) is not None


def against_random(
    plan: Mapping[str, FloatArray],
    random: Sequence[Mapping[str, FloatArray]],
    *,
    n_resamples: int = 1000,
    seed: int = 0,
) -> AgainstRandom:
    """Compare a plan with random ones, item by item.

    Items, languages and random plans are crossed: each resample draws all three, and takes the scores of the plan and
    of the drawn plans on the drawn items. Languages with equally many items share their resample of items.

    Args:
        plan: language to ``[n_items]`` scores.
        random: the same of each random plan, at least one.
        n_resamples: bootstrap resamples.
        seed: of the random generator.

    Raises:
        ValueError: no random plan.

    Source:
        Resampling crossed factors: Owen, The pigeonhole bootstrap (2007), doi:10.1214/07-AOAS122.
    """
    if not random:
        raise ValueError("found no random plan; expected at least one")
    languages = sorted(plan)
    draws = [int(each) for each in np.random.SeedSequence([seed, 2]).generate_state(2)]
    plans = _weights(len(random), n_resamples, draws[0])
    values, resampled = [], []
    for code in languages:
        difference = plan[code] - np.stack([arm[code] for arm in random])  # [n_plans, n_items]
        items = bootstrap_counts(difference.shape[1], n_resamples=n_resamples, seed=seed) / difference.shape[1]
        values.append(difference.mean())
        resampled.append(np.einsum("rp,pi,ri->r", plans, difference, items, optimize=True))
    each, drawn = np.array(values), np.stack(resampled, axis=1)  # [n_languages], [n_resamples, n_languages]
    of_languages = _weights(len(languages), n_resamples, draws[1])
    return AgainstRandom(
        len(random),
        _estimate(each.mean(), (of_languages * drawn).sum(axis=1), len(languages)),
        _estimate(each.mean(), drawn.mean(axis=1), len(languages)),
        {
            code: _estimate(value, column, len(plan[code]))
            for code, value, column in zip(languages, each, drawn.T, strict=True)
        },
    )


def _weights(n: int, n_resamples: int, seed: int) -> FloatArray:
    """Return how much each of ``n`` units weighs in each resample: ``[n_resamples, n]``, rows sum to 1."""
    return bootstrap_counts(n, n_resamples=n_resamples, seed=seed) / n


def _estimate(value: float, resampled: FloatArray, n: int) -> Estimate:
    low, high = (float(end) for end in interval_around(np.asarray(value), resampled))
    if math.isclose(low, high, rel_tol=0.0, abs_tol=1e-12):  # all differ equally, which says nothing about a spread
        low = high = math.nan
    return Estimate(float(value), low, high, n)
