"""An evaluation asks every arm the same, survives being killed at any moment, and mixes nothing."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import math
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from calendar_days import DATED, set_day
from fake_engine import FakeEngine
from killing import KilledError, kill_at, start_signalled
from transformers import AutoTokenizer
from written import contents, rows_of

from isogloss.backends.model import Likelihood, Sampling
from isogloss.backends.open import load
from isogloss.cli import main
from isogloss.cli.output import show_evaluation
from isogloss.errors import PlanError, RunError
from isogloss.evaluation import Item, Task, load_task
from isogloss.evaluation.run import RunOptions, run_evaluation
from isogloss.evaluation.summarise import compare_folders
from isogloss.evaluation.summary import EvaluationSummary
from isogloss.evaluation.tasks.parse import parse_number
from isogloss.organism.shipped import model_folder
from isogloss.records import read_typed, to_json
from isogloss.reports.effects import describe_evaluation
from isogloss.routing import Fingerprint
from isogloss.steering import AdaptedRouter, Intervention, Plan, RouterAdapter, read_adapter, write_plan

FINGERPRINT = Fingerprint("qwen3_moe", (0, 1), 8, 2, "ab12")
PLAN = Plan(FINGERPRINT, (Intervention("ban", 0, (1,)),))
OTHER = Plan(FINGERPRINT, (Intervention("ban", 1, (2,)),))
ARMS = {"plan": PLAN, "other": OTHER}
OPTIONS = RunOptions(batch_size=2)
LANGUAGES = ("eng_Latn", "deu_Latn")


def no_statistics(_task, answers, _facts):
    """What stands in for a summary, whose statistics take most of the time and write nothing."""
    return dict(answers)


def sums(n=5, languages=LANGUAGES):
    """A task of sums: right answers are 0, 1 or 2."""
    items = {code: [Item(str(i), f"{code} {i}?", str(i % 3), group=str(i % 2)) for i in range(n)] for code in languages}
    return Task("sums", items, parse_number, 8)


def choices(languages=LANGUAGES):
    """A task of two options each."""
    items = {code: [Item(str(i), f"{code} {i}?", "no", ("yes", "no"), 1) for i in range(5)] for code in languages}
    return Task("choices", items, parse_number, 0, scoring="options")


def texts():
    """A task of reference texts without prompts."""
    items = {code: [Item(str(i), "", reference=f"{code} ü {i}") for i in range(5)] for code in LANGUAGES}
    return Task("texts", items, parse_number, 0, scoring="reference", metric="bits_per_byte")


@pytest.mark.parametrize("arms", [{"plan": Plan(FINGERPRINT)}, {"plan": PLAN, "other": Plan(FINGERPRINT)}])
def test_an_empty_plan_is_refused(tmp_path, arms):
    """An arm that answers as the baseline compares nothing; no folder is made for it."""
    engine = FakeEngine()
    with pytest.raises(PlanError, match=f"arm {list(arms)[-1]}: the plan has no intervention"):
        run_evaluation(engine, sums(), arms, out=tmp_path / "eval", options=OPTIONS)
    assert not engine.asked
    assert not (tmp_path / "eval").exists()


@pytest.mark.parametrize("task", [sums(), choices(), texts()], ids=lambda task: task.scoring)
def test_all_arms_are_asked_the_same(tmp_path, task):
    """Baseline first, then the arms in order: the same texts in the same batches, each under its own plan."""
    engine = FakeEngine()
    run_evaluation(engine, task, ARMS, out=tmp_path / "eval", options=OPTIONS)
    plans = [plan for plan, _ in engine.asked]
    n_batches = 2 * 3
    assert plans == [None] * n_batches + [PLAN.sha256] * n_batches + [OTHER.sha256] * n_batches
    asked = [[what for plan, what in engine.asked if plan == arm] for arm in (None, PLAN.sha256, OTHER.sha256)]
    assert asked[0] == asked[1] == asked[2]
    per_item = 2 if task.scoring == "options" else 1
    assert [len(what[0]) for what in asked[0]] == [2 * per_item, 2 * per_item, per_item] * 2
    for code in LANGUAGES:
        prompts = [[row["prompt_sha256"] for row in rows_of(tmp_path / "eval" / arm / f"{code}.jsonl")] for arm in ARMS]
        expected = [hashlib.sha256(item.prompt.encode()).hexdigest() for item in task.items[code]]
        assert prompts == [expected] * 2


def test_a_line_holds_what_is_needed_later(tmp_path):
    """Output, what was read off it, what was expected, and its score, by kind of scoring."""
    run_evaluation(FakeEngine(), sums(), ARMS, out=tmp_path / "a", options=OPTIONS)
    for row in rows_of(tmp_path / "a" / "plan" / "eng_Latn.jsonl"):
        assert row["correct"] == (row["parsed"] == row["expected"])
        assert (row["parsed"] is None) == (row["output"] == "")
        assert row["value"] == float(row["correct"])
    run_evaluation(FakeEngine(), choices(), ARMS, out=tmp_path / "b", options=OPTIONS)
    for row in rows_of(tmp_path / "b" / "plan" / "eng_Latn.jsonl"):
        yes, no = row["log_likelihoods"]
        assert row["correct"] == (no > yes)
        assert row["n_tokens"] == [3, 3]
    run_evaluation(FakeEngine(), texts(), ARMS, out=tmp_path / "c", options=OPTIONS)
    for row in rows_of(tmp_path / "c" / "plan" / "eng_Latn.jsonl"):
        assert row["correct"] is None
        assert row["value"] == pytest.approx(-row["log_likelihoods"][0] / math.log(2) / len("eng_Latn ü 1".encode()))


@pytest.mark.parametrize("scoring", ["generated", "options"])
def test_killed_at_any_moment_it_ends_with_the_same_bytes(tmp_path, monkeypatch, scoring):
    """Whatever call is the last one, the same command goes on, answers nothing twice, and ends as if undisturbed."""
    monkeypatch.setattr("isogloss.evaluation.asked.summarise", no_statistics)
    task = sums(3) if scoring == "generated" else choices(LANGUAGES[:1])
    whole = tmp_path / "whole"
    undisturbed = FakeEngine()
    summary = run_evaluation(undisturbed, task, {"plan": PLAN}, out=whole, options=OPTIONS)
    expected, moment = contents(whole), 0
    while True:
        out = tmp_path / "killed"
        first, second = FakeEngine(), FakeEngine()
        with monkeypatch.context() as patch:
            kill_at(patch, moment)
            try:
                run_evaluation(first, task, {"plan": PLAN}, out=out, options=OPTIONS)
            except KilledError:
                pass
            else:
                break
        assert run_evaluation(second, task, {"plan": PLAN}, out=out, options=OPTIONS) == summary
        assert contents(out) == expected
        assert len(first.asked) + len(second.asked) <= len(undisturbed.asked) + 1  # the batch in flight
        shutil.rmtree(out)
        moment += 1
    assert moment > 2 * len(undisturbed.asked)


class Stopping(FakeEngine):
    """Answers four batches."""

    def answer(self, prompts, **options):
        if len(self.asked) == 4:
            raise KilledError
        return super().answer(prompts, **options)


def test_finished_batches_are_not_answered_again(tmp_path):
    """A stopped engine is asked the rest only; a finished evaluation asks nothing, and progress tells all items."""
    whole, first, second, third = FakeEngine(), Stopping(), FakeEngine(), FakeEngine()
    run_evaluation(whole, sums(), ARMS, out=tmp_path / "whole", options=OPTIONS)
    with pytest.raises(KilledError):
        run_evaluation(first, sums(), ARMS, out=tmp_path / "eval", options=OPTIONS)
    told = []
    run_evaluation(second, sums(), ARMS, out=tmp_path / "eval", options=OPTIONS, progress=told.append)
    assert first.asked + second.asked == whole.asked
    assert sum(told) == 3 * 2 * 5
    run_evaluation(third, sums(), ARMS, out=tmp_path / "eval", options=OPTIONS)
    assert third.asked == []


@pytest.mark.parametrize(
    ("engine", "task", "options", "named"),
    [
        (FakeEngine("vllm"), sums(), OPTIONS, "engine"),
        (FakeEngine(), sums(4), OPTIONS, "items_sha256"),
        (FakeEngine(), sums(), RunOptions(batch_size=3), "batch_size"),
        (FakeEngine(), sums(), RunOptions(2, Sampling(0.7)), "sampling"),
    ],
)
def test_other_settings_are_refused_by_name(tmp_path, engine, task, options, named):
    """Nothing is answered or changed."""
    run_evaluation(FakeEngine(), sums(), ARMS, out=tmp_path / "eval", options=OPTIONS)
    before = contents(tmp_path / "eval")
    with pytest.raises(RunError, match=rf"other settings \({named}: "):
        run_evaluation(engine, task, ARMS, out=tmp_path / "eval", options=options)
    assert engine.asked == []
    assert contents(tmp_path / "eval") == before


def test_a_plan_without_effect_is_refused(tmp_path):
    """Before anything is written."""
    with pytest.raises(PlanError, match="changed no chosen expert"):
        run_evaluation(FakeEngine(change=0.0), sums(), ARMS, out=tmp_path / "eval")
    assert not (tmp_path / "eval").exists()


def test_arms_need_a_plan_and_a_plain_baseline(tmp_path):
    """Neither may be missing or something else."""
    for arms in ({"other": OTHER}, {"plan": None}, {"baseline": OTHER, "plan": PLAN}):
        with pytest.raises(RunError, match="expected one named plan"):
            run_evaluation(FakeEngine(), sums(), arms, out=tmp_path / "eval")


def test_plans_by_language_act_on_their_language(tmp_path):
    """Each language's items are answered under what the plan chooses for it."""
    conditional = Plan(
        FINGERPRINT,
        (Intervention("ban", 0, (1,), languages=("de",)), Intervention("ban", 0, (2,), languages=("en",))),
    )
    engine = FakeEngine()
    run_evaluation(engine, sums(), {"plan": conditional}, out=tmp_path / "eval", options=OPTIONS)
    steered = {what[0][0].split()[0]: plan for plan, what in engine.asked if plan is not None}
    assert steered == {code: conditional.for_request(code).sha256 for code in LANGUAGES}


