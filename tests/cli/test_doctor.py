"""`isogloss doctor` says of healthy models that they are, and of every kind of damage what is wrong."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import importlib.util
import io
import itertools
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from models import FEW, TEXTS, bypass_router, checkpoint, choose_the_worst, each_family, tiny, tokenizer
from scipy.special import log_softmax
from transformers import LlamaConfig, LlamaForCausalLM

from isogloss.backends.checks import PROBE_TEXTS
from isogloss.backends.huggingface import HuggingFaceModel, answers, estimate, measure_change, steer
from isogloss.backends.huggingface import checks as huggingface_checks
from isogloss.backends.huggingface.steered_router import PlannedRouter
from isogloss.backends.model import Change
from isogloss.cli import main
from isogloss.corpora import Corpus
from isogloss.steering import Intervention, Plan, write_plan
from isogloss.workflows import doctor
from isogloss.workflows.capture import capture_corpus

NAMES = ["loads", "routers", "capture", "padding", "generation", "steering", "estimate"]
LAST = 3  # of the olmoe model


def examine(capsys, *arguments):
    """Exit code of `doctor --json`, and its checks by name: the promised fields and no others."""
    capsys.readouterr()
    code = main(["doctor", *map(str, arguments), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"ok", "checks"}
    assert all(set(check) == {"name", "ok", "detail"} for check in found["checks"])
    assert found["ok"] is all(check["ok"] for check in found["checks"]) is (code == 0)
    return code, {check["name"]: check for check in found["checks"]}


def examine_model(monkeypatch, capsys, loaded, *arguments):
    """The same of a model in memory, which a test has changed."""
    monkeypatch.setattr(doctor, "load", lambda *_, **__: loaded)
    return examine(capsys, "in-memory", *arguments)


def failed(checks):
    """Names of the checks that failed, and of those that were not run for it."""
    bad = [name for name, check in checks.items() if not check["ok"]]
    skipped = [name for name in bad if checks[name]["detail"].startswith("not run: it builds on ")]
    return [name for name in bad if name not in skipped], skipped


def write(folder, fingerprint, *interventions):
    """A plan file."""
    write_plan(Plan(fingerprint, interventions, {"test": "test"}), folder / "plan.json")
    return folder / "plan.json"


ROUTERS = {
    "olmoe": "olmoe: 4 of 4 layers are routed (0-3), none without a router; 8 experts, top 2, softmax",
    "deepseek_v3": "top 2, sigmoid, weights sum to 1, a selection bias, best 2 of 4 groups",
    "gemma4": "gemma4_text: 4 of 4 layers",
    "dbrx": "no selection bias, no groups; note: the router returns logits only",
    "llama4": "llama4_text: 3 of 4 layers are routed (1-3), 0 without a router; 8 experts, top 2, topk_sigmoid",
    "nemotron_h": "2 of 6 layers are routed (3, 5), 0-2, 4 without a router",
    "jetmoe": "note: attention has experts of its own",
}


@each_family(ROUTERS, quick=FEW)
def test_healthy_models_pass(capsys, family):
    """Every check holds, in order, and says what it found."""
    code, checks = examine(capsys, checkpoint(family), "--device", "cpu")
    assert code == 0, checks
    assert list(checks) == NAMES
    assert "float32 on cpu" in checks["loads"]["detail"]
    assert ROUTERS[family] in checks["routers"]["detail"]
    n_layers = len(tiny(family).router_modules)
    assert f"on 6 texts (310 tokens), in all {n_layers} routed layers" in checks["capture"]["detail"]
    assert "library's own record by at most 0;" in checks["capture"]["detail"]
    received = (
        "receive no expert ids" if family in ("llama4", "jetmoe") else f"the same expert ids in {n_layers} of them"
    )
    assert received in checks["capture"]["detail"]
    assert "on the left 0.00%, and is safe" in checks["padding"]["detail"]
    assert (
        "3 of 3 prompts have the same answer alone and in a batch; 24 of 24 tokens written are the likeliest ones when "
        "the text is read; of 18 tokens read while writing, reading them at once changes 0.00%"
    ) in checks["generation"]["detail"]
    assert "under force 3 of 3 prompts have the same answer alone" in checks["steering"]["detail"]
    assert "of 510 tokens, forced by 510; force changed" in checks["steering"]["detail"]
    assert "bit-identical and no hook is left" in checks["steering"]["detail"]
    assert "tokens per second on cpu" in checks["estimate"]["detail"]


@pytest.mark.slow
def test_bfloat16_passes(capsys):
    """Rounding to 16 bits moves some choices and fails no check."""
    code, checks = examine(capsys, checkpoint("afmoe"), "--dtype", "bfloat16", "--device", "cpu")
    assert code == 0, checks
    assert "bfloat16 on cpu" in checks["loads"]["detail"]


def test_dense_model_fails(tmp_path, capsys):
    """A model without routers fails the first check, and nothing else is tried."""
    config = LlamaConfig(vocab_size=400, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    with contextlib.redirect_stderr(io.StringIO()):
        LlamaForCausalLM(config).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    code, checks = examine(capsys, tmp_path)
    assert code == 1
    assert failed(checks) == (["loads"], NAMES[1:])
    assert "'llama' is not supported: it has no routers" in checks["loads"]["detail"]


def test_damaged_folder_fails_in_words(tmp_path, capsys):
    """The text form names the check, the reason, what was not run, and what to do; there is no traceback."""
    shutil.copytree(checkpoint("olmoe"), tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:10_000])
    assert main(["doctor", str(tmp_path / "model")]) == 1
    streams = capsys.readouterr()
    lines = streams.out.splitlines()
    assert lines[0].startswith("FAILED  loads      cannot load model")
    assert lines[1] == "FAILED  routers    not run: it builds on loads, which failed"
    assert lines[-1] == "next: fix the failed checks (loads), then repeat the command"
    assert len(lines) == len(NAMES) + 1
    assert "Traceback" not in streams.out + streams.err


def test_any_exception_is_a_finding(monkeypatch, capsys):
    """What the model's own code raises is a failed check, whatever its class."""

    def explode(*_, **__):
        raise KeyError("rope_theta")

    monkeypatch.setattr(doctor, "load", explode)
    code, checks = examine(capsys, "some/model")
    assert code == 1
    assert checks["loads"]["detail"] == "the model's code raised KeyError: 'rope_theta'"


