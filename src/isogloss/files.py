"""Write files atomically, read them strictly, hash them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any, NoReturn

from isogloss.errors import FileError, IsoglossError, RunError

__all__ = [
    "LONGEST_NAME",
    "parse_json",
    "read_bytes",
    "read_json",
    "remove_stale",
    "sha256",
    "write_atomically",
    "write_json",
]

LONGEST_NAME = 1000
"""Characters of a name, and of a key of an object: what is longer is none, and no page or line has room for it."""

_LARGEST_JSON = 2**28
_TEMPORARY = ".{name}.tmp"


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file atomically: a crash leaves the old content or the new, never a part; a link keeps its target.

    Raises:
        FileError: the folder is missing, or cannot be written.
    """
    path = Path(os.path.realpath(path))  # what replaces a link would leave the file that others read as it was
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


def remove_stale(folder: Path) -> None:
    """Delete the temporary files of interrupted `write_atomically` calls."""
    for path in folder.glob(_TEMPORARY.format(name="*")):
        path.unlink()


def read_bytes(path: Path, *, most: int = 2**30, error: type[IsoglossError] = RunError) -> bytes:
    """Read an ordinary file: no pipe or device, which might never end.

    Args:
        path: of the file.
        most: bytes that a file of this kind has at most; a larger one is refused unread.
        error: raised where the file cannot be read; the message names it.
    """
    try:
        status = path.stat()
        if stat.S_ISREG(status.st_mode) and status.st_size <= most:
            return path.read_bytes()
    except OSError as failure:
        raise error(f"{path}: cannot be read ({failure.strerror}); check the path, or restore the file") from failure
    if stat.S_ISREG(status.st_mode):
        raise error(f"{path} is larger than {most / 2**20:,.0f} MiB ({status.st_size:,} bytes); check the path")
    raise error(f"{path}: not an ordinary file; check the path")


def sha256(content: bytes) -> str:
    """Return 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def read_json(path: Path) -> Any:  # noqa: ANN401 - JSON has no narrower type before it is checked
    """Read a file of strict JSON, as `parse_json` does; RunError names the file if it cannot be read."""
    content = read_bytes(path, most=_LARGEST_JSON)
    try:
        return parse_json(content)
    except ValueError as error:
        raise RunError(f"{path}: is not valid JSON ({error}); restore the file or make it again") from error


def parse_json(content: bytes | str) -> Any:  # noqa: ANN401 - as above
    """Read strict JSON: UTF-8, no NaN or infinity, no duplicate keys.

    Raises:
        ValueError: says what is wrong, in one line.
    """
    text = content if isinstance(content, str) else content.decode("utf-8-sig")
    try:
        return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_unique)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not allowed")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if (longest := max(map(len, unique), default=0)) > LONGEST_NAME:
        raise ValueError(f"an object has a key of {longest:,} characters; expected at most {LONGEST_NAME:,}")
    if len(unique) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"an object has the key {next(key for key in keys if keys.count(key) > 1)!r} more than once")
    return unique
