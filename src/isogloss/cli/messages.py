"""What a command says beside its results: `--quiet`, `--verbose`, and the libraries below that follow them."""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import MappingProxyType

from isogloss.terminal import LEVEL_VARIABLE, shows, verbosity

__all__ = ["add_messages", "as_asked"]

_QUIET = MappingProxyType(
    {
        "TRANSFORMERS_VERBOSITY": "error",
        "DATASETS_VERBOSITY": "error",
        "HF_HUB_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TQDM_DISABLE": "1",
    }
)
"""What libraries read when they are first imported, to show neither warnings nor bars."""


def add_messages(parser: argparse.ArgumentParser) -> None:
    """Add ``--quiet`` and ``--verbose`` to a parser and to those of its commands; either place will do."""
    group = parser.add_argument_group("messages on stderr").add_mutually_exclusive_group()
    nothing = argparse.SUPPRESS  # a command's parser must not undo what was given before its name
    group.add_argument(
        "-q",
        "--quiet",
        action="store_const",
        const="warning",
        dest="level",
        default=nothing,
        help=f"notes and errors alone; {LEVEL_VARIABLE}=error leaves errors alone",
    )
    group.add_argument(
        "-v",
        "--verbose",
        action="store_const",
        const="debug",
        dest="level",
        default=nothing,
        help="also how long each stage took, and where an error was raised",
    )
    for action in parser._actions:  # noqa: SLF001 - argparse names no other way to the parsers of its commands
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - as above
            for command in action.choices.values():
                add_messages(command)


@contextmanager
def as_asked(options: argparse.Namespace) -> Iterator[None]:
    """Say as much as a command line or the environment asks for, and let libraries that are not loaded yet follow."""
    with verbosity(getattr(options, "level", None)):
        quiet = not shows("info")
        variables = {name: value for name, value in _QUIET.items() if quiet and name not in os.environ}
        os.environ.update(variables)
        try:
            with warnings.catch_warnings():
                if quiet:
                    warnings.simplefilter("ignore")
                yield
        finally:
            for name in variables:
                os.environ.pop(name, None)
