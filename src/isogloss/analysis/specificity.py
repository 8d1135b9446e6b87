"""The specificity rule: experts that one language uses more than the average one, or that all use alike.

Both scores are relative to the languages present, so the languages are always listed and the result names them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from isogloss.analysis.rules import Counts, LanguageRule, TopRule
from isogloss.arrays import BoolArray, FloatArray
from isogloss.errors import LanguageError

__all__ = ["SpecificityRule", "overlap_scores", "specificity_scores"]


@dataclass(frozen=True)
class SpecificityRule(TopRule, LanguageRule):
    """Experts specific to a language, or used alike by all, by a score of pooled selection rates.

    Under permuted labels languages use every expert alike: for ``overlap``, fewer than by chance is the finding, and
    for ``specific`` a frequent expert passes a low threshold by α alone.

    Attributes:
        kind: ``specific``: high specificity for the target; ``overlap``: used alike by the listed languages.
        languages: those that means and variation are over, at least two.
        target: the language of ``specific``; None for ``overlap``.
        alpha: how much frequent use counts, at least 0; 0 leaves the bare ratios.
        threshold: an expert is found where its score is higher. An expert that all languages use with rate a scores
            1 + alpha·a in both kinds: compare with that. At least 0.
        top: keep only so many, the highest scores over all layers looked at; None for all.
        layers: first and last decoder layer looked at, inclusive; None for all.

    Source:
        RISE, arXiv 2604.03592, from the formula; intervals and chance count are ours.
    """

    name: ClassVar[str] = "specificity"

    kind: Literal["specific", "overlap"]
    languages: tuple[str, ...]
    target: str | None = None
    alpha: float = 10.0
    threshold: float = 0.0
    top: int | None = None
    layers: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.kind == "specific") != (self.target is not None):
            raise LanguageError(
                f"kind {self.kind} with target {self.target}; only 'specific' takes a target, and needs one"
            )
        if self.target is not None and self.target not in self.languages:
            raise LanguageError(f"target {self.target} must be one of {', '.join(self.languages)}")
        if not (self.alpha >= 0 and self.threshold >= 0 and np.isfinite([self.alpha, self.threshold]).all()):
            raise ValueError(f"alpha is {self.alpha} and threshold {self.threshold}; expected finite and at least 0")

    def judge(self, counts: Counts, tokens: Counts) -> tuple[FloatArray, BoolArray]:
        """Return the score and whether it is above the threshold, from the pooled counts of one group per language."""
        rates = counts / np.asarray(tokens, dtype=np.float64)[..., None]
        if self.target is None:
            score = overlap_scores(rates, alpha=self.alpha)
        else:
            score = specificity_scores(rates, self.languages.index(self.target), alpha=self.alpha)
        return score, score > self.threshold


def specificity_scores(rates: FloatArray, target: int, *, alpha: float = 10.0) -> FloatArray:
    """Score how much more one language uses an expert than the mean language does.

    ``S·(1 + α·a)`` with ``S = a / ā``, where ``a`` is the target's selection rate and ``ā`` the mean rate over the
    languages, the target included. Of rates ``[..., n_languages, n_experts]`` the score is ``[..., n_experts]`` from 0
    to n_languages·(1 + α), and 0 where no language uses the expert (0/0).

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

    ``O·(1 + α·ā)`` with ``O = 1 / (1 + CV)``, where CV is the standard deviation of the rates over the languages (of
    the population: the listed languages are all there are) divided by their mean ``ā``. Of rates ``[..., n_languages,
    n_experts]`` the score is ``[..., n_experts]`` from 0 to 1 + α, and 0 where no language uses the expert (0/0).

    Source:
        RISE, arXiv 2604.03592; the divisor of the standard deviation and the value at 0/0 are ours.
    """
    mean, spread = rates.mean(axis=-2), rates.std(axis=-2)
    alike = np.divide(mean, mean + spread, out=np.zeros_like(mean), where=mean > 0)
    return np.asarray(alike * (1.0 + alpha * mean))
