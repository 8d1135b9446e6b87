"""The same work on many arguments, side by side."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["MAX_THREADS", "in_threads"]

MAX_THREADS = 8
"""Every thread may hold one language in memory; more would trade that bound for little."""

_Argument = TypeVar("_Argument")
_Returned = TypeVar("_Returned")


def in_threads(function: Callable[[_Argument], _Returned], arguments: Iterable[_Argument]) -> list[_Returned]:
    """Call a function for every argument, on as many threads as this process may use cores, `MAX_THREADS` at most.

    NumPy and hashing release the interpreter, so that threads run side by side. Each call must depend on its argument
    alone: then results are the same whatever the number of threads, in the order of the arguments.
    """
    # Cores that a scheduler withholds do not count; only Linux tells.
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with ThreadPoolExecutor(min(usable, MAX_THREADS)) as pool:
        return list(pool.map(function, arguments))
