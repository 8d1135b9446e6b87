"""How requests pass the plugin on their way to the engine, with vLLM's classes stood in for."""

from __future__ import annotations

import asyncio
import sys
from types import ModuleType, SimpleNamespace

import pytest

from isogloss.backends.vllm.plugin import admission
from isogloss.backends.vllm.plugin.choices import Choices
from isogloss.backends.vllm.plugin.requests import LANGUAGE, PLAN, START, RequestError


class Refused(Exception):  # noqa: N818 - stands for vLLM's class
    """VLLMValidationError, which vLLM answers by 400."""

    def __init__(self, message, parameter):
        super().__init__(message)
        self.parameter = parameter


class StatusError(Exception):
    """FastAPI's HTTPException."""


@pytest.fixture(autouse=True)
def _vllm(monkeypatch):
    """The modules that are imported when a request is refused."""
    for name, class_, error in (
        ("vllm.exceptions", "VLLMValidationError", Refused),
        ("fastapi", "HTTPException", StatusError),
    ):
        module = ModuleType(name)
        setattr(module, class_, error)
        monkeypatch.setitem(sys.modules, name, module)


class Params:
    """Sampling parameters."""

    def __init__(self, extra_args=None):
        self.extra_args = extra_args


class Server:
    """Endpoints that drop extra arguments, as some of vLLM's do, in front of an engine that notes what it gets."""

    def __init__(self):
        self.got = []

    async def _check_model(self, _request):
        return None

    async def beam_search(self, prompt, n_steps):
        for step in range(n_steps):
            await asyncio.create_task(self.add_request(f"beam-{step}", prompt, Params()))
        yield n_steps

    async def add_request(self, _request_id, _prompt, params):
        self.got.append(params)

    async def read(self):
        return self.body

    async def answer_body(self, params, body):
        self.body = body
        await self.read()
        await self.answer(params)

    async def answer(self, params, **fields):
        await self._check_model(SimpleNamespace(**fields))
        await self.add_request("1", {}, params)

    async def search(self, lengths, **fields):
        await self._check_model(SimpleNamespace(**fields))
        searches = [self.beam_search({"prompt_token_ids": [1] * length}, 2) for length in lengths]
        for search in searches:
            async for _ in search:
                pass


class Watched(Server):
    """The same behind the plugin."""

    read = admission._reading(Server.read)
    _check_model = admission._noting(Server._check_model)
    beam_search = admission._continuing(Server.beam_search)
    add_request = admission.adding(Server.add_request)


@pytest.fixture
def server():
    """A new one."""
    return Watched()


HINDI = {"vllm_xargs": {LANGUAGE: "hi-IN"}}


def test_an_endpoint_that_drops_the_language_is_given_it(server):
    """And the next request of another client is not."""
    shared = Params()
    asyncio.run(server.answer(shared, **HINDI))
    asyncio.run(server.answer(shared))
    assert [params.extra_args for params in server.got] == [{LANGUAGE: "hin_Deva"}, None]
    assert shared.extra_args is None


def test_an_endpoint_whose_class_forgets_the_arguments_is_given_them(server):
    """What was in the body counts, and where it stands in another field, nothing is answered."""
    asyncio.run(server.answer_body(Params(), HINDI))
    asyncio.run(server.answer_body(Params(), ["no object"]))
    assert [params.extra_args for params in server.got] == [{LANGUAGE: "hin_Deva"}, None]
    with pytest.raises(StatusError, match="expected it in vllm_xargs"):
        asyncio.run(server.answer_body(Params(), HINDI["vllm_xargs"]))
    assert len(server.got) == 2


def test_an_endpoint_that_keeps_unknown_fields_is_read_too(server):
    """In a batch of a file, there is no body of its own."""
    asyncio.run(server.answer(Params(), model_extra=HINDI))
    with pytest.raises(Refused, match="expected it in vllm_xargs"):
        asyncio.run(server.answer(Params(), model_extra={LANGUAGE: "hi"}))
    assert [params.extra_args for params in server.got] == [{LANGUAGE: "hin_Deva"}]


def test_arguments_that_were_passed_on_stay(server):
    """Those of others, too."""
    asyncio.run(server.answer(Params({LANGUAGE: "hi-IN", "other": 1}), **HINDI))
    assert server.got[0].extra_args == {LANGUAGE: "hi-IN", "other": 1}


def test_beams_count_as_generated_from_the_end_of_their_own_prompt(server):
    """They reach the engine as prompts: rules for generation would never act on them."""
    asyncio.run(server.search([3, 7], **HINDI))
    asyncio.run(server.search([4]))
    hindi = [{LANGUAGE: "hin_Deva", START: length} for length in (3, 3, 7, 7)]
    assert [params.extra_args for params in server.got] == [*hindi, {START: 4}, {START: 4}]


def test_a_request_that_no_plan_acts_on_is_refused(server):
    """Embeddings and scores of pooling models have no extra arguments."""
    with pytest.raises(Refused, match="isogloss_language: no plan acts") as refusal:
        asyncio.run(server.answer(SimpleNamespace(), **HINDI))
    assert refusal.value.parameter == "vllm_xargs"
    assert server.got == []


