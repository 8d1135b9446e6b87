"""What else could make two languages look alike to the routers: shared tokens, and what the routers read.

Languages that share tokens share routes, and a router is linear, so that its routing may only mirror its input. Both
are optional at capture (``--distinct-from``, ``--hidden-states``). The third control, texts that are no translations of
each other, needs nothing and is part of `isogloss.analysis.analyze`; the fourth compares two Runs, of the prompt and of
what the model wrote after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from isogloss.analysis.correlation import LEAST_LANGUAGES, LayerCorrelation, correlate
from isogloss.analysis.divergence import divergence, language_distributions, other_languages
from isogloss.analysis.statistics import (
    DEFAULT_RESAMPLING,
    Estimate,
    Resampling,
    bootstrap_counts,
    estimate_means,
    require_items,
)
from isogloss.errors import RunError
from isogloss.files import Number, Record
from isogloss.runs import header_differences

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from isogloss.runs import Run

    FloatArray = npt.NDArray[np.floating[Any]]

Curves = dict[str, tuple[Estimate, ...]]
"""By language: one Estimate per routed layer."""

__all__ = [
    "DistinctTokens",
    "HiddenStates",
    "cka",
    "distinct_divergence",
    "hidden_similarity",
    "phase_divergence",
]

N_BLOCKS = 20
"""Blocks of items that the jackknife leaves out in turn."""

LEAST_ITEMS = 4
"""The unbiased estimate of CKA divides by n - 3."""

_Z = 1.959964


@dataclass(frozen=True)
class DistinctTokens(Record):
    """Divergence from the pivot on tokens that the pivot's text does not have.

    Attributes:
        divergence: by language, per routed layer, over the items that have such tokens.
        share: by language, such tokens among all counted ones, 0 to 1. Where it is small, profiles rest on few tokens
            and diverge for that alone.
    """

    divergence: Curves
    share: dict[str, Number]


@dataclass(frozen=True)
class HiddenStates(Record):
    """Similarity to the pivot of what the routers read.

    Attributes:
        cosine: by language, per routed layer: cosine of the two mean hidden states of an item, mean over items.
        cka: by language, per routed layer: unbiased linear CKA over items (see `cka`), which no common direction of
            all hidden states can raise; interval by the jackknife.
        mirror: per routed layer, over languages: correlation of the routing's divergence with 1 - cosine. Near 1,
            routing says no more about languages than its input does. Empty with fewer than four languages.
    """

    cosine: Curves
    cka: Curves
    mirror: tuple[LayerCorrelation, ...]


def distinct_divergence(run: Run, pivot: str, *, resampling: Resampling = DEFAULT_RESAMPLING) -> DistinctTokens:
    """Estimate the divergence from the pivot on tokens whose ids do not occur in the pivot's text.

    The pivot keeps all its tokens; the other language keeps those that are its own.

    Args:
        run: captured with ``--distinct-from`` the pivot.
        pivot: reference language.
        resampling: of the items, as for the divergence on all tokens.

    Returns:
        Curves with ``n`` the items that have distinct tokens; NaN where there are none.

    Raises:
        RunError: the Run has no such profiles, or they leave out another language's tokens.
    """
    found = run.manifest.distinct_from
    if found != pivot:
        raise RunError(
            f"tokens not shared with {pivot}: this run was captured {f'with {found} instead' if found else 'without'}; "
            f"capture it with --distinct-from {pivot}"
        )
    reference = language_distributions(run.load(pivot), pivot, "profile")
    counts = bootstrap_counts(len(reference), n_resamples=resampling.n_resamples, seed=resampling.seed)
    curves, share = {}, {}
    for language in other_languages(run, pivot):
        routing = run.load(language)
        profiles, tokens = routing.distinct_profiles, routing.distinct_tokens
        if profiles is None or tokens is None:  # the Run's own checks exclude this
            raise RunError(f"{language} has no profiles over distinct tokens; capture it again")
        kept = tokens > 0
        values = np.full(profiles.shape[:2], np.nan)
        values[kept] = divergence(reference[kept], profiles[kept])
        curves[language] = estimate_means(values, counts, level=resampling.level)
        share[language] = float(tokens.sum(dtype=np.int64) / routing.tokens.sum(dtype=np.int64))
    return DistinctTokens(curves, share)


def _gram(rows: FloatArray) -> FloatArray:
    """Inner products of all items; centred for the sake of rounding alone, the estimate removes any common shift."""
    rows = rows - rows.mean(axis=0, dtype=np.float64)
    gram = np.asarray(rows @ rows.T, dtype=np.float64)
    np.fill_diagonal(gram, 0.0)
    return gram


def _hsic(one: FloatArray, other: FloatArray) -> float:
    """Unbiased Hilbert-Schmidt independence criterion, up to a factor, of Gram matrices with zero diagonals."""
    n = len(one)
    trace, sums = float((one * other).sum()), one.sum(axis=0)
    other_sums = other.sum(axis=0)
    joint = float(sums.sum() * other_sums.sum()) / ((n - 1) * (n - 2))
    return trace + joint - 2.0 * float(sums @ other_sums) / (n - 2)


def _alignment(one: FloatArray, other: FloatArray) -> float:
    scale = _hsic(one, one) * _hsic(other, other)
    return _hsic(one, other) / float(np.sqrt(scale)) if scale > 0 else float("nan")


def _jackknifed(one: FloatArray, other: FloatArray) -> Estimate:
    n = len(one)
    value, blocks = _alignment(one, other), np.array_split(np.arange(n), min(N_BLOCKS, n))
    if n <= LEAST_ITEMS + max(map(len, blocks)):
        return Estimate(value, float("nan"), float("nan"), n)
    without = []
    for block in blocks:
        kept = np.setdiff1d(np.arange(n), block)
        without.append(_alignment(one[np.ix_(kept, kept)], other[np.ix_(kept, kept)]))
    reach = _Z * float(np.sqrt((len(blocks) - 1) * np.var(without)))
    return Estimate(value, value - reach, min(value + reach, 1.0), n)


def cka(x: FloatArray, y: FloatArray) -> Estimate:
    """Estimate the linear centred kernel alignment of two sets of hidden states over the same items.

    The unbiased estimate: 1 for equal, rotated or rescaled states, 0 on average for unrelated ones (the usual biased
    one tends to 1 where there are more dimensions than items). It can be negative.

    Args:
        x: ``[n_items, size]``.
        y: ``[n_items, other_size]``.

    Returns:
        Value with a 95 % interval by the jackknife over blocks of items (a bootstrap would repeat items, which are
        alike to themselves); the interval is NaN with few items, the value where a side does not vary.

    Raises:
        ValueError: unequal numbers of items, or fewer than four.

    Source:
        Kornblith et al. 2019 (arXiv 1905.00414), section 3; unbiased HSIC: Song et al. 2012 (JMLR 13), equation 5.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(50, 8))
        >>> round(cka(x, 3 * x[:, ::-1] + 1).value, 6)
        1.0
    """
    if len(x) != len(y) or len(x) < LEAST_ITEMS:
        raise ValueError(f"{len(x)} and {len(y)} items; expected as many on both sides, at least {LEAST_ITEMS}")
    return _jackknifed(_gram(x), _gram(y))


def _cosines(x: FloatArray, y: FloatArray) -> FloatArray:
    """Cosine over the last axis; NaN where a side is zero."""
    scale = np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1)
    product = np.einsum("...d,...d->...", x, y, dtype=np.float64)
    return np.asarray(np.divide(product, scale, out=np.full(product.shape, np.nan), where=scale > 0))


def hidden_similarity(
    run: Run,
    pivot: str,
    *,
    routing: Mapping[str, tuple[Estimate, ...]] | None = None,
    resampling: Resampling = DEFAULT_RESAMPLING,
) -> HiddenStates:
    """Compare what the routers read in every language with what they read in the pivot.

    Args:
        run: captured with ``--hidden-states``, at least four items.
        pivot: reference language.
        routing: divergence from the pivot by language and layer, as `analyze` gives it; needed for ``mirror``.
        resampling: of the items, for the cosine.

    Returns:
        Both similarities per routed layer for each language but the pivot.

    Raises:
        RunError: the Run has no hidden states, or too few items.
    """
    n_items = run.manifest.shape[0]
    if run.manifest.hidden_size is None or n_items < LEAST_ITEMS:
        raise RunError(
            f"what the routers read: this run has {n_items} items and hidden states of size "
            f"{run.manifest.hidden_size}; capture at least {LEAST_ITEMS} items with --hidden-states"
        )
    others = other_languages(run, pivot)
    counts = bootstrap_counts(n_items, n_resamples=resampling.n_resamples, seed=resampling.seed)
    everything = slice(None)
    reference = run.load_items(pivot, "hidden", everything)
    grams = [_gram(layer) for layer in np.moveaxis(reference, 1, 0)]
    cosine, similar = {}, {}
    for language in others:
        hidden = run.load_items(language, "hidden", everything)
        cosine[language] = estimate_means(_cosines(reference, hidden), counts, level=resampling.level)
        similar[language] = tuple(
            _jackknifed(gram, _gram(layer)) for gram, layer in zip(grams, np.moveaxis(hidden, 1, 0), strict=True)
        )
    return HiddenStates(cosine, similar, _mirror(routing or {}, cosine))


def _mirror(routing: Mapping[str, tuple[Estimate, ...]], cosine: Curves) -> tuple[LayerCorrelation, ...]:
    both = [language for language in cosine if language in routing]
    if len(both) < LEAST_LANGUAGES:
        return ()
    diverging = np.array([[point.value for point in routing[language]] for language in both])
    apart = 1.0 - np.array([[point.value for point in cosine[language]] for language in both])
    return tuple(correlate(x, y) for x, y in zip(diverging.T, apart.T, strict=True))


def phase_divergence(prompt: Run, generation: Run, *, resampling: Resampling = DEFAULT_RESAMPLING) -> Curves:
    """Estimate how far the routing of what a model writes lies from the routing of the prompt before it.

    Args:
        prompt: Run of texts.
        generation: Run of what the same model wrote after the same texts (``--phase generation``).
        resampling: of the items.

    Returns:
        For each language that both have, divergence per item, mean over items, per routed layer.

    Raises:
        RunError: a Run is pooled, the phases are not prompt and generation, the Runs are of different models or items,
            or share no language.
    """
    for run in (prompt, generation):
        require_items(run.manifest.granularity, "comparing phases")
    ours, theirs = prompt.manifest, generation.manifest
    if (ours.phase, theirs.phase) != ("prompt", "generation"):
        raise RunError(f"phases are {ours.phase} and {theirs.phase}; expected a run of prompts and one of generations")
    ignored = ("phase", "new_tokens", "notes", "distinct_from", "hidden_size", "token_scope", "packages", "seed")
    differences = header_differences(ours, theirs, ignore=ignored)
    languages = [language for language in prompt.languages if language in generation.languages]
    if differences or not languages:
        raise RunError(
            f"{prompt.path} and {generation.path} differ in {'; '.join(differences) or 'all their languages'}; capture "
            "both phases of the same texts with the same model"
        )
    counts = bootstrap_counts(ours.shape[0], n_resamples=resampling.n_resamples, seed=resampling.seed)
    curves = {}
    for language in languages:
        sides = (language_distributions(run.load(language), language, "profile") for run in (prompt, generation))
        curves[language] = estimate_means(divergence(*sides), counts, level=resampling.level)
    return curves
