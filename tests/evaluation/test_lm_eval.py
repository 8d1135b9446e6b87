"""Tasks of lm-evaluation-harness: answered and scored as it does itself, under every arm, resumable.

The oracle is ``lm_eval.simple_evaluate`` on the same weights, request by request.
"""

from __future__ import annotations

import copy
import json
import re
import shutil
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from written import contents

pytest.importorskip("lm_eval", reason="lm-eval is an optional extra")

import lm_eval
from calendar_days import DATED, set_day
from killing import KilledError, kill_at
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval_tasks import EQUAL, GENERATE, N_ITEMS, no_hub, write_tasks

from isogloss import hub
from isogloss.backends.huggingface import load_model, steer
from isogloss.backends.model import Sampling
from isogloss.backends.open import load
from isogloss.errors import CorpusError, PlanError, RunError
from isogloss.evaluation import asked_lm_eval
from isogloss.evaluation.asked import Question
from isogloss.evaluation.asked_lm_eval import AskedLmEval
from isogloss.evaluation.run import RunOptions, run_evaluation
from isogloss.evaluation.summarise import compare_folders
from isogloss.evaluation.tasks.lm_eval import LmEvalOptions, LmEvalTasks
from isogloss.records import to_json
from isogloss.steering import Intervention, Plan, random_control
from known_answers.planted import planted_problems
from known_answers.planted_model import PLANTED_EXPERT, PLANTED_LAYER, planted_model

pytestmark = pytest.mark.filterwarnings("ignore")  # of lm-eval and what it imports, which are not ours

LANGUAGES = ("deu_Latn", "swh_Latn")
N_SUMS = 24
SUMS = tuple(f"planted_{language}" for language in LANGUAGES)
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)

CHOICE = """
task: planted_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{prompt}}}}"
doc_to_choice: "{{{{options}}}}"
doc_to_target: right
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
"""

ROLLING = """
task: planted_text
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{prompt}}}} {{{{answer}}}}"
metric_list:
  - {{metric: bits_per_byte}}
"""


