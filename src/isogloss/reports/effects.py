"""Sentences on an evaluation: whether steering helped, what it cost, and what the controls changed."""

from __future__ import annotations

from collections.abc import Iterator

from isogloss.evaluation import PLAN, BesidePlan, EvaluationSummary, SteeredLanguages, is_random, outcome_of
from isogloss.reports.evidence import NO_EVIDENCE, Finding, evidence, shows
from isogloss.reports.metrics import Metric, arm_text
from isogloss.reports.text import counted, name

_OUTCOMES = {"better": "steering helps", "worse": "steering hurts", None: "no evidence of an effect"}
_GUARDED = 1.96
"""Weight of a margin that is ruled out, or passed, at 95 %."""


def describe_evaluation(summary: EvaluationSummary | None) -> tuple[str, ...]:
    """Describe whether steering helped, what it cost the pivot, and what the controls changed, in the metric's unit.

    None, where no plan was made, is one sentence; else there are three or more.
    """
    return tuple(finding.text for finding in evaluation_findings(summary))


def evaluation_findings(summary: EvaluationSummary | None) -> tuple[Finding, ...]:
    """Give the sentences of `describe_evaluation` with their weights."""
    if summary is None:
        return (Finding("No plan was made, so nothing was evaluated."),)
    metric = Metric.of(summary)
    return (
        *_overall(summary, metric),
        _by_language(summary, metric),
        *_guard(summary, metric),
        *_against_random(summary, metric),
        *_controls(summary, metric),
    )


def _overall(summary: EvaluationSummary, metric: Metric) -> Iterator[Finding]:
    """Describe the mean over languages; add the result for exactly these languages if it is different."""
    overall, n = summary.overall, len(summary.per_language)
    yield Finding(
        f"Mean {metric.name} over {n} languages{metric.direction}: {metric.value_text(overall.baseline)} unsteered, "
        f"{metric.value_text(overall.steered)} steered; difference {metric.change_text(overall.difference)}: "
        f"{summary.unmeasured or _OUTCOMES[summary.outcome]}.",
        evidence(overall.difference),
    )
    if summary.unmeasured:
        return
    if PLAN in summary.where_steered:
        yield Finding(f"The plan steers only some of them: {_mean_goes(summary.where_steered[PLAN], metric)}.")
    these = summary.overall_these_languages.difference
    outcome = outcome_of(these, summary.better)
    if outcome != summary.outcome:
        yield Finding(
            f"That interval is for a population of similar languages; for exactly these {n} (only items resampled), "
            f"the difference is {metric.change_text(these)}: {_OUTCOMES[outcome]}.",
            evidence(these),
        )


def _mean_goes(steered: SteeredLanguages | BesidePlan, metric: Metric) -> str:
    """Describe the mean over the languages that an arm steers, with both values."""
    before, after = (metric.value_text(each) for each in (steered.overall.baseline, steered.overall.steered))
    return (
        f"in {', '.join(map(name, steered.languages))} the mean goes from {before} to {after}, by "
        f"{metric.change_text(steered.overall.difference)}"
    )


def _by_language(summary: EvaluationSummary, metric: Metric) -> Finding:
    """List the languages in which the plan changes the score, improvements first."""
    better: list[str] = []
    worse: list[str] = []
    weight = NO_EVIDENCE
    for code, row in summary.significant.items():
        if row.difference.value and shows(row.difference, row.p_adjusted):
            gains = (row.difference.value > 0) == (summary.better == "higher")
            (better if gains else worse).append(f"{name(code)} {metric.change_text(row.difference)}")
            weight = max(weight, evidence(row.difference, row.p_adjusted))
    if not better and not worse:
        return Finding("In no single language is there evidence of a difference, after Holm's correction.", weight)
    parts = [f"{word} in {', '.join(texts)}" for word, texts in (("better", better), ("worse", worse)) if texts]
    return Finding(f"By language, after Holm's correction: {'; '.join(parts)}.", weight)


def _guard(summary: EvaluationSummary, metric: Metric) -> Iterator[Finding]:
    """Describe whether the plan costs the pivot more than a margin; nothing if the pivot was not evaluated."""
    guard = summary.guard.get(PLAN)
    if guard is None:
        return
    pivot = name(summary.pivot)
    if not summary.can_fall(summary.pivot):
        yield Finding(f"Whether {pivot} is harmed was not measured: no answer is right without the plan.")
        return
    margin = f"{metric.value(guard.margin)}{metric.points}"
    if not guard.steered:
        yield Finding(f"{pivot} is not harmed: no rule of the plan applies to it.")
        return
    bounds = f"one-sided {100 * guard.level:g} % bounds {metric.change(guard.low)} and {metric.change(guard.high)}"
    bound = bounds if guard.gain.has_interval else "no bound, since no score changed"
    change = f"gain {metric.change(guard.change)}{metric.points}, {bound}, n = {guard.n}"
    text = {
        "pass": f"{pivot} is not harmed: a loss of more than {margin} is ruled out ({change}).",
        "fail": f"{pivot} is harmed: it loses more than {margin} ({change}).",
        "undecided": f"Whether {pivot} loses more than {margin} is undecided ({change}): more items are needed.",
    }[guard.verdict]
    yield Finding(text, NO_EVIDENCE if guard.verdict == "undecided" else _GUARDED)


def _against_random(summary: EvaluationSummary, metric: Metric) -> Iterator[Finding]:
    """Say whether the chosen experts did more than random ones, as one paired difference."""
    against = summary.against_random
    if against is None:
        return
    plans = f"{counted(against.n_plans, 'random plan')} with as many experts per layer"
    change = metric.change_text(against.difference)
    outcome = outcome_of(against.difference, summary.better)
    verdict = {"better": "does better than", "worse": "does worse than"}.get(outcome or "")
    text = f"The plan {verdict} the mean of {plans}" if verdict else f"No evidence that the plan differs from {plans}"
    fixed = "; one random plan says nothing about how they differ" if against.n_plans == 1 else ""
    yield Finding(f"{text}: {change}, n = {against.difference.n} languages{fixed}.", evidence(against.difference))


def _controls(summary: EvaluationSummary, metric: Metric) -> Iterator[Finding]:
    """Describe the effects of the other arms: those with random experts first, then the others."""
    changes = {arm: metric.change_text(each.overall.difference) for arm, each in summary.controls.items()}
    random = [f"{arm} {change}" for arm, change in changes.items() if is_random(arm)]
    others = [f"{arm_text(arm)} {change}" for arm, change in changes.items() if not is_random(arm)]
    if random:
        yield Finding(f"The same number of random experts per layer changes the mean by: {'; '.join(random)}.")
    if others:
        yield Finding(f"Other arms change the mean by: {'; '.join(others)}.")
    for arm, steered in summary.where_steered.items():
        if arm in summary.controls and not is_random(arm):
            yield Finding(
                f"Arm {arm_text(arm)} steers only some languages: {_mean_goes(steered, metric)}.",
                evidence(steered.overall.difference),
            )
    for arm, beside in summary.adapters.items():
        yield Finding(
            f"Arm {arm_text(arm)} is a router adapter made from {arm_text(beside.plan)}, without a condition: "
            f"{_mean_goes(beside, metric)}; it differs from that plan by "
            f"{metric.change_text(beside.from_plan.difference)}, and changes the other languages by "
            f"{metric.change_text(beside.others.difference)}.",
            evidence(beside.overall.difference),
        )
    if not changes:
        yield Finding("No control was run.")
