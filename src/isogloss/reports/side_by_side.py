"""Several Runs, or several evaluations, over each other: curves in one figure, effects in one forest, one row each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from isogloss.analysis import Analysis, DivergenceChange
from isogloss.evaluation import EvaluationSummary
from isogloss.reports.curves import LinePlot, curve_figure, mean_divergence
from isogloss.reports.effect_figures import AGAINST
from isogloss.reports.figures import (
    MAX_COLOURS,
    ZERO_LINE,
    Dot,
    Figure,
    RowPlot,
    Section,
    Table,
    language_rows,
    named_rows,
    offsets,
    ordered_styles,
    row_figure,
    row_scale,
)
from isogloss.reports.metrics import Metric
from isogloss.reports.text import MISSING, hover, label, plain, with_interval
from isogloss.reports.verdicts import verdicts


def runs_section(runs: Mapping[str, Analysis], changes: Mapping[str, DivergenceChange] | None = None) -> Section:
    """Draw the mean divergence of every Run over layers, and list where its languages meet and what routing follows.

    Args:
        runs: by name.
        changes: of the Runs that hold the first one's texts, by name: how their divergence differs from its.
    """
    relative = len({analysis.layers for analysis in runs.values()}) > 1
    texts = ["One curve per Run: the mean over its languages of the divergence from its pivot."]
    if relative:
        texts.append("The models have different layers, so that they are drawn by their share of the depth.")
    if len({analysis.languages for analysis in runs.values()}) > 1:
        texts.append("The Runs are of different languages: their means are not of the same thing.")
    if changes and (others := [plain(name) for name in [*runs][1:] if name not in changes]):
        texts.append(
            f"Without a difference item by item, since their texts are not those of the first: {', '.join(others)}."
        )
    figures = _run_figures(runs, changes, relative=relative)
    return Section("runs", "Runs over each other", texts, [*figures, _run_table(runs)])


def _run_figures(
    runs: Mapping[str, Analysis], changes: Mapping[str, DivergenceChange] | None, *, relative: bool
) -> Iterator[Figure]:
    curves = {name: mean_divergence(analysis) for name, analysis in runs.items()}
    caption = "Mean over the languages of each Run. Band: 95 % bootstrap over items; languages are fixed."
    title = "Divergence from the pivot, Run by Run"
    yield _drawn(LinePlot("runs-divergence", title, caption, "divergence", curves), relative=relative)
    if changes:
        first = plain(next(iter(runs)))
        curves = {name: dict(zip(each.layers, each.mean_change, strict=True)) for name, each in changes.items()}
        caption = (
            f"Divergence in each Run minus that in {first}, item by item, mean over languages; below 0 they are routed"
            " more alike. Band: 95 % bootstrap over items, the same in both Runs."
        )
        title, unit = f"Change of divergence against {first}", "divergence − divergence before"
        yield _drawn(LinePlot("runs-change", title, caption, unit, curves, axis=ZERO_LINE))
    leads = {name: (each.layers, each.translations.excess) for name, each in runs.items() if each.translations}
    if len(leads) == len(runs):
        caption = (
            "Divergence between items that are no translations minus that of translations, mean over languages. Band:"
            " 95 % bootstrap over items."
        )
        title, unit = "Lead of translations over other texts, Run by Run", "divergence of others − of translations"
        curves = {name: dict(zip(*each, strict=False)) for name, each in leads.items()}
        yield _drawn(LinePlot("runs-lead", title, caption, unit, curves), relative=relative)


def _drawn(plot: LinePlot, *, relative: bool = False) -> Figure:
    """Draw curves of Runs, by layer or by the share of each model's depth."""
    styles = ordered_styles(plot.curves)
    figure = replace(
        curve_figure(replace(plot, styles=styles)), key=[style.entry(name) for name, style in styles.items()]
    )
    if not relative:
        return figure
    ends = {name: (min(curve), max(curve)) for name, curve in plot.curves.items()}
    data = []
    for trace in figure.data:
        first, last = ends[trace["meta"]]
        x = [None if at is None else (at - first) / ((last - first) or 1) for at in trace["x"]]
        data.append({**trace, "x": x})
    axis = {**figure.layout["xaxis"], "range": [-0.02, 1.02]}
    axis["title"] = {**axis["title"], "text": "share of the depth"}
    return replace(figure, data=data, layout={**figure.layout, "xaxis": axis})


