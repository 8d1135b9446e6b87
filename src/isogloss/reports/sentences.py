"""Describe results in plain sentences."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean, median

from isogloss.analysis import Analysis, Estimate, ExpertTable
from isogloss.analysis.mantel import MantelTest
from isogloss.evaluation.arms import PLAN
from isogloss.evaluation.paired import outcome_of
from isogloss.evaluation.summary import EvaluationSummary
from isogloss.languages import display_name
from isogloss.reports.metrics import Metric, arm_text, is_random
from isogloss.reports.text import name

__all__ = ["describe_analysis", "describe_evaluation", "describe_experts", "describe_run"]

_SIGNIFICANT = 0.05
_OUTCOMES = {"better": "steering helps", "worse": "steering hurts", None: "no significant effect"}
_REMAINS = {
    (True, True): "still significant",
    (True, False): "no longer significant",
    (False, True): "significant",
    (False, False): "still not significant",
}
"""Significance without and with control variables -> words for the latter."""


def describe_analysis(analysis: Analysis) -> tuple[str, ...]:
    """Describe in which layers languages are routed alike, with 95 % intervals."""
    return (_shape(analysis), *_nearest(analysis))


def describe_run(analysis: Analysis) -> tuple[str, ...]:
    """Describe a Run's analysis: middle layers, what routing is related to, and what remains after controls."""
    parts = (_structure, _accuracy, _resources, _distinct, _hidden, _phases, _domain)
    return (*describe_analysis(analysis), *(sentence for part in parts for sentence in part(analysis)))


def describe_experts(experts: ExpertTable) -> str:
    """Describe how many experts a rule selected and how many are expected by chance."""
    chance = "" if experts.expected_by_chance is None else f"; {experts.expected_by_chance:.1f} expected by chance"
    return (
        f"{len(experts.experts)} task experts pass the Δ rule at {experts.parameters['threshold']:g} "
        f"in the steered layers{chance}."
    )


def describe_evaluation(summary: EvaluationSummary | None) -> tuple[str, ...]:
    """Describe whether steering helped, what it cost the pivot, and what the controls changed.

    Args:
        summary: of the evaluation; None where no plan was made.

    Returns:
        Three sentences or more, in the unit of the metric: shares in percent, their differences in percentage points.
    """
    if summary is None:
        return ("No plan was made, so nothing was evaluated.",)
    metric = Metric.of(summary)
    return (
        *_overall(summary, metric),
        _by_language(summary, metric),
        *_guard(summary, metric),
        *_controls(summary, metric),
    )


def _pivots(analysis: Analysis) -> str:
    return " and ".join(map(display_name, analysis.pivots))


def _shape(analysis: Analysis) -> str:
    middle = analysis.middle_layers
    if middle is None:
        return f"Middle layers were not computed: {analysis.refused.get('middle_layers')}."
    span = f"layers {middle.start}-{middle.end}"
    if middle.start_interval and middle.end_interval:
        span += (
            f" (bootstrap intervals: start {middle.start_interval[0]}-{middle.start_interval[1]}, "
            f"end {middle.end_interval[0]}-{middle.end_interval[1]})"
        )
    depth = _interval(middle.depth)
    if middle.is_u_shape:
        return (
            f"Divergence from {_pivots(analysis)} is lower in the middle layers than before and after: in {span} it "
            f"is lower by {depth}."
        )
    return (
        f"Divergence is not U-shaped as in the papers: {span} are the middle segment, but divergence there is not "
        f"lower than both before and after (outer minus middle: {depth})."
    )


def _nearest(analysis: Analysis) -> list[str]:
    if analysis.middle_layers is None or len(analysis.divergence) < 2:  # noqa: PLR2004 - nothing to rank
        return []
    start, end = analysis.middle
    inside = [i for i, layer in enumerate(analysis.layers) if start <= layer <= end]
    mean = {
        language: sum(curve[i].value for i in inside) / len(inside) for language, curve in analysis.divergence.items()
    }
    ranked = sorted(mean, key=mean.__getitem__)
    near, far = ranked[0], ranked[-1]
    nearest = f"{display_name(near)} is routed most like {_pivots(analysis)} (mean divergence {mean[near]:.3f})"
    return [f"In the middle layers {nearest} and {display_name(far)} least ({mean[far]:.3f})."]


