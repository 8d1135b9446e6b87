"""One function per command; heavy rooms are imported when a command needs them, so that help is instant."""
# ruff: noqa: PLC0415 - the imports inside functions are the point

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
    add_corpus,
    add_count,
    add_expert_kind,
    add_expert_options,
    add_force,
    add_json,
    add_loading,
    add_model,
    add_output,
    add_pivot,
    loading_options,
    number,
)

if TYPE_CHECKING:
    from isogloss import CaptureOptions, Run
    from isogloss.analysis import ExpertTable

__all__ = [
    "register_capture",
    "register_experts",
    "register_import",
    "register_merge",
    "register_organism",
    "register_plan",
    "register_report",
]


def register_capture(subparsers: Subparsers) -> None:
    """Add `capture`."""
    parser = subparsers.add_parser("capture", help="run a corpus through a model and record its routing")
    add_model(parser)
    add_corpus(parser, required=True)
    _add_counted(parser)
    add_backend(parser)
    add_loading(parser)
    parser.add_argument(
        "--plan", type=Path, metavar="PLAN", help="steer the model by this plan or router adapter during the capture"
    )
    add_output(parser, "folder of the Run; repeat the command to resume a stopped capture")
    add_json(parser)
    parser.set_defaults(command=_capture)


def _add_counted(parser: argparse.ArgumentParser) -> None:
    """Add which tokens are counted, and what is recorded of them."""
    parser.add_argument(
        "--tokens",
        choices=("content", "all", "user", "assistant"),
        default="content",
        help="which tokens are counted: the texts' own (default content), all with special tokens and those of the "
        "chat template, or, with --chat, those of the user's or the assistant's messages",
    )
    add_count(
        parser,
        "--first-tokens",
        "count only the first N of them in each text, so that languages are compared at the same positions",
    )
    parser.add_argument(
        "--chat",
        action="store_true",
        help="write every text through the model's chat template, as the user's message, or as question and answer "
        "where the corpus has both; thinking off where the template knows it",
    )
    add_count(parser, "--batch-tokens", "tokens per forward pass; vllm: tokens per call of vLLM", default=8192)
    parser.add_argument("--seed", type=SEED, default=0, help="seed for sampling the tokens of the consistency measure")
    parser.add_argument(
        "--phase",
        choices=("prompt", "generation"),
        default="prompt",
        help="count the tokens of the texts, or those that the model generates after each text",
    )
    add_count(parser, "--new-tokens", "maximum number of generated tokens per text (default 64)")
    parser.add_argument(
        "--distinct-from",
        metavar="L",
        help="also record profiles over the tokens that do not occur in this language's texts",
    )
    parser.add_argument(
        "--hidden-states", action="store_true", help="record each router's mean input; huggingface only"
    )
    parser.add_argument(
        "--token-counts",
        action="store_true",
        help="also count how often each expert is chosen for each token, for `isogloss inspect`",
    )


def _capture(options: argparse.Namespace) -> None:
    from isogloss import load
    from isogloss.languages import resolve
    from isogloss.runs import require_run_folder
    from isogloss.steering import RouterAdapter, read_steering
    from isogloss.workflows import capture_corpus, open_corpus_to_capture

    require_run_folder(options.output)
    plan, counted = read_steering(options.plan) if options.plan else None, _counted(options)
    is_adapter = isinstance(plan, RouterAdapter)
    loading = loading_options(options, hidden_states=options.hidden_states, adapter=is_adapter)
    languages = options.languages
    if languages is not None and options.distinct_from is not None:
        # The pivot's text is read also where its routing is not captured.
        languages = (*languages, *({resolve(options.distinct_from)} - {resolve(language) for language in languages}))
    corpus = open_corpus_to_capture(options.corpus, languages=languages, split=options.split, n_items=options.items)
    run = capture_corpus(
        load(options.model, **loading),
        corpus,
        options.output,
        plan=plan,
        languages=options.languages,
        distinct_from=options.distinct_from,
        options=counted,
    )
    output.show_run(run, as_json=options.json)


