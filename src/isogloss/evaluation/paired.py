"""Compares two arms that answered the same items: exact tests, differences with intervals, one summary.

Both arms see every item, so differences are taken per item. Over languages, items and languages are both resampled,
because a study has a sample of each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from isogloss.analysis.statistics import (
    Estimate,
    bootstrap_counts,
    estimate_means,
    percentile_interval,
    resampled_means,
)
from isogloss.errors import RunError

__all__ = [
    "Comparison",
    "LanguageComparison",
    "PairedAccuracy",
    "accuracy",
    "compare",
    "holm",
    "mcnemar_exact",
    "paired_accuracy",
    "paired_difference",
]

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PairedAccuracy:
    """The accuracy of both arms and how much it differs, as shares of items between 0 and 1.

    Attributes:
        baseline: accuracy without the plan.
        steered: accuracy with the plan.
        difference: steered minus baseline.
    """

    baseline: Estimate
    steered: Estimate
    difference: Estimate

    def to_json(self) -> dict[str, Any]:
        """Return the three estimates as JSON types."""
        return {name: getattr(self, name).to_json() for name in ("baseline", "steered", "difference")}


@dataclass(frozen=True)
class LanguageComparison:
    """Two arms in one language.

    Attributes:
        accuracy: of both arms.
        p_value: of the exact McNemar test.
        p_adjusted: by Holm over the languages of the comparison.
    """

    accuracy: PairedAccuracy
    p_value: float
    p_adjusted: float

    def to_json(self) -> dict[str, Any]:
        """Return estimates and p-values as JSON types."""
        return {**self.accuracy.to_json(), "p_value": self.p_value, "p_adjusted": self.p_adjusted}


@dataclass(frozen=True)
class Comparison:
    """Two arms in all languages.

    Attributes:
        per_language: by language code, sorted.
        overall: unweighted mean over languages; its ``n`` counts languages.
    """

    per_language: Mapping[str, LanguageComparison]
    overall: PairedAccuracy

    def to_json(self) -> dict[str, Any]:
        """Return ``per_language`` and ``overall`` as JSON types."""
        languages = {language: entry.to_json() for language, entry in self.per_language.items()}
        return {"per_language": languages, "overall": self.overall.to_json()}


def accuracy(correct: npt.ArrayLike, *, n_resamples: int = 1000, seed: int = 0) -> Estimate:
    """Estimate the accuracy of one arm, with a 95 % percentile interval over items.

    Args:
        correct: ``[n_items]`` bool.
        n_resamples: bootstrap resamples.
        seed: of the random generator; the same seed gives the interval that `paired_accuracy` gives this arm.

    Raises:
        RunError: not bool, or empty.
    """
    answers = _answers(correct, "given").astype(np.float64)
    counts = bootstrap_counts(len(answers), n_resamples=n_resamples, seed=seed)
    return estimate_means(answers[:, None], counts)[0]


def mcnemar_exact(baseline: npt.ArrayLike, steered: npt.ArrayLike) -> float:
    """Test whether items flip from wrong to right as often as from right to wrong.

    Args:
        baseline: ``[n_items]`` bool, correct without the plan.
        steered: ``[n_items]`` bool, correct with the plan, same items in the same order.

    Returns:
        Two-sided p-value of the binomial test on the items that flipped; 1 where none did.

    Raises:
        RunError: not bool, empty, or of different length.

    Source:
        McNemar (1947), exact form; statsmodels ``mcnemar(exact=True)``.
    """
    before, after = _pair(baseline, steered)
    gained, lost = int((~before & after).sum()), int((before & ~after).sum())
    if gained + lost == 0:
        return 1.0
    table = [[int((before & after).sum()), lost], [gained, int((~before & ~after).sum())]]
    return float(mcnemar(table, exact=True).pvalue)


def paired_accuracy(
    baseline: npt.ArrayLike, steered: npt.ArrayLike, *, n_resamples: int = 1000, seed: int = 0
) -> PairedAccuracy:
    """Estimate the accuracy of both arms and their difference, with 95 % percentile intervals over items.

    Each resample draws items and takes both arms' answers to them, so the pairing is kept. An arm that is right (or
    wrong) on every item has an interval of width zero: a bootstrap cannot see what did not occur. One item has none.

    Args:
        baseline: ``[n_items]`` bool, correct without the plan.
        steered: ``[n_items]`` bool, correct with the plan, same items in the same order.
        n_resamples: bootstrap resamples.
        seed: of the random generator.

    Raises:
        RunError: not bool, empty, or of different length.
    """
    before, after = _pair(baseline, steered)
    counts = bootstrap_counts(len(before), n_resamples=n_resamples, seed=seed)
    return PairedAccuracy(*estimate_means(_with_difference(np.stack([before, after], axis=1)), counts))


def paired_difference(
    baseline: npt.ArrayLike, steered: npt.ArrayLike, *, n_resamples: int = 1000, seed: int = 0
) -> Estimate:
    """Estimate accuracy with the plan minus accuracy without; the ``difference`` of `paired_accuracy`."""
    return paired_accuracy(baseline, steered, n_resamples=n_resamples, seed=seed).difference


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Adjust p-values for testing several hypotheses, by Holm's step-down method.

    Args:
        p_values: each between 0 and 1; may be empty.

    Returns:
        Adjusted p-values in the same order: rejecting those up to 0.05 keeps the family-wise error rate at 5 %.

    Raises:
        ValueError: a value is NaN or not between 0 and 1.

    Example:
        >>> holm([0.01, 0.04])
        (0.02, 0.04)
    """
    values = np.asarray(p_values, dtype=np.float64)
    if not ((values >= 0.0) & (values <= 1.0)).all():
        raise ValueError(f"found p-values {list(p_values)}; expected each between 0 and 1")
    if not len(values):
        return ()
    return tuple(float(value) for value in multipletests(values, method="holm")[1])


