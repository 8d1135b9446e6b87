"""An evaluation on vLLM answers, measures and steers as one on transformers does, and survives being killed."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from killing import KilledError, kill_at
from transformers import GenerationConfig
from written import contents, rows_of

from checkpoints import TEXTS, checkpoint
from engines import stop
from isogloss.backends.model import Sampling
from isogloss.backends.open import load
from isogloss.errors import RunError
from isogloss.evaluation import load_task
from isogloss.evaluation.arms import make_arms
from isogloss.evaluation.run import RunOptions, run_evaluation
from isogloss.evaluation.summarise import compare_folders
from isogloss.steering import Intervention, Plan, write_plan

MODELS = {"organism": "eager", "gpt_oss": "compiled", "glm4_moe": "eager"}
PLANS = ("none", "soft", "ban", "generation", "prompt", "both")
# Shorter than the texts together, so that a step holds parts of them.
OPTIONS = {"max_model_len": 384, "max_num_seqs": 8, "max_num_batched_tokens": 64, "kv_cache_memory_bytes": 2**26}
PAIRS = [
    (TEXTS[0], " The river is wide."),
    (TEXTS[2], " 図書館"),
    (TEXTS[0], " No."),
    ("The cup is ", "wide"),
    ("The cup is ", "図"),
    (TEXTS[4], " Then they went home."),
]
ORGANISM = pytest.mark.parametrize("both", ["organism"], indirect=True)
SHORT = TEXTS[:5]  # each fits into one step
KEYS = [f"eng_Latn/{index}" for index in range(len(SHORT))]
FEW = RunOptions(batch_size=2)


def start(model, mode):
    """The model as vLLM serves it."""
    name = model if model == "organism" else str(checkpoint(model))
    options = {**OPTIONS, "enforce_eager": mode == "eager", "use_tqdm_on_load": False}
    return load(name, backend="vllm", dtype="float32", engine=options)


@pytest.fixture(scope="module", params=MODELS)
def both(request, engines):
    """One model under vLLM and under transformers."""
    engines.free()
    model = request.param
    vllm = start(model, MODELS[model])
    source = model if model == "organism" else str(checkpoint(model))
    yield SimpleNamespace(served=vllm, vllm=vllm, huggingface=load(source, device="cpu"))
    stop(vllm.engine)


def make_plan(fingerprint, name):
    """A plan that changes choices in two layers, None for no plan."""
    layers = fingerprint.layers[1:3]
    rules = {
        "none": (),
        "soft": [Intervention("soft", layer, (1, 2, 3), 0.5) for layer in layers],
        "ban": [Intervention("ban", layer, (0, 1)) for layer in layers],
        "generation": [Intervention("force", layer, (5,), phase="generation") for layer in layers],
        "prompt": [Intervention("force", layer, (5,), phase="prompt") for layer in layers],
        "both": [
            Intervention("force", layers[0], (5,), phase="prompt"),
            Intervention("ban", layers[1], (0, 1), phase="generation"),
        ],
    }[name]
    return Plan(fingerprint, tuple(rules)) if rules else None


def measure(engine, plan, n_new=12):
    """Answers and likelihoods under a plan."""
    with nullcontext() if plan is None else engine.steer(plan):
        answers = engine.answer(TEXTS, max_new_tokens=n_new, add_special_tokens=True, sampling=None)
        return answers, engine.log_likelihoods(PAIRS, add_special_tokens=True)


@pytest.mark.parametrize("name", PLANS)
def test_answers_likelihoods_and_changes_are_those_of_transformers(both, name):
    """The same greedy texts, the same tokens measured, nats up to rounding, and the same shares of changed choices."""
    plan = make_plan(both.served.fingerprint, name)
    answers, likelihoods = measure(both.vllm, plan)
    expected, nats = measure(both.huggingface, plan)
    assert answers == expected
    assert [each.n_tokens for each in likelihoods] == [each.n_tokens for each in nats]
    for found, right in zip(likelihoods, nats, strict=True):
        assert found.nats == pytest.approx(right.nats, abs=2e-5 * right.n_tokens)
    if plan is None:
        return
    changed = both.vllm.change(plan, TEXTS, add_special_tokens=True)
    reference = both.huggingface.change(plan, TEXTS, add_special_tokens=True)
    assert changed.kl is None
    assert changed.changed == pytest.approx(reference.changed, abs=0.02)  # a token may lie between two experts
    assert all(changed.changed[layer] > 0 for layer in plan.layers)
    plain, _ = measure(both.vllm, None)
    assert plain == measure(both.huggingface, None)[0]  # and nothing of the plan is left


def with_generation(both, monkeypatch, folder, **settings):
    """Both engines, the checkpoint's generation configuration replaced."""
    stored = GenerationConfig(**settings)
    stored.save_pretrained(folder)
    monkeypatch.setattr(both.served.engine.model_config, "model", str(folder))
    monkeypatch.setattr(both.huggingface.model, "generation_config", stored)


