"""Whole files: written atomically, read strictly, hashed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any, NoReturn

from isogloss.errors import FileError, RunError

__all__ = ["claim_folder", "read_bytes", "read_json", "remove_stale", "sha256", "write_atomically", "write_json"]

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


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write JSON atomically, keys sorted, one line per value; FileError where the folder cannot be written."""
    write_atomically(path, (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode())


def claim_folder(folder: Path, record: str, settings: dict[str, Any]) -> None:
    """Make a folder for work with these settings, or take up work with equal ones.

    Args:
        folder: new, empty, or claimed before.
        record: name of the file that keeps the settings.
        settings: JSON types.

    Raises:
        RunError: the folder holds work with other settings, or anything else.
    """
    path = folder / record
    if path.is_file():
        before = read_json(path)
        differing = sorted(key for key in settings if before.get(key) != settings[key])
        if differing:
            raise RunError(f"{folder} holds work with another {', '.join(differing)}; choose another folder")
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"{folder} is in use and has no {record}; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, settings)


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
