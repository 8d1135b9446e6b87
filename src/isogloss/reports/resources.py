"""The section on resources: how many experts are a language's own, how many it shares, and how few carry its tokens."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING

from isogloss.reports.captions import interval_text
from isogloss.reports.figures import Section, Table
from isogloss.reports.rows import dot_figure, labels_text
from isogloss.reports.tables import correlations_table, layer_range
from isogloss.reports.text import label, number, plain, scalar, with_interval

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from isogloss.analysis import Analysis, Estimate, ResourceRule, ResourceTable
    from isogloss.reports.figures import Figure

__all__ = ["resource_section"]

_COLUMNS = {
    "coverage": ("Experts that carry most selections", "experts per layer"),
    "exclusive": ("Experts of its own", "exclusive experts"),
    "common": ("Experts in common", "common experts"),
    "exclusive_load": ("Load on its own experts", "share of selections"),
    "common_load": ("Load on common experts", "share of selections"),
    "consistency": ("Consistency above chance", "Jaccard similarity above random sets"),
}


def _meaning(name: str, rule: ResourceRule) -> str:
    """Say what a column counts, with the cuts of the rule."""
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


def _columns(resources: ResourceTable) -> dict[str, dict[str, dict[str, Estimate]]]:
    """Return the columns that were computed: by measure, band and language."""
    columns: dict[str, dict[str, dict[str, Estimate]]] = {}
    for name in _COLUMNS:
        for row in resources.rows:
            if (point := getattr(row, name)) is not None:
                columns.setdefault(name, {}).setdefault(row.band, {})[row.language] = point
    return columns


def _order(bands: Mapping[str, Mapping[str, Estimate]]) -> list[str]:
    """Order languages from the one with the greatest mean over bands, which is on top."""
    values: dict[str, list[float]] = {}
    for points in bands.values():
        for code, point in points.items():
            values.setdefault(code, []).extend([point.value] if point.is_known else [])
    return sorted(values, key=lambda code: (-fmean(values[code]) if values[code] else 0.0, code))


def _sampling(points: Iterable[Estimate], analysis: Analysis, resources: ResourceTable) -> str:
    return interval_text(points, vars(resources.resampling), pooled=analysis.is_pooled, unit="items")


def _figures(analysis: Analysis, resources: ResourceTable) -> Iterator[Figure]:
    columns = _columns(resources)
    order = _order(next(iter(columns.values()), {}))
    for name, bands in columns.items():
        (title, unit), points = _COLUMNS[name], [point for band in bands.values() for point in band.values()]
        meaning, sampling = _meaning(name, resources.rule), _sampling(points, analysis, resources)
        texts = (title, f"{meaning} {sampling}{labels_text(len(order))}", unit)
        anchor = f"resource-{name.replace('_', '-')}"
        yield dot_figure(bands, order, anchor=anchor, texts=texts, half=len(columns) > 1)


def _table(analysis: Analysis, resources: ResourceTable) -> Table:
    columns = _columns(resources)
    rows, points = [], []
    for row in sorted(resources.rows, key=lambda row: row.language):
        each = [getattr(row, name) for name in columns]
        points += each
        cells = (with_interval(point).replace(" [", "\n[") for point in each)
        rows.append((label(row.language), plain(row.band), *cells))
    header = ("language", "band", *(name.replace("_", " ") for name in columns))
    caption = f"One row per language and band of layers. {_sampling(points, analysis, resources)}"
    return Table("Resources: all numbers", caption, header, tuple(rows), text_columns=frozenset({0, 1}), folded=True)


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


def _texts(analysis: Analysis, resources: ResourceTable) -> Iterator[str]:
    n = len(resources.rule.languages)
    yield (
        "An expert's share for a language is the part of its use, per token, that falls to that language; all of it is"
        f" relative to the languages listed. An expert that all {n} use alike has shares of {number(1 / n)}."
    )
    named = ", ".join(f"{plain(name)}{layer_range(ends)}" for name, ends in resources.bands.items())
    if named:
        yield f"Bands of layers: {named}. Languages are in one order in all figures."
    if not analysis.is_pooled:
        yield "A resample adds its noise to that of the data, so that intervals of counts may lie beside the value."
    for why in resources.refused.values():
        if why not in analysis.refused.values():
            yield f"Not computed: {plain(why).rstrip('.')}."
    if analysis.related:
        n = sum(len(columns) for bands in analysis.related.values() for columns in bands.values())
        yield f"The {n} correlations with measures of the languages are not corrected for their number."


def resource_section(analysis: Analysis) -> Section | None:
    """Say how the languages share the experts, band by band, and what goes with it; None without resources."""
    resources = analysis.resources
    if resources is None or not resources.rows:
        return None
    blocks: tuple[Figure | Table, ...] = (
        *_figures(analysis, resources),
        _table(analysis, resources),
        *_related(analysis),
    )
    return Section("resources", "Resources", tuple(_texts(analysis, resources)), blocks)
