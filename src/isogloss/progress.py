"""What is said while a command runs: stages, bars and notes on stderr, so that stdout carries nothing but data."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from isogloss.terminal import printable, shows

__all__ = ["busy", "note", "stage", "track"]


def note(text: str) -> None:
    """Say in one line what a reader of the results should know, and what does not stop the work."""
    if shows("warning"):
        _say(f"note: {text}")


def stage(text: str) -> None:
    """Say in one line what begins now."""
    if shows("info"):
        _say(text)


@contextmanager
def track(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar, with the time so far and the time left, while open; yield the function that advances it.

    Where an error comes before anything was done, such as a refusal, no bar is left beside its message.
    """
    with (
        _announced(label, f"{label}: {total:,} to do"),
        _progress(BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()) as progress,
    ):
        task = progress.add_task(printable(label), total=total)

        def advance(steps: int) -> None:
            progress.update(task, advance=steps)

        try:
            yield advance
        except BaseException:
            progress.live.transient = not progress.tasks[0].completed
            raise


@contextmanager
def busy(label: str) -> Iterator[None]:
    """Show that work of unknown length is in progress."""
    with _announced(label, label), _progress(SpinnerColumn(), leaves_no_trace=True) as progress:
        progress.add_task(printable(label), total=None)
        yield


@contextmanager
def _announced(label: str, text: str) -> Iterator[None]:
    """Say what begins where no terminal shows it move, and, if asked for, how long it took."""
    if not _is_live(_console()):
        stage(text)
    start = time.monotonic()
    yield
    if shows("debug"):
        _say(f"{label}: took {time.monotonic() - start:.1f} s")


def _say(text: str) -> None:
    sys.stderr.write(f"isogloss: {printable(text)}\n")
    sys.stderr.flush()


def _is_live(console: Console) -> bool:
    return console.is_terminal or console.is_jupyter


def _console() -> Console:
    """Draw bars as a notebook does where it can: without ipywidgets rich warns at every bar, and draws none."""
    return Console(stderr=True, force_jupyter=None if find_spec("ipywidgets") else False)


def _progress(*columns: ProgressColumn, leaves_no_trace: bool = False) -> Progress:
    """Leave stdout and stderr to others: where rich replaces them, tqdm inside a notebook calls itself without end."""
    console = _console()
    return Progress(
        TextColumn("{task.description}", markup=False),
        *columns,
        console=console,
        transient=leaves_no_trace,
        disable=not shows("info") or (leaves_no_trace and not _is_live(console)),
        redirect_stdout=False,
        redirect_stderr=False,
    )
