"""Carries the reason why a start is refused from the process that refuses to the one that prints it: last, and once.

An engine and its workers are processes of their own; what they raise, vLLM reports by a traceback of each process on
the way, and the one that was started ends with an error that names no reason.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import multiprocessing
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from isogloss.backends.vllm.plugin.shared import share
from isogloss.errors import IsoglossError, PlanError
from isogloss.terminal import printable

__all__ = ["RefusedError", "ending", "expect_refusals", "refuse", "telling"]

_FILE = "ISOGLOSS_REFUSAL"


class RefusedError(PlanError, SystemExit):
    """Ends the process that nothing catches it in, with one line in place of a traceback through vLLM."""

    def __init__(self, message: str) -> None:
        SystemExit.__init__(self, message)


def expect_refusals() -> None:
    """Make the file in which processes that this one starts leave the reason; this one prints it last."""
    if share(_FILE):
        _say_at_exit(os.environ[_FILE])


@functools.cache
def _say_at_exit(name: str) -> None:
    atexit.register(_say_last, name, os.getpid())  # and before the file is removed


def _say_last(name: str, owner: int) -> None:
    if os.getpid() == owner and (reason := _taken(name)):
        sys.stderr.write(f"isogloss: {reason}\n")


def _left(name: str | None) -> str:
    """Return the reason that was left; nothing where none was."""
    with contextlib.suppress(OSError):
        return Path(name).read_text(encoding="utf-8") if name else ""
    return ""


def _taken(name: str | None) -> str:
    """Return the reason that was left, once."""
    if name and (reason := _left(name)):
        Path(name).write_text("", encoding="utf-8")
        return reason
    return ""


def refuse(error: IsoglossError) -> NoReturn:
    """End a start: leave the reason and end in silence where another process will say it, else raise it.

    Args:
        error: whose message is the reason.
    """
    name = os.environ.get(_FILE)
    if name is None or multiprocessing.parent_process() is None:
        raise error
    try:
        with Path(name).open("r+", encoding="utf-8") as file:  # on another machine there is none
            if not file.read():  # several workers have the same reason
                file.write(printable(str(error)))
    except OSError:
        raise error from None
    raise SystemExit(1) from None


def ending(init: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap the start of an engine in its own process: where a worker has left the reason, there is no more to say."""

    @functools.wraps(init)
    def ended(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - vLLM's own
        try:
            return init(*args, **kwargs)
        except Exception:
            if multiprocessing.parent_process() is not None and _left(os.environ.get(_FILE)):
                raise SystemExit(1) from None
            raise

    return ended


def telling(init: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap the start of an engine by the process that starts it: a reason that was left takes the error's place."""

    @functools.wraps(init)
    def told(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - vLLM's own
        try:
            return init(*args, **kwargs)
        except (Exception, SystemExit):
            if reason := _taken(os.environ.get(_FILE)):
                raise RefusedError(f"isogloss: {reason}") from None
            raise

    return told