def test_bypassed_router_fails(monkeypatch, capsys):
    """A block that routes without calling its router fails `capture`, and nothing is built on it."""
    loaded = tiny("olmoe")
    bypass_router(loaded, 2)
    code, checks = examine_model(monkeypatch, capsys, loaded)
    assert code == 1
    assert failed(checks) == (["capture"], ["padding", "generation", "steering", "estimate"])
    assert "layer 2 ran 0 times" in checks["capture"]["detail"]


def test_router_that_chooses_otherwise_fails(monkeypatch, capsys):
    """A router that does not do what its family's row says fails `capture`."""
    loaded = tiny("olmoe")
    choose_the_worst(loaded, 1)
    code, checks = examine_model(monkeypatch, capsys, loaded)
    assert code == 1
    assert "layer 1 chooses otherwise" in checks["capture"]["detail"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda logits: (logits[0], logits[1] + 0.01, *logits[2:]), "in layer 1 the library records other router"),
        (lambda logits: logits[:-1], "the library records 3 routers; expected the 4 we found"),
        (lambda _: None, "the library records no logits"),
    ],
)
def test_library_record_is_compared(monkeypatch, capsys, change, message):
    """Other logits or layers than the library's own fail `capture`; a library that records none is said."""
    loaded = tiny("olmoe")

    def edit(_module, _inputs, output):
        if output.router_logits is not None:
            output.router_logits = change(output.router_logits)
        return output

    loaded.decoder.register_forward_hook(edit)
    code, checks = examine_model(monkeypatch, capsys, loaded)
    assert message in checks["capture"]["detail"]
    assert code == ("no logits" not in message)


