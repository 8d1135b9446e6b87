"""How an evaluation is said and drawn: in the unit of its metric, arm by arm, with what it costs the pivot."""

from __future__ import annotations

import html
import json
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import plotly.graph_objects as go
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_samples import ATTACK, CODES, Page, arms_evaluation, evaluation

from isogloss.cli.output import show_evaluation
from isogloss.cli.study import show_study
from isogloss.evaluation.paired import outcome_of
from isogloss.evaluation.random_arms import is_random
from isogloss.reports import Report, render_report
from isogloss.reports.effects import describe_evaluation
from isogloss.reports.evaluations import (
    arms_figure,
    arms_table,
    dose_figure,
    evaluation_section,
    inside_table,
    language_table,
)
from isogloss.reports.metrics import Metric, arm_text
from isogloss.statistics import Estimate

if TYPE_CHECKING:
    from isogloss.evaluation.paired import Better
    from isogloss.evaluation.summary import EvaluationSummary
    from isogloss.workflows import StudyResult


def said(summary: EvaluationSummary) -> str:
    """All sentences on an evaluation."""
    return "\n".join(describe_evaluation(summary))


def graded(metric: str, better: Better) -> EvaluationSummary:
    """An evaluation of a graded metric, with the numbers of a share."""
    told = arms_evaluation(metric=metric, better=better, test="sign_flip")
    controls = {arm: replace(each, better=better, test="sign_flip") for arm, each in told.controls.items()}
    return replace(told, controls=controls)


def with_difference(**ends: float) -> EvaluationSummary:
    """An evaluation whose mean difference has another interval."""
    told = arms_evaluation()
    return replace(told, overall=replace(told.overall, difference=replace(told.overall.difference, **ends)))


def at_zero(unreadable: float, *, steered: float = 0.0) -> EvaluationSummary:
    """An evaluation whose unsteered model is right nowhere."""
    told = with_difference(low=-0.01)
    share = Estimate(unreadable, 0.0, 1.0, 250)
    arms = {"baseline": dict.fromkeys(CODES, 0.0), "plan": dict.fromkeys(CODES, steered)}
    return replace(told, arms=arms, unparsable={arm: dict.fromkeys(CODES, share) for arm in told.unparsable})


