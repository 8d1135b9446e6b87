"""Do languages that are related route alike? Routing by band of layers against other accounts of distance.

Every test is run plainly and again controlling for rival explanations, because languages that share tokens share
routing for that reason alone. The p-value of the best layer is corrected for searching all layers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from isogloss.analysis.layers import layer_positions, thirds
from isogloss.analysis.mantel import (
    LEAST_PERMUTED,
    MANTEL_RESAMPLING,
    MantelTest,
    PermutedCorrelations,
    checked_distances,
    permuted_correlations,
)
from isogloss.analysis.pairs import PairwiseDivergence
from isogloss.analysis.tree import LanguageTree, language_tree
from isogloss.arrays import BoolArray, FloatArray
from isogloss.records import Name, Number, Record
from isogloss.statistics import Resampling, holm

__all__ = [
    "BandStructure",
    "LanguageStructure",
    "LayerMatch",
    "ReferenceTest",
    "language_structure",
]

RIVALS = ("token_overlap", "script")


@dataclass(frozen=True)
class ReferenceTest(Record):
    """Agreement of routing with one reference in one band of layers.

    Attributes:
        plain: Mantel test.
        p_adjusted: of the plain test, by Holm over the references of the band.
        partial: controlling for the rivals; None where there are none, or it was refused.
        partial_p_adjusted: of the partial test, by Holm over the references of the band; None without it.
        left_out: languages that are missing from the reference; the partial test may leave out more (see its ``n``).
    """

    plain: MantelTest
    p_adjusted: Number
    partial: MantelTest | None
    partial_p_adjusted: float | None
    left_out: tuple[Name, ...]


@dataclass(frozen=True)
class BandStructure(Record):
    """The languages in one band of layers.

    Attributes:
        first: first decoder layer of the band, 0-based.
        last: last decoder layer, inclusive.
        tree: of the mean distance over the band.
        tests: by name of the reference.
    """

    first: int
    last: int
    tree: LanguageTree
    tests: Mapping[str, ReferenceTest]


@dataclass(frozen=True)
class LayerMatch(Record):
    """Where in depth routing agrees best with a reference.

    Attributes:
        layer: decoder layer with the greatest correlation, 0-based.
        p_value: of that layer, corrected for the search over all layers.
        p_adjusted: by Holm over the references besides.
        correlations: one per layer; NaN where there is none.
        p_values: one per layer, each corrected for the search over all layers.
        n: languages.
        n_permutations: behind the p-values.
        controls: names of the distances controlled for.

    Raises:
        ValueError: on construction, where correlations and p-values are not of the same layers.
    """

    layer: int
    p_value: Number
    p_adjusted: Number
    correlations: tuple[Number, ...]
    p_values: tuple[Number, ...]
    n: int
    n_permutations: int
    controls: tuple[Name, ...]

    @property
    def correlation(self) -> float:
        """The greatest correlation of any layer; NaN where there is none."""
        return max((value for value in self.correlations if value == value), default=math.nan)  # noqa: PLR0124 - NaN

    def __post_init__(self) -> None:
        if len(self.p_values) != len(self.correlations):
            raise ValueError(
                f"{len(self.correlations)} correlations and {len(self.p_values)} p-values; expected one per layer"
            )


@dataclass(frozen=True)
class LanguageStructure(Record):
    """How routing relates languages, and what that agrees with.

    Attributes:
        languages: full codes.
        layers: decoder layers.
        rivals: references that the partial tests control for.
        bands: by name.
        matches: best layer by name of the reference.
        partial_matches: the same, controlling for the rivals.
        refused: tests that were not run, by name (``name`` or ``name, partial``), and why.
    """

    languages: tuple[Name, ...]
    layers: tuple[int, ...]
    rivals: tuple[Name, ...]
    bands: Mapping[str, BandStructure]
    matches: Mapping[str, LayerMatch]
    partial_matches: Mapping[str, LayerMatch]
    refused: Mapping[str, str]


def language_structure(
    distances: PairwiseDivergence,
    references: Mapping[str, FloatArray],
    *,
    rivals: Sequence[str] | None = None,
    bands: Mapping[str, tuple[int, int]] | None = None,
    resampling: Resampling = MANTEL_RESAMPLING,
) -> LanguageStructure:
    """Build trees by band of layers, and test what routing agrees with.

    One set of permutations serves all layers and bands of a reference, which makes the correction for searching the
    best layer exact. Read the warning of `mantel` before calling a partial correlation a cause.

    Args:
        distances: of all pairs of languages in every layer.
        references: name to ``[n, n]`` in the same order of languages; NaN where a language is unknown. A language is
            left out of the tests against references that lack it.
        rivals: names of references that partial tests control for (never themselves); by default
            ``token_overlap`` and ``script``, as far as they are given.
        bands: name to first and last decoder layer, inclusive; by default `thirds`.
        resampling: permutations and seed; the level of the intervals.

    Returns:
        Trees, tests and best layers. What five known languages or more do not allow is refused by name.

    Raises:
        LanguageError: fewer than three languages.
        RunError: no routed layer lies in a band.
        ValueError: distances that are none, of another size, or a rival that is no reference.
    """
    stack = np.stack([checked_distances(layer) for layer in distances.values])
    chosen = _rivals(stack.shape[1:], references, rivals)
    edges = dict(bands) if bands is not None else thirds(distances.layers)
    means = [stack[layer_positions(distances.layers, edge)].mean(axis=0) for edge in edges.values()]
    study = _Study(np.concatenate([stack, np.array(means)]), tuple(distances.languages), references, resampling)
    refused: dict[str, str] = {}
    plain = {name: test for name in references if (test := study.run(name, (), refused))}
    partial = {
        name: test
        for name in plain
        if (controls := tuple(rival for rival in chosen if rival != name))
        and (test := study.run(name, controls, refused))
    }
    n_layers = len(stack)
    trees = [language_tree(mean, study.languages) for mean in means]
    return LanguageStructure(
        study.languages,
        tuple(distances.layers),
        chosen,
        {
            name: BandStructure(*edge, tree, _band_tests(plain, partial, n_layers + position))
            for position, ((name, edge), tree) in enumerate(zip(edges.items(), trees, strict=True))
        },
        _matches(plain, distances.layers),
        _matches(partial, distances.layers),
        refused,
    )


def _rivals(
    shape: tuple[int, ...], references: Mapping[str, FloatArray], rivals: Sequence[str] | None
) -> tuple[str, ...]:
    """Choose the references to control for; ValueError where references or rivals do not fit."""
    chosen = tuple(name for name in RIVALS if name in references) if rivals is None else tuple(rivals)
    wrong = [name for name, matrix in references.items() if np.shape(matrix) != shape]
    if wrong:
        raise ValueError(f"references {wrong} are not of the {shape[0]} languages; give [n_languages, n_languages]")
    if not set(chosen) <= set(references):
        raise ValueError(f"rivals {chosen}; expected some of the references {tuple(references)}")
    return chosen


@dataclass(frozen=True, eq=False)
class _Agreement:
    """Correlations of every layer and band with one reference."""

    null: PermutedCorrelations
    controls: tuple[str, ...]
    left_out: tuple[str, ...]

    def test(self, position: int) -> MantelTest:
        return self.null.test(position, self.controls, "pearson", "greater")


@dataclass(frozen=True, eq=False)
class _Study:
    """What all tests of one study share."""

    stack: FloatArray
    languages: tuple[str, ...]
    references: Mapping[str, FloatArray]
    resampling: Resampling

    def run(self, name: str, controls: tuple[str, ...], refused: dict[str, str]) -> _Agreement | None:
        """Test one reference in every layer and band, or note why not."""
        wanted = [np.array(self.references[key], dtype=np.float64) for key in (name, *controls)]
        kept = np.flatnonzero(_known(wanted))
        left_out = tuple(code for place, code in enumerate(self.languages) if place not in set(kept.tolist()))
        title = f"{name}, partial" if controls else name
        if len(kept) < LEAST_PERMUTED:
            refused[title] = (
                f"{len(kept)} of {len(self.languages)} languages are known; at least {LEAST_PERMUTED} are needed for "
                "p-values that survive a correction"
            )
            return None
        window = np.ix_(kept, kept)
        y, *rivals = (matrix[window] for matrix in wanted)
        layers = self.stack[:, window[0], window[1]]
        null = permuted_correlations(layers, y, rivals, resampling=self.resampling)
        if np.isnan(null.observed).all():
            why = f"or determined by {', '.join(controls)}" if controls else "or routing is"
            refused[title] = f"the same distance between all {len(kept)} languages that are known, {why}"
            return None
        return _Agreement(null, controls, left_out)


def _known(matrices: Sequence[FloatArray]) -> BoolArray:
    """Keep languages so that no distance among them is NaN, leaving out first those that lack most."""
    lacking = np.any([np.isnan(matrix) for matrix in matrices], axis=0)
    np.fill_diagonal(lacking, val=False)
    kept = np.ones(len(lacking), dtype=bool)
    while (counts := (lacking & kept).sum(axis=1) * kept).any():
        kept[np.argmax(counts)] = False
    return kept


def _band_tests(
    plain: Mapping[str, _Agreement], partial: Mapping[str, _Agreement], position: int
) -> dict[str, ReferenceTest]:
    tests = {name: agreement.test(position) for name, agreement in plain.items()}
    partials = {name: agreement.test(position) for name, agreement in partial.items()}
    adjusted = _holm({name: test.p_value for name, test in tests.items()})
    partial_adjusted = _holm({name: test.p_value for name, test in partials.items()})
    return {
        name: ReferenceTest(test, adjusted[name], partials.get(name), partial_adjusted.get(name), plain[name].left_out)
        for name, test in tests.items()
    }


def _matches(agreements: Mapping[str, _Agreement], layers: Sequence[int]) -> dict[str, LayerMatch]:
    matches = {}
    for name, one in agreements.items():
        null = one.null.first(len(layers))
        if np.isnan(null.observed).all():
            continue
        p_values = null.p_values_of_search()
        best = int(np.nanargmax(null.observed))
        p_value, n = float(p_values[best]), null.leave_one_out.shape[1]
        curves = tuple(null.observed.tolist()), tuple(p_values.tolist())
        matches[name] = LayerMatch(layers[best], p_value, p_value, *curves, n, len(null.permuted), one.controls)
    adjusted = _holm({name: match.p_value for name, match in matches.items()})
    return {name: replace(match, p_adjusted=adjusted[name]) for name, match in matches.items()}


def _holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjust p-values by Holm's method; NaN stays NaN and counts for nothing."""
    known = {name: value for name, value in p_values.items() if np.isfinite(value)}
    return {**p_values, **dict(zip(known, holm(list(known.values())), strict=True))}
