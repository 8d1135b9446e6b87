"""Tasks of lm-evaluation-harness on vLLM: the same questions, tokens, answers and scores as on transformers."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

pytest.importorskip("lm_eval", reason="lm-eval is an optional extra")

from lm_eval_tasks import EQUAL, no_hub, write_tasks

import isogloss
from engines import stop
from isogloss.backends.open import load
from isogloss.cli import main
from isogloss.errors import ModelError, RunError
from isogloss.evaluation.asked_lm_eval import AskedLmEval
from isogloss.evaluation.run import RunOptions, run_evaluation
from isogloss.evaluation.summarise import compare_folders
from isogloss.evaluation.tasks.lm_eval import LmEvalOptions, LmEvalTasks
from isogloss.records import to_json
from isogloss.steering import Intervention, Plan, random_control, write_plan

pytestmark = pytest.mark.filterwarnings("ignore")  # of the harness and what it imports, which are not ours

OPTIONS = {"max_model_len": 384, "max_num_seqs": 8, "max_num_batched_tokens": 64, "kv_cache_memory_bytes": 2**26}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tasks as lm-eval reads them, their data in local files."""
    return write_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module", autouse=True)
def _no_hub(tmp_path_factory):
    """Data sets are read from files alone, and cached here."""
    with no_hub(tmp_path_factory.mktemp("cache")):
        yield


@pytest.fixture(scope="module")
def both(engines):
    """The organism under vLLM and under transformers."""
    engines.free()
    options = {**OPTIONS, "enforce_eager": True, "use_tqdm_on_load": False}
    vllm = load("organism", backend="vllm", engine=options)
    yield SimpleNamespace(served=vllm, vllm=vllm, huggingface=load("organism"))
    stop(vllm.engine)


def make_plan(both, **fields):
    """A plan that changes many choices."""
    layers = both.served.fingerprint.layers[1:9]
    return Plan(both.served.fingerprint, tuple(Intervention("force", layer, (1, 4), **fields) for layer in layers))


def asked(engine, tasks, folder, **fields):
    """Tasks of the folder before an engine."""
    return AskedLmEval(engine, LmEvalTasks(tasks, LmEvalOptions(include_path=folder, builtin=False, **fields)))


def run(engine, tasks, folder, plan, size=4):
    """Records by task."""
    work = asked(engine, tasks, folder)
    with engine.steer(plan):
        return {
            task: [row for k in range(0, len(each), size) for row in work.answer(task, each[k : k + size])]
            for task, each in work.questions.items()
        }


def responses(records):
    """The answers in the records of a task, those of choices as numbers and flags."""
    return [
        each
        for row in records
        for each in (
            *row.outputs,
            *(zip(row.log_likelihoods, row.greedy, strict=True) if row.greedy else row.log_likelihoods),
        )
    ]


@pytest.mark.parametrize("rules", [{}, {"phase": "both"}, {"phase": "prompt"}, {"phase": "generation"}])
def test_records_are_those_of_transformers(both, folder, rules):
    """Every answer, every log-likelihood up to rounding, every value; unsteered, and under plans by phase."""
    plan = make_plan(both, **rules) if rules else Plan(both.served.fingerprint)
    tasks = EQUAL if rules.get("phase") in (None, "both") else ("x_swh_Latn", "choice", "spaced")
    found, expected = (run(engine, tasks, folder, plan) for engine in (both.vllm, both.huggingface))
    assert found.keys() == expected.keys() == set(tasks)
    for task in tasks:
        for mine, theirs in zip(responses(found[task]), responses(expected[task]), strict=True):
            if isinstance(theirs, tuple):
                assert mine == (pytest.approx(theirs[0], abs=2e-4), theirs[1])
            else:
                assert mine == (theirs if isinstance(theirs, str) else pytest.approx(theirs, abs=2e-4))
        for name in ("item", "prompt_sha256", "expected", "values"):
            assert [to_json(getattr(row, name)) for row in found[task]] == [
                to_json(getattr(row, name)) for row in expected[task]
            ]
    if rules:
        plain = run(both.vllm, tasks, folder, Plan(both.served.fingerprint))
        assert all(responses(plain[task]) != responses(found[task]) for task in tasks)


