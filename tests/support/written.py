"""What lies in a folder of results."""

from __future__ import annotations

import json


def contents(folder):
    """Path below a folder -> content of every file, without the locks of processes that have ended, which are empty."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    assert not any(path.stat().st_size for path in files.values() if path.name == ".lock")
    return {name: path.read_bytes() for name, path in files.items() if not name.endswith(".lock")}


def rows_of(path):
    """The objects of a JSON Lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
