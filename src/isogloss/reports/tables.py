"""Tables behind the figures, and the cells that several of them share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isogloss.reports.curves import LinePlot, curve_figure
from isogloss.reports.figures import INK, Style, Table
from isogloss.reports.text import MISSING, number, plain, sample_size, spread, with_interval

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

    from isogloss.analysis import Analysis, ExpertRow, LayerCorrelation
    from isogloss.reports.figures import Figure

__all__ = ["correlation_blocks", "correlations_table", "expert_table", "known_table", "layer_range"]

_COEFFICIENTS = ("Pearson", "Spearman", "Pearson, any one language left out")

MOST_EXPERTS = 500
"""Rows of an expert table; the caption says so where a rule found more."""


def known_table(
    title: str,
    caption: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    words: Container[str] = (),
    folded: bool = False,
) -> Table:
    """List cells without the columns in which no row says anything.

    Args:
        title: what is shown.
        caption: measure, n and interval level.
        header: of the columns; the first is kept.
        rows: cells.
        words: headers of columns that hold words, besides the first.
        folded: shown on demand.
    """
    kept = [at for at in range(len(header)) if not at or any(row[at] != MISSING for row in rows)]
    names, cells = tuple(header[at] for at in kept), tuple(tuple(row[at] for at in kept) for row in rows)
    texts = frozenset(at for at, each in enumerate(names) if not at or each in words)
    return Table(title, caption, names, cells, text_columns=texts, folded=folded)


def expert_table(rows: Sequence[ExpertRow], *, title: str, caption: str, unit: str) -> Table:
    """List the experts that a rule found, by layer and expert id.

    Args:
        rows: of the rule's table.
        title: what is shown.
        caption: rule, n and interval level.
        unit: name of the statistic.

    Returns:
        A folded table of at most 500 rows: the experts with the greatest statistics, where there are more.
    """
    listed = sorted(rows, key=lambda row: -abs(row.statistic))[:MOST_EXPERTS]
    if len(rows) > MOST_EXPERTS:
        caption = f"{caption} The {MOST_EXPERTS} with the greatest statistics are listed; isogloss experts prints all."
    cells = [
        (f"layer {row.layer}", str(row.expert), number(row.statistic), spread((row.low, row.high)), number(row.weight))
        for row in sorted(listed, key=lambda row: (row.layer, row.expert))
    ]
    weighted = any(row.weight is not None for row in rows)
    header = ("layer", "expert", unit, "interval", "weight")[: 5 if weighted else 4]
    return Table(title, caption, header, tuple(row[: len(header)] for row in cells), folded=True)


def _coefficients(correlation: LayerCorrelation) -> tuple[str, str, str]:
    ends = spread(correlation.leave_one_out)
    return with_interval(correlation.pearson), with_interval(correlation.spearman), ends


def correlation_blocks(
    analysis: Analysis, correlations: Sequence[LayerCorrelation], *, anchor: str, titles: tuple[str, str], caption: str
) -> tuple[Figure, Table]:
    """Draw Pearson's coefficient of every layer, and list both coefficients and how far one language moves the first.

    Args:
        analysis: whose layers and middle are shown.
        correlations: one per layer.
        anchor: of the figure.
        titles: of the figure and of the folded table.
        caption: of both.
    """
    pairs = list(zip(analysis.layers, correlations, strict=False))
    plot = LinePlot(anchor, titles[0], caption, "Pearson r", limits=(-1.05, 1.05))
    curves, styles = {"pearson": {at: each.pearson for at, each in pairs}}, {"pearson": Style(INK, "circle", "●")}
    figure = curve_figure(plot, curves, styles, middle=analysis.middle_layers)
    rows = tuple((f"layer {at}", *_coefficients(each)) for at, each in pairs)
    return figure, Table(titles[1], caption, ("layer", *_COEFFICIENTS), rows, folded=True)


def correlations_table(rows: Mapping[str, LayerCorrelation], *, title: str, caption: str, first: str) -> Table:
    """List correlations under their headings, with n and how far one language moves them.

    Args:
        rows: by heading.
        title: what is shown.
        caption: of what with what; the method of the intervals is added.
        first: title of the first column.
    """
    cells = tuple(
        (plain(heading), sample_size([each.pearson.n]).removeprefix("n = "), *_coefficients(each))
        for heading, each in rows.items()
    )
    how = "n: languages. Intervals: 95 %, by Fisher's transformation."
    return Table(title, f"{caption} {how}", (first, "n", *_COEFFICIENTS), cells)


def layer_range(ends: Sequence[int] | None) -> str:
    """Write the layers of a band after its name, such as `` (layers 8–35)``; nothing where they are not known."""
    return f" (layers {ends[0]}–{ends[1]})" if ends else ""