def _counted(options: argparse.Namespace) -> CaptureOptions:
    """Read what `capture` counts; refuse what contradicts itself before a model is loaded."""
    from isogloss import CaptureOptions
    from isogloss.errors import IsoglossError

    if options.new_tokens is not None and options.phase != "generation":
        raise IsoglossError(
            f"--new-tokens {options.new_tokens} with --phase {options.phase}; expected --phase generation, or no "
            "--new-tokens"
        )
    return CaptureOptions(
        token_scope=options.tokens,
        batch_tokens=options.batch_tokens,
        seed=options.seed,
        phase=options.phase,
        new_tokens=options.new_tokens or CaptureOptions.new_tokens,
        hidden_states=options.hidden_states,
        chat=options.chat,
        first_tokens=options.first_tokens,
        token_counts=options.token_counts,
    )


def register_import(subparsers: Subparsers) -> None:
    """Add `import`."""
    parser = subparsers.add_parser("import", help="convert published counts into a pooled Run")
    parser.add_argument("source", type=Path, metavar="PATH", help="folder of counts-json; else a file")
    parser.add_argument(
        "--format",
        choices=("counts-json", "mass-json", "expert-sets", "usage-json"),
        default="counts-json",
        help="counts of selections, one file per language; summed combine weights; sets of experts; or the answer of "
        "a server's /isogloss/usage",
    )
    parser.add_argument("--category", metavar="NAME", help="mass-json: this category alone, as text in English")
    add_count(parser, "--experts", "expert-sets: experts per layer")
    parser.add_argument("--phase", choices=("prompt", "generation"), help="usage-json: these tokens (default: both)")
    parser.add_argument(
        "--plan", metavar="NAME", help="usage-json: the plan's name, the start of its hash, or unsteered for none"
    )
    add_output(parser, "folder of the Run")
    add_json(parser)
    parser.set_defaults(command=_import)


def _import(options: argparse.Namespace) -> None:
    from isogloss.errors import RunError
    from isogloss.runs import (
        import_counts_json,
        import_expert_sets,
        import_mass_json,
        import_usage_json,
        require_run_folder,
    )

    kind = options.format
    if options.category and kind != "mass-json":
        raise RunError(f"--category is for mass-json; {kind} has none")
    if (options.experts is None) is (kind == "expert-sets"):
        raise RunError("expert-sets needs --experts N, the experts per layer; the other formats take none")
    if (options.phase or options.plan) and kind != "usage-json":
        raise RunError(f"--phase and --plan are for usage-json; {kind} tells neither apart")
    require_run_folder(options.output)
    if kind == "usage-json":
        run = import_usage_json(options.source, options.output, plan=options.plan, phase=options.phase)
    elif kind == "mass-json":
        run = import_mass_json(options.source, options.output, category=options.category)
    elif kind == "expert-sets":
        run = import_expert_sets(options.source, options.output, n_experts=options.experts)
    else:
        run = import_counts_json(options.source, options.output)
    output.show_run(run, as_json=options.json)


def register_merge(subparsers: Subparsers) -> None:
    """Add `merge`."""
    parser = subparsers.add_parser("merge", help="merge Runs of one model and corpus")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    add_output(parser, "folder of the merged Run")
    add_json(parser)
    parser.set_defaults(command=_merge)


def _merge(options: argparse.Namespace) -> None:
    from isogloss.runs import merge, require_run_folder

    require_run_folder(options.output)
    output.show_run(merge(options.runs, options.output), as_json=options.json)


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
        "--strength",
        type=number(),
        help="soft, adaptive: λ; offset: logits; select: scores as the router ranks them; no other kind has one",
    )
    parser.add_argument("--phase", choices=("prompt", "generation"), help="edit only these tokens (default: both)")
    add_codes(parser, "--for-languages", "edit only requests in these languages", default=())
    parser.add_argument(
        "--into",
        type=Path,
        metavar="PLAN.json",
        help="combine with this plan for the same model, for example one for other languages",
    )
    parser.add_argument(
        "--allow-partial", action="store_true", help="make the plan although a Run's capture has not finished"
    )
    add_output(parser, "the plan's file")
    add_force(parser)
    add_json(parser)
    parser.set_defaults(command=_plan)


