"""Entry point: exit code 0 done, 1 a check failed, 2 wrong use."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from isogloss import __version__
from isogloss.cli import commands
from isogloss.cli.analyze import register_analyze
from isogloss.cli.bake import register_bake
from isogloss.cli.doctor import register_doctor
from isogloss.cli.evaluate import register_evaluate
from isogloss.cli.models import register_models
from isogloss.cli.options import Subparsers
from isogloss.cli.sweep import register_sweep
from isogloss.errors import IsoglossError

__all__ = ["main"]

_WRONG_USE = 2
_INTERRUPTED = 130


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="isogloss", description="Map and steer how Mixture-of-Experts models route languages.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"isogloss {__version__}")
    subparsers: Subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for register in (
        commands.register_demo,
        commands.register_study,
        register_doctor,
        commands.register_capture,
        commands.register_import,
        commands.register_merge,
        register_analyze,
        commands.register_experts,
        commands.register_plan,
        register_evaluate,
        register_sweep,
        register_bake,
        commands.register_report,
        commands.register_organism,
        register_models,
    ):
        register(subparsers)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: of the command line; None for those of this process.

    Returns:
        The exit code.
    """
    options = build_parser().parse_args(arguments)
    # Read when torch starts: waiting threads that spin make a busy machine many times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    code = None
    try:
        code = options.command(options)  # None, or what a check found
    except IsoglossError as error:
        sys.stderr.write(f"isogloss: {error}\n")
        return _WRONG_USE
    except KeyboardInterrupt:
        sys.stderr.write("isogloss: interrupted; repeat the command to resume\n")
        return _INTERRUPTED
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        sys.stderr.close()
    return code or 0
