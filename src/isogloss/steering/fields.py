"""Validate the fields of an intervention and convert them to Python types and full language codes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np

from isogloss.errors import LanguageError, PlanError
from isogloss.languages import resolve

__all__ = ["FLOAT32_MAX", "as_experts", "as_integer", "as_languages", "as_strength", "as_values"]

FLOAT32_MAX = float(np.finfo(np.float32).max)
"""The largest finite float32."""


def as_integer(raw: object, name: str) -> int:
    """Return an integer of at least 0; anything else is a PlanError."""
    if isinstance(raw, bool) or not isinstance(raw, Integral) or raw < 0:
        raise PlanError(f"{name}: found {raw!r}; expected an integer of at least 0")
    return int(raw)


def as_experts(raw: object, name: str) -> tuple[int, ...]:
    """Return expert ids, at least one; PlanError where an entry is repeated or not an expert id."""
    experts: tuple[int, ...] = _sequence(raw, as_integer, f"experts of {name}")
    if not experts:
        raise PlanError(f"{name} has no experts; give at least one, or omit the intervention")
    if twice := _twice(experts):
        raise PlanError(f"{name} names experts {twice} more than once; name each expert once")
    return experts


def as_values(raw: object, n_experts: int, *, needed: bool, name: str) -> tuple[float, ...] | None:
    """Return one finite number per expert, or None if the kind takes none; PlanError where they do not fit."""
    _require(raw, "values", needed=needed, name=name)
    if raw is None:
        return None
    values: tuple[float, ...] = _sequence(raw, _number, f"values of {name}")
    if len(values) != n_experts:
        raise PlanError(f"{name} has {len(values)} values for {n_experts} experts; give one value per expert")
    return values


def as_strength(raw: object, values: tuple[float, ...] | None, *, needed: bool, name: str) -> float | None:
    """Return a number whose products with the values fit float32, or None if the kind takes none, else PlanError."""
    _require(raw, "strength", needed=needed, name=name)
    if raw is None:
        return None
    strength = _number(raw, f"strength of {name}")
    if any(abs(strength * value) > FLOAT32_MAX for value in values or ()):
        raise PlanError(f"strength times values of {name} exceeds the float32 range; use smaller numbers")
    return strength


def as_languages(raw: object, name: str) -> tuple[str, ...] | None:
    """Return full codes in ascending order, each once, at least one, else PlanError; None stays None."""
    if raw is None:
        return None
    try:
        codes: tuple[str, ...] = tuple(sorted(_sequence(raw, _code, f"languages of {name}")))
    except LanguageError as error:
        raise PlanError(f"languages of {name}: {error}") from error
    if not codes:
        raise PlanError(f"{name} has an empty list of languages and would never act; name one, or omit languages")
    if twice := _twice(codes):
        raise PlanError(f"{name} names languages {twice} more than once; name each language once")
    return codes


def _code(raw: object, name: str) -> str:
    if not isinstance(raw, str):
        raise PlanError(f"{name}: found {raw!r}; expected a code such as deu_Latn")
    return resolve(raw)


def _twice(entries: tuple[Any, ...]) -> list[Any]:
    return sorted(entry for entry, times in Counter(entries).items() if times > 1)


def _sequence(raw: object, check: Callable[[object, str], Any], name: str) -> tuple[Any, ...]:
    if isinstance(raw, str | bytes | Mapping) or not isinstance(raw, Iterable):
        raise PlanError(f"{name} is {raw!r}; expected a list")
    return tuple(check(entry, name) for entry in raw)


def _number(raw: object, name: str) -> float:
    if isinstance(raw, bool) or not isinstance(raw, Real):
        raise PlanError(f"{name}: found {raw!r}; expected a number")
    try:
        number = float(raw)
    except OverflowError:
        number = math.inf
    if not abs(number) <= FLOAT32_MAX:
        raise PlanError(f"{name}: found NaN, infinity or a number outside the float32 range; expected a finite number")
    return number + 0.0  # -0.0 becomes 0.0: they are equal, but JSON writes them differently


def _require(raw: object, field: str, *, needed: bool, name: str) -> None:
    if needed and raw is None:
        raise PlanError(f"{name} has no {field}; this kind needs {field}")
    if not needed and raw is not None:
        raise PlanError(f"{name} has {field} {raw!r}; this kind takes no {field}")
