"""The command `adapt`."""
# ruff: noqa: PLC0415 - heavy rooms are imported when the command needs them, so that help is instant

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from isogloss.cli import output
from isogloss.cli.options import (
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
)
from isogloss.errors import LanguageError, RunError

if TYPE_CHECKING:
    from isogloss.learning import AdaptOptions, AdaptReport

__all__ = ["register_adapt"]

_OF_PROTECTION = ("protect", "bound", "bound_on")


def register_adapt(subparsers: Subparsers) -> None:
    """Add `adapt`."""
    parser = subparsers.add_parser(
        "adapt", help="turn a plan into a router adapter: a small change of weights, by language, for any engine"
    )
    parser.add_argument(
        "plan", type=Path, metavar="PLAN", help="file of a plan of kind offset, or of ban for all requests"
    )
    add_model(parser)
    parser.add_argument(
        "--corpus", required=True, help="texts in as many languages as can be had, as of `isogloss capture`"
    )
    add_count(parser, "--items", "only the first N items of the corpus")
    parser.add_argument("--split", help="split of the corpus to read, if it has splits")
    about = "of the plan, to keep; of a plan for all requests, those whose tokens the adapter is for"
    add_codes(parser, "--languages", about, default=())
    _add_choice(parser)
    add_pivot(parser)
    add_loading(parser)
    add_output(parser, "folder of the adapter, new or empty")
    add_json(parser)
    parser.set_defaults(command=_adapt)


def _add_choice(parser: argparse.ArgumentParser) -> None:
    """Add what ridge and strength are chosen by."""
    add_task(parser, "whose dev items choose ridge and strength (default: what comes closest to the plan)")
    add_count(parser, "--n-dev", "most dev items of the task")
    add_codes(parser, "--protect", "languages under the bound (default: all but the plan's)", default=())
    parser.add_argument(
        "--weights",
        type=_weights,
        default={},
        metavar="L=W,L=W",
        help="of languages in the fit (default: pivot 3, else 1)",
    )
    parser.add_argument(
        "--bound",
        type=number(least=0),
        metavar="X",
        help="how far a protected language may move: divergence of the next token in nats per token (default 0.02), or "
        "fall of the mean accuracy (default 0.02)",
    )
    parser.add_argument("--bound-on", choices=("kl", "accuracy"), help="accuracy needs --task (default kl)")
    parser.add_argument("--ridges", type=_numbers, metavar="X,X", help="to choose from (default 0.0001,0.001,0.01,0.1)")
    parser.add_argument("--strengths", type=_numbers, metavar="X,X", help="to choose from (default 0.5,1,1.5,2,3)")


def _adapt(options: argparse.Namespace) -> None:
    from isogloss.backends.open import load
    from isogloss.evaluation import load_task
    from isogloss.folders import require_new_folder
    from isogloss.learning.adapt_languages import languages_of, refuse_idle
    from isogloss.learning.plan_ranks import ranks_of
    from isogloss.steering import read_plan
    from isogloss.workflows import adapt, open_corpus

    require_new_folder(options.output)
    plan, settings = read_plan(options.plan), _settings(options)
    ranks = ranks_of(plan, settings.languages)  # this and what follows refuse before a model is loaded
    refuse_idle(
        ranks, [f"--{name.replace('_', '-')}" for name in _OF_PROTECTION if getattr(options, name) not in (None, ())]
    )
    corpus = open_corpus(options.corpus, split=options.split, n_items=options.items)
    languages = languages_of(ranks, corpus, settings)
    task = None if options.task is None else load_task(options.task, split="dev", n_items=options.n_dev)
    if task is not None:
        languages.items_of(task, corpus, settings)
    model = load(options.model, dtype=options.dtype, device=options.device, dequantize=options.dequantize)
    adapted = adapt(model, plan, corpus, out=options.output, task=task, options=settings)
    if options.json:
        raw = {"path": str(options.output), "sha256": adapted.adapter.sha256, **adapted.report.to_json()}
        output.print_json(raw)
        return
    _show(adapted.report)
    output.print_line(str(options.output))


def _settings(options: argparse.Namespace) -> AdaptOptions:
    from isogloss.languages import resolve
    from isogloss.learning import AdaptOptions

    if options.bound_on == "accuracy" and options.task is None:
        raise RunError("--bound-on accuracy needs --task, whose dev items are answered; give one, or bound the KL")
    if options.n_dev is not None and options.task is None:
        raise RunError("--n-dev without --task has no meaning; leave it out, or give a task")
    names = ("bound", "bound_on", "ridges", "strengths")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    return AdaptOptions(
        languages=tuple(resolve(code) for code in options.languages),
        protected=tuple(resolve(code) for code in options.protect),
        weights=_resolved(options.weights),
        pivot=resolve(options.pivot),
        **given,
    )


