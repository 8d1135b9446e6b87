"""What `doctor --server` finds on stand-ins for both engines: each fault is named, and a right server passes."""

from __future__ import annotations

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from isogloss.cli import main
from isogloss.workflows import examine_server

CHECKS = ("server", "acts", "default", "cache", "mixed")


class Engine(BaseHTTPRequestHandler):
    """Answers as vLLM or llama-server do, by made-up numbers, with one fault or none."""

    kind, fault = "vllm", None

    def log_message(self, *_):
        """Say nothing."""

    def do_GET(self):
        """Name the engine and what it has loaded."""
        models = [{"id": "base", "parent": None}, {"id": "mine", "parent": "base"}]
        pages = {
            "vllm": {"/version": {"version": "0"}, "/v1/models": {"data": models}},
            "llama.cpp": {
                "/props": {"default_generation_settings": {}},
                "/lora-adapters": [{"id": 0, "path": "/a/mine.gguf", "scale": 1.0}],
            },
            "other": {},
            "odd": {"/version": {"version": "0"}, "/v1/models": []},
        }[self.kind]
        self._say(pages.get(self.path))

    def do_POST(self):
        """Give three likely tokens, whose numbers depend on the prompt and on whether the adapter acts."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.kind == "vllm":
            acts, cached = body["model"] == "mine", "cache_salt" not in body
        else:
            acts, cached = (
                bool(body.get("lora", [{"scale": self.fault == "default"}])[0]["scale"]),
                body["cache_prompt"],
            )
        memory = self.server.memory
        memory["busy"] = memory.get("busy", 0) + 1
        if cached and self.fault == "cache":
            acts = memory.setdefault(body["prompt"], acts)
        acts = (acts or self.fault == "everybody") and self.fault != "ignored"
        if self.fault == "mixed" and memory["busy"] > 72:  # the last check of all
            acts = True
        first = -1.0 - len(body["prompt"]) / 1000 - 0.5 * acts
        self._answer({"5": first, "7": -2.0, "9": -3.0})

    def _answer(self, told):
        if self.kind == "vllm":
            self._say({"choices": [{"logprobs": {"top_logprobs": [told]}}]})
        else:
            tokens = [{"id": int(token), "logprob": value} for token, value in told.items()]
            self._say({"completion_probabilities": [{"top_logprobs": tokens}]})

    def _say(self, content):
        self.send_response(404 if content is None else 200)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())


@pytest.fixture
def serving():
    """Start stand-ins; they end with the test."""
    servers = []

    def start(kind, fault=None):
        handler = type("Handler", (Engine,), {"kind": kind, "fault": fault})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.memory = {}
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("kind", ["vllm", "llama.cpp"])
def test_a_right_server_passes(serving, kind):
    """Every check holds, and says by how much."""
    diagnosis = examine_server(serving(kind))
    assert [(check.name, check.ok) for check in diagnosis.checks] == [(name, True) for name in CHECKS]
    assert "answers differ by up to 0.5 with it, by 0 when asked again" in diagnosis.checks[1].detail


@pytest.mark.parametrize(
    ("kind", "fault", "failed", "remedy"),
    [
        ("vllm", "ignored", "acts", "isogloss bake --as vllm"),
        ("vllm", "everybody", "acts", "--max-loras one above"),
        ("vllm", "mixed", "mixed", "--max-loras one above"),
        ("vllm", "cache", "cache", "--no-enable-prefix-caching"),
        ("llama.cpp", "ignored", "acts", "the server's log"),
        ("llama.cpp", "default", "default", "--lora-scaled FILE:0"),
        ("llama.cpp", "cache", "cache", "--cache-ram 0"),
    ],
)
def test_each_fault_is_named(serving, kind, fault, failed, remedy):
    """The check that fails is the one of the fault, with what to do; those that build on `acts` are not run."""
    checks = {check.name: check for check in examine_server(serving(kind, fault)).checks}
    assert [name for name, check in checks.items() if check.ran and not check.ok] == [failed]
    assert remedy in checks[failed].detail
    assert checks["mixed"].ran is (failed != "acts")


def _greeting():
    """The address of what is no web server."""
    listening = socket.create_server(("127.0.0.1", 0))

    def greet():
        with listening, listening.accept()[0] as asked:
            asked.recv(2**16)
            asked.sendall(b"220 mail.example ESMTP\r\n")

    threading.Thread(target=greet, daemon=True).start()
    return f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_what_cannot_be_asked(serving):
    """Nothing there, another server, one of another kind, an adapter that is not loaded, no address."""
    address = serving("vllm")
    for arguments, message in (
        (("http://127.0.0.1:9",), "check that the server runs there"),
        ((serving("other"),), "answers neither as vLLM"),
        ((address, "yours"), "it has no yours; the server has mine"),
        (("ftp://x",), "is no address of a server"),
        (("http://a b",), "check that the server runs there"),
        (("http://x:port",), "check that the server runs there"),
        ((_greeting(),), "check that the server runs there"),
        ((serving("odd"),), "answers in another form than vLLM"),
    ):
        (check,) = examine_server(*arguments).checks
        assert not check.ok
        assert message in check.detail


def test_the_command(serving, capsys):
    """Exit code 0 or 1 by what was found; 2 for options that do not go together."""
    assert main(["doctor", "--server", serving("vllm"), "--adapter", "mine"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [["ok", name] for name in CHECKS]
    assert main(["doctor", "--server", serving("vllm", "ignored"), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["ok"] is False
    assert main(["doctor", "--server", "http://x", "--plan", "p"]) == 2
    assert "leave MODEL and --plan out" in capsys.readouterr().err
    assert main(["doctor"]) == 2
    assert "expected MODEL; or --server URL" in capsys.readouterr().err