def test_an_adapter_is_evaluated_as_a_plan_is(tmp_path):
    """Every language is answered under it; the arm keeps its folder; a plan may stand beside it; it resumes."""
    router = AdaptedRouter(0, "model.layers.0.mlp.gate.weight", np.ones((8, 1)), np.ones((1, 4)))
    adapter = RouterAdapter(FINGERPRINT, (router,), ("constant",))
    engine, arms = FakeEngine(), {"plan": adapter, "rule": PLAN}
    summary = run_evaluation(engine, sums(), arms, out=tmp_path / "eval", options=OPTIONS)
    assert {what[0][0].split()[0] for sha, what in engine.asked if sha == adapter.sha256} == set(LANGUAGES)
    assert read_adapter(tmp_path / "eval" / "plan" / "adapter") == adapter
    assert (tmp_path / "eval" / "rule" / "plan.json").is_file()
    assert summary.n_experts == {"plan": 8, "rule": 1}
    assert json.loads((tmp_path / "eval" / "settings.json").read_text())["arms"]["plan"] == adapter.sha256
    (tmp_path / "eval" / "plan" / "effect.json").unlink()  # as if killed between the two
    (tmp_path / "eval" / "plan" / "eng_Latn.jsonl").unlink()
    assert run_evaluation(FakeEngine(), sums(), arms, out=tmp_path / "eval", options=OPTIONS) == summary
    with pytest.raises(RunError, match="arms"):
        run_evaluation(
            FakeEngine(), sums(), {**arms, "plan": adapter.scaled(2)}, out=tmp_path / "eval", options=OPTIONS
        )


