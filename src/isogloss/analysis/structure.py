"""Do languages that are related route alike? Routing by band of layers against other accounts of distance.

Every test is run plainly and again controlling for rival explanations, because languages that share tokens share
routing for that reason alone. The p-value of the best layer is corrected for searching all layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from isogloss.analysis.mantel import (
    LEAST_LANGUAGES,
    MANTEL_RESAMPLING,
    MantelTest,
    PermutedCorrelations,
    checked_distances,
    permuted_correlations,
)
from isogloss.analysis.statistics import Resampling, holm
from isogloss.analysis.tree import LanguageTree, language_tree
from isogloss.errors import RunError
from isogloss.files import Number, Record

if TYPE_CHECKING:
    import numpy.typing as npt

    FloatArray = npt.NDArray[np.floating[Any]]

__all__ = [
    "BandStructure",
    "LanguageStructure",
    "LayerDistances",
    "LayerMatch",
    "ReferenceTest",
    "language_structure",
]

RIVALS = ("token_overlap", "script")
N_BANDS = 3


class LayerDistances(Protocol):
    """Distances between languages in every layer, such as `PairwiseDivergence`."""

    @property
    def languages(self) -> Sequence[str]:
        """Full codes, in the order of the last two axes."""

    @property
    def layers(self) -> Sequence[int]:
        """Decoder layers, ascending, in the order of the first axis."""

    @property
    def values(self) -> FloatArray:
        """``[n_layers, n, n]``, symmetric and finite off the diagonal."""


@dataclass(frozen=True)
class ReferenceTest(Record):
    """Agreement of routing with one reference in one band of layers.

    Attributes:
        plain: Mantel test.
        p_adjusted: of the plain test, by Holm over the references of the band.
        partial: controlling for the rivals; None where there are none, or it was refused.
        partial_p_adjusted: of the partial test, by Holm over the references of the band; None without it.
        left_out: languages that the reference does not know; the partial test may leave out more (see its ``n``).
    """

    plain: MantelTest
    p_adjusted: Number
    partial: MantelTest | None
    partial_p_adjusted: float | None
    left_out: tuple[str, ...]


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
    """

    layer: int
    p_value: Number
    p_adjusted: Number
    correlations: tuple[Number, ...]
    p_values: tuple[Number, ...]
    n: int
    n_permutations: int
    controls: tuple[str, ...]


@dataclass(frozen=True)
class LanguageStructure(Record):
    """How routing relates languages, and what that agrees with.

    Attributes:
        languages: full codes.
        layers: decoder layers.
        rivals: references that the partial tests hold still.
        bands: by name.
        matches: best layer by name of the reference.
        partial_matches: the same, controlling for the rivals.
        refused: tests that were not run, by name (``name`` or ``name, partial``), and why.
    """

    languages: tuple[str, ...]
    layers: tuple[int, ...]
    rivals: tuple[str, ...]
    bands: Mapping[str, BandStructure]
    matches: Mapping[str, LayerMatch]
    partial_matches: Mapping[str, LayerMatch]
    refused: Mapping[str, str]


