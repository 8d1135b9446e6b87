"""The section on language structure: who is routed like whom, and which account of the languages agrees with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import isfinite
from statistics import fmean

import numpy as np

from isogloss.analysis import (
    Analysis,
    BandPairs,
    LanguageStructure,
    LanguageTree,
    LayerMatch,
    MantelTest,
    ReferenceTest,
)
from isogloss.reports.curves import LinePlot, curve_figure
from isogloss.reports.evidence import shows
from isogloss.reports.figures import (
    Dot,
    Figure,
    KeyEntry,
    RowPlot,
    Section,
    Style,
    Table,
    named_rows,
    offsets,
    ordered_styles,
    row_figure,
    scatter,
)
from isogloss.reports.maps import NAMED_COLUMNS, tree_figure
from isogloss.reports.palette import LIGHT
from isogloss.reports.text import (
    MISSING,
    distance_name,
    hover,
    label,
    layer_range,
    number,
    p_value,
    plain,
    sample_size,
    spread,
    with_interval,
    words,
)
from isogloss.statistics import Estimate

MOST_PAIRS = 2000
"""Rows of the table of pairs: all pairs of 63 languages."""

_FEWEST_DRAWN = 3
_OPEN_SIGNS = {"●": "○", "■": "□", "◆": "◇", "▲": "△"}
_BY = {
    "items": "mean over parallel items of the divergence of each item",
    "means": "divergence of the two languages' mean distributions over items",
}


def _measure(pairs: BandPairs, *, pooled: bool) -> str:
    of = "selection rates pooled over all texts" if pooled else _BY[pairs.by]
    return f"Entropy-normalised Jensen–Shannon divergence of every two languages ({of}), mean over layers"


def _tree_text(tree: LanguageTree) -> str:
    fit = number(tree.cophenetic) if isfinite(tree.cophenetic) else "not defined, all distances being equal"
    return (
        f" Right: hierarchical clustering ({tree.method} linkage), leaves in the order of the rows, its axis the"
        f" divergence at which they join; cophenetic correlation {fit}."
    )


def _trees(analysis: Analysis, pairs: BandPairs) -> Iterator[Figure]:
    n, bands = len(pairs.languages), analysis.structure.bands if analysis.structure else {}
    for place, band in enumerate(pairs.bands if n >= _FEWEST_DRAWN else (), start=1):
        tree = bands[band].tree if band in bands else None
        caption = (
            f"{_measure(pairs, pooled=analysis.is_pooled)}. n = {n} languages; no interval. Dark: routed alike; each"
            f" figure has its own scale, from the least to the greatest value.{_tree_text(tree) if tree else ''}"
            f"{' The columns are in the order of the rows.' if n > NAMED_COLUMNS else ''}"
        )
        title = f"Divergence between languages: {plain(band)}{layer_range(analysis.bands.get(band))}"
        yield tree_figure(pairs, band, tree, anchor=f"tree-{place}", title=title, caption=caption)


def _pair_table(pairs: BandPairs, *, pooled: bool) -> Table:
    """List every pair, nearest first by the mean over bands; the first 2,000 of many."""
    codes, rows = pairs.languages, []
    matrices = [matrix.tolist() for matrix in pairs.bands.values()]
    for row, column in zip(*np.triu_indices(len(codes), 1), strict=True):
        values = [matrix[row][column] for matrix in matrices]
        known = [value for value in values if isfinite(value)]
        rows.append((fmean(known) if known else 2.0, codes[row], codes[column], values))
    rows.sort(key=lambda pair: pair[:3])
    caption = (
        f"{_measure(pairs, pooled=pooled)}. n = {len(codes)} languages, {len(rows):,} pairs, the nearest first; no"
        " interval."
    )
    if len(rows) > MOST_PAIRS:
        caption += f" The {MOST_PAIRS:,} nearest are listed; isogloss analyze --json prints all."
    listed = [(label(one), label(other), *map(number, values)) for _, one, other, values in rows[:MOST_PAIRS]]
    return Table("Pairs: all numbers", caption, ("language", "other", *map(plain, pairs.bands)), listed, {0, 1})


def _tree_table(structure: LanguageStructure) -> Table:
    rows = []
    for band, each in structure.bands.items():
        tree, n = each.tree, len(each.tree.languages)
        for step, (one, other, height, size) in enumerate(tree.linkage.tolist(), start=1):
            ends = [label(tree.languages[int(end)]) if end < n else f"join {int(end) - n + 1}" for end in (one, other)]
            rows.append((plain(band), str(step), *ends, number(height), str(int(size))))
    caption = "Each join of two languages, or of earlier joins, and the divergence at which it happens."
    header = ("band", "join", "one", "other", "joined at", "languages")
    return Table("Trees: all joins", caption, header, rows, {0, 2, 3})


def _tests(structure: LanguageStructure) -> dict[str, ReferenceTest]:
    """Give the tests of all bands under their headings."""
    return {
        f"{plain(band)}: {words(name)}": test
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
    rows = [
        (
            heading,
            *_test_cells(test.plain, test.p_adjusted),
            *_test_cells(test.partial, test.partial_p_adjusted),
            str(len(test.left_out)),
        )
        for heading, test in _tests(structure).items()
    ]
    caption = (
        "Mantel correlation over all pairs of languages of routing divergence with another distance; n: languages."
        " Intervals: 95 % jackknife over languages, too narrow where languages come in families. p: one-sided, by"
        " permutation; Holm: adjusted over the references of the band. Partial: controlling for"
        f" {', '.join(map(words, structure.rivals)) or 'the rivals'}, but never for the reference itself. Left out:"
        " languages that the reference does not know."
    )
    each = ("n", "r", "p", "Holm")
    header = ("band: reference", *each, *(f"partial\n{name}" for name in each), "left\nout")
    return Table("Routing against other distances", caption, header, rows)


def _forest(structure: LanguageStructure) -> Figure:
    """Draw the correlation of routing with each distance between languages, band by band; filled where it is shown."""
    bands = structure.bands
    names = list(dict.fromkeys(name for each in bands.values() for name in each.tests))
    styles: dict[str, Style] = {}
    dots = []
    looks = ordered_styles(bands).values()
    for (band, each), style, offset in zip(bands.items(), looks, offsets(len(bands)), strict=True):
        firm, open_ = plain(band), f"{plain(band)}, no evidence"
        outline = {"line": {"width": 1.8, "color": style.colour}}
        styles[firm] = replace(style, size=9, marker=outline)
        sign, hollow = _OPEN_SIGNS.get(style.sign, style.sign), {**outline, "color": LIGHT["paper"]}
        styles[open_] = replace(style, size=9, sign=sign, marker=hollow)
        for name, test in each.tests.items():
            correlation = test.plain.correlation
            group = firm if shows(correlation, test.p_adjusted) else open_
            text = hover(
                distance_name(name),
                f"{firm}: Mantel r {with_interval(correlation)}",
                f"p {p_value(test.p_adjusted)} by Holm, n = {correlation.n:,} languages",
            )
            dots.append(Dot(group, correlation, names.index(name) + offset, text))
    caption = (
        "Mantel correlation over all pairs of languages of routing divergence with another distance. Filled: evidence,"
        " an interval beside zero and p below 0.05 by Holm over the distances of the band; open: no evidence."
        " Intervals: 95 % jackknife over languages."
    )
    title, unit = "What routing goes with, by band of layers", "Mantel r with routing divergence"
    rows = named_rows(map(distance_name, names))
    return row_figure(RowPlot("references", title, caption, unit, rows, dots, styles, height=36))


def _test_details(structure: LanguageStructure) -> Table:
    """List how far one language moves each test, and what it rests on."""
    rows = []
    for heading, tests in _tests(structure).items():
        for kind, test in (("plain", tests.plain), ("partial", tests.partial)):
            if test is not None:
                how = f"{test.n_permutations:,}", f"{test.method}, {test.alternative}"
                lists = ", ".join(map(words, test.controls)), ", ".join(map(plain, tests.left_out))
                rows.append(
                    (f"{heading}, {kind}", spread(test.leave_one_out), *how, *(each or MISSING for each in lists))
                )
    header = ("band: reference", "r, any one language left out", "permutations", "test", "controlled for", "left out")
    caption = (
        "r lies between these ends when any one language is left out; a partial test may leave out more languages than"
        " its reference does (see its n)."
    )
    return Table("Routing against other distances: details", caption, header, rows, {0, 3, 4, 5})


def _match_figure(plot: LinePlot, matches: Mapping[str, LayerMatch]) -> Figure:
    """Draw the correlation in every layer, and ring the best with the p-value that is corrected for the search."""
    figure, key, rings = curve_figure(plot), [], []
    for name, match in matches.items():
        group, p = words(name), p_value(match.p_value)
        style, best = plot.styles[group], plot.curves[group][match.layer].value
        text = hover(group, f"best in layer {match.layer}: {number(best)}", f"p {p}, corrected for the search")
        marker = {"symbol": "circle-open", "size": 15, "color": style.colour, "line": {"width": 2.4}}
        rings.append(scatter(group, [match.layer], [best], [text], mode="markers", marker=marker))
        key.append(KeyEntry(f"{group} (layer {match.layer}, p {p})", style.sign, style.colour, group))
    return replace(figure, data=[*figure.data, *rings], key=key)


def _match_figures(structure: LanguageStructure) -> Iterator[Figure]:
    parts = (
        ("matches", "Agreement with other distances by layer", ""),
        ("partial-matches", "Agreement by layer, controlling for rivals", " Partial: controlling for the rivals."),
    )
    both = structure.matches, structure.partial_matches
    styles = ordered_styles(map(words, {**both[0], **both[1]}))
    for (anchor, title, partial), matches in zip(parts, both, strict=True):
        caption = (
            "Mantel correlation over all pairs of languages of routing divergence with each distance;"
            f" {sample_size(match.n for match in matches.values())} languages; no interval.{partial} Ringed, and in the"
            " key: the best layer, and its p by permutation, corrected for the search over all layers."
        )
        curves = {
            words(name): {
                at: Estimate.without_interval(value, match.n)
                for at, value in zip(structure.layers, match.correlations, strict=False)
            }
            for name, match in matches.items()
        }
        if matches:
            plot = LinePlot(anchor, title, caption, "Mantel r", curves, styles, half=True, axis={})
            yield replace(_match_figure(plot, matches), half=all(both))


def _match_table(structure: LanguageStructure) -> Table:
    rows = []
    for kind, matches in (("plain", structure.matches), ("partial", structure.partial_matches)):
        for name, match in matches.items():
            rivals = ", ".join(map(words, match.controls))
            heading = f"{words(name)}, {kind}{f' ({rivals})' if rivals else ''}"
            best = f"layer {match.layer}\np {p_value(match.p_value)}\nHolm {p_value(match.p_adjusted)}"
            pairs = zip(match.correlations, match.p_values, strict=True)
            cells = (f"{number(value)}\np {p_value(p)}" for value, p in pairs)
            rows.append((heading, f"{match.n}\n{match.n_permutations:,}", best, *cells))
    caption = (
        "Mantel r in every decoder layer, and its p by permutation, corrected for the search over all layers; Holm:"
        " adjusted over the references besides. n: languages, and permutations."
    )
    header = ("reference", "n", "best", *map(str, structure.layers))
    return Table("Agreement by layer: all numbers", caption, header, rows)


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
    reasons: dict[str, list[str]] = {}
    for name, why in structure.refused.items() if structure else ():
        reasons.setdefault(plain(why).rstrip("."), []).append(words(name))
    yield from (f"Not tested: {'; '.join(names)}: {why}." for why, names in reasons.items())


def structure_section(analysis: Analysis) -> Section | None:
    """Describe which languages are routed alike, band by band, and what that agrees with; None without pairs."""
    pairs, structure = analysis.pairs, analysis.structure
    if pairs is None or not pairs.bands:
        return None
    blocks: list[Figure | Table] = [*_trees(analysis, pairs)]
    if structure and structure.bands:
        blocks += [_forest(structure)] if _tests(structure) else []
        blocks += _match_figures(structure)
        blocks += [_test_table(structure), _test_details(structure)] if _tests(structure) else []
        blocks += [table for table in (_match_table(structure), _tree_table(structure)) if table.rows]
    blocks.append(_pair_table(pairs, pooled=analysis.is_pooled))
    return Section("structure", "Language structure", list(_texts(pairs, structure)), blocks)
