"""The OpenAI-compatible server, in processes of its own, with the plugin and a plan in its environment."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import numpy as np
import pytest

from checkpoints import checkpoint, prompts
from isogloss.backends.huggingface import load_model, steer
from isogloss.steering import write_plan
from oracle import transformers_answers
from plans import make_plan

FAMILY, N_NEW, TOLERANCE = "qwen3_moe", 8, 5e-5
REQUIRED = "isogloss.backends.vllm.plugin.required.Required"
OPTIONS = (
    "--dtype float32 --enforce-eager --max-model-len 256 --max-num-seqs 8 --seed 0 --kv-cache-memory-bytes 67108864"
)


def command(port, **variables):
    """The server's command line and environment."""
    arguments = ["--model", str(checkpoint(FAMILY)), "--served-model-name", "tiny", "--port", str(port)]
    arguments += [*OPTIONS.split(), "--worker-extension-cls", REQUIRED]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ISOGLOSS_", "VLLM_"))}
    own = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
    environ = kept | own | {"VLLM_CPU_OMP_THREADS_BIND": "nobind"} | variables
    return [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *arguments], environ


def free_port():
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def post(port, path, **fields):
    """Send JSON, and return what comes back."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", json.dumps(fields).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310 - as above
        return json.load(answer)


@pytest.fixture(scope="module")
def loaded():
    """The checkpoint as transformers loads it."""
    return load_model(str(checkpoint(FAMILY)), dtype="float32")


@pytest.fixture(scope="module")
def plans(loaded, tmp_path_factory):
    """Files of plans, by name."""
    folder = tmp_path_factory.mktemp("plans")
    for name in ("soft", "ban", "by language"):
        write_plan(make_plan(loaded.fingerprint(), name), folder / f"{name}.json")
    (folder / "junk.json").write_bytes(b"x" * 100_000_000)
    return folder


@pytest.fixture(scope="module")
def port(engines, loaded, plans, tmp_path_factory):
    """A running server that has started under a soft plan, answered under it, and can take others."""
    engines.free()
    port, log = free_port(), tmp_path_factory.mktemp("server") / "log"
    arguments, environ = command(port, ISOGLOSS_PLAN=str(plans / "soft.json"), ISOGLOSS_KINDS="all", ISOGLOSS_SLOTS="3")
    with log.open("wb") as stream:
        server = subprocess.Popen(arguments, env=environ, stdout=stream, stderr=stream)
        try:
            for _ in range(600):
                assert server.poll() is None, log.read_text(errors="replace")[-3000:]
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                    break
                except OSError:
                    time.sleep(0.5)
            require_answers(port, loaded, make_plan(loaded.fingerprint(), "soft"))
            yield port
        finally:
            server.terminate()
            server.wait(timeout=60)


def require_answers(port, loaded, plan, language=None):
    """Fail unless tokens and log-probabilities over HTTP are those of transformers under the plan."""
    extra = {} if language is None else {"vllm_xargs": {"isogloss_language": language}}
    common = {"model": "tiny", "max_tokens": N_NEW, "temperature": 0, "logprobs": 0, "ignore_eos": True} | extra
    answer = post(port, "/v1/completions", prompt=prompts(), return_token_ids=True, **common)
    with steer(loaded, plan.for_request(language)):
        expected = transformers_answers(loaded, prompts(), N_NEW)
    for choice in answer["choices"]:
        tokens, log_probs = expected.tokens[choice["index"]], expected.log_probs[choice["index"]]
        assert choice["token_ids"] == tokens
        np.testing.assert_allclose(choice["logprobs"]["token_logprobs"], log_probs[-N_NEW:], rtol=0, atol=TOLERANCE)


def test_the_plan_is_replaced_while_it_runs(port, loaded, plans):
    """One call, no restart; a bad plan is refused by name, and the one before goes on."""
    plan = make_plan(loaded.fingerprint(), "ban")
    (status,) = post(port, "/collective_rpc", method="isogloss_load_plan", args=[str(plans / "ban.json")])["results"]
    assert status["plan_sha256"] == plan.sha256
    require_answers(port, loaded, plan)
    (answer,) = post(port, "/collective_rpc", method="isogloss_load_plan", args=[str(plans / "junk.json")])["results"]
    assert "larger than" in answer["error"]
    require_answers(port, loaded, plan)


def test_requests_name_their_language(port, loaded, plans):
    """Rules by language are chosen by an extra argument of the request."""
    path = str(plans / "by language.json")
    (status,) = post(port, "/collective_rpc", method="isogloss_load_plan", args=[path])["results"]
    assert set(status["changed"]) == {"other languages", "deu_Latn", "swh_Latn"}
    for language in ("sw", "de", None):
        require_answers(port, loaded, make_plan(loaded.fingerprint(), "by language"), language)


@pytest.mark.parametrize("name", ["junk", "nowhere"])
def test_bad_plans_end_the_server_with_one_line(plans, name):
    """Nothing is loaded first, and no traceback hides the reason."""
    arguments, environ = command(free_port(), ISOGLOSS_PLAN=str(plans / f"{name}.json"))
    ended = subprocess.run(arguments, env=environ, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("isogloss: ")
    assert name in ended.stderr.splitlines()[-1]


def test_a_server_without_the_plugin_does_not_start(plans):
    """VLLM would only log that a plugin is left out; the worker extension stops it."""
    arguments, environ = command(free_port(), ISOGLOSS_PLAN=str(plans / "soft.json"), VLLM_PLUGINS="")
    ended = subprocess.run(arguments, env=environ, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode != 0
    assert "the isogloss plugin is not active" in ended.stderr + ended.stdout
