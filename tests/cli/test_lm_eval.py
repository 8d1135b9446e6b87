"""`isogloss evaluate --task lm-eval:…`: names, refusals, and, with lm-eval, tasks of our own from files."""

from __future__ import annotations

import importlib.util
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from lm_eval_tasks import GENERATE, no_hub

from isogloss.backends.huggingface import load_model
from isogloss.backends.huggingface.model import HuggingFaceModel
from isogloss.backends.model import Sampling
from isogloss.cli import main
from isogloss.errors import CorpusError, RunError
from isogloss.evaluation import asked_lm_eval
from isogloss.evaluation.asked_lm_eval import AskedLmEval
from isogloss.evaluation.records import DocumentRecord
from isogloss.evaluation.summarise import Facts
from isogloss.evaluation.summary import ArmEffect, EvaluationSummary
from isogloss.evaluation.tasks.lm_eval import task_language, tasks_in
from isogloss.records import from_json, to_json
from isogloss.routing import Fingerprint
from isogloss.steering import Intervention, Plan, write_plan
from known_answers.planted import planted_problems
from known_answers.planted_model import PLANTED_EXPERT, PLANTED_LAYER, planted_model

HARNESS = importlib.util.find_spec("lm_eval") is not None
N_ITEMS = 24


@pytest.mark.parametrize(
    ("task", "language"),
    [
        ("mgsm_direct_sw", "swh_Latn"),
        ("belebele_swh_Latn", "swh_Latn"),
        ("belebele_zho_Hant", "zho_Hant"),
        ("xcopa_id", "ind_Latn"),
        ("arc_easy", None),
        ("hellaswag", None),
        ("sw", None),
        ("swh_Latn", None),
    ],
)
def test_the_language_of_a_task_ends_its_name(task, language):
    """A code, alone or with its script, after an underscore; a name that is nothing but a code is a name."""
    assert task_language(task) == language


def test_languages_choose_among_tasks_named_by_them():
    """Tasks of other languages are left out; a task without language, or none left, is refused."""
    tasks = ("mgsm_direct_sw", "mgsm_direct_de", "belebele_swh_Latn")
    assert tasks_in(tasks, ()) == tasks
    assert tasks_in(tasks, ("swh_Latn",)) == ("mgsm_direct_sw", "belebele_swh_Latn")
    with pytest.raises(CorpusError, match="and arc_easy is not"):
        tasks_in((*tasks, "arc_easy"), ("swh_Latn",))
    with pytest.raises(CorpusError, match="is in fra_Latn"):
        tasks_in(tasks, ("fra_Latn",))


PLAN = Plan(Fingerprint("qwen3_moe", (3, 4), 8, 2, "ab12"), (Intervention("ban", 3, (1,)),))


def answers(scale=1.0, metrics=("acc,none", "acc_norm,none")):
    """Records of two tasks in English and Swahili, and of one without language; and a metric that is no number."""
    rng = np.random.default_rng(0)
    values = {
        (metric, task): {"baseline": rng.integers(0, 2, 30), "plan": np.ones(30), "random-0": np.zeros(30)}
        for metric in metrics
        for task in ("x_en", "x_sw", "y")
    }

    def rows(arm, task):
        by_metric = {metric: scale * values[metric, task][arm] for metric in metrics}
        extra = {"ppl,none": math.nan} if task == "y" else {}
        scores = [{name: float(each[k]) for name, each in by_metric.items()} | extra for k in range(30)]
        return [DocumentRecord(item=str(k), prompt_sha256="", expected="", values=row) for k, row in enumerate(scores)]

    return {arm: {task: rows(arm, task) for task in ("x_en", "x_sw", "y")} for arm in ("baseline", "plan", "random-0")}


def summary(metric=None, pivot="eng_Latn", **options):
    """Of made-up records."""
    asked = AskedLmEval.__new__(AskedLmEval)
    task = SimpleNamespace(aggregation=dict, higher_is_better=dict, VERSION=1)
    asked.name = "lm-eval:x"
    asked.source = SimpleNamespace(tasks=dict.fromkeys(("x_en", "x_sw", "y"), task), metric=metric, version="0.4.13")
    effect = ArmEffect({3: 0.5, 4: 0.25}, {"x_en": None, "x_sw": None, "y": None})
    facts = Facts(
        "m",
        "huggingface",
        pivot,
        {"baseline": None, "plan": PLAN, "random-0": PLAN},
        {"plan": effect} | {"random-0": effect},
    )
    return asked.summarise(answers(**options), facts)