@pytest.mark.parametrize(
    ("leak", "message"),
    [
        (lambda _m, _i, output: output + 5 * output.mean((0, 1)), "padding on the right changes"),
        (lambda _m, _i, output: output + 3 * output[:, :1], "padding on the left changes"),
    ],
)
def test_padding_that_leaks_fails(monkeypatch, capsys, leak, message):
    """Padding that reaches a token fails `padding`; what does not build on it still runs."""
    loaded = tiny("olmoe")
    loaded.model.get_input_embeddings().register_forward_hook(leak)
    code, checks = examine_model(monkeypatch, capsys, loaded)
    assert code == 1
    assert failed(checks) == (["padding", "generation"], ["steering"])
    assert message in checks["padding"]["detail"]
    assert "answered otherwise alone than in a batch" in checks["generation"]["detail"]


def ends_the_prompt(monkeypatch, _loaded):
    """Prompts whose last token ends the text."""
    plain = answers.encode_start
    monkeypatch.setattr(answers, "encode_start", lambda *given, **named: [*plain(*given, **named), 2])


def follows_the_checkpoint(monkeypatch, loaded):
    """Answers that follow a penalty of the checkpoint."""
    loaded.model.generation_config.repetition_penalty = 9.0
    monkeypatch.setattr(answers, "neutral_settings", lambda _: {})


def reads_the_padding(monkeypatch, _loaded):
    """Batches without a mask."""
    plain = answers.pad_left

    def unmasked(*given):
        ids, mask = plain(*given)
        return ids, torch.ones_like(mask)

    monkeypatch.setattr(answers, "pad_left", unmasked)


def raises_when_it_writes(monkeypatch, loaded):
    """A model that fails in generation alone."""

    def generate(**_):
        raise RuntimeError("The size of tensor a (12) must match the size of tensor b (408)")

    monkeypatch.setattr(loaded.model, "generate", generate)


def routes_otherwise_when_it_writes(_monkeypatch, loaded):
    """A model whose later forwards, of one token each, are other ones."""
    loaded.decoder.layers[0].register_forward_pre_hook(
        lambda _module, inputs: (inputs[0].flip(-1), *inputs[1:]) if inputs[0].shape[1] == 1 else None
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (ends_the_prompt, "tokens that the model wrote are not the likeliest ones when it reads the same text"),
        (follows_the_checkpoint, "tokens that the model wrote are not the likeliest ones when it reads the same text"),
        (reads_the_padding, "prompts are answered otherwise alone than in a batch of 6; expected the same answers"),
        (raises_when_it_writes, "the model's code raised RuntimeError: The size of tensor a (12) must match"),
        (routes_otherwise_when_it_writes, "tokens that the model wrote are not the likeliest ones when it reads"),
    ],
)
def test_generation_that_is_broken_fails(monkeypatch, capsys, damage, message):
    """What shows when the model writes, and at no forward before, fails `generation`; no plan is tried then."""
    loaded = tiny("olmoe")
    damage(monkeypatch, loaded)
    code, checks = examine_model(monkeypatch, capsys, loaded)
    assert code == 1
    assert failed(checks) == (["generation"], ["steering"])
    assert message in checks["generation"]["detail"]


def test_routing_of_what_is_written_is_compared(monkeypatch, capsys):
    """Experts other than those of a reading, with the same answers, fail `generation`."""
    plain = answers.continue_prompts

    def other(loaded, prompts, **options):
        return [[ids[0] ^ 1, *ids[1:]] for ids in plain(loaded, prompts, **options)]

    monkeypatch.setattr(huggingface_checks, "continue_prompts", other)
    code, checks = examine_model(monkeypatch, capsys, tiny("olmoe"))
    assert code == 1
    assert failed(checks) == (["generation"], ["steering"])
    assert "of the selections made while writing change when the same text is read" in checks["generation"]["detail"]


