"""Whole files: written atomically, read strictly, hashed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any, NoReturn

from isogloss.errors import FileError, RunError

__all__ = ["read_bytes", "read_json", "remove_stale", "sha256", "write_atomically"]

_TEMPORARY = ".{name}.tmp"


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a crash at any moment leaves the old content or the new, never a part.

    Raises:
        FileError: the folder is missing, or cannot be written.
    """
    temporary = path.with_name(_TEMPORARY.format(name=path.name))
    try:
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):  # the folder itself may be missing, or be a file
            temporary.unlink()
        raise FileError(f"cannot write {path}: {error.strerror}; choose a folder that exists and is yours") from error
    if os.name == "posix":  # elsewhere a folder cannot be opened, and the rename is flushed with the file
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def remove_stale(folder: Path) -> None:
    """Delete what interrupted calls of `write_atomically` left behind."""
    for path in folder.glob(_TEMPORARY.format(name="*")):
        path.unlink()


def read_bytes(path: Path) -> bytes:
    """Read a file; RunError names it where that fails."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror}); check the path, or restore the file") from error


def sha256(content: bytes) -> str:
    """Return 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def read_json(path: Path) -> Any:  # noqa: ANN401 - JSON has no narrower type before it is checked
    """Read strict JSON: UTF-8, no NaN or infinity, no key twice; RunError names the file where that fails."""
    content = read_bytes(path)
    try:
        return json.loads(content.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path}: is not valid JSON ({error}); it may be cut off: restore it or make it anew") from error


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not allowed")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)!r} twice in one object")
    return unique
