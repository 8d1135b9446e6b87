"""What a request can ask of the plugin, by extra arguments, checked once where it enters: no step meets a bad value."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from isogloss.backends.vllm.plugin.names import LONGEST, offered
from isogloss.errors import IsoglossError, LanguageError
from isogloss.languages import resolve

__all__ = [
    "ITEM",
    "LANGUAGE",
    "PLACE",
    "PLAN",
    "START",
    "RequestError",
    "admit",
    "asked_by",
    "require_offered",
    "separate_salt",
]

PLAN = "isogloss_plan"
"""Extra argument of a request: name of its plan, or `UNSTEERED`; without it the plan without a name applies."""

LANGUAGE = "isogloss_language"
"""Extra argument of a request: its language, any code; without it the unconditional interventions apply."""

START = "isogloss_generation_start"
"""Extra argument of a request: the position from which its tokens count as generated, though they were given."""

ITEM = "isogloss_item"
"""Extra argument of a request: number of the item that its tokens are of, where the engine keeps routing."""

PLACE = "vllm_xargs"
"""Field of a request over HTTP that holds its extra arguments."""

_PREFIX = "isogloss"
_NAMES = (PLAN, LANGUAGE, START, ITEM)
_LONGEST_CODE = 32
_MOST = 2**31  # positions and items are below
_SHOWN = 40
_LISTED = 3


class RequestError(IsoglossError):
    """A request asks for something that the plugin cannot do; it is for the client that sent it."""


def admit(extra: Mapping[str, Any] | None, *, n_prompt: int | None = None) -> dict[str, Any]:
    """Check the extra arguments of a request.

    Whether there is a plan of the name that it asks for is checked as far as this process knows; the engine knows.

    Args:
        extra: of the request, those of others among them.
        n_prompt: tokens of its prompt; None where they are not known yet.

    Returns:
        The plugin's own, the language as a full code; admitting them again returns them unchanged.

    Raises:
        RequestError: a name is unknown, a plan is not served, a language is no known code, or a number is none or out
            of range.
    """
    own = {name: value for name, value in (extra or {}).items() if _is_ours(name)}
    for name in own:
        if name not in _NAMES:
            near = difflib.get_close_matches(name[:_SHOWN], _NAMES, n=1)
            raise RequestError(f"{_shown(name)} is no argument of isogloss; expected {(near or [LANGUAGE])[0]}")
    if PLAN in own:
        require_offered(own[PLAN], offered())
    if LANGUAGE in own:
        own[LANGUAGE] = _language(own[LANGUAGE])
    last = _MOST if n_prompt is None else n_prompt
    for name, most in ((START, last), (ITEM, _MOST)):
        if name in own and not (type(own[name]) is int and 0 <= own[name] <= most):
            limit = "the number of the prompt's tokens" if name == START else most
            raise RequestError(f"{name} is {_shown(own[name])}; expected a whole number from 0 to {limit}")
    return own


def asked_by(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a request over HTTP asks of the plugin, whatever its endpoint.

    Args:
        fields: of the request, all of them or those that vLLM knows nothing of, with the extra arguments.

    Raises:
        RequestError: as `admit`; or an argument stands in another field, where nobody would read it.
    """
    for name, value in fields.items():
        inner = value if isinstance(value, Mapping) and name != PLACE else ()
        if found := next((each for each in (name, *inner) if _is_ours(each)), None):
            raise RequestError(f"{_shown(found)} stands where vLLM does not read it; expected it in {PLACE}")
    extra = fields.get(PLACE)
    if extra is not None and not isinstance(extra, Mapping):
        raise RequestError(f"{PLACE} is {_shown(extra)}; expected an object of names and values")
    return admit(extra)


def require_offered(name: object, names: frozenset[str] | None) -> None:
    """Refuse the name of a plan that no request can choose.

    Args:
        name: as it was sent.
        names: that requests can choose; None where they are not known here.

    Raises:
        RequestError: it is none of them.
    """
    if isinstance(name, str) and len(name) <= LONGEST and (names is None or name in names):
        return
    if names is None:
        expected = "expected the name of a plan"
    elif not names:
        expected = "this server lets no request choose a plan"
    else:
        near = difflib.get_close_matches(str(name)[:LONGEST], names, n=1)
        listed = [*near, *sorted(names - set(near))][:_LISTED]
        expected = f"expected {', '.join(listed)}{', …' if len(names) > len(listed) else ''}"
    raise RequestError(f"{PLAN} is {_shown(name)}; {expected}")


def separate_salt(plan: str | None, language: str | None, salt: str | None) -> str | None:
    """Return the salt of the prefix cache for a request.

    What stands before the first bar are plan and language, which have no bar themselves: whatever salt a client sends,
    it comes after, so that no two plans or languages share a cache, and neither do two salts.

    Args:
        plan: name; it has no colon.
        language: full code.
        salt: the client's own.
    """
    return f"{plan or ''}:{language or ''}|{salt or ''}" if plan or language or salt else None


def _is_ours(name: object) -> bool:
    return str(name).lower().startswith(_PREFIX)


def _language(code: object) -> str:
    if not isinstance(code, str):
        raise RequestError(f"{LANGUAGE} is {_shown(code)}; expected the code of one language, such as swh_Latn or sw")
    if len(code) > _LONGEST_CODE:
        raise RequestError(f"{LANGUAGE} has {len(code)} characters; expected a code such as swh_Latn or sw")
    try:
        return _resolve(code)
    except LanguageError as error:
        raise RequestError(f"{LANGUAGE}: {error}") from None


@lru_cache(maxsize=1024)
def _resolve(code: str) -> str:
    return resolve(code)


def _shown(value: object) -> str:
    """Return a value as text that is short, whatever was sent."""
    if isinstance(value, str):
        return repr(value[:_SHOWN]) + ("…" if len(value) > _SHOWN else "")
    if isinstance(value, bool | float | None) or (isinstance(value, int) and abs(value) < 2**64):
        return str(value)
    return {dict: "an object", list: "a list", int: "a number of more than 64 bits"}.get(type(value), "of another type")