@pytest.mark.parametrize("own", [True, False])
def test_a_plan_that_does_not_reach_what_is_written_fails(monkeypatch, tmp_path, capsys, own):
    """Steering that holds in every forward but those of one token by prompt, which are the later ones of generation."""
    loaded, plain = tiny("olmoe"), PlannedRouter.by_phase

    def not_of_one_token(steered, apply, values):
        return None if values.shape[0] <= len(PROBE_TEXTS) else plain(steered, apply, values)

    monkeypatch.setattr(PlannedRouter, "by_phase", not_of_one_token)
    plan = write(tmp_path, loaded.fingerprint, Intervention("ban", 1, (0, 1, 2, 3)))
    code, checks = examine_model(monkeypatch, capsys, loaded, *([] if own else ["--plan", plan]))
    assert code == 1
    name = "steering" if own else "plan"
    assert failed(checks) == ([name], [])
    assert checks[name]["detail"].startswith("under the plan ")
    assert "of the selections made while writing change when the same text is read" in checks[name]["detail"]


def test_answers_after_a_plan_are_those_of_before(monkeypatch, capsys):
    """A trace that forwards do not show fails `steering`: here settings of generation that a plan leaves behind."""
    loaded, plain, left = tiny("olmoe"), answers.pad_left, itertools.count(1)

    @contextlib.contextmanager
    def leaves_settings(model, plan):
        with steer(model, plan):
            yield
        if next(left) > 1:
            monkeypatch.setattr(answers, "pad_left", lambda *given: [part.flip(-1) for part in plain(*given)])

    monkeypatch.setattr(HuggingFaceModel, "steer", leaves_settings)
    code, checks = examine_model(monkeypatch, capsys, loaded)
    assert code == 1
    assert failed(checks) == (["steering"], [])
    assert "after steering, answers are not those of before" in checks["steering"]["detail"]


def test_known_left_padding_is_said(monkeypatch, capsys):
    """Where the family's row says that left padding is not safe, that is no failure and is said."""
    loaded = tiny("olmoe")
    loaded.family = dataclasses.replace(loaded.family, left_padding=False)
    pad = loaded.tokenizer.pad_token_id

    def leak(_module, inputs, output):
        return output + 3 * output[:, -1:] * (inputs[0][:, :1] == pad)[..., None]

    loaded.model.get_input_embeddings().register_forward_hook(leak)
    code, checks = examine_model(monkeypatch, capsys, loaded)
    assert code == 0
    assert "is not safe for this family, so prompts are answered one by one" in checks["padding"]["detail"]
    assert "on the left 0.00%" not in checks["padding"]["detail"]


def leaves_a_hook(loaded, plan):
    """A steering context that forgets a hook."""
    loaded.router_modules[0].module.register_forward_hook(lambda *_: None)
    return steer(loaded, plan)


@torch.no_grad()
def changes_a_weight(loaded, plan):
    """A steering context that does not restore the model."""
    loaded.model.lm_head.weight[0, 0] += 1
    return steer(loaded, plan)


@pytest.mark.parametrize(
    ("name", "broken", "message"),
    [
        ("steer", leaves_a_hook, "steering left 2 hooks in the model; expected none"),
        ("steer", changes_a_weight, "after steering the logits differ by "),
        ("steer", lambda *_: contextlib.nullcontext(), "tokens chose expert "),
        ("change", lambda *_, **__: Change(dict.fromkeys(range(4), 0.0)), "force changed no chosen expert"),
    ],
)
def test_steering_that_is_broken_fails(monkeypatch, capsys, name, broken, message):
    """A trial that leaves traces, or has no effect, fails `steering` alone."""
    monkeypatch.setattr(HuggingFaceModel, name, broken)
    code, checks = examine_model(monkeypatch, capsys, tiny("olmoe"))
    assert code == 1
    assert failed(checks) == (["steering"], [])
    assert message in checks["steering"]["detail"]