def rows(language):
    """Sums of one language with the right answer among four."""
    for item, prompt, answer in planted_problems()[language][:N_SUMS]:
        options = [str((int(answer) + step) % 19) for step in (0, 1, 3, 5)]
        place = int(item[0]) % 4
        options[0], options[place] = options[place], options[0]
        yield {"id": item, "prompt": prompt, "answer": answer, "options": options, "right": place}


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    """Tasks as lm-eval reads them; data sets are read from files alone."""
    folder = write_tasks(tmp_path_factory.mktemp("tasks"))
    for language in LANGUAGES:
        file = folder / f"planted_{language}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows(language)), encoding="utf-8")
        (folder / f"planted_{language}.yaml").write_text(
            GENERATE.format(language=language, file=file), encoding="utf-8"
        )
    (folder / "planted_choice.yaml").write_text(CHOICE.format(file=folder / "planted_deu_Latn.jsonl"), encoding="utf-8")
    (folder / "planted_text.yaml").write_text(ROLLING.format(file=folder / "planted_deu_Latn.jsonl"), encoding="utf-8")
    with no_hub(tmp_path_factory.mktemp("cache")):
        yield folder


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A model that adds where one certain expert is chosen; its tokenizer sets a beginning of text."""
    return load_model(str(planted_model(tmp_path_factory.mktemp("model") / "planted")), device="cpu")


@pytest.fixture(scope="module")
def organism():
    """A model that writes; its tokenizer adds nothing to a text."""
    return load("organism")


def source(folder, tasks, *, metric=None, **fields):
    """Tasks of the folder."""
    return LmEvalTasks(tasks, LmEvalOptions(include_path=folder, builtin=False, **fields), metric=metric)


def force(engine, *experts, layers=(PLANTED_LAYER,), kind="force", **fields):
    """A plan for some experts, by default of the planted layer."""
    return Plan(engine.fingerprint, tuple(Intervention(kind, layer, experts, **fields) for layer in layers))


def evaluate(*given, **options):
    """Evaluate, and return the summary as it is written."""
    return to_json(run_evaluation(*given, **options))


def responses_in(record):
    """The answers in a record: texts, log-likelihoods with whether they are greedy, or log-likelihoods alone."""
    pairs = [list(pair) for pair in zip(record.log_likelihoods, record.greedy, strict=False)]
    return [*record.outputs, *(pairs or record.log_likelihoods)]


def oracle(engine, folder, tasks, plan, *, num_fewshot=None, chat=False):
    """What lm-eval finds on the same weights under a plan."""
    loaded = engine
    with steer(loaded, plan):
        return lm_eval.simple_evaluate(
            model=HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, backend="causal", batch_size=4),
            tasks=list(tasks),
            num_fewshot=num_fewshot,
            apply_chat_template=chat,
            task_manager=TaskManager(include_path=str(folder), include_defaults=False),
            bootstrap_iters=0,
        )


def answered(engine, folder, tasks, plan, *, size=5, **fields):
    """Our own records by task."""
    asked = AskedLmEval(engine, source(folder, tasks, **fields))
    with engine.steer(plan):
        return {
            task: [row for k in range(0, len(each), size) for row in asked.answer(task, each[k : k + size])]
            for task, each in asked.questions.items()
        }


@pytest.mark.slow
@pytest.mark.parametrize("steered", [False, True])
@pytest.mark.parametrize(
    ("name", "tasks", "fields"),
    [
        ("organism", EQUAL, {}),
        ("organism", EQUAL[:-1], {"num_fewshot": 2, "chat": True}),
        ("planted", (*SUMS, "planted_choice", "planted_text"), {}),
    ],
    ids=["plain", "chat", "beginning-of-text"],
)
def test_every_record_is_that_of_lm_eval(request, folder, name, tasks, fields, steered):
    """Answers to every request, log-likelihoods up to rounding, and the values of every document and metric."""
    engine = request.getfixturevalue(name)
    if fields.get("chat"):
        engine = copy.copy(engine)
        engine.tokenizer = copy.deepcopy(engine.tokenizer)
        engine.tokenizer.chat_template = TEMPLATE
    layers = range(1, 9) if name == "organism" else (PLANTED_LAYER,)
    plan = force(engine, *((1, 4) if name == "organism" else (PLANTED_EXPERT,)), layers=layers if steered else ())
    mine, theirs = answered(engine, folder, tasks, plan, **fields), oracle(engine, folder, tasks, plan, **fields)
    # Other batches round otherwise; the planted model's logits reach 705, whose neighbours in float32 lie 6e-5 apart.
    close = partial(pytest.approx, rel=1e-6, abs=1e-6 if name == "organism" else 5e-4)
    assert mine.keys() == theirs["samples"].keys() == set(tasks)
    for task, records in mine.items():
        samples = theirs["samples"][task]
        filters = list(dict.fromkeys(sample["filter"] for sample in samples))
        assert len(samples) == len(records) * len(filters)
        by_place = {(sample["filter"], str(sample["doc_id"])): sample for sample in samples}
        for record in records:
            responses = [each for of_request in by_place[filters[0], record.item]["resps"] for each in of_request]
            for response, expected in zip(responses_in(record), responses, strict=True):
                if isinstance(expected, tuple):
                    assert response == [close(float(expected[0])), expected[1] in (True, "True")]
                else:
                    assert response == (expected if isinstance(expected, str) else close(expected))
            for each in filters:
                sample = by_place[each, record.item]
                assert str(sample["target"]) == record.expected
                for metric in sample["metrics"]:
                    value = record.values[f"{metric},{each}"]
                    assert np.isnan(value) if isinstance(sample[metric], tuple) else value == float(sample[metric])
    if name == "organism" and not fields and not steered:
        flags = [flag for task in ("last", "choice") for record in mine[task] for flag in record.greedy]
        assert len(set(flags)) == 2  # some continuations are what the model would write, and some are not


@pytest.fixture(scope="module")
def run(planted, folder, tmp_path_factory):
    """All four tasks, unsteered, with the planted expert forced, and with a random one: the folder and summary."""
    plan = force(planted, PLANTED_EXPERT)
    arms = {"plan": plan, "random-0": random_control(plan, seed=0)}
    before = {name: value.clone() for name, value in planted.model.state_dict().items()}
    ids = planted.tokenizer(next(rows("deu_Latn"))["prompt"], return_tensors="pt")["input_ids"]
    logits = planted.model(input_ids=ids).logits
    asked = AskedLmEval(planted, source(folder, [*SUMS, "planted_choice", "planted_text"], metric="exact_match"))
    out = tmp_path_factory.mktemp("evaluated") / "out"
    summary = evaluate(planted, asked, arms, out=out, options=RunOptions(batch_size=8, pivot="deu_Latn"))
    assert all(torch.equal(value, before[name]) for name, value in planted.model.state_dict().items())
    assert torch.equal(planted.model(input_ids=ids).logits, logits)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in planted.model.modules())
    return out, summary


def test_the_plan_gains_and_a_random_expert_does_not(run):
    """Paired statistics by the language that a task's name ends in; the pivot is guarded."""
    _, summary = run
    assert summary["metric"] == "exact_match,none"
    assert set(summary["per_language"]) == set(LANGUAGES)
    assert summary["test"] == "mcnemar"
    assert all(row["p_adjusted"] < 0.01 for row in summary["per_language"].values())
    assert summary["overall_these_languages"]["difference"]["low"] > 0
    assert all(row["p_value"] > 0.05 for row in summary["controls"]["random-0"]["per_language"].values())
    assert summary["guard"]["plan"]["verdict"] == "pass"


