"""Results as JSON: what is written is read back by its class, and damage is refused with the path of the field."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar, cast

from isogloss.errors import IsoglossError, RunError, first_few, shorten
from isogloss.files import LONGEST_NAME, read_json, write_json

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError

__all__ = ["Name", "Number", "Record", "decode", "from_json", "problems", "read_typed", "to_json", "write_typed"]

_EMPTY: tuple[object, ...] = (None, [], {})

Result = TypeVar("Result")


class _NanForNull:
    """Tells pydantic to read null as NaN, without importing pydantic where nothing is read."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: Callable[[object], Any]) -> Any:  # noqa: ANN401 - pydantic's own
        from pydantic_core import core_schema  # noqa: PLC0415 - 0.15 s, needed to read alone

        return core_schema.no_info_before_validator_function(cls._read, handler(source))

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:  # noqa: ANN401 - pydantic's own
        return {"anyOf": [handler(schema), {"type": "null"}]}

    @staticmethod
    def _read(value: object) -> object:
        return math.nan if value is None else value


Number = Annotated[float, _NanForNull]
"""A float of a result: NaN where it is not known, which JSON holds as null."""


class _AsLongAsAName:
    """Tells pydantic to refuse a text that is longer than any name."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: Callable[[object], Any]) -> Any:  # noqa: ANN401 - pydantic's own
        from pydantic_core import core_schema  # noqa: PLC0415 - as above

        return core_schema.str_schema(max_length=LONGEST_NAME)


Name = Annotated[str, _AsLongAsAName]
"""A text of a result that is shown in headings and lines: a name, at most `LONGEST_NAME` characters."""


def to_json(value: Any) -> Any:  # noqa: ANN401 - anything in, JSON types out
    """Turn a result into JSON types.

    Args:
        value: a dataclass of mappings, sequences, arrays, strings, numbers, None and further dataclasses.

    Returns:
        Objects, lists and scalars; numbers that are not finite become None. Fields that are at a default of None or of
        an empty container are left out.
    """
    if isinstance(value, Record):
        return value.to_json()
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if is_dataclass(value):
        pairs = ((field, getattr(value, field.name)) for field in fields(value))
        return {field.name: to_json(each) for field, each in pairs if each or not _is_left_out(field, each)}
    if isinstance(value, Mapping):
        return {str(key): to_json(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [to_json(each) for each in value]
    return value


def from_json(kind: type[Result], raw: object, where: object) -> Result:
    """Build a result from what `to_json` returned.

    Args:
        kind: the dataclass.
        raw: JSON types.
        where: the file, for the message.

    Raises:
        RunError: a field is missing, unknown, or of another type; the message is one line and names the field.
    """
    result = _validated(kind, raw, where)
    if (path := _difference(raw, to_json(result))) is not None:
        raise _misread(where, f"{'.'.join(path) or 'the whole'}: unknown field, or a value of another type")
    return result


def decode(kind: type[Result], raw: object, where: str) -> Result:
    """Build a dataclass from JSON types that must fit exactly: no unknown field, no 1.0 or true for an integer.

    Args:
        kind: the dataclass; errors of its own checks pass through.
        raw: JSON types.
        where: what precedes the field in the message.

    Raises:
        ValueError: names each field that does not fit by its path, what was expected and what was found.
    """
    from pydantic import ValidationError  # noqa: PLC0415 - as above

    try:
        # Only JSON, not the objects read from it, may hold lists where tuples are expected.
        result: Result = _adapter(cast("Any", kind)).validate_json(json.dumps(raw), strict=True, extra="forbid")
    except ValidationError as error:
        raise ValueError(f"{where}{problems(error)}") from None
    return result


def problems(error: ValidationError) -> str:
    """Say in one line what pydantic did not accept: per field its path, what was expected and what was found."""
    lines = []
    for each in error.errors(include_url=False):
        path = ".".join(map(str, each["loc"]))
        reason = {"missing": "missing", "unexpected_keyword_argument": "unknown field"}.get(
            each["type"], f"{each['msg']}, found {shorten(each['input'])}"
        )
        lines.append(f"{path}: {reason}" if path else reason)
    return first_few(lines)


class Record:
    """Base of dataclasses that are written with all their fields, and read back although newer ones have more.

    Floats are annotated as `Number`, so that null is read as NaN, and NaN written as null. Where JSON has other names
    or another shape, a class overrides `to_json` and `fields_of_json`.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Point(Record):
        ...     x: Number
        >>> Point(math.nan).to_json()
        {'x': None}
        >>> Point.from_json({"x": 2, "y": 3}, "point.json")
        Point(x=2.0)
    """

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON types; NaN becomes None."""
        return {name: to_json(value) for name, value in vars(self).items()}

    @classmethod
    def from_json(cls, raw: object, where: object) -> Self:
        """Check and read what `to_json` returned.

        Args:
            raw: JSON types; fields that the class does not know are ignored.
            where: the file, for the message.

        Raises:
            RunError: a field is missing, or has a wrong type or value; the message names it by its path.
        """
        return _validated(cls, raw, where)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file that holds what `to_json` returned; RunError, as of `from_json`, where it is damaged."""
        return cls.from_json(read_json(path), path)

    @classmethod
    def fields_of_json(cls, raw: Any) -> Any:  # noqa: ANN401 - JSON before it is checked
        """Return the fields that JSON holds under other names or in another shape; here it does not."""
        return raw

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: Callable[[object], Any]) -> Any:  # noqa: ANN401 - pydantic's own
        from pydantic_core import core_schema  # noqa: PLC0415 - as above

        return core_schema.no_info_before_validator_function(cls.fields_of_json, handler(source))


def write_typed(path: Path, value: object) -> None:
    """Write a result atomically, as `write_json` does; FileError where the folder cannot be written."""
    write_json(path, to_json(value))


def read_typed(path: Path, kind: type[Result]) -> Result:
    """Read a result that `write_typed` wrote; RunError, as of `from_json`, where it is damaged."""
    return from_json(kind, read_json(path), path)


def _validated(kind: type[Result], raw: object, where: object) -> Result:
    from pydantic import ValidationError  # noqa: PLC0415 - 0.2 s, needed to read alone

    try:
        result: Result = _adapter(cast("Any", kind)).validate_python(raw)
    except ValidationError as error:
        raise _misread(where, problems(error)) from error
    except IsoglossError as error:  # of a class's own checks
        raise _misread(where, str(error)) from error
    return result


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:  # noqa: ANN401 - a cached call takes no type of its own
    from pydantic import TypeAdapter  # noqa: PLC0415 - as above

    return TypeAdapter(kind)


def _is_left_out(field: Field[Any], value: object) -> bool:
    if field.default_factory is not MISSING:
        return bool(value == field.default_factory())
    return value is field.default is None or value == field.default == ()


def _difference(raw: object, again: object) -> list[str] | None:
    """Return the path of the first field of ``raw`` that is not read back as it is; nothing where all are."""
    if isinstance(raw, dict) and isinstance(again, dict):
        pairs = [(key, value, again.get(key)) for key, value in raw.items() if key in again or value not in _EMPTY]
    elif isinstance(raw, list) and isinstance(again, list) and len(raw) == len(again):
        pairs = [(str(place), *both) for place, both in enumerate(zip(raw, again, strict=True))]
    else:
        return None if raw == again else []
    for key, before, after in pairs:
        if (path := _difference(before, after)) is not None:
            return [key, *path]
    return None


def _misread(where: object, why: str) -> RunError:
    return RunError(f"{where}: {why}; restore the file, or make it anew with the command that wrote it")
