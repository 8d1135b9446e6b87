"""The command `learn`."""
# ruff: noqa: PLC0415 - heavy rooms are imported when the command needs them, so that help is instant

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from isogloss.cli import output
from isogloss.cli.options import (
    SEED,
    Subparsers,
    add_codes,
    add_count,
    add_json,
    add_loading,
    add_model,
    add_output,
    add_pivot,
    add_task,
    number,
    parse_layers,
)

if TYPE_CHECKING:
    from isogloss.learning import Learned, LearnedSet, LearningData, LearnOptions

__all__ = ["register_learn"]

_OF_PLANS = ("offset", "select")
_NUMBERS = (
    "steps",
    "batch_size",
    "batch_tokens",
    "learning_rate",
    "dev_every",
    "leash",
    "alignment_weight",
    "seed",
    "rank",
    "tolerance",
)


def register_learn(subparsers: Subparsers) -> None:
    """Add `learn`."""
    parser = subparsers.add_parser(
        "learn",
        help="learn a plan (offsets on router logits) or a router adapter, from examples or parallel texts",
    )
    add_model(parser)
    parser.add_argument(
        "--objective",
        choices=("answers", "alignment", "both"),
        default="answers",
        help="answers: cross-entropy of answers after their prompts; alignment: divergence of parallel texts from the "
        "pivot's, which are fixed (default %(default)s)",
    )
    _add_parameters(parser)
    _add_sources(parser)
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--shared", action="store_true", help="one set of offsets for all requests")
    kinds.add_argument("--per-language", action="store_true", help="one set for each (default for offsets)")
    parser.add_argument("--layers", type=parse_layers, metavar="A-B", help="decoder layers, 0-based, inclusive")
    _add_loss(parser)
    _add_steps(parser)
    add_pivot(parser)
    add_loading(parser)
    add_output(parser, "folder of the plan or adapter; repeat the command to resume")
    add_json(parser)
    parser.set_defaults(command=_learn)


def _add_parameters(parser: argparse.ArgumentParser) -> None:
    """Add what is learned, and what must stay as it is."""
    parser.add_argument(
        "--parameters",
        choices=(*_OF_PLANS, "low-rank", "router"),
        default="offset",
        help="offset: a plan; select: a plan that decides who is chosen and leaves weights alone, with --estimator "
        "search; low-rank: an adapter, matrices that are added to router weights; router: an adapter of "
        "full rank, router weights whole (default %(default)s)",
    )
    add_count(parser, "--rank", "of a low-rank adapter (default 8)")
    parser.add_argument(
        "--start", metavar="ADAPTER", help="adapter of low rank to go on from; it is step 0, kept if no step is better"
    )
    parser.add_argument(
        "--probes",
        choices=("learned", "fixed"),
        default="learned",
        help="fixed: keep those of --start, and learn what they add to the logits (default %(default)s)",
    )
    add_codes(
        parser,
        "--protect",
        "languages that an adapter must leave as they are, the pivot among them (default: all of --generic, or of the "
        "task, that are not learned)",
    )
    parser.add_argument(
        "--tolerance",
        type=number(least=0),
        metavar="X",
        help="largest loss of the pivot, and of the mean of protected languages, on dev items (default 0.02)",
    )


def _add_sources(parser: argparse.ArgumentParser) -> None:
    """Add what the plan is learned from and chosen on."""
    add_task(parser, "whose dev items choose the best step (default: held-out examples, by bits per byte)")
    parser.add_argument(
        "--examples",
        metavar="TASK|FILE.jsonl",
        help="a task whose dev items are examples, or lines with language, prompt and answer, or language and text "
        "(default: --task; items are divided by the hash of their id)",
    )
    parser.add_argument(
        "--parallel", metavar="CORPUS", help="parallel texts to align (default: the prompts of the examples' task)"
    )
    parser.add_argument("--generic", metavar="CORPUS", help="generic texts for the leash (default: --parallel)")
    add_codes(parser, "--languages", "default: all but the pivot", default=())
    add_count(parser, "--items", "items of the dev split to read")
    add_count(parser, "--n-dev", "most dev items per language")
    add_count(parser, "--n-examples", "most examples per language")