def test_tasks_stand_under_their_language():
    """Means, sizes and comparisons by language, or by the task's name where it has none; the pivot is guarded."""
    found, names = summary(), {"x_en": "eng_Latn", "x_sw": "swh_Latn", "y": "y"}
    baseline = answers()["baseline"]
    means = {name: np.mean([row.values["acc,none"] for row in baseline[task]]) for task, name in names.items()}
    assert found.arms["baseline"] == pytest.approx(means)
    assert found.n == {"eng_Latn": 30, "swh_Latn": 30, "y": 30}
    assert found.per_language["swh_Latn"].difference.value == pytest.approx(1 - means["swh_Latn"])
    assert set(found.controls) == {"random-0"}
    assert found.guard["random-0"].verdict == "fail"
    assert found.left_out == ("y: ppl,none",)
    assert found.metric == "acc,none"
    assert found.metrics == ("acc,none", "acc_norm,none")
    assert found.kl["plan"].keys() == set(names.values())
    raw = to_json(found)
    assert to_json(from_json(EvaluationSummary, json.loads(json.dumps(raw, allow_nan=False)), "here")) == raw


def test_two_tasks_of_one_language_keep_their_names():
    """So that no comparison is lost."""
    assert asked_lm_eval._names(["x_sw", "y_swh_Latn", "y_de"]) == {
        "x_sw": "x_sw",
        "y_swh_Latn": "y_swh_Latn",
        "y_de": "deu_Latn",
    }


def test_scales_without_a_unit_of_loss_are_not_guarded():
    """What one point is, only shares say; chrF has another scale."""
    assert summary().guard
    assert not summary(scale=50.0).guard
    assert not summary(pivot="deu_Latn").guard


