"""`models`: what is supported, and on which versions of transformers it was proven."""

from __future__ import annotations

import argparse
import re
import textwrap
from typing import TYPE_CHECKING

from isogloss.cli.options import Subparsers, add_json
from isogloss.cli.output import print_json, print_line, print_table

if TYPE_CHECKING:
    from isogloss.backends.support import Support

__all__ = ["register_models"]

_LONGEST_NOTE = 60


def register_models(subparsers: Subparsers) -> None:
    """Add `models`."""
    parser = subparsers.add_parser(
        "models", help="list the supported model families and the versions each was tested on"
    )
    add_json(parser)
    parser.set_defaults(command=_models)


def _models(options: argparse.Namespace) -> None:
    from isogloss.backends.support import supported_models  # noqa: PLC0415 - help is instant

    supports = supported_models()
    if options.json:
        print_json([support.to_json() for support in supports])
        return
    columns = ["model type", "for example", "chooses by", "bakes", "transformers", "note"]
    print_table(columns, [_row(support) for support in supports], longest=len(supports))
    print_line(
        "A model bakes plans of the kinds that its routers' biases hold, and every one adapters: `isogloss bake`"
    )
    print_line("Versions are those that it was proven on. What was proven, and whole notes: --json")


def _row(support: Support) -> list[str]:
    if support.status == "refused":
        return [support.model_type, "", "", "", "refused", support.reason or ""]
    note = textwrap.shorten(re.split("[;:]", support.note)[0], _LONGEST_NOTE, placeholder=" …")
    versions = ", ".join(support.transformers) or support.status
    return [
        support.model_type,
        support.example or "",
        support.selection,
        ", ".join(support.baked_kinds),
        versions,
        note,
    ]