def test_kernels_that_repeat_only_nearly_are_no_failure(monkeypatch, capsys):
    """Where two unsteered forwards differ, so may one after steering; no bit is promised then."""
    loaded, noise = tiny("olmoe"), itertools.cycle([0.0, 1e-6, 2e-6])
    loaded.model.lm_head.register_forward_hook(lambda _m, _i, output: output + next(noise))
    code, checks = examine_model(monkeypatch, capsys, loaded)
    assert code == 0
    assert "logits repeat only to" in checks["steering"]["detail"]


def test_plan_is_measured(tmp_path, capsys):
    """A plan that fits gets its effect by layer and on the next token, and the next command is an evaluation."""
    ban = [Intervention("ban", layer, (0, 1, 2, 3)) for layer in (1, 2)]
    path = write(tmp_path, tiny("olmoe").fingerprint, *ban)
    code, checks = examine(capsys, checkpoint("olmoe"), "--plan", path)
    assert code == 0, checks
    assert list(checks) == [name if name != "steering" else "plan" for name in NAMES]
    assert "in its 2 layers (1-2) it changes the chosen experts of" in checks["plan"]["detail"]
    assert "bit-identical" in checks["plan"]["detail"]
    assert main(["doctor", str(checkpoint("olmoe")), "--plan", str(path)]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"next: isogloss evaluate {checkpoint('olmoe')} --plan {path} --task TASK -o eval"


def test_change_of_the_next_token_equals_numpy():
    """Flipped tokens and the mean divergence are those of two forwards, computed by NumPy in float64."""
    loaded = tiny("olmoe")
    plan = Plan(loaded.fingerprint, (Intervention("ban", 1, (0, 1, 2, 3)),), {})

    @torch.no_grad()
    def forward():
        ids = (loaded.tokenizer(text, return_tensors="pt") for text in PROBE_TEXTS)
        return np.concatenate([loaded.model(**each).logits[0].double().numpy() for each in ids])

    plain = log_softmax(forward(), axis=1)
    with steer(loaded, plan):
        steered = log_softmax(forward(), axis=1)
    change = measure_change(loaded, plan, PROBE_TEXTS)
    assert change.other_tokens == pytest.approx((plain.argmax(1) != steered.argmax(1)).mean())
    assert change.kl.value == pytest.approx((np.exp(plain) * (plain - steered)).sum(1).mean(), rel=1e-4)
    assert change.kl.value > 0


@pytest.mark.parametrize("phase", ["prompt", "generation"])
def test_a_rule_for_one_phase_is_tried_in_that_phase(phase):
    """Next tokens change as under the rule for both phases; of rules for either, the larger change counts."""
    loaded = tiny("olmoe")
    rule = Intervention("ban", 1, (0, 1, 2, 3))

    def change(*rules):
        found = measure_change(loaded, Plan(loaded.fingerprint, rules), PROBE_TEXTS)
        return found.other_tokens, found.kl.value

    assert change(dataclasses.replace(rule, phase=phase)) == change(rule)
    weak = Intervention("offset", 1, (5,), values=(1e-3,), phase="prompt" if phase == "generation" else "generation")
    assert change(dataclasses.replace(rule, phase=phase), weak) == change(rule)
    assert change(rule)[1] > 0


def test_a_plan_by_language_is_tried_for_one(tmp_path, capsys):
    """For the language asked for, or the first that the plan names, which the detail says; without a rule it fails."""
    rules = [Intervention("ban", 1, (0, 1, 2, 3), languages=("sw",)), Intervention("ban", 2, (4,), languages=("de",))]
    path = write(tmp_path, tiny("olmoe").fingerprint, *rules)
    for more, code, layer in (((), "deu_Latn", 2), (("--language", "sw"), "swh_Latn", 1)):
        exit_code, checks = examine(capsys, checkpoint("olmoe"), "--plan", path, *more)
        assert exit_code == 0, checks
        expected = f"for requests in {code} (the plan has rules for deu_Latn, swh_Latn) the plan fits this model; "
        assert checks["plan"]["detail"].startswith(f"{expected}in its 1 layers ({layer})")
    exit_code, checks = examine(capsys, checkpoint("olmoe"), "--plan", path, "--language", "fr")
    assert exit_code == 1
    assert "no rule for fra_Latn; it has some for deu_Latn, swh_Latn" in checks["plan"]["detail"]


def test_a_tokenizer_without_a_token_for_padding_passes(monkeypatch, capsys):
    """Neither padding nor an end: any id will do under a mask."""
    loaded = tiny("olmoe")
    bare = copy.deepcopy(loaded.tokenizer)
    bare.pad_token = bare.eos_token = None
    monkeypatch.setattr(loaded, "tokenizer", bare)
    code, checks = examine_model(monkeypatch, capsys, loaded)
    assert code == 0, checks


def test_empty_plan_is_ok_and_said(tmp_path, capsys):
    """An empty plan is reported as changing nothing."""
    code, checks = examine(capsys, checkpoint("olmoe"), "--plan", write(tmp_path, tiny("olmoe").fingerprint))
    assert code == 0
    assert checks["plan"]["detail"] == "the plan fits this model; it is empty and changes nothing"


def test_plan_without_effect_fails(tmp_path, capsys):
    """A plan that is not empty and changes no choice fails."""
    weak = Intervention("offset", LAST, (0,), values=(1e-9,))
    path = write(tmp_path, tiny("olmoe").fingerprint, weak)
    code, checks = examine(capsys, checkpoint("olmoe"), "--plan", path)
    assert code == 1
    assert failed(checks) == (["plan"], [])
    assert "changed no chosen expert" in checks["plan"]["detail"]


@pytest.mark.parametrize("interventions", [(), (Intervention("ban", LAST, (0,)),)])
def test_plan_of_another_model_fails(tmp_path, capsys, interventions):
    """A plan for other router weights fails `plan`, with what differs; also an empty one."""
    path = write(tmp_path, tiny("olmoe", seed=1).fingerprint, *interventions)
    code, checks = examine(capsys, checkpoint("olmoe"), "--plan", path)
    assert code == 1
    assert failed(checks) == (["plan"], [])
    assert "made for another model (router_sha256" in checks["plan"]["detail"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--plan", "{}/nowhere.json"], "cannot read the plan"),
        (["--plan", "{}/junk.json"], "not a JSON file"),
        (["--plan", "{}/list.json"], "a plan is a JSON object; found list"),
        (["--corpus", "{}/nowhere"], "nowhere"),
        (["--languages", "en"], "found none: name it by --corpus"),
        (["--language", "en"], "found none: name it by --plan"),
        (["--adapter", "{}"], "which names one of a running server's (--server URL); a folder is given as --plan "),
        (["--backend", "vllm", "--corpus", "{}"], "is not estimated for --backend vllm; leave it out"),
        (["--backend", "vllm", "--device", "cpu"], "--device has no meaning for --backend vllm"),
    ],
)
def test_wrong_use_is_one_line(tmp_path, capsys, arguments, message):
    """Exit code 2 and one line, before any model is loaded."""
    (tmp_path / "junk.json").write_text("{")
    (tmp_path / "list.json").write_text("[]")
    assert main(["doctor", "no/model", *(argument.format(tmp_path) for argument in arguments)]) == 2
    streams = capsys.readouterr()
    assert message in streams.err
    assert streams.err.count("\n") == 1
    assert streams.out == ""


