"""Which experts the given languages share, and which belong to a few of them: the share rule.

Shares are relative to the languages present, so the languages are always listed and the result names them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from isogloss.analysis.groups import ItemGroups
from isogloss.analysis.rules import Counts, LanguageRule
from isogloss.arrays import BoolArray, FloatArray
from isogloss.errors import LanguageError

__all__ = ["ShareRule", "language_shares", "top_experts"]


@dataclass(frozen=True)
class ShareRule(LanguageRule):
    """Experts common to the listed languages, or exclusive to some of them, by their shares of an expert's use.

    The statistic is the largest share (``common``) or the target's summed share (``exclusive``). Under permuted labels
    nearly every expert in use is common: for that kind, fewer than by chance is the finding.

    Attributes:
        kind: ``common``: used by some listed language and no language's share reaches the threshold; ``exclusive``:
            the target's shares sum to more than the threshold.
        languages: those present in the share, at least two; the first gives the weight of each expert.
        target: for ``exclusive``, the languages whose shares are summed; empty for ``common``.
        top: experts kept per language and layer, by selection count, ties to the lower id; the rest count as zero.
        threshold: of the share, above 0. With n languages an indifferent expert has shares of 1/n: compare with that.
        layers: first and last decoder layer looked at, inclusive; None for all.

    Source:
        arXiv 2601.14050; intervals and chance count are ours.
    """

    name: ClassVar[str] = "share"

    kind: Literal["common", "exclusive"]
    languages: tuple[str, ...]
    target: tuple[str, ...] = ()
    top: int = 20
    threshold: float = 0.7
    layers: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        strangers = [language for language in self.target if language not in self.languages]
        if strangers or len(set(self.target)) < len(self.target):
            raise LanguageError(
                f"target {', '.join(self.target)} must be different ones of {', '.join(self.languages)}"
            )
        if (self.kind == "exclusive") != bool(self.target):
            raise LanguageError(
                f"kind {self.kind} with target {self.target}; only 'exclusive' takes a target, and needs one"
            )
        if self.top < 1 or self.threshold <= 0:
            raise ValueError(f"top is {self.top} and threshold {self.threshold}; expected at least 1, and above 0")

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON types, with the share of an indifferent expert (1/n)."""
        return {**super().to_json(), "neutral_share": 1.0 / len(self.languages)}

    def weights(self, groups: ItemGroups) -> FloatArray:
        """Return the shares of the first listed language."""
        return language_shares(*groups.pooled(), self.top)[:, 0]

    def judge(self, counts: Counts, tokens: Counts) -> tuple[FloatArray, BoolArray]:
        """Return statistic and verdict per expert, from the pooled counts of one group per language."""
        shares = language_shares(counts, tokens, self.top)
        if self.kind == "common":
            largest = shares.max(axis=-2)
            return largest, (largest > 0) & (largest < self.threshold)
        belongs = [self.languages.index(language) for language in self.target]
        total = np.asarray(shares[..., belongs, :].sum(axis=-2))
        return total, total > self.threshold

    def reach(self, statistic: FloatArray) -> FloatArray:
        """Return the shares; an expert that no language uses is common at no threshold."""
        return np.where(statistic > 0, statistic, np.nan) if self.found_below else statistic

    @property
    def found_below(self) -> bool:
        """Common experts have small shares."""
        return self.kind == "common"


def top_experts(counts: Counts, top: int) -> BoolArray:
    """Mark the ``top`` largest whole numbers of the last axis; among equal ones the lower expert id goes first.

    Exactly ``min(top, n_experts)`` entries per row are true.
    """
    n_experts = np.shape(counts)[-1]
    # Unique keys in the order wanted, so that one partition settles ties too.
    keys = np.asarray(counts, dtype=np.int64) * n_experts - np.arange(n_experts)
    least = n_experts - min(top, n_experts)
    return np.asarray(keys >= np.partition(keys, least, axis=-1)[..., least, None])


def language_shares(counts: Counts, tokens: Counts, top: int) -> FloatArray:
    """Divide each expert's use among the languages, from pooled counts ``[..., n_languages, n_experts]``.

    Only the ``top`` experts of each language count; the selection rate of all others is taken as zero. The shares sum
    to 1 over languages, or to 0 where no language keeps the expert.

    Source:
        arXiv 2601.14050; ties at the cut go to the lower expert id (ours).
    """
    rates = np.where(top_experts(counts, top), counts / np.asarray(tokens, dtype=np.float64)[..., None], 0.0)
    totals = rates.sum(axis=-2, keepdims=True)
    return np.asarray(np.divide(rates, totals, out=np.zeros_like(rates), where=totals > 0))
