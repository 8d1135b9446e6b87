"""The section on steering: whether it helped, in which languages, beside which controls, and at what cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isogloss.reports.arms import arms_figure, arms_table, dose_figure, inside_table, language_table
from isogloss.reports.differences import comparison_table, difference_figure
from isogloss.reports.figures import Section
from isogloss.reports.metrics import Metric, arm_text, is_random
from isogloss.reports.text import label, plain, sample_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from isogloss.analysis.statistics import Estimate
    from isogloss.evaluation.summary import EvaluationSummary
    from isogloss.reports.figures import Figure, Table

__all__ = ["evaluation_section"]

_MOST_DRAWN = 3
_TESTS = {"mcnemar": "the exact McNemar test", "sign_flip": "the paired sign-flip test"}
_INTERVALS = {"mcnemar": "by Wilson (shares) and Tango (differences)", "sign_flip": "bootstrap over items"}
_INSIDE = {
    "n_experts": "Experts: how many an arm steers.",
    "kl": "KL: of the steered next-token distribution from the unsteered one, mean over languages.",
    "changed_choices": "Other experts: share of tokens whose experts changed, in the layer where it is greatest.",
    "unparsable": "Unparsable: answers that could not be read, baseline → arm, mean over languages.",
    "output_language": "Right language: answers in the language asked for, mean over languages, of those long enough"
    " to tell in both arms, whose number is n.",
}


def _sampling(estimates: Sequence[Estimate], unit: str, how: str) -> str:
    """State n, and how intervals were drawn, where there are any."""
    drawn = f"intervals: 95 % {how}" if any(each.has_interval for each in estimates) else "no interval"
    return f"{sample_size(each.n for each in estimates)} {unit}; {drawn}."


def _measure(metric: Metric) -> str:
    what = "Share of correct answers" if metric.name == "accuracy" else f"{metric.name[:1].upper()}{metric.name[1:]}"
    direction = "" if metric.better == "higher" else f"; {metric.better} is better"
    return f"{what} with the plan minus without, the same items in both{direction}."


def _tests(summary: EvaluationSummary) -> str:
    return (
        f"p: {_TESTS[summary.test]}, adjusted over languages by Holm's method and by Benjamini and Hochberg's."
        " Detectable: smallest difference that as many items would show, at 5 %, with a chance of 80 %."
        " The mean gives every language the same weight; its interval resamples languages and items."
    )


def _drawn(arms: Sequence[str]) -> tuple[list[str], str]:
    """Choose the controls that are drawn by language: all where they are few, else the first random ones."""
    if len(arms) <= _MOST_DRAWN:
        return list(arms), " Grey: the same difference for each control." if arms else ""
    chosen = [arm for arm in arms if is_random(arm)][:_MOST_DRAWN]
    if not chosen:
        return [], " The other arms are in the tables."
    return chosen, f" Grey: {', '.join(chosen)}; the other arms are in the tables."


def _lead(summary: EvaluationSummary, metric: Metric) -> tuple[str, str]:
    change = metric.change_text(summary.overall.difference)
    these = metric.change_text(summary.overall_these_languages.difference)
    clear = f"{len(summary.significant)} of {len(summary.per_language)} languages differ at an adjusted p below 0.05."
    two = (
        "Two questions are asked of the mean: what to expect of languages like these, whose interval resamples"
        " languages and items, and what holds for exactly these languages, whose interval resamples items alone:"
    )
    return (
        f"The plan changed mean {metric.name} over languages by {change}{metric.direction}. {clear}",
        f"{two} {these}.",
    )


def _arm_blocks(summary: EvaluationSummary, metric: Metric) -> list[Figure | Table]:
    sizes = _sampling([summary.overall.difference], "languages", "bootstrap over languages and items")
    measure = f"Mean over languages with the arm minus without. {sizes}"
    margin = next((guard.margin for guard in summary.guard.values()), None)
    guarded = marks = ""
    if margin is not None:
        guarded = (
            f" Guard: whether {label(summary.pivot)} loses more than {metric.value(margin)}{metric.points}: pass where"
            " that is ruled out, fail where it is shown, by one-sided 95 % bounds; undecided where the items are too"
            " few for either."
        )
        marks = " Filled: pass; open: undecided; cross: fail."
    these = " Of these languages alone, intervals are over items."
    inside = " ".join(text for field, text in _INSIDE.items() if any(getattr(summary, field).values()))
    blocks = (
        arms_figure(summary, metric, caption=f"{measure} The arms are explained in the table."),
        dose_figure(summary, metric, caption=f"{measure}{guarded}{marks}"),
        arms_table(summary, metric, caption=f"{measure}{these}{guarded}"),
        inside_table(summary, caption=inside),
        language_table(summary),
    )
    return [block for block in blocks if block is not None]


def evaluation_section(summary: EvaluationSummary) -> Section:
    """Say whether steering helped, overall and per language, beside its controls, and what else it changed."""
    metric = Metric.of(summary)
    each = [row.difference for row in summary.per_language.values()]
    caption = f"{_measure(metric)} {_sampling(each, 'items per language', _INTERVALS[summary.test])}"
    drawn, grey = _drawn(list(summary.controls))
    title = f"Change in {metric.name} by language"
    figure = difference_figure(summary, drawn, metric=metric, title=title, caption=f"{caption}{grey}")
    numbers = f"{caption} {_tests(summary)}"
    blocks: list[Figure | Table] = [*_arm_blocks(summary, metric), figure]
    blocks.append(comparison_table(summary, metric=metric, title="Evaluation: all numbers", caption=numbers))
    for arm, control in summary.controls.items():
        said = plain(arm) if arm_text(arm) == plain(arm) else f"{plain(arm)} ({arm_text(arm)})"
        named = f"Control “{said}”: all numbers"
        blocks.append(comparison_table(control, metric=metric, title=named, caption=numbers, folded=True))
    return Section("evaluation", "Steering", _lead(summary, metric), tuple(blocks))
