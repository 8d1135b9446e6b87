"""`show`: the routing of sentences token by token."""
# ruff: noqa: PLC0415 - the imports inside functions are the point: help is instant

from __future__ import annotations

import argparse
from pathlib import Path

from isogloss.cli.options import (
    Subparsers,
    add_backend,
    add_codes,
    add_force,
    add_loading,
    add_model,
    add_output,
    add_pivot,
    loading_options,
)
from isogloss.errors import CorpusError

__all__ = ["register_show"]


def register_show(subparsers: Subparsers) -> None:
    """Add `show`."""
    parser = subparsers.add_parser("show", help="show which experts each token of some sentences goes to, as HTML")
    add_model(parser)
    parser.add_argument("texts", nargs="+", metavar="TEXT", help="a sentence, or its translations")
    add_codes(parser, "--languages", "language of each text, in their order (default: the pivot)")
    parser.add_argument("--plan", type=Path, metavar="PLAN", help="show what this plan or router adapter changes, too")
    add_pivot(parser)
    add_output(parser, "the HTML file")
    add_force(parser)
    add_backend(parser)
    add_loading(parser)
    parser.set_defaults(command=_show)


def _show(options: argparse.Namespace) -> None:
    from isogloss import load, show
    from isogloss.cli.output import show_path
    from isogloss.steering import read_steering

    languages = options.languages or [options.pivot]
    if len(languages) != len(options.texts):
        raise CorpusError(
            f"found {len(options.texts)} texts and {len(languages)} languages; name the language of each text by "
            "--languages, in their order"
        )
    if len(set(languages)) < len(languages):
        raise CorpusError(f"--languages {','.join(languages)} names a language twice; give one text in each")
    plan = read_steering(options.plan) if options.plan else None
    texts = dict(zip(languages, options.texts, strict=True))
    model = load(options.model, **loading_options(options))
    show_path(show(model, texts, options.output, plan=plan, pivot=options.pivot, force=options.force))
