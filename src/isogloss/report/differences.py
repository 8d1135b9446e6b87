"""Steered against baseline: one dot and interval per language, controls beside them, and all the numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from isogloss.report.figures import ACCENT, GREY, INK, Figure, KeyEntry, Table, base_layout
from isogloss.report.results import Reading, read_estimate
from isogloss.report.text import interval, label, name, p_value, percent, plain, plot_text, points

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["Comparison", "comparison_table", "difference_figure", "read_comparisons"]

SIGNIFICANT = 0.05
OVERALL = "Mean over languages"
_CONTROL_SIGNS = (
    ("circle-open", "○"),
    ("square-open", "□"),
    ("diamond-open", "◇"),
    ("triangle-up-open", "△"),
    ("x", "×"),
)


@dataclass(frozen=True)
class Comparison:
    """One language of an evaluation, or all of them together; shares of correct answers.

    Attributes:
        code: language, or None for all.
        baseline: without the plan.
        steered: with it.
        difference: steered minus baseline, paired by item; of all together, the mean over languages, n of them.
        p: of the paired test; None where not tested.
        p_adjusted: for the number of languages; None where not tested.
    """

    code: str | None
    baseline: Reading
    steered: Reading
    difference: Reading
    p: float | None
    p_adjusted: float | None

    @property
    def title(self) -> str:
        """Name with code, unescaped."""
        return OVERALL if self.code is None else label(self.code)

    @property
    def is_significant(self) -> bool:
        """Whether the adjusted p value is below 0.05 (the plain one where there is no adjusted one)."""
        p = self.p if self.p_adjusted is None else self.p_adjusted
        return p is not None and p < SIGNIFICANT

    @property
    def kind(self) -> Literal["mean", "clear", "unclear"]:
        """How it is drawn."""
        if self.code is None:
            return "mean"
        return "clear" if self.is_significant else "unclear"

    @property
    def size(self) -> str:
        """How many items are behind it, or how many languages."""
        n = self.difference.n
        if n is None:
            return "–"
        return f"{n:,}" if self.code is not None else f"{n:,} language{'' if n == 1 else 's'}"


def _read(code: str | None, found: Mapping[str, Any]) -> Comparison:
    baseline, steered, difference = (read_estimate(found.get(arm)) for arm in ("baseline", "steered", "difference"))
    p, p_adjusted = (read_estimate({"value": found.get(field)}).value for field in ("p_value", "p_adjusted"))
    return Comparison(code, baseline, steered, difference, p, p_adjusted)


def read_comparisons(evaluation: Mapping[str, Any]) -> tuple[Comparison, ...]:
    """Read an evaluation: all languages together first, then each, from the greatest difference to the least.

    Args:
        evaluation: as `isogloss evaluate --json`.

    Returns:
        Without those that have no difference.
    """
    overall = _read(None, evaluation.get("overall") or {})
    each = [_read(code, found) for code, found in evaluation["per_language"].items()]
    known = [comparison for comparison in each if comparison.difference.value is not None]
    ranked = sorted(known, key=lambda found: (-(found.difference.value or 0.0), found.title))
    return (*((overall,) if overall.difference.value is not None else ()), *ranked)


def _hover(found: Comparison, arm: str) -> str:
    ends = interval(points(found.difference.low), points(found.difference.high))
    tests = f"<br>p adjusted {plot_text(p_value(found.p_adjusted))}" if found.p_adjusted is not None else ""
    shares = f"{percent(found.baseline.value)} → {percent(found.steered.value)} %"
    change = f"{points(found.difference.value)} {ends} points"
    return f"<b>{plot_text(found.title)}</b><br>{plot_text(arm)}<br>{shares}<br>{change}{tests}<br>n = {found.size}"


def _dots(found: Sequence[tuple[float, Comparison]], arm: str, marker: dict[str, Any], width: float) -> dict[str, Any]:
    """Draw dots with intervals at given heights; an interval that is missing has no length."""
    values = [100 * (comparison.difference.value or 0.0) for _, comparison in found]
    spans = [(comparison.difference.low, comparison.difference.high) for _, comparison in found]
    below = [0.0 if low is None else at - 100 * low for at, (low, _) in zip(values, spans, strict=True)]
    above = [0.0 if high is None else 100 * high - at for at, (_, high) in zip(values, spans, strict=True)]
    bars = {"type": "data", "symmetric": False, "array": above, "arrayminus": below}
    return {
        "type": "scatter",
        "mode": "markers",
        "meta": arm,
        "x": values,
        "y": [height for height, _ in found],
        "hovertext": [_hover(comparison, arm) for _, comparison in found],
        "hoverinfo": "text",
        "marker": marker,
        "error_x": {**bars, "color": marker["color"], "thickness": width, "width": 0},
    }


def _steered(placed: Sequence[tuple[float, Comparison]]) -> list[dict[str, Any]]:
    """Draw the mean over languages, then languages that differ clearly, then the others."""
    solid = {"size": 9, "color": ACCENT, "symbol": "circle", "line": {"width": 1.8, "color": ACCENT}}
    kinds = {
        "mean": {**solid, "size": 11, "symbol": "diamond"},
        "clear": solid,
        "unclear": {**solid, "color": "#ffffff"},
    }
    traces = []
    for kind, marker in kinds.items():
        chosen = [(height, found) for height, found in placed if found.kind == kind]
        if chosen:
            trace = {**_dots(chosen, "steered", marker, 1.8), "meta": kind}
            trace["error_x"]["color"] = ACCENT
            traces.append(trace)
    return traces


def _controls(
    places: Mapping[str | None, int], controls: Mapping[str, Mapping[str, Any]]
) -> tuple[list[dict[str, Any]], list[KeyEntry]]:
    """Draw controls below the dots of their language, in grey."""
    traces, key = [], []
    for number, (control, evaluation) in enumerate(controls.items()):
        symbol, sign = _CONTROL_SIGNS[number % len(_CONTROL_SIGNS)]
        offset = _offset(number + 1, len(controls) + 1)
        rows = [found for found in read_comparisons(evaluation) if found.code in places]
        if rows:
            marker = {"size": 6, "symbol": symbol, "color": "#7f8792"}
            placed = [(places[found.code] + offset, found) for found in rows]
            traces.append({**_dots(placed, control, marker, 1.0), "meta": f"control {number}"})
            key.append(KeyEntry(f"control: {plain(control)}", sign, GREY, f"control {number}"))
    return traces, key


def _offset(number: int, of: int) -> float:
    """Height of one dot within the row of its language, from the top."""
    return 0.0 if of == 1 else 0.28 - 0.56 * number / (of - 1)


def _stripes(n_rows: int) -> list[dict[str, Any]]:
    """Shade every other row, so that a control is read with its language."""
    stripe = {"type": "rect", "xref": "paper", "yref": "y", "x0": 0, "x1": 1, "layer": "below", "line": {"width": 0}}
    rows = range(n_rows - 1, -1, -2)
    return [{**stripe, "y0": row - 0.5, "y1": row + 0.5, "fillcolor": "#f5f6f7"} for row in rows]


def _rows(found: Sequence[Comparison]) -> dict[str, Any]:
    heights = list(range(len(found) - 1, -1, -1))
    names = [plot_text(OVERALL if row.code is None else name(row.code)) for row in found]
    if found and found[0].code is None:
        names[0] = f"<b>{names[0]}</b>"
    return {
        "tickmode": "array",
        "tickvals": heights,
        "ticktext": names,
        "ticks": "",
        "ticklabelstandoff": 4,
        "showline": False,
    }


def difference_figure(
    found: Sequence[Comparison], controls: Mapping[str, Mapping[str, Any]], *, title: str, caption: str
) -> Figure:
    """Draw the difference of each language with its interval, sorted, around zero.

    Args:
        found: from `read_comparisons`, at least one.
        controls: evaluations by name.
        title: what is shown.
        caption: measure, n and interval level.

    Returns:
        The figure.
    """
    top = len(found) - 1
    places = {comparison.code: top - place for place, comparison in enumerate(found)}
    grey, grey_key = _controls(places, controls)
    raised = _offset(0, len(controls) + 1)
    blue = _steered([(places[comparison.code] + raised, comparison) for comparison in found])
    layout = base_layout("steered − baseline, percentage points", "", height=90 + (24 + 9 * len(grey)) * len(found))
    layout["yaxis"].update(_rows(found), range=[-0.5, top + 0.5], showgrid=False)
    layout["xaxis"].update(showgrid=True, zeroline=True, zerolinecolor=INK, zerolinewidth=1)
    layout["shapes"] = _stripes(len(found))
    narrow = {"yaxis.ticktext": ["<b>mean</b>" if row.code is None else plot_text(plain(row.code)) for row in found]}
    signs = {
        "mean": ("◆", "steered, mean over languages"),
        "clear": ("●", "steered, adjusted p below 0.05"),
        "unclear": ("○", "steered, otherwise"),
    }
    key = [KeyEntry(signs[trace["meta"]][1], signs[trace["meta"]][0], ACCENT, trace["meta"]) for trace in blue]
    return Figure("difference", title, caption, [*grey, *blue], layout, narrow, key=(*key, *grey_key))


def _written(found: Reading, write: Callable[[float | None], str]) -> str:
    return f"{write(found.value)} {interval(write(found.low), write(found.high))}".rstrip()


def comparison_table(found: Sequence[Comparison], *, title: str, caption: str, folded: bool = False) -> Table:
    """List every number of an evaluation.

    Args:
        found: from `read_comparisons`.
        title: what is shown.
        caption: measure, n and interval level.
        folded: shown on demand.

    Returns:
        One row per language.
    """
    header = ("language", "n", "baseline %", "steered %", "difference, points", "p", "p adjusted")
    rows = tuple(
        (
            row.title,
            row.size,
            _written(row.baseline, percent),
            _written(row.steered, percent),
            _written(row.difference, points),
            p_value(row.p),
            p_value(row.p_adjusted),
        )
        for row in found
    )
    return Table(title, caption, header, rows, folded=folded)
