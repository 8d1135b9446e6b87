"""The OpenAI-compatible server, in processes of its own, with the plugin and a plan in its environment."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import re
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from deadline import PATIENCE
from servers import free_port, wait_for

from checkpoints import TEXTS, checkpoint, prompts
from isogloss.backends.huggingface import load_model, steer
from isogloss.runs import import_usage_json
from isogloss.steering import Plan, write_plan
from oracle import transformers_answers
from plans import make_plan

FAMILY, N_NEW, TOLERANCE = "qwen3_moe", 8, 5e-5
REQUIRED = "isogloss.backends.vllm.plugin.required.Required"
PLANS, KEY = "isogloss.backends.vllm.plugin.plans.Plans", "sesame"
OPTIONS = (
    "--dtype float32 --enforce-eager --max-model-len 256 --max-num-seqs 8 --seed 0 --kv-cache-memory-bytes 67108864 "
    "--block-size 32 --enable-scale-out"
)
CHAT = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def command(port, **variables):
    """The server's command line and environment."""
    arguments = ["--model", str(checkpoint(FAMILY)), "--served-model-name", "tiny", "--port", str(port)]
    arguments += [*OPTIONS.split(), "--worker-extension-cls", REQUIRED, "--middleware", PLANS, "--chat-template", CHAT]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ISOGLOSS_", "VLLM_"))}
    own = {
        "ISOGLOSS_ADMIN_KEY": KEY,
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
    }
    environ = kept | own | {"VLLM_CPU_OMP_THREADS_BIND": "nobind"} | variables
    return [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *arguments], environ


def send(port, path, body=None, *, method=None, key=None):
    """Send JSON, given as fields or as it is; return the status and the text that comes back."""
    body = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"} | ({} if key is None else {"Authorization": f"Bearer {key}"})
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:  # noqa: S310 - our own
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def post(port, path, **fields):
    """Send JSON, and return what comes back, which is no refusal."""
    status, text = send(port, path, fields)
    assert status == 200, text
    return json.loads(text)


def load(port, plan):
    """Replace the plan of a running server, None for none."""
    source = "" if plan is None else json.dumps(plan.to_json())
    (status,) = post(port, "/collective_rpc", method="isogloss_load_plan", args=[source])["results"]
    assert status["plan_sha256"] == (plan and plan.sha256)


@pytest.fixture(scope="module")
def loaded():
    """The checkpoint as transformers loads it."""
    return load_model(str(checkpoint(FAMILY)), dtype="float32")


@pytest.fixture(scope="module")
def plans(loaded, tmp_path_factory):
    """Files of plans, by name."""
    folder = tmp_path_factory.mktemp("plans")
    for name in ("soft", "ban", "by language"):
        write_plan(make_plan(loaded.fingerprint, name), folder / f"{name}.json")
    plan = make_plan(loaded.fingerprint, "ban")
    other = dataclasses.replace(plan.fingerprint, router_sha256="0" * 64, float16_sha256=None)
    write_plan(Plan(other, plan.interventions, {}), folder / "foreign.json")
    (folder / "junk.json").write_bytes(b"x" * 100_000_000)
    return folder


@pytest.fixture(scope="module")
def port(engines, loaded, plans, tmp_path_factory):
    """A running server that has started under a soft plan, answered under it, and can take others."""
    engines.free()
    port, log = free_port(), tmp_path_factory.mktemp("server") / "log"
    arguments, environ = command(
        port, ISOGLOSS_PLAN=str(plans / "soft.json"), ISOGLOSS_KINDS="all", ISOGLOSS_SLOTS="3", ISOGLOSS_USAGE="8"
    )
    with log.open("wb") as stream:
        server = subprocess.Popen(arguments, env=environ, stdout=stream, stderr=stream)
        try:
            wait_for(server, port, lambda: log.read_text(errors="replace")[-3000:])
            require_answers(port, loaded, make_plan(loaded.fingerprint, "soft"))
            yield port
        finally:
            server.terminate()
            server.wait(timeout=PATIENCE)


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
    plan = make_plan(loaded.fingerprint, "ban")
    (status,) = post(port, "/collective_rpc", method="isogloss_load_plan", args=[str(plans / "ban.json")])["results"]
    assert status["plan_sha256"] == plan.sha256
    require_answers(port, loaded, plan)
    (answer,) = post(port, "/collective_rpc", method="isogloss_load_plan", args=[str(plans / "junk.json")])["results"]
    assert "larger than" in answer["error"]
    for args in ([], [5], [None], [["a"]], ["a", 5], ["a", "b", "c"]):
        (answer,) = post(port, "/collective_rpc", method="isogloss_load_plan", args=args)["results"]
        assert "expected one text" in answer["error"]
    require_answers(port, loaded, plan)


