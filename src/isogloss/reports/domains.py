"""The section on domains: how far task texts are routed from generic ones, and which experts are of both kinds."""

from __future__ import annotations

from collections.abc import Iterator

from isogloss.analysis import Analysis, DomainCurve, MiddleLayers, OverlapCurve
from isogloss.reports.curves import FROM_ZERO, LinePlot, all_points, curve_figure, curve_table
from isogloss.reports.figures import (
    ACCENT,
    GREY,
    Dot,
    Figure,
    KeyEntry,
    Section,
    Style,
    Table,
    base_layout,
    dot_traces,
    ordered_styles,
    scatter,
)
from isogloss.reports.text import hover, interval_text, label, number, p_value, plain, span, with_interval

_CURVES = {"raw": "task against generic", "floor": "generic against generic", "excess": "excess: the difference"}
_OF_SMALLER = "items of the smaller corpus"


def _verdict(domain: DomainCurve, middle: MiddleLayers | None) -> Iterator[str]:
    """Give the verdict on the ∩-shape, and the rise over the languages' middle layers, where they have a middle."""
    if (hump := domain.hump) is None:
        yield "A ∩-shape was not looked for: too few layers."
    else:
        between = f"layers {span(hump.start, hump.start_interval)} to {span(hump.end, hump.end_interval)}"
        height = with_interval(hump.depth)
        if hump.is_u_shape:
            yield f"∩-shape: the excess is higher in {between} than on both sides, by {height}."
        else:
            yield f"No evidence of a ∩-shape: the excess in {between} is above that on both sides by {height}."
    if domain.rise and domain.middle_range:
        first, last = domain.middle_range
        size = with_interval(domain.rise)
        where = f"layers {first} to {last}" if middle and not middle.is_u_shape else None
        where = where or f"the languages' middle layers, {first} to {last},"
        yield f"In {where} it is {size} above that elsewhere."


def _domain_blocks(analysis: Analysis, domain: DomainCurve) -> tuple[Figure, Table]:
    curves = {title: dict(zip(domain.layers, getattr(domain, name), strict=False)) for name, title in _CURVES.items()}
    drawn = interval_text(all_points(curves), vars(domain.resampling), pooled=False, unit=_OF_SMALLER)
    caption = (
        f"Entropy-normalised Jensen–Shannon divergence of routing profiles, “{plain(domain.corpus)}” against"
        f" “{plain(domain.base)}” in {label(domain.language)}, mean over random pairs of items. {drawn}"
    )
    title, styles = "Task texts against generic texts by layer", ordered_styles(curves)
    plot = LinePlot("domain-curves", title, caption, "divergence", curves, styles, analysis.middle_layers)
    return curve_figure(plot), curve_table(curves, "Domain: all numbers", f"{caption} Columns are decoder layers.")


def _overlap_figure(overlap: OverlapCurve, caption: str) -> Figure:
    thresholds, expected, hovers = [], [], []
    for point in overlap.points:
        thresholds.append(point.threshold)
        expected.append(point.expected)
        counts = f"task {point.n_task}, multilingual {point.n_multilingual}"
        both, chance = f"both: {with_interval(point.overlap)}", f"by chance: {number(point.expected)}"
        hovers.append(hover("", f"τ = {point.threshold:g}", both, chance, counts))
    estimates = [point.overlap for point in overlap.points]
    dots = [Dot("observed", *each) for each in zip(estimates, thresholds, hovers, strict=True)]
    data, key = dot_traces(dots, {"observed": Style(ACCENT, size=8)}, upright=True)
    data[0] |= {"mode": "lines+markers", "line": {"color": ACCENT, "width": 1.8}}
    dashed = {"color": GREY, "width": 1.6, "dash": "dash"}
    chance_line = scatter("expected", thresholds, expected, hovers, mode="lines", line=dashed)
    key.append(KeyEntry("expected by chance", "- -", GREY, "expected"))
    layout = base_layout("threshold τ of both rules", "experts that are both", height=340)
    layout["yaxis"].update(FROM_ZERO)
    title = "Task experts that are multilingual experts"
    return Figure("overlap", title, caption, [chance_line, *data], layout, key=key)


def _overlap_blocks(overlap: OverlapCurve) -> tuple[Figure, Table]:
    where = f" Layers {overlap.layers[0]} to {overlap.layers[-1]}." if overlap.layers else ""
    estimates = [point.overlap for point in overlap.points]
    caption = (
        "Experts chosen more often by over τ on task texts than on generic ones in the pivot, and, on generic texts,"
        f" in some of {len(overlap.languages)} languages than in the pivot: how many are both.{where}"
        f" {interval_text(estimates, vars(overlap.resampling), pooled=False, unit=_OF_SMALLER)}"
        " Dashed: the mean where the experts of each layer are permuted."
    )
    rows = [
        (
            *(number(point.threshold), str(point.n_task), str(point.n_multilingual), with_interval(point.overlap)),
            *(number(point.expected), with_interval(point.jaccard), p_value(point.p_fewer), p_value(point.p_more)),
        )
        for point in overlap.points
    ]
    header = ("τ", "task", "multilingual", "both", "expected", "Jaccard", "p as few", "p as many")
    table = Table("Overlap: all numbers", f"{caption} p: exact, under such permutations.", header, rows)
    return _overlap_figure(overlap, caption), table


def domain_section(analysis: Analysis) -> Section | None:
    """Describe where in depth a task's texts part from generic ones, and whether its experts are those of languages."""
    domain, overlap = analysis.domain, analysis.overlap
    drawn = _domain_blocks(analysis, domain) if domain else ()
    counted = _overlap_blocks(overlap) if overlap and overlap.points else ()
    if not (drawn or counted):
        return None
    lead = (
        "Items of the two corpora are no translations of each other, so any two texts differ: the excess is what the"
        " task adds to the divergence of generic texts from each other."
    )
    shared = (
        "Both kinds of experts are measured against the same pivot texts, whose noise makes them agree a little more"
        " than chance says."
    )
    paragraphs = [lead, *(_verdict(domain, analysis.middle_layers) if domain else ()), *([shared] if overlap else ())]
    return Section("domain", "Task and domain", paragraphs, [*drawn, *counted])
