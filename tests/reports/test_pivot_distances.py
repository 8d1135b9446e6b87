"""Gains against changes of divergence: what lies where, which arms share a look, and nothing where nothing is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from report_samples import arms_evaluation, evaluation

from isogloss.evaluation import PLAN
from isogloss.reports.figures import Figure, Table
from isogloss.reports.pivot_distances import distance_blocks
from isogloss.reports.svg import describe
from isogloss.reports.verdicts import glossary


def test_every_language_and_arm_is_a_mark() -> None:
    """To the right the change of divergence, upwards the gain in points, with both intervals; random arms together."""
    summary = arms_evaluation()
    figure, _, table = distance_blocks(summary)
    assert isinstance(figure, Figure)
    traces = {trace["meta"]: trace for trace in figure.data}
    assert set(traces) == {PLAN, "early", "strength-0.25", "multilingual", "random"}
    assert [entry.group for entry in figure.key] == [PLAN, "early", "strength-0.25", "multilingual", "random"]
    assert figure.data[-1] is traces[PLAN]  # above the others
    plan = traces[PLAN]
    assert plan["x"] == [-0.125, -0.125]
    assert plan["y"] == pytest.approx([2.0, 4.0])
    assert plan["error_x"]["array"] == [0.0625, 0.0625]
    assert plan["error_y"]["arrayminus"] == pytest.approx([1.0, 1.0])
    assert "Swahili (swh_Latn), plan" in plan["hovertext"][0]
    assert "0.312 → 0.188: −0.125 [−0.250, −0.062]" in plan["hovertext"][0]
    assert len(traces["random"]["x"]) == 4
    assert "n = 16 prompts" in figure.caption
    assert isinstance(table, Table)
    assert len(table.rows) == 2 * 6
    assert table.rows[0] == (
        "plan",
        "Swahili (swh_Latn)",
        "+2.0 points [+1.0, +3.0]",
        "0.312",
        "0.188",
        "−0.125 [−0.250, −0.062]",
    )
    text = describe(figure)
    assert text.startswith("Gain against change of divergence from English. Plot of gain, percentage points against")
    assert "the plan: 2 to 4." in text


def test_before_and_after_lie_over_each_other() -> None:
    """A dashed curve and a solid one of each language that the plan moves, in one colour, over its routed layers."""
    _, curves, _ = distance_blocks(arms_evaluation())
    assert isinstance(curves, Figure)
    before, after = (trace for trace in curves.data if trace["meta"] == "swh_Latn")
    assert (before["x"], before["y"], before["line"]["dash"]) == ([0, 1], [0.25, 0.375], "dash")
    assert (after["x"], after["y"], after["line"].get("dash", "solid")) == ([0, 1], [0.125, 0.25], "solid")
    assert before["line"]["color"] == after["line"]["color"]


def test_the_words_are_explained() -> None:
    """Where an evaluation alone is reported on, too."""
    words = dict(glossary(None, arms_evaluation()))
    assert words["Pivot"] == "The language that all others are compared with, here English (eng_Latn)."
    assert "Divergence" in words
    assert "Pivot" not in dict(glossary(None, evaluation()))


def test_nothing_is_drawn_of_what_was_not_measured() -> None:
    """An evaluation without a pivot, or of an older version; without the plan, the curves alone are left out."""
    assert not distance_blocks(evaluation())
    summary = arms_evaluation()
    others = {arm: each for arm, each in summary.distance.items() if arm != PLAN}
    assert len(distance_blocks(arms_evaluation(distance=others))) == 2
    assert not distance_blocks(arms_evaluation(distance={arm: {} for arm in others}))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"per_language": {}}, "plan in ben_Beng was not compared"),
        ({"controls": {}}, "random-0 in ben_Beng was not compared"),
        ({"changed_choices": {}}, "distance of swh_Latn: found 2 layers; expected 0"),
        ({"changed_choices": {PLAN: {4: 0.5}}}, "distance of swh_Latn: found 2 layers; expected 1"),
    ],
)
def test_distances_are_of_what_was_compared(changes: dict[str, Any], reason: str) -> None:
    """A summary that contradicts itself is refused where it is read."""
    with pytest.raises(ValueError, match=reason):
        replace(arms_evaluation(), **changes)
