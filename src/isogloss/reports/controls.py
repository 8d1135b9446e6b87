"""The section on controls: shared tokens, what the routers read, and what the model writes after a text."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median

from isogloss.analysis import Analysis
from isogloss.reports.curves import (
    LinePlot,
    Lines,
    all_points,
    correlation_blocks,
    curve_blocks,
    curve_figure,
    curve_table,
    curves_of,
    curves_text,
    mean_curve,
    paired_blocks,
)
from isogloss.reports.figures import Figure, Section, Table, ordered_styles
from isogloss.reports.text import label, number, percent, sample_size
from isogloss.statistics import Estimate

Blocks = list["Figure | Table"]


def _distinct_means(analysis: Analysis, distinct: Lines) -> Lines:
    """Average over the languages that have tokens of their own in every layer, so that all means are over the same."""
    codes = [code for code, curve in distinct.items() if all(point.is_known for point in curve.values())]
    sources = {
        "all tokens": curves_of(analysis, "divergence"),
        "tokens that the pivot lacks": distinct,
        "items that are not translations": curves_of(analysis, "shuffled"),
    }
    present = {name: [curves[code] for code in codes if code in curves] for name, curves in sources.items()}
    return {
        name: {at: Estimate.without_interval(value, len(each)) for at, value in mean_curve(each).items()}
        for name, each in present.items()
        if each
    }


def _share_text(share: Mapping[str, float]) -> str:
    known = [value for value in share.values() if value == value]  # noqa: PLR0124 - NaN is not itself
    if not known:
        return ""
    return (
        f"Such tokens are {percent(min(known))} to {percent(max(known))} % of a language's; half of the languages have"
        f" {percent(median(known))} % or more. Where they are few, profiles rest on few tokens and diverge for that"
        " alone."
    )


def _distinct_blocks(analysis: Analysis) -> Blocks:
    part, distinct = analysis.controls.distinct, curves_of(analysis, "distinct_divergence")
    if part is None or not distinct:
        return []
    means, shuffled = _distinct_means(analysis, distinct), curves_of(analysis, "shuffled")
    caption = (
        f"Divergence from {label(analysis.pivot)} on all tokens, on tokens whose ids the pivot's texts do not have, and"
        " between items that are not translations of each other; means over the languages that have such tokens in"
        f" every layer ({sample_size(point.n for point in all_points(means))} languages), without intervals: those of"
        f" each language are in the tables. {_share_text(part.share)}"
    )
    title, unit = "Tokens that the pivot lacks", "divergence from the pivot"
    plot = LinePlot(
        "distinct-curves", title, caption, unit, means, ordered_styles(means), middle=analysis.middle_layers
    )
    tables = [curve_table(means, f"{title}: means over languages", caption)]
    for name, curves in (
        ("on tokens that the pivot lacks", distinct),
        ("between items that are not translations", shuffled),
    ):
        text = f"By language; columns are decoder layers. {curves_text(analysis, curves)}"
        tables.append(curve_table(curves, f"Divergence {name}: all numbers", text))
    rows = [(label(code), number(value)) for code, value in sorted(part.share.items())]
    text = "Tokens whose ids the pivot's texts do not have, among all counted tokens of the language; no interval."
    tables.append(Table("Share of tokens that the pivot lacks", text, ("language", "share"), rows))
    return [curve_figure(plot), *(table for table in tables if table.rows)]


def _hidden_blocks(analysis: Analysis) -> Blocks:
    cosine, cka, pivot = curves_of(analysis, "hidden_cosine"), curves_of(analysis, "hidden_cka"), label(analysis.pivot)
    caption = (
        f"Cosine of the mean hidden state that each router reads with that of the same item in {pivot}, mean over"
        f" items. {curves_text(analysis, cosine)}"
    )
    plots = [LinePlot("cosine", "Cosine of what the routers read by layer", caption, "cosine", cosine, axis={})]
    caption = (
        f"Unbiased linear CKA over items of what each router reads with the same in {pivot}: 0 on average for"
        f" unrelated states. {sample_size(point.n for point in all_points(cka))} items; intervals: 95 % jackknife"
        " over blocks of items."
    )
    plots.append(LinePlot("cka", "CKA of what the routers read by layer", caption, "CKA", cka, axis={}))
    figures, tables = paired_blocks(analysis, plots)
    mirror = analysis.controls.hidden.mirror if analysis.controls.hidden else ()
    caption = (
        "Pearson correlation, over languages, of the divergence of routing with 1 − cosine of what the routers read;"
        f" {sample_size(each.pearson.n for each in mirror)} languages; band: 95 % interval by Fisher's transformation."
        " Near 1, routing says no more about languages than its input does."
    )
    titles = "Does routing mirror its input?", "Mirror: all numbers"
    mirrored = correlation_blocks(analysis, mirror, anchor="mirror", titles=titles, caption=caption) if mirror else ()
    return [*figures, *mirrored, *tables]


def _phase_blocks(analysis: Analysis) -> Blocks:
    phases = curves_of(analysis, "phase")
    caption = (
        "Divergence of the routing of what the model writes from that of the text before it, per item, mean over items."
        f" {curves_text(analysis, phases)}"
    )
    plot = LinePlot("phases", "Writing against reading by layer", caption, "divergence from the prompt", phases)
    return [*curve_blocks(analysis, plot)] if phases else []


def controls_section(analysis: Analysis) -> Section | None:
    """Describe what else could make languages look alike, and name the controls that were not run; None without any."""
    parts = {
        "tokens that the pivot lacks (capture --distinct-from)": _distinct_blocks(analysis),
        "what the routers read (capture --hidden-states)": _hidden_blocks(analysis),
        "prompt against generation (analyze --generation)": _phase_blocks(analysis),
    }
    if not any(parts.values()):
        return None
    missing = [name for name, blocks in parts.items() if not blocks]
    lead = (
        "Languages that share tokens share routes, and a router is linear in what it reads, so that routing may say no"
        " more about languages than its tokens or its input do."
    )
    absent = [f"Not shown, because it was not captured or not asked for: {'; '.join(missing)}."] if missing else []
    return Section("controls", "Controls", [lead, *absent], [block for part in parts.values() for block in part])