def test_vllm_that_does_not_start_fails_the_first_check(monkeypatch, capsys):
    """Where it is not installed, that is the finding, and nothing is built on it."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "vllm" else importlib.util)
    code, checks = examine(capsys, "some/model", "--backend", "vllm")
    assert code == 1
    assert failed(checks) == (["loads"], ["routers", "capture", "generation", "steering"])
    assert "vLLM is not installed here" in checks["loads"]["detail"]


def corpus(n_items, languages=("eng_Latn", "rus_Cyrl")):
    """Texts of unlike lengths."""
    texts = tuple(" ".join(TEXTS[: 1 + item % 5]) for item in range(n_items))
    return Corpus("sample", dict.fromkeys(languages, texts), tuple(f"i{n}" for n in range(n_items)), "CC0-1.0", "here")


def test_estimate_of_a_corpus(tmp_path, capsys):
    """A corpus on disk is counted with the model's tokenizer; the next command captures that corpus."""
    for language in ("eng_Latn", "rus_Cyrl"):
        (tmp_path / f"{language}.txt").write_text("".join(f"{text}\n" for text in TEXTS), encoding="utf-8")
    picked = ["--corpus", tmp_path, "--languages", "en", "--items", "4"]
    _, checks = examine(capsys, checkpoint("olmoe"), *picked)
    n_tokens = sum(len(ids) for ids in tokenizer()(list(TEXTS[:4]))["input_ids"])
    assert f"(4 texts, {n_tokens} tokens) takes about" in checks["estimate"]["detail"]
    assert main(["doctor", str(checkpoint("olmoe")), *map(str, picked), "--dtype", "float32", "--device", "cpu"]) == 0
    rest = f"--corpus {tmp_path} --languages en --items 4 --dtype float32 --device cpu -o run"
    assert capsys.readouterr().out.endswith(f"next: isogloss capture {checkpoint('olmoe')} {rest}\n")