@ORGANISM
def test_answers_end_where_transformers_ends_them(both, monkeypatch, tmp_path):
    """At any end token of the generation configuration, special or not, and at no other."""
    plain, _ = measure(both.huggingface, None, n_new=24)
    ids = [both.vllm.tokenizer(text, add_special_tokens=False)["input_ids"] for text in plain]
    common = max({token for each in ids for token in each}, key=lambda token: sum(token in each[2:] for each in ids))
    for name, settings in {
        "never": {},
        "often": {"eos_token_id": [both.vllm.tokenizer.eos_token_id, common]},
    }.items():
        with_generation(both, monkeypatch, tmp_path / name, **settings)
        found, _ = measure(both.vllm, None, n_new=24)
        assert found == measure(both.huggingface, None, n_new=24)[0], name
        assert found != plain, name
        assert both.vllm.describe()["generation_config"] == both.huggingface.describe()["generation_config"]


@ORGANISM
def test_answers_follow_no_other_setting_of_the_checkpoint(both, monkeypatch, tmp_path):
    """Penalties and forbidden n-grams are set aside by both engines, and named."""
    plain, _ = measure(both.vllm, None, n_new=24)
    ends = both.huggingface.model.generation_config.eos_token_id
    settings = {"no_repeat_ngram_size": 2, "repetition_penalty": 1.3, "temperature": 0.6, "do_sample": True}
    with_generation(both, monkeypatch, tmp_path, eos_token_id=ends, **settings)
    assert measure(both.vllm, None, n_new=24)[0] == plain
    assert both.vllm.describe()["generation_config_ignored"].keys() == settings.keys() - {"do_sample"}


@ORGANISM
def test_draws_depend_on_seed_and_key_alone(both):
    """Batch, order and company change nothing; another seed or key does; the likeliest of one is the greedy answer."""

    def draw(texts, keys, **options):
        sampling = Sampling(**{"temperature": 1.0, "top_p": 0.95, "top_k": 50, "seed": 1} | options)
        return both.vllm.answer(texts, max_new_tokens=10, add_special_tokens=True, sampling=(sampling, keys))

    together = draw(SHORT, KEYS)
    assert [draw([text], [key])[0] for text, key in zip(SHORT, KEYS, strict=True)] == together
    assert draw(SHORT[::-1], KEYS[::-1]) == together[::-1]
    assert draw(SHORT, KEYS, seed=2) != together
    assert len(set(draw([SHORT[3]] * 4, KEYS[:4]))) > 1
    assert draw(SHORT, KEYS, top_k=1) == both.vllm.answer(
        SHORT, max_new_tokens=10, add_special_tokens=True, sampling=None
    )


