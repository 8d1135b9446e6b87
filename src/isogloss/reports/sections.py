"""What a report says of an analysis and of experts: each figure and table with its measure, n and interval level."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from isogloss.analysis import Estimate
from isogloss.reports.captions import interval_text
from isogloss.reports.controls import controls_section
from isogloss.reports.curves import (
    LinePlot,
    curve_blocks,
    curve_figure,
    curve_table,
    curves_of,
    highlighted,
    mean_curve,
    sampling,
)
from isogloss.reports.domains import domain_section
from isogloss.reports.figures import MAX_COLOURS, Section, Style, Table, language_styles
from isogloss.reports.maps import expert_map, language_map
from isogloss.reports.resources import resource_section
from isogloss.reports.rows import labels_text, range_figure, row_scale
from isogloss.reports.structure import structure_section
from isogloss.reports.tables import correlation_blocks, correlations_table, expert_table, layer_range
from isogloss.reports.text import label, number, sample_size, scalar, span, with_interval

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from isogloss.analysis import Analysis, ExpertTable, MiddleLayers
    from isogloss.reports.figures import Figure
    from isogloss.reports.maps import Grid

__all__ = ["analysis_sections", "expert_sections"]

Blocks = tuple["Figure | Table", ...]

_QUANTITIES = {
    "profile": "routing profiles (softmax of the router logits over all experts, mean over tokens)",
    "selection": "selection rates (share of tokens that chose each expert, scaled to sum to 1)",
}
_RULES = {
    "delta": ("difference of selection rates", "Selection rate minus the base's, means over items"),
    "share": ("share", "Share of an expert's use, among the languages listed, that falls to the language or languages"),
    "contrast": ("risk difference", "Token-pooled selection rate minus that of the contrasting texts"),
    "specificity": ("specificity", "Selection rate relative to the mean over languages"),
}


def _middle_text(middle: MiddleLayers | None) -> str:
    if middle is None:
        return ""
    between = "inclusive, between the two change points of the mean curve"
    bars = "; bars above the shading show where an edge falls over resamples" if middle.start_interval else ""
    edges = f"from {span(middle.start, middle.start_interval)} to {span(middle.end, middle.end_interval)}"
    return f"Shaded: the middle layers, {edges} {between}{bars}."


def _shape_text(middle: MiddleLayers | None) -> tuple[str, ...]:
    if middle is None:
        return ()
    verdict = "The mean curve over languages is not a U-shape."
    if middle.is_u_shape:
        verdict = "In the middle layers the mean curve over languages lies below the layers on both sides: a U-shape."
    depth = f" Outer layers minus middle layers: {with_interval(middle.depth)}." if middle.depth.is_known else ""
    return (f"{verdict}{depth}",)


def _ceiling_text(analysis: Analysis) -> str:
    values = [value for curve in analysis.divergence_ceiling.values() for value in curve]
    if not values:
        return ""
    return f"At these entropies the divergence can reach {number(min(values))} to {number(max(values))}."


def _divergence_section(analysis: Analysis, styles: Mapping[str, Style]) -> Section:
    curves, middle, pivot = curves_of(analysis, "divergence"), analysis.middle_layers, label(analysis.pivot)
    measure = f"Entropy-normalised Jensen–Shannon divergence between {_QUANTITIES[analysis.quantity]}"
    measure += "." if analysis.is_pooled else " of parallel items, mean over items."
    others = {code: curve for code, curve in curves_of(analysis, "shuffled").items() if code != analysis.pivot}
    noise, n = mean_curve(others.values()), sampling(analysis, curves)
    dashed = "Dashed: the same between items that are not translations of each other." if noise else ""
    order, few = "the middle layers" if middle else "all layers", len(curves) <= MAX_COLOURS
    coloured = "" if few else f"In colour: the three highest and the three lowest means over {order}."
    caption = " ".join(filter(None, (measure, n, coloured, _middle_text(middle), dashed, _ceiling_text(analysis))))
    unit = "divergence from the pivot"
    plot = LinePlot("divergence-curves", f"Divergence from {pivot} by layer", caption, unit, noise)
    plot = replace(plot, reference_text="items that are not translations")
    blocks: list[Figure | Table] = [curve_figure(plot, curves, styles, middle=middle)]
    if not few:
        framed = " Vertical lines: the edges of the middle layers." if middle else ""
        caption = f"{measure} Languages from the highest to the lowest mean over {order}.{framed} {n}"
        title = f"Divergence from {pivot}, every language"
        blocks.append(language_map(curves, title=title, caption=caption, unit=unit, middle=middle))
    listed = f"{measure.removesuffix('.')}; columns are decoder layers. {n}"
    blocks.append(curve_table(curves, "Divergence: all numbers", listed))
    lead = (
        f"How differently the model routes a text and its translation into {pivot}, the pivot: 0 where both are routed"
        " alike, and more the less the experts overlap."
    )
    missing = tuple(f"Not computed: {why.rstrip('.')}." for why in analysis.refused.values())
    paragraphs = (lead, *_shape_text(middle), *missing)
    return Section("divergence", "Divergence from the pivot", paragraphs, tuple(blocks) if curves else ())


def _middle_section(analysis: Analysis) -> Section | None:
    """Say where each language's own curve has its middle, beside that of the mean curve."""
    if not analysis.middle_by_language or not analysis.layers:
        return None
    ranked = dict(sorted(analysis.middle_by_language.items(), key=lambda pair: (pair[1].start, pair[1].end, pair[0])))
    settings, n_rows = analysis.resampling, len(ranked)
    if analysis.is_pooled:
        how = "No interval: pooled counts."
    else:
        lines = "B" if row_scale(n_rows).step > 1 else "Thin lines, and b"
        where = f"where an edge falls in {100 * settings.level:g} % of bootstrap resamples of items"
        how = f"{lines}rackets in the table: {where}, {settings.n_resamples:,} resamples."
    sizes = {middle.depth.n for middle in ranked.values()}
    n = f"{sample_size(sizes)} items. " if len(sizes) == 1 and not analysis.is_pooled else ""
    caption = (
        "From the first to the last layer between the two change points of each language's divergence from"
        f" {label(analysis.pivot)}. {n}{how}"
    )
    shaded = " Shaded: the middle layers of the mean curve." if analysis.middle_layers else ""
    figure = range_figure(
        ranked,
        analysis.layers,
        analysis.middle_layers,
        anchor="middle-ranges",
        title="Middle layers of every language",
        caption=f"{caption}{shaded}{labels_text(n_rows)}",
    )
    rows = tuple(
        (
            *(label(code), span(middle.start, middle.start_interval), span(middle.end, middle.end_interval)),
            *(scalar(middle.is_u_shape), with_interval(middle.depth), f"{middle.depth.n:,}"),
        )
        for code, middle in ranked.items()
    )
    header = ("language", "first layer", "last layer", "U-shape", "outer minus middle", "n")
    table = Table("Middle layers: all numbers", caption, header, rows, folded=True)
    lead = (
        f"{sum(middle.is_u_shape for middle in ranked.values())} of {n_rows} languages have a U-shape of their own. Two"
        " change points can be found in any curve; whether the layers between them lie lower than on both sides is a"
        " question of its own."
    )
    return Section("middle", "Middle layers by language", (lead,), (figure, table))


