"""What else could make two languages look alike to the routers: shared tokens, and what the routers read.

Languages that share tokens share routes, and a router is linear, so that its routing may only mirror its input. Both
are optional at capture (``--distinct-from``, ``--hidden-states``). The third control, texts that are no translations of
each other, needs nothing and is part of `isogloss.analysis.analyze_curves`; the fourth compares two Runs, of the prompt
and of what the model wrote after it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from isogloss.analysis.correlation import LEAST_CORRELATED, LayerCorrelation, correlate
from isogloss.analysis.divergence import Curves, divergence, other_languages, read_shares
from isogloss.analysis.threads import in_threads
from isogloss.arrays import FloatArray
from isogloss.errors import RunError
from isogloss.records import Number, Record
from isogloss.runs import Run, header_differences, text_differences
from isogloss.statistics import (
    DEFAULT_RESAMPLING,
    Estimate,
    Resampling,
)

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

LEAST_OF_CKA = 4
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
            routing separates languages no more than its input does. Empty with fewer than four languages.
    """

    cosine: Curves
    cka: Curves
    mirror: tuple[LayerCorrelation, ...]


def distinct_divergence(run: Run, pivot: str, *, resampling: Resampling = DEFAULT_RESAMPLING) -> DistinctTokens:
    """Estimate the divergence from the pivot on tokens whose ids do not occur in the pivot's text.

    The pivot keeps all its tokens; the other language keeps those that are its own. ``n`` counts the items that have
    distinct tokens; NaN where there are none.

    Raises:
        RunError: the Run has no such profiles, or they leave out another language's tokens.
    """
    captured = run.manifest.distinct_from
    if captured != pivot:
        instead = f"with {captured} instead" if captured else "without"
        raise RunError(
            f"tokens not shared with {pivot}: this run was captured {instead}; capture it with --distinct-from {pivot}"
        )
    reference = read_shares(run, pivot)
    counts = resampling.draw(len(reference))
    curves, share = {}, {}
    for language in other_languages(run, pivot):
        routing = run.load(language)
        profiles, tokens = routing.distinct_profiles, routing.distinct_tokens
        if profiles is None or tokens is None:  # the Run's own checks exclude this
            raise RunError(f"{language} has no profiles over distinct tokens; capture it again")
        kept = tokens > 0
        values = np.full(profiles.shape[:2], np.nan)
        values[kept] = divergence(reference[kept], profiles[kept])
        curves[language] = resampling.estimate(values, counts)
        share[language] = float(tokens.sum(dtype=np.int64) / routing.tokens.sum(dtype=np.int64))
    return DistinctTokens(curves, share)


def _gram(rows: FloatArray) -> FloatArray:
    """Inner products of all items; centred to limit rounding, as the estimate removes any common shift anyway."""
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
    if n <= LEAST_OF_CKA + max(map(len, blocks)):
        return Estimate.without_interval(value, n)
    without = []
    for block in blocks:
        kept = np.setdiff1d(np.arange(n), block)
        without.append(_alignment(one[np.ix_(kept, kept)], other[np.ix_(kept, kept)]))
    reach = _Z * float(np.sqrt((len(blocks) - 1) * np.var(without)))
    return Estimate(value, value - reach, min(value + reach, 1.0), n)


