"""Reads a file of settings, and says what is wrong with it in one line."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from isogloss.errors import IsoglossError, RunError
from isogloss.files import problems

__all__ = ["read_settings"]

Settings = TypeVar("Settings")


def read_settings(path: Path, kind: type[Settings], *, what: str, known: Sequence[str]) -> Settings:
    """Read TOML into a dataclass.

    Args:
        path: of the file.
        kind: the dataclass; its own checks may raise an IsoglossError.
        what: name of such a file, for the message.
        known: names of the settings, for the message.

    Returns:
        The settings.

    Raises:
        RunError: not TOML, an unknown setting, or a value of the wrong type or out of range.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RunError(f"cannot read {what} {path}: {error}") from error
    try:
        return TypeAdapter(kind).validate_python(raw)
    except ValidationError as error:
        raise RunError(f"{path} is no {what}: {problems(error)}; the settings are {', '.join(known)}") from error
    except IsoglossError as error:
        raise RunError(f"{path} is no {what}: {error}") from error
