"""Steered against baseline: one dot and interval per language, controls beside them, and all the numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from isogloss.evaluation.arms import PLAN
from isogloss.reports.dots import dots, named_rows, stripes
from isogloss.reports.figures import ACCENT, GREY, INK, Figure, KeyEntry, base_layout
from isogloss.reports.tables import known_table
from isogloss.reports.text import label, name, p_value, plain, plot_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from isogloss.evaluation.paired import Comparison
    from isogloss.evaluation.summary import EvaluationSummary, SummaryRow
    from isogloss.reports.figures import Table
    from isogloss.reports.metrics import Metric

__all__ = ["CONTROL_COLOUR", "axis_title", "comparison_table", "difference_figure"]

CONTROL_COLOUR = "#7f8792"

_OVERALL = "Mean over languages"
_CONTROL_SIGNS = (
    ("circle-open", "○"),
    ("square-open", "□"),
    ("diamond-open", "◇"),
    ("triangle-up-open", "△"),
    ("x", "×"),
)
_SOLID: dict[str, Any] = {"size": 9, "color": ACCENT, "symbol": "circle", "line": {"width": 1.8, "color": ACCENT}}
_KINDS = {
    "mean": ({**_SOLID, "size": 11, "symbol": "diamond"}, "◆", "steered, mean over languages"),
    "clear": (_SOLID, "●", "steered, adjusted p below 0.05"),
    "unclear": ({**_SOLID, "color": "#ffffff"}, "○", "steered, otherwise"),
}


def _title(code: str) -> str:
    return label(code) if code else _OVERALL


def _size(code: str, n: int) -> str:
    """Say how many items are behind a language, or how many languages behind the mean."""
    return f"{n:,}" if code else f"{n:,} language{'' if n == 1 else 's'}"


def _ranked(comparison: Comparison) -> list[str]:
    """List the mean over languages, then each language from the greatest gain to the least."""
    sign = 1.0 if comparison.better == "lower" else -1.0
    each = comparison.per_language
    return ["", *sorted(each, key=lambda code: (sign * each[code].difference.value, label(code)))]


def _hover(row: SummaryRow, arm: str, metric: Metric) -> str:
    tests = "" if row.p_adjusted is None else f"<br>p adjusted {plot_text(p_value(row.p_adjusted))}"
    values = f"{metric.value(row.baseline)} → {metric.value(row.steered)}{metric.percent}"
    size = _size(row.language, row.n)
    return (
        f"<b>{plot_text(_title(row.language))}</b><br>{plot_text(arm)}<br>{values}<br>"
        f"{metric.change_text(row.estimate)}{tests}<br>n = {size}"
    )


def _kind(row: SummaryRow) -> str:
    return "mean" if not row.language else "clear" if row.is_significant else "unclear"


def _offset(number: int, of: int) -> float:
    """Height of one dot within the row of its language, from the top."""
    return 0.0 if of == 1 else 0.28 - 0.56 * number / (of - 1)


def difference_figure(
    summary: EvaluationSummary, controls: Sequence[str], *, metric: Metric, title: str, caption: str
) -> Figure:
    """Draw the difference of each language with its interval, sorted, around zero.

    Args:
        summary: of the evaluation.
        controls: that are drawn in grey below the dots of each language.
        metric: of the scores.
        title: what is shown.
        caption: measure, n and interval level.
    """
    ranked = _ranked(summary)
    top = len(ranked) - 1
    heights = {code: top - place for place, code in enumerate(ranked)}
    rows = {(row.arm, row.language): row for row in summary.rows()}

    def trace(
        group: str, arm: str, codes: Iterable[str], *, number: int, look: tuple[Mapping[str, Any], str, float]
    ) -> dict[str, Any]:
        shown = [rows[arm, code] for code in codes]
        return dots(
            group,
            [row.estimate.scaled(metric.factor) for row in shown],
            [heights[row.language] + _offset(number, len(controls) + 1) for row in shown],
            marker=look[0],
            bars=look[1:],
            hover=[_hover(row, "steered" if arm == PLAN else arm, metric) for row in shown],
        )

    grey, blue, key, grey_key = [], [], [], []
    for number, arm in enumerate(controls):
        symbol, sign = _CONTROL_SIGNS[number % len(_CONTROL_SIGNS)]
        look = ({"size": 6, "symbol": symbol, "color": CONTROL_COLOUR}, CONTROL_COLOUR, 1.0)
        group = f"control {number}"
        grey.append(trace(group, arm, _ranked(summary.controls[arm]), number=number + 1, look=look))
        grey_key.append(KeyEntry(f"control: {plain(arm)}", sign, GREY, group))
    for kind, (marker, sign, text) in _KINDS.items():
        if codes := [code for code in ranked if _kind(rows[PLAN, code]) == kind]:
            blue.append(trace(kind, PLAN, codes, number=0, look=(marker, ACCENT, 1.8)))
            key.append(KeyEntry(text, sign, ACCENT, kind))
    layout = base_layout(axis_title(metric), "", height=90 + (24 + 9 * len(grey)) * len(ranked))
    names = {heights[code]: plot_text(name(code)) if code else f"<b>{_OVERALL}</b>" for code in ranked}
    layout["yaxis"].update(named_rows(names), range=[-0.5, top + 0.5], showgrid=False)
    layout["xaxis"].update(showgrid=True, zeroline=True, zerolinecolor=INK, zerolinewidth=1)
    layout["shapes"] = stripes(range(top, -1, -2))
    narrow = {"yaxis.ticktext": [plot_text(plain(code)) if code else "<b>mean</b>" for code in ranked]}
    return Figure("difference", title, caption, [*grey, *blue], layout, narrow, key=(*key, *grey_key))


def axis_title(metric: Metric) -> str:
    """Name the axis of differences, escaped for plotly, and say which direction is better where it is not plain."""
    unit = "percentage points" if metric.is_share else metric.name
    return plot_text(f"steered − baseline, {unit}{metric.direction}")


def comparison_table(
    comparison: Comparison, *, metric: Metric, title: str, caption: str, folded: bool = False
) -> Table:
    """List every number of a comparison: the mean over languages, then each language.

    Args:
        comparison: of an arm with the baseline.
        metric: of the scores.
        title: what is shown.
        caption: measure, n and interval level.
        folded: shown on demand.
    """
    change = f"difference{metric.points and ', points'}"
    header = ("language", "n", f"baseline{metric.percent}", f"steered{metric.percent}", change)
    rows = []
    for code in _ranked(comparison):
        row = comparison.per_language[code] if code else comparison.overall
        tested = comparison.per_language.get(code)
        p_values = (tested.p_value, tested.p_adjusted, tested.p_bh) if tested else (None, None, None)
        rows.append((
            _title(code),
            _size(code, row.difference.n),
            *(each.text(metric.value) for each in (row.baseline, row.steered)),
            row.difference.text(metric.change),
            *map(p_value, p_values),
            metric.value(row.minimum_detectable),
        ))  # fmt: skip
    return known_table(title, caption, (*header, "p", "p Holm", "p BH", "detectable"), rows, folded=folded)
