"""Divergence against its own control: how much closer translations are routed than texts that are none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from isogloss.analysis.divergence import Curves
from isogloss.arrays import FloatArray, IntArray
from isogloss.records import Record
from isogloss.statistics import Estimate, Resampling

__all__ = ["TranslationExcess", "translation_excess"]


@dataclass(frozen=True)
class TranslationExcess(Record):
    """Divergence of items that are no translations minus that of translations, by routed layer.

    A model may route all texts alike in some layers, translations or not: then both curves dip there, and the excess
    does not rise. Items are resampled; languages, pairs of items, and the edges of the middle are fixed.

    Attributes:
        divergence: of translations, mean over the non-pivot languages.
        unrelated: of items that are no translations, mean over the same languages.
        excess: the second minus the first, item by item; above zero where translations are routed more alike.
        by_language: excess of each non-pivot language.
        rise: mean excess in the band that is described (`isogloss.analysis.Analysis.described_band`) minus that in the
            other layers; None where it has all of them.
    """

    divergence: tuple[Estimate, ...]
    unrelated: tuple[Estimate, ...]
    excess: tuple[Estimate, ...]
    by_language: Curves
    rise: Estimate | None = None


def translation_excess(
    divergence: Mapping[str, FloatArray],
    unrelated: Mapping[str, FloatArray],
    counts: IntArray,
    *,
    inside: Sequence[bool],
    resampling: Resampling,
) -> TranslationExcess:
    """Compare both divergences item by item.

    Args:
        divergence: non-pivot language to ``[n_items, n_layers]``, of each item and its translation.
        unrelated: the same languages, of each item and another one.
        counts: ``[n_resamples, n_items]``, the resamples that all curves share.
        inside: which layers to compare with the others; all or none of them: no rise.
        resampling: behind the intervals.
    """
    means = [np.mean([each[code] for code in divergence], axis=0) for each in (divergence, unrelated)]
    excess = means[1] - means[0]
    rise = None
    if 0 < sum(inside) < len(inside):
        within = np.array(inside)
        contrast = excess[:, within].mean(axis=1) - excess[:, ~within].mean(axis=1)
        (rise,) = resampling.estimate(contrast[:, None], counts)
    return TranslationExcess(
        divergence=resampling.estimate(means[0], counts),
        unrelated=resampling.estimate(means[1], counts),
        excess=resampling.estimate(excess, counts),
        by_language={code: resampling.estimate(unrelated[code] - each, counts) for code, each in divergence.items()},
        rise=rise,
    )
