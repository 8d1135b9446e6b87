"""The specificity rule: experts that one language uses more than the average one, or that all use alike.

Both scores are relative to the languages present, so the languages are always listed and the result names them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from isogloss.analysis.experts import ExpertTable, ItemGroups, judge_groups, language_groups
from isogloss.analysis.statistics import DEFAULT_RESAMPLING, Resampling
from isogloss.errors import LanguageError

if TYPE_CHECKING:
    from isogloss.analysis.experts import BoolArray, FloatArray, IntArray
    from isogloss.runs import Run

__all__ = [
    "SpecificityKind",
    "SpecificityRule",
    "experts_by_specificity",
    "overlap_scores",
    "specificity_experts",
    "specificity_scores",
]

SpecificityKind = Literal["specific", "overlap"]


@dataclass(frozen=True)
class SpecificityRule:
    """Parameters of the specificity rule; a threshold, a top, or both.

    Attributes:
        kind: ``specific``: high specificity for the target; ``overlap``: used alike by the listed languages.
        languages: those that means and variation are over, at least two.
        target: the language of ``specific``; None for ``overlap``.
        alpha: how much frequent use counts, at least 0; 0 leaves the bare ratios.
        threshold: an expert is found where its score is higher. An expert that all languages use with rate a scores
            1 + alpha·a in both kinds: compare with that. At least 0.
        top: keep only so many, the highest scores over all layers looked at; None for all.
        layers: first and last decoder layer looked at, inclusive; None for all.
    """

    kind: SpecificityKind
    languages: tuple[str, ...]
    target: str | None = None
    alpha: float = 10.0
    threshold: float = 0.0
    top: int | None = None
    layers: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if len(self.languages) < 2 or len(set(self.languages)) < len(self.languages):  # noqa: PLR2004 - a mean over two or more
            raise LanguageError(
                f"specificity needs two or more different languages; found {', '.join(self.languages) or 'none'}"
            )
        if (self.kind == "specific") != (self.target is not None):
            raise LanguageError(
                f"kind {self.kind} with target {self.target}; only 'specific' takes a target, and needs one"
            )
        if self.target is not None and self.target not in self.languages:
            raise LanguageError(f"target {self.target} must be one of {', '.join(self.languages)}")
        if not (self.alpha >= 0 and self.threshold >= 0 and np.isfinite([self.alpha, self.threshold]).all()):
            raise ValueError(f"alpha is {self.alpha} and threshold {self.threshold}; expected finite and at least 0")
        if self.top is not None and self.top < 1:
            raise ValueError(f"top is {self.top}; expected at least 1")

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON types."""
        layers = list(self.layers) if self.layers else None
        return {**asdict(self), "languages": list(self.languages), "layers": layers}

    def judge(self, counts: FloatArray | IntArray, tokens: FloatArray | IntArray) -> tuple[FloatArray, BoolArray]:
        """Return the score and whether it is above the threshold, from one pooled group per language."""
        rates = counts / np.asarray(tokens, dtype=np.float64)[..., None]
        if self.target is None:
            score = overlap_scores(rates, alpha=self.alpha)
        else:
            score = specificity_scores(rates, self.languages.index(self.target), alpha=self.alpha)
        return score, score > self.threshold


def specificity_scores(rates: FloatArray, target: int, *, alpha: float = 10.0) -> FloatArray:
    """Score how much more one language uses an expert than the mean language does.

    ``S·(1 + α·a)`` with ``S = a / ā``, where ``a`` is the target's selection rate and ``ā`` the mean rate over the
    languages, the target included.

    Args:
        rates: ``[..., n_languages, n_experts]`` selection rates.
        target: position of the language.
        alpha: α, at least 0.

    Returns:
        ``[..., n_experts]`` from 0 to n_languages·(1 + α). 0 where no language uses the expert (0/0).

    Source:
        RISE, arXiv 2604.03592; the value at 0/0 is ours.

    Example:
        >>> float(specificity_scores(np.array([[0.75], [0.25]]), 0, alpha=4)[0])  # 0.75 / 0.5 · (1 + 4 · 0.75)
        6.0
    """
    own, mean = rates[..., target, :], rates.mean(axis=-2)
    ratio = np.divide(own, mean, out=np.zeros_like(mean), where=mean > 0)
    return np.asarray(ratio * (1.0 + alpha * own))


def overlap_scores(rates: FloatArray, *, alpha: float = 10.0) -> FloatArray:
    """Score how alike, and how much, the languages use an expert.

    ``O·(1 + α·ā)`` with ``O = 1 / (1 + CV)``, where CV is the standard deviation of the rates over the languages
    (of the population: the listed languages are all there are) divided by their mean ``ā``.

    Args:
        rates: ``[..., n_languages, n_experts]`` selection rates.
        alpha: α, at least 0.

    Returns:
        ``[..., n_experts]`` from 0 to 1 + α. 0 where no language uses the expert (0/0).

    Source:
        RISE, arXiv 2604.03592; the divisor of the standard deviation and the value at 0/0 are ours.
    """
    mean, spread = rates.mean(axis=-2), rates.std(axis=-2)
    alike = np.divide(mean, mean + spread, out=np.zeros_like(mean), where=mean > 0)
    return np.asarray(alike * (1.0 + alpha * mean))


def specificity_experts(
    groups: ItemGroups, *, rule: SpecificityRule, resampling: Resampling = DEFAULT_RESAMPLING
) -> ExpertTable:
    """Find experts specific to a language, or used alike by all, by pooled selection rates.

    Args:
        groups: one per language of the rule, in its order.
        rule: kind, languages and cuts.
        resampling: of the items, the same for all languages.

    Returns:
        Statistic: the score. The chance count reassigns the records of every item to the languages at random. Under
            permuted
        labels languages use every expert alike: for ``overlap``, fewer than by chance is the finding, and for
        ``specific`` a frequent expert passes a low threshold by α alone. Pooled Runs give neither interval nor count.

    Raises:
        ValueError: another number of groups than languages.
        RunError: the rule's layers hold no routed layer.

    Source:
        RISE, arXiv 2604.03592, from the formula; intervals and chance count are ours.
    """
    if len(groups.selections) != len(rule.languages):
        raise ValueError(f"{len(groups.selections)} groups and {len(rule.languages)} languages do not fit")
    rows, chance = judge_groups(groups.within(rule.layers), rule.judge, resampling=resampling, top=rule.top)
    parameters = {**rule.to_json(), "n_items": groups.least_items, **resampling.to_json()}
    return ExpertTable("specificity", parameters, rows, chance)


def experts_by_specificity(
    run: Run, rule: SpecificityRule, *, resampling: Resampling = DEFAULT_RESAMPLING
) -> ExpertTable:
    """Apply the specificity rule to a Run, with items or pooled.

    Args:
        run: with all languages of the rule.
        rule: kind, languages and cuts.
        resampling: of the items.

    Returns:
        As `specificity_experts`; in a pooled Run without intervals and chance count.

    Raises:
        LanguageError: a language is not in the Run.
        RunError: the rule's layers hold no routed layer.
    """
    groups = language_groups(run, rule.languages)
    return specificity_experts(groups, rule=rule, resampling=resampling).of(run)
