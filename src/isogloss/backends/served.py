"""Asks a running server, of vLLM or llama.cpp, for the next token after a prompt, with an adapter and without.

Only what both answer is used: the likeliest next tokens after a text, greedily, with their log-probabilities. Requests
go to the address that the user gives and nowhere else; the key that a server may ask for is read from the variable
``ISOGLOSS_SERVER_KEY``.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import PurePath
from types import MappingProxyType
from typing import Any, Protocol

from isogloss.errors import ModelError

__all__ = ["NextTokens", "Server", "apart", "open_server"]

NextTokens = Mapping[str, float]
"""Token -> log-probability, of the likeliest next tokens; empty where the engine does not tell them."""

_KEY = "ISOGLOSS_SERVER_KEY"
_N_TOKENS = 10
_SECONDS = 120


class Server(Protocol):
    """A running server and one adapter that it has loaded."""

    summary: str
    """What was found, in a line."""

    remedies: Mapping[str, str]
    """Check -> what makes it hold, for the message where it does not."""

    def ask(self, text: str, *, adapter: bool | None, cached: bool) -> NextTokens:
        """Return the likeliest next tokens.

        Args:
            text: the prompt.
            adapter: with or without; None as a request that names no adapter gets it.
            cached: whether what was computed for earlier requests may be used.

        Raises:
            ModelError: the server refuses, cannot be reached, or answers in another form.
        """


def open_server(address: str, adapter: str | None = None) -> Server:
    """Find out which engine answers at an address, and which adapters it has.

    Args:
        address: such as ``http://localhost:8000``.
        adapter: as the server names it, a file's name or an id; None for the only one.

    Raises:
        ModelError: nothing answers there, or in another form than expected, or no such adapter is loaded.
    """
    address = address.rstrip("/").removesuffix("/v1")
    if not address.startswith(("http://", "https://")):
        raise ModelError(f"{address!r} is no address of a server; expected one such as http://localhost:8000")
    properties = _get(address, "/props", missing=None)
    with _understood(address):
        if isinstance(properties, dict) and "default_generation_settings" in properties:
            return LlamaServer(address, adapter)
        if isinstance(_get(address, "/version", missing=None), dict):
            return VllmServer(address, adapter)
    raise ModelError(f"{address} answers neither as vLLM (/version) nor as llama-server (/props); expected one of them")


def apart(one: NextTokens, other: NextTokens) -> float:
    """Return how far two answers are apart: the largest difference of a log-probability that both tell.

    Infinite where the likeliest token of either is not among those of the other.
    """
    if not one or not other:
        return 0.0 if one == other else math.inf
    shared = set(one) & set(other)
    if not {max(each, key=each.__getitem__) for each in (one, other)} <= shared:
        return math.inf
    return max(abs(one[token] - other[token]) for token in shared)


class LlamaServer:
    """llama-server, of llama.cpp; a request names adapters and their scales in its field ``lora``."""

    remedies: Mapping[str, str] = MappingProxyType(
        {
            "acts": "look whether the file is the one meant, and for a warning in the server's log",
            "default": "start llama-server with --lora-scaled FILE:0: only requests that name the adapter then get it",
            "cache": "its prompt cache does not know of adapters: start llama-server with --cache-ram 0",
            "mixed": "ask with one adapter at a time, or start a server for each",
        }
    )

    def __init__(self, address: str, adapter: str | None) -> None:
        self._address = address
        paths = {str(each["id"]): PurePath(each["path"]) for each in _get(address, "/lora-adapters")}
        names = {key: (str(path), path.name, path.stem, key) for key, path in paths.items()}
        chosen = _choose(names, adapter)
        self._others = [int(key) for key in names if key != chosen]
        self._id = int(chosen)
        self.summary = f"llama-server with {len(names)} adapters; asked about {paths[chosen].name} (id {chosen})"

    def ask(self, text: str, *, adapter: bool | None, cached: bool) -> NextTokens:
        """As of `Server`."""
        body = {"prompt": text, "n_predict": 1, "temperature": 0, "n_probs": _N_TOKENS, "cache_prompt": cached}
        if adapter is not None:
            scales = [(self._id, 1.0 if adapter else 0.0), *((other, 0.0) for other in self._others)]
            body["lora"] = [{"id": number, "scale": scale} for number, scale in scales]
        with _understood(self._address):
            # Nothing is told of a token that is only a part of a character.
            told = _post(self._address, "/completion", body).get("completion_probabilities")
            return {str(each["id"]): float(each["logprob"]) for each in told[0]["top_logprobs"]} if told else {}


class VllmServer:
    """vLLM; a request names an adapter in place of the model, and the cache keeps adapters apart."""

    remedies: Mapping[str, str] = MappingProxyType(
        {
            "acts": "write the adapter by `isogloss bake --as vllm`, under vLLM's own names, and start the server with "
            "--lora-target-modules gate (router for gpt_oss); on a processor, with --max-loras one above the "
            "number of adapters, since rows without one else get that of the last slot",
            "default": "name the base model in requests without an adapter",
            "cache": "start vLLM with --no-enable-prefix-caching",
            "mixed": "start vLLM with --max-loras one above the number of adapters: on a processor, rows without one "
            "else get that of the last slot",
        }
    )

    def __init__(self, address: str, adapter: str | None) -> None:
        self._address = address
        models = _get(address, "/v1/models")["data"]
        self._base = next((each["id"] for each in models if not each.get("parent")), None)
        names = {str(each["id"]): (str(each["id"]),) for each in models if each.get("parent")}
        self._adapter = _choose(names, adapter)
        self.summary = f"vLLM with {len(names)} adapters; asked about {self._adapter}"

    def ask(self, text: str, *, adapter: bool | None, cached: bool) -> NextTokens:
        """As of `Server`."""
        body = {"model": self._adapter if adapter else self._base, "prompt": text, "max_tokens": 1, "temperature": 0}
        salt = {} if cached else {"cache_salt": secrets.token_hex(8)}
        with _understood(self._address):
            (choice,) = _post(self._address, "/v1/completions", body | {"logprobs": _N_TOKENS} | salt)["choices"]
            (first,) = choice["logprobs"]["top_logprobs"]
            return {str(token): float(value) for token, value in first.items()}


def _choose(names: Mapping[str, Sequence[str]], asked: str | None) -> str:
    """Find the adapter that is asked for among what the server lists, each by all its names, the whole one first."""
    if asked is None and len(names) == 1:
        return next(iter(names))
    matching = [key for key, each in names.items() if asked in each]
    if len(matching) != 1:
        known = ", ".join(each[0] for each in names.values()) or "none"
        what = "none of its adapters was named" if asked is None and names else f"it has no {asked}"
        what = what if asked or names else "it has no adapter loaded"
        raise ModelError(f"{what}; the server has {known}: name one by --adapter, or start it with the adapter")
    return matching[0]


@contextmanager
def _understood(address: str) -> Iterator[None]:
    """Turn what is raised where JSON is of another form into a ModelError."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(
            f"{address} answers in another form than vLLM and llama-server do ({type(error).__name__}: {error}); "
            "check that it is one of them, and not too old"
        ) from error


_REQUIRED: Any = object()


def _get(address: str, path: str, *, missing: Any = _REQUIRED) -> Any:  # noqa: ANN401 - JSON
    return _send(address, path, None, missing)


def _post(address: str, path: str, body: Mapping[str, Any]) -> Any:  # noqa: ANN401 - JSON
    return _send(address, path, json.dumps(body).encode(), _REQUIRED)


def _send(address: str, path: str, content: bytes | None, missing: Any) -> Any:  # noqa: ANN401 - JSON
    """Return the JSON that comes back; ``missing``, where it is given, for a path that the server does not know."""
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get(_KEY):
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(address + path, content, headers)  # noqa: S310 - http or https: `open_server`
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310 - as above
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        if missing is not _REQUIRED and error.code in (404, 405, 501):
            return missing
        message = " ".join(error.read(500).decode(errors="replace").split())
        raise ModelError(
            f"{address}{path} answers {error.code}: {message}; where it asks for a key, set {_KEY}"
        ) from error
    except (OSError, ValueError, HTTPException) as error:
        why = " ".join(str(error).split())
        raise ModelError(f"{address}{path} cannot be asked ({why}); check that the server runs there") from error