@pytest.mark.parametrize(("unreadable", "why"), [(1.0, "could be read"), (0.4, "accuracy is 0 in every language")])
def test_nothing_measured_is_no_result(unreadable: float, why: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Where nothing could get worse, neither the terminal, nor a sentence, nor the report speaks of an effect."""
    summary = at_zero(unreadable)
    show_evaluation(summary, as_json=False)
    page = " ".join(evaluation_section(summary).paragraphs)
    printed = capsys.readouterr().out
    for text in (printed, said(summary), page):
        assert "nothing was measured, since" in text
        assert why in text
    assert "no significant effect" not in printed + said(summary)
    assert "is not harmed" not in said(summary)
    assert "is harmed was not measured" in said(summary)
    assert "guard undecided" not in printed


def test_a_gain_from_zero_is_a_result() -> None:
    """Scores of 0 can rise: a significant gain is reported as one."""
    told = at_zero(0.0, steered=0.02)
    raised = replace(told, overall=arms_evaluation().overall)
    assert raised.unmeasured is None
    assert "steering helps" in said(raised)


def with_guard(**fields: object) -> EvaluationSummary:
    """An evaluation in which the plan's guard has another outcome."""
    told = arms_evaluation()
    return replace(told, guard={**told.guard, "plan": replace(told.guard["plan"], **fields)})


@pytest.mark.parametrize(
    ("metric", "better", "mean", "difference", "verdict"),
    [
        ("accuracy", "higher", "Mean accuracy over", "50.0 % [49.0, 51.0]", "+2.0 points [+1.0, +3.0]: steering helps"),
        ("f1", "higher", "Mean F1 over", "50.0 % [49.0, 51.0]", "+2.0 points [+1.0, +3.0]: steering helps"),
        ("chrf", "higher", "Mean chrF over", "0.50 [0.49, 0.51]", "+0.02 [+0.01, +0.03]: steering helps"),
        ("bits_per_byte", "lower", "Mean bits per byte over", "0.500 [0.490, 0.510]", "0.030]: steering hurts"),
        ("acc_norm,none", "higher", "Mean acc_norm,none over", "0.500 [0.490, 0.510]", "0.030]: steering helps"),
    ],
)
def test_a_metric_is_said_in_its_own_unit(
    metric: str, better: Better, mean: str, difference: str, verdict: str
) -> None:
    """Shares are percent and points, other metrics are as they are, and what is a gain follows the direction."""
    first = describe_evaluation(graded(metric, better))[0]
    assert first.startswith(mean)
    assert difference in first
    assert verdict in first
    assert ("(lower is better)" in first) == (better == "lower")


def test_a_plan_alone_is_told_in_three_sentences() -> None:
    """The mean, the languages with a significant difference, and that there was no control."""
    alone = evaluation()
    overall, languages, controls = describe_evaluation(alone)
    assert overall == (
        "Mean accuracy over 4 languages: 50.0 % [49.0, 51.0] unsteered, 52.0 % [51.0, 53.0] steered; "
        "difference +2.0 points [+1.0, +3.0]: steering helps."
    )
    assert languages == (
        "By language, after Holm's correction: better in Swahili +2.0 points [+1.0, +3.0], "
        "Bengali +4.0 points [+3.0, +5.0], Chinese (Simplified) +6.0 points [+5.0, +7.0]."
    )
    assert controls == "No control was run."
    *_, figure, table = evaluation_section(alone).blocks
    assert figure.title == "Change in accuracy by language"
    assert table.header == (
        *("language", "n", "baseline %", "steered %", "difference, points", "p", "p Holm", "p BH", "detectable"),
    )


def test_nothing_to_evaluate_is_said() -> None:
    """Without a plan there is one sentence."""
    assert describe_evaluation(None) == ("No plan was made, so nothing was evaluated.",)


def test_a_mean_without_interval_shows_no_effect() -> None:
    """A single number is no evidence, however large."""
    assert "difference +2.0 points: no evidence of an effect." in said(with_difference(low=math.nan, high=math.nan))


def test_both_questions_are_answered_only_where_answers_differ() -> None:
    """Two sentences on the mean where one interval holds zero and the other does not; else one."""
    assert "exactly these" not in said(arms_evaluation())
    first, second, *_ = describe_evaluation(with_difference(low=-0.01))
    assert first.endswith("no evidence of an effect.")
    assert second.endswith("exactly these 4 (only items resampled), the difference is "
                           "+2.0 points [+1.5, +2.5]: steering helps.")  # fmt: skip


def test_languages_that_lose_are_said_to_lose() -> None:
    """Where lower is better, a significant rise is worse."""
    assert "correction: worse in Swahili +0.020" in said(graded("bits_per_byte", "lower"))
    assert "better in" not in said(graded("bits_per_byte", "lower"))


_UNDECIDED = (
    "Whether English loses more than 1.0 points is undecided (gain −0.4 points, one-sided 95 % bounds −3.0 and +2.0, "
    "n = 250): more items are needed."
)


@pytest.mark.parametrize(
    ("verdict", "sentence"),
    [
        ("pass", "English is not harmed: a loss of more than 1.0 points is ruled out (gain −0.4 points,"),
        ("fail", "English is harmed: it loses more than 1.0 points (gain −0.4 points,"),
        ("undecided", _UNDECIDED),
    ],
)
def test_the_guard_is_said_plainly(verdict: str, sentence: str) -> None:
    """One sentence on the pivot, of which undecided is one of three outcomes."""
    assert sentence in said(with_guard(verdict=verdict))


def test_a_guard_without_bounds_says_why() -> None:
    """Where no score changed there is no bound to print."""
    assert "no bound, since no score changed, n = 250" in said(with_guard(low=math.nan, high=math.nan))


def test_controls_are_said_by_what_they_are() -> None:
    """Random arms stand together and alone; the others follow with their own descriptions."""
    *_, random, others = describe_evaluation(arms_evaluation())
    assert random == (
        "The same number of random experts per layer changes the mean by: random-0 +0.1 points [−0.9, +1.1]; "
        "random-1 −0.2 points [−1.2, +0.8]."
    )
    assert others == (
        "Other arms change the mean by: as many experts in early layers +0.3 points [−0.7, +1.3]; "
        "the plan at strength 0.25 +1.0 points [+0.0, +2.0]; multilingual +0.4 points [−0.6, +1.4]."
    )


@given(st.text(max_size=20))
def test_any_arm_has_a_text_on_one_line(arm: str) -> None:
    """A name that somebody gave is shown as it is, without control characters; only numbered ones are random."""
    assert "\n" not in arm_text(arm)
    assert not is_random(f"{arm}-")
    assert not is_random("randomised-0")


@pytest.mark.parametrize(
    ("arm", "text"),
    [
        ("strength-0.5", "the plan at strength 0.5"),
        ("strength-of-mine", "strength-of-mine"),
        ("layers-0-4", "as many experts in layers 0–4"),
        ("suppress", "the opposite of the plan, same experts"),
        ("random-3", "random experts, as many per layer, seed 3"),
    ],
)
def test_arms_are_explained(arm: str, text: str) -> None:
    """Names that `evaluate --arms` makes are put into words."""
    assert arm_text(arm) == text


def test_arms_figure_has_the_plan_first_and_one_dot_per_arm() -> None:
    """From the top: the plan, random experts, then the others; in percentage points, with intervals."""
    figure = arms_figure(arms_evaluation(), caption="")
    assert figure is not None
    axis = figure.layout["yaxis"]
    assert axis["ticktext"] == ["<b>plan</b>", "random-0", "random-1", "early", "strength-0.25", "multilingual"]
    assert axis["range"][0] > axis["range"][1]
    drawn = {row: value for trace in figure.data for row, value in zip(trace["y"], trace["x"], strict=True)}
    assert [drawn[row] for row in range(6)] == pytest.approx([2.0, 0.1, -0.2, 0.3, 1.0, 0.4])
    assert figure.data[0]["error_x"]["array"] == pytest.approx([1.0])
    assert [trace["meta"] for trace in figure.data] == [entry.group for entry in figure.key]


def test_figures_of_arms_need_arms() -> None:
    """A plan alone is in the figure by language, and has one strength."""
    assert arms_figure(evaluation(), caption="") is None
    assert dose_figure(evaluation(), caption="") is None


def test_dose_response_marks_the_guard() -> None:
    """Each strength is drawn once, with the symbol of its guard's verdict."""
    figure = dose_figure(arms_evaluation(), caption="")
    assert figure is not None
    line, *doses = figure.data
    assert line["x"] == [0.25, 0.5]
    assert {trace["marker"]["symbol"]: trace["x"] for trace in doses} == {"circle": [0.25], "x": [0.5]}
    assert doses[0]["error_y"]["arrayminus"] == pytest.approx([1.0])
    assert len(figure.key) == 2


def test_arms_tables_hold_every_number() -> None:
    """Scores, guard, KL, changed experts, unparsable answers and the language of answers, arm by arm."""
    summary = arms_evaluation()
    scores = arms_table(summary, caption="")
    assert scores is not None
    assert scores.rows[0] == ("plan", "+2.0 [+1.0, +3.0]", "+2.0 [+1.5, +2.5]", "3.3", "−0.4 [−3.0, +2.0]", "undecided")
    inside = inside_table(summary, caption="")
    assert inside is not None
    assert inside.rows[3] == (
        "early", "as many experts in early layers", "9", "0.013 [0.050, 0.200]", "42.3",
        "10.0 [5.0, 20.0] → 10.0 [5.0, 20.0] (n = 1,000)",
        "10.0 [5.0, 20.0] → 30.0 [5.0, 20.0] (n = 250 of 500 answers, in 1 language)"
    )  # fmt: skip
    assert inside.header[4:] == ("other experts, %", "unparsable, %", "right language, %")
    languages = language_table(summary)
    assert languages is not None
    assert languages.rows[0][1:6] == (
        *["10.0 [5.0, 20.0]"] * 3, "30.0 [5.0, 20.0]", "+20.0 [+5.0, +20.0]"
    )  # fmt: skip
    assert languages.rows[1][3:7] == ("–",) * 4


def judged(n: int) -> EvaluationSummary:
    """An evaluation in which so many answers could be judged by their language."""
    told = arms_evaluation()
    by_code = {
        code: replace(row, baseline=replace(row.baseline, n=n), steered=replace(row.steered, n=n))
        for code, row in told.output_language["plan"].items()
        if row.baseline is not None and row.steered is not None
    }
    by_code = {**told.output_language["plan"], **by_code}
    return replace(told, output_language=dict.fromkeys(told.output_language, by_code))


def test_too_few_judged_answers_are_no_share(capsys: pytest.CaptureFixture[str]) -> None:
    """Of 500 answers 29 say nothing about their language; 30 are shown with their number and interval."""
    for n in (29, 30):
        summary, count = judged(n), f"n = {n} of 500 answers, in 1 language"
        show_evaluation(summary, as_json=False)
        line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("plan:"))
        cells = inside_table(summary, caption="").rows[0]
        if n < 30:
            assert cells[-1] == f"not stated: fewer than 30 answers could be judged ({count})"
            assert f"answers in the right language: {cells[-1]}" in line
        else:
            assert f"answers in the right language 10.0 [5.0, 20.0] → 30.0 [5.0, 20.0] % ({count})" in line
            assert cells[-1] == f"10.0 [5.0, 20.0] → 30.0 [5.0, 20.0] ({count})"


