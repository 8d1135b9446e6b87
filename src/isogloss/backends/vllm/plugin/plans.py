"""Shows over HTTP which plans are served, and replaces them for who has the key: a ``--middleware`` of vLLM's server.

``GET`` answers everybody: ``/isogloss/plan`` with hash, languages and phases of the plan without a name,
``/isogloss/plans`` with those of the named ones, ``/isogloss/plans/NAME`` with those of one. At its path, ``PUT`` of
a plan's JSON replaces or adds it, and ``DELETE`` removes it. Both need ``Authorization: Bearer`` and the value of
``ISOGLOSS_ADMIN_KEY``. vLLM's development mode, which answers whoever reaches the port, is not needed for it.

``GET /isogloss/usage`` answers who has the key with the counts of chosen experts, which say what traffic there is;
``DELETE`` answers the same and begins anew.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from isogloss.backends.vllm.plugin.names import offered, require_name
from isogloss.backends.vllm.plugin.usage import of_all_stages
from isogloss.errors import PlanError

__all__ = ["Plans"]

PATH, PATHS, USAGE = "/isogloss/plan", "/isogloss/plans", "/isogloss/usage"
KEY = "ISOGLOSS_ADMIN_KEY"
_LARGEST = 2**24
_SHOWN = ("plan_sha256", "languages", "phases")

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_App = Callable[[_Message, _Receive, _Send], Awaitable[None]]


class Plans:
    """An ASGI application around vLLM's own, which answers paths of its own and passes all others on."""

    def __init__(self, app: _App) -> None:
        self.app = app
        self._asking = asyncio.Lock()  # however many ask for the plans, the engine is asked once at a time

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        """Answer a request, see the module."""
        path = scope["path"].removeprefix(scope.get("root_path", "")) if scope["type"] == "http" else ""
        if path not in (PATH, PATHS, USAGE) and not path.startswith(f"{PATHS}/"):
            await self.app(scope, receive, send)
            return
        try:
            status, answer = await (self._usage(scope) if path == USAGE else self._plan(path, scope, receive))
        except Exception as error:  # noqa: BLE001 - whatever the engine reports: this one request has failed
            status, answer = 500, {"error": f"the engine did not answer: {error}"}
        content = json.dumps(answer).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    async def _usage(self, scope: _Message) -> tuple[int, dict[str, Any]]:
        if scope["method"] not in ("GET", "DELETE"):
            return 405, {"error": "expected GET or DELETE"}
        if refusal := _refusal(scope):
            return 401, {"error": refusal}
        reset = scope["method"] == "DELETE"
        results = await scope["app"].state.engine_client.collective_rpc("isogloss_usage", args=(reset,))
        return (400, results[0]) if "error" in results[0] else (200, of_all_stages(results))

    async def _plan(self, path: str, scope: _Message, receive: _Receive) -> tuple[int, dict[str, Any]]:
        engine = scope["app"].state.engine_client
        name = path.removeprefix(PATHS).removeprefix("/") if path != PATH else ""
        if path.startswith(f"{PATHS}/"):
            try:
                require_name(name)
            except PlanError as error:
                return 400, {"error": str(error)}
        if scope["method"] == "GET":
            return await self._shown(path, name, engine)
        if scope["method"] not in ("PUT", "DELETE") or path == PATHS:
            return 405, {"error": "expected GET" if path == PATHS else "expected GET, PUT or DELETE"}
        if refusal := _refusal(scope):
            return 401, {"error": refusal}
        source = await _read(receive) if scope["method"] == "PUT" else ""
        if source is None:
            return 400, {"error": f"expected a plan as JSON, of at most {_LARGEST} bytes"}
        (result, *_) = await engine.collective_rpc("isogloss_load_plan", args=(source, name))
        return (409 if "n_running" in result else 400 if "error" in result else 200), result

    async def _shown(self, path: str, name: str, engine: Any) -> tuple[int, dict[str, Any]]:  # noqa: ANN401 - vLLM's own
        async with self._asking:
            served = (await engine.collective_rpc("isogloss_status"))[0]
        if path == PATH:
            return 200, {field: served[field] for field in _SHOWN}
        names = offered()
        plans = {
            each: {field: plan[field] for field in _SHOWN} | {"closed": names is not None and each not in names}
            for each, plan in served["plans"].items()
        }
        if path == PATHS:
            return 200, {"plans": plans}
        return (200, plans[name]) if name in plans else (404, {"error": f"there is no plan named {name}"})


def _refusal(scope: _Message) -> str | None:
    authorization = dict(scope["headers"]).get(b"authorization", b"")
    key = os.environ.get(KEY)
    if not key:
        return f"the server was started without {KEY}; expected one for this"
    given = authorization.removeprefix(b"Bearer ")
    matches = given != authorization and hmac.compare_digest(given, key.encode())
    return None if matches else f"expected Authorization: Bearer and the value of {KEY}"


async def _read(receive: _Receive) -> str | None:
    """Return the body where it can be a plan; a path on the server's disk is none."""
    content, more = b"", True
    while more and len(content) <= _LARGEST:
        message = await receive()
        content += message.get("body", b"")
        more = message.get("more_body", False)
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return None
    return text if text.lstrip().startswith("{") and len(content) <= _LARGEST else None
