"""`models`: what is supported, and on which versions of transformers it was proven."""

from __future__ import annotations

import argparse
import json
import re
import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from isogloss.cli.options import Subparsers, add_json

if TYPE_CHECKING:
    from isogloss.backends.support import Support

__all__ = ["register_models"]

_LONGEST_NOTE = 60
_FILE_WIDTH = 240  # where nobody's window says: no cell is folded, so that lines can be searched


def register_models(subparsers: Subparsers) -> None:
    """Add `models`."""
    parser = subparsers.add_parser("models", help="supported model families, and where each was proven")
    add_json(parser)
    parser.set_defaults(command=_models)


def _models(options: argparse.Namespace) -> None:
    from isogloss.backends.support import supported_models  # noqa: PLC0415 - help is instant

    supports = supported_models()
    if options.json:
        raw = [support.to_json() for support in supports]
        sys.stdout.write(json.dumps(raw, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    else:
        _show(supports)


def _show(supports: Sequence[Support]) -> None:
    """Print a table, refused model types last."""
    from rich.console import Console  # noqa: PLC0415 - as above
    from rich.table import Table  # noqa: PLC0415 - as above
    from rich.text import Text  # noqa: PLC0415 - as above

    table = Table(box=None, pad_edge=False)
    table.add_column("model type", no_wrap=True)
    table.add_column("for example", overflow="fold")
    table.add_column("chooses by")
    table.add_column("transformers", no_wrap=True)
    table.add_column("note")
    for support in supports:
        table.add_row(*map(Text, _row(support)))
    width = None if sys.stdout.isatty() else _FILE_WIDTH
    Console(file=sys.stdout, highlight=False, width=width).print(table)
    sys.stdout.write("Versions are those that it was proven on. What was proven, and whole notes: --json\n")


def _row(support: Support) -> list[str]:
    if support.status == "refused":
        return [support.model_type, "", "", "refused", support.reason or ""]
    note = textwrap.shorten(re.split("[;:]", support.note)[0], _LONGEST_NOTE, placeholder=" …")
    versions = ", ".join(support.transformers) or support.status
    return [support.model_type, support.example or "", support.choice, versions, note]