def test_every_number_of_an_arm_has_its_count(capsys: pytest.CaptureFixture[str]) -> None:
    """Estimates have an interval, too."""
    show_evaluation(arms_evaluation(), as_json=False)
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("plan:"))
    assert (
        "plan: 2.0 [1.0, 3.0] points (n = 4 languages); eng_Latn −0.4 [−3.0, +2.0] points (n = 250), guard un" in line
    )
    assert "unparsable 10.0 [5.0, 20.0] → 10.0 [5.0, 20.0] % (n = 1,000 answers)" in line
    assert "on the first 4 prompts of each language tokens with changed experts: up to 42.3 % per layer" in line
    assert line.endswith("KL 0.0125 [0.05, 0.2] nats (n = 1000 prompts)")


def test_tables_leave_out_what_is_not_known() -> None:
    """Where scores alone were measured there is neither a table of what is inside an arm nor one of answers."""
    bare = evaluation()
    assert arms_table(bare, caption="").header[-1] == "detectable"
    assert inside_table(bare, caption="") is None
    assert language_table(bare) is None
    assert [block.title for block in evaluation_section(bare).blocks] == [
        "Accuracy by language, without and with the plan", "Arms: scores",
        "Change in accuracy by language", "Evaluation: all numbers",
    ]  # fmt: skip


