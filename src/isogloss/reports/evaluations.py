"""The section on steering: whether it helped, in which languages, beside which controls, and at what cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from isogloss.evaluation import BASELINE, PLAN, Comparison, EvaluationSummary, JudgedLanguage, is_random
from isogloss.reports.answers import SampleAnswer, answers_table
from isogloss.reports.effect_figures import (
    AGAINST,
    arms_figure,
    difference_figure,
    dose_figure,
    level_figure,
    size_text,
)
from isogloss.reports.figures import Figure, Section, Table
from isogloss.reports.metrics import Metric, arm_text, ordered_arms, ranked_languages
from isogloss.reports.pivot_distances import distance_blocks
from isogloss.reports.text import (
    MISSING,
    counted,
    known_columns,
    label,
    label_or_mean,
    number,
    p_value,
    percent,
    plain,
    sampling,
    sentence,
)

_MOST_DRAWN = 3
_TESTS = {"mcnemar": "the exact McNemar test", "sign_flip": "the paired sign-flip test"}
_INTERVALS = {"mcnemar": "by Wilson (shares) and Tango (differences)", "sign_flip": "bootstrap over items"}
_INSIDE = {
    "n_experts": "Experts: how many an arm steers.",
    "kl": "KL: of the steered next-token distribution from the unsteered one on first prompts, mean over languages.",
    "changed_choices": "Other experts: share of tokens whose experts changed, in the layer where it is greatest.",
    "unparsable": "Unparsable: answers that could not be read, baseline → arm, mean over languages.",
    "output_language": "Right language: answers in the language asked for, mean over languages, of those long enough"
    " to tell in both arms, whose number is n.",
}
_WORDS = ("what it is", "guard")
_SHARE = Metric("share")


def _listed(title: str, caption: str, rows: Sequence[Mapping[str, str]], *, folded: bool = True) -> Table:
    return Table.of(title, caption, known_columns(rows), words=_WORDS, folded=folded)


def arms_table(summary: EvaluationSummary, *, caption: str) -> Table:
    """List what every arm changes in scores, and what it costs the pivot."""
    metric = Metric.of(summary)
    unit = metric.points and ", points"
    rows = []
    for arm in ordered_arms(summary):
        comparison, guard = summary.compared[arm], summary.guard.get(arm)
        rows.append(
            {
                "arm": plain(arm),
                f"languages like these{unit}": comparison.overall.difference.text(metric.change),
                f"these languages{unit}": comparison.overall_these_languages.difference.text(metric.change),
                "detectable": metric.value(comparison.overall.minimum_detectable),
                f"gain of the pivot{unit}": guard.gain.text(metric.change) if guard else MISSING,
                "guard": summary.guard_verdict(arm) or MISSING,
            }
        )
    return _listed("Arms: scores", caption, rows, folded=False)


def inside_table(summary: EvaluationSummary, *, caption: str) -> Table | None:
    """List what every arm is, and changes in answers and inside the model; None where nothing of it is known."""
    rows = []
    for arm in ordered_arms(summary):
        before, after = summary.mean_unparsable(BASELINE), summary.mean_unparsable(arm)
        shares, changed = summary.mean_output_language(arm), summary.changed_choices.get(arm, {})
        read = None if before is None or after is None else f"{before.text(percent)} → {after.text(percent)}"
        divergence = summary.mean_kl(arm)
        rows.append(
            {
                "arm": plain(arm),
                "what it is": MISSING if arm_text(arm) == plain(arm) else arm_text(arm),
                "experts": str(summary.n_experts.get(arm, MISSING)),
                "KL, nats": divergence.text(number) if divergence else MISSING,
                "other experts, %": percent(max(changed.values(), default=None)),
                "unparsable, %": f"{read} (n = {after.n:,})" if read and after else MISSING,
                "right language, %": _right_language(shares),
            }
        )
    table = _listed("Arms: what they are and change", caption, rows, folded=False)
    return None if len(rows) == 1 and set(table.header) <= {"arm", "what it is"} else table


def _right_language(judged: JudgedLanguage | None) -> str:
    """Write shares with their count, or that too few answers could be judged to tell."""
    if judged is None:
        return MISSING
    if judged.too_few:
        return judged.unstated
    return f"{judged.baseline.text(percent)} → {judged.steered.text(percent)} ({judged.judged})"


def language_table(summary: EvaluationSummary) -> Table | None:
    """List, by language, what the plan changes besides scores; None where nothing of it was measured."""
    before, after = (summary.unparsable.get(arm, {}) for arm in (BASELINE, PLAN))
    outputs, moved = summary.output_language.get(PLAN, {}), summary.kl.get(PLAN, {})
    rows = []
    for code in summary.per_language:
        output, kl = outputs.get(code), moved.get(code)
        change = output.difference if output else None
        shares = {
            "unparsable before, %": before.get(code),
            "unparsable after, %": after.get(code),
            "right language before, %": output.baseline if output else None,
            "right language after, %": output.steered if output else None,
        }
        rows.append(
            {
                "language": label(code),
                **{column: share.text(_SHARE.value) if share else MISSING for column, share in shares.items()},
                "change, points": change.text(_SHARE.change) if change else MISSING,
                "answers judged in both": f"{change.n:,}" if change else MISSING,
                "KL, nats": kl.text(number) if kl else MISSING,
            }
        )
    caption = (
        "Answers that could not be read count as wrong. Right language: share of answers in the language asked for,"
        " among those long enough to tell in both arms; too short ones are left out. KL: of the steered next-token"
        " distribution from the unsteered one, on the first prompts; brackets: 95 % intervals."
    )
    table = _listed("The plan, by language: answers and next tokens", caption, rows)
    return table if len(table.header) > 1 else None


def _comparison_table(comparison: Comparison, metric: Metric, title: str, caption: str, *, folded: bool) -> Table:
    """List every number of a comparison: the mean over languages, then each language."""
    rows = []
    for code in ranked_languages(comparison):
        row = comparison.per_language[code] if code else comparison.overall
        tested = comparison.per_language.get(code)
        p_values = (tested.p_value, tested.p_adjusted, tested.p_bh) if tested else (None, None, None)
        rows.append(
            {
                "language": label_or_mean(code),
                "n": size_text(code, row.difference.n),
                f"baseline{metric.percent}": row.baseline.text(metric.value),
                f"steered{metric.percent}": row.steered.text(metric.value),
                f"difference{metric.points and ', points'}": row.difference.text(metric.change),
                **dict(zip(("p", "p Holm", "p BH"), map(p_value, p_values), strict=True)),
                "detectable": metric.value(row.minimum_detectable),
            }
        )
    return _listed(title, caption, rows, folded=folded)


def _measure(metric: Metric) -> str:
    what = "Share of correct answers" if metric.name == "accuracy" else sentence(metric.name)
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


def _lead(summary: EvaluationSummary, metric: Metric) -> list[str]:
    change = metric.change_text(summary.overall.difference)
    these = metric.change_text(summary.overall_these_languages.difference)
    clear = (
        f"That is no result: {summary.unmeasured}."
        if summary.unmeasured
        else f"{len(summary.significant)} of {len(summary.per_language)} languages differ at an adjusted p below 0.05."
    )
    two = (
        "Two questions are asked of the mean: what to expect of languages like these, whose interval resamples"
        " languages and items, and what holds for exactly these languages, whose interval resamples items alone:"
    )
    return [
        f"The plan changed mean {metric.name} over languages by {change}{metric.direction}. {clear}",
        f"{two} {these}.",
    ]


def _against_text(summary: EvaluationSummary) -> str:
    """Explain the row that compares the plan with random plans; nothing without one."""
    against = summary.against_random
    if against is None:
        return ""
    one = " One plan says nothing about how random plans differ." if against.n_plans == 1 else ""
    return (
        f" {AGAINST}: the plan minus the mean of {counted(against.n_plans, 'random plan')},"
        f" item by item; languages, items and random plans are resampled.{one}"
    )


def _arm_blocks(summary: EvaluationSummary, metric: Metric) -> list[Figure | Table]:
    drawn = sampling([summary.overall.difference], "languages", "95 % bootstrap over languages and items")
    measure = f"Mean over languages with the arm minus without. {drawn}"
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
        arms_figure(summary, caption=f"{measure}{_against_text(summary)} The arms are explained in the table."),
        dose_figure(summary, caption=f"{measure}{guarded}{marks}"),
        arms_table(summary, caption=f"{measure}{these}{guarded}"),
        inside_table(summary, caption=inside),
        language_table(summary),
    )
    return [block for block in blocks if block is not None]


def evaluation_section(summary: EvaluationSummary, answers: Sequence[SampleAnswer] = ()) -> Section:
    """Describe whether steering helped, overall and per language, beside its controls, and what else it changed."""
    metric = Metric.of(summary)
    each = [row.difference for row in summary.per_language.values()]
    how = f"95 % {_INTERVALS[summary.test]}"
    caption = f"{_measure(metric)} {sampling(each, 'items per language', how)}"
    drawn, grey = _drawn(list(summary.controls))
    numbers = f"{caption} {_tests(summary)}"
    beside = f"Score of each language in both arms; right: the change, in {metric.change_unit}."
    levels = f"{beside} {sampling(each, 'items per language', how)}"
    samples = answers_table(answers)
    blocks: list[Figure | Table] = [
        level_figure(summary, caption=levels),
        *_arm_blocks(summary, metric),
        *distance_blocks(summary),
        difference_figure(summary, drawn, caption=f"{caption}{grey}"),
        *([samples] if samples else []),
    ]
    blocks.append(_comparison_table(summary, metric, "Evaluation: all numbers", numbers, folded=False))
    for arm, control in summary.controls.items():
        explained = plain(arm) if arm_text(arm) == plain(arm) else f"{plain(arm)} ({arm_text(arm)})"
        blocks.append(_comparison_table(control, metric, f"Control “{explained}”: all numbers", numbers, folded=True))
    return Section("evaluation", "Steering", _lead(summary, metric), blocks)


def further_tasks_section(summaries: Sequence[EvaluationSummary]) -> Section:
    """Describe what the plan and its arms changed on every further task, mean over its languages: one row for each."""
    rows = []
    for summary in summaries:
        metric = Metric.of(summary)
        for arm, comparison in summary.compared.items():
            overall = comparison.overall
            rows.append(
                {
                    "task": plain(summary.task),
                    "arm": plain(arm_text(arm)),
                    "metric": metric.name,
                    "without a plan": overall.baseline.text(metric.value),
                    "with it": overall.steered.text(metric.value),
                    "difference": overall.difference.text(metric.change),
                    "pivot guard": summary.guard_verdict(arm) or MISSING,
                }
            )
    caption = "Unweighted mean over the task's languages; 95 % intervals over languages and items."
    table = Table.of("Further tasks", caption, rows, words=("arm", "metric", "pivot guard"), folded=False)
    return Section("further-tasks", "The same plan on further tasks", (), [table])