@ORGANISM
def test_a_prompt_that_cannot_be_drawn_for_is_refused(both):
    """On a processor, one that no step holds; the engine goes on afterwards."""
    long = (Sampling(1.0), KEYS[:1])
    with pytest.raises(RunError, match=r"steps hold 64 tokens: give --engine max_num_batched_tokens=\d+ or more"):
        both.vllm.answer([" ".join(TEXTS)], max_new_tokens=4, add_special_tokens=True, sampling=long)
    assert measure(both.vllm, None) == measure(both.vllm, None)


@ORGANISM
def test_long_texts_are_measured_to_the_last_token_of_the_context_and_refused_beyond(both):
    """One token must be left for vLLM; what does not fit is refused with the number to give."""
    limit = OPTIONS["max_model_len"]
    bare = lambda text: both.vllm.tokenizer(text, add_special_tokens=False)["input_ids"]  # noqa: E731 - short
    words = " ".join(TEXTS) * 20
    text = both.vllm.tokenizer.decode(bare(words)[: limit - 2])
    while len(bare(text)) > limit - 2:
        text = text[:-1]
    (found,) = both.vllm.log_likelihoods([("", text)], add_special_tokens=True)
    (expected,) = both.huggingface.log_likelihoods([("", text)], add_special_tokens=True)
    assert found.n_tokens == expected.n_tokens == len(bare(text))
    assert found.nats == pytest.approx(expected.nats, rel=1e-4)
    with pytest.raises(RunError, match=r"need a context of \d+; the model takes 384: give --engine max_mod"):
        both.vllm.log_likelihoods([("", text + " one two three")], add_special_tokens=True)
    with pytest.raises(RunError, match="and 500 after it need a context"):
        both.vllm.answer(["Yes"], max_new_tokens=500, add_special_tokens=True, sampling=None)


@pytest.mark.parametrize("name", ["organism", "organism:scenes", "organism:reference"])
@ORGANISM
def test_an_evaluation_is_that_of_transformers(both, tmp_path, name):
    """Generated answers, options and references: the same records in all arms, and the two are never compared."""
    task = load_task(name, languages=["en", "sw"], n_items=4)
    arms = make_arms(make_plan(both.served.fingerprint, "soft"), ["random:1"])
    summaries = {
        kind: run_evaluation(getattr(both, kind), task, arms, out=tmp_path / kind, options=FEW)
        for kind in ("vllm", "huggingface")
    }
    for arm in ("baseline", *arms):
        for language in task.items:
            found, expected = (rows_of(tmp_path / kind / arm / f"{language}.jsonl") for kind in summaries)
            assert len(found) == 4
            for mine, theirs in zip(found, expected, strict=True):
                measured = [[*row.pop("log_likelihoods", []), row.pop("value")] for row in (mine, theirs)]
                assert mine == theirs
                assert measured[0] == pytest.approx(measured[1], rel=1e-4, abs=1e-4)
    found, expected = (summary.changed_choices for summary in summaries.values())
    for arm, shares in found.items():
        assert shares == pytest.approx(expected[arm], abs=0.01)
    found, expected = (summary.distance for summary in summaries.values())
    for arm, distances in expected.items():
        assert found[arm]["swh_Latn"].before == pytest.approx(distances["swh_Latn"].before, abs=1e-3)
        assert found[arm]["swh_Latn"].after == pytest.approx(distances["swh_Latn"].after, abs=1e-3)
    assert summaries["vllm"].engine == "vllm"
    with pytest.raises(RunError, match=r"has engine 'vllm' and .* has 'huggingface'; one comparison never mixes them"):
        compare_folders(tmp_path / "vllm", tmp_path / "huggingface")


