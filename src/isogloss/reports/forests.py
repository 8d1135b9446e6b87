"""Forest plots: one row per test, a dot with its interval per band of layers, and zero as a line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from isogloss.analysis import ReferenceTest
from isogloss.reports.evidence import shows
from isogloss.reports.figures import ZERO_LINE, Dot, Figure, Style, dot_traces, offsets, ordered_styles, striped_rows
from isogloss.reports.text import distance_name, hover, p_value, plain, plot_text, with_interval

__all__ = ["reference_forest"]

_ROW = 36


def reference_forest(bands: Mapping[str, Mapping[str, ReferenceTest]], *, caption: str) -> Figure:
    """Draw the correlation of routing with each distance between languages, band by band; filled where it is shown."""
    names = list(dict.fromkeys(name for tests in bands.values() for name in tests))
    plain_styles = ordered_styles(map(plain, bands))
    styles: dict[str, Style] = {}
    dots: dict[str, list[Dot]] = {}
    for offset, (band, tests) in zip(offsets(len(bands)), bands.items(), strict=True):
        style = plain_styles[plain(band)]
        outline = {"line": {"width": 1.8, "color": style.colour}}
        styles[plain(band)] = replace(style, size=9, marker=outline)
        styles[f"{plain(band)}, no evidence"] = replace(style, size=9, marker={**outline, "color": "#ffffff"})
        for name, test in tests.items():
            row, known = test.plain.correlation, shows(test.plain.correlation, test.p_adjusted)
            text = hover(
                distance_name(name),
                f"{plain(band)}: Mantel r {with_interval(row)}",
                f"p {p_value(test.p_adjusted)} by Holm, n = {row.n:,} languages",
            )
            group = plain(band) if known else f"{plain(band)}, no evidence"
            dots.setdefault(group, []).append(Dot(row, names.index(name) + offset, text))
    data, key = dot_traces(dots, styles)
    key = [
        entry._replace(sign={"●": "○", "■": "□", "◆": "◇", "▲": "△"}.get(entry.sign, entry.sign))
        if entry.text.endswith(", no evidence")
        else entry
        for entry in key
    ]
    rows, unit = [plot_text(distance_name(name)) for name in names], "Mantel r with routing divergence"
    layout = striped_rows(rows, unit, height=84 + _ROW * len(names), **ZERO_LINE)
    return Figure("references", "What routing goes with, by band of layers", caption, data, layout, key=key)