def compare(
    baseline: Mapping[str, npt.ArrayLike],
    steered: Mapping[str, npt.ArrayLike],
    *,
    seed: int = 0,
    n_resamples: int = 1000,
) -> Comparison:
    """Compare two arms language by language and overall.

    The overall estimate is the unweighted mean over languages. Its interval resamples languages, and within each
    language items; languages with equally many items share their resample of items, so that parallel items stay
    together (translations of one hard question are hard together).

    Args:
        baseline: language to ``[n_items]`` bool, correct without the plan.
        steered: language to ``[n_items]`` bool, correct with the plan; same languages, same items in the same order.
        seed: of the random generator.
        n_resamples: bootstrap resamples.

    Raises:
        RunError: no languages, other languages in the other arm, or answers that do not pair up.

    Source:
        Resampling two crossed factors: Owen, The pigeonhole bootstrap (2007), doi:10.1214/07-AOAS122.
    """
    languages = _languages(baseline, steered)
    p_values = [mcnemar_exact(baseline[language], steered[language]) for language in languages]
    per_language = {
        language: LanguageComparison(
            paired_accuracy(baseline[language], steered[language], n_resamples=n_resamples, seed=seed), *both_p
        )
        for language, both_p in zip(languages, zip(p_values, holm(p_values), strict=True), strict=True)
    }
    arms = [np.stack(_pair(baseline[language], steered[language]), axis=1) for language in languages]
    return Comparison(per_language, _overall(arms, seed=seed, n_resamples=n_resamples))


def _overall(arms: Sequence[BoolArray], *, seed: int, n_resamples: int) -> PairedAccuracy:
    """Average over languages; ``arms`` holds ``[n_items, 2]`` per language."""
    resampled = [
        resampled_means(_with_difference(answers), bootstrap_counts(len(answers), n_resamples=n_resamples, seed=seed))
        for answers in arms
    ]
    # The seed of the draw of languages differs from that of items, which must not follow it.
    language_seed = int(np.random.SeedSequence([seed, 1]).generate_state(1)[0])
    counts = bootstrap_counts(len(arms), n_resamples=n_resamples, seed=language_seed)
    low, high = percentile_interval(np.einsum("rl,lra->ra", counts / len(arms), np.stack(resampled)))
    values = np.mean([_with_difference(answers).mean(axis=0) for answers in arms], axis=0)
    rows = zip(values.tolist(), low.tolist(), high.tolist(), strict=True)
    return PairedAccuracy(*(Estimate(value, left, right, len(arms)) for value, left, right in rows))


def _with_difference(answers: BoolArray) -> FloatArray:
    """Turn ``[n_items, 2]`` answers of baseline and steered into ``[n_items, 3]`` with their difference last."""
    arms = answers.astype(np.float64)
    return np.column_stack([arms, arms[:, 1] - arms[:, 0]])


def _pair(baseline: npt.ArrayLike, steered: npt.ArrayLike) -> tuple[BoolArray, BoolArray]:
    before, after = _answers(baseline, "baseline"), _answers(steered, "steered")
    if len(before) != len(after):
        raise RunError(
            f"baseline answered {len(before)} items and steered {len(after)}; expected the same items: "
            "run `isogloss evaluate` again to complete both arms"
        )
    return before, after


def _answers(correct: npt.ArrayLike, arm: str) -> BoolArray:
    answers = np.asarray(correct)
    if answers.ndim != 1 or not len(answers) or answers.dtype != np.bool_:
        raise RunError(
            f"the {arm} arm has answers of shape {answers.shape} and type {answers.dtype}; expected one true or "
            "false per item, and at least one item"
        )
    return answers


def _languages(baseline: Mapping[str, Any], steered: Mapping[str, Any]) -> list[str]:
    if baseline.keys() != steered.keys() or not baseline:
        raise RunError(
            f"baseline has the languages {sorted(baseline)} and steered {sorted(steered)}; expected the same ones, "
            "at least one: run `isogloss evaluate` with equal --languages for both arms"
        )
    return sorted(baseline)
