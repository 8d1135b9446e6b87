"""Times ways of doing the same in turn, so that a machine that slows down slows all of them."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

__all__ = ["Ratio", "Side", "alternating_times", "interleaved_times", "ratio_of"]


class Side(NamedTuple):
    """One way: what is timed, and a context in which it runs, which is entered before the clock starts."""

    run: Callable[[], object]
    inside: Callable[[], AbstractContextManager[object]] = nullcontext


class Ratio(NamedTuple):
    """Medians in seconds, their ratio, and the smallest and largest ratio of one round."""

    ours: float
    other: float
    value: float
    low: float
    high: float
    n_rounds: int


def alternating_times(ours: Callable[[], object], other: Callable[[], object], n_rounds: int) -> list[list[float]]:
    """Return seconds of ours and the other for every round."""
    rounds = interleaved_times({"ours": Side(ours), "other": Side(other)}, n_rounds)
    return [list(times.values()) for times in rounds]


def interleaved_times(
    sides: Mapping[str, Side],
    n_rounds: int,
    *,
    wait: Callable[[], object] = lambda: None,
    until: float = math.inf,
) -> Iterator[dict[str, float]]:
    """Yield the seconds of every side for each whole round.

    Args:
        sides: by name, in the order in which they take turns.
        n_rounds: most rounds.
        wait: returns when a device has finished; called before the clock is read.
        until: of `time.monotonic`; no round begins after it.
    """
    for _ in range(n_rounds):
        if time.monotonic() > until:
            return
        times = {}
        for name, side in sides.items():
            with side.inside():
                wait()
                start = time.perf_counter()
                side.run()
                wait()
                times[name] = time.perf_counter() - start
        yield times


def ratio_of(ours: Sequence[float], other: Sequence[float]) -> Ratio:
    """Compare two sides that took turns."""
    medians = statistics.median(ours), statistics.median(other)
    rounds = [a / b for a, b in zip(ours, other, strict=True)]
    return Ratio(*medians, medians[0] / medians[1], min(rounds), max(rounds), len(rounds))
