"""How a router adapter was made from a plan: every ridge and strength, the probes, how close it is to the plan."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from isogloss.learning.adapt_records import AdaptReport, CurvePoint, ProbeReading
from isogloss.reports.figures import (
    GREY,
    Figure,
    Section,
    Style,
    Table,
    base_layout,
    marked_line,
    ordered_styles,
)
from isogloss.reports.metrics import Metric
from isogloss.reports.text import hover, label, name, number, percent, sentence

_DIVERGENCE = "-kl"
_PARTS = ("text", "prompt", "answer")


def describe_adapter(report: AdaptReport) -> tuple[str, ...]:
    """Say what was chosen, under which bound, what it gains on the items that chose it, and how much leaks."""
    chosen = _chosen(report)
    unit = "nats per token" if report.bound_on == "kl" else "of the mean value"
    bound = (
        f" under a bound of {report.bound:g} {unit}; it moves {len(report.protected)} protected languages by at most "
        f"{number(max(chosen.moved.values()))}"
        if report.protected
        else ": the plan is for all requests, so the adapter acts on every token of every language, as the plan does, "
        "and no language is protected"
    )
    sentences = [f"Ridge {report.ridge:g} and strength {report.strength:g} were chosen{bound}."]
    if report.metric != _DIVERGENCE:
        metric = Metric.named(report.metric)
        before, plan, after = (fmean(each.values()) for each in (report.before, report.plan, chosen.value))
        sentences.append(
            f"On the dev items that chose it, the mean {metric.name} of {', '.join(map(name, report.targets))} is "
            f"{metric.written(after)} with the adapter, {metric.written(plan)} with the "
            f"plan and {metric.written(before)} with neither: only other items say what the adapter is "
            "worth."
        )
    same, without = (
        fmean(getattr(each, field) for each in report.agreement) for field in ("same_experts", "same_without")
    )
    sentences.append(
        f"Of the tokens in the plan's languages, {100 * same:.1f} % choose the same experts under the adapter as under "
        f"the plan, and {100 * without:.1f} % without either (mean over layers and languages)."
    )
    if report.obeyed:
        least = min(report.obeyed, key=report.obeyed.__getitem__)
        sentences.append(
            f"Of all tokens, {100 * report.obeyed[least]:.2f} % obey the plan's ban in layer {least}, where fewest do."
        )
    return tuple(sentences)


def adapter_section(report: AdaptReport) -> Section:
    """Draw the curve, and list what the probes do and how close the adapter is to the plan."""
    styles = ordered_styles(f"{ridge:g}" for ridge in dict.fromkeys(point.ridge for point in report.curve))
    figures = [_value_figure(report, styles)]
    if report.protected:
        figures.insert(0, _bound_figure(report, styles))
    probe = "of each language, which" if report.protected else "that is 1 on every token; it"
    lead = (
        f"The plan's offsets were written into the routers' weights beside a linear probe {probe} was fitted in closed "
        "form on every language of the corpus."
    )
    return Section("adapter", "Adapter", [lead], [*figures, _probe_table(report), _agreement_table(report)])


def _chosen(report: AdaptReport) -> CurvePoint:
    return next(each for each in report.curve if (each.ridge, each.strength) == (report.ridge, report.strength))


def _moved(report: AdaptReport, point: CurvePoint) -> float:
    values = point.moved.values()
    return max(values) if report.bound_on == "kl" else fmean(values)


def _bound_figure(report: AdaptReport, styles: Mapping[str, Style]) -> Figure:
    what = (
        "largest divergence of the next token in a protected language, nats"
        if report.bound_on == "kl"
        else "mean fall in the protected languages"
    )
    caption = f"How far protected languages move; those above the bound of {report.bound:g} were not tried further."
    figure = _curve_figure(report, styles, lambda point: _moved(report, point), ("adapter-bound", what, caption))
    line = {"color": GREY, "width": 1.5, "dash": "dot"}
    across = {"type": "line", "xref": "paper", "yref": "y", "x0": 0, "x1": 1, "line": line}
    figure.layout["shapes"] = [{**across, "y0": report.bound, "y1": report.bound}]
    return figure


def _value_figure(report: AdaptReport, styles: Mapping[str, Style]) -> Figure:
    def value(point: CurvePoint) -> float:
        mean = fmean(point.value.values()) if point.value else math.nan
        return -mean if report.metric == _DIVERGENCE else mean

    what = "divergence from the plan, nats per token" if report.metric == _DIVERGENCE else f"dev {report.metric}"
    languages, kept = ("the plan's languages", " that keeps the bound") if report.protected else ("all languages", "")
    caption = (
        f"Mean over {languages} of each ridge and strength{kept}. The large marker was chosen, on these very items, so "
        "that its value is biased upwards; no interval."
    )
    return _curve_figure(report, styles, value, ("adapter-value", what, caption))


def _curve_figure(
    report: AdaptReport,
    styles: Mapping[str, Style],
    value: Callable[[CurvePoint], float],
    words: tuple[str, str, str],
) -> Figure:
    """Draw one line per ridge over the strengths."""
    anchor, what, caption = words
    data, key = [], []
    for ridge, style in styles.items():
        drawn = [
            (point.strength, at, hover(f"ridge {ridge}", f"strength {point.strength:g}", number(at)))
            for point in report.curve
            if f"{point.ridge:g}" == ridge and not math.isnan(at := value(point))
        ]
        chosen = report.strength if ridge == f"{report.ridge:g}" else None
        sizes = [17 if strength == chosen else 8 for strength, *_ in drawn]
        data += [marked_line(ridge, drawn, style, size=sizes)] if drawn else []
        key.append(style.entry(ridge, f"ridge {ridge}"))
    layout = base_layout("strength", what, height=320)
    title, narrow = f"{sentence(what)} by strength", {"yaxis.title.text": "value"}
    return Figure(anchor, title, caption, data, layout, narrow, key, half=True)


def _probe_table(report: AdaptReport) -> Table:
    rows = []
    for rank in report.ranks:
        own = set(report.targets if rank == "constant" else rank.split("+"))
        for part in _PARTS:
            values = [each for each in report.probes if each.rank == rank and each.part == part]
            if values:
                cells = (
                    _extreme([each for each in values if each.language in own and each.fitted], min),
                    _extreme([each for each in values if each.language not in own and each.fitted], max),
                    _extreme([each for each in values if not each.fitted], max),
                )
                rows.append((rank, part, *cells))
    caption = (
        "Mean value of each probe over tokens and layers, strength left out, on texts that nothing was chosen on: "
        "least of its own languages, and largest of another, and of one that a fit of the same kind has not seen."
    )
    header = ("probe", "on", "own language", "largest of another", "largest of one not fitted")
    return Table("What the probes do", caption, header, rows, {0, 1, 2, 3, 4}, folded=False)


def _extreme(values: Sequence[ProbeReading], choose: Callable[..., ProbeReading]) -> str:
    if not values:
        return "none"
    reading = choose(values, key=lambda each: fmean(each.mean))
    return f"{fmean(reading.mean):.2f} ({name(reading.language)})"


def _agreement_table(report: AdaptReport) -> Table:
    rows = [
        {
            "language": label(each.language),
            "same experts unsteered, %": percent(each.same_without),
            "with the adapter, %": percent(each.same_experts),
            "KL unsteered": number(each.kl_without),
            "KL with the adapter": number(each.kl),
        }
        for each in report.agreement
    ]
    caption = (
        "Share of tokens with the plan's own experts, mean over layers, and divergence of the next token from the "
        "plan's in nats, of the unsteered model and of the adapter, on texts that nothing was chosen on."
    )
    return Table.of("How close it is to the plan", caption, rows, folded=False)
