"""Progress bars on stderr, so that stdout carries nothing but data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

__all__ = ["busy", "track"]


@contextmanager
def track(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar while the context is open; yield the function that advances it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(label, total=total)

        def advance(steps: int) -> None:
            progress.update(task, advance=steps)

        yield advance


@contextmanager
def busy(label: str) -> Iterator[None]:
    """Show that something goes on whose length is not known."""
    with Console(stderr=True).status(label):
        yield