def test_an_adapter_stands_beside_the_plan_that_it_was_made_from(tmp_path, capsys):
    """In the languages of that plan and in the others, by the means of their own; another plan's adapter does not."""
    plan = Plan(FINGERPRINT, (Intervention("ban", 0, (1,), languages=("de",)),))
    router = AdaptedRouter(0, "model.layers.0.mlp.gate.weight", np.ones((8, 1)), np.ones((1, 4)))
    made = RouterAdapter(FINGERPRINT, (router,), ("deu_Latn",), {"plan_sha256": plan.sha256})
    other = dataclasses.replace(made, provenance={"plan_sha256": PLAN.sha256})
    arms = {"plan": PLAN, "learned": plan, "adapter": made, "other": other}
    summary = run_evaluation(FakeEngine(), sums(50), arms, out=tmp_path / "eval", options=OPTIONS)
    assert set(summary.adapters) == {"adapter"}
    beside = summary.adapters["adapter"]
    assert (beside.plan, beside.languages) == ("learned", ("deu_Latn",))
    means = {arm: summary.arms[arm] for arm in ("baseline", *arms)}
    changes = {
        beside.overall: means["adapter"]["deu_Latn"] - means["baseline"]["deu_Latn"],
        beside.from_plan: means["adapter"]["deu_Latn"] - means["learned"]["deu_Latn"],
        beside.others: means["adapter"]["eng_Latn"] - means["baseline"]["eng_Latn"],
    }
    assert len({0.0, *(round(change, 6) for change in changes.values())}) == 1 + len(changes)
    for scores, change in changes.items():
        assert scores.difference.value == pytest.approx(change)
        assert scores.difference.n == 1
    show_evaluation(summary, as_json=False)
    (line,) = [each for each in capsys.readouterr().out.splitlines() if each.startswith("adapter: the router adapter")]
    before, after = (f"{100 * means[arm]['eng_Latn']:.1f}" for arm in ("baseline", "adapter"))
    assert line.endswith(f"; eng_Latn {before} to {after} %.")
    assert "made from learned" in line
    (told,) = [each for each in describe_evaluation(summary) if "made from learned" in each]
    assert "in German the mean goes from" in told


