"""The section on experts: which ones each rule selected, and how many it would select by chance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import isnan
from typing import Any

from isogloss.analysis import Analysis, ExpertRow, ExpertTable
from isogloss.reports.figures import LAYER_AXIS, Figure, Section, Table, base_layout
from isogloss.reports.maps import edges, heat_map
from isogloss.reports.text import counted, hover, interval_text, number, scalar, spread, with_interval
from isogloss.statistics import Estimate

_RULES = {
    "delta": ("difference of selection rates", "Selection rate minus the base's, means over items"),
    "share": ("share", "Share of an expert's use, among the languages listed, that falls to the language or languages"),
    "contrast": ("risk difference", "Token-pooled selection rate minus that of the contrasting texts"),
    "specificity": ("specificity", "Selection rate relative to the mean over languages"),
}
_UNSIGNED = [[0.0, "#9ecae1"], [0.5, "#3182bd"], [1.0, "#08306b"]]
_SIGNED = [[0.0, "#7f3b08"], [0.25, "#e08214"], [0.5, "#f0f0f0"], [0.75, "#8073ac"], [1.0, "#2d004b"]]
_MOST_LISTED = 500


def expert_sections(
    tables: Sequence[ExpertTable], manifest: Mapping[str, Any], analysis: Analysis | None
) -> list[Section]:
    """Describe the experts of each rule; the manifest or the analysis tells where experts can be."""
    routers = manifest.get("routers") or ()
    layers = [int(router["layer"]) for router in routers] or (analysis.layers if analysis else ())
    n_experts = max(analysis.n_experts if analysis else 1, *(int(each.get("n_experts", 1)) for each in routers), 1)
    sections = []
    for place, table in enumerate(tables, start=1):
        kind = table.parameters.get("kind")
        heading = f"{scalar(kind)} experts".capitalize() if kind else "Experts"
        blocks = _blocks(table, f"experts-{place}", layers, n_experts, analysis) if table.experts else ()
        sections.append(Section(f"rule-{place}", f"{heading} ({scalar(table.rule)} rule)", list(_texts(table)), blocks))
    return sections


def _texts(table: ExpertTable) -> Iterator[str]:
    chance, parameters = table.expected_by_chance, table.parameters
    expected = "how many to expect by chance is not known"
    if chance is not None:
        expected = f"{chance:.1f} expected by chance, under permuted labels"
    languages, even = parameters.get("languages") or (), ""
    if table.rule == "share" and languages:
        even = f" An expert that all {len(languages)} languages use alike has shares of {number(1 / len(languages))}."
    yield f"{counted(table.n, 'expert')} found; {expected}.{even}"
    if table.nearest is not None:
        yield table.nearest.text
    asked = [f"{name.replace('_', ' ')} {scalar(value)}" for name, value in parameters.items() if name != "layers"]
    if parameters.get("layers"):
        asked.append("layers {} to {}".format(*parameters["layers"]))
    if asked:
        yield f"Asked for: {'; '.join(asked)}."


def _estimate(row: ExpertRow, n: int | None = None) -> Estimate:
    return Estimate(row.statistic, row.low, row.high, n)  # type: ignore[arg-type]  # n is not known for each


def _blocks(
    table: ExpertTable, anchor: str, layers: Sequence[int], n_experts: int, analysis: Analysis | None
) -> tuple[Figure, Table]:
    rule, rows, parameters = scalar(table.rule), table.experts, table.parameters
    unit, measure = _RULES.get(rule, ("statistic", f"Statistic of the rule “{rule}”"))
    n_items = parameters.get("n_items")
    estimates = [_estimate(row, n_items if isinstance(n_items, int) else None) for row in rows]
    drawn = interval_text(estimates, parameters, pooled=False, unit="items")
    caption, title = f"{measure}. {counted(table.n, 'expert')}. {drawn}", f"Experts by the {rule} rule"
    layers = sorted({*layers, *(row.layer for row in rows)})
    n_experts = max(n_experts, *(row.expert + 1 for row in rows))
    trace = _map(rows, layers, n_experts, unit)
    layout = base_layout(LAYER_AXIS, "expert", height=min(640, max(260, 130 + 4 * n_experts)))
    layout["margin"]["t"] = 40
    layout["yaxis"].update(range=[-0.5, n_experts - 0.5], showgrid=False)
    layout["xaxis"].update(range=[layers[0] - 0.5, layers[-1] + 0.5])
    layout["shapes"] = edges(analysis.middle_layers if analysis else None)
    middle = analysis.middle_layers if analysis else None
    lines = f" Vertical lines: the edges of {middle.words}." if middle and layout["shapes"] else ""
    figure = Figure(anchor, title, f"{caption}{lines}", [trace], layout)
    return figure, _table(rows, f"{title}: all numbers", caption, unit)


def _map(rows: Sequence[ExpertRow], layers: Sequence[int], n_experts: int, unit: str) -> dict[str, Any]:
    """Draw layers from left to right and expert ids upwards; other experts are left blank."""
    values: list[list[float | None]] = [[None] * len(layers) for _ in range(n_experts)]
    hovers = [[""] * len(layers) for _ in range(n_experts)]
    for row in rows:
        at = layers.index(row.layer)
        weight = [] if row.weight is None else [f"weight {number(row.weight)}"]
        values[row.expert][at] = row.statistic
        lines = f"{unit} {with_interval(_estimate(row))}", *weight
        hovers[row.expert][at] = hover(f"layer {row.layer}, expert {row.expert}", *lines)
    known = [row.statistic for row in rows if not isnan(row.statistic)]
    return heat_map(layers, range(n_experts), values, unit, hovertext=hovers, **_colours(known))


def _colours(values: Sequence[float]) -> dict[str, Any]:
    """Colour from the least to the greatest, or around zero where signs differ."""
    if not values:
        return {"colorscale": _UNSIGNED, "showscale": False}
    low, high = min(values), max(values)
    if low < 0:
        reach = max(abs(low), abs(high))
        return {"colorscale": _SIGNED, "zmin": -reach, "zmax": reach}
    return {"colorscale": _UNSIGNED, "zmin": low if low < high else 0, "zmax": high or 1}


def _table(rows: Sequence[ExpertRow], title: str, caption: str, unit: str) -> Table:
    """List the experts by layer and id: those with the greatest statistics, where they are many."""
    listed = sorted(rows, key=lambda row: -abs(row.statistic))[:_MOST_LISTED]
    if len(rows) > _MOST_LISTED:
        caption = f"{caption} The {_MOST_LISTED} with the greatest statistics are listed; isogloss experts prints all."
    n_columns = 5 if any(row.weight is not None for row in rows) else 4
    cells = [
        (f"layer {row.layer}", str(row.expert), number(row.statistic), spread((row.low, row.high)), number(row.weight))
        for row in sorted(listed, key=lambda row: (row.layer, row.expert))
    ]
    header = ("layer", "expert", unit, "interval", "weight")
    return Table(title, caption, header[:n_columns], [row[:n_columns] for row in cells])
