"""Several Runs, or several evaluations, over each other: curves in one figure, effects in one forest, one row each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from isogloss.analysis import Analysis, DivergenceChange
from isogloss.evaluation import EvaluationSummary
from isogloss.reports.curves import FROM_ZERO, LinePlot, curve_figure, mean_divergence
from isogloss.reports.figures import (
    MAX_COLOURS,
    ZERO_LINE,
    Dot,
    Figure,
    KeyEntry,
    Section,
    Table,
    dot_traces,
    language_rows,
    offsets,
    ordered_styles,
    row_scale,
    striped_rows,
    stripes,
)
from isogloss.reports.metrics import Metric
from isogloss.reports.text import MISSING, hover, label, plain, plot_text, with_interval
from isogloss.reports.verdicts import verdicts
from isogloss.statistics import Estimate

__all__ = ["evaluations_section", "runs_section"]

_ROW = 30


def runs_section(runs: Mapping[str, Analysis], changes: Mapping[str, DivergenceChange] | None = None) -> Section:
    """Draw the mean divergence of every Run over layers, and list where its languages meet and what routing follows.

    Args:
        runs: by name.
        changes: of the Runs that hold the first one's texts, by name: how their divergence differs from its.
    """
    depth = len({analysis.layers for analysis in runs.values()}) > 1
    blocks: list[Figure | Table] = [_run_figure(runs, relative=depth)]
    lead = [_lead_curves(runs)] if all(analysis.translations for analysis in runs.values()) else []
    blocks += [_change_figure(next(iter(runs)), changes)] if changes else []
    blocks += [_lead_figure(curves, relative=depth) for curves in lead]
    blocks.append(_run_table(runs))
    languages = {analysis.languages for analysis in runs.values()}
    texts = ["One curve per Run: the mean over its languages of the divergence from its pivot."]
    if depth:
        texts.append("The models have different layers, so that they are drawn by their share of the depth.")
    if len(languages) > 1:
        texts.append("The Runs are of different languages: their means are not of the same thing.")
    if changes and (others := [plain(name) for name in [*runs][1:] if name not in changes]):
        texts.append(
            f"Without a difference item by item, since their texts are not those of the first: {', '.join(others)}."
        )
    return Section("runs", "Runs over each other", texts, blocks)


def _lead_curves(runs: Mapping[str, Analysis]) -> dict[str, dict[int, Estimate]]:
    return {
        name: dict(zip(each.layers, each.translations.excess, strict=False))
        for name, each in runs.items()
        if each.translations
    }


def _run_figure(runs: Mapping[str, Analysis], *, relative: bool) -> Figure:
    curves = {name: mean_divergence(analysis) for name, analysis in runs.items()}
    caption = "Mean over the languages of each Run. Band: 95 % bootstrap over items; languages are fixed."
    return _drawn(
        "runs-divergence", "Divergence from the pivot, Run by Run", caption, "divergence", curves, relative=relative
    )


def _lead_figure(curves: Mapping[str, Mapping[int, Estimate]], *, relative: bool) -> Figure:
    caption = (
        "Divergence between items that are no translations minus that of translations, mean over languages. Band: 95 %"
        " bootstrap over items."
    )
    title = "Lead of translations over other texts, Run by Run"
    return _drawn("runs-lead", title, caption, "divergence of others − of translations", curves, relative=relative)


def _change_figure(first: str, changes: Mapping[str, DivergenceChange]) -> Figure:
    curves = {name: dict(zip(each.layers, each.mean_change, strict=True)) for name, each in changes.items()}
    caption = (
        f"Divergence in each Run minus that in {plain(first)}, item by item, mean over languages; below 0 they are "
        "routed more alike. Band: 95 % bootstrap over items, the same in both Runs."
    )
    title, unit = f"Change of divergence against {plain(first)}", "divergence − divergence before"
    return _drawn("runs-change", title, caption, unit, curves, axis=ZERO_LINE)


def _drawn(  # noqa: PLR0913 - texts, and how the axes run
    anchor: str,
    title: str,
    caption: str,
    unit: str,
    curves: Mapping[str, Mapping[int, Estimate]],
    *,
    relative: bool = False,
    axis: Mapping[str, Any] = FROM_ZERO,
) -> Figure:
    styles = ordered_styles(curves)
    figure = curve_figure(LinePlot(anchor, title, caption, unit, curves, styles, axis=axis))
    key = [KeyEntry(plain(name), style.sign, style.colour, name) for name, style in styles.items()]
    if not relative:
        return replace(figure, key=key)
    ends = {name: (min(curve), max(curve)) for name, curve in curves.items()}
    data = []
    for trace in figure.data:
        first, last = ends[trace["meta"]]
        x = [None if at is None else (at - first) / ((last - first) or 1) for at in trace["x"]]
        data.append({**trace, "x": x})
    axis = {**figure.layout["xaxis"], "range": [-0.02, 1.02]}
    axis["title"] = {**axis["title"], "text": "share of the depth"}
    return replace(figure, data=data, key=key, layout={**figure.layout, "xaxis": axis})


def _run_table(runs: Mapping[str, Analysis]) -> Table:
    rows = []
    for name, analysis in runs.items():
        meeting, following, _ = verdicts(analysis, None)
        middle, lead = analysis.middle_layers, analysis.translations
        rows.append(
            (
                plain(name),
                plain(analysis.manifest.model) if analysis.manifest else MISSING,
                f"{len(analysis.languages)}",
                meeting.answer,
                with_interval(middle.depth) if middle else MISSING,
                with_interval(lead.rise) if lead and lead.rise else MISSING,
                following.answer,
            )
        )
    header = ("run", "model", "languages", "languages meet", "outer − inner", "lead, inner − outer", "routing follows")
    caption = "One row per Run, by the one rule for verdicts. Brackets: 95 % intervals over items."
    return Table("Runs", caption, header, rows, {0, 1, 3, 6}, folded=False)


def evaluations_section(evaluations: Mapping[str, EvaluationSummary]) -> Section:
    """Draw what every plan changed, overall and by language, metric by metric, and list it."""
    metrics: dict[str, dict[str, EvaluationSummary]] = {}
    for name, summary in evaluations.items():
        metrics.setdefault(Metric.of(summary).name, {})[name] = summary
    blocks: list[Figure | Table] = []
    for place, each in enumerate(metrics.values(), start=1):
        blocks += _figures(each, place)
    blocks.append(_evaluation_table(evaluations))
    lead = "One row per evaluation: what its plan changed, and how it compares with its random plans."
    return Section("evaluations", "Evaluations over each other", [lead], blocks)


def _figures(evaluations: Mapping[str, EvaluationSummary], place: int) -> Iterator[Figure]:
    metric = Metric.of(next(iter(evaluations.values())))
    unit = plot_text(f"difference, {'percentage points' if metric.is_share else metric.name}{metric.direction}")
    title = f"Change in mean {metric.name}, evaluation by evaluation"
    yield _overall_figure(evaluations, metric, anchor=f"evaluations-{place}", title=title, unit=unit)
    codes = sorted({code for summary in evaluations.values() for code in summary.per_language}, key=label)
    styles = ordered_styles(list(evaluations)[:MAX_COLOURS])
    dots: dict[str, list[Dot]] = {}
    for name, offset in zip(styles, offsets(len(styles)), strict=True):
        for code, row in evaluations[name].per_language.items():
            text = hover(label(code), f"{name}: {metric.change_text(row.difference)}", f"n = {row.difference.n:,}")
            dots.setdefault(name, []).append(
                Dot(row.difference.scaled(metric.factor), codes.index(code) + offset, text)
            )
    data, key = dot_traces(dots, styles)
    layout, narrow = language_rows(codes, unit, frame=84, x_axis=ZERO_LINE)
    layout["shapes"] = stripes(range(0, len(codes), 2))
    layout["height"] += max(0, 8 * len(styles) - row_scale(len(codes)).height) * len(codes)
    left = len(evaluations) - len(styles)
    more = f" {left} more are in the table." if left else ""
    caption = f"Plan minus baseline in every language, with 95 % intervals over items.{more}"
    title = f"Change in {metric.name} by language, evaluation by evaluation"
    rows = dict(enumerate(codes))
    yield Figure(f"evaluations-languages-{place}", title, caption, data, layout, narrow, key, rows)


def _overall_figure(
    evaluations: Mapping[str, EvaluationSummary], metric: Metric, *, anchor: str, title: str, unit: str
) -> Figure:
    look = list(ordered_styles("ab").values())
    styles = {
        "plan − baseline": replace(look[0], size=10),
        "plan − random plans": replace(look[1], size=9),
    }
    dots: dict[str, list[Dot]] = {}
    for row, (name, summary) in enumerate(evaluations.items()):
        changes = {"plan − baseline": summary.overall.difference}
        if summary.against_random:
            changes["plan − random plans"] = summary.against_random.difference
        for place, (group, change) in enumerate(changes.items()):
            text = hover(name, f"{group}: {metric.change_text(change)}", f"n = {change.n:,} languages")
            dots.setdefault(group, []).append(Dot(change.scaled(metric.factor), row - 0.15 + 0.3 * place, text))
    data, key = dot_traces(dots, styles)
    layout = striped_rows(list(map(plot_text, evaluations)), unit, height=84 + _ROW * len(evaluations), **ZERO_LINE)
    caption = "Mean over languages. Intervals: 95 % bootstrap over languages and items, and random plans."
    return Figure(anchor, title, caption, data, layout, key=key)


def _evaluation_table(evaluations: Mapping[str, EvaluationSummary]) -> Table:
    rows = []
    for name, summary in evaluations.items():
        metric, overall = Metric.of(summary), summary.overall
        (helped,) = verdicts(None, summary)
        against = summary.against_random
        rows.append(
            (
                plain(name),
                plain(summary.model),
                plain(summary.task),
                f"{metric.name}{metric.direction}",
                f"{len(summary.per_language)}",
                metric.value_text(overall.baseline),
                metric.value_text(overall.steered),
                metric.change_text(overall.difference),
                metric.change_text(against.difference) if against else MISSING,
                helped.answer,
            )
        )
    scores = ("baseline", "steered", "difference", "plan − random plans")
    header = ("evaluation", "model", "task", "metric", "languages", *scores, "verdict")
    caption = "One row per evaluation, by the one rule for verdicts. Brackets: 95 % intervals."
    return Table("Evaluations", caption, header, rows, {0, 1, 2, 3, 9}, folded=False)
