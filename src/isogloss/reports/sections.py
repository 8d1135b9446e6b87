"""The sections on an analysis: divergence and its middle layers, entropy and consistency, accuracy, and the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import log, nan
from typing import Any

from isogloss.analysis import Analysis, MiddleLayers
from isogloss.reports.controls import controls_section
from isogloss.reports.curves import (
    FROM_ZERO,
    LinePlot,
    correlation_blocks,
    correlations_table,
    curve_figure,
    curve_table,
    curves_of,
    curves_text,
    highlighted,
    mean_curve,
    mean_divergence,
    middle_marks,
    paired_blocks,
)
from isogloss.reports.domains import domain_section
from isogloss.reports.evidence import shows
from isogloss.reports.figures import (
    ACCENT,
    GREY,
    LAYER_AXIS,
    MAX_COLOURS,
    ZERO_LINE,
    Dot,
    Figure,
    RowPlot,
    Section,
    Style,
    Table,
    language_rows,
    language_styles,
    row_figure,
    row_scale,
    scatter,
    translucent,
)
from isogloss.reports.maps import language_map
from isogloss.reports.resources import resource_section
from isogloss.reports.structure import structure_section
from isogloss.reports.text import hover, label, layer_range, number, sample_size, scalar, span, with_interval, words
from isogloss.statistics import Estimate

_QUANTITIES = {
    "profile": "routing profiles (softmax of the router logits over all experts, mean over tokens)",
    "selection": "selection rates (share of tokens that chose each expert, scaled to sum to 1)",
}
_FIXED = "Items are resampled; languages and the edges of the middle are fixed."
_SHAPES = {"U-shape": ACCENT, "no U-shape": GREY}


def analysis_sections(analysis: Analysis) -> list[Section]:
    """Describe what an analysis shows: divergence and its middle, and whatever else was computed."""
    analysis, middle = in_depth_order(analysis), analysis.middle_layers
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


def in_depth_order(analysis: Analysis) -> Analysis:
    """Put the bands of every part in the order of depth; the JSON has them by name."""
    order = {band: place for place, band in enumerate(sorted(analysis.bands, key=analysis.bands.__getitem__))}

    def ordered(parts: Mapping[str, Any]) -> dict[str, Any]:
        return {band: parts[band] for band in sorted(parts, key=lambda band: order.get(band, len(order)))}

    pairs, structure, resources = analysis.pairs, analysis.structure, analysis.resources
    return replace(
        analysis,
        bands=ordered(analysis.bands),
        accuracy=ordered(analysis.accuracy),
        related={measure: ordered(bands) for measure, bands in analysis.related.items()},
        pairs=pairs and replace(pairs, bands=ordered(pairs.bands)),
        structure=structure and replace(structure, bands=ordered(structure.bands)),
        resources=resources
        and replace(
            resources,
            bands=ordered(resources.bands),
            rows=tuple(sorted(resources.rows, key=lambda row: order.get(row.band, len(order)))),
        ),
    )


def _middle_text(middle: MiddleLayers | None) -> str:
    if middle is None:
        return ""
    between = "inclusive, between the two change points of the mean curve"
    bars = "; bars above the shading show where an edge falls over resamples" if middle.start_interval else ""
    edges = f"from {span(middle.start, middle.start_interval)} to {span(middle.end, middle.end_interval)}"
    what = middle.words if middle.is_u_shape else "the segment that fits best, which is no middle"
    return f"Shaded: {what}, {edges} {between}{bars}."


def _shape_text(middle: MiddleLayers | None) -> list[str]:
    if middle is None:
        return []
    verdict = f"No middle was found: the mean curve over languages is not a U-shape, since {middle.reason}."
    if middle.is_u_shape:
        verdict = "In the middle layers the mean curve over languages lies below the layers on both sides: a U-shape."
    depth = f" Outer layers minus inner layers: {with_interval(middle.depth)}." if middle.depth.is_known else ""
    return [f"{verdict}{depth}"]


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
    noise, drawn = mean_curve(others.values()), curves_text(analysis, curves)
    means = mean_divergence(analysis) if len(curves) > 1 else {}
    dashed = "Dashed: the mean between items that are not translations of each other." if noise else ""
    thick = "Thick: the mean over languages." if means else ""
    order, few = middle.words if middle else "all layers", len(curves) <= MAX_COLOURS
    coloured = "" if few else f"In colour: the three highest and the three lowest means over {order}."
    texts = (measure, drawn, _FIXED if drawn else "", thick, dashed, coloured, _middle_text(middle))
    title, unit = f"Divergence from {pivot} by layer", "divergence from the pivot"
    caption = " ".join(filter(None, texts))
    plot = LinePlot("divergence-curves", title, caption, unit, curves, styles, middle, means, noise)
    blocks: list[Figure | Table] = [curve_figure(replace(plot, reference_text="items that are not translations"))]
    blocks += _excess_blocks(analysis, styles)
    if not few:
        framed = f" Vertical lines: the edges of {middle.words}." if middle else ""
        caption = f"{measure} Languages from the highest to the lowest mean over {order}.{framed} {drawn}"
        title = f"Divergence from {pivot}, every language"
        blocks.append(language_map(replace(plot, anchor="language-map", title=title, caption=caption)))
    listed = f"{measure.removesuffix('.')}; columns are decoder layers. {drawn}"
    blocks.append(curve_table(curves, "Divergence: all numbers", listed))
    blocks += _band_table(analysis, drawn)
    lead = (
        f"How differently the model routes a text and its translation into {pivot}, the pivot: 0 where both are routed"
        " alike, and more the less the experts overlap."
    )
    missing = [f"Not computed: {why.rstrip('.')}." for why in analysis.refused.values()]
    paragraphs = [lead, *_shape_text(middle), *filter(None, [_ceiling_text(analysis)]), *missing]
    return Section("divergence", "Divergence from the pivot", paragraphs, blocks if curves else ())


def _excess_blocks(analysis: Analysis, styles: Mapping[str, Style]) -> list[Figure | Table]:
    """Draw how much closer translations are routed than items that are none, and list the numbers."""
    lead = analysis.translations
    if lead is None:
        return []
    by_language = {
        code: dict(zip(analysis.layers, curve, strict=False)) for code, curve in sorted(lead.by_language.items())
    }
    rise = ""
    if lead.rise and analysis.bands:
        hedge = "" if shows(lead.rise) else "No evidence of a change: "
        band = analysis.band_words(analysis.described_band)
        caveat = "; the edges were found on the same data" if analysis.has_middle else ""
        rise = f" {hedge}In {band} the lead is {with_interval(lead.rise)} above that elsewhere{caveat}."
    caption = (
        "Divergence between items that are no translations of each other minus that of translations, item by item:"
        f" above zero, translations are routed more alike than other texts. {curves_text(analysis, by_language)}"
        f" {_FIXED}{rise}"
    )
    plot = LinePlot(
        "excess-curves",
        "Lead of translations over other texts by layer",
        caption,
        "divergence of others − of translations",
        by_language,
        styles,
        analysis.middle_layers,
        dict(zip(analysis.layers, lead.excess, strict=False)) if len(by_language) > 1 else {},
        axis={**FROM_ZERO, **ZERO_LINE},
    )
    return [curve_figure(plot), curve_table(by_language, "Lead of translations: all numbers", caption)]


def _band_table(analysis: Analysis, drawn: str) -> list[Table]:
    """List the mean divergence of every language over each band; older analyses have none."""
    means = analysis.divergence_by_band
    bands = [band for band in analysis.bands if all(band in each for each in means.values())]
    if not means or not bands:
        return []
    header = ("language", *(f"{words(band)}{layer_range(analysis.bands[band])}" for band in bands))
    rows = [(label(code), *(with_interval(each[band]) for band in bands)) for code, each in means.items()]
    return [Table("Divergence by band", f"Mean over the layers of a band. {drawn}", header, rows)]


def _shape(middle: MiddleLayers) -> str:
    return "U-shape" if middle.is_u_shape else "no U-shape"


def _range_hover(code: str, middle: MiddleLayers) -> str:
    edges = f"start {span(middle.start, middle.start_interval)}; end {span(middle.end, middle.end_interval)}"
    size = [f"outer minus middle {with_interval(middle.depth)}"] if middle.depth.is_known else []
    return hover(label(code), edges, _shape(middle), *size)


def _range_figure(analysis: Analysis, middles: Mapping[str, MiddleLayers], caption: str) -> Figure:
    """Draw a bar per language, and dots at its ends with the spans of both edges; of many, in the hover alone."""
    scale = row_scale(len(middles))
    width = min(8, scale.height - 2)
    styles = {group: Style(colour, size=min(8, width + 2), bar=1.2) for group, colour in _SHAPES.items()}
    dots: list[Dot] = []
    bars: dict[str, tuple[list[int | None], list[int | None]]] = {}
    for row, (code, middle) in enumerate(middles.items()):
        group = _shape(middle)
        for edge, ends in ((middle.start, middle.start_interval), (middle.end, middle.end_interval)):
            low, high = (None if scale.is_crowded else ends) or (nan, nan)
            dots.append(Dot(group, Estimate(edge, low, high, middle.depth.n), row, _range_hover(code, middle)))
        x, y = bars.setdefault(group, ([], []))
        x += [middle.start, middle.end, None]
        y += [row, row, None]
    lines = [
        scatter(group, *bars[group], mode="lines", line={"color": translucent(style.colour, 0.35), "width": width})
        for group, style in styles.items()
        if group in bars
    ]
    layers, rows = analysis.layers, language_rows(list(middles))
    axis = {"range": [layers[0] - 0.5, layers[-1] + 0.5]}
    plot = RowPlot("middle-ranges", "Middle layers of every language", caption, LAYER_AXIS, rows, dots, styles, axis)
    figure = row_figure(plot, below=lines)
    shapes, notes = middle_marks(analysis.middle_layers, plot_height=scale.height * len(middles))
    return replace(figure, layout={**figure.layout, "shapes": shapes, "annotations": notes})


def _middle_section(analysis: Analysis) -> Section | None:
    """Describe where each language's own curve has its middle, beside that of the mean curve."""
    if not analysis.middle_by_language or not analysis.layers:
        return None
    middles = dict(sorted(analysis.middle_by_language.items(), key=lambda pair: (pair[1].start, pair[1].end, pair[0])))
    settings, n_rows = analysis.resampling, len(middles)
    how = "No interval: pooled counts."
    if not analysis.is_pooled:
        lines = "B" if row_scale(n_rows).is_crowded else "Thin lines, and b"
        where = f"where an edge falls in {100 * settings.level:g} % of bootstrap resamples of items"
        how = f"{lines}rackets in the table: {where}, {settings.n_resamples:,} resamples."
    sizes = {middle.depth.n for middle in middles.values()}
    n = f"{sample_size(sizes)} items. " if len(sizes) == 1 and not analysis.is_pooled else ""
    caption = (
        "From the first to the last layer between the two change points of each language's divergence from"
        f" {label(analysis.pivot)}. {n}{how}"
    )
    shaded = f" Shaded: {analysis.middle_layers.words} of the mean curve." if analysis.middle_layers else ""
    figure = _range_figure(analysis, middles, f"{caption}{shaded}")
    rows = [
        (
            *(label(code), span(middle.start, middle.start_interval), span(middle.end, middle.end_interval)),
            *(scalar(middle.is_u_shape), with_interval(middle.depth), f"{middle.depth.n:,}"),
        )
        for code, middle in middles.items()
    ]
    header = ("language", "first layer", "last layer", "U-shape", "outer minus middle", "n")
    lead = (
        f"{sum(each.is_u_shape for each in middles.values())} of {n_rows} languages have a U-shape of their own. Two"
        " change points can be found in any curve; whether the layers between them lie lower than on both sides is a"
        " question of its own."
    )
    table = Table("Middle layers: all numbers", caption, header, rows)
    return Section("middle", "Middle layers by language", [lead], [figure, table])


