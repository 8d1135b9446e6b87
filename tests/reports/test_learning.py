"""The report on a learned plan: what its folder holds, drawn and listed; damage is refused in one line."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from isogloss.errors import RunError
from isogloss.learning import LearnedSet, LearnSettings, StepRecord, read_history
from isogloss.reports import report_on
from isogloss.reports.learning import describe_learning, learning_section
from isogloss.routing import Fingerprint
from isogloss.steering import AdaptedRouter, Plan, RouterAdapter, write_adapter, write_plan

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


FINGERPRINT = Fingerprint("qwen3_moe", (0, 1), 8, 2, "ab12")
GUARDED = {"eng_Latn": 1.0, "deu_Latn": 0.8, "zho_Hans": 0.5}
COST = {
    "kl": 0.004,
    "protected_before": GUARDED,
    "protected": {**GUARDED, "deu_Latn": 0.7},
    "protected_kl": {"deu_Latn": 0.031, "zho_Hans": 0.012},
}


def learned_adapter(folder, *, best_step=10, start=None, cost=COST, **options):
    """The folder of an adapter for two languages that protects three."""
    folder.mkdir()
    languages = ("swh_Latn", "tha_Thai")
    chosen = {"objective": "answers", "parameters": "low-rank", "rank": 4, "probes": "learned", "shared": False}
    chosen |= {"leash": 3.0, "tolerance": 0.02, "pivot": "eng_Latn", **options}
    settings = LearnSettings({"model_name": "m"}, 1, chosen, languages, "sums", "accuracy", {}, start_sha256=start)
    (folder / "settings.json").write_text(json.dumps(settings.to_json()))
    dev = [dict.fromkeys(languages, value) for value in (0.1, 0.6)]
    records = [
        StepRecord(languages, 0, dev=dev[0], protected=cost.get("protected_before")),
        StepRecord(languages, 10, 1.5, 1.2, leash=0.1, largest=0.3, dev=dev[1], protected=cost.get("protected")),
    ]
    (folder / "history.jsonl").write_text("".join(json.dumps(each.to_json()) + "\n" for each in records))
    ended = LearnedSet(languages, best_step, dev[0], dev[1 if best_step else 0], 3, 16, **cost)
    router = AdaptedRouter(0, "model.layers.0.mlp.gate.weight", np.ones((8, 1)), np.ones((1, 4)))
    provenance = {"rule": "learned", "sets": [ended.to_json()]}
    write_adapter(RouterAdapter(FINGERPRINT, (router,), ("all",), provenance), folder / "adapter")
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


@pytest.mark.parametrize(
    ("options", "lead"),
    [
        ({}, "A change of rank 4 of the routers' weights was learned from answers of examples"),
        ({"start": "ef56"}, "A change of low rank, from an adapter that was there before, of the routers' weights was"),
        ({"start": "ef56", "probes": "fixed"}, "whose probes stayed as they were, of the routers' weights was learned"),
        ({"parameters": "router"}, "A change of full rank of the routers' weights was learned"),
        ({"layers": [2, 5]}, "of the routers' weights in layers 2–5 was learned"),
    ],
)
def test_an_adapter_is_a_change_of_weights(options, lead, tmp_path):
    """Nothing is said of a plan or of offsets, neither in sentences nor in figures and tables."""
    folder = learned_adapter(tmp_path / "out", **options)
    section = learning_section(read_history(folder))
    assert lead in section.paragraphs[0]
    assert "acts on every request, whatever its language" in section.paragraphs[0]
    page = report_on(folder, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Learning a router adapter for m on sums" in page
    for text in ("a plan for", "the plan", "offset", "logits"):
        assert text not in re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL)
    shown = [(block.title, block.caption) for block in section.blocks]
    assert not re.search("offset|logit|plan", str([*shown, section.paragraphs]))
    assert "largest change of a weight" in section.blocks[-2].header


def test_protected_languages_have_a_table(tmp_path):
    """The pivot first: dev value before and after, and how far the next token moves; a sentence sums them up."""
    history = read_history(learned_adapter(tmp_path / "out"))
    ended, protected = learning_section(history).blocks[-2:]
    assert ended.rows[0][1:] == ("10.0", "60.0", "10", "0.300", "3 of 16")
    assert protected.header == ("language", "dev accuracy before, %", "chosen, %", "KL")
    assert protected.rows == [
        ("English (eng_Latn)", "100.0", "100.0", "0.0040"),
        ("German (deu_Latn)", "80.0", "70.0", "0.031"),
        ("Chinese (Simplified) (zho_Hans)", "50.0", "50.0", "0.012"),
    ]
    cost = describe_learning(history)[1]
    assert cost.startswith("Of 3 protected languages the mean")
    assert "mean accuracy on their dev items went from 76.7 to 73.3 %" in cost
    assert "the next token moves most in German, by 0.031 nats per token" in cost
    assert describe_learning(history)[-1].endswith("say what the adapter is worth.")


def test_protected_languages_without_dev_items(tmp_path):
    """How far the next token moves is left; without that, too, there is no table."""
    bare = {"kl": 0.004, "protected_kl": {"deu_Latn": 0.031}}
    history = read_history(learned_adapter(tmp_path / "a", cost=bare))
    assert learning_section(history).blocks[-1].rows == [
        ("English (eng_Latn)", "0.0040"),
        ("German (deu_Latn)", "0.031"),
    ]
    history = read_history(learned_adapter(tmp_path / "b", cost={}))
    assert learning_section(history).blocks[-1].title == "Where learning ended"
    _, unguarded, _ = describe_learning(history)
    assert unguarded.startswith("Nothing guarded the choice of the step")


def test_a_pivot_that_is_learned_is_not_protected(tmp_path):
    """Its divergence of 0, where nothing was chosen, is no row."""
    cost = {**COST, "protected_before": None, "protected": None}
    history = read_history(learned_adapter(tmp_path / "out", cost=cost, pivot="swh_Latn"))
    assert [row[0] for row in learning_section(history).blocks[-1].rows] == [
        "German (deu_Latn)",
        "Chinese (Simplified) (zho_Hans)",
    ]


def test_an_adapter_that_changes_nothing_is_said(tmp_path):
    """With the tolerance as a reason, and no cost."""
    sentences = describe_learning(read_history(learned_adapter(tmp_path / "out", best_step=0)))
    assert "no step within the tolerance was better than no change, so the adapter changes nothing" in sentences[0]
    assert len(sentences) == 2


def test_a_plan_of_kind_select_is_not_called_offsets(tmp_path):
    """It has one set for each language, and its numbers are in scores."""
    folder = learned(tmp_path / "out")
    raw = json.loads((folder / "settings.json").read_text())
    raw["options"]["parameters"] = "select"
    (folder / "settings.json").write_text(json.dumps(raw))
    section = learning_section(read_history(folder))
    assert "added to the scores that routers rank" in section.paragraphs[0]
    assert "one set for each language" in section.paragraphs[0]
    assert "largest number, scores" in section.blocks[-1].header
