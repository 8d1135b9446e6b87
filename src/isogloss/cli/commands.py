"""One function per command; heavy rooms are imported when a command needs them, so that help is instant."""
# ruff: noqa: PLC0415 - the imports inside functions are the point

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from isogloss.cli import output
from isogloss.cli.options import (
    Subparsers,
    add_backend,
    add_corpus,
    add_expert_kind,
    add_expert_options,
    add_json,
    add_loading,
    add_output,
    add_pivot,
    codes,
    loading_options,
)

if TYPE_CHECKING:
    from isogloss.analysis import ExpertTable
    from isogloss.backends.model import CaptureOptions

__all__ = [
    "register_capture",
    "register_demo",
    "register_experts",
    "register_import",
    "register_merge",
    "register_organism",
    "register_plan",
    "register_report",
    "register_study",
]


def register_demo(subparsers: Subparsers) -> None:
    """Add `demo`."""
    parser = subparsers.add_parser("demo", help="run a complete study on the included model, offline")
    add_output(parser, "folder of the study (default %(default)s)", default="isogloss-demo")
    add_json(parser)
    parser.set_defaults(command=_demo)


def _demo(options: argparse.Namespace) -> None:
    from isogloss.workflows.study import DEMO, run_study

    output.show_study(run_study(DEMO, options.output), as_json=options.json)


def register_study(subparsers: Subparsers) -> None:
    """Add `study`."""
    parser = subparsers.add_parser("study", help="capture, analyse, plan, evaluate and report as configured in a file")
    parser.add_argument("study", type=Path, metavar="STUDY.toml")
    add_output(parser, "folder of the study")
    add_json(parser)
    parser.set_defaults(command=_study)


def _study(options: argparse.Namespace) -> None:
    from isogloss.workflows.study import read_study, run_study

    output.show_study(run_study(read_study(options.study), options.output), as_json=options.json)