def cka(x: FloatArray, y: FloatArray) -> Estimate:
    """Estimate the linear centred kernel alignment of two sets of hidden states ``[n_items, size]`` of the same items.

    The unbiased estimate: 1 for equal, rotated or rescaled states, 0 on average for unrelated ones (the usual biased
    one tends to 1 where there are more dimensions than items). It can be negative. The 95 % interval is a jackknife
    over blocks of items (a bootstrap would repeat items, which are alike to themselves), NaN with few items; the value
    is NaN where a side does not vary.

    Raises:
        ValueError: unequal numbers of items, or fewer than four.

    Source:
        Kornblith et al. 2019 (arXiv 1905.00414), section 3; unbiased HSIC: Song et al. 2012 (JMLR 13), equation 5.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(50, 8))
        >>> round(cka(x, 3 * x[:, ::-1] + 1).value, 6)
        1.0
    """
    if len(x) != len(y) or len(x) < LEAST_OF_CKA:
        raise ValueError(f"{len(x)} and {len(y)} items; expected as many on both sides, at least {LEAST_OF_CKA}")
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
    routing: Curves | None = None,
    resampling: Resampling = DEFAULT_RESAMPLING,
) -> HiddenStates:
    """Compare what the routers read in every language with what they read in the pivot.

    Args:
        run: captured with ``--hidden-states``, at least four items.
        pivot: reference language.
        routing: divergence from the pivot by language and layer, as `analyze_curves` gives it; needed for ``mirror``.
        resampling: of the items, for the cosine.

    Raises:
        RunError: the Run has no hidden states, or too few items.
    """
    n_items = run.manifest.shape[0]
    if run.manifest.hidden_size is None or n_items < LEAST_OF_CKA:
        raise RunError(
            f"what the routers read: this run has {n_items} items and hidden states of size "
            f"{run.manifest.hidden_size}; capture at least {LEAST_OF_CKA} items with --hidden-states"
        )
    counts, everything = resampling.draw(n_items), slice(None)
    reference = run.load_items(pivot, "hidden", everything)
    grams = [_gram(layer) for layer in np.moveaxis(reference, 1, 0)]
    cosine, similar = {}, {}
    for language in other_languages(run, pivot):
        hidden = run.load_items(language, "hidden", everything)
        cosine[language] = resampling.estimate(_cosines(reference, hidden), counts)
        similar[language] = tuple(
            _jackknifed(gram, _gram(layer)) for gram, layer in zip(grams, np.moveaxis(hidden, 1, 0), strict=True)
        )
    return HiddenStates(cosine, similar, _mirror(routing or {}, cosine))


def _mirror(routing: Curves, cosine: Curves) -> tuple[LayerCorrelation, ...]:
    both = [language for language in cosine if language in routing]
    if len(both) < LEAST_CORRELATED:
        return ()
    diverging = np.array([[point.value for point in routing[language]] for language in both])
    apart = 1.0 - np.array([[point.value for point in cosine[language]] for language in both])
    return tuple(correlate(x, y) for x, y in zip(diverging.T, apart.T, strict=True))


def phase_divergence(prompt: Run, generation: Run, *, resampling: Resampling = DEFAULT_RESAMPLING) -> Curves:
    """Estimate how far the routing of what a model writes lies from the routing of the prompt before it.

    ``generation`` is the Run of what the same model wrote after the texts of ``prompt`` (``--phase generation``). Of
    each language that both have, the curve is the mean over items of the divergence of each item.

    Raises:
        RunError: a Run is pooled, the phases are not prompt and generation, the Runs are of different models or texts,
            or share no language.
    """
    for run in (prompt, generation):
        run.manifest.require_items("comparing phases")
    ours, theirs = prompt.manifest, generation.manifest
    if (ours.phase, theirs.phase) != ("prompt", "generation"):
        raise RunError(f"phases are {ours.phase} and {theirs.phase}; expected a run of prompts and one of generations")
    ignored = ("phase", "new_tokens", "notes", "distinct_from", "hidden_size", "token_scope", "packages", "seed")
    differences = [*header_differences(ours, theirs, ignore=ignored), *text_differences(ours, theirs)]
    languages = [language for language in prompt.languages if language in generation.languages]
    if differences or not languages:
        raise RunError(
            f"{prompt.path} and {generation.path} differ in {'; '.join(differences) or 'all their languages'}; capture "
            "both phases of the same texts with the same model"
        )

    def measure(language: str) -> FloatArray:
        return divergence(read_shares(prompt, language), read_shares(generation, language))

    counts = resampling.draw(prompt.manifest.shape[0])
    curves = in_threads(lambda language: resampling.estimate(measure(language), counts), languages)
    return dict(zip(languages, curves, strict=True))