@ORGANISM
def test_killed_at_any_moment_it_goes_on(both, tmp_path, monkeypatch):
    """However often it dies, the end is that of an undisturbed run, byte by byte, and no plan stays behind."""
    task = load_task("organism:reference", languages=["en", "sw"], n_items=3)
    arms = make_arms(make_plan(both.served.fingerprint, "both"), [])
    run_evaluation(both.vllm, task, arms, out=tmp_path / "whole", options=FEW)
    deaths = 0
    for moment in (3, 14, 20, 9, 10**6):
        with monkeypatch.context() as dying:
            kill_at(dying, moment)
            try:
                run_evaluation(both.vllm, task, arms, out=tmp_path / "killed", options=FEW)
            except KilledError:
                deaths += 1
        assert both.served.call("isogloss_status")[0]["plan_sha256"] is None
    assert deaths >= 3
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


@ORGANISM
def test_rules_by_language_steer_requests_in_it_alone(both, tmp_path):
    """English answers are those of the baseline, Swahili ones those of the rule without its condition."""
    task = load_task("organism:reference", languages=["en", "sw"], n_items=2)
    plain = make_plan(both.served.fingerprint, "generation")
    rules = [dataclasses.replace(rule, languages=("swh_Latn",)) for rule in plain.interventions]
    conditional = Plan(plain.fingerprint, tuple(rules))
    run_evaluation(both.vllm, task, {"plan": conditional, "always": plain}, out=tmp_path / "eval", options=FEW)

    def nats(arm, language):
        return [row["log_likelihoods"] for row in rows_of(tmp_path / "eval" / arm / f"{language}.jsonl")]

    assert nats("plan", "eng_Latn") == nats("baseline", "eng_Latn")
    assert nats("plan", "swh_Latn") == nats("always", "swh_Latn") != nats("baseline", "swh_Latn")


@ORGANISM
def test_the_engine_is_described(both):
    """Model and tokenizer as transformers describes them, and what decides how numbers are rounded."""
    found, reference = both.vllm.describe(), both.huggingface.describe()
    same = ("model", "model_name", "dtype", "device", "config_sha256", "tokenizer_sha256", "generation_config")
    assert {key: found[key] for key in same} == {key: reference[key] for key in same}
    assert found.keys() == reference.keys()
    assert found["engine"] == "vllm"
    assert found["engine_version"].startswith("vllm ")
    expected = {"enforce_eager": True, "compilation": "NONE", "prefix_caching": False, "max_num_batched_tokens": 64}
    assert expected.items() <= found["kernels"].items()
    json.dumps(found)


@pytest.mark.slow
def test_the_command_killed_goes_on(tmp_path):
    """`isogloss evaluate --backend vllm`: after SIGKILL, the same command keeps each answer and asks for the rest."""
    path, out = tmp_path / "plan.json", tmp_path / "eval"
    write_plan(make_plan(load("organism").fingerprint, "soft"), path)
    command = [sys.executable, "-m", "isogloss", "evaluate", "organism", "--plan", str(path), "--task", "organism"]
    command += ["--languages", "en,sw", "--items", "4", "--batch-size", "1", "--backend", "vllm", "-o", str(out)]
    for name, value in {**OPTIONS, "enforce_eager": "true"}.items():
        command += ["--engine", f"{name}={value}"]
    process = subprocess.Popen(command, env=os.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    half = out / "plan" / "eng_Latn.jsonl"
    while process.poll() is None and not (half.is_file() and half.read_bytes().count(b"\n") >= 2):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (out / "summary.json").exists()
    before = {file: file.read_bytes() for file in out.rglob("eng_Latn.jsonl")}
    subprocess.run(command, env=os.environ, check=True, capture_output=True)
    for file, content in before.items():
        assert file.read_bytes().startswith(content[: content.rfind(b"\n") + 1])
    for arm in ("baseline", "plan", "random-0"):
        for language in ("eng_Latn", "swh_Latn"):
            rows = rows_of(out / arm / f"{language}.jsonl")
            assert [row["item"] for row in rows] == [
                item.item_id for item in load_task("organism", languages=[language], n_items=4).items[language]
            ]
    assert json.loads((out / "summary.json").read_text())["engine"] == "vllm"