def _within_section(analysis: Analysis, styles: Mapping[str, Style]) -> Section | None:
    entropy, consistency = (curves_of(analysis, name) for name in ("entropy", "consistency"))
    of = "selection rates pooled over texts" if analysis.is_pooled else "the profile of each item, mean over items"
    top = f"The greatest possible is ln {analysis.n_experts} = {number(log(analysis.n_experts))}."
    caption = f"Entropy of {of}, in nats. {top} {curves_text(analysis, entropy)}"
    title, unit = "Routing entropy by layer", "entropy, nats"
    spread = LinePlot("entropy-curves", title, caption, unit, entropy, styles, axis={})
    chance = dict(zip(analysis.layers, analysis.consistency_chance, strict=False))
    dashed = " Dashed: sets drawn at random." if chance else ""
    measure = f"Mean Jaccard similarity of the expert sets chosen for two tokens of the same item.{dashed}"
    caption = f"{measure} {curves_text(analysis, consistency)}"
    title, unit = "Routing consistency by layer", "Jaccard similarity"
    alike = LinePlot("consistency-curves", title, caption, unit, consistency, styles, reference=chance)
    figures, tables = paired_blocks(analysis, [spread, replace(alike, reference_text="sets at random")])
    if not figures:
        return None
    lead = (
        "Entropy says over how many experts a language's tokens are spread; consistency says how alike the experts of"
        " two tokens of one text are."
    )
    return Section("within", "Entropy and consistency", [lead], [*figures, *tables])


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
    return Section("correlation", "Accuracy and divergence", [lead], blocks)
