"""Plans come and go while requests that name them wait and run: none is answered without the plan that it named."""

from __future__ import annotations

import json
import os
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from isogloss.backends.vllm.plugin import install
from isogloss.backends.vllm.plugin.choices import Choices
from isogloss.backends.vllm.plugin.names import UNSTEERED, expect_names, offered
from isogloss.backends.vllm.plugin.requests import PLAN, RequestError, admit
from isogloss.errors import FileError, PlanError


@pytest.fixture(autouse=True)
def choices(monkeypatch, tmp_path):
    """Those of a new engine, and the file in which it writes them."""
    monkeypatch.setattr(install, "CHOICES", Choices())
    monkeypatch.setenv("ISOGLOSS_NAMES", str(tmp_path / "names"))
    return install.CHOICES


class Request:
    """One of vLLM's, which the engine holds as long as it runs."""

    finished = False

    def is_finished(self):
        return self.finished


class Workers:
    """Of an engine, in which plans are loaded by name."""

    def __init__(self, **plans):
        self.plans, self.resets = plans, 0
        self.vllm_config = SimpleNamespace(kv_transfer_config=None)
        self.call = install._cache_reset(self._call)

    def reset_prefix_cache(self, **_):
        self.resets += 1

    def _call(self, _engine, method, _timeout=None, args=(), _kwargs=None):
        if method == "isogloss_load_plan":
            source, name = [*args, ""][0].strip(), [*args, ""][1]
            if source == "bad":
                return [{"error": "for another model"}]
            if not source and name not in self.plans:
                return [{"error": "there is none"}]
            self.plans = {each: text for each, text in self.plans.items() if each != name} | (
                {name: source} if source else {}
            )
        named = {name: {"plan_sha256": text} for name, text in self.plans.items() if name}
        return [{"plan_sha256": self.plans.get(""), "plans": named, "apart": True}]

    def load(self, source, *name):
        (result,) = self.call(self, "isogloss_load_plan", None, (source, *name))
        return result


def test_names_are_offered_as_plans_are_loaded_and_removed():
    """To every process that takes requests; what is not offered is refused with what is."""
    workers = Workers()
    workers.load("A", "a")
    assert offered() == {"a", UNSTEERED}
    assert admit({PLAN: "a"}) == {PLAN: "a"}
    workers.load("B", "b")
    assert "error" in workers.load("bad", "c")
    assert offered() == {"a", "b", UNSTEERED}
    with pytest.raises(RequestError, match="isogloss_plan is 'c'; expected a, b, unsteered"):
        admit({PLAN: "c"})
    workers.load("", "a")
    workers.load("N")  # without a name
    assert offered() == {"b", UNSTEERED}
    with pytest.raises(RequestError, match="isogloss_plan is 'a'; expected b, unsteered"):
        admit({PLAN: "a"})
    assert workers.resets == 5


@pytest.mark.parametrize("source", ["", "  "])
def test_a_plan_that_a_request_has_chosen_is_not_taken_away(choices, source):
    """It ends under it, while no other can choose the name; not even after another plan was loaded."""
    workers = Workers(a="A")
    workers.load("B", "b")
    running, waiting = (choices.enter("a", Request) for _ in range(2))
    choices.enter("b", Request)  # and has ended
    assert workers.load(source, "a")["n_running"] == 2
    assert offered() == {"b", UNSTEERED}
    assert workers.plans == {"a": "A", "b": "B"}
    workers.load("C", "b")
    assert offered() == {"b", UNSTEERED}
    for name in ("a", "c"):
        with pytest.raises(RequestError, match="expected b, unsteered"):
            choices.enter(name, Request)
    running.finished = True
    assert workers.load(source, "a")["n_running"] == 1
    del waiting
    assert "n_running" not in workers.load(source, "a")
    assert workers.plans == {"b": "C"}
    workers.load("A", "a")
    assert choices.enter("a", Request)


