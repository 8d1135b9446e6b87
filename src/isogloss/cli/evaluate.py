"""The command `evaluate`."""
# ruff: noqa: PLC0415 - heavy rooms are imported when the command needs them, so that help is instant

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from isogloss.cli import output
from isogloss.cli.options import (
    SEED,
    Subparsers,
    add_backend,
    add_codes,
    add_count,
    add_json,
    add_loading,
    add_model,
    add_output,
    add_pivot,
    add_task,
    loading_options,
    number,
    whole_number,
)
from isogloss.errors import RunError

if TYPE_CHECKING:
    from isogloss.backends.model import Sampling
    from isogloss.evaluation import LmEvalTasks, Task

__all__ = ["register_evaluate"]

_ARMS = (
    "random[:N], early, late, layers=A-B[:TABLE.json], suppress, strength=S,S,…, experts=NAME:TABLE.json or "
    "plan=NAME:PLAN, of an adapter also other-probes; tables as `isogloss experts --json` prints them; repeatable "
    "(default: random:5)"
)
_SAMPLING = ("top_p", "top_k", "seed")
_LM_EVAL = "lm-eval:"
_OF_LM_EVAL = ("metric", "include_path")
_OF_TASKS = ("split", "temperature", *_SAMPLING)


def register_evaluate(subparsers: Subparsers) -> None:
    """Add `evaluate`."""
    parser = subparsers.add_parser(
        "evaluate", help="compare answers with and without a plan, item by item, with controls"
    )
    add_model(parser)
    parser.add_argument(
        "--plan", type=Path, required=True, metavar="PLAN", help="file of a plan, or folder of a router adapter"
    )
    add_task(
        parser,
        "a task's name, a folder with xxx_Xxxx.tsv, or lm-eval:NAME[,NAME] for tasks of lm-evaluation-harness",
        required=True,
    )
    parser.add_argument(
        "--metric", metavar="M", help="lm-eval: the metric to compare, such as acc (default: the first)"
    )
    parser.add_argument("--include-path", type=Path, metavar="DIR", help="lm-eval: folder with your own tasks")
    parser.add_argument("--split", help="dev for model selection, test for confirmation (default: all items)")
    add_codes(parser, "--languages", "default: all of the task")
    add_count(parser, "--items", "only the first N items")
    parser.add_argument("--arms", action="append", default=[], metavar="ARM", help=_ARMS)
    parser.add_argument("--controls", type=whole_number(0), metavar="N", help="the same as --arms random:N")
    add_count(parser, "--batch-size", "items per batch (default %(default)s)", default=64)
    _add_sampling(parser)
    add_backend(parser)
    add_pivot(parser)
    add_loading(parser)
    add_output(parser, "folder of the evaluation; repeat the command to resume a stopped one")
    add_json(parser)
    parser.set_defaults(command=_evaluate)


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    """Add how answers are drawn."""
    parser.add_argument("--temperature", type=number(above=0), metavar="T", help="sample answers (default: greedy)")
    parser.add_argument(
        "--top-p", type=number(above=0, most=1), metavar="P", help="with --temperature: nucleus sampling"
    )
    add_count(parser, "--top-k", "with --temperature: sample from the K most likely tokens", metavar="K")
    parser.add_argument("--seed", type=SEED, help="with --temperature: seed of the sampling (default 0)")


def _evaluate(options: argparse.Namespace) -> None:
    from isogloss import load
    from isogloss.evaluation import SETTINGS, RunOptions, make_arms
    from isogloss.folders import require_folder
    from isogloss.languages import resolve
    from isogloss.steering import RouterAdapter, read_steering
    from isogloss.workflows import evaluate_plan

    require_folder(options.output, SETTINGS)
    plan = read_steering(options.plan)
    loading = loading_options(options, adapter=isinstance(plan, RouterAdapter))
    run_options = RunOptions(options.batch_size, _sampling(options), resolve(options.pivot))
    arms = _arms(options)
    make_arms(plan, arms)  # refuses before a model is loaded
    task = _task(options)
    model = load(options.model, **loading)
    summary = evaluate_plan(model, plan, task=task, out=options.output, arms=arms, options=run_options)
    output.show_evaluation(summary, as_json=options.json)


def _task(options: argparse.Namespace) -> Task | LmEvalTasks:
    """Load a task of our own, or those of lm-eval."""
    if not options.task.startswith(_LM_EVAL):
        _refuse(options, _OF_LM_EVAL, f"--task {options.task}", f"--task {_LM_EVAL}NAME")
        from isogloss.evaluation import load_task

        return load_task(options.task, languages=options.languages, n_items=options.items, split=options.split)
    _refuse(options, _OF_TASKS, f"--task {options.task}", "a task that isogloss runs itself")
    from isogloss.evaluation import LmEvalOptions, LmEvalTasks, tasks_in
    from isogloss.languages import resolve

    names = tuple(options.task.removeprefix(_LM_EVAL).split(","))
    if not all(names):
        raise RunError(
            f"--task {options.task} names no task in some place; expected {_LM_EVAL}NAME or {_LM_EVAL}NAME,NAME"
        )
    names = tasks_in(names, tuple(resolve(code) for code in options.languages or ()))
    return LmEvalTasks(names, LmEvalOptions(options.items, options.include_path), metric=options.metric)


def _refuse(options: argparse.Namespace, names: tuple[str, ...], where: str, instead: str) -> None:
    """Refuse options that would not be read."""
    if given := [f"--{name.replace('_', '-')}" for name in names if getattr(options, name) is not None]:
        raise RunError(f"{', '.join(given)} has no meaning for {where}; leave it out, or give {instead}")


def _arms(options: argparse.Namespace) -> list[str]:
    if options.controls is not None:
        return [*options.arms, f"random:{options.controls}"]
    from isogloss.evaluation import N_RANDOM

    return options.arms or [f"random:{N_RANDOM}"]


def _sampling(options: argparse.Namespace) -> Sampling | None:
    from isogloss.backends.model import Sampling

    given = {name: getattr(options, name) for name in _SAMPLING if getattr(options, name) is not None}
    if options.temperature is not None:
        return Sampling(options.temperature, **given)
    if given:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise RunError(f"{names} without --temperature; answers are greedy: give --temperature, or leave {names} out")
    return None
