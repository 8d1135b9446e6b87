"""Files by which the processes of one server tell each other what vLLM's own channels do not carry."""

from __future__ import annotations

import atexit
import functools
import multiprocessing
import os
import tempfile
from pathlib import Path

__all__ = ["share"]


def share(variable: str) -> bool:
    """Name a file in the environment, made here and empty, unless a process that started this one has.

    Returns:
        Whether it is of this process, at whose end it is removed.
    """
    if variable in os.environ and multiprocessing.parent_process() is not None:
        return False
    os.environ[variable] = _made(variable)
    return True


@functools.cache
def _made(variable: str) -> str:
    descriptor, name = tempfile.mkstemp(prefix=f"{variable.lower().replace('_', '-')}-")
    os.close(descriptor)
    atexit.register(_remove, name, os.getpid())
    return name


def _remove(name: str, owner: int) -> None:
    if os.getpid() == owner:  # not in a fork
        Path(name).unlink(missing_ok=True)