def test_a_name_that_was_closed_is_open_after_a_plan_was_loaded(choices):
    """Requests that still run go on under the new plan, as where one replaces another."""
    workers = Workers(a="A")
    workers.load("A", "a")
    running = choices.enter("a", Request)
    assert "error" in workers.load("", "a")
    assert "error" in workers.load("bad", "a")
    assert offered() == {UNSTEERED}
    workers.load("B", "a")
    assert offered() == {"a", UNSTEERED}
    assert not running.finished


def test_an_engine_that_offers_nothing_lets_no_name_in(choices):
    """As before it has started."""
    with pytest.raises(RequestError, match="lets no request choose a plan"):
        choices.enter("a", Request)
    assert choices.enter(None, Request)


def test_names_are_written_only_when_they_change(monkeypatch):
    """A plan without a name, or one that replaces another, leaves the file as it is."""
    written = []
    monkeypatch.setattr("isogloss.backends.vllm.plugin.choices.offer", written.append)
    workers = Workers()
    workers.load("A", "a")
    workers.load("B", "a")
    workers.load("N")
    workers.load("")
    assert written == [{"a", UNSTEERED}]


def test_names_that_cannot_be_written_leave_the_change_whole(choices, monkeypatch):
    """As on a full disk: the plan is served, and the engine alone knows its name; old names are not left behind."""
    workers = Workers()
    workers.load("A", "a")

    def full(path, _content):
        raise FileError(f"cannot write {path}")

    monkeypatch.setattr("isogloss.backends.vllm.plugin.names.write_atomically", full)
    assert "error" not in workers.load("B", "b")
    assert offered() is None
    assert admit({PLAN: "b"}) == {PLAN: "b"}
    assert choices.enter("b", Request)


def test_a_process_that_cannot_know_leaves_it_to_the_engine(choices):
    """The file may be on another machine, or removed as old; what can be no name is refused all the same."""
    choices.offer(["a"])
    Path(os.environ["ISOGLOSS_NAMES"]).unlink()
    assert admit({PLAN: "b"}) == {PLAN: "b"}
    for value in ("x" * 65, 5, None, ["a"]):
        with pytest.raises(RequestError, match="expected the name of a plan"):
            admit({PLAN: value})


def test_processes_that_a_server_starts_share_one_file(monkeypatch):
    """Made where the first one starts; it is empty, and says nothing, until the engine has written it."""
    monkeypatch.delenv("ISOGLOSS_NAMES")
    assert offered() is None
    expect_names()
    assert offered() is None
    Path(os.environ["ISOGLOSS_NAMES"]).write_text(json.dumps(["a"]))
    expect_names()
    assert offered() == {"a"}


def status(sha, **plans):
    """What a worker serves."""
    return {"plan_sha256": sha, "plans": {name: {"plan_sha256": each} for name, each in plans.items()}, "apart": True}


@pytest.mark.parametrize(
    ("results", "agree"),
    [
        ([status("a"), status("a")], True),
        ([{"error": "no"}, {"error": "no"}], True),  # all keep the plans before
        ([status(None), status(None)], True),
        ([status("a"), status("b")], False),
        ([status(None, a="1"), status(None, a="2")], False),
        ([status(None, a="1"), status(None, b="1")], False),
        ([status("a"), {"error": "no"}], False),
    ],
)
def test_workers_serve_the_same_plans_or_it_is_an_error(results, agree):
    """Also where the path of a plan holds another file on another machine."""
    calls = []
    engine = SimpleNamespace(
        vllm_config=SimpleNamespace(kv_transfer_config=None), reset_prefix_cache=lambda **_: calls.append("reset")
    )
    rpc = install._cache_reset(lambda _, method, *__: results if method == "isogloss_load_plan" else [status(None)])
    with nullcontext() if agree else pytest.raises(PlanError, match="no longer serve the same plan"):
        assert rpc(engine, "isogloss_load_plan", None, ("plan.json",)) == results
    assert calls == ["reset"]
    assert rpc(engine, "isogloss_status") == [status(None)]
    assert calls == ["reset"]