def _add_loss(parser: argparse.ArgumentParser) -> None:
    """Add what is made small, and by what gradient."""
    parser.add_argument(
        "--estimator", choices=("gradient", "straight-through", "search"), default="gradient", help="default gradient"
    )
    parser.add_argument("--divergence", choices=("hjs", "js"), default="hjs", help="of the alignment (default hjs)")
    parser.add_argument(
        "--leash",
        type=number(least=0),
        metavar="W",
        help="weight of the next token's divergence on generic text (default 0; 3 for an adapter)",
    )
    parser.add_argument(
        "--alignment-weight", type=number(above=0), metavar="W", help="factor of the divergence (default 10)"
    )


def _add_steps(parser: argparse.ArgumentParser) -> None:
    """Add the steps, and what each takes."""
    add_count(parser, "--steps", "for each set (default 120)")
    add_count(parser, "--batch-size", "texts per step (default 8)")
    add_count(parser, "--batch-tokens", "most tokens per forward (default 4096)")
    parser.add_argument(
        "--learning-rate",
        type=number(above=0),
        metavar="X",
        help="of Adam (default: 0.03 for offsets, 0.003 for select, 0.005 for low-rank, 0.001 for router)",
    )
    add_count(parser, "--dev-every", "steps between measurements (default 20)")
    parser.add_argument("--seed", type=SEED, help="of batches and search (default 0)")
    parser.add_argument(
        "--checkpointing", action="store_true", help="compute layers again in the backward pass: less memory, more time"
    )


def _learn(options: argparse.Namespace) -> None:
    from isogloss.backends.open import load
    from isogloss.evaluation import SETTINGS
    from isogloss.folders import require_folder
    from isogloss.steering import read_adapter
    from isogloss.workflows import learn_with_progress

    require_folder(options.output, SETTINGS)
    settings = _settings(options)
    start = None if options.start is None else read_adapter(options.start)
    data = _data(options)
    if options.tolerance is not None:
        data.require_guarded(settings.pivot, f"--tolerance {options.tolerance:g}")
    model = load(options.model, dtype=options.dtype, device=options.device, dequantize=options.dequantize)
    learned = learn_with_progress(model, data, out=options.output, options=settings, start=start)
    _show(learned, options)


def _settings(options: argparse.Namespace) -> LearnOptions:
    from isogloss.languages import resolve
    from isogloss.learning import LearnOptions

    _refuse_mixed(options)
    names = ("objective", "parameters", "probes", "shared", "layers", "estimator", "divergence", "checkpointing")
    given = {name: getattr(options, name) for name in _NUMBERS if getattr(options, name) is not None}
    return LearnOptions(**{name: getattr(options, name) for name in names}, **given, pivot=resolve(options.pivot))


def _refuse_mixed(options: argparse.Namespace) -> None:
    """Refuse options that say nothing about what is learned."""
    from isogloss.errors import RunError

    if options.parameters in _OF_PLANS:
        named = [name for name in ("rank", "start", "protect", "tolerance") if getattr(options, name) is not None]
        if named:
            raise RunError(f"--{named[0]} is for adapters; add --parameters low-rank or router, or leave it out")
    elif options.per_language:
        raise RunError("--per-language is for offsets: an adapter acts on every request, whatever its language")
    if options.parameters == "low-rank" and options.rank is not None and options.start is not None:
        raise RunError("--rank is that of the adapter to start from; leave one of --rank and --start out")
    if options.parameters == "router" and (options.rank or options.start) is not None:
        raise RunError("--rank and --start are for --parameters low-rank: router weights are learned whole, from 0")


def _data(options: argparse.Namespace) -> LearningData:
    from isogloss.learning import gather_data
    from isogloss.workflows import open_corpus

    parallel, generic = (
        None if source is None else open_corpus(source) for source in (options.parallel, options.generic)
    )
    return gather_data(
        options.task,
        examples=options.examples,
        languages=options.languages,
        pivot=options.pivot,
        answers=options.objective != "alignment",
        alignment=options.objective != "answers",
        parallel=parallel,
        generic=generic,
        n_items=options.items,
        n_dev=options.n_dev,
        n_examples=options.n_examples,
        protect=() if options.parameters in _OF_PLANS else options.protect,
    )