def _resolved(weights: dict[str, float]) -> dict[str, float]:
    from isogloss.languages import resolve

    resolved = {resolve(code): weight for code, weight in weights.items()}
    if len(resolved) < len(weights):
        raise LanguageError(f"--weights names a language twice: {', '.join(weights)}; give every language one weight")
    return resolved


def _numbers(text: str) -> tuple[float, ...]:
    """Read numbers above 0, separated by commas."""
    return tuple(number(above=0)(part) for part in text.split(","))


def _weights(text: str) -> dict[str, float]:
    """Read ``L=W,L=W``."""
    weights = {}
    for part in text.split(","):
        code, equals, value = part.partition("=")
        if not equals or not code or code in weights:
            raise argparse.ArgumentTypeError(f"{part!r} is no weight of a language; expected L=W such as eng_Latn=3")
        weights[code] = number(above=0)(value)
    return weights


def _show(report: AdaptReport) -> None:
    """Print the curve, what the probes do, and how close the adapter comes to the plan."""
    _show_curve(report)
    output.print_line("")
    _show_probes(report)
    output.print_line("")
    rows = [
        [
            each.language,
            _share(each.same_without),
            _share(each.same_experts),
            f"{each.kl_without:.3f}",
            f"{each.kl:.3f}",
        ]
        for each in report.agreement
    ]
    head = ["language", "same experts as the plan: unsteered", "adapter", "KL from the plan: unsteered", "adapter"]
    output.print_table(head, rows)
    if report.obeyed:
        shares = [f"layer {layer}: {_share(share)}" for layer, share in report.obeyed.items()]
        output.print_line(f"ban: of all tokens, so many choose none of the banned experts: {'; '.join(shares)}")
    if report.dev_task is not None:
        before, plan = fmean(report.before.values()), fmean(report.plan.values())
        output.print_line(
            f"{report.metric} on the dev items, mean of {', '.join(report.targets)}: {before:.3f} unsteered, "
            f"{plan:.3f} with the plan. Ridge and strength were chosen on these items: evaluate the adapter on the "
            "test split, beside the plan (--arms plan=rule:PLAN)."
        )


def _show_curve(report: AdaptReport) -> None:
    head, rows = ["ridge", "strength", f"{report.metric}, mean", ""], []
    for point in report.curve:
        value = f"{fmean(point.value.values()):.4f}" if point.keeps_bound else "beyond the bound"
        is_chosen = (point.ridge, point.strength) == (report.ridge, report.strength)
        rows.append([f"{point.ridge:g}", f"{point.strength:g}", value, "chosen" if is_chosen else ""])
    if report.protected:
        on_kl = report.bound_on == "kl"
        head.insert(2, "largest KL of a protected language" if on_kl else "mean fall in protected languages")
        for row, point in zip(rows, report.curve, strict=True):
            row.insert(2, f"{(max if on_kl else fmean)(point.moved.values()):.4f}")
    output.print_table(head, rows)
    if not report.protected:
        output.print_line(
            "The plan is for all requests: the adapter acts on every token of every language, as the plan does, and no "
            "language is protected."
        )


def _show_probes(report: AdaptReport) -> None:
    """Print the mean value of each probe over layers: own languages, others, and languages that it has not seen."""
    rows = []
    for rank in report.ranks:
        own = set(report.targets if rank == "constant" else rank.split("+"))
        for part in ("text", "prompt", "answer"):
            values = [each for each in report.probes if each.rank == rank and each.part == part]
            of = {
                "own": [fmean(each.mean) for each in values if each.language in own and each.fitted],
                "others": [fmean(each.mean) for each in values if each.language not in own and each.fitted],
                "unseen": [fmean(each.mean) for each in values if not each.fitted],
            }
            if values:
                largest = [_largest(of[name]) for name in ("others", "unseen")]
                rows.append([rank, part, f"{fmean(of['own']):.2f}" if of["own"] else "", *largest])
    head = ["probe", "on", "its own language", "largest of another", "largest of one left out of the fit"]
    output.print_table(head, rows)


def _largest(values: Sequence[float]) -> str:
    return f"{max(values):.2f}" if values else ""


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"