def test_means_are_what_lm_eval_reports(run, planted, folder):
    """In every arm; each metric can be compared afterwards without asking the model anything."""
    out, summary = run
    arms = {"baseline": Plan(planted.fingerprint), "plan": force(planted, PLANTED_EXPERT)}
    reported = {arm: oracle(planted, folder, [*SUMS, "planted_choice"], plan) for arm, plan in arms.items()}
    for arm, found in reported.items():
        means = {code: found["results"][f"planted_{code}"]["exact_match,none"] for code in LANGUAGES}
        assert summary["arms"][arm] == pytest.approx(means)
    silent = copy.copy(planted)
    silent.answer = silent.joint_log_likelihoods = silent.change = None
    asked = AskedLmEval(silent, source(folder, [*SUMS, "planted_choice", "planted_text"], metric="acc"))
    arms = {"plan": arms["plan"], "random-0": random_control(arms["plan"], seed=0)}
    again = evaluate(silent, asked, arms, out=out, options=RunOptions(batch_size=8, pivot="deu_Latn"))
    assert again["arms"]["plan"] == pytest.approx(
        {"planted_choice": reported["plan"]["results"]["planted_choice"]["acc,none"]}
    )
    assert again["arms"]["plan"]["planted_choice"] > again["arms"]["baseline"]["planted_choice"]
    assert "guard" not in again
    assert compare_folders(out, out, arms=("baseline", "plan")).per_language.keys() == {"planted_choice"}