def test_languages_without_a_rule_keep_the_unsteered_answers_and_are_told_apart(tmp_path, capsys):
    """They are not asked again, after a restart neither; the pivot passes its guard, and the others have a mean."""
    ban = Intervention("ban", 0, (1,), languages=("de",))
    plan, both = Plan(FINGERPRINT, (ban,)), dataclasses.replace(ban, languages=("de", "en"))
    engine, arms = FakeEngine(), {"plan": plan, "all": PLAN, "both": Plan(FINGERPRINT, (both,))}
    summary = run_evaluation(engine, sums(30), arms, out=tmp_path / "eval", options=OPTIONS)
    asked = [what[0][0].split()[0] for sha, what in engine.asked if sha == plan.for_request("de").sha256]
    assert set(asked) == {"deu_Latn"}
    baseline, own = ((tmp_path / "eval" / arm / "eng_Latn.jsonl").read_bytes() for arm in ("baseline", "plan"))
    assert own == baseline
    guard, unconditional = summary.guard["plan"], summary.guard["all"]
    assert (guard.verdict, guard.low, guard.high, guard.steered) == ("pass", 0.0, 0.0, False)
    assert unconditional.steered
    assert summary.guard["both"].steered
    assert set(summary.where_steered) == {"plan"}
    mean = summary.where_steered["plan"]
    assert mean.languages == ("deu_Latn",)
    assert mean.overall.difference.value == summary.per_language["deu_Latn"].difference.value
    assert mean.overall.difference.value != summary.overall.difference.value
    assert {text.split()[0] for texts, _ in engine.probed[:1] for text in texts} == {"deu_Latn"}
    french = Plan(FINGERPRINT, (dataclasses.replace(ban, languages=("fr",)),))
    with pytest.raises(PlanError, match="arm plan: its rules are for fra_Latn, and none of them was asked"):
        run_evaluation(FakeEngine(), sums(), {"plan": french}, out=tmp_path / "other", options=OPTIONS)
    show_evaluation(summary, as_json=False)
    shown = capsys.readouterr().out
    before, after = (f"{100 * each.value:.1f}" for each in (mean.overall.baseline, mean.overall.steered))
    assert f"plan: mean accuracy over the 1 language that it steers (deu_Latn) goes from {before} to {after} %" in shown
    assert "eng_Latn is not steered." in shown
    assert shown.count("that it steers") == 1
    for path in (tmp_path / "eval" / "plan").glob("*.jsonl"):
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[: OPTIONS.batch_size]))
    again = FakeEngine()
    assert run_evaluation(again, sums(30), arms, out=tmp_path / "eval", options=OPTIONS) == summary
    assert {what[0][0].split()[0] for _, what in again.asked} == {"deu_Latn"}