def _within_section(analysis: Analysis, styles: Mapping[str, Style]) -> Section | None:
    entropy, consistency = (curves_of(analysis, name) for name in ("entropy", "consistency"))
    of = "selection rates pooled over texts" if analysis.is_pooled else "the profile of each item, mean over items"
    top = f"The greatest possible is ln {analysis.n_experts} = {number(math.log(analysis.n_experts))}."
    chance = dict(zip(analysis.layers, analysis.consistency_chance, strict=False))
    dashed = " Dashed: sets drawn at random." if chance else ""
    measure = f"Mean Jaccard similarity of the expert sets chosen for two tokens of the same item.{dashed}"
    half = bool(entropy and consistency)
    plots = (
        LinePlot(
            "entropy-curves",
            "Routing entropy by layer",
            f"Entropy of {of}, in nats. {top} {sampling(analysis, entropy)}",
            "entropy, nats",
            half=half,
            from_zero=False,
        ),
        LinePlot(
            "consistency-curves",
            "Routing consistency by layer",
            f"{measure} {sampling(analysis, consistency)}",
            "Jaccard similarity",
            chance,
            "sets at random",
            half=half,
        ),
    )
    pairs = zip(plots, (entropy, consistency), strict=True)
    drawn = [curve_blocks(analysis, plot, curves, styles) for plot, curves in pairs if curves]
    if not drawn:
        return None
    lead = (
        "Entropy says over how many experts a language's tokens are spread; consistency says how alike the experts of"
        " two tokens of one text are."
    )
    figures, tables = zip(*drawn, strict=True)
    return Section("within", "Entropy and consistency", (lead,), (*figures, *tables))


