"""`inspect`: the tokens that one expert is chosen for, and which experts to begin with."""
# ruff: noqa: PLC0415 - the imports inside functions are the point: help is instant

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from isogloss.cli.options import Subparsers, add_force, add_json, codes, whole_number

if TYPE_CHECKING:
    from isogloss.analysis import ExpertTokens, SpecificExperts

__all__ = ["register_inspect"]


def _expert(text: str) -> tuple[int, int]:
    """Read ``LAYER:EXPERT``."""
    if match := re.fullmatch(r"(\d+):(\d+)", text):
        return int(match[1]), int(match[2])
    numbers = re.findall(r"\d+", text)
    meant = f"; did you mean {':'.join(numbers)}?" if len(numbers) == 2 else ""  # noqa: PLR2004 - a layer and an expert
    raise argparse.ArgumentTypeError(f"{text!r} is no expert; expected LAYER:EXPERT such as 7:12, 0-based{meant}")


def register_inspect(subparsers: Subparsers) -> None:
    """Add `inspect`."""
    parser = subparsers.add_parser(
        "inspect", help="list the tokens that an expert is chosen for, against chance, or experts to begin with"
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a Run of `isogloss capture --token-counts`")
    parser.add_argument(
        "expert",
        type=_expert,
        nargs="?",
        metavar="LAYER:EXPERT",
        help="decoder layer and expert, 0-based (default: list the most specific expert of each language)",
    )
    parser.add_argument("--languages", type=codes, default=(), metavar="L,L", help="default: all of the Run")
    parser.add_argument("--top", type=whole_number(1), default=20, metavar="K", help="tokens per language (default 20)")
    parser.add_argument(
        "--least",
        type=whole_number(1),
        default=5,
        metavar="N",
        help="leave out tokens that were counted fewer times (default 5)",
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write an HTML page, too")
    add_force(parser)
    add_json(parser)
    parser.set_defaults(command=_inspect)


def _inspect(options: argparse.Namespace) -> None:
    from isogloss import open_run
    from isogloss.analysis import expert_tokens, require_token_counts, specific_experts
    from isogloss.cli.output import print_json, show_path
    from isogloss.errors import RunError
    from isogloss.progress import busy
    from isogloss.reports import require_expert_page, write_expert_page

    run = open_run(options.run)
    require_token_counts(run)
    if options.expert is None:
        if options.output is not None:
            raise RunError(f"-o {options.output} is for one expert; name it: isogloss inspect {run.path} LAYER:EXPERT")
        with busy("inspect"):
            experts = specific_experts(run, languages=options.languages, top=options.top)
        if options.json:
            print_json(experts.to_json())
        else:
            _print_experts(experts, run.path)
        return
    if options.output is not None:
        require_expert_page(options.output, force=options.force)
    with busy("inspect"):
        result = expert_tokens(run, *options.expert, languages=options.languages, top=options.top, least=options.least)
    if options.output is not None:
        write_expert_page(result, options.output, force=options.force)
    if options.json:
        print_json(result.to_json())
        return
    _print_tokens(result)
    if options.output is not None:
        show_path(options.output)


def _print_experts(experts: SpecificExperts, run: Path) -> None:
    from isogloss.cli.output import print_line, print_table
    from isogloss.runs import UNFINISHED

    if experts.status == "partial":
        print_line(UNFINISHED)
    rows = [[each.language, f"{each.layer}:{each.expert}", each.score.text()] for each in experts.experts]
    print_table(["language", "expert", "specificity"], rows)
    first = experts.experts[0]
    print_line(f"isogloss inspect {run} {first.layer}:{first.expert} lists the tokens that it is chosen for")


def _print_tokens(result: ExpertTokens) -> None:
    from isogloss.cli.output import print_line, print_table
    from isogloss.reports import describe_tokens, lift_text
    from isogloss.runs import UNFINISHED
    from isogloss.terminal import visible

    if result.status == "partial":
        print_line(UNFINISHED)
    for each in result.languages:
        print_line(f"{each.language}: {describe_tokens(each, result.least)}")
        rows = [
            [
                visible(row.token),
                str(row.token_id),
                f"{row.n:,}",
                f"{row.lift.n:,}",
                f"{row.chosen:,}",
                lift_text(row.lift),
                f"{100 * row.share:.1f}",
            ]
            for row in each.tokens
        ]
        if rows:
            print_table(["token", "id", "counted", "items", "chosen", "lift", "% of its choices"], rows)