class WordTokenizer(FakeEngine.tokenizer.__class__):
    """A word is a token, and a text begins with one more."""

    bos_token_id = 0

    def __call__(self, text, *, add_special_tokens=True):
        return {"input_ids": [0] * add_special_tokens + [1] * len(text.split())}


def test_questions_beyond_the_context_are_refused_before_any_is_asked(tmp_path):
    """Prompt and new tokens, or prompt and option, at the limit and one beyond it; the item is named."""
    engine, task = FakeEngine(), sums()
    engine.tokenizer = WordTokenizer()
    for asked, needed in ((task, 3 + 8), (choices(), 4)):
        engine.context_length = needed - 1
        with pytest.raises(
            RunError, match=rf"task {asked.name}, eng_Latn, item '0': a text of \d tokens.* {needed - 1} "
        ):
            run_evaluation(engine, asked, ARMS, out=tmp_path / asked.name)
        assert not engine.asked
        assert not (tmp_path / asked.name).exists()
        engine.context_length = needed
        run_evaluation(engine, asked, ARMS, out=tmp_path / asked.name)
        engine.asked.clear()


@pytest.mark.parametrize("template", [None, "{{ messages }}"])
def test_effects_are_measured_on_the_prompts_as_they_are_asked(tmp_path, template):
    """The first prompts of each language; those of a chat template, which holds its own beginning, get none more."""

    class Tokenizer:
        chat_template = template

        def apply_chat_template(self, messages, **_options):
            return f"<s>{messages[-1]['content']}"

    engine = FakeEngine()
    engine.tokenizer = Tokenizer()
    task = dataclasses.replace(sums(), chat=True)
    run_evaluation(engine, task, {"plan": PLAN}, out=tmp_path / "eval", options=OPTIONS)
    assert [special for _, special in engine.probed] == [template is None] * 2
    assert all(
        len(texts) == 4 and all(t.startswith("<s>") == bool(template) for t in texts) for texts, _ in engine.probed
    )


def test_an_evaluation_keeps_its_date_over_midnight(tmp_path, monkeypatch):
    """Resumed on another day it asks the same and ends with the same bytes; a new one has the new date."""
    tokenizer = AutoTokenizer.from_pretrained(model_folder())
    tokenizer.chat_template = DATED
    task, folder = dataclasses.replace(sums(), chat=True), tmp_path / "eval"
    engines = [FakeEngine(), Stopping(), FakeEngine(), FakeEngine()]
    for engine in engines:
        engine.tokenizer = tokenizer
    set_day(monkeypatch, "2026-08-05")
    run_evaluation(engines[0], task, {"plan": PLAN}, out=tmp_path / "whole", options=OPTIONS)
    with pytest.raises(KilledError):
        run_evaluation(engines[1], task, {"plan": PLAN}, out=folder, options=OPTIONS)
    set_day(monkeypatch, "2026-08-06")
    run_evaluation(engines[2], task, {"plan": PLAN}, out=folder, options=OPTIONS)
    assert contents(folder) == contents(tmp_path / "whole")
    assert all(prompt.startswith("05 Aug 2026") for _, (prompts, *_) in engines[2].asked for prompt in prompts)
    assert json.loads((folder / "settings.json").read_text())["date"] == "2026-08-05"
    run_evaluation(engines[3], task, {"plan": PLAN}, out=tmp_path / "new", options=OPTIONS)
    assert json.loads((tmp_path / "new" / "settings.json").read_text())["date"] == "2026-08-06"


