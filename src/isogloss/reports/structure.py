"""The section on language structure: who is routed like whom, and which account of the languages agrees with it."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

from isogloss.analysis import Estimate
from isogloss.reports.curves import LinePlot, curve_figure, scatter
from isogloss.reports.figures import Figure, KeyEntry, Section, Table, ordered_styles
from isogloss.reports.maps import tree_figure
from isogloss.reports.rows import labels_text
from isogloss.reports.tables import layer_range
from isogloss.reports.text import MISSING, label, number, p_value, plain, plot_text, sample_size, spread, with_interval

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from isogloss.analysis import Analysis, BandPairs, LanguageStructure, LanguageTree, MantelTest
    from isogloss.analysis.structure import LayerMatch, ReferenceTest

__all__ = ["MOST_PAIRS", "structure_section"]

MOST_PAIRS = 2000
"""Rows of the table of pairs: all pairs of 63 languages."""

_FEWEST_DRAWN = 3
_NAN = float("nan")
_BY = {
    "items": "mean over parallel items of the divergence of each item",
    "means": "divergence of the two languages' mean distributions over items",
}
_KINDS = {"matches": "plain", "partial_matches": "partial"}


def _words(name: str) -> str:
    """Write the name of a reference as words, such as ``token overlap``."""
    return plain(name).replace("_", " ")


def _measure(pairs: BandPairs, *, pooled: bool) -> str:
    of = "selection rates pooled over all texts" if pooled else _BY[pairs.by]
    return f"Entropy-normalised Jensen–Shannon divergence of every two languages ({of}), mean over layers"


def _tree_text(tree: LanguageTree) -> str:
    fit = number(tree.cophenetic) if np.isfinite(tree.cophenetic) else "not defined, all distances being equal"
    return (
        f" Right: hierarchical clustering ({tree.method} linkage), leaves in the order of the rows, its axis the"
        f" divergence at which they join; cophenetic correlation {fit}."
    )


def _trees(analysis: Analysis, pairs: BandPairs) -> Iterator[Figure]:
    n, bands = len(pairs.languages), analysis.structure.bands if analysis.structure else {}
    if n < _FEWEST_DRAWN:
        return
    for place, (band, distances) in enumerate(pairs.bands.items(), start=1):
        tree = bands[band].tree if band in bands else None
        caption = (
            f"{_measure(pairs, pooled=analysis.is_pooled)}. n = {n} languages; no interval. Dark: routed alike; each"
            f" figure has its own scale, from the least to the greatest value.{_tree_text(tree) if tree else ''}"
            f"{labels_text(n)}"
        )
        title = f"Divergence between languages: {plain(band)}{layer_range(analysis.bands.get(band))}"
        yield tree_figure(pairs.languages, distances, tree, anchor=f"tree-{place}", title=title, caption=caption)


def _pair_table(pairs: BandPairs, *, pooled: bool) -> Table:
    """List every pair, nearest first by the mean over bands; the first 2,000 of many."""
    codes, rows = pairs.languages, []
    matrices = [matrix.tolist() for matrix in pairs.bands.values()]
    for row, column in zip(*np.triu_indices(len(codes), 1), strict=True):
        values = [matrix[row][column] for matrix in matrices]
        known = [value for value in values if np.isfinite(value)]
        rows.append((fmean(known) if known else 2.0, codes[row], codes[column], values))
    rows.sort(key=lambda pair: pair[:3])
    caption = (
        f"{_measure(pairs, pooled=pooled)}. n = {len(codes)} languages, {len(rows):,} pairs, the nearest first; no"
        " interval."
    )
    if len(rows) > MOST_PAIRS:
        caption += f" The {MOST_PAIRS:,} nearest are listed; isogloss analyze --json prints all."
    listed = tuple((label(one), label(other), *map(number, values)) for _, one, other, values in rows[:MOST_PAIRS])
    header = ("language", "other", *map(plain, pairs.bands))
    return Table("Pairs: all numbers", caption, header, listed, text_columns=frozenset({0, 1}), folded=True)


def _tree_table(structure: LanguageStructure) -> Table:
    rows = []
    for band, each in structure.bands.items():
        tree, n = each.tree, len(each.tree.languages)
        for step, (one, other, height, size) in enumerate(tree.linkage.tolist(), start=1):
            ends = [label(tree.languages[int(end)]) if end < n else f"join {int(end) - n + 1}" for end in (one, other)]
            rows.append((plain(band), str(step), *ends, number(height), str(int(size))))
    caption = "Each join of two languages, or of earlier joins, and the divergence at which it happens."
    header = ("band", "join", "one", "other", "joined at", "languages")
    return Table("Trees: all joins", caption, header, tuple(rows), text_columns=frozenset({0, 2, 3}), folded=True)


def _tests(structure: LanguageStructure) -> dict[str, ReferenceTest]:
    """Give the tests of all bands under their headings."""
    return {
        f"{plain(band)}: {_words(name)}": test
        for band, each in structure.bands.items()
        for name, test in each.tests.items()
    }


def _test_cells(test: MantelTest | None, adjusted: float | None) -> tuple[str, ...]:
    """Write one Mantel test: n, r with its interval, p, and p by Holm."""
    if test is None:
        return (MISSING,) * 4
    return f"{test.correlation.n:,}", with_interval(test.correlation), p_value(test.p_value), p_value(adjusted)


def _test_table(structure: LanguageStructure) -> Table:
    """List the tests with what a reader asks first."""
    rows = tuple(
        (
            heading,
            *_test_cells(test.plain, test.p_adjusted),
            *_test_cells(test.partial, test.partial_p_adjusted),
            str(len(test.left_out)),
        )
        for heading, test in _tests(structure).items()
    )
    caption = (
        "Mantel correlation over all pairs of languages of routing divergence with another distance; n: languages."
        " Intervals: 95 % jackknife over languages, too narrow where languages come in families. p: one-sided, by"
        " permutation; Holm: adjusted over the references of the band. Partial: controlling for"
        f" {', '.join(map(_words, structure.rivals)) or 'the rivals'}, but never for the reference itself. Left out:"
        " languages that the reference does not know."
    )
    each = ("n", "r", "p", "Holm")
    header = ("band: reference", *each, *(f"partial\n{name}" for name in each), "left\nout")
    return Table("Routing against other distances", caption, header, rows)


def _test_details(structure: LanguageStructure) -> Table:
    """List how far one language moves each test, and what it rests on."""
    rows = []
    for heading, tests in _tests(structure).items():
        for kind, test in (("plain", tests.plain), ("partial", tests.partial)):
            if test is not None:
                lists = (", ".join(map(_words, test.controls)), ", ".join(map(plain, tests.left_out)))
                how = f"{test.n_permutations:,}", f"{test.method}, {test.alternative}"
                rows.append((f"{heading}, {kind}", spread(test.leave_one_out), *how, *(each or "–" for each in lists)))
    header = ("band: reference", "r, any one language left out", "permutations", "test", "controlled for", "left out")
    caption = (
        "r lies between these ends when any one language is left out; a partial test may leave out more languages than"
        " its reference does (see its n)."
    )
    words = frozenset({0, 3, 4, 5})
    return Table("Routing against other distances: details", caption, header, tuple(rows), words, folded=True)


def _match_figure(plot: LinePlot, structure: LanguageStructure, matches: Mapping[str, LayerMatch]) -> Figure:
    """Draw the correlation in every layer, and ring the best with the p-value that is corrected for the search."""
    curves = {
        _words(name): {
            at: Estimate(value, _NAN, _NAN, match.n)
            for at, value in zip(structure.layers, match.correlations, strict=False)
        }
        for name, match in matches.items()
    }
    styles = ordered_styles(map(_words, dict.fromkeys([*structure.matches, *structure.partial_matches])))
    figure, key, rings = curve_figure(plot, curves, styles), [], []
    for name, match in matches.items():
        group, p = _words(name), p_value(match.p_value)
        style, best = styles[group], curves[group][match.layer].value
        hover = f"<b>{plot_text(group)}</b><br>best in layer {match.layer}: {number(best)}<br>p {p}"
        marker = {"symbol": "circle-open", "size": 15, "color": style.colour, "line": {"width": 2.4}}
        told = [f"{hover}, corrected for the search"]
        rings.append(scatter(group, [match.layer], [best], told, mode="markers", marker=marker))
        key.append(KeyEntry(f"{group} (layer {match.layer}, p {p})", style.sign, style.colour, group))
    return replace(figure, data=[*figure.data, *rings], key=tuple(key))


def _match_figures(structure: LanguageStructure) -> Iterator[Figure]:
    parts = (
        ("matches", "Agreement with other distances by layer", ""),
        ("partial-matches", "Agreement by layer, controlling for rivals", " Partial: controlling for the rivals."),
    )
    half = bool(structure.matches and structure.partial_matches)
    for (anchor, title, held), matches in zip(parts, (structure.matches, structure.partial_matches), strict=True):
        caption = (
            "Mantel correlation over all pairs of languages of routing divergence with each distance;"
            f" {sample_size(match.n for match in matches.values())} languages; no interval.{held} Ringed, and in the"
            " key: the best layer, and its p by permutation, corrected for the search over all layers."
        )
        if matches:
            plot = LinePlot(anchor, title, caption, "Mantel r", half=True, from_zero=False)
            yield replace(_match_figure(plot, structure, matches), half=half)


def _match_table(structure: LanguageStructure) -> Table:
    rows = []
    for part, kind in _KINDS.items():
        for name, match in getattr(structure, part).items():
            held = ", ".join(map(_words, match.controls))
            heading = f"{_words(name)}, {kind}{f' ({held})' if held else ''}"
            best = f"layer {match.layer}\np {p_value(match.p_value)}\nHolm {p_value(match.p_adjusted)}"
            pairs = zip(match.correlations, match.p_values, strict=True)
            cells = (f"{number(value)}\np {p_value(p)}" for value, p in pairs)
            rows.append((heading, f"{match.n}\n{match.n_permutations:,}", best, *cells))
    caption = (
        "Mantel r in every decoder layer, and its p by permutation, corrected for the search over all layers; Holm:"
        " adjusted over the references besides. n: languages, and permutations."
    )
    header = ("reference", "n", "best", *map(str, structure.layers))
    return Table("Agreement by layer: all numbers", caption, header, tuple(rows), folded=True)


def _refusals(refused: Mapping[str, str]) -> Iterator[str]:
    """Say what was not tested, once for each reason."""
    reasons: dict[str, list[str]] = {}
    for name, why in refused.items():
        reasons.setdefault(plain(why).rstrip("."), []).append(_words(name))
    yield from (f"Not tested: {'; '.join(names)}: {why}." for why, names in reasons.items())


def _texts(pairs: BandPairs, structure: LanguageStructure | None) -> Iterator[str]:
    yield (
        "Languages that are routed alike stand side by side, and the tree joins them early. A tree is drawn whatever"
        " the distances are; the cophenetic correlation says how well it fits them."
    )
    if structure and structure.matches:
        yield (
            "Agreement with genealogy, typology or place is no cause: these distances go together, and controlling"
            " for rivals takes away only their linear part."
        )
    if len(pairs.languages) < _FEWEST_DRAWN:
        yield "With fewer than three languages there is no tree to draw."
    yield from _refusals(structure.refused if structure else {})


def structure_section(analysis: Analysis) -> Section | None:
    """Say which languages are routed alike, band by band, and what that agrees with; None without pairs."""
    pairs, structure = analysis.pairs, analysis.structure
    if pairs is None or not pairs.bands:
        return None
    blocks: list[Figure | Table] = [*_trees(analysis, pairs)]
    if structure and structure.bands:
        tests = [_test_table(structure), _test_details(structure)] if _tests(structure) else []
        blocks += [*tests[:1], *_match_figures(structure), *tests[1:]]
        blocks += [table for table in (_match_table(structure), _tree_table(structure)) if table.rows]
    blocks.append(_pair_table(pairs, pooled=analysis.is_pooled))
    return Section("structure", "Language structure", tuple(_texts(pairs, structure)), tuple(blocks))