def test_the_plan_is_seen_and_replaced_over_http(port, loaded):
    """By everybody, and by who has the key; a plan that is refused leaves the one before."""
    plan, path = make_plan(loaded.fingerprint, "by language"), "/isogloss/plan"
    load(port, make_plan(loaded.fingerprint, "ban"))
    assert send(port, path, plan.to_json(), method="PUT", key="open")[0] == 401
    assert send(port, path, plan.to_json(), method="PUT", key=KEY)[0] == 200
    served = {"plan_sha256": plan.sha256, "languages": list(plan.languages), "phases": []}
    assert json.loads(send(port, path)[1]) == served
    require_answers(port, loaded, plan, "sw")
    status, text = send(port, path, make_plan(loaded.fingerprint, "by phase").to_json(), method="PUT", key=KEY)
    assert (status, "--no-enable-prefix-caching" in text) == (400, True)
    assert json.loads(send(port, path)[1]) == served
    assert send(port, path, method="DELETE", key=KEY)[0] == 200
    assert json.loads(send(port, path)[1]) == {"plan_sha256": None, "languages": [], "phases": []}


def test_traffic_becomes_a_run(port, loaded, tmp_path):
    """Whatever endpoint was asked; counts are read with the key, and begin anew."""
    plan, path = make_plan(loaded.fingerprint, "by language"), "/isogloss/usage"
    load(port, plan)
    assert send(port, path)[0] == 401
    assert send(port, path, method="DELETE", key=KEY)[0] == 200
    assert json.loads(send(port, path, key=KEY)[1])["counts"] == []
    require_answers(port, loaded, plan, "sw")
    for endpoint in ENDPOINTS:
        ask(port, endpoint, vllm_xargs={"isogloss_language": "fra_Latn"})
    require_answers(port, loaded, plan)
    (tmp_path / "usage.json").write_text(send(port, path, method="DELETE", key=KEY)[1])
    assert json.loads(send(port, path, key=KEY)[1])["counts"] == []
    run = import_usage_json(tmp_path / "usage.json", tmp_path / "run")
    manifest = run.manifest
    assert (manifest.model, manifest.fingerprint, manifest.plan_sha256) == ("tiny", loaded.fingerprint, plan.sha256)
    assert run.languages == ("fra_Latn", "swh_Latn")
    n_read = sum(len(prompt) + N_NEW - 1 for prompt in prompts())
    assert run.load("sw").tokens.tolist() == [n_read]
    assert f"left out: {n_read} tokens of requests that stated no language" in manifest.notes


def test_requests_name_their_language(port, loaded, plans):
    """Rules by language are chosen by an extra argument of the request."""
    path = str(plans / "by language.json")
    (status,) = post(port, "/collective_rpc", method="isogloss_load_plan", args=[path])["results"]
    assert set(status["changed"]) == {"other languages", "deu_Latn", "swh_Latn"}
    for language in ("sw", "de", None):
        require_answers(port, loaded, make_plan(loaded.fingerprint, "by language"), language)


TEXT = TEXTS[-1]  # longer than a block of the cache, so that forged caches would be read
_DIALOGUE = [{"role": "user", "content": TEXT}]
_WRITE = {"model": "tiny", "temperature": 0, "ignore_eos": True}
ENDPOINTS = {
    "completion": ("/v1/completions", {"prompt": [TEXT, TEXTS[0]], "max_tokens": N_NEW}),
    "echo": ("/v1/completions", {"prompt": TEXT, "max_tokens": 1, "echo": True, "logprobs": 1}),
    "several": ("/v1/completions", {"prompt": TEXT, "max_tokens": N_NEW, "n": 3, "temperature": 1, "seed": 1}),
    "stream": ("/v1/completions", {"prompt": TEXT, "max_tokens": N_NEW, "stream": True}),
    "beams": ("/v1/completions", {"prompt": [TEXT, TEXTS[0]], "max_tokens": N_NEW, "use_beam_search": True, "n": 2}),
    "chat": ("/v1/chat/completions", {"messages": _DIALOGUE, "max_tokens": N_NEW}),
    "chat beams": (
        "/v1/chat/completions",
        {"messages": _DIALOGUE, "max_tokens": N_NEW, "use_beam_search": True, "n": 2},
    ),
    "dialogues": ("/v1/chat/completions/batch", {"messages": [_DIALOGUE] * 2, "max_tokens": N_NEW}),
    "response": ("/v1/responses", {"input": TEXT, "max_output_tokens": N_NEW}),
    "message": ("/v1/messages", {"messages": _DIALOGUE, "max_tokens": N_NEW}),
    "scores": ("/generative_scoring", {"query": TEXT, "items": ["a cat", "a dog"], "label_token_ids": [30, 40]}),
    "tokens": (
        "/inference/v1/generate",
        {
            "token_ids": list(range(4, 12)),
            "sampling_params": {"max_tokens": N_NEW, "temperature": 0, "ignore_eos": True},
        },
    ),
    "any": ("/invocations", {"prompt": TEXT, "max_tokens": N_NEW}),
}
_OWN = re.compile(
    r'"(id|created|created_at|system_fingerprint|request_id|completed_at|usage)": ?("[^"]*"|[\d.]+|{[^}]*})'
)