def _show(learned: Learned, options: argparse.Namespace) -> None:
    from isogloss.languages import resolve
    from isogloss.learning.folder import ADAPTER, PLAN
    from isogloss.steering import Plan

    is_plan = isinstance(learned.plan, Plan)
    path = options.output / (PLAN if is_plan else ADAPTER)
    if options.json:
        raw = {"metric": learned.metric, "sets": [each.to_json() for each in learned.sets]}
        guarded = {} if is_plan else {"guarded": [code for each in learned.sets for code in each.guards]}
        output.print_json({"path": str(path), "sha256": learned.plan.sha256, **raw, **guarded})
        return
    started = any(each.started for each in learned.sets)
    rows = [
        [code, *_values(code, each.dev_before, each.dev_start, each.dev), _step(each), _kl(each.kl)]
        for each in learned.sets
        for code in each.languages
    ]
    output.print_table(
        ["language", f"dev {learned.metric} before", *["start"] * started, "learned", "best step", "KL"], rows
    )
    for each in learned.sets:
        if each.without_gradient:
            output.print_line(
                f"{', '.join(each.languages)}: {each.without_gradient} of {each.n_experts} experts had no gradient in "
                f"any step and {'keep offset 0' if is_plan else 'stay as they were'}"
            )
        if each.protected_kl or each.protected_before:
            _show_protected(each, resolve(options.pivot), learned.metric)
        if not is_plan and (line := each.unguarded(resolve(options.pivot))):
            output.print_line(line)
    if any(math.isnan(each.kl) for each in learned.sets):
        output.print_line("KL was not measured: it needs generic text of the pivot (--generic CORPUS).")
    for line in _advice(learned, "plan" if is_plan else "adapter"):
        output.print_line(line)
    output.print_line(str(path))


def _advice(learned: Learned, what: str) -> list[str]:
    """Say what was chosen and what to do next."""
    if any(each.started for each in learned.sets):
        return _advice_on_start(learned.sets[0], learned.metric)
    advice = f"The best step was chosen on these dev items: evaluate the {what} on the test split."
    if learned.plan.is_empty:
        advice = {
            "plan": "No step did better on the dev items than no offsets, so the plan is empty: give more examples or "
            "steps.",
            "adapter": "No step did better on the dev items within the tolerance, so the adapter changes nothing: give "
            "more examples or steps, or a wider --tolerance.",
        }[what]
    return [advice]


def _advice_on_start(learned: LearnedSet, metric: str) -> list[str]:
    advice = "The best step was chosen on these dev items: evaluate the adapter on the test split."
    if learned.best_step is None:
        advice = (
            "Neither the adapter to start from nor any step keeps the protected languages within the tolerance, so the "
            "adapter changes nothing: start from another, give more steps, or a wider --tolerance."
        )
    elif learned.best_step == 0:
        advice = (
            "No step did better on the dev items than the adapter that learning started from, within the tolerance, so "
            "it is kept as it was: give more examples or steps."
        )
    worse = "The dev items do worse with it than the unsteered model does without: evaluate it before use."
    return [advice, *[worse] * learned.is_worse(metric)]


def _show_protected(learned: LearnedSet, pivot: str, metric: str) -> None:
    """Print what protected languages had before and after, and how far they moved."""
    before, after = learned.protected_before or {}, learned.protected or {}
    unmeasured = dict.fromkeys((pivot, *before), math.nan)
    kl = {**unmeasured, **(learned.protected_kl or {}), pivot: learned.kl}
    rows = [
        [code, *_values(code, before, learned.protected_start or ({} if learned.started else None), after), _kl(value)]
        for code, value in kl.items()
    ]
    columns = ["protected language", f"dev {metric} before", *["start"] * learned.started, "learned", "KL"]
    output.print_table(columns, rows)


def _values(code: str, *values: Mapping[str, float] | None) -> list[str]:
    """Write a language's dev values; those of a start only where there was one."""
    return [f"{each[code]:.3f}" if code in each else "not measured" for each in values if each is not None]


def _step(learned: LearnedSet) -> str:
    return "none" if learned.best_step is None else str(learned.best_step)


def _kl(value: float) -> str:
    return "not measured" if math.isnan(value) else f"{value:.3g}"
