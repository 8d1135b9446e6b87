"""The OpenAI-compatible server, in processes of its own, with the plugin and plans in its environment."""

from __future__ import annotations

import dataclasses
import json
import random
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from deadline import PATIENCE
from servers import free_port, wait_for

from answering import KEY, command, post, send
from checkpoints import TEXTS, checkpoint, prompts
from isogloss.backends.huggingface import load_model, steer
from isogloss.runs import import_usage_json
from isogloss.steering import Plan, write_plan
from oracle import transformers_answers
from plans import make_plan

FAMILY, N_NEW, TOLERANCE = "qwen3_moe", 8, 5e-5


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
    """A running server of two processes that take requests, which has started with plans and can take others."""
    engines.free()
    port, log = free_port(), tmp_path_factory.mktemp("server") / "log"
    named = f"ban={plans / 'ban.json'},rules={plans / 'by language.json'}"
    slots = {"ISOGLOSS_KINDS": "all", "ISOGLOSS_SLOTS": "10", "ISOGLOSS_USAGE": "8"}
    arguments, environ = command(
        FAMILY, port, fronts=2, ISOGLOSS_PLAN=str(plans / "soft.json"), ISOGLOSS_PLANS=named, **slots
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


def require_answers(port, loaded, plan, language=None, *, name=None):
    """Fail unless tokens and log-probabilities over HTTP are those of transformers under the plan."""
    require_equal(served_answer(port, language, name), expected_answers(loaded, plan, language))


def served_answer(port, language, name):
    """What the server answers to all prompts, in a language and under a plan, None for neither."""
    extra = {"isogloss_language": language, "isogloss_plan": name}
    extra = {"vllm_xargs": {each: value for each, value in extra.items() if value is not None}}
    common = {"model": "tiny", "max_tokens": N_NEW, "temperature": 0, "logprobs": 0, "ignore_eos": True} | extra
    return post(port, "/v1/completions", prompt=prompts(), return_token_ids=True, **common)


def expected_answers(loaded, plan, language):
    """What transformers answers to all prompts."""
    with steer(loaded, plan.for_request(language)):
        return transformers_answers(loaded, prompts(), N_NEW)


def require_equal(answer, expected):
    """Fail unless tokens and log-probabilities are the same."""
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


def streamed(text):
    """Return what was written in a stream; a busy server sends several tokens in one piece."""
    *pieces, end = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert end == "[DONE]"
    return "".join(json.loads(piece)["choices"][0]["text"] for piece in pieces)


def ask(port, endpoint, **fields):
    """Return the answer of an endpoint, but for what is new in every answer; of a stream, its text as a whole."""
    path, own = ENDPOINTS[endpoint]
    status, text = send(port, path, _WRITE | own | fields)
    assert status == 200, text
    if text.startswith("data: "):
        return streamed(text)
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
    load(port, None)
    for endpoint in ENDPOINTS:
        for name, extra in (("plain", {}), ("rules", {"isogloss_language": "sw"})):
            answer = ask(port, endpoint, vllm_xargs={"isogloss_plan": "rules", **extra})
            assert answer == answers[name][endpoint], (endpoint, name)


def test_requests_choose_among_plans_by_name(port, loaded):
    """At once, whatever the one without a name is; a name that no plan has ends only the request that names it."""
    plans = {None: "soft", "ban": "ban", "rules": "by language"}
    plans = {name: make_plan(loaded.fingerprint, kind) for name, kind in plans.items()}
    plans["unsteered"] = Plan(loaded.fingerprint, (), {})
    load(port, plans[None])
    listed = json.loads(send(port, "/isogloss/plans")[1])["plans"]
    assert {name: each["plan_sha256"] for name, each in listed.items()} == {
        name: plans[name].sha256 for name in ("ban", "rules")
    }
    asked = [(name, language) for name in plans for language in (None, "sw")] * 2
    wrong = {"model": "tiny", "prompt": TEXT, "vllm_xargs": {"isogloss_plan": "nobody"}}
    with ThreadPoolExecutor(8) as clients:
        answers = [clients.submit(served_answer, port, language, name) for name, language in asked]
        refusals = [clients.submit(send, port, "/v1/completions", wrong) for _ in range(16)]
    for answer, (name, language) in zip(answers, asked, strict=True):
        require_equal(answer.result(), expected_answers(loaded, plans[name], language))
    for refusal in refusals:
        status, text = refusal.result()
        assert (status, "isogloss_plan is 'nobody'; expected ban, rules, unsteered" in text) == (400, True)


def test_a_plan_is_added_and_removed_while_it_is_asked_for(port, loaded):
    """No process that takes requests knows it too late: until it is there, and when it is gone, naming it is a 400."""
    plan, path = make_plan(loaded.fingerprint, "together"), "/isogloss/plans/new"
    named = {"vllm_xargs": {"isogloss_plan": "new"}, "max_tokens": 32}
    body = _WRITE | ENDPOINTS["stream"][1] | named
    for _ in range(2):
        assert {send(port, "/v1/completions", body)[0] for _ in range(12)} == {400}
        assert send(port, path, plan.to_json(), method="PUT")[0] == 401
        assert send(port, path, plan.to_json(), method="PUT", key=KEY)[0] == 200
        assert json.loads(send(port, path)[1])["plan_sha256"] == plan.sha256
        require_answers(port, loaded, plan, name="new")
        expected = {ask(port, "stream", **named) for _ in range(12)}
        with ThreadPoolExecutor(4) as clients:
            answers = [clients.submit(send, port, "/v1/completions", body) for _ in range(4)]
            while (status := send(port, path, method="DELETE", key=KEY)[0]) != 200:
                assert (status, send(port, "/v1/completions", body)[0]) == (409, 400)
        for status, text in (answer.result() for answer in answers):
            if status == 200 and '"error"' not in text:  # else it came later, or was on its way
                expected.add(streamed(text))
            assert status == 200 or (status, "isogloss_plan is 'new'" in text) == (400, True)
        assert len(expected) == 1
        assert send(port, path)[0] == 404


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
        {"isogloss_plan": "nobody"},
        {"isogloss_plan": ["ban"]},
        {"isogloss_plan": "b" * 1_000_000},
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
    values = [
        "ban",
        "unsteered",
        "nobody",
        None,
        True,
        -1,
        0,
        3,
        2**63,
        1e400,
        "",
        "sw",
        "SW",
        "\ud800",
        "x" * 10_000,
        ["sw"],
        [[]],
        {"a": {"b": 1}},
    ]
    names = [
        "isogloss_plan",
        "isogloss_language",
        "isogloss_generation_start",
        "isogloss_item",
        "isogloss_",
        "session_id",
    ]
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
    salts = ("|isogloss:swh_Latn", "swh_Latn|", ":swh_Latn", ":swh_Latn|", "|swh_Latn|", "ban:|", "rules:swh_Latn|")
    for salt in salts:
        post(port, "/v1/completions", prompt=prompts(), cache_salt=salt, max_tokens=1, model="tiny")
    require_answers(port, loaded, plan, "sw")
    require_answers(port, loaded, plan, "sw", name="rules")
    require_answers(port, loaded, make_plan(loaded.fingerprint, "ban"), name="ban")


@pytest.mark.parametrize("name", ["junk", "nowhere", "foreign"])
def test_bad_plans_end_the_server_with_one_line(plans, name):
    """Before anything is loaded, or in a worker that has loaded the model: no traceback hides the reason."""
    arguments, environ = command(FAMILY, free_port(), ISOGLOSS_PLAN=str(plans / f"{name}.json"))
    ended = subprocess.run(arguments, env=environ, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("isogloss: ")
    assert ended.stderr.count("isogloss: ") == 1
    assert {"foreign": "made for another model"}.get(name, name) in ended.stderr.splitlines()[-1]


def test_a_server_without_the_plugin_does_not_start(plans):
    """VLLM would only log that a plugin is left out; the worker extension stops it."""
    arguments, environ = command(FAMILY, free_port(), ISOGLOSS_PLAN=str(plans / "soft.json"), VLLM_PLUGINS="")
    ended = subprocess.run(arguments, env=environ, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert ended.returncode != 0
    assert "the isogloss plugin is not active" in ended.stderr + ended.stdout
