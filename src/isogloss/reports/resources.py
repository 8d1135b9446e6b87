"""The section on resources: how many experts are a language's own, how many it shares, and how few carry its tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from isogloss.analysis import Analysis, ResourceRule
from isogloss.reports.curves import correlations_table
from isogloss.reports.figures import (
    Dot,
    RowPlot,
    Section,
    Table,
    language_rows,
    offsets,
    ordered_styles,
    row_figure,
    row_scale,
    translucent,
)
from isogloss.reports.text import (
    cell,
    hover,
    interval_text,
    label,
    layer_range,
    number,
    plain,
    scalar,
    with_interval,
    words,
)
from isogloss.statistics import Estimate

Bands = dict[str, dict[str, Estimate]]

_COLUMNS = {
    "coverage": ("Experts that carry most selections", "experts per layer"),
    "exclusive": ("Experts of its own", "exclusive experts"),
    "common": ("Experts in common", "common experts"),
    "exclusive_load": ("Load on its own experts", "share of selections"),
    "common_load": ("Load on common experts", "share of selections"),
    "consistency": ("Consistency above chance", "Jaccard similarity above random sets"),
}


def _meaning(name: str, rule: ResourceRule) -> str:
    """Explain what a column counts, with the cuts of the rule."""
    exclusive, common, top = (scalar(cut) for cut in (rule.exclusive_threshold, rule.common_threshold, rule.top))
    return {
        "coverage": f"Fewest experts that carry {100 * rule.coverage:g} % of a language's selections, mean over the"
        " layers of a band.",
        "exclusive": f"Experts of which the language has a share above {exclusive}, summed over the layers of a band.",
        "common": f"Experts among its {top} most chosen of which no language has a share of {common} or more, summed.",
        "exclusive_load": "Share of the language's selections that fall on its exclusive experts.",
        "common_load": "Share of the language's selections that fall on the common experts that it keeps.",
        "consistency": "Mean Jaccard similarity of the sets of two tokens of a text, minus that of random sets.",
    }[name]


def _order(bands: Bands) -> list[str]:
    """Order languages from the one with the greatest mean over bands, which is on top."""

    def mean(code: str) -> float:
        values = [points[code].value for points in bands.values() if code in points and points[code].is_known]
        return fmean(values) if values else 0.0

    return sorted({code for points in bands.values() for code in points}, key=lambda code: (-mean(code), code))


def _figure(name: str, bands: Bands, order: Sequence[str], caption: str) -> RowPlot:
    """Show one dot with its interval per language and band."""
    title, unit = _COLUMNS[name]
    size, bar = (5, 1.0) if row_scale(len(order)).is_crowded else (7, 1.6)
    styles = {
        band: replace(style, size=size, bar=bar, bar_colour=translucent(style.colour, 0.5))
        for band, style in ordered_styles(bands).items()
    }
    dots = [
        Dot(band, point, row + offset, hover(label(code), f"{band}: {with_interval(point)}", f"n = {point.n:,}"))
        for offset, (band, points) in zip(offsets(len(bands)), bands.items(), strict=True)
        for row, code in enumerate(order)
        if (point := points.get(code))
    ]
    anchor, rows = f"resource-{name.replace('_', '-')}", language_rows(order)
    return RowPlot(anchor, title, caption, unit, rows, dots, styles, {"rangemode": "tozero", "nticks": 6})


def _related(analysis: Analysis) -> Iterator[Table]:
    for measure, bands in analysis.related.items():
        rows = {
            f"{band}: {column.replace('_', ' ')}": correlation
            for band, columns in bands.items()
            for column, correlation in columns.items()
        }
        caption = f"Correlation, over languages, of the columns above with {plain(measure)}, by band of layers."
        if rows:
            title = f"What goes with {plain(measure)}"
            yield correlations_table(rows, title=title, caption=caption, first="band: column")


def _texts(analysis: Analysis, rule: ResourceRule, bands: Mapping[str, tuple[int, int]]) -> Iterator[str]:
    n = len(rule.languages)
    yield (
        "An expert's share for a language is the part of its use, per token, that falls to that language; all of it is"
        f" relative to the languages listed. An expert that all {n} use alike has shares of {number(1 / n)}."
    )
    if bands:
        named = ", ".join(f"{plain(name)}{layer_range(ends)}" for name, ends in bands.items())
        yield f"Bands of layers: {named}. Languages are in one order in all figures."
    if not analysis.is_pooled:
        yield (
            "A resample adds its noise to that of the data, which moves counts to one side; where all resamples lie"
            " beside the value, its interval goes up to it."
        )
    for why in analysis.resources.refused.values() if analysis.resources else ():
        if why not in analysis.refused.values():
            yield f"Not computed: {plain(why).rstrip('.')}."
    if analysis.related:
        n = sum(len(columns) for bands in analysis.related.values() for columns in bands.values())
        yield f"The {n} correlations with measures of the languages are not corrected for their number."


def resource_section(analysis: Analysis) -> Section | None:
    """Describe how the languages share the experts, band by band, and what goes with it; None without resources."""
    resources = analysis.resources
    if resources is None or not resources.rows:
        return None
    columns: dict[str, Bands] = {}
    for name in _COLUMNS:
        for row in resources.rows:
            if (point := getattr(row, name)) is not None:
                columns.setdefault(name, {}).setdefault(row.band, {})[row.language] = point
    order = _order(next(iter(columns.values())))

    def drawn(bands: Sequence[Bands]) -> str:
        points = [point for each in bands for points in each.values() for point in points.values()]
        return interval_text(points, vars(resources.resampling), pooled=analysis.is_pooled, unit="items")

    plots = [
        _figure(name, bands, order, f"{_meaning(name, resources.rule)} {drawn([bands])}")
        for name, bands in columns.items()
    ]
    figures = [row_figure(replace(plot, half=len(plots) > 1)) for plot in plots]
    rows = [
        (label(row.language), plain(row.band), *(cell(getattr(row, name)) for name in columns))
        for row in sorted(resources.rows, key=lambda row: row.language)  # bands stay in the order of depth
    ]
    caption = f"One row per language and band of layers. {drawn(list(columns.values()))}"
    table = Table("Resources: all numbers", caption, ("language", "band", *map(words, columns)), rows, {0, 1})
    texts = list(_texts(analysis, resources.rule, resources.bands))
    return Section("resources", "Resources", texts, [*figures, table, *_related(analysis)])
