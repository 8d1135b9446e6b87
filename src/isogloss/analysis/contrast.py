"""The contrast rule: experts chosen by another share of the tokens in one set of texts than in another, either way."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from isogloss.analysis.experts import (
    ExpertTable,
    ItemGroups,
    corpus_groups,
    judge_groups,
    language_groups,
    rate_difference,
)
from isogloss.analysis.statistics import DEFAULT_RESAMPLING, Resampling
from isogloss.errors import LanguageError

if TYPE_CHECKING:
    from isogloss.analysis.experts import BoolArray, FloatArray, IntArray
    from isogloss.runs import Run

__all__ = ["ContrastRule", "Sign", "contrast_corpora", "contrast_experts", "contrast_languages"]

Sign = Literal["both", "positive", "negative"]


@dataclass(frozen=True)
class ContrastRule:
    """Parameters of the contrast rule; a threshold, a top, or both.

    Attributes:
        threshold: an expert is found where the difference of rates is larger than this in absolute value; between 0
            and 1.
        top: keep only so many, the largest absolute differences over all layers looked at; None for all.
        sign: ``positive``: only experts that the first set uses more; ``negative``: only those that it uses less.
        layers: first and last decoder layer looked at, inclusive; None for all.
    """

    threshold: float = 0.0
    top: int | None = None
    sign: Sign = "both"
    layers: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold}; a difference of rates lies between 0 and 1")
        if self.top is not None and self.top < 1:
            raise ValueError(f"top is {self.top}; expected at least 1")

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON types."""
        return {**asdict(self), "layers": list(self.layers) if self.layers else None}

    def judge(self, counts: FloatArray | IntArray, tokens: FloatArray | IntArray) -> tuple[FloatArray, BoolArray]:
        """Return the signed difference of rates and whether it is large enough, from two pooled groups."""
        difference = rate_difference(counts, tokens)
        sized = {"both": np.abs(difference), "positive": difference, "negative": -difference}[self.sign]
        return difference, sized > self.threshold


def contrast_experts(
    groups: ItemGroups, *, rule: ContrastRule, resampling: Resampling = DEFAULT_RESAMPLING
) -> ExpertTable:
    """Find experts by the risk difference of two sets of texts, pooled over tokens.

    Args:
        groups: two; positive differences are experts that the first one uses more.
        rule: cuts, sign and layers.
        resampling: of the items.

    Returns:
        Statistic: the signed difference of the shares of tokens that chose the expert. Intervals resample items, and
        with them both their selections and their tokens. The chance count swaps the labels of parallel items with
        probability one half and reassigns unpaired ones at random. Single records (pooled Runs) give neither.

    Raises:
        ValueError: not two groups.
        RunError: the rule's layers hold no routed layer.

    Source:
        SteerMoE's risk difference, arXiv 2509.09660, from the formula; intervals and chance count are ours.
    """
    if len(groups.selections) != 2:  # noqa: PLR2004 - a contrast is of two
        raise ValueError(f"{len(groups.selections)} groups; a contrast is of two")
    rows, chance = judge_groups(groups.within(rule.layers), rule.judge, resampling=resampling, top=rule.top)
    n_items, n_base = (len(array) for array in groups.selections)
    sizes = {"n_items": n_items, "n_base_items": n_base, "paired": groups.parallel}
    return ExpertTable("contrast", {**rule.to_json(), **sizes, **resampling.to_json()}, rows, chance)


def contrast_languages(
    run: Run, language: str, *, base: str, rule: ContrastRule, resampling: Resampling = DEFAULT_RESAMPLING
) -> ExpertTable:
    """Contrast two languages of a Run on the same items.

    Args:
        run: with items, or pooled: then without intervals and chance count.
        language: ``xxx_Xxxx``; positive experts are used more by it.
        base: the other language.
        rule: cuts, sign and layers.
        resampling: of the items, the same in both languages.

    Returns:
        As `contrast_experts`; the parameters also name both languages.

    Raises:
        LanguageError: a language is not in the Run, or both are the same.
        RunError: the rule's layers hold no routed layer.
    """
    if language == base:
        raise LanguageError(f"a contrast is of two languages, and both are {language}; name another one")
    table = contrast_experts(language_groups(run, [language, base]), rule=rule, resampling=resampling)
    return _named(table, {"kind": "language", "language": language, "pivot": base}).of(run)


def contrast_corpora(
    run: Run, base: Run, *, language: str, rule: ContrastRule, resampling: Resampling = DEFAULT_RESAMPLING
) -> ExpertTable:
    """Contrast the texts of two Runs of one model, both in one language.

    Args:
        run: with items, or pooled: then without intervals and chance count. Positive experts are used more by it.
        base: of the other texts.
        language: ``xxx_Xxxx``.
        rule: cuts, sign and layers.
        resampling: of the items, independently in both Runs.

    Returns:
        As `contrast_experts`; the parameters also name the language and both corpora.

    Raises:
        RunError: the Runs are of different routers, or the rule's layers hold no routed layer.
        LanguageError: a Run lacks the language.
    """
    table = contrast_experts(corpus_groups(run, base, language), rule=rule, resampling=resampling)
    corpora = {"corpus": run.manifest.corpus["name"], "base": base.manifest.corpus["name"]}
    return _named(table, {"kind": "task", "language": language, **corpora}).of(run)


def _named(table: ExpertTable, named: dict[str, Any]) -> ExpertTable:
    return replace(table, parameters={**named, **table.parameters})