def test_a_bad_value_ends_the_request_before_the_engine(server):
    """At the first check of every endpoint, so that a streamed answer has not begun."""
    with pytest.raises(Refused, match="'Hindi' is unknown"):
        asyncio.run(server.answer(Params(), vllm_xargs={LANGUAGE: "Hindi"}))
    assert server.got == []


class Sent(SimpleNamespace):
    """A request on its way to the engine, and in it."""

    def is_finished(self):
        return False


def engine_request(extra, salt=None, **fields):
    """As vLLM sends it from the server to the engine."""
    prompt = {"prompt_token_ids": [1, 2, 3], "prompt_embeds": None} | fields
    return Sent(sampling_params=Params(extra), cache_salt=salt, **prompt)


def test_the_engine_gets_full_codes():
    """Resolved once, not in every step; arguments of others pass."""
    process = admission.admitting(lambda _processor, extra: engine_request(extra))
    assert process(None, {LANGUAGE: "hi", "other": [1]}).sampling_params.extra_args == {
        LANGUAGE: "hin_Deva",
        "other": [1],
    }
    assert process(None, None).sampling_params.extra_args is None
    for wrong in ({START: 4}, {START: "abc"}, {LANGUAGE: ["hi"]}):
        with pytest.raises(Refused):
            process(None, wrong)


def test_requests_that_reach_the_engine_another_way_are_checked_and_kept_apart():
    """A step converts nothing, so nothing unchecked may get there; what was sent stays as it was."""
    admit = admission.salted(lambda _cls, request: request)
    sent = engine_request({LANGUAGE: "hi"}, salt="a")
    got = admit(object, sent)
    assert (got.sampling_params.extra_args, got.cache_salt) == ({LANGUAGE: "hin_Deva"}, ":hin_Deva|a")
    assert sent.cache_salt == "a"
    forged = admit(object, engine_request(None, salt=":hin_Deva|a"))
    assert forged.cache_salt != got.cache_salt
    with pytest.raises(RequestError):
        admit(object, engine_request({START: 9223372036854775808}))
    pooling = SimpleNamespace(sampling_params=None, cache_salt=None)
    assert admit(object, pooling).cache_salt is None


def test_a_plan_that_is_not_served_is_refused_at_every_door(server, monkeypatch, tmp_path):
    """By name; where the first door cannot know, the engine does."""
    monkeypatch.setattr(admission, "CHOICES", Choices())
    monkeypatch.setenv("ISOGLOSS_NAMES", str(tmp_path / "names"))
    enter = admission.salted(lambda _cls, request: request)
    process = admission.admitting(lambda _processor, extra: engine_request(extra))
    admission.CHOICES.offer(["a", "b", "unsteered"])
    for doors in (1, 2):
        got = enter(object, engine_request({PLAN: "a", LANGUAGE: "hi"}, salt="s"))
        assert (got.sampling_params.extra_args[PLAN], got.cache_salt) == ("a", "a:hin_Deva|s")
        asyncio.run(server.answer_body(Params(), {"vllm_xargs": {PLAN: "a"}}))
        assert server.got.pop().extra_args == {PLAN: "a"}
        with pytest.raises(RequestError, match="isogloss_plan is 'c'; expected a, b, unsteered"):
            enter(object, engine_request({PLAN: "c"}))
        if doors == 1:
            with pytest.raises(StatusError, match="expected a, b, unsteered"):
                asyncio.run(server.answer_body(Params(), {"vllm_xargs": {PLAN: "c"}}))
            with pytest.raises(Refused, match="expected a, b, unsteered"):
                asyncio.run(server.answer(Params(), vllm_xargs={PLAN: "c"}))
            with pytest.raises(Refused, match="expected a, b, unsteered"):
                process(None, {PLAN: "c"})
        (tmp_path / "names").unlink(missing_ok=True)


def test_a_prompt_in_pieces_chooses_no_plan():
    """The engine replaces the arguments of a running request by those of each piece, past every check."""
    process = admission.admitting(lambda _processor, extra, **more: engine_request(extra, **more))
    assert process(None, {PLAN: "a"}, resumable=False)
    assert process(None, {LANGUAGE: "hi"}, resumable=True)
    with pytest.raises(Refused, match="sent in pieces"):
        process(None, {PLAN: "a"}, resumable=True)


def test_a_vllm_without_the_places_is_refused():
    """A server that cannot check what it is sent does not start."""
    with pytest.raises(admission.PlanError, match="Server of this vLLM has no create"):
        admission._wrap_once(Server, "create", admission._noting)


def test_a_place_is_wrapped_once():
    """Several engines in one process, several classes with one base."""
    owner = type("Base", (), {"_check_model": Server._check_model})
    for endpoint in (owner, type("Endpoint", (owner,), {})):
        admission._wrap_once(endpoint, "_check_model", admission._noting)
    assert owner._check_model.__wrapped__ is Server._check_model