def _plan(options: argparse.Namespace) -> None:
    from isogloss import read_plan, write_plan
    from isogloss.steering import conditional, require_plan_file, united

    require_plan_file(options.output, force=options.force)
    other = read_plan(options.into) if options.into else None
    plan = _find(options).plan(options.kind, strength=options.strength, allow_partial=options.allow_partial)
    plan = conditional(plan, phase=options.phase, languages=options.for_languages)
    if other is not None:
        plan = united(other, plan)
    write_plan(plan, options.output, force=options.force)
    output.show_plan(plan, options.output, as_json=options.json)


def _find(options: argparse.Namespace) -> ExpertTable:
    from isogloss import open_run
    from isogloss.analysis import ExpertQuery, query_experts
    from isogloss.progress import busy

    run, base = open_run(options.run), open_run(options.base) if options.base else None
    layers = _middle(base or run, options.pivot) if options.layers == "middle" else options.layers
    query = ExpertQuery(
        rule=options.rule,
        threshold=options.threshold,
        layers=layers,
        kind=options.expert_kind,
        languages=options.languages,
        target=options.target,
        top=options.top,
        pivot=options.pivot,
        alpha=options.alpha,
        sign=options.sign,
    )
    with busy("experts"):
        return query_experts(run, query, base=base)


def _middle(run: Run, pivot: str) -> tuple[int, int]:
    """Find the middle layers of a Run; RunError where there are none."""
    from isogloss.analysis import analyze_curves
    from isogloss.errors import RunError
    from isogloss.progress import busy

    with busy("analyze"):
        analysis = analyze_curves(run, pivot=pivot)
    if not analysis.has_middle:
        raise RunError(f"--layers middle: {run.path} has no middle layers: {analysis.no_middle}; give a range A-B")
    return analysis.middle


def register_report(subparsers: Subparsers) -> None:
    """Add `report`."""
    parser = subparsers.add_parser(
        "report", help="write an HTML report of a Run, an analysis, an evaluation, a learned plan or a study"
    )
    parser.add_argument(
        "source",
        type=Path,
        nargs="+",
        metavar="RUN|ANALYSIS|EVAL|LEARNED|STUDY",
        help="a folder; several Runs, analyses, evaluations or studies are drawn over each other",
    )
    add_pivot(parser)
    add_output(parser, "the HTML file")
    add_force(parser)
    parser.set_defaults(command=_report)


def _report(options: argparse.Namespace) -> None:
    from isogloss.reports import report_on

    output.show_path(report_on(options.source, options.output, pivot=options.pivot, force=options.force))


def register_organism(subparsers: Subparsers) -> None:
    """Add `organism`."""
    parser = subparsers.add_parser("organism", help="train the included model, or evaluate such a model")
    actions: Subparsers = parser.add_subparsers(required=True, metavar="ACTION")
    train = actions.add_parser("train", help="train from a seed; repeat the command to resume")
    train.add_argument("--seed", type=SEED, default=0)
    add_count(train, "--tokens", "training tokens (default: the shipped model's)")
    train.add_argument(
        "--text", type=Path, metavar="DIR", help="folder of parallel texts (xxx_Xxxx.*) to add to the training data"
    )
    add_output(train, "folder of checkpoints, log and finished model")
    train.set_defaults(command=_train)
    card = actions.add_parser("card", help="evaluate a trained model and write its model card")
    card.add_argument("model", type=Path, metavar="DIR", help="folder of a finished training")
    add_output(card, "the card's file")
    add_force(card)
    card.set_defaults(command=_card)


def _train(options: argparse.Namespace) -> None:
    from isogloss.workflows import train_organism

    output.show_path(train_organism(options.output, seed=options.seed, tokens=options.tokens, text=options.text))


def _card(options: argparse.Namespace) -> None:
    from isogloss.workflows import write_card

    output.show_path(write_card(options.model, options.output, force=options.force))
