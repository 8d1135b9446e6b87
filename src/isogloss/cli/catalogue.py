"""`tasks` and `corpora`: what can be named after --task and --corpus."""
# ruff: noqa: PLC0415 - the imports inside functions are the point: help is instant

from __future__ import annotations

import argparse

from isogloss.cli.options import Subparsers, add_json
from isogloss.cli.output import print_json, print_line, print_table

__all__ = ["register_corpora", "register_tasks"]


def register_tasks(subparsers: Subparsers) -> None:
    """Add `tasks`."""
    parser = subparsers.add_parser("tasks", help="list the tasks known by name, their variants and sizes")
    add_json(parser)
    parser.set_defaults(command=_tasks)


def register_corpora(subparsers: Subparsers) -> None:
    """Add `corpora`."""
    parser = subparsers.add_parser("corpora", help="list the corpora known by name, and how files of your own look")
    add_json(parser)
    parser.set_defaults(command=_corpora)


def _tasks(options: argparse.Namespace) -> None:
    from isogloss.evaluation.tasks.catalogue import TASK_FACTS

    if options.json:
        print_json([task.to_json() for task in TASK_FACTS])
        return
    rows = [[task.name, task.asks, str(task.languages), task.items, task.source] for task in TASK_FACTS]
    print_table(["task", "asks", "languages", "items per language", "source"], rows)
    for task in TASK_FACTS:
        for variant, change in task.variants.items():
            print_line(f"{task.name}:{variant}: {change}")
    print_line("./FOLDER: your own, one xxx_Xxxx.tsv per language, each line a question, a tab, and a number")
    print_line("NAME:FOLDER reads a local copy; NAME@REVISION a commit of the hub's; --split dev or test takes a half")
    print_line("lm-eval:NAME: any task of lm-evaluation-harness, where it is installed")


def _corpora(options: argparse.Namespace) -> None:
    from isogloss.corpora.catalogue import CORPUS_FACTS, CORPUS_LAYOUTS

    if options.json:
        print_json(
            {
                "corpora": [corpus.to_json() for corpus in CORPUS_FACTS],
                "layouts": [layout.to_json() for layout in CORPUS_LAYOUTS],
            }
        )
        return
    rows = [[each.name, each.texts, each.languages, each.items, each.source] for each in CORPUS_FACTS]
    print_table(["corpus", "an item is", "languages", "items per language", "source"], rows)
    for layout in CORPUS_LAYOUTS:
        print_line(f"{layout.source}: {layout.layout}")
