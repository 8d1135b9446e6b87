"""`push`: share a plan, router adapter or Run on the hub."""
# ruff: noqa: PLC0415 - the imports inside functions are the point: help is instant

from __future__ import annotations

import argparse
from pathlib import Path

from isogloss.cli.options import Subparsers
from isogloss.cli.output import print_line

__all__ = ["register_push"]


def register_push(subparsers: Subparsers) -> None:
    """Add `push`."""
    parser = subparsers.add_parser("push", help="share a plan, router adapter or Run on the hub, with a card")
    parser.add_argument("source", type=Path, metavar="PATH", help="file of a plan, folder of an adapter or of a Run")
    parser.add_argument("repository", metavar="OWNER/NAME", help="made if it is not there")
    parser.add_argument(
        "--evaluation", type=Path, metavar="EVAL", help="folder of an evaluation of it, whose numbers the card states"
    )
    parser.add_argument("--private", action="store_true", help="make a private repository")
    parser.add_argument("--dry-run", action="store_true", help="print the card and the names of the files, and end")
    parser.add_argument("--force", action="store_true", help="upload into a repository that holds something else")
    parser.set_defaults(command=_push)


def _push(options: argparse.Namespace) -> None:
    from isogloss.workflows.push import prepare_push, push

    shared = prepare_push(options.source, options.repository, evaluation=options.evaluation)
    if options.dry_run:
        print_line(shared.card)
        print_line(f"files: {', '.join(shared.files)}")
        return
    url = push(shared, private=options.private, force=options.force)
    print_line(url)
    print_line(f"read it as {shared.address}")
