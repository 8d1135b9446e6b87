"""Entry point: exit code 0 done, 1 a check failed, 2 wrong use."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import io
import os
import re
import sys
from collections.abc import Iterator, Sequence
from typing import NoReturn

from isogloss import __version__
from isogloss.cli import commands
from isogloss.cli.ablate import register_ablate
from isogloss.cli.adapt import register_adapt
from isogloss.cli.analyze import register_analyze
from isogloss.cli.bake import register_bake
from isogloss.cli.catalogue import register_corpora, register_tasks
from isogloss.cli.completion import add_completion
from isogloss.cli.doctor import register_doctor
from isogloss.cli.evaluate import register_evaluate
from isogloss.cli.inspect import register_inspect
from isogloss.cli.learn import register_learn
from isogloss.cli.messages import add_messages, as_asked
from isogloss.cli.models import register_models
from isogloss.cli.options import Subparsers
from isogloss.cli.push import register_push
from isogloss.cli.show import register_show
from isogloss.cli.study import register_demo, register_study
from isogloss.cli.sweep import register_sweep
from isogloss.errors import FileError, IsoglossError
from isogloss.terminal import printable, shows

__all__ = ["main"]

_WRONG_USE = 2
_INTERRUPTED = 130
_LONGEST_REASON = 4000  # characters: what a message takes from files is cut before it gets there


class _Parser(argparse.ArgumentParser):
    """Says what is wrong without what a terminal would obey; its subparsers are of the same class."""

    def error(self, message: str) -> NoReturn:
        super().error(printable(_with_nearest(message)))


_CHOICE = re.compile(r"invalid choice: '(?P<given>.*)' \(choose from (?P<known>.*)\)$", re.DOTALL)


def _with_nearest(message: str) -> str:
    """Ask whether the nearest of the words that can be chosen was meant, where one is near."""
    match = _CHOICE.search(message)
    if match is None:
        return message
    known = re.findall(r"[\w-]+", match["known"])
    nearest = difflib.get_close_matches(match["given"], known, n=1)
    return f"{message}; did you mean {nearest[0]}?" if nearest else message


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser: argparse.ArgumentParser = _Parser(
        prog="isogloss", description="Map and steer how Mixture-of-Experts models route languages.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"isogloss {__version__}")
    subparsers: Subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for register in (
        register_demo,
        register_study,
        register_doctor,
        commands.register_capture,
        commands.register_import,
        commands.register_merge,
        register_analyze,
        commands.register_experts,
        register_inspect,
        commands.register_plan,
        register_learn,
        register_adapt,
        register_evaluate,
        register_sweep,
        register_ablate,
        register_bake,
        register_push,
        commands.register_report,
        register_show,
        commands.register_organism,
        register_models,
        register_tasks,
        register_corpora,
    ):
        register(subparsers)
    add_completion(parser)
    add_messages(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: of the command line; None for those of this process.

    Returns:
        The exit code.
    """
    # Read when torch starts: waiting threads that spin make a busy machine many times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        with _any_terminal():
            options = build_parser().parse_args(arguments)
            with as_asked(options), _located():
                code = options.command(options)  # None, or what a check found
            sys.stdout.flush()
    except IsoglossError as error:
        sys.stderr.write(f"isogloss: {printable(_one_line(str(error)))}\n")
        return _WRONG_USE
    except KeyboardInterrupt:
        sys.stderr.write("isogloss: interrupted; repeat the command to resume\n")
        return _INTERRUPTED
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        _forget_output()
        return 0
    except OSError as error:  # what the system refuses: a file, or, where none is named, the output
        if error.filename is None:
            _forget_output()
        where = "standard output" if error.filename is None else error.filename
        reason = f"cannot use {where}: {error.strerror or error}; make room or choose another place"
        sys.stderr.write(f"isogloss: {printable(_one_line(reason))}\n")
        return _WRONG_USE
    return code or 0


@contextlib.contextmanager
def _located() -> Iterator[None]:
    """Say where an error was raised, if asked for."""
    try:
        yield
    except (IsoglossError, OSError):
        if shows("debug"):
            import traceback  # noqa: PLC0415 - most commands raise none

            sys.stderr.write(printable(traceback.format_exc()))
        raise


def _one_line(text: str) -> str:
    """Leave out the middle of what is longer than any reason: it holds what a file or an option gave."""
    left_out = len(text) - _LONGEST_REASON
    half = _LONGEST_REASON // 2
    return text if left_out <= 0 else f"{text[:half]} … {left_out:,} characters … {text[-half:]}"


@contextlib.contextmanager
def _any_terminal() -> Iterator[None]:
    """Print characters that the terminal does not have as its nearest, or "?", and refuse a closed output at once."""
    if sys.stdout is None:
        raise FileError("standard output is closed; redirect it to a file, or to /dev/null")
    streams = [stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, io.TextIOWrapper)]
    former = [stream.errors for stream in streams]
    for stream in streams:
        stream.reconfigure(errors="replace")
    try:
        yield
    finally:
        for stream, errors in zip(streams, former, strict=True):
            stream.reconfigure(errors=errors)


def _forget_output() -> None:
    """Let what is still buffered go nowhere: Python would try to write it once more when it ends."""
    with contextlib.suppress(io.UnsupportedOperation), open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - a device
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