def test_languages_have_both_corrections_and_what_was_detectable() -> None:
    """The table by language says p by Holm, by Benjamini and Hochberg, and the detectable difference in points."""
    table = next(block for block in evaluation_section(arms_evaluation()).blocks if block.title.startswith("Eval"))
    assert table.header[-5:] == ("difference, points", "p", "p Holm", "p BH", "detectable")
    assert table.rows[1][-5:] == ("+6.0 [+5.0, +7.0]", "0.004", "0.012", "0.008", "7.1")
    text = table.caption
    assert "adjusted over languages by Holm's method and by Benjamini and Hochberg's" in text
    assert "exact McNemar test" in text
    assert "by Wilson (shares) and Tango (differences)" in text


def test_bits_per_byte_is_drawn_as_it_is_with_the_gain_on_top() -> None:
    """No percent; the axis says that lower is better, and the greatest fall comes first."""
    section = evaluation_section(graded("bits_per_byte", "lower"))
    figure = next(block for block in section.blocks if block.title == "Change in bits per byte by language")
    assert figure.layout["xaxis"]["title"]["text"] == "steered − baseline, bits per byte (lower is better)"
    assert figure.layout["yaxis"]["ticktext"][1] == "English"
    assert max(value for trace in figure.data for value in trace["x"]) == pytest.approx(0.06)
    table = next(block for block in section.blocks if block.title == "Evaluation: all numbers")
    assert table.header[2:5] == ("baseline", "steered", "difference")
    assert "sign-flip" in table.caption


