"""The difference rule: experts that a language or a task uses more than a base does, item by item."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from isogloss.analysis.experts import (
    ExpertTable,
    ItemGroups,
    corpus_groups,
    judge_groups,
    language_groups,
    rate_difference,
)
from isogloss.analysis.statistics import DEFAULT_RESAMPLING, Resampling, require_items
from isogloss.errors import LanguageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from isogloss.analysis.experts import BoolArray, FloatArray, IntArray
    from isogloss.runs import Run

__all__ = ["DeltaRule", "delta_experts", "language_experts", "require_rates", "task_experts"]


@dataclass(frozen=True)
class DeltaRule:
    """Parameters of the difference rule.

    Attributes:
        threshold: an expert is found where its rate is higher than the base rate by more than this; 0.3 means 30
            percentage points more of the tokens. Between 0 and 1.
        layers: first and last decoder layer looked at, inclusive; None for all.
        paired: item i of both sides is the same text (in two languages), so items are resampled together.
    """

    threshold: float = 0.3
    layers: tuple[int, int] | None = None
    paired: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold}; a difference of rates lies between 0 and 1")

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON types."""
        return {**asdict(self), "layers": list(self.layers) if self.layers else None}

    def judge(self, counts: FloatArray | IntArray, tokens: FloatArray | IntArray) -> tuple[FloatArray, BoolArray]:
        """Return the difference and whether it is above the threshold; rates in place of counts, items of tokens."""
        difference = rate_difference(counts, tokens)
        return difference, difference > self.threshold


def delta_experts(
    rates: FloatArray | IntArray,
    base: FloatArray | IntArray,
    *,
    decoder_layers: Sequence[int],
    rule: DeltaRule,
    resampling: Resampling = DEFAULT_RESAMPLING,
) -> ExpertTable:
    """Find experts chosen more often than in a base, by the difference of mean selection rates.

    Args:
        rates: ``[n_items, n_layers, n_experts]`` from `selection_rates`.
        base: ``[n_base_items, n_layers, n_experts]``; as many items as ``rates`` if the rule says paired.
        decoder_layers: decoder layer of each of the ``n_layers`` positions.
        rule: threshold, layers and pairing.
        resampling: of the items.

    Returns:
        Statistic: the difference (of means over items, not token-pooled). The chance count permutes the two labels:
        paired items swap theirs with probability one half, unpaired ones are reassigned at random.

    Raises:
        ValueError: shapes do not fit.
        RunError: the rule's layers hold no routed layer.

    Source:
        arXiv 2510.04694, equation 3; intervals and chance count are ours.
    """
    ones = np.ones(len(rates)), np.ones(len(base))
    return _table(ItemGroups((rates, base), ones, tuple(decoder_layers), rule.paired), rule, {}, resampling)


def _table(rates: ItemGroups, rule: DeltaRule, named: dict[str, Any], resampling: Resampling) -> ExpertTable:
    rows, chance = judge_groups(rates.within(rule.layers), rule.judge, resampling=resampling)
    n_items, n_base = (len(array) for array in rates.selections)
    parameters = {**named, **rule.to_json(), "n_items": n_items, "n_base_items": n_base, **resampling.to_json()}
    return ExpertTable("delta", parameters, rows, chance)


def require_rates(run: Run) -> None:
    """Refuse a pooled Run, whose counts hold no mean of rates over items."""
    require_items(run.manifest.granularity, "the delta rule (a mean of rates over items)")


def language_experts(
    run: Run, language: str, *, pivot: str, rule: DeltaRule, resampling: Resampling = DEFAULT_RESAMPLING
) -> ExpertTable:
    """Find the experts that a language uses more than the pivot does on the same items.

    Args:
        run: with items in both languages.
        language: ``xxx_Xxxx``.
        pivot: the language of the base.
        rule: items are parallel here, so they are paired whatever the rule says.
        resampling: of the items.

    Returns:
        As `delta_experts`; the parameters also name both languages.

    Raises:
        RunError: the Run is pooled.
        LanguageError: a language is not in the Run, or both are the same.
    """
    require_rates(run)
    if language == pivot:
        raise LanguageError(f"{language} is the pivot itself; name another language")
    if absent := [code for code in (language, pivot) if code not in run.languages]:
        raise LanguageError(f"{absent[0]} is not in this run; it holds {', '.join(run.languages)}")
    named = {"kind": "language", "language": language, "pivot": pivot}
    rates = language_groups(run, [language, pivot]).as_rates()
    return _table(rates, replace(rule, paired=True), named, resampling).of(run)


def task_experts(
    run: Run, base: Run, *, language: str, rule: DeltaRule, resampling: Resampling = DEFAULT_RESAMPLING
) -> ExpertTable:
    """Find the experts that task texts use more than base texts do, both in one language.

    Args:
        run: of the task texts (such as solved arithmetic problems).
        base: of generic texts, captured from the same model.
        language: ``xxx_Xxxx``, usually the pivot.
        rule: not paired unless item i of both Runs is the same text.
        resampling: of the items, independently on both sides.

    Returns:
        As `delta_experts`; the parameters also name the language and both corpora.

    Raises:
        RunError: a Run is pooled, or the Runs are of different routers.
        LanguageError: a Run lacks the language.
    """
    require_rates(run)
    require_rates(base)
    corpora = {"corpus": run.manifest.corpus["name"], "base": base.manifest.corpus["name"]}
    rates = replace(corpus_groups(run, base, language).as_rates(), parallel=rule.paired)
    return _table(rates, rule, {"kind": "task", "language": language, **corpora}, resampling).of(run)
