"""Ends a process at a chosen call among those that touch the disk, as SIGKILL would."""

from __future__ import annotations

import os


class KilledError(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def kill_at(monkeypatch, moment):
    """Die at the given call among all that touch the disk: before it, or in a write, after half of it."""
    calls = iter(range(10**9))
    plain = {name: getattr(os, name) for name in ("write", "fsync", "mkdir", "replace")}

    def dying(name):
        def call(*arguments, **options):
            if next(calls) == moment:
                if name == "write":
                    plain["write"](arguments[0], arguments[1][: len(arguments[1]) // 2])
                raise KilledError
            return plain[name](*arguments, **options)

        return call

    for name in plain:
        monkeypatch.setattr(os, name, dying(name))