def test_many_controls_leave_the_figure_by_language_readable() -> None:
    """Of more than three controls only random ones are drawn beside languages, and the caption says so."""
    figure = next(
        block for block in evaluation_section(arms_evaluation()).blocks if block.title.endswith("by language")
    )
    assert [entry.text for entry in figure.key if "control" in entry.text] == ["control: random-0", "control: random-1"]
    assert "Grey: random-0, random-1; the other arms are in the tables." in figure.caption


def test_names_of_arms_are_shown_and_not_run() -> None:
    """Markup as the name of an arm, a language, the metric or the pivot stays text everywhere."""
    told = arms_evaluation((ATTACK, *CODES), metric=ATTACK, test="sign_flip")
    names = ("controls", "guard", "kl", "n_experts", "changed_choices", "unparsable", "output_language")
    attacked = {name: {**getattr(told, name), ATTACK: getattr(told, name)["early"]} for name in names}
    doses = tuple(replace(dose, arm=ATTACK) for dose in told.dose_response)
    told = replace(told, **attacked, dose_response=doses)
    page = render_report(Report("T", describe_evaluation(told), {}, evaluation=told))
    seen = Page(page)
    assert ATTACK not in page
    assert seen.scripts == 1
    assert f"Mean {ATTACK} over" in seen.text
    labels = [text for drawing in seen.drawings for text in drawing["layout"]["yaxis"].get("ticktext", ())]
    assert html.escape(ATTACK) in labels
    for drawing in seen.drawings:
        assert "<script" not in str(drawing["layout"])
        assert "<script" not in str([trace.get("hovertext") for trace in drawing["data"]])


def test_figures_of_an_evaluation_are_valid_plotly() -> None:
    """Plotly's own validation accepts arms, doses, distances and languages, in either direction."""
    for summary in (arms_evaluation(), graded("chrf", "higher")):
        drawings = Page(render_report(Report("T", (), {}, evaluation=summary))).drawings
        assert len(drawings) == 6
        for drawing in drawings:
            go.Figure({"data": drawing["data"], "layout": drawing["layout"]})


@pytest.mark.parametrize(
    ("low", "high", "better", "outcome"),
    [
        (0.1, 0.2, "higher", "better"),
        (0.1, 0.2, "lower", "worse"),
        (-0.2, -0.1, "higher", "worse"),
        (-0.2, -0.1, "lower", "better"),
        (0.0, 0.2, "higher", None),
        (math.nan, math.nan, "higher", None),
    ],
)
def test_an_outcome_follows_the_interval_and_the_direction(
    low: float, high: float, better: Better, outcome: str | None
) -> None:
    """An interval that holds or touches zero shows nothing."""
    assert outcome_of(Estimate(0.15, low, high, 5), better) == outcome


@pytest.mark.parametrize("is_evaluated", [True, False])
def test_a_study_prints_the_evaluation_once(is_evaluated: bool, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: FBT001 - a parameter of the test
    """Its table stands for the sentences on it; without one, and in JSON, every sentence is printed."""
    summary = arms_evaluation(controls={}, distance={}) if is_evaluated else None
    effects = describe_evaluation(summary)
    result = SimpleNamespace(
        evaluation=summary, findings=("Routing.",), effects=effects, report="x.html", published=None, ablation=None
    )
    show_study(cast("StudyResult", result), as_json=False)
    printed = capsys.readouterr().out
    assert "Routing.\n" in printed
    assert (effects[-1] in printed) != is_evaluated
    show_study(cast("StudyResult", result), as_json=True)
    assert json.loads(capsys.readouterr().out)["findings"] == ["Routing.", *effects]


def test_a_metric_of_a_harness_is_a_share_where_it_is_right_or_wrong() -> None:
    """What McNemar tests is a share, whatever its name."""
    told = evaluation(metric="acc,none")
    assert Metric.of(told).is_share
    assert not Metric.of(replace(told, test="sign_flip")).is_share
    assert Metric("bits per byte", is_share=False).change(0.0002) == "+0.00020"
