"""What routing follows, as a table of docs/findings.md."""

from __future__ import annotations

from isogloss.analysis import Analysis
from markdown_parts import estimate, table

__all__ = ["references"]


def references(found: Analysis) -> str:
    """Mantel tests of every band, plain and controlling for the rivals, and the best layers."""
    structure = found.structure
    if structure is None:
        return "No language structure."
    rows = []
    for band, tested in structure.bands.items():
        for name, test in tested.tests.items():
            plain, partial = test.plain, test.partial
            controlled = (
                ("–", "–")
                if partial is None
                else (estimate(partial.correlation.to_json(), 2), f"{partial.p_value:.3f}")
            )
            cells = (
                estimate(plain.correlation.to_json(), 2),
                f"{plain.p_value:.3f}",
                f"{test.p_adjusted:.3f}",
                *controlled,
            )
            rows.append(
                (f"{band} {tested.first}-{tested.last}", name.replace("_", " "), str(plain.correlation.n), *cells)
            )
    columns = ("Layers", "Distance", "n", "Mantel r", "p", "p, Holm", "Partial r", "Partial p")
    best = "; ".join(
        f"{name}: layer {match.layer} (p = {match.p_value:.3f})" for name, match in structure.matches.items()
    )
    trees = [
        f"* {band} {tested.first}-{tested.last}: cophenetic correlation {tested.tree.cophenetic:.3f}"
        for band, tested in structure.bands.items()
    ]
    rivals = (
        f"Partial: controlling for {' and '.join(structure.rivals).replace('_', ' ')}. " if structure.rivals else ""
    )
    caption = f"{rivals}Best layer per distance, p corrected for searching all layers: {best}."
    return "\n".join([table(columns, rows), "", caption, "", "Trees (average linkage):", "", *trees])
