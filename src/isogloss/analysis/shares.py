"""Which experts the languages at hand share, and which belong to a few of them: the share rule.

Shares are relative to the languages present, so the languages are always listed and the result names them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from isogloss.analysis.experts import ExpertRow, ExpertTable, layer_positions
from isogloss.analysis.statistics import DEFAULT_RESAMPLING, Resampling, bootstrap_counts, percentile_interval
from isogloss.errors import LanguageError, RunError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from isogloss.runs import Run

    FloatArray = npt.NDArray[np.floating[Any]]
    IntArray = npt.NDArray[np.integer[Any]]
    BoolArray = npt.NDArray[np.bool_]

__all__ = ["ShareRule", "experts_by_share", "language_shares", "share_experts", "top_experts"]

MASK_ENTRIES = 8_000_000
"""Entries of one block of permutation weights: 64 MB of float64."""


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


def _judge(shares: FloatArray, rule: ShareRule) -> tuple[FloatArray, BoolArray]:
    """Return statistic and verdict per expert, ``[..., n_experts]``, from ``[..., n_languages, n_experts]``."""
    if rule.kind == "common":
        largest = shares.max(axis=-2)
        return largest, (largest > 0) & (largest < rule.threshold)
    belongs = [rule.languages.index(language) for language in rule.target]
    total = shares[..., belongs, :].sum(axis=-2)
    return total, total > rule.threshold


def _intervals(
    selections: IntArray, tokens: IntArray, found: tuple[IntArray, IntArray], rule: ShareRule, resampling: Resampling
) -> tuple[FloatArray, FloatArray]:
    """Bootstrap the statistic of the found experts; NaN with a single item."""
    low, high = np.full((2, len(found[0])), np.nan)
    n_items = selections.shape[1]
    if n_items < 2:  # noqa: PLR2004 - spread needs two items
        return low, high
    weights = bootstrap_counts(n_items, n_resamples=resampling.n_resamples, seed=resampling.seed).astype(np.float64)
    pooled_tokens = weights @ tokens.T
    for position in np.unique(found[0]):
        here = found[0] == position
        counts = np.stack([weights @ language[:, position] for language in selections], axis=1)
        statistic, _ = _judge(language_shares(counts, pooled_tokens, rule.top), rule)
        low[here], high[here] = percentile_interval(statistic[:, found[1][here]], level=resampling.level)
    return low, high


def _relabellings(n_languages: int, n_items: int, resampling: Resampling) -> Iterator[FloatArray]:
    """Yield blocks ``[n, n_languages, n_languages * n_items]`` that deal every item's records anew to the languages."""
    generator = np.random.default_rng(resampling.seed)
    block = max(1, MASK_ENTRIES // (n_languages**2 * n_items))
    for start in range(0, resampling.n_permutations, block):
        size = min(block, resampling.n_permutations - start)
        dealt = np.argsort(generator.random((size, n_items, n_languages)), axis=2)
        taken = dealt.transpose(0, 2, 1)[:, :, None, :] == np.arange(n_languages)[:, None]
        yield taken.reshape(size, n_languages, -1).astype(np.float64)


def _expected_by_chance(
    selections: IntArray, tokens: IntArray, rule: ShareRule, resampling: Resampling
) -> float | None:
    n_languages, n_items, n_layers, n_experts = selections.shape
    if n_items < 2:  # noqa: PLR2004 - labels of single items carry no information
        return None
    found = 0
    for weights in _relabellings(n_languages, n_items, resampling):
        pooled_tokens = weights @ tokens.ravel()
        for position in range(n_layers):
            counts = weights @ selections[:, :, position].reshape(-1, n_experts)
            found += int(_judge(language_shares(counts, pooled_tokens, rule.top), rule)[1].sum())
    return found / resampling.n_permutations


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
        item anew to the languages, need at least two items and are missing otherwise. Under permuted labels nearly
        every expert in use is common: for that kind, fewer than by chance is the finding.

    Raises:
        ValueError: shapes do not fit.
        RunError: an item has no tokens, or the rule's layers hold no routed layer.

    Source:
        arXiv 2601.14050; intervals and chance count are ours.
    """
    if selections.shape[:2] != tokens.shape or selections.shape[::2] != (len(rule.languages), len(decoder_layers)):
        raise ValueError(
            f"selections {selections.shape}, tokens {tokens.shape}, {len(rule.languages)} languages and "
            f"{len(decoder_layers)} layers do not fit"
        )
    if (tokens <= 0).any():
        raise RunError("an item has no counted tokens in some language; remove it from the corpus")
    positions = layer_positions(decoder_layers, rule.layers)
    selections = selections[:, :, positions]
    pooled = selections.sum(axis=1, dtype=np.int64).transpose(1, 0, 2)
    shares = language_shares(pooled, tokens.sum(axis=1, dtype=np.int64), rule.top)
    statistic, verdict = _judge(shares, rule)
    found = np.nonzero(verdict)
    low, high = _intervals(selections, tokens, (found[0], found[1]), rule, resampling)
    rows = zip(*found, statistic[found], low, high, shares[:, 0][found], strict=True)
    return ExpertTable(
        rule="share",
        parameters={**rule.to_json(), "n_items": selections.shape[1], **resampling.to_json()},
        experts=tuple(
            ExpertRow(decoder_layers[positions[place]], int(expert), *(float(number) for number in numbers))
            for place, expert, *numbers in rows
        ),
        expected_by_chance=_expected_by_chance(selections, tokens, rule, resampling),
    )


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
    absent = [language for language in rule.languages if language not in run.languages]
    if absent:
        raise LanguageError(f"{', '.join(absent)} not in this run; it holds {', '.join(run.languages)}")
    routings = [run.load(language) for language in rule.languages]
    return share_experts(
        np.stack([routing.selections for routing in routings]),
        np.stack([routing.tokens for routing in routings]),
        decoder_layers=[spec.layer for spec in run.manifest.routers],
        rule=rule,
        resampling=resampling,
    )
