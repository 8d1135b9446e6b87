"""`isogloss doctor --backend vllm` says of a healthy engine that it is, and of a plan what it does or why it fails."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from contextlib import contextmanager, nullcontext

import pytest

from checkpoints import checkpoint
from engines import stop
from isogloss.backends.checks import PROBE_TEXTS
from isogloss.backends.huggingface import load_model
from isogloss.backends.huggingface.change import measure_change
from isogloss.backends.open import load
from isogloss.backends.vllm import answers as vllm_answers
from isogloss.backends.vllm import checks as vllm_checks
from isogloss.cli import main
from isogloss.steering import Intervention, Plan, write_plan
from isogloss.workflows import doctor

NAMES = ["loads", "routers", "capture", "generation", "steering"]
OPTIONS = {"max_model_len": 256, "max_num_seqs": 8, "max_num_batched_tokens": 64, "kv_cache_memory_bytes": 2**26}
GIVEN = [
    part for name, value in {**OPTIONS, "enforce_eager": "true"}.items() for part in ("--engine", f"{name}={value}")
]


@pytest.fixture(scope="module")
def qwen(engines):
    """A model of four layers, the first without a router, in an engine of its own."""
    engines.free()
    options = {**OPTIONS, "enforce_eager": True, "use_tqdm_on_load": False}
    found = load(str(checkpoint("qwen3_moe")), backend="vllm", dtype="float32", engine=options)
    yield found
    stop(found.engine)


@pytest.fixture
def examine(qwen, monkeypatch, capsys):
    """Exit code of the command, and its checks by name; the engine is started already."""
    monkeypatch.setattr(doctor, "load", lambda *_, **__: qwen)

    def run(*arguments, clean=True):
        capsys.readouterr()
        code = main(["doctor", "qwen3", "--backend", "vllm", *map(str, arguments), "--json"])
        checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
        assert qwen.call("isogloss_status")[0]["plan_sha256"] is None or not clean
        return code, checks

    return run


@pytest.fixture
def write(tmp_path):
    """A plan file."""

    def to_file(fingerprint, *rules):
        write_plan(Plan(fingerprint, rules, {"test": "test"}), tmp_path / "plan.json")
        return tmp_path / "plan.json"

    return to_file


def failed(checks):
    """Names of the checks that do not hold."""
    return [name for name, check in checks.items() if not check["ok"]]


def test_a_healthy_model_passes(examine):
    """Every check holds, in order, and says what it found."""
    code, checks = examine()
    assert code == 0, checks
    assert list(checks) == NAMES
    assert "float32 on cpu; experts CPU" in checks["loads"]["detail"]
    assert (
        "qwen3_moe: 3 of 4 layers are routed (1-3), 0 without a router; 8 experts, top 2, softmax"
        in (checks["routers"]["detail"])
    )
    assert "in all 3 routed layers, every token was recorded once and chose 2 experts" in checks["capture"]["detail"]
    assert (
        "3 of 3 prompts have the same answer alone and in a batch; 24 of 24 tokens written are the likeliest ones when "
        "the text is read; of 18 tokens read while writing, reading them at once changes 0.00%"
    ) in checks["generation"]["detail"]
    assert "under force 3 of 3 prompts have the same answer alone" in checks["steering"]["detail"]
    n_tokens = 200
    assert f"on 6 texts ({n_tokens} tokens)" in checks["capture"]["detail"]
    assert f"of {n_tokens} tokens, forced by {n_tokens}; force changed" in checks["steering"]["detail"]
    assert "afterwards answers and likelihoods are bit-identical" in checks["steering"]["detail"]


def test_a_plan_is_measured_as_under_transformers(examine, write, qwen):
    """The shares of changed choices are those of the same plan in transformers."""
    rules = [Intervention("ban", layer, (0, 1, 2)) for layer in (1, 3)]
    code, checks = examine("--plan", write(qwen.fingerprint, *rules))
    assert code == 0, checks
    loaded = load_model(str(checkpoint("qwen3_moe")), device="cpu")
    changed = measure_change(loaded, Plan(qwen.fingerprint, tuple(rules)), PROBE_TEXTS).changed
    shares = [changed[layer] for layer in (1, 3)]
    assert (
        f"in its 2 layers (1, 3) it changes the chosen experts of {min(shares):.1%} to {max(shares):.1%}"
        in (checks["plan"]["detail"])
    )


def test_plans_that_fit_in_other_ways(examine, write, qwen):
    """An empty plan, a plan for the generation alone, and the rules of one language."""
    code, checks = examine("--plan", write(qwen.fingerprint))
    assert (code, checks["plan"]["detail"]) == (0, "the plan fits this model; it is empty and changes nothing")
    rule = Intervention("ban", 2, (0, 1, 2, 3), phase="generation")
    code, checks = examine("--plan", write(qwen.fingerprint, rule))
    assert code == 0, checks
    by_language = dataclasses.replace(rule, languages=("swh_Latn",))
    code, checks = examine("--plan", write(qwen.fingerprint, by_language), "--language", "sw")
    assert code == 0, checks
    assert checks["plan"]["detail"].startswith("for requests in swh_Latn (the plan has rules for swh_Latn) the plan")
    code, checks = examine("--plan", write(qwen.fingerprint, by_language), "--language", "fr")
    assert (code, failed(checks)) == (1, ["plan"])


def test_plans_that_cannot_be_served_fail(examine, write, qwen):
    """A plan that changes nothing, and one for another model, with what differs."""
    weak = Intervention("offset", 3, (0,), values=(1e-9,))
    code, checks = examine("--plan", write(qwen.fingerprint, weak))
    assert (code, failed(checks)) == (1, ["plan"])
    assert "changed no chosen expert" in checks["plan"]["detail"]
    other = dataclasses.replace(qwen.fingerprint, router_sha256="0" * 64, float16_sha256=None)
    for rules in ((), (Intervention("ban", 3, (0,)),)):
        code, checks = examine("--plan", write(other, *rules))
        assert (code, failed(checks)) == (1, ["plan"])
        assert "made for another model (router_sha256" in checks["plan"]["detail"]


def test_broken_steering_fails(examine, qwen, monkeypatch):
    """Steering that does nothing, and steering that stays, are told apart; the rest still holds."""
    with monkeypatch.context() as broken:
        broken.setattr(qwen, "steer", lambda _plan: nullcontext())
        code, checks = examine()
    assert (code, failed(checks)) == (1, ["steering"])
    assert "force changed no chosen expert" in checks["steering"]["detail"]
    plan = Plan(qwen.fingerprint, (Intervention("ban", 2, (0, 1, 2)),))

    @contextmanager
    def stays(each):
        qwen.load_plan(each)
        yield
        qwen.load_plan(plan)

    with monkeypatch.context() as broken:
        broken.setattr(qwen, "steer", stays)
        code, checks = examine(clean=False)
    qwen.load_plan(None)
    assert (code, failed(checks)) == (1, ["steering"])
    assert "after steering the likelihoods differ by" in checks["steering"]["detail"]


def test_answers_that_a_reading_does_not_give_fail(examine, monkeypatch):
    """Prompts whose last token ends the text are answered otherwise than the likelihoods say."""
    plain = vllm_answers.encode_start
    monkeypatch.setattr(vllm_answers, "encode_start", lambda *given, **named: [*plain(*given, **named), 2])
    code, checks = examine()
    assert (code, failed(checks)) == (1, ["generation", "steering"])
    assert "tokens that the model wrote are not the likeliest ones" in checks["generation"]["detail"]
    assert checks["steering"]["detail"] == "not run: it builds on generation, which failed"


def test_a_recorder_that_loses_or_repeats_fails(examine, monkeypatch):
    """Sums that are not those of the tokens fail `capture`, and nothing is built on it."""
    plain = vllm_checks.route_texts

    def change(edit):
        def route(*arguments, **options):
            routed = plain(*arguments, **options)
            edit(routed)
            return routed

        return route

    for edit, message in (
        (lambda routed: routed.profiles[2, 1].mul_(0.9), "router probabilities of text 2 in layer 2 add up to"),
        (lambda routed: routed.selections[1, 0, 0].add_(1), "chosen experts of text 1 in layer 1 add up to"),
        (lambda routed: routed.selections[0, 2].copy_(routed.selections[0, 2].roll(1)), "are not those that were coun"),
    ):
        monkeypatch.setattr(vllm_checks, "route_texts", change(edit))
        code, checks = examine()
        assert (code, failed(checks)) == (1, ["capture", "generation", "steering"])
        assert message in checks["capture"]["detail"]


@pytest.mark.slow
def test_the_command_starts_an_engine():
    """From the shell: exit code 0, one line per check, and the next command."""
    command = [sys.executable, "-m", "isogloss", "doctor", str(checkpoint("qwen3_moe")), "--backend", "vllm", *GIVEN]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines[:-1]] == [["ok", name] for name in NAMES]
    assert lines[-1].startswith("next: isogloss capture ")
    assert "--backend vllm --engine max_model_len=256" in lines[-1]
