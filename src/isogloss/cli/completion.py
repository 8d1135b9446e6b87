"""`--print-completion`: what a shell needs to complete commands, options, choices and paths."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from isogloss.errors import IsoglossError

__all__ = ["add_completion"]

_SHELLS = ("bash", "zsh")
_PATHS = ("MODEL", "STUDY.toml|RECIPE", "RUN", "PATH", "DIR")


def add_completion(parser: argparse.ArgumentParser) -> None:
    """Add ``--print-completion``."""
    parser.add_argument(
        "--print-completion",
        action=_PrintCompletion,
        choices=_SHELLS,
        help='print completion for a shell: eval "$(isogloss --print-completion bash)"',
    )


class _PrintCompletion(argparse.Action):
    """Prints the script and ends."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Print the script for the shell that was named; arguments are argparse's."""
        del namespace, option_string
        try:
            import shtab  # noqa: PLC0415 - only this option needs it
        except ImportError as error:
            raise IsoglossError("shtab writes the completion and is not installed; pip install shtab") from error
        from isogloss.cli.output import print_line  # noqa: PLC0415 - as above

        for action in _actions(parser):
            if action.type is Path or action.metavar in _PATHS:
                action.complete = shtab.FILE  # type: ignore[attr-defined] # where shtab looks
        print_line(shtab.complete(parser, shell=str(values)))
        parser.exit()


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield the options and arguments of a parser and of its commands."""
    for action in parser._actions:  # noqa: SLF001 - argparse names no other way
        yield action
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - as above
            for command in action.choices.values():
                yield from _actions(command)