def test_summaries_and_changes_are_those_of_transformers(both, folder, tmp_path):
    """All arms in one engine: the same summary but for the engine, and alike changes; no plan stays."""
    plan = make_plan(both)
    arms = {"plan": plan, "random-0": random_control(plan, seed=0)}
    found, expected = (
        to_json(
            run_evaluation(
                engine,
                asked(engine, ["x_swh_Latn", "choice", "rolling"], folder),
                arms,
                out=tmp_path / name,
                options=RunOptions(batch_size=3),
            )
        )
        for name, engine in (("vllm", both.vllm), ("huggingface", both.huggingface))
    )
    different = dict.fromkeys(("engine", "changed_choices", "kl"))
    assert found | different == expected | different
    assert found["left_out"] == ["rolling: bits_per_byte,none"]
    for arm, shares in found["changed_choices"].items():
        assert shares == pytest.approx(expected["changed_choices"][arm], abs=0.02)
        assert all(shares[str(layer)] > 0.3 for layer in arms[arm].layers)
    assert both.served.call("isogloss_status")[0]["plan_sha256"] is None


def test_draws_depend_on_the_document_and_its_turn_alone(both, folder):
    """Batches change nothing, repeats of a prompt differ, and another run draws the same."""
    plan = Plan(both.served.fingerprint)
    drawn = [responses(run(both.vllm, ["drawn"], folder, plan, size)["drawn"]) for size in (1, 5)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) > len(drawn[0]) // 2


@pytest.mark.parametrize(("task", "message"), [("beams", "generates with num_beams"), ("long", "needs a context of")])
def test_what_would_be_done_otherwise_is_refused(both, folder, task, message):
    """Nothing is answered otherwise than transformers would."""
    with pytest.raises(RunError, match=message):
        run(both.vllm, [task], folder, Plan(both.served.fingerprint))


def test_an_engine_that_returns_no_log_probabilities_of_the_model_is_refused(both, folder, monkeypatch):
    """Such as logits."""
    monkeypatch.setattr(both.served.engine.model_config, "logprobs_mode", "raw_logits")
    with pytest.raises(ModelError, match="returns raw_logits"):
        run(both.vllm, ["choice"], folder, Plan(both.served.fingerprint))


def test_the_command_is_that_of_transformers(both, folder, tmp_path, capsys, monkeypatch):
    """One engine for all arms, told in the record; a finished one runs nothing; engines are never mixed."""
    path, started = tmp_path / "plan.json", []

    def start(name, **how):
        started.append((name, how))
        return both.vllm

    monkeypatch.setattr(
        isogloss, "load", lambda name, **how: start(name, **how) if how["backend"] == "vllm" else load(name)
    )
    write_plan(make_plan(both), path)
    given = ["evaluate", "organism", "--plan", path, "--task", "lm-eval:x_eng_Latn,x_swh_Latn", "--include-path"]
    given = [str(each) for each in [*given, folder, "--items", 4, "--batch-size", 2]]
    vllm = ["--backend", "vllm", "--engine", "max_model_len=384", "-o", str(tmp_path / "vllm")]
    assert main([*given, *vllm]) == 0
    assert main([*given, "-o", str(tmp_path / "huggingface")]) == 0
    printed = [line.partition("; KL")[0] for line in capsys.readouterr().out.splitlines()]
    assert printed[: len(printed) // 2] == printed[len(printed) // 2 :]
    ((name, how),) = started
    assert (name, how["engine"]) == ("organism", {"max_model_len": 384})
    found, expected = (
        json.loads((tmp_path / engine / "summary.json").read_text()) for engine in ("vllm", "huggingface")
    )
    assert (found.pop("engine"), expected.pop("engine")) == ("vllm", "huggingface")
    for summary in (found, expected):
        del summary["changed_choices"], summary["kl"]
    assert found == expected
    assert found["arms"]["plan"] != found["arms"]["baseline"]
    assert set(found["arms"]) == {"baseline", "plan", *(f"random-{seed}" for seed in range(5))}
    settings = json.loads((tmp_path / "vllm" / "settings.json").read_text())
    assert settings["kernels"]["enforce_eager"] is True
    with pytest.raises(RunError, match=r"has engine 'vllm' and .* has 'huggingface'; one comparison never mixes them"):
        compare_folders(tmp_path / "vllm", tmp_path / "huggingface")
    assert main([*given, "-o", str(tmp_path / "vllm")]) == 2
    monkeypatch.setattr(type(both.vllm), "answer", None)
    assert main([*given, *vllm, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["engine"] == "vllm"
