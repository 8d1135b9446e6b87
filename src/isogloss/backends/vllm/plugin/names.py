"""Names of plans: what they look like, and which ones requests can choose at the moment.

The engine decides (`choices`). It writes the names down for the processes that take requests, so that they can answer a
wrong name at once; where they cannot read them, the engine refuses the request.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

from isogloss.backends.vllm.plugin.shared import share
from isogloss.errors import FileError, PlanError
from isogloss.files import write_atomically
from isogloss.runs.served_usage import UNSTEERED

__all__ = ["LONGEST", "UNSTEERED", "expect_names", "offer", "offered", "require_name"]

LONGEST = 64
"""Characters of a name, at most."""

_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{LONGEST - 1}}}")
_FILE = "ISOGLOSS_NAMES"


def require_name(name: str) -> None:
    """Refuse what cannot be the name of a plan.

    Raises:
        PlanError: it has other characters, is too long, or means that there is no plan.
    """
    if not _NAME.fullmatch(name):
        raise PlanError(
            f"{name[:LONGEST]!r} cannot be the name of a plan; expected up to {LONGEST} letters a to z, digits, "
            "'-', '_' and '.', a letter or digit first"
        )
    if name.lower() == UNSTEERED:
        raise PlanError(f"no plan can have the name {name}: requests that name {UNSTEERED} are answered without a plan")


def expect_names() -> None:
    """Make the file in which an engine that this process starts writes the names."""
    share(_FILE)


def offer(names: Iterable[str]) -> None:
    """Write down the names that requests can choose from now on.

    Where they cannot be written, what was there is removed: the engine alone then answers whether it has a plan.
    """
    if path := os.environ.get(_FILE):
        try:
            write_atomically(Path(path), json.dumps(sorted(names)).encode())
        except FileError:
            with contextlib.suppress(OSError):
                Path(path).unlink(missing_ok=True)


def offered() -> frozenset[str] | None:
    """Return the names that requests can choose, `UNSTEERED` among them; None where this process cannot know."""
    try:
        return frozenset(json.loads(Path(os.environ[_FILE]).read_text(encoding="utf-8")))
    except (KeyError, OSError, ValueError):  # on another machine than the engine, or removed as an old file
        return None