def _inner(analysis: Analysis) -> str:
    """Return the band to describe: the middle, or the first if no band has that name."""
    return "middle" if "middle" in analysis.bands else next(iter(analysis.bands))


def _where(analysis: Analysis) -> str:
    first, last = analysis.bands[_inner(analysis)]
    return f"in the {_inner(analysis)} layers ({first}-{last})"


def _structure(analysis: Analysis) -> Iterator[str]:
    structure = analysis.structure
    if structure is None or "genealogical" not in structure.bands[_inner(analysis)].tests:
        return
    test = structure.bands[_inner(analysis)].tests["genealogical"]
    follows = test.plain.p_value < _SIGNIFICANT
    controlled = ""
    if test.partial is not None:
        remains = _REMAINS[follows, test.partial.p_value < _SIGNIFICANT]
        rivals = " and ".join(test.partial.controls).replace("_", " ")
        controlled = f"; after controlling for {rivals}: {remains} ({_mantel(test.partial)})"
    verdict = "follows" if follows else "does not significantly follow"
    n = test.plain.correlation.n
    yield f"Routing {verdict} genealogy {_where(analysis)}: {_mantel(test.plain)}, n = {n} languages{controlled}."
    match = structure.matches.get("genealogical")
    if match is not None:
        yield (
            f"Genealogy matches best in layer {match.layer} (p = {match.p_value:.3f}, corrected for "
            f"searching {len(structure.layers)} layers)."
        )


def _mantel(test: MantelTest) -> str:
    return f"Mantel r {_interval(test.correlation)}, p = {test.p_value:.3f}"


def _accuracy(analysis: Analysis) -> Iterator[str]:
    correlation = analysis.accuracy.get(_inner(analysis))
    if correlation is not None:
        least, greatest = correlation.leave_one_out
        yield (
            f"Accuracy against divergence {_where(analysis)}: Pearson {_interval(correlation.pearson)}, "
            f"Spearman {_interval(correlation.spearman)}, n = {correlation.pearson.n} languages; without any "
            f"one of them Pearson lies between {least:.2f} and {greatest:.2f}."
        )


def _resources(analysis: Analysis) -> Iterator[str]:
    resources = analysis.resources
    if resources is None:
        return
    sizes = resources.column("coverage", _inner(analysis))
    few, many = min(sizes, key=sizes.__getitem__), max(sizes, key=sizes.__getitem__)
    yield (
        f"{resources.rule.coverage:.0%} of a language's expert selections {_where(analysis)} go to {sizes[few]:.1f} "
        f"({display_name(few)}) to {sizes[many]:.1f} ({display_name(many)}) of {analysis.n_experts} experts per layer."
    )


def _distinct(analysis: Analysis) -> Iterator[str]:
    distinct = analysis.controls.distinct
    if distinct is None:
        return
    known = [code for code, curve in distinct.divergence.items() if all(point.n for point in curve)]
    if known:
        means = (analysis.by_band(curves) for curves in (distinct.divergence, analysis.divergence))
        own, everything = (fmean(mean[code][_inner(analysis)] for code in known) for mean in means)
        share, pivot = median(distinct.share[code] for code in known), display_name(analysis.pivots[0])
        yield (
            f"On tokens that do not occur in {pivot} (median share per language: {share:.0%}), mean divergence "
            f"{_where(analysis)} is {own:.3f}, compared with {everything:.3f} on all tokens."
        )


def _hidden(analysis: Analysis) -> Iterator[str]:
    hidden = analysis.controls.hidden
    if hidden is not None and hidden.mirror:
        mirrored = [correlation.pearson for correlation in hidden.mirror]
        mean = analysis.over_band([point.value for point in mirrored], _inner(analysis))
        yield (
            "Across languages, the divergence of routing correlates with that of the routers' inputs: Pearson "
            f"{mean:.2f}, mean {_where(analysis)}, n = {mirrored[0].n}."
        )


