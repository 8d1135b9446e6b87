"""Checks every request where it enters vLLM, and hands what it asks of the plugin to the engine, whatever its endpoint.

Beam search and several endpoints of vLLM's server leave extra arguments out. What a request asks for is noted where its
body is read, or, in a batch of a file, where its endpoint begins, and given to each request to the engine that is made
for it.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import AsyncIterator, Callable, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

from isogloss.backends.vllm.plugin.choices import CHOICES
from isogloss.backends.vllm.plugin.requests import (
    LANGUAGE,
    PLACE,
    PLAN,
    START,
    RequestError,
    admit,
    asked_by,
    separate_salt,
)
from isogloss.errors import PlanError

__all__ = ["adding", "admitting", "opening", "salted"]

_asked: ContextVar[Mapping[str, Any]] = ContextVar("isogloss_asked", default=MappingProxyType({}))
"""What the request over HTTP asks for that this task answers."""


def opening(init: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``AsyncLLM.__init__``: only the process of a server has the classes that answer requests over HTTP."""

    @functools.wraps(init)
    def opened(engine: Any, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - vLLM's own
        _watch_endpoints()
        init(engine, *args, **kwargs)

    return opened


def _watch_endpoints() -> None:
    from vllm.entrypoints.openai.completion.serving import OpenAIServingCompletion  # noqa: PLC0415 - see above

    endpoints: list[type] = [OpenAIServingCompletion]
    try:
        from vllm.entrypoints.pooling.base.serving import PoolingBaseServing  # noqa: PLC0415 - as above

        endpoints.append(PoolingBaseServing)
    except ImportError:  # other versions have one base for all endpoints
        pass
    from starlette.requests import Request  # noqa: PLC0415 - as above

    _wrap_once(Request, "json", _reading)
    for endpoint in endpoints:
        _wrap_once(endpoint, "_check_model", _noting)
    _wrap_once(OpenAIServingCompletion, "beam_search", _continuing)


def _wrap_once(endpoint: type, name: str, wrapper: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    owner = next((cls for cls in endpoint.__mro__ if name in vars(cls)), None)
    if owner is None:
        raise PlanError(
            f"{endpoint.__name__} of this vLLM has no {name}, where isogloss checks requests; expected vLLM 0.24 or a "
            "later one that isogloss knows: see docs/serving.md"
        )
    if not hasattr(vars(owner)[name], "isogloss"):
        wrapped = wrapper(vars(owner)[name])
        wrapped.isogloss = True  # type: ignore[attr-defined]
        setattr(owner, name, wrapped)


def _reading(json: Callable[..., Any]) -> Callable[..., Any]:
    """Note what a request asks for as its body is read; a bad value ends it there, by 400."""

    @functools.wraps(json)
    async def read(request: Any) -> Any:  # noqa: ANN401 - Starlette's own
        from fastapi import HTTPException  # noqa: PLC0415 - a server has it

        body = await json(request)
        try:
            _asked.set(asked_by(body) if isinstance(body, Mapping) else {})
        except RequestError as error:
            raise HTTPException(400, f"isogloss: {error}") from None  # any other loses its message on the way
        return body

    return read


def _noting(check_model: Callable[..., Any]) -> Callable[..., Any]:
    """Note what a request asks for in the first check that every endpoint makes, also for one that was read otherwise.

    Its class may have the extra arguments as a field, or keep them among the fields that it does not have, or not.
    """

    @functools.wraps(check_model)
    async def noted(serving: Any, request: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - vLLM's own
        fields = getattr(request, "model_extra", None) or {}
        if extra := getattr(request, PLACE, None):
            fields = {**fields, PLACE: extra}
        _asked.set({**_asked.get(), **_refusing(asked_by, fields)})
        return await check_model(serving, request, *args, **kwargs)

    return noted


def _continuing(beam_search: Callable[..., Any]) -> Callable[..., Any]:
    """Let beams, which are sent as prompts, count as generated from where their prompt ends."""

    @functools.wraps(beam_search)
    def continued(serving: Any, prompt: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:  # noqa: ANN401 - vLLM's own
        asked = {START: len(prompt.get("decoder_prompt", prompt).get("prompt_token_ids") or ()), **_asked.get()}

        async def search() -> AsyncIterator[Any]:
            _asked.set(asked)
            async for output in beam_search(serving, prompt, *args, **kwargs):
                yield output

        return search()

    return continued


def adding(add_request: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``AsyncLLM.add_request``: give the engine what the request over HTTP asked for and its endpoint left out."""

    @functools.wraps(add_request)
    async def added(engine: Any, request_id: Any, prompt: Any, params: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - vLLM's own
        return await add_request(engine, request_id, prompt, _with_asked(params), *args, **kwargs)

    return added


def _with_asked(params: Any) -> Any:  # noqa: ANN401 - vLLM's own
    asked = _asked.get()
    given = getattr(params, "extra_args", None) or {}
    if not asked or asked.keys() <= given.keys():
        return params
    if not hasattr(params, "extra_args"):
        _refusing(_refuse_pooling, asked)
    params = copy.copy(params)
    params.extra_args = {**asked, **given}
    return params


def _refuse_pooling(asked: Mapping[str, Any]) -> None:
    raise RequestError(f"{', '.join(asked)}: no plan acts on this kind of request; leave it out")


def admitting(process_inputs: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``InputProcessor.process_inputs``, which every request to an engine of this process passes."""

    @functools.wraps(process_inputs)
    def admitted(processor: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - vLLM's own
        request = process_inputs(processor, *args, **kwargs)
        _refusing(_settle, request)
        return request

    return admitted


def salted(from_engine_core_request: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``Request.from_engine_core_request``, in the engine: plans and languages share no cache."""

    @functools.wraps(from_engine_core_request)
    def apart(cls: type, request: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - vLLM's own
        request = copy.copy(request)
        own = _settle(request)  # again: a program may reach the engine by another way
        request.cache_salt = separate_salt(own.get(PLAN), own.get(LANGUAGE), request.cache_salt)
        return CHOICES.enter(own.get(PLAN), lambda: from_engine_core_request(cls, request, *args, **kwargs))

    return apart


def _settle(request: Any) -> dict[str, Any]:  # noqa: ANN401 - vLLM's own
    """Replace the plugin's arguments of a request by what steps read."""
    params = request.sampling_params
    if params is None or not params.extra_args:
        return {}
    embeds = getattr(request, "prompt_embeds", None)
    prompt = request.prompt_token_ids if request.prompt_token_ids is not None else embeds
    own = admit(params.extra_args, n_prompt=None if prompt is None else len(prompt))
    if PLAN in own and getattr(request, "resumable", False):  # its next piece could name another one
        raise RequestError(f"{PLAN}: a prompt that is sent in pieces cannot choose a plan; leave it out")
    params.extra_args = {**params.extra_args, **own}
    return own


def _refusing(check: Callable[[Any], Any], argument: Any) -> Any:  # noqa: ANN401 - what the check takes and returns
    """Call a check; what it refuses is answered to the client, by 400."""
    from vllm.exceptions import VLLMValidationError  # noqa: PLC0415 - there is a vLLM only where a model is served

    try:
        return check(argument)
    except RequestError as error:
        raise VLLMValidationError(f"isogloss: {error}", parameter=PLACE) from None
