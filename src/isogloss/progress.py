"""Progress bars and notes on stderr, so that stdout carries nothing but data."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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

from isogloss.terminal import printable

__all__ = ["busy", "note", "track"]


def note(text: str) -> None:
    """Say in one line what a reader of the results should know, and what does not stop the work."""
    sys.stderr.write(f"isogloss: note: {printable(text)}\n")


@contextmanager
def track(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar, with the time so far and the time left, while open; yield the function that advances it.

    Where an error comes before anything was done, such as a refusal, no bar is left beside its message.
    """
    with _progress(BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()) as progress:
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
    with _progress(SpinnerColumn(), leaves_no_trace=True) as progress:
        progress.add_task(printable(label), total=None)
        yield


def _progress(*columns: ProgressColumn, leaves_no_trace: bool = False) -> Progress:
    """Leave stdout and stderr to others: where rich replaces them, tqdm inside a notebook calls itself without end."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}", markup=False),
        *columns,
        console=console,
        transient=leaves_no_trace,
        disable=leaves_no_trace and not (console.is_terminal or console.is_jupyter),
        redirect_stdout=False,
        redirect_stderr=False,
    )