def test_an_evaluation_without_a_date_resumes_on_any_day(tmp_path, monkeypatch):
    """Where no template writes one, none is kept, so that what was begun before dates were kept resumes."""
    set_day(monkeypatch, "2026-08-05")
    run_evaluation(FakeEngine(), sums(), {"plan": PLAN}, out=tmp_path / "eval", options=OPTIONS)
    assert "date" not in json.loads((tmp_path / "eval" / "settings.json").read_text())
    before = contents(tmp_path / "eval")
    set_day(monkeypatch, "2026-08-06")
    run_evaluation(FakeEngine(), sums(), {"plan": PLAN}, out=tmp_path / "eval", options=OPTIONS)
    assert contents(tmp_path / "eval") == before


def test_a_plan_by_phase_has_a_divergence(tmp_path):
    """A number with an interval, for rules of the generation too, by language."""
    engine = load("organism")
    rules = tuple(Intervention("ban", k, (1, 2, 3), phase="generation") for k in (4, 5))
    plan = Plan(engine.fingerprint, rules)
    task = load_task("organism:reference", languages=["en", "sw"], n_items=3)
    summary = run_evaluation(engine, task, {"plan": plan}, out=tmp_path / "eval")
    for row in summary.kl["plan"].values():
        assert 0 < row.low <= row.value <= row.high


def test_sampling_is_keyed_by_language_and_item(tmp_path):
    """Keys name the item and nothing of its place; what generates nothing cannot be sampled."""
    engine = FakeEngine()
    options = RunOptions(2, Sampling(0.7, 0.8, 20))
    run_evaluation(engine, sums(), {"plan": PLAN}, out=tmp_path / "eval", options=options)
    keys = [key for plan, what in engine.asked for key in what[3] if plan is None]
    assert keys == [f"{code}/{index}" for code in LANGUAGES for index in range(5)]
    with pytest.raises(RunError, match="nothing to sample"):
        run_evaluation(engine, choices(), {"plan": PLAN}, out=tmp_path / "b", options=options)


def test_a_likelihood_that_is_no_number(tmp_path):
    """An option is wrong and kept as null; a reference ends the evaluation with the item's name."""

    class Broken(FakeEngine):
        def log_likelihoods(self, pairs, **_options):
            return [Likelihood(math.nan, 3, greedy=False) for _ in pairs]

    run_evaluation(Broken(), choices(), {"plan": PLAN}, out=tmp_path / "a")
    assert rows_of(tmp_path / "a" / "plan" / "eng_Latn.jsonl")[0]["log_likelihoods"] == [None, None]
    assert json.loads((tmp_path / "a" / "summary.json").read_text())["unparsable"]["plan"]["eng_Latn"]["value"] == 1.0
    with pytest.raises(RunError, match="item '0': the log-likelihood is nan"):
        run_evaluation(Broken(), texts(), {"plan": PLAN}, out=tmp_path / "b")


def test_the_summary_counts_what_the_lines_say(tmp_path):
    """Means, sizes, unreadable answers and controls agree with a count over the files."""
    summary = run_evaluation(FakeEngine(), sums(30), ARMS, out=tmp_path / "eval", options=OPTIONS)
    assert read_typed(tmp_path / "eval" / "summary.json", EvaluationSummary) == summary
    assert to_json(summary) == json.loads((tmp_path / "eval" / "summary.json").read_text())
    for arm in ("baseline", *ARMS):
        for code in LANGUAGES:
            rows = rows_of(tmp_path / "eval" / arm / f"{code}.jsonl")
            assert summary.arms[arm][code] == pytest.approx(sum(row["correct"] for row in rows) / 30)
            unread = summary.unparsable[arm][code]
            assert unread.value == pytest.approx(sum(row["output"] == "" for row in rows) / 30)
            assert unread.n == summary.n[code] == 30
    gain = summary.arms["plan"]["eng_Latn"] - summary.arms["baseline"]["eng_Latn"]
    assert summary.per_language["eng_Latn"].difference.value == pytest.approx(gain)
    assert set(summary.controls) == {"other"}
    assert summary.guard["plan"].change == pytest.approx(gain)
    assert summary.output_language["plan"]["eng_Latn"].judged_steered <= 30
    assert "dose_response" not in to_json(summary)
    without_pivot = run_evaluation(FakeEngine(), sums(3, ["deu_Latn"]), ARMS, out=tmp_path / "b")
    assert "guard" not in to_json(without_pivot)


