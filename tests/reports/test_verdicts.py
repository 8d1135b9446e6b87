"""The first screen: one rule for every verdict, findings by evidence, and what was run."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_samples import CODES, Page, analysis, arms_evaluation, evaluation, full, manifest, parts, typed

from isogloss.evaluation.random_arms import AgainstRandom
from isogloss.reports import Report, make_report, render_report
from isogloss.reports.effects import describe_evaluation
from isogloss.reports.evidence import DESCRIBED, NO_EVIDENCE, RULE, Finding, evidence, ranked, shows
from isogloss.reports.sentences import describe_run
from isogloss.reports.verdicts import State, facts, verdicts
from isogloss.statistics import Estimate

ABOVE, AROUND = Estimate(0.2, 0.1, 0.3, 14), Estimate(0.2, -0.1, 0.5, 14)
NUMBERS = st.floats(-10, 10)


def known(plain: Estimate, p_adjusted: float, **changes: object) -> object:
    """An analysis with one test of routing against genealogy."""
    shown = typed({**analysis(), **parts()})
    band = shown.structure.bands["middle"]
    test = band.tests["genealogical"]
    test = replace(test, plain=replace(test.plain, correlation=plain), p_adjusted=p_adjusted)
    bands = {"middle": replace(band, tests={"genealogical": test})}
    return replace(shown, structure=replace(shown.structure, bands=bands, matches={}), **changes)


def against(low: float, high: float) -> AgainstRandom:
    """The plan against five random plans, by 4 points."""
    change = Estimate(0.04, low, high, 4)
    return AgainstRandom(5, change, change, {})


@given(NUMBERS, NUMBERS, NUMBERS, st.one_of(st.none(), st.floats(0, 1)))
def test_rule_asks_for_interval_and_p(value: float, low: float, high: float, p: float | None) -> None:
    """Shown exactly where zero lies outside of the interval and p, if there is one, is below 0.05."""
    low, high = sorted((low, high))
    estimate = Estimate(value, low, high, 10)
    assert shows(estimate, p) is ((low > 0 or high < 0) and (p is None or p < 0.05))
    assert (evidence(estimate, p) > NO_EVIDENCE) is shows(estimate, p)


def test_evidence_counts_standard_errors() -> None:
    """Half a 95 % interval is 1.96 of them; without an interval there is none."""
    assert evidence(ABOVE) == pytest.approx(1.96 * 2)
    assert evidence(Estimate(-0.2, -0.3, -0.1, 14)) == pytest.approx(1.96 * 2)
    assert evidence(Estimate(0.2, math.nan, math.nan, 14)) == NO_EVIDENCE


def test_findings_are_ranked_by_evidence() -> None:
    """The clearest first, then those without evidence, then descriptions; equal ones in their order."""
    mixed = [
        Finding("d1"),
        Finding("n", NO_EVIDENCE),
        Finding("weak", 2.1),
        Finding("clear", 9.0),
        Finding("d2", DESCRIBED),
    ]
    assert ranked(mixed) == ("clear", "weak", "n", "d1", "d2")


def test_strong_test_stands_before_nulls_and_descriptions() -> None:
    """Whatever section it is from, a result with evidence is not below one without."""
    told = make_report(known(ABOVE, 0.008), evaluation(), manifest=manifest()).findings
    follows = next(place for place, text in enumerate(told) if text.startswith("Routing follows genealogy"))
    without = [place for place, text in enumerate(told) if text.startswith("No evidence")]
    described = next(place for place, text in enumerate(told) if " is routed most like " in text)
    assert follows < min([*without, described])


@pytest.mark.parametrize(
    ("plain", "p", "state", "answer"),
    [
        (ABOVE, 0.008, State.SHOWN, "Genealogy"),
        (ABOVE, 0.088, State.NO_EVIDENCE, "No evidence that it follows any of 1 distances"),
        (AROUND, 0.008, State.NO_EVIDENCE, "No evidence that it follows any of 1 distances"),
    ],
)
def test_what_routing_follows(plain: Estimate, p: float, state: State, answer: str) -> None:
    """Neither p alone nor the interval alone is enough, in the verdict as in the sentences."""
    shown = known(plain, p)
    verdict = verdicts(shown, None)[1]
    assert (verdict.state, verdict.answer) == (state, answer)
    assert any(text.startswith("Routing follows genealogy") for text in describe_run(shown)) is (state is State.SHOWN)


def test_what_is_greatest_in_some_layer_is_said_with_its_layer() -> None:
    """A match that is corrected for the search over layers and distances counts where no band shows anything."""
    shown = known(AROUND, 0.5)
    match = typed({**analysis(), **parts()}).structure.matches["genealogical"]
    match = replace(match, p_adjusted=0.008, correlations=(0.1, 0.7, 0.2), layer=1, p_values=(1.0,) * 3)
    shown = replace(shown, structure=replace(shown.structure, matches={"genealogical": match}))
    verdict = verdicts(shown, None)[1]
    assert (verdict.state, verdict.answer) == (State.SHOWN, "Genealogy, in some layers")
    assert "Mantel r 0.700 in layer 1, p = 0.008" in verdict.reason
    said = "Routing follows genealogy in some layers, most in layer 1: Mantel r 0.700"
    assert any(text.startswith(said) for text in describe_run(shown))
    weak = {"genealogical": replace(match, p_adjusted=0.06)}
    shown = replace(shown, structure=replace(shown.structure, matches=weak))
    assert verdicts(shown, None)[1].state is State.NO_EVIDENCE
    assert not any(text.startswith(said) for text in describe_run(shown))


def test_where_languages_meet() -> None:
    """A U-shape is a verdict with its layers; without it there is no evidence; without a middle, no measurement."""
    shown = known(ABOVE, 0.5)
    assert verdicts(shown, None)[0].answer == "In layers 2–4 of 0–5"
    flat = replace(shown, middle_layers=replace(shown.middle_layers, is_u_shape=False))
    assert verdicts(flat, None)[0].state is State.NO_EVIDENCE
    assert verdicts(replace(shown, middle_layers=None), None)[0].state is State.NOT_MEASURED


@pytest.mark.parametrize(
    ("overall", "random", "state", "answer"),
    [
        ((0.01, 0.03), (0.01, 0.07), State.SHOWN, "The plan helps by +2.0 points"),
        ((0.01, 0.03), (-0.01, 0.09), State.NO_EVIDENCE, "No evidence that it helps more than random experts"),
        ((-0.01, 0.05), (0.01, 0.07), State.NO_EVIDENCE, "No evidence that the plan helps"),
        ((-0.03, -0.01), (0.01, 0.07), State.HARM, "The plan hurts"),
    ],
)
def test_whether_steering_helped(
    overall: tuple[float, float], random: tuple[float, float], state: State, answer: str
) -> None:
    """Better than without a plan is not enough: it has to be better than random experts."""
    told = evaluation(against_random=against(*random))
    low, high = overall
    difference = replace(told.overall.difference, low=low, high=high)
    told = replace(told, overall=replace(told.overall, difference=difference))
    verdict = verdicts(None, told)[0]
    assert (verdict.state, verdict.answer) == (state, answer)
    assert "Against the mean of 5 random plans" in verdict.reason


def test_random_plans_are_said_as_one_paired_difference() -> None:
    """With evidence or without, with how many plans and languages."""
    better = describe_evaluation(evaluation(against_random=against(0.01, 0.07)))
    assert (
        "The plan does better than the mean of 5 random plans with as many experts per layer: "
        "+4.0 points [+1.0, +7.0], n = 4 languages."
    ) in better
    unclear = describe_evaluation(evaluation(against_random=against(-0.01, 0.09)))
    assert any(text.startswith("No evidence that the plan differs from 5 random plans") for text in unclear)


def test_no_sentence_denies_what_was_not_shown() -> None:
    """Neither the page nor a sentence says that something does not follow or is not significant."""
    shown = replace(full(), analysis=known(AROUND, 0.088), evaluation=arms_evaluation())
    text = " ".join([Page(render_report(shown)).text, *describe_run(known(AROUND, 0.088))])
    for said in ("does not follow", "not significant", "no significant", "significantly"):
        assert said not in text
    assert RULE in text


def test_facts_say_what_was_run() -> None:
    """Model, shape, languages, texts, task, date, version and command; what is not known is left out."""
    told = dict(facts(manifest(), typed(analysis()), evaluation(), written="2026-01-02", command="isogloss study"))
    assert told == {
        "Model": "organism",
        "Routers": "6 layers (0–5, 0-based) of 16 experts",
        "Languages": "4: Bengali, English, Swahili, Chinese (Simplified)",
        "Texts": "small world: 3 parallel items, 49,380 tokens",
        "Task": "problems: 250 items per language, accuracy",
        "Arms": "plan",
        "Written": "2026-01-02",
        "Versions": "huggingface",
        "To repeat": "isogloss study",
    }
    assert facts({}, None, None) == []


def test_page_begins_with_facts_verdicts_and_the_curve() -> None:
    """In this order, before the findings; words are explained."""
    shown = replace(full(), written="2026-01-02", analysis=known(ABOVE, 0.008))
    text = Page(render_report(shown)).text
    said = (
        "6 layers (0–5, 0-based) of 16 experts",
        "Where do languages meet?",
        "What does routing follow?",
        "Did steering help?",
        "Divergence from English (eng_Latn) by layer",
        "One rule for every verdict",
        "The language that all others are compared with, here English (eng_Latn).",
    )
    places = [text.index(each) for each in said]
    assert places == sorted(places)


def test_mean_and_lead_are_drawn() -> None:
    """The mean that the text speaks of is a curve, and so is the lead of translations over other texts."""
    points = [{"value": 0.1, "low": 0.05, "high": 0.15, "n": 40}] * 6
    translations = {
        **dict.fromkeys(("divergence", "unrelated", "excess"), points),
        "by_language": dict.fromkeys(CODES[1:], points),
        "rise": {"value": 0.02, "low": -0.01, "high": 0.05, "n": 40},
    }
    page = Page(
        render_report(
            Report("T", (), {}, analysis=typed(analysis(translations=translations, bands={"middle": [2, 4]})))
        )
    )
    first, second = page.drawings[:2]
    assert [
        trace["y"] for trace in first["data"] if trace["meta"] == "mean over languages" and "customdata" in trace
    ] == [[0.1] * 6]
    assert second["layout"]["yaxis"]["title"]["text"] == "divergence of others − of translations"
    assert "No evidence of a change" in page.text
    assert "No evidence that translations come closer to each other in" in page.text


def test_skip_link_contents_and_language_search_are_there() -> None:
    """The first link leads to the results; contents name every section."""
    page = Page(render_report(full()))
    links = [attributes.get("href") for tag, attributes in page.elements if tag == "a"]
    assert links[0] == "#main"
    sections = [attributes["id"] for tag, attributes in page.elements if tag == "section"]
    assert set(sections) - {"verdicts"} <= {link.removeprefix("#") for link in links[1:]}
