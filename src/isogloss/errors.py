"""Errors whose message says what was found, what was expected, and the next command, in one line.

Each class is one cause that a user can act on; the command line prints the message and exits with code 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass

__all__ = [
    "CorpusError",
    "FileError",
    "IsoglossError",
    "LanguageError",
    "ModelError",
    "PlanError",
    "RunError",
    "contrast",
    "first_few",
    "shorten",
]

_LONGEST_VALUE, _FEW = 80, 3  # characters of a value, and values, in one line


class IsoglossError(Exception):
    """Base of every error that isogloss raises on purpose."""


class FileError(IsoglossError):
    """A file or folder cannot be written."""


class LanguageError(IsoglossError):
    """A language code is unknown, ambiguous or given twice."""


class CorpusError(IsoglossError):
    """A corpus is missing, misaligned, empty, or not in the stated encoding."""


class RunError(IsoglossError):
    """A Run directory is missing, damaged, of another version, or of another model or corpus."""


class ModelError(IsoglossError):
    """A model cannot be loaded, is not a Mixture-of-Experts, or its capture failed a check."""


class PlanError(IsoglossError):
    """A plan or router adapter is malformed, impossible for its routers, or was made for another model."""


def shorten(value: object) -> str:
    """Return a value as Python writes it, cut to what fits into one line of a message."""
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."


def first_few(parts: Sequence[str]) -> str:
    """Join the first parts of a message, and say how many more there are."""
    more = len(parts) - _FEW
    return "; ".join(parts[:_FEW]) + (f"; and {more} more" if more > 0 else "")


def contrast(one: object, other: object) -> str:
    """Write what differs between two values: of mappings the keys, of records the fields, of tuples the first place."""
    if is_dataclass(one) and type(one) is type(other):
        one, other = vars(one), vars(other)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        keys = [key for key in {**one, **other} if one.get(key) != other.get(key)]
        return first_few([f"{key}: {contrast(one.get(key), other.get(key))}" for key in keys])
    if isinstance(one, tuple) and isinstance(other, tuple):
        if len(one) != len(other):
            return f"{len(one)} and {len(other)} values"
        place = next(place for place, (ours, theirs) in enumerate(zip(one, other, strict=True)) if ours != theirs)
        return f"value {place + 1}: {contrast(one[place], other[place])}"
    texts = shorten(one), shorten(other)
    if texts[0] == texts[1]:  # both are cut before the place in which they differ
        characters = enumerate(zip(repr(one), repr(other), strict=False))
        place = next((place for place, (ours, theirs) in characters if ours != theirs), 0)
        texts = shorten(repr(one)[place:]), shorten(repr(other)[place:])
        return f"from character {place}: {' and '.join(texts)}"
    return " and ".join(texts)