def test_a_summary_shows_itself(tmp_path):
    """Its headline in one line, and one row per arm and language, after that of the mean."""
    summary = run_evaluation(FakeEngine(), sums(30), ARMS, out=tmp_path / "eval", options=OPTIONS)
    assert repr(summary).startswith("EvaluationSummary(fake on sums: accuracy ")
    frame = summary.to_frame()
    assert list(zip(frame.arm, frame.language, strict=True)) == [
        (arm, code) for arm in ARMS for code in ("", "deu_Latn", "eng_Latn")
    ]
    row = frame[(frame.arm == "other") & (frame.language == "eng_Latn")].iloc[0]
    assert row.difference == summary.controls["other"].per_language["eng_Latn"].difference.value
    assert "<table" in summary._repr_html_()


def test_group_means_weigh_groups_alike(tmp_path):
    """The mean over subjects is not the mean over items where subjects differ in size."""
    items = {"eng_Latn": [Item(str(i), f"{i}?", str(i % 3), group="a" if i < 6 else "b") for i in range(8)]}
    task = Task("grouped", items, parse_number, 8, group_mean=True)
    summary = run_evaluation(FakeEngine(), task, {"plan": PLAN}, out=tmp_path / "eval")
    right = [row["correct"] for row in rows_of(tmp_path / "eval" / "plan" / "eng_Latn.jsonl")]
    expected = (sum(right[:6]) / 6 + sum(right[6:]) / 2) / 2
    assert summary.group_mean["plan"]["eng_Latn"].steered.value == pytest.approx(expected)


def test_bits_of_the_corpus_are_bits_over_bytes(tmp_path):
    """Not the mean of the items' own ratios; fewer bits are better."""
    items = {"eng_Latn": [Item(str(i), "", reference="a" * (i + 1)) for i in range(6)]}
    task = Task("texts", items, parse_number, 0, scoring="reference", metric="bits_per_byte")
    summary = run_evaluation(FakeEngine(), task, {"plan": PLAN}, out=tmp_path / "eval")
    nats = [row["log_likelihoods"][0] for row in rows_of(tmp_path / "eval" / "plan" / "eng_Latn.jsonl")]
    value = summary.corpus["plan"]["eng_Latn"].steered.value
    assert value == pytest.approx(-sum(nats) / math.log(2) / 21)
    assert summary.better == "lower"


def test_doses_are_listed_by_strength(tmp_path):
    """The plan and its other strengths, weakest first."""
    arms = {
        "plan": Plan(FINGERPRINT, (Intervention("soft", 0, (1,), 0.5),)),
        "strength-1": Plan(FINGERPRINT, (Intervention("soft", 0, (1,), 1.0),), {"control": "strength"}),
        "strength-0.1": Plan(FINGERPRINT, (Intervention("soft", 0, (1,), 0.1),), {"control": "strength"}),
        "other": OTHER,
    }
    summary = run_evaluation(FakeEngine(), sums(), arms, out=tmp_path / "eval")
    doses = [(dose.arm, dose.strength) for dose in summary.dose_response]
    assert doses == [("strength-0.1", 0.1), ("plan", 0.5), ("strength-1", 1.0)]


def test_folders_of_different_engines_are_not_compared(tmp_path):
    """The field that differs is named; equal ones give a paired comparison of the arms asked for."""
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder, engine in zip(folders, ("huggingface", "huggingface", "vllm"), strict=True):
        summary = run_evaluation(FakeEngine(engine), sums(), ARMS, out=folder, options=OPTIONS)
    with pytest.raises(RunError, match=r"engine 'huggingface' and .* has 'vllm'; one comparison never mixes"):
        compare_folders(folders[0], folders[2])
    compared = compare_folders(folders[0], folders[1], arms=("baseline", "plan"))
    assert compared.overall == summary.overall


@pytest.fixture(scope="module")
def plan_file(tmp_path_factory):
    """A plan for the shipped model that changes choices."""
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    fingerprint = load("organism").fingerprint
    write_plan(Plan(fingerprint, tuple(Intervention("soft", k, (1, 2, 3), 0.5) for k in (4, 5))), path)
    return path