def _run_table(runs: Mapping[str, Analysis]) -> Table:
    rows = []
    for name, analysis in runs.items():
        meeting, following, _ = verdicts(analysis, None)
        middle, lead = analysis.middle_layers, analysis.translations
        rows.append(
            {
                "run": plain(name),
                "model": plain(analysis.manifest.model) if analysis.manifest else MISSING,
                "languages": f"{len(analysis.languages)}",
                "languages meet": meeting.answer,
                "outer − inner": with_interval(middle.depth) if middle else MISSING,
                "lead, inner − outer": with_interval(lead.rise) if lead and lead.rise else MISSING,
                "routing follows": following.answer,
            }
        )
    caption = "One row per Run, by the one rule for verdicts. Brackets: 95 % intervals over items."
    return Table.of("Runs", caption, rows, words=("model", "languages meet", "routing follows"), folded=False)


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
    unit = f"difference, {metric.change_unit}{metric.direction}"
    yield _overall_figure(evaluations, metric, f"evaluations-{place}", unit)
    codes = sorted({code for summary in evaluations.values() for code in summary.per_language}, key=label)
    styles = ordered_styles(list(evaluations)[:MAX_COLOURS])
    dots = []
    for name, offset in zip(styles, offsets(len(styles)), strict=True):
        for code, row in evaluations[name].per_language.items():
            text = hover(label(code), f"{name}: {metric.change_text(row.difference)}", f"n = {row.difference.n:,}")
            dots.append(Dot(name, row.difference.scaled(metric.factor), codes.index(code) + offset, text))
    left = len(evaluations) - len(styles)
    more = f" {left} more are in the table." if left else ""
    caption = f"Plan minus baseline in every language, with 95 % intervals over items.{more}"
    title = f"Change in {metric.name} by language, evaluation by evaluation"
    anchor, rows = f"evaluations-languages-{place}", language_rows(codes)
    height = max(8 * len(styles), row_scale(len(codes)).height)
    yield row_figure(RowPlot(anchor, title, caption, unit, rows, dots, styles, height=height))


def _overall_figure(evaluations: Mapping[str, EvaluationSummary], metric: Metric, anchor: str, unit: str) -> Figure:
    first, second = ordered_styles("ab").values()
    styles = {"plan − baseline": replace(first, size=10), AGAINST: replace(second, size=9)}
    dots = []
    for row, (name, summary) in enumerate(evaluations.items()):
        changes = [summary.overall.difference]
        changes += [summary.against_random.difference] if summary.against_random else []
        for group, change, offset in zip(styles, changes, (-0.15, 0.15), strict=False):
            text = hover(name, f"{group}: {metric.change_text(change)}", f"n = {change.n:,} languages")
            dots.append(Dot(group, change.scaled(metric.factor), row + offset, text))
    title = f"Change in mean {metric.name}, evaluation by evaluation"
    caption = "Mean over languages. Intervals: 95 % bootstrap over languages and items, and random plans."
    return row_figure(RowPlot(anchor, title, caption, unit, named_rows(evaluations), dots, styles, height=30))


def _evaluation_table(evaluations: Mapping[str, EvaluationSummary]) -> Table:
    rows = []
    for name, summary in evaluations.items():
        metric, overall, against = Metric.of(summary), summary.overall, summary.against_random
        (helped,) = verdicts(None, summary)
        rows.append(
            {
                "evaluation": plain(name),
                "model": plain(summary.model),
                "task": plain(summary.task),
                "metric": f"{metric.name}{metric.direction}",
                "languages": f"{len(summary.per_language)}",
                "baseline": metric.value_text(overall.baseline),
                "steered": metric.value_text(overall.steered),
                "difference": metric.change_text(overall.difference),
                AGAINST: metric.change_text(against.difference) if against else MISSING,
                "verdict": helped.answer,
            }
        )
    caption = "One row per evaluation, by the one rule for verdicts. Brackets: 95 % intervals."
    return Table.of("Evaluations", caption, rows, words=("model", "task", "metric", "verdict"), folded=False)