def register_capture(subparsers: Subparsers) -> None:
    """Add `capture`."""
    parser = subparsers.add_parser("capture", help="run a corpus through a model and record its routing")
    parser.add_argument("model", metavar="MODEL", help="hub id, folder, or 'organism'")
    add_corpus(parser, required=True)
    parser.add_argument(
        "--tokens",
        choices=("content", "all"),
        default="content",
        help="whether special tokens are counted (default content: they are not)",
    )
    parser.add_argument(
        "--batch-tokens",
        type=int,
        default=8192,
        metavar="N",
        help="tokens per forward pass; vllm: tokens per call of vLLM",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed for sampling the tokens of the consistency measure")
    parser.add_argument(
        "--phase",
        choices=("prompt", "generation"),
        default="prompt",
        help="count the tokens of the texts, or those that the model generates after each text",
    )
    parser.add_argument(
        "--new-tokens", type=int, metavar="N", help="maximum number of generated tokens per text (default 64)"
    )
    parser.add_argument(
        "--distinct-from",
        metavar="L",
        help="also record profiles over the tokens that do not occur in this language's texts",
    )
    parser.add_argument(
        "--hidden-states", action="store_true", help="record each router's mean input; huggingface only"
    )
    add_backend(parser)
    add_loading(parser)
    parser.add_argument(
        "--plan", type=Path, metavar="PLAN.json", help="steer the model by this plan during the capture"
    )
    add_output(parser, "folder of the Run; repeat the command to resume a stopped capture")
    add_json(parser)
    parser.set_defaults(command=_capture)


def _capture(options: argparse.Namespace) -> None:
    from isogloss.backends.open import load
    from isogloss.languages import resolve
    from isogloss.steering import read_plan
    from isogloss.workflows.capture import CaptureRequest, capture_corpus
    from isogloss.workflows.corpora import open_corpus

    counted, loading = _counted(options), loading_options(options, hidden_states=options.hidden_states)
    plan = read_plan(options.plan) if options.plan else None
    languages = options.languages
    if languages is not None and options.distinct_from is not None:
        # The pivot's text is read also where its routing is not asked for.
        languages = (*languages, *({resolve(options.distinct_from)} - {resolve(language) for language in languages}))
    corpus = open_corpus(options.corpus, languages=languages, split=options.split, n_items=options.items)
    request = CaptureRequest(counted, plan, options.languages, options.distinct_from)
    output.show_run(
        capture_corpus(load(options.model, **loading), corpus, options.output, request), as_json=options.json
    )


def _counted(options: argparse.Namespace) -> CaptureOptions:
    """Read what `capture` counts; refuse what contradicts itself before a model is loaded."""
    from isogloss.backends.model import CaptureOptions
    from isogloss.errors import IsoglossError

    if options.new_tokens is not None and (options.phase != "generation" or options.new_tokens < 1):
        raise IsoglossError(
            f"--new-tokens {options.new_tokens} with --phase {options.phase}; expected --phase generation and a number "
            "of at least 1, or no --new-tokens"
        )
    return CaptureOptions(
        token_scope=options.tokens,
        batch_tokens=options.batch_tokens,
        seed=options.seed,
        phase=options.phase,
        new_tokens=options.new_tokens or CaptureOptions.new_tokens,
        hidden_states=options.hidden_states,
    )


def register_import(subparsers: Subparsers) -> None:
    """Add `import`."""
    parser = subparsers.add_parser("import", help="convert published counts into a pooled Run")
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--format", choices=("counts-json",), default="counts-json")
    add_output(parser, "folder of the Run")
    add_json(parser)
    parser.set_defaults(command=_import)


def _import(options: argparse.Namespace) -> None:
    from isogloss.runs import import_counts_json
    from isogloss.workflows.progress import busy

    with busy("import"):
        run = import_counts_json(options.folder, options.output)
    output.show_run(run, as_json=options.json)


def register_merge(subparsers: Subparsers) -> None:
    """Add `merge`."""
    parser = subparsers.add_parser("merge", help="merge Runs of one model and corpus")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    add_output(parser, "folder of the merged Run")
    add_json(parser)
    parser.set_defaults(command=_merge)


def _merge(options: argparse.Namespace) -> None:
    from isogloss.runs import merge
    from isogloss.workflows.progress import busy

    with busy("merge"):
        run = merge(options.runs, options.output)
    output.show_run(run, as_json=options.json)


def register_experts(subparsers: Subparsers) -> None:
    """Add `experts`."""
    parser = subparsers.add_parser(
        "experts", help="list experts selected by a rule, with intervals and the number expected by chance"
    )
    add_expert_options(parser)
    add_expert_kind(parser, "--kind")
    add_json(parser)
    parser.set_defaults(command=_experts)


def _experts(options: argparse.Namespace) -> None:
    output.show_experts(_find(options), as_json=options.json)


def register_plan(subparsers: Subparsers) -> None:
    """Add `plan`."""
    parser = subparsers.add_parser("plan", help="make a steering plan for the Run's model from selected experts")
    add_expert_options(parser)
    add_expert_kind(parser, "--expert-kind", "--share-kind")
    parser.add_argument("--kind", required=True, help="how the experts' logits are edited, such as soft or ban")
    parser.add_argument(
        "--strength", type=float, help="soft, adaptive: λ; offset: logits; other kinds have no strength"
    )
    parser.add_argument("--phase", choices=("prompt", "generation"), help="edit only these tokens (default: both)")
    parser.add_argument(
        "--for-languages", type=codes, default=(), metavar="L,L", help="edit only requests in these languages"
    )
    parser.add_argument(
        "--into",
        type=Path,
        metavar="PLAN.json",
        help="combine with this plan for the same model, for example one for other languages",
    )
    add_output(parser, "the plan's file")
    add_json(parser)
    parser.set_defaults(command=_plan)


def _plan(options: argparse.Namespace) -> None:
    from isogloss.steering import conditional, read_plan, united, write_plan

    other = read_plan(options.into) if options.into else None
    plan = _find(options).plan(options.kind, strength=options.strength)
    plan = conditional(plan, phase=options.phase, languages=options.for_languages)
    if other is not None:
        plan = united(other, plan)
    write_plan(plan, options.output)
    output.show_plan(plan, options.output, as_json=options.json)


def _find(options: argparse.Namespace) -> ExpertTable:
    from isogloss.analysis.expert_query import ExpertQuery, find_experts
    from isogloss.runs import open_run
    from isogloss.workflows.progress import busy

    run = open_run(options.run)
    query = ExpertQuery(
        rule=options.rule,
        threshold=options.threshold,
        layers=options.layers,
        kind=options.expert_kind,
        languages=options.languages,
        target=options.target,
        top=options.top,
        pivot=options.pivot,
        alpha=options.alpha,
        sign=options.sign,
    )
    with busy("experts"):
        return find_experts(run, query, base=open_run(options.base) if options.base else None)


def register_report(subparsers: Subparsers) -> None:
    """Add `report`."""
    parser = subparsers.add_parser(
        "report", help="write an HTML report of a Run, an analysis, an evaluation or a study"
    )
    parser.add_argument("source", type=Path, metavar="RUN|ANALYSIS|EVAL|STUDY")
    add_pivot(parser)
    add_output(parser, "the HTML file")
    parser.set_defaults(command=_report)


def _report(options: argparse.Namespace) -> None:
    from isogloss.reports import report_on
    from isogloss.workflows.progress import busy

    with busy("report"):
        path = report_on(options.source, options.output, pivot=options.pivot)
    output.show_path(path)


def register_organism(subparsers: Subparsers) -> None:
    """Add `organism`."""
    parser = subparsers.add_parser("organism", help="train the included model, or evaluate such a model")
    actions: Subparsers = parser.add_subparsers(required=True, metavar="ACTION")
    train = actions.add_parser("train", help="train from a seed; repeat the command to resume")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--tokens", type=int, default=None, help="training tokens (default: the shipped model's)")
    train.add_argument(
        "--text", type=Path, metavar="DIR", help="folder of parallel texts (xxx_Xxxx.*) to add to the training data"
    )
    add_output(train, "folder of checkpoints, log and finished model")
    train.set_defaults(command=_train)
    card = actions.add_parser("card", help="evaluate a trained model and write its model card")
    card.add_argument("model", type=Path, metavar="DIR", help="folder of a finished training")
    add_output(card, "the card's file")
    card.set_defaults(command=_card)


def _train(options: argparse.Namespace) -> None:
    from isogloss.workflows.organism import train_organism

    output.show_path(train_organism(options.output, seed=options.seed, tokens=options.tokens, text=options.text))


def _card(options: argparse.Namespace) -> None:
    from isogloss.workflows.organism import write_card

    output.show_path(write_card(options.model, options.output))