def ask(port, endpoint, **fields):
    """Return the answer of an endpoint, but for what is new in every answer; of a stream, its text as a whole."""
    path, own = ENDPOINTS[endpoint]
    status, text = send(port, path, _WRITE | own | fields)
    assert status == 200, text
    if text.startswith("data: "):  # a busy server sends several tokens in one piece
        *pieces, end = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
        assert end == "[DONE]"
        return "".join(json.loads(piece)["choices"][0]["text"] for piece in pieces)
    return re.sub(r"(resp|msg|chatcmpl|cmpl)[-_]\w+", "", _OWN.sub("", text))


def test_rules_act_whatever_endpoint_is_asked(port, loaded):
    """A request in a language is answered as where its rules are all there is; a regional code names it, too."""
    plan = make_plan(loaded.fingerprint, "by language")
    answers = {}
    for name, served in (("plain", plan.for_request(None)), ("rules", plan.for_request("sw"))):
        load(port, served)
        answers[name] = {endpoint: ask(port, endpoint) for endpoint in ENDPOINTS}
    load(port, plan)
    for endpoint in ENDPOINTS:
        assert answers["plain"][endpoint] != answers["rules"][endpoint]
        for name, extra in (("plain", {}), ("rules", {"vllm_xargs": {"isogloss_language": "sw-KE"}})):
            assert ask(port, endpoint, **extra) == answers[name][endpoint], (endpoint, name)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_what_cannot_be_done_is_refused_before_the_engine(port, endpoint):
    """By the status of the request alone, also of one that would be streamed; the reason names the argument."""
    path, own = ENDPOINTS[endpoint]
    wrong = (
        {"isogloss_language": "Swahili"},
        {"isogloss_language": ["sw"]},
        {"isogloss_language": "x" * 1_000_000},
        {"isogloss_generation_start": "abc"},
        {"isogloss_generation_start": 9223372036854775808},
        {"isogloss_lang": "sw"},
    )
    for extra in wrong:
        status, text = send(port, path, _WRITE | own | {"vllm_xargs": extra})
        assert (status, next(iter(extra)) in json.loads(text)["error"]["message"], len(text) < 500) == (400, True, True)
    status, text = send(port, path, _WRITE | own | {"isogloss_language": "sw"})
    assert (status, "expected it in vllm_xargs" in text) == (400, True)


def test_no_request_ends_or_delays_the_server(port, loaded):
    """Requests of every shape beside one that is answered as ever; none is an error of the server's own."""
    plan = make_plan(loaded.fingerprint, "by language")
    load(port, plan)
    expected, draw, seen = ask(port, "completion"), random.Random(0), []
    values = [None, True, -1, 0, 3, 2**63, 1e400, "", "sw", "SW", "\ud800", "x" * 10_000, ["sw"], [[]], {"a": {"b": 1}}]
    names = ["isogloss_language", "isogloss_generation_start", "isogloss_item", "isogloss_", "session_id"]
    with ThreadPoolExecutor(1) as bystander:
        for _ in range(15):
            answer = bystander.submit(ask, port, "completion")
            for endpoint in draw.sample(sorted(ENDPOINTS), 6):
                path, own = ENDPOINTS[endpoint]
                extra = {draw.choice(names): draw.choice(values) for _ in range(draw.randrange(3))}
                place = draw.choice(["vllm_xargs"] * 4 + ["extra_body", "sampling_params", names[0], "cache_salt"])
                content = json.dumps(_WRITE | own | {"stream": False, place: draw.choice([extra, *values])})
                twice = f', "vllm_xargs": {json.dumps(extra)}}}' if draw.random() < 0.2 else "}"
                status, text = send(port, path, (content[:-1] + twice).encode())
                assert status in (200, 400, 422), (path, content, text)
                seen.append(status)
            assert answer.result() == expected
    assert {200, 400} <= set(seen)


def test_no_client_can_write_into_the_cache_of_a_language(port, loaded):
    """Prompts are sent first with salts that name the language; the answers in it are computed all the same."""
    plan = make_plan(loaded.fingerprint, "by language")
    load(port, plan)
    for salt in ("|isogloss:swh_Latn", "swh_Latn|", "swh_Latn", "|swh_Latn|", "1:swh_Latn"):
        post(port, "/v1/completions", prompt=prompts(), cache_salt=salt, max_tokens=1, model="tiny")
    require_answers(port, loaded, plan, "sw")


@pytest.mark.parametrize("name", ["junk", "nowhere", "foreign"])
def test_bad_plans_end_the_server_with_one_line(plans, name):
    """Before anything is loaded, or in a worker that has loaded the model: no traceback hides the reason."""
    arguments, environ = command(free_port(), ISOGLOSS_PLAN=str(plans / f"{name}.json"))
    ended = subprocess.run(arguments, env=environ, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("isogloss: ")
    assert ended.stderr.count("isogloss: ") == 1
    assert {"foreign": "made for another model"}.get(name, name) in ended.stderr.splitlines()[-1]


def test_a_server_without_the_plugin_does_not_start(plans):
    """VLLM would only log that a plugin is left out; the worker extension stops it."""
    arguments, environ = command(free_port(), ISOGLOSS_PLAN=str(plans / "soft.json"), VLLM_PLUGINS="")
    ended = subprocess.run(arguments, env=environ, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert ended.returncode != 0
    assert "the isogloss plugin is not active" in ended.stderr + ended.stdout