def _phases(analysis: Analysis) -> Iterator[str]:
    if analysis.controls.phases:
        apart = fmean(mean[_inner(analysis)] for mean in analysis.by_band(analysis.controls.phases).values())
        yield f"Mean divergence between generated text and its prompt {_where(analysis)}: {apart:.3f}."


def _domain(analysis: Analysis) -> Iterator[str]:
    domain = analysis.domain
    if domain is None or domain.rise is None:
        return
    low, high = domain.rise.low, domain.rise.high
    verdict = "more" if low > 0 else "less" if high < 0 else "neither significantly more nor less"
    yield (
        f"The routing of {domain.corpus} diverges from that of {domain.base} {verdict} in the middle layers than in "
        f"the others: by {_interval(domain.rise)}, after subtracting the divergence between unrelated texts."
    )


def _overall(summary: EvaluationSummary, metric: Metric) -> Iterator[str]:
    """Describe the mean over languages; add the result for exactly these languages if it is different."""
    overall, n = summary.overall, len(summary.per_language)
    yield (
        f"Mean {metric.name} over {n} languages{metric.direction}: {metric.value_text(overall.baseline)} unsteered, "
        f"{metric.value_text(overall.steered)} steered; difference {metric.change_text(overall.difference)}: "
        f"{_OUTCOMES[summary.outcome]}."
    )
    these = summary.overall_these_languages.difference
    outcome = outcome_of(these, summary.better)
    if outcome != summary.outcome:
        yield (
            f"That interval is for a population of similar languages; for exactly these {n} (only items resampled), "
            f"the difference is {metric.change_text(these)}: {_OUTCOMES[outcome]}."
        )


def _by_language(summary: EvaluationSummary, metric: Metric) -> str:
    """List the languages with a significant difference, improvements first."""
    better: list[str] = []
    worse: list[str] = []
    for code, row in summary.significant.items():
        if row.difference.value:
            gains = (row.difference.value > 0) == (summary.better == "higher")
            (better if gains else worse).append(f"{name(code)} {metric.change_text(row.difference)}")
    if not better and not worse:
        return "In no single language is the difference significant after Holm's correction."
    parts = [f"{word} in {', '.join(texts)}" for word, texts in (("better", better), ("worse", worse)) if texts]
    return f"Significant after Holm's correction: {'; '.join(parts)}."


def _guard(summary: EvaluationSummary, metric: Metric) -> Iterator[str]:
    """Describe whether the plan costs the pivot more than a margin; nothing if the pivot was not evaluated."""
    guard = summary.guard.get(PLAN)
    if guard is None:
        return
    pivot, margin = name(summary.pivot), f"{metric.value(guard.margin)}{metric.points}"
    bounds = f"one-sided {100 * guard.level:g} % bounds {metric.change(guard.low)} and {metric.change(guard.high)}"
    bound = bounds if guard.gain.has_interval else "no bound, since no score changed"
    change = f"gain {metric.change(guard.change)}{metric.points}, {bound}, n = {guard.n}"
    yield {
        "pass": f"{pivot} is not harmed: a loss of more than {margin} is ruled out ({change}).",
        "fail": f"{pivot} is harmed: it loses more than {margin} ({change}).",
        "undecided": f"Whether {pivot} loses more than {margin} is undecided ({change}): more items are needed.",
    }[guard.verdict]


def _controls(summary: EvaluationSummary, metric: Metric) -> Iterator[str]:
    """Describe the effects of the other arms: those with random experts first, then the others."""
    changes = {arm: metric.change_text(each.overall.difference) for arm, each in summary.controls.items()}
    random = [f"{arm} {change}" for arm, change in changes.items() if is_random(arm)]
    others = [f"{arm_text(arm)} {change}" for arm, change in changes.items() if not is_random(arm)]
    if random:
        yield f"The same number of random experts per layer changes the mean by: {'; '.join(random)}."
    if others:
        yield f"Other arms change the mean by: {'; '.join(others)}."
    if not changes:
        yield "No control was run."


def _interval(estimate: Estimate) -> str:
    return estimate.text() if estimate.has_interval else f"{estimate.text()} (no interval)"