def _correlation_section(analysis: Analysis) -> Section | None:
    blocks: list[Figure | Table] = []
    pivot = label(analysis.pivot)
    if analysis.accuracy:
        caption = (
            f"Correlation, over languages, of accuracy with divergence from {pivot}, mean over the layers of a band."
        )
        named = {f"{band}{layer_range(analysis.bands.get(band))}": each for band, each in analysis.accuracy.items()}
        title = "Accuracy and divergence by band"
        blocks.append(correlations_table(named, title=title, caption=caption, first="band"))
    if analysis.correlation:
        caption = (
            f"Pearson correlation, over languages, of benchmark accuracy with divergence from {pivot};"
            f" {sample_size(each.pearson.n for each in analysis.correlation)} languages; band: 95 % interval by"
            " Fisher's transformation."
        )
        titles = "Accuracy and divergence by layer", "Correlation: all numbers"
        blocks += correlation_blocks(
            analysis, analysis.correlation, anchor="correlation", titles=titles, caption=caption
        )
    if not blocks:
        return None
    lead = "Below zero: languages that are routed less like the pivot do worse. A correlation is not a cause."
    return Section("correlation", "Accuracy and divergence", (lead,), tuple(blocks))


def analysis_sections(analysis: Analysis) -> list[Section]:
    """Say what an analysis shows: divergence and its middle, and whatever else was computed."""
    middle = analysis.middle_layers
    inner = range(middle.start, middle.end + 1) if middle else analysis.layers
    styles = language_styles(highlighted(curves_of(analysis, "divergence"), inner), analysis.pivot)
    sections = (
        _divergence_section(analysis, styles),
        _middle_section(analysis),
        _within_section(analysis, styles),
        structure_section(analysis),
        resource_section(analysis),
        _correlation_section(analysis),
        controls_section(analysis),
        domain_section(analysis),
    )
    return [section for section in sections if section]


def _count(n: int) -> str:
    return f"{n:,} expert{'' if n == 1 else 's'}"


def _expert_texts(table: ExpertTable) -> Iterator[str]:
    chance, parameters = table.expected_by_chance, table.parameters
    expected = "how many to expect by chance is not known"
    if chance is not None:
        expected = f"{chance:.1f} expected by chance, under permuted labels"
    languages = parameters.get("languages") or ()
    even = ""
    if table.rule == "share" and languages:
        even = f" An expert that all {len(languages)} languages use alike has shares of {number(1 / len(languages))}."
    yield f"{_count(table.n)} found; {expected}.{even}"
    asked = [f"{name.replace('_', ' ')} {scalar(value)}" for name, value in parameters.items() if name != "layers"]
    if parameters.get("layers"):
        asked.append("layers {} to {}".format(*parameters["layers"]))
    if asked:
        yield f"Asked for: {'; '.join(asked)}."


def _expert_blocks(table: ExpertTable, anchor: str, grid: Grid) -> Blocks:
    if not table.experts:
        return ()
    rule, parameters = scalar(table.rule), table.parameters
    unit, measure = _RULES.get(rule, ("statistic", f"Statistic of the rule “{rule}”"))
    n = parameters.get("n_items")
    estimates = [Estimate(row.statistic, row.low, row.high, n) for row in table.experts]  # type: ignore[arg-type]
    caption = f"{measure}. {_count(table.n)}. {interval_text(estimates, parameters, pooled=False, unit='items')}"
    lines = " Vertical lines: the edges of the middle layers." if grid.middle else ""
    title = f"Experts by the {rule} rule"
    figure = expert_map(table.experts, grid, anchor=anchor, title=title, caption=f"{caption}{lines}", unit=unit)
    return figure, expert_table(table.experts, title=f"{title}: all numbers", caption=caption, unit=unit)


def expert_sections(tables: Sequence[ExpertTable], grid: Grid) -> list[Section]:
    """Say which experts each rule found, and how many it would find by chance: one section per rule."""
    sections = []
    for place, table in enumerate(tables, start=1):
        kind = table.parameters.get("kind")
        named = f"{scalar(kind)} experts".capitalize() if kind else "Experts"
        heading = f"{named} ({scalar(table.rule)} rule)"
        blocks = _expert_blocks(table, f"experts-{place}", grid)
        sections.append(Section(f"rule-{place}", heading, tuple(_expert_texts(table)), blocks))
    return sections