def language_structure(
    distances: LayerDistances,
    references: Mapping[str, FloatArray],
    *,
    rivals: Sequence[str] | None = None,
    bands: Mapping[str, tuple[int, int]] | None = None,
    resampling: Resampling = MANTEL_RESAMPLING,
) -> LanguageStructure:
    """Build trees by band of layers, and test what routing agrees with.

    One set of permutations serves all layers and bands of a reference, which makes the search for the best layer an
    honest one. Read the warning of `mantel` before calling a partial correlation a cause.

    Args:
        distances: of all pairs of languages in every layer.
        references: name to ``[n, n]`` in the same order of languages; NaN where a language is unknown. A language is
            left out of the tests against references that do not know it.
        rivals: names of references to hold still in partial tests (never against themselves); by default
            ``token_overlap`` and ``script``, as far as they are given.
        bands: name to first and last decoder layer, inclusive; by default thirds, ``early``, ``middle`` and ``late``.
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
    edges = dict(bands) if bands is not None else _thirds(distances.layers)
    means = [stack[_inside(distances.layers, edge, name)].mean(axis=0) for name, edge in edges.items()]
    study = _Study(np.concatenate([stack, np.array(means)]), tuple(distances.languages), references, resampling)
    refused: dict[str, str] = {}
    plain = {name: found for name in references if (found := study.run(name, (), refused))}
    partial = {
        name: found
        for name in plain
        if (held := tuple(rival for rival in chosen if rival != name)) and (found := study.run(name, held, refused))
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
    """Choose the references to hold still; ValueError where references or rivals do not fit."""
    chosen = tuple(name for name in RIVALS if name in references) if rivals is None else tuple(rivals)
    wrong = [name for name, matrix in references.items() if np.shape(matrix) != shape]
    if wrong:
        raise ValueError(f"references {wrong} are not of the {shape[0]} languages; give [n_languages, n_languages]")
    if not set(chosen) <= set(references):
        raise ValueError(f"rivals {chosen}; expected some of the references {tuple(references)}")
    return chosen


@dataclass(frozen=True, eq=False)
class _Found:
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

    def run(self, name: str, controls: tuple[str, ...], refused: dict[str, str]) -> _Found | None:
        """Test one reference in every layer and band, or note why not."""
        wanted = [np.array(self.references[key], dtype=np.float64) for key in (name, *controls)]
        kept = np.flatnonzero(_known(wanted))
        left_out = tuple(code for place, code in enumerate(self.languages) if place not in set(kept.tolist()))
        title = f"{name}, partial" if controls else name
        if len(kept) < LEAST_LANGUAGES:
            refused[title] = (
                f"{len(kept)} of {len(self.languages)} languages are known; at least {LEAST_LANGUAGES} are needed for "
                "p-values that survive a correction"
            )
            return None
        window = np.ix_(kept, kept)
        y, *held = (matrix[window] for matrix in wanted)
        layers = self.stack[:, window[0], window[1]]
        null = permuted_correlations(layers, y, held, resampling=self.resampling)
        if np.isnan(null.observed).all():
            why = f"or determined by {', '.join(controls)}" if controls else "or routing is"
            refused[title] = f"the same distance between all {len(kept)} languages that are known, {why}"
            return None
        return _Found(null, controls, left_out)


def _known(matrices: Sequence[FloatArray]) -> npt.NDArray[np.bool_]:
    """Keep languages so that no distance among them is NaN, leaving out first those that lack most."""
    lacking = np.any([np.isnan(matrix) for matrix in matrices], axis=0)
    np.fill_diagonal(lacking, val=False)
    kept = np.ones(len(lacking), dtype=bool)
    while (counts := (lacking & kept).sum(axis=1) * kept).any():
        kept[np.argmax(counts)] = False
    return kept


def _thirds(layers: Sequence[int]) -> dict[str, tuple[int, int]]:
    parts = [part for part in np.array_split(np.asarray(layers), N_BANDS) if len(part)]
    names = ("early", "middle", "late") if len(parts) == N_BANDS else [f"layer {part[0]}" for part in parts]
    return {name: (int(part[0]), int(part[-1])) for name, part in zip(names, parts, strict=True)}


def _inside(layers: Sequence[int], edge: tuple[int, int], name: str) -> npt.NDArray[np.bool_]:
    chosen = (np.asarray(layers) >= edge[0]) & (np.asarray(layers) <= edge[1])
    if not chosen.any():
        raise RunError(
            f"band {name} is {edge[0]} to {edge[1]}; no routed layer lies in it: use {layers[0]} to {layers[-1]}"
        )
    return chosen


def _band_tests(plain: Mapping[str, _Found], partial: Mapping[str, _Found], position: int) -> dict[str, ReferenceTest]:
    tests = {name: found.test(position) for name, found in plain.items()}
    held = {name: found.test(position) for name, found in partial.items()}
    adjusted = _holm({name: test.p_value for name, test in tests.items()})
    held_adjusted = _holm({name: test.p_value for name, test in held.items()})
    return {
        name: ReferenceTest(test, adjusted[name], held.get(name), held_adjusted.get(name), plain[name].left_out)
        for name, test in tests.items()
    }


def _matches(found: Mapping[str, _Found], layers: Sequence[int]) -> dict[str, LayerMatch]:
    matches = {}
    for name, one in found.items():
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
