"""The report on a learned plan: what its folder holds, drawn and listed; damage is refused in one line."""

from __future__ import annotations

import json
import re

import pytest

from isogloss.errors import RunError
from isogloss.learning import LearnedSet, LearnSettings, StepRecord, read_history
from isogloss.reports import report_on
from isogloss.reports.learning import describe_learning, learning_section
from isogloss.routing import Fingerprint
from isogloss.steering import Plan, write_plan

STEPS = 30


def learned(folder, languages=("swh_Latn", "tha_Thai"), *, shared=False, metric="accuracy", finished=True, kl=0.25):
    """The folder of a plan whose dev values rise to step 10 and fall to step 20."""
    folder.mkdir()
    sets = [languages] if shared else [(code,) for code in languages]
    options = {"objective": "answers", "shared": shared, "leash": 0.0}
    settings = LearnSettings({"model_name": "m"}, 1, options, languages, "sums", metric, {})
    (folder / "settings.json").write_text(json.dumps(settings.to_json()))
    records, ended = [], []
    for place, codes in enumerate(sets):
        for step in range(STEPS + 1):
            dev = dict.fromkeys(codes, 0.1 + 0.5 * (step == 10) + 0.01 * place) if step % 10 == 0 else None
            loss = {"loss": 2.0 / step, "answers": 2.0 / step} if step else {}
            records.append(StepRecord(codes, step, **loss, largest=0.03 * step, without_gradient=2, dev=dev))
        before, best = (dict.fromkeys(codes, value + 0.01 * place) for value in (0.1, 0.6))
        ended.append(LearnedSet(codes, 10, before, best, 2, 16, kl))
    (folder / "history.jsonl").write_text("".join(json.dumps(each.to_json()) + "\n" for each in records))
    if finished:
        provenance = {"rule": "learned", "sets": [each.to_json() for each in ended]}
        write_plan(Plan(Fingerprint("qwen3_moe", (0, 1), 8, 2, "ab12"), (), provenance), folder / "plan.json")
    return folder


def figures(section):
    """By anchor."""
    return {block.anchor: block for block in section.blocks if block.kind == "figure"}


@pytest.mark.parametrize("shared", [False, True])
def test_figures_and_table_say_what_the_history_says(shared, tmp_path):
    """A line per set and its mean, a line of dev values per language with the chosen step, a row per language."""
    history = read_history(learned(tmp_path / "out", shared=shared))
    section = learning_section(history)
    drawn = figures(section)
    losses = drawn["learning-loss"].data
    assert [trace["meta"] for trace in losses[::2]] == (["all requests"] if shared else ["swh_Latn", "tha_Thai"])
    raw, mean = losses[0], losses[1]
    assert raw["x"] == list(range(1, STEPS + 1))
    assert raw["y"][3] == 0.5
    assert mean["y"][3] == pytest.approx(2 * (1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert mean["y"][-1] == pytest.approx(sum(raw["y"][-20:]) / 20)
    dev = drawn["learning-dev"].data
    assert [trace["meta"] for trace in dev] == ["swh_Latn", "tha_Thai"]
    assert dev[0]["x"] == [0, 10, 20, 30]
    assert dev[0]["y"] == pytest.approx([10.0, 60.0, 10.0, 10.0])
    sizes = dev[0]["marker"]["size"]
    assert sizes[1] == max(sizes) > sizes[0]
    table = section.blocks[-1]
    assert [row[0] for row in table.rows] == ["Swahili (swh_Latn)", "Thai (tha_Thai)"]
    assert table.rows[0][1:] == ("10.0", "60.0", "10", "0.300", "2 of 16", "0.250")
    assert "went from 10.0 to 60.0 % at step 10" in describe_learning(history)[0]
    assert "chosen on these dev items" in describe_learning(history)[-1]


def test_what_is_missing_is_said(tmp_path):
    """Learning that has not finished has no table; a divergence without a measurement no number."""
    unfinished = read_history(learned(tmp_path / "a", finished=False))
    assert describe_learning(unfinished) == ("Learning has not finished: no step has been chosen yet.",)
    assert all(block.kind == "figure" for block in learning_section(unfinished).blocks)
    table = learning_section(read_history(learned(tmp_path / "b", kl=float("nan")))).blocks[-1]
    assert table.rows[0][-1] == "not measured"


@pytest.mark.parametrize(("kept", "anchor"), [(1, "learning-dev"), (2, "learning-loss")])
def test_learning_that_was_stopped_at_once_is_drawn(kept, anchor, tmp_path):
    """Only what was measured before the first step, or a step without dev values: what is not there has no figure."""
    folder = learned(tmp_path / "out", ("swh_Latn",), finished=False)
    lines = (folder / "history.jsonl").read_text().splitlines(keepends=True)
    (folder / "history.jsonl").write_text(lines[kept - 1])
    assert list(figures(learning_section(read_history(folder)))) == [anchor]
    assert "Loss by step" in report_on(folder, tmp_path / "r.html").read_text() or kept == 1


def test_more_than_eight_languages_are_drawn_in_part_and_listed_whole(tmp_path):
    """And the caption says so."""
    codes = ("arb_Arab", "ben_Beng", "deu_Latn", "fra_Latn", "hin_Deva", "jpn_Jpan", "rus_Cyrl", "swh_Latn", "tha_Thai")
    section = learning_section(read_history(learned(tmp_path / "out", codes)))
    for figure in figures(section).values():
        assert len({trace["meta"] for trace in figure.data}) == 8
        assert "8 of 9 languages are drawn; the table has all." in figure.caption
    assert len(section.blocks[-1].rows) == 9


def test_the_page_is_whole(tmp_path):
    """One file, with both figures; a metric of which less is better is named so."""
    path = report_on(learned(tmp_path / "out", metric="bits_per_byte"), tmp_path / "page.html")
    page = path.read_text(encoding="utf-8")
    for text in (
        "Learning a plan for m on sums",
        'id="learning-loss"',
        'id="learning-dev"',
        "lower is better",
        "The settings.",
    ):
        assert text in page
    assert not re.search(r"<(script|link|img|iframe)[^>]*(src|href)=.https?:", page)


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("history.jsonl", "", "has no step; run `isogloss learn` again"),
        ("history.jsonl", '{"languages": ["swh_Latn"], "step"', "history.jsonl:1 is not finished"),
        ("history.jsonl", "{}\n", r"history.jsonl:1.*languages"),
        ("settings.json", "{}", "settings.json"),
    ],
)
def test_damaged_files_are_refused_by_name(name, content, match, tmp_path):
    """In one line; no page is written."""
    folder = learned(tmp_path / "out")
    (folder / name).write_text(content)
    with pytest.raises(RunError, match=match) as error:
        report_on(folder, tmp_path / "page.html")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "page.html").exists()


def test_a_plan_of_other_sets_is_refused(tmp_path):
    """Its history and its plan belong together."""
    folder = learned(tmp_path / "out")
    write_plan(Plan(Fingerprint("qwen3_moe", (0, 1), 8, 2, "ab12"), (), {"sets": [1]}), folder / "plan.json")
    with pytest.raises(RunError, match="expected one for each of 2 sets"):
        read_history(folder)
