"""The command `study`."""
# ruff: noqa: PLC0415 - heavy rooms are imported when the command needs them, so that help is instant

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from isogloss.cli.ablate import show_selectivity
from isogloss.cli.options import Subparsers, add_example, add_json, add_output
from isogloss.cli.output import print_json, print_line, print_table, show_evaluation
from isogloss.errors import IsoglossError

if TYPE_CHECKING:
    from isogloss.workflows import StudyResult

__all__ = ["register_demo", "register_study", "show_study"]


def register_demo(subparsers: Subparsers) -> None:
    """Add `demo`."""
    parser = subparsers.add_parser("demo", help="run a complete study on the included model, offline")
    add_output(parser, "folder of the study (default %(default)s)", default="isogloss-demo")
    add_json(parser)
    parser.set_defaults(command=_demo)


def _demo(options: argparse.Namespace) -> None:
    from isogloss.workflows import DEMO, run_study

    show_study(run_study(DEMO, options.output), as_json=options.json)


def register_study(subparsers: Subparsers) -> None:
    """Add `study`."""
    parser = subparsers.add_parser(
        "study", help="capture, analyse, plan, evaluate and report as configured in a file, or as a recipe does"
    )
    parser.add_argument("study", nargs="?", metavar="STUDY.toml|RECIPE", help="a file, or a name that --list shows")
    add_example(parser, "study")
    parser.add_argument("--list", action="store_true", help="list the recipes that ship with isogloss")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="say what will be fetched, how many tokens and answers it takes, and estimate time and disk",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="replace a setting, such as model=./folder or dtype=bfloat16; repeatable",
    )
    parser.add_argument("-o", "--output", type=Path, help="folder of the study; repeat the command to resume it")
    add_json(parser)
    parser.set_defaults(command=_study)


def _study(options: argparse.Namespace) -> None:
    if options.list:
        _show_recipes(as_json=options.json)
        return
    if options.study is None:
        raise IsoglossError(
            "no study is named; expected a file or a recipe: isogloss study --list shows the "
            "recipes, --example a file with every setting"
        )
    from isogloss.workflows import find_study, preview_study, run_study

    found = find_study(options.study)
    study = found.study.with_settings(options.set)
    if options.dry_run:
        preview = preview_study(study)
        if options.json:
            print_json(preview.to_json())
        for sentence in () if options.json else preview.sentences:
            print_line(sentence)
        return
    if options.output is None:
        raise IsoglossError("no folder is named for the study; give -o FOLDER, or --dry-run")
    show_study(run_study(study, options.output, recipe=found.recipe), as_json=options.json)


def _show_recipes(*, as_json: bool) -> None:
    from isogloss.workflows import find_study, recipe_names

    studies = {name: find_study(name).study for name in recipe_names()}
    if as_json:
        print_json([{"name": name, "title": study.title, "model": study.model} for name, study in studies.items()])
        return
    print_table(["recipe", "what it repeats"], [[name, study.title] for name, study in studies.items()])


def show_study(result: StudyResult, *, as_json: bool) -> None:
    """Print the findings of a study, its accuracy table, published numbers beside it, and the path of its report."""
    if as_json:
        published = {} if result.published is None else {"published": result.published.to_json()}
        findings = [*result.findings, *result.effects]
        ablation = {} if result.ablation is None else {"ablation": result.ablation.to_json()}
        print_json({"findings": findings, **published, **ablation, "report": str(result.report)})
        return
    if result.evaluation is not None:
        show_evaluation(result.evaluation, as_json=False)
    if result.ablation is not None:
        show_selectivity(result.ablation)
    for sentence in (*result.findings, *(() if result.evaluation else result.effects)):
        print_line(sentence)
    if result.published is not None:
        from isogloss.reports.published import HEADER

        print_table(HEADER[:-1], [row.cells[:-1] for row in result.published.rows])
        for sentence in result.published.sentences:
            print_line(sentence)
    print_line(str(result.report))
