"""What a server shows of its plan over HTTP, and who may replace it; with an engine that notes what it is told."""

from __future__ import annotations

import asyncio
import itertools
import json
from types import SimpleNamespace

import pytest

from isogloss.backends.vllm.plugin.plans import Plans

SHOWN = {"plan_sha256": "ab12", "languages": ["swh_Latn"], "phases": []}
STATUS = SHOWN | {"kinds": ["ban"], "plans": {"a": SHOWN | {"changed": {}}, "b": SHOWN}}


class Engine:
    """Of one worker."""

    def __init__(self):
        self.told = []
        self.counted = [{"layers": [layer], "counts": []} for layer in (2, 1)]

    async def collective_rpc(self, method, args=()):
        if method == "isogloss_load_plan":
            self.told.append(args)
            if args == ("", "busy"):
                return [{"error": "3 requests still run", "n_running": 3}]
            return [{"error": "for another model"} if "foreign" in args[0] else STATUS]
        if method == "isogloss_usage":
            self.told += args
            return self.counted
        assert method == "isogloss_status"
        return [STATUS]


async def passed_on(_scope, _receive, send):
    """VLLM's own application."""
    await send({"type": "http.response.start", "status": 418, "headers": []})
    await send({"type": "http.response.body", "body": b"null"})


@pytest.fixture
def engine():
    """A new one."""
    return Engine()


@pytest.fixture
def ask(engine, monkeypatch):
    """Send a request, in parts, to a server with a key."""
    monkeypatch.setenv("ISOGLOSS_ADMIN_KEY", "sesame")

    def asked(method, *parts, path="/isogloss/plan", key="sesame"):
        headers = [] if key is None else [(b"authorization", b"Bearer " + key.encode())]
        app = SimpleNamespace(state=SimpleNamespace(engine_client=engine))
        scope = {"type": "http", "method": method, "path": path, "headers": headers, "app": app}
        messages = [{"body": part, "more_body": True} for part in parts] + [{"body": b""}]
        sent = []

        async def receive():
            return messages.pop(0)

        async def send(message):
            sent.append(message)

        asyncio.run(Plans(passed_on)(scope, receive, send))
        return sent[0]["status"], json.loads(sent[1]["body"])

    return asked


def test_everybody_sees_which_plan_is_served(ask):
    """Its hash and what it tells apart, without a key; nothing of the server."""
    assert ask("GET", key=None) == (200, {"plan_sha256": "ab12", "languages": ["swh_Latn"], "phases": []})
    assert ask("GET", path="/v1/models")[0] == 418
    assert ask("POST")[0] == 405


def test_who_has_the_key_replaces_the_plan(ask, engine):
    """By its content, or by none; a plan that is refused is answered with the reason."""
    assert ask("PUT", b' {"a', b'":1}') == (200, STATUS)
    assert ask("DELETE") == (200, STATUS)
    assert ask("PUT", b'{"foreign": 1}') == (400, {"error": "for another model"})
    assert engine.told == [(' {"a":1}', ""), ("", ""), ('{"foreign": 1}', "")]


def test_named_plans_have_paths_of_their_own(ask, engine, monkeypatch, tmp_path):
    """All are listed; one that takes no requests any more, since it is about to be removed, is marked."""
    (tmp_path / "names").write_text('["a", "unsteered"]')
    monkeypatch.setenv("ISOGLOSS_NAMES", str(tmp_path / "names"))
    plans = {"a": SHOWN | {"closed": False}, "b": SHOWN | {"closed": True}}
    assert ask("GET", path="/isogloss/plans", key=None) == (200, {"plans": plans})
    assert ask("GET", path="/isogloss/plans/b", key=None) == (200, plans["b"])
    assert ask("GET", path="/isogloss/plans/c", key=None) == (404, {"error": "there is no plan named c"})
    assert ask("PUT", b"{}", path="/isogloss/plans/c") == (200, STATUS)
    assert ask("DELETE", path="/isogloss/plans/a") == (200, STATUS)
    assert ask("DELETE", path="/isogloss/plans/busy")[0] == 409
    assert engine.told == [("{}", "c"), ("", "a"), ("", "busy")]
    (tmp_path / "names").unlink()
    assert ask("GET", path="/isogloss/plans/b", key=None)[1] == plans["a"]


@pytest.mark.parametrize("name", ["", "a/b", "unsteered", "..", "x" * 65, "ä", "a\n"])
def test_what_can_be_no_name_reaches_no_engine(ask, engine, name):
    """Least of all the plan without a name."""
    for method in ("GET", "PUT", "DELETE"):
        assert ask(method, b"{}", path=f"/isogloss/plans/{name}")[0] == 400
    assert ask("DELETE", path="/isogloss/plans")[0] == 405
    assert engine.told == []


@pytest.mark.parametrize("key", [None, "", "Sesame", "sesame ", "sésame"])
def test_nobody_else_does(ask, engine, key):
    """Nor anybody, where the server has no key."""
    for method, path in itertools.product(("PUT", "DELETE"), ("/isogloss/plan", "/isogloss/plans/a")):
        status, answer = ask(method, b"{}", path=path, key=key)
        assert (status, "ISOGLOSS_ADMIN_KEY" in answer["error"]) == (401, True)
    assert engine.told == []


def test_a_server_without_a_key_takes_no_plan(ask, engine, monkeypatch):
    """An empty one is none."""
    for change in (lambda: monkeypatch.setenv("ISOGLOSS_ADMIN_KEY", ""), monkeypatch.undo):
        change()
        assert ask("DELETE", key="")[0] == 401
    assert engine.told == []


def test_who_has_the_key_reads_what_was_counted(ask, engine):
    """Of all stages of a pipeline; DELETE begins anew. Nobody else does: the counts say what traffic there is."""
    usage = "/isogloss/usage"
    assert ask("GET", path=usage) == ask("DELETE", path=usage) == (200, {"layers": [1, 2], "counts": []})
    assert engine.told == [False, True]
    for method in ("GET", "DELETE"):
        for key in (None, "", "Sesame"):
            assert ask(method, path=usage, key=key)[0] == 401
    assert ask("PUT", b"{}", path=usage)[0] == 405
    assert engine.told == [False, True]
    engine.counted = [{"error": "start it with ISOGLOSS_USAGE"}]
    assert ask("GET", path=usage) == (400, {"error": "start it with ISOGLOSS_USAGE"})


@pytest.mark.parametrize("content", [b"", b"/etc/passwd", b"\xff{", b"{" + b" " * 2**24])
def test_what_is_no_plan_is_not_handed_on(ask, engine, content):
    """The engine would take a path for one, and nothing for the wish to serve without."""
    assert ask("PUT", content)[0] == 400
    assert engine.told == []


def test_an_engine_that_cannot_answer_fails_that_request(ask, engine, monkeypatch):
    """As where it was started without isogloss's variables."""

    async def fail(*_args, **_kwargs):
        raise RuntimeError("no such method")

    monkeypatch.setattr(engine, "collective_rpc", fail)
    assert ask("GET") == (500, {"error": "the engine did not answer: no such method"})
