"""Ends an engine whose command was killed: nobody would ask it again, and it would keep its memory."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from multiprocessing.process import BaseProcess

__all__ = ["end_engine_with_parent"]

_EVERY, _GRACE = 1.0, 5.0  # seconds


def end_engine_with_parent() -> None:
    """Let this process, where it is an engine's own, end soon after the one that started it, however that one ends."""
    parent = multiprocessing.parent_process()
    if parent is not None and multiprocessing.current_process().name.startswith("EngineCore"):
        threading.Thread(target=_wait, args=(parent, os.getppid()), daemon=True, name="isogloss-orphan").start()


def _wait(parent: BaseProcess, first: int) -> None:
    # Either sign may be absent: a sibling that was forked holds the pipe, a server of forks stands in between.
    while parent.is_alive() and os.getppid() == first:
        time.sleep(_EVERY)
    os.kill(os.getpid(), signal.SIGTERM)  # on which vLLM ends its workers
    time.sleep(_GRACE)
    os.kill(os.getpid(), signal.SIGKILL)
