"""Which experts the languages at hand share, and which belong to a few of them: the share rule.

Shares are relative to the languages present, so the languages are always listed and the result names them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from isogloss.analysis.experts import ExpertTable, ItemGroups, judge_groups, language_groups
from isogloss.analysis.statistics import DEFAULT_RESAMPLING, Resampling
from isogloss.errors import LanguageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from isogloss.analysis.experts import BoolArray, FloatArray, IntArray
    from isogloss.runs import Run

__all__ = ["ShareRule", "experts_by_share", "language_shares", "share_experts", "top_experts"]


@dataclass(frozen=True)
class ShareRule:
    """Parameters of the share rule.

    Attributes:
        kind: ``common``: used by some listed language and no language's share reaches the threshold; ``exclusive``:
            the target's shares sum to more than the threshold.
        languages: those present in the share, at least two; the first gives the weight of each expert.
        target: for ``exclusive``, the languages whose shares are summed; empty for ``common``.
        top: experts kept per language and layer, by selection count, ties to the lower id; the rest count as zero.
        threshold: of the share, above 0. With n languages an indifferent expert has shares of 1/n: compare with that.
        layers: first and last decoder layer looked at, inclusive; None for all.
    """

    kind: Literal["common", "exclusive"]
    languages: tuple[str, ...]
    target: tuple[str, ...] = ()
    top: int = 20
    threshold: float = 0.7
    layers: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if len(self.languages) < 2 or len(set(self.languages)) < len(self.languages):  # noqa: PLR2004 - a share is of two or more
            raise LanguageError(f"shares need two or more different languages; found {', '.join(self.languages)}")
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
        return {
            "kind": self.kind,
            "languages": list(self.languages),
            "target": list(self.target),
            "top": self.top,
            "threshold": self.threshold,
            "layers": list(self.layers) if self.layers else None,
            "neutral_share": 1.0 / len(self.languages),
        }

    def judge(self, counts: FloatArray | IntArray, tokens: FloatArray | IntArray) -> tuple[FloatArray, BoolArray]:
        """Return statistic and verdict per expert, from one pooled group per language."""
        shares = language_shares(counts, tokens, self.top)
        if self.kind == "common":
            largest = shares.max(axis=-2)
            return largest, (largest > 0) & (largest < self.threshold)
        belongs = [self.languages.index(language) for language in self.target]
        total = np.asarray(shares[..., belongs, :].sum(axis=-2))
        return total, total > self.threshold


def top_experts(counts: IntArray | FloatArray, top: int) -> BoolArray:
    """Mark the ``top`` largest counts of the last axis; among equal counts the lower expert id goes first.

    Args:
        counts: ``[..., n_experts]`` whole numbers.
        top: experts to keep; all are kept where there are fewer.

    Returns:
        Same shape, exactly ``min(top, n_experts)`` true entries per row.
    """
    n_experts = np.shape(counts)[-1]
    # Unique keys in the order wanted, so that one partition settles ties too.
    keys = np.asarray(counts, dtype=np.int64) * n_experts - np.arange(n_experts)
    least = n_experts - min(top, n_experts)
    return np.asarray(keys >= np.partition(keys, least, axis=-1)[..., least, None])


def language_shares(counts: IntArray | FloatArray, tokens: IntArray | FloatArray, top: int) -> FloatArray:
    """Divide each expert's use among the languages.

    Args:
        counts: ``[..., n_languages, n_experts]`` selections, pooled over items.
        tokens: ``[..., n_languages]``, positive.
        top: experts kept per language; the selection rate of all others counts as zero.

    Returns:
        ``[..., n_languages, n_experts]``, sums to 1 over languages, or to 0 where no language keeps the expert.

    Source:
        arXiv 2601.14050; ties at the cut go to the lower expert id (ours).
    """
    rates = np.where(top_experts(counts, top), counts / np.asarray(tokens, dtype=np.float64)[..., None], 0.0)
    totals = rates.sum(axis=-2, keepdims=True)
    return np.asarray(np.divide(rates, totals, out=np.zeros_like(rates), where=totals > 0))


def share_experts(
    selections: IntArray,
    tokens: IntArray,
    *,
    decoder_layers: Sequence[int],
    rule: ShareRule,
    resampling: Resampling = DEFAULT_RESAMPLING,
) -> ExpertTable:
    """Find experts common to the listed languages, or exclusive to some of them.

    Args:
        selections: ``[n_languages, n_items, n_layers, n_experts]`` counts, languages in the rule's order.
        tokens: ``[n_languages, n_items]``.
        decoder_layers: decoder layer of each of the ``n_layers`` positions.
        rule: kind, languages and cuts.
        resampling: of the items, the same for all languages.

    Returns:
        Statistic: the largest share (``common``) or the target's summed share (``exclusive``). The weight of an expert
        is the share of the first listed language. Intervals and the chance count, which deals the records of every
        item to the languages at random, need at least two items and are missing otherwise. Under permuted labels nearly
        every expert in use is common: for that kind, fewer than by chance is the finding.

    Raises:
        ValueError: shapes do not fit.
        RunError: an item has no tokens, or the rule's layers hold no routed layer.

    Source:
        arXiv 2601.14050; intervals and chance count are ours.
    """
    if len(selections) != len(rule.languages):
        raise ValueError(f"selections of {len(selections)} groups and {len(rule.languages)} languages do not fit")
    groups = ItemGroups(tuple(selections), tuple(tokens), tuple(decoder_layers), parallel=True).within(rule.layers)
    rows, chance = judge_groups(groups, rule.judge, resampling=resampling)
    counts, totals = groups.pooled()
    weights = language_shares(counts, totals, rule.top)[:, 0]
    position = {layer: place for place, layer in enumerate(groups.decoder_layers)}
    weighted = tuple(replace(row, weight=float(weights[position[row.layer], row.expert])) for row in rows)
    parameters = {**rule.to_json(), "n_items": groups.least_items, **resampling.to_json()}
    return ExpertTable("share", parameters, weighted, chance)


def experts_by_share(run: Run, rule: ShareRule, *, resampling: Resampling = DEFAULT_RESAMPLING) -> ExpertTable:
    """Apply the share rule to a Run, with items or pooled.

    Args:
        run: with all languages of the rule.
        rule: kind, languages and cuts.
        resampling: of the items.

    Returns:
        As `share_experts`; in a pooled Run without intervals and chance count.

    Raises:
        LanguageError: a language is not in the Run.
        RunError: the rule's layers hold no routed layer.
    """
    groups = language_groups(run, rule.languages)
    return share_experts(
        np.stack(groups.selections),
        np.stack(groups.tokens),
        decoder_layers=groups.decoder_layers,
        rule=rule,
        resampling=resampling,
    ).of(run)
