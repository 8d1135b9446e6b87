"""The section on domains: how far task texts are routed from generic ones, and which experts are of both kinds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isogloss.reports.captions import interval_text
from isogloss.reports.curves import LinePlot, all_points, curve_figure, curve_table, scatter
from isogloss.reports.dots import dots, upright
from isogloss.reports.figures import ACCENT, GREY, Figure, KeyEntry, Section, Table, base_layout, ordered_styles
from isogloss.reports.text import label, number, p_value, plain, plot_text, span, with_interval

if TYPE_CHECKING:
    from collections.abc import Iterator

    from isogloss.analysis import Analysis, DomainCurve, OverlapCurve, OverlapPoint

__all__ = ["domain_section"]

Blocks = tuple["Figure | Table", ...]

_CURVES = {"raw": "task against generic", "floor": "generic against generic", "excess": "excess: the difference"}
_OF_SMALLER = "items of the smaller corpus"


def _verdict(domain: DomainCurve) -> Iterator[str]:
    """Give the verdict on the ∩-shape, and the rise over the languages' middle layers."""
    if (hump := domain.hump) is None:
        yield "A ∩-shape was not looked for: too few layers."
    else:
        between = f"layers {span(hump.start, hump.start_interval)} to {span(hump.end, hump.end_interval)}"
        height = with_interval(hump.depth)
        if hump.is_u_shape:
            yield f"∩-shape: the excess is higher in {between} than on both sides, by {height}."
        else:
            yield f"No ∩-shape: the excess in {between} is not higher than on both sides (by {height})."
    if domain.rise and domain.middle_range:
        first, last = domain.middle_range
        size = with_interval(domain.rise)
        yield f"In the languages' middle layers, {first} to {last}, it is {size} above that elsewhere."


def _domain_blocks(analysis: Analysis, domain: DomainCurve) -> Blocks:
    curves = {title: dict(zip(domain.layers, getattr(domain, name), strict=False)) for name, title in _CURVES.items()}
    sampling = interval_text(all_points(curves), vars(domain.resampling), pooled=False, unit=_OF_SMALLER)
    caption = (
        f"Entropy-normalised Jensen–Shannon divergence of routing profiles, “{plain(domain.corpus)}” against"
        f" “{plain(domain.base)}” in {label(domain.language)}, mean over random pairs of items. {sampling}"
    )
    plot = LinePlot("domain-curves", "Task texts against generic texts by layer", caption, "divergence")
    figure = curve_figure(plot, curves, ordered_styles(curves), middle=analysis.middle_layers)
    return figure, curve_table(curves, "Domain: all numbers", f"{caption} Columns are decoder layers.")


def _overlap_figure(overlap: OverlapCurve, caption: str) -> Figure:
    points = overlap.points
    thresholds = [point.threshold for point in points]
    hover = [
        f"τ = {point.threshold:g}<br>both: {plot_text(with_interval(point.overlap))}<br>by chance:"
        f" {number(point.expected)}<br>task {point.n_task}, multilingual {point.n_multilingual}"
        for point in points
    ]
    dashed = {"color": GREY, "width": 1.6, "dash": "dash"}
    observed = dots(
        "observed",
        [point.overlap for point in points],
        thresholds,
        marker={"size": 8, "color": ACCENT},
        bars=(ACCENT, 1.6),
        hover=hover,
    )
    data = [
        scatter("expected", thresholds, [point.expected for point in points], hover, mode="lines", line=dashed),
        {**upright(observed), "mode": "lines+markers", "line": {"color": ACCENT, "width": 1.8}},
    ]
    layout = base_layout("threshold τ of both rules", "experts that are both", height=340)
    layout["yaxis"]["rangemode"] = "tozero"
    key = (KeyEntry("observed", "●", ACCENT, "observed"), KeyEntry("expected by chance", "- -", GREY, "expected"))
    return Figure("overlap", "Task experts that are multilingual experts", caption, data, layout, key=key)


def _overlap_row(point: OverlapPoint) -> tuple[str, ...]:
    sizes = str(point.n_task), str(point.n_multilingual), with_interval(point.overlap)
    chance = number(point.expected), with_interval(point.jaccard), p_value(point.p_fewer), p_value(point.p_more)
    return (number(point.threshold), *sizes, *chance)


def _overlap_blocks(overlap: OverlapCurve) -> Blocks:
    where = f" Layers {overlap.layers[0]} to {overlap.layers[-1]}." if overlap.layers else ""
    estimates = [point.overlap for point in overlap.points]
    caption = (
        "Experts chosen more often by over τ on task texts than on generic ones in the pivot, and, on generic texts,"
        f" in some of {len(overlap.languages)} languages than in the pivot: how many are both.{where}"
        f" {interval_text(estimates, vars(overlap.resampling), pooled=False, unit=_OF_SMALLER)}"
        " Dashed: the mean where the experts of each layer are permuted."
    )
    header = ("τ", "task", "multilingual", "both", "expected", "Jaccard", "p as few", "p as many")
    rows = tuple(map(_overlap_row, overlap.points))
    table = Table("Overlap: all numbers", f"{caption} p: exact, under such permutations.", header, rows, folded=True)
    return _overlap_figure(overlap, caption), table


def domain_section(analysis: Analysis) -> Section | None:
    """Say where in depth a task's texts part from generic ones, and whether its experts are those of languages."""
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
        " than chance says; intervals of counts may lie above the value."
    )
    paragraphs = (lead, *(_verdict(domain) if domain else ()), *((shared,) if overlap else ()))
    return Section("domain", "Task and domain", paragraphs, (*drawn, *counted))