def test_what_was_done_is_recorded(run):
    """Each arm says what share of tokens it rerouted; one line per document; and what cannot be compared, by name."""
    out, summary = run
    assert all(shares[str(PLANTED_LAYER)] > 0.5 for shares in summary["changed_choices"].values())
    assert summary["n"] == dict.fromkeys(LANGUAGES, N_SUMS)
    assert summary["metrics"] == ["acc,none", "exact_match,none"]
    assert summary["left_out"] == ["planted_text: bits_per_byte,none"]
    assert summary["harness"] == f"lm-eval {lm_eval.__version__}"
    assert summary["versions"].keys() == {*SUMS, "planted_choice", "planted_text"}
    assert summary["task"] == "lm-eval:planted_deu_Latn,planted_swh_Latn,planted_choice,planted_text"
    for arm in summary["arms"]:
        lines = (out / arm / "planted_choice.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line)["item"] for line in lines] == [str(place) for place in range(N_SUMS)]


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_with_the_same_bytes(planted, folder, tmp_path, monkeypatch):
    """The same command goes on where it stopped."""
    arms = {"plan": force(planted, PLANTED_EXPERT)}

    def again(out):
        asked = AskedLmEval(planted, source(folder, ["planted_deu_Latn", "planted_choice"], limit=3))
        return evaluate(planted, asked, arms, out=out, options=RunOptions(batch_size=2))

    summary, out = again(tmp_path / "whole"), tmp_path / "killed"
    expected, moment = contents(tmp_path / "whole"), 0
    while True:
        with monkeypatch.context() as patch:
            kill_at(patch, moment)
            try:
                again(out)
            except KilledError:
                pass
            else:
                break
        assert again(out) == summary
        assert contents(out) == expected
        shutil.rmtree(out)
        moment += 4
    assert moment > 30


def test_a_plan_that_changes_nothing_is_refused(planted, folder, tmp_path):
    """The effect is measured on the task's own prompts before anything is answered or written."""
    arms = {"plan": force(planted, PLANTED_EXPERT, kind="offset", values=(0.0,))}
    with pytest.raises(PlanError, match="changed no chosen expert"):
        evaluate(planted, AskedLmEval(planted, source(folder, ["planted_choice"])), arms, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_phases_are_followed(planted, folder, tmp_path):
    """The prompt's end decides the first answer, so an edit of the generation alone changes no score; and no guess."""
    arms = {"plan": force(planted, PLANTED_EXPERT, phase="generation")}
    asked = AskedLmEval(planted, source(folder, ["planted_deu_Latn", "planted_choice"], metric="exact_match"))
    summary = evaluate(planted, asked, arms, out=tmp_path / "out")
    assert summary["arms"]["plan"] == summary["arms"]["baseline"]
    with pytest.raises(PlanError, match="task planted_text measures texts without a prompt"):
        evaluate(planted, AskedLmEval(planted, source(folder, ["planted_text"])), arms, out=tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


def test_what_is_measured_after_a_prompt_is_of_the_generation(organism, folder):
    """Under a plan by phase, the options of a choice are measured as those of our own tasks are."""
    plan = force(organism, 1, 4, layers=range(1, 9), phase="generation")
    asked = AskedLmEval(organism, source(folder, ["choice"]))
    pairs = [each.args for document in asked.questions["choice"] for each in document.content]
    pairs = [(prompt.rstrip(), prompt[len(prompt.rstrip()) :] + option) for prompt, option in pairs]
    with organism.steer(plan):
        ours = [each.nats for each in organism.log_likelihoods(pairs, add_special_tokens=True)]
        found = asked.answer("choice", asked.questions["choice"])
    assert [nats for row in found for nats in row.log_likelihoods] == pytest.approx(ours, rel=1e-6)
    whole = answered(organism, folder, ["choice"], force(organism, 1, 4, layers=range(1, 9)))["choice"]
    assert [row.log_likelihoods for row in whole] != [row.log_likelihoods for row in found]


def test_a_chat_template_writes_the_date_of_the_evaluation(organism, folder, tmp_path, monkeypatch):
    """Resumed after midnight it is asked what it was asked before."""
    engine = copy.copy(organism)
    engine.tokenizer = copy.deepcopy(engine.tokenizer)
    engine.tokenizer.chat_template = DATED
    tasks, arms = source(folder, ["choice"], chat=True, limit=2), {"plan": force(organism, 1, layers=range(1, 9))}
    set_day(monkeypatch, "2026-08-05")
    first = evaluate(engine, tasks, arms, out=tmp_path / "out")
    set_day(monkeypatch, "2026-08-06")
    assert evaluate(engine, tasks, arms, out=tmp_path / "out") == first
    assert AskedLmEval(engine, tasks).describe()["date"] == "2026-08-06"
    assert json.loads((tmp_path / "out" / "settings.json").read_text())["date"] == "2026-08-05"


def test_plans_by_language_act_on_the_tasks_of_their_language(planted, folder, tmp_path):
    """The name of a task says it; a task whose name does not is refused."""
    arms = {"plan": force(planted, PLANTED_EXPERT, languages=("de",))}
    asked = AskedLmEval(planted, source(folder, SUMS))
    summary = evaluate(planted, asked, arms, out=tmp_path / "out")
    gains = {code: summary["arms"]["plan"][code] - summary["arms"]["baseline"][code] for code in LANGUAGES}
    assert gains["deu_Latn"] > 0
    assert gains["swh_Latn"] == 0
    with pytest.raises(PlanError, match="name of task planted_choice ends in no language"):
        evaluate(planted, AskedLmEval(planted, source(folder, ["planted_choice"])), arms, out=tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


def test_draws_depend_on_the_document_and_its_turn_alone(organism, folder):
    """Batches change nothing, repeats of a prompt differ, and another run draws the same."""
    plan = Plan(organism.fingerprint)
    drawn = [
        [row.outputs for row in answered(organism, folder, ["drawn"], plan, size=size)["drawn"]] for size in (1, 5)
    ]
    assert drawn[0] == drawn[1]
    assert all(len(responses) == 2 for responses in drawn[0])
    assert any(first != second for first, second in drawn[0])


def test_a_temperature_of_our_own_is_refused(organism, folder, tmp_path):
    """Each task says how its answers are drawn."""
    asked, arms = AskedLmEval(organism, source(folder, ["drawn"])), {"plan": force(organism, 1, layers=(4,))}
    with pytest.raises(RunError, match="defines how answers are drawn"):
        evaluate(organism, asked, arms, out=tmp_path / "out", options=RunOptions(sampling=Sampling(1.0)))


@pytest.mark.parametrize(
    ("task", "message"), [("beams", "generates with num_beams"), ("long", "needs a context of 40.* the model has 2048")]
)
def test_what_would_be_done_otherwise_is_refused(organism, folder, task, message):
    """Nothing is answered in another way than lm-eval's, and no beginning is cut off."""
    with pytest.raises(RunError, match=message):
        answered(organism, folder, [task], Plan(organism.fingerprint))


def test_wrong_use_is_refused(folder):
    """Unknown tasks, none at all, sizes of nothing, and tasks that run what a model writes."""
    with pytest.raises(CorpusError, match=r"no task 'planted_choise'.*planted_choice"):
        source(folder, ["planted_choise"])
    with pytest.raises(CorpusError, match="name at least one"):
        source(folder, [])
    with pytest.raises(RunError, match="limit is 0; expected a whole number of at least 1"):
        LmEvalOptions(limit=0)
    text = (folder / "planted_choice.yaml").read_text(encoding="utf-8").replace("planted_choice", "unsafe")
    (folder / "unsafe.yaml").write_text(f"{text}unsafe_code: true\n", encoding="utf-8")
    with pytest.raises(CorpusError, match="task unsafe runs code"):
        source(folder, ["unsafe"])


@pytest.mark.parametrize("name", ["../../beside", "a/b", ".hidden", "n" * 151])
def test_a_task_whose_name_is_no_name_of_a_file_is_refused(folder, tmp_path, name):
    """Answers are kept in a file of that name, inside the folder."""
    text = (folder / "planted_choice.yaml").read_text(encoding="utf-8").replace("planted_choice", name)
    (tmp_path / "task.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(CorpusError, match="its answers are kept in a file of that name"):
        source(tmp_path, [name])


def test_a_metric_that_is_not_there_is_refused_with_the_names(run, planted, folder):
    """After answering: what was answered is not asked again."""
    out, _ = run
    plan = force(planted, PLANTED_EXPERT)
    asked = AskedLmEval(planted, source(folder, [*SUMS, "planted_choice", "planted_text"], metric="f1"))
    with pytest.raises(RunError, match=r"names no metric of these tasks; they have acc,none, exact_match,none"):
        evaluate(
            planted,
            asked,
            {"plan": plan, "random-0": random_control(plan, seed=0)},
            out=out,
            options=RunOptions(batch_size=8, pivot="deu_Latn"),
        )


@pytest.mark.parametrize(
    ("values", "aggregate", "kept"),
    [
        ([0.0, 1.0], np.mean, True),
        ([0.0, 1.0, 1.0], np.median, False),
        ([0.0, 1.0], lambda _: (0.5, 1), False),
        ([0.0, np.nan], np.mean, False),
    ],
)
def test_values_count_only_where_their_mean_is_what_lm_eval_reports(values, aggregate, kept):
    """A metric that it aggregates otherwise, such as a median or a corpus score, is no mean of documents."""
    asked = AskedLmEval.__new__(AskedLmEval)
    asked.source = SimpleNamespace(tasks={"task": SimpleNamespace(aggregation=lambda: {"f1": aggregate})})
    assert asked._is_mean("task", "f1,none", values) == kept


def test_numbers_alone_are_values():
    """What a corpus metric keeps of a document, and what is not finite, is none."""
    document = SimpleNamespace(content=[SimpleNamespace(doc={}, filtered_resps={"none": ["x"]})])
    metrics = {"a": 1, "b": np.float64(0.5), "c": True, "d": (1, 2), "e": float("nan"), "f": "x"}
    task = SimpleNamespace(apply_filters=lambda: None, process_results=lambda _doc, _filtered: metrics)
    (values,) = asked_lm_eval._scored(task, [document])
    assert {name for name, value in values.items() if np.isnan(value)} == {"d,none", "e,none", "f,none"}
    assert [values[f"{name},none"] for name in "abc"] == [1.0, 0.5, 1.0]
    asked = [SimpleNamespace(doc={}, resps=[(-np.inf, True), (-1.5, False)]), SimpleNamespace(doc={}, resps=["x"])]
    record = asked_lm_eval._record(SimpleNamespace(doc_to_target=lambda _: 3), Question("0", "ab", "", asked), values)
    assert (record.outputs, record.greedy, record.expected) == (("x",), (True, False), "3")
    assert np.isnan(record.log_likelihoods[0])
    assert record.log_likelihoods[1] == -1.5


def test_documents_stand_in_order(organism, folder):
    """As many as there are, or as were asked for."""
    asked = AskedLmEval(organism, source(folder, ["choice", "few"], limit=4))
    for documents in asked.questions.values():
        assert [each.item_id for each in documents] == ["0", "1", "2", "3"]
    assert len(AskedLmEval(organism, source(folder, ["choice"])).questions["choice"]) == N_ITEMS


@pytest.mark.parametrize(
    ("unreachable", "reason"),
    [(None, "ConnectionError: Couldn't reach the hub"), ("HF_HUB_OFFLINE is set", "HF_HUB_OFFLINE is set")],
)
def test_data_out_of_reach_are_refused_in_one_line(folder, monkeypatch, unreachable, reason):
    """What the hub's library raises is named, or why the hub is not asked, with what helps."""

    def fail(*_, **__):
        raise ConnectionError("Couldn't reach the hub\nTraceback")

    monkeypatch.setattr(TaskManager, "load", fail)
    monkeypatch.setattr(hub, "_unreachable", lambda: unreachable)
    with pytest.raises(CorpusError, match=rf"data of \w+ cannot be loaded \({re.escape(reason)}\); check the net"):
        source(folder, ["choice"])