def command(plan_file, out, *more):
    """A small evaluation of the organism."""
    few = ["--task", "organism", "--languages", "en,sw", "--items", "3", "--batch-size", "1"]
    return ["evaluate", "organism", "--plan", str(plan_file), *few, "--controls", "0", "-o", str(out), *more]


@pytest.mark.slow
def test_sigkill_and_a_second_process(tmp_path, plan_file, capsys):
    """A stopped process bars the folder, a killed one does not, and the end is that of an undisturbed run."""
    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    process = start_signalled(command(plan_file, stopped), stopped, "*.jsonl", 2, signal.SIGSTOP)
    assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
    assert main(command(plan_file, stopped)) == 2
    assert "another process is working in" in capsys.readouterr().err
    process.kill()
    process.wait()
    assert not (stopped / "summary.json").exists()
    assert main(command(plan_file, stopped)) == 0
    assert main(command(plan_file, whole)) == 0
    assert contents(stopped) == contents(whole)


def test_the_table_says_first_whether_anything_is_shown(tmp_path, plan_file, capsys):
    """A verdict, a row per language, a line per arm; and the two scorings without generation run as well."""
    arms = ["--arms", "early", "--arms", "strength=0.5,1"]
    few = ["--plan", plan_file, "--languages", "en,sw", "--items", "3", "-o", tmp_path / "eval"]
    given = ["evaluate", "organism", "--task", "organism:reference", *few, *arms]
    assert main([str(each) for each in given]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("mean bits_per_byte over 2 languages changes by")
    assert [line.split()[0] for line in printed[1:4]] == ["language", "eng_Latn", "swh_Latn"]
    assert [line.partition(":")[0] for line in printed[4:]] == ["plan", "early", "strength-1"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--top-p", "0.8", "--seed", "1"], "--top-p, --seed without --temperature"),
        (["--backend", "vllm", "--device", "cpu"], "--device has no meaning for --backend vllm"),
        (["--backend", "vllm", "--dequantize"], "--dequantize has no meaning for --backend vllm"),
        (["--backend", "vllm", "--engine", "a=1", "--engine", "a=2"], "--engine gives a more than once"),
        (["--engine", "tensor_parallel_size=8"], "only vLLM takes it: give --backend vllm"),
        (["--arms", "sideways"], "unknown arm 'sideways'"),
        (["--arms", "random:2", "--controls", "1"], "'random-0' already"),
        (["--split", "train"], "no split 'train'"),
        (["--pivot", "xx"], "xx"),
        (["--task", "organism:scenes", "--temperature", "1"], "nothing to sample"),
    ],
)
def test_bad_combinations_are_one_line(tmp_path, plan_file, capsys, more, message):
    """Exit code 2, one line that names the option, and no folder."""
    assert main([*command(plan_file, tmp_path / "out"), *more]) == 2
    error = capsys.readouterr().err
    assert message in error.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_vllm_that_is_not_installed_is_one_line(tmp_path, plan_file, capsys, monkeypatch):
    """The way to it is named, and nothing is written."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "vllm" else importlib.util)
    assert main(command(plan_file, tmp_path / "out", "--backend", "vllm")) == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("or use --backend huggingface")
    assert not (tmp_path / "out").exists()


def test_sampled_answers_do_not_depend_on_batches(tmp_path, plan_file, monkeypatch):
    """With the organism itself: other batch sizes and other arms leave each item's draws as they are."""
    monkeypatch.setattr("isogloss.evaluation.asked.summarise", no_statistics)
    engine, task = load("organism"), load_task("organism", languages=["sw"], n_items=3)
    plan = Plan.from_json(json.loads(Path(plan_file).read_text()))
    sampling = Sampling(0.7, 0.8, 20, seed=1)
    outputs = []
    for size, arms in ((3, {"plan": plan}), (2, {"other": plan, "plan": plan})):
        out = tmp_path / str(size)
        run_evaluation(engine, task, arms, out=out, options=RunOptions(size, sampling))
        outputs.append([row["output"] for row in rows_of(out / "plan" / "swh_Latn.jsonl")])
    assert outputs[0] == outputs[1]