def test_corpus_is_counted():
    """Small corpora are counted whole, and large ones from a sample, in all languages."""
    loaded = tiny("olmoe")
    small, large = corpus(40), corpus(1000)
    found = estimate.count_corpus(loaded, small)
    counts = [len(ids) for texts in small.texts.values() for ids in tokenizer()(list(texts))["input_ids"]]
    assert found == estimate.Load("sample", 80, sum(counts))
    assert estimate.count_corpus(loaded, corpus(40, ("eng_Latn",))).n_tokens == sum(counts) / 2
    assert estimate.count_corpus(loaded, large).n_texts == 2000
    assert estimate.count_corpus(loaded, large).n_tokens == pytest.approx(25 * found.n_tokens, rel=0.05)


def test_size_of_a_run_is_that_of_its_files(tmp_path):
    """The estimated size is that of the arrays on disk; what is left are the files' headers."""
    loaded = tiny("olmoe")
    run = capture_corpus(loaded, corpus(30), tmp_path / "run")
    on_disk = sum(path.stat().st_size for path in run.path.glob("*.safetensors"))
    assert 0 < on_disk - estimate.run_bytes(loaded, 60) < 2 * 1024


def test_speed_is_the_median_after_a_warm_up(monkeypatch):
    """One untimed batch, then the median of three; peak memory holds the weights."""
    loaded = tiny("olmoe")
    clock = iter([0, 1000, 2000, 2001, 3000, 3004, 4000, 4050])
    monkeypatch.setattr(estimate, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    speed = estimate.measure_speed(loaded)
    assert next(clock, None) is None
    assert speed.n_tokens <= 1024
    assert speed.tokens_per_second == speed.n_tokens / 4
    assert speed.peak_bytes > estimate.weight_bytes(loaded) > 4 * loaded.model.num_parameters() - 1


def test_estimate_grows_with_the_corpus(monkeypatch):
    """Ten times the texts take ten times the minutes and the disk; without a corpus a million tokens are estimated."""
    loaded = tiny("olmoe")
    monkeypatch.setattr(estimate, "measure_speed", lambda _: estimate.Speed(10.0, 600, 2**30))
    load = estimate.Load("sample", 1000, 60_000)
    monkeypatch.setattr(estimate, "count_corpus", lambda *_: load)
    assert "takes about 100 minutes and 0.00027 GiB on disk" in estimate.estimate_capture(loaded, corpus(1))
    load = estimate.Load("sample", 10_000, 600_000)
    assert "takes about 1,000 minutes and 0.0027 GiB on disk" in estimate.estimate_capture(loaded, corpus(1))
    assert "1,000,000 tokens) takes about 1,667 minutes" in estimate.estimate_capture(loaded, None)