def test_metrics_are_named_in_full_or_alone():
    """The first by name where none is asked for; a name that stands for two, or for none, is refused with the names."""
    asked = {None: "acc,none", "acc": "acc,none", "acc_norm": "acc_norm,none", "acc,none": "acc,none"}
    assert {name: summary(name).metric for name in asked} == asked
    filters = ("exact_match,flexible", "exact_match,strict")
    with pytest.raises(RunError, match="names exact_match,flexible, exact_match,strict of"):
        summary("exact_match", metrics=filters)
    with pytest.raises(RunError, match="names no metric of these tasks; they have acc,none, acc_norm,none"):
        summary("f1")


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A model that adds where one certain expert is chosen, and a folder with it and a plan that forces the expert."""
    folder = tmp_path_factory.mktemp("planted")
    loaded = load_model(str(planted_model(folder / "model")), device="cpu")
    write_plan(Plan(loaded.fingerprint, (Intervention("force", PLANTED_LAYER, (PLANTED_EXPERT,)),)), folder / "p.json")
    return loaded, folder


def command(folder, out, *more, task="lm-eval:planted_deu_Latn,planted_sw"):
    """An evaluation of the planted model by the harness."""
    given = ["evaluate", folder / "model", "--plan", folder / "p.json", "--task", task, "-o", out, *more]
    return [str(each) for each in given]


@pytest.mark.skipif(HARNESS, reason="lm-eval is installed")
def test_without_the_harness_one_line_says_what_to_install(planted, tmp_path, capsys):
    """Before a model is loaded, and nothing is written."""
    assert main(command(planted[1], tmp_path / "out")) == 2
    streams = capsys.readouterr()
    assert "run: pip install isogloss[lm-eval]" in streams.err
    assert (streams.err.count("\n"), streams.out) == (1, "")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("task", "more", "message"),
    [
        ("lm-eval:x_sw", ["--split", "dev", "--temperature", "1"], "--split, --temperature has no meaning"),
        ("lm-eval:x_sw", ["--languages", "de"], "is in deu_Latn"),
        ("lm-eval:x_sw", ["--arms", "sideways"], "unknown arm"),
        ("lm-eval:", [], "names no task"),
        ("lm-eval:x,,y", [], "names no task"),
        ("organism", ["--metric", "acc"], "--metric has no meaning for --task organism"),
        ("organism", ["--include-path", "."], "--include-path has no meaning"),
    ],
)
def test_wrong_use_is_one_line(planted, tmp_path, capsys, task, more, message):
    """Exit code 2 before a model is loaded, and nothing is written."""
    assert main(command(planted[1], tmp_path / "out", *more, task=task)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("how", "stored", "sampling"),
    [
        ({}, {"top_p": 0.5}, None),
        ({"do_sample": False, "temperature": 0.0, "num_beams": 1, "use_cache": True}, {"min_p": 0.1}, None),
        ({"do_sample": True, "temperature": 0.7}, {}, Sampling(0.7, 1.0, 50)),
        ({"do_sample": True, "temperature": 1, "top_k": 0}, {"top_p": 0.5, "top_k": 20}, Sampling(1.0, 0.5, None)),
        ({"do_sample": True, "temperature": 1, "top_p": 0.9}, {"top_p": 0.5, "top_k": 20}, Sampling(1.0, 0.9, 20)),
    ],
)
def test_draws_are_as_a_task_or_else_the_checkpoint_says(how, stored, sampling):
    """As transformers does, whose default keeps the 50 most probable tokens; the harness gives the temperature."""
    assert asked_lm_eval._sampling(how, stored) == sampling


@pytest.mark.parametrize(
    ("how", "stored", "message"),
    [
        (
            {"num_beams": 4, "repetition_penalty": 1.2},
            {},
            "generates with num_beams, repetition_penalty, which is not supported",
        ),
        ({"do_sample": True, "temperature": 1.0}, {"min_p": 0.1}, "generates with min_p"),
        ({"do_sample": True}, {}, "expected temperature above 0"),
    ],
)
def test_what_is_not_done_is_refused(how, stored, message):
    """Rather than answered in another way than by lm-eval."""
    with pytest.raises(RunError, match=message):
        asked_lm_eval._sampling(how, stored)


@pytest.fixture
def tasks(tmp_path):
    """A folder with tasks as the harness reads them; nothing is looked for on the hub."""
    pytest.importorskip("lm_eval", reason="lm-eval is an optional extra")
    folder = tmp_path / "tasks"
    folder.mkdir()
    for code, language in (("deu_Latn", "deu_Latn"), ("sw", "swh_Latn")):
        file = folder / f"{code}.jsonl"
        rows = ({"prompt": prompt, "answer": answer} for _, prompt, answer in planted_problems()[language][:N_ITEMS])
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        (folder / f"{code}.yaml").write_text(GENERATE.format(language=code, file=file), encoding="utf-8")
    with no_hub(tmp_path / "cache"):
        yield folder


@pytest.mark.filterwarnings("ignore")  # of the harness and what it imports
def test_tasks_of_the_harness_are_evaluated_like_our_own(planted, tasks, tmp_path, capsys, monkeypatch):
    """A verdict, a row per language, a line per arm; the second time nothing is run, and other settings are refused."""
    more = ["--include-path", tasks, "--items", N_ITEMS, "--batch-size", "8"]
    out = tmp_path / "out"
    assert main(command(planted[1], out, *more, "--metric", "exact_match")) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("mean exact_match,none over 2 languages changes by")
    assert [line.split()[0] for line in printed[1:4]] == ["language", "deu_Latn", "swh_Latn"]
    assert [line.partition(":")[0] for line in printed[4:]] == ["plan", "5 random plans"]
    found = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert all(row["p_adjusted"] < 0.01 for row in found["per_language"].values())
    assert all(row["p_value"] > 0.05 for row in found["controls"]["random-0"]["per_language"].values())
    lines = (out / "plan" / "planted_sw.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == N_ITEMS
    monkeypatch.setattr(HuggingFaceModel, "answer", None)
    assert main(command(planted[1], out, *more, "--json")) == 0
    assert json.loads(capsys.readouterr().out) == found
    assert main(command(planted[1], out, *more, "--items", "3")) == 2
    assert "other settings (harness." in (error := capsys.readouterr().err)
    assert "items_sha256: " in error
    assert main(["report", str(out), "-o", str(tmp_path / "report.html")]) == 0
