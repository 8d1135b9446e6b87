"""`doctor MODEL --against OTHER`: which experts two versions of one model choose for the same tokens."""
# ruff: noqa: PLC0415 - the imports inside functions are the point: help is instant

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from isogloss.cli.options import loading_options
from isogloss.cli.output import print_json, print_line, print_table
from isogloss.errors import CorpusError, ModelError

if TYPE_CHECKING:
    from isogloss.evaluation import VersionComparison

__all__ = ["add_against", "compare_against", "refuse_without_against"]

_DTYPES = ("auto", "float32", "bfloat16", "float16")


def add_against(parser: argparse.ArgumentParser) -> None:
    """Add what compares the model with another version of it."""
    group = parser.add_argument_group("comparing two versions of a model")
    group.add_argument(
        "--against",
        metavar="OTHER",
        help="another version of the model, such as a quantised checkpoint, a fine-tune, or the model itself: which "
        "choices of experts differ on the texts of --corpus, by layer and language; one is loaded after the other",
    )
    group.add_argument("--against-dtype", choices=_DTYPES, help="dtype of OTHER (default: that of --dtype)")
    group.add_argument(
        "--against-dequantize",
        action="store_true",
        help="load OTHER's quantised weights as floating point; others stay as they are",
    )
    group.add_argument(
        "--tokens",
        choices=("content", "all"),
        help="tokens compared: the texts' own (default content), or also special ones",
    )
    group.add_argument(
        "-o",
        "--output",
        type=Path,
        help="folder of the comparison, for `isogloss report`; repeat the command to resume",
    )


_OWN = {
    "against_dtype": "--against-dtype",
    "against_dequantize": "--against-dequantize",
    "tokens": "--tokens",
    "output": "-o",
}
_OTHERS = {"server": "--server", "adapter": "--adapter", "plan": "--plan", "language": "--language"}


def refuse_without_against(options: argparse.Namespace) -> None:
    """Refuse options of a comparison where none is asked for."""
    if given := [flag for name, flag in _OWN.items() if getattr(options, name)]:
        raise ModelError(
            f"{', '.join(given)}: of a comparison with another version; name it by --against, or leave it out"
        )


def compare_against(options: argparse.Namespace) -> int:
    """Compare, and print what differs; differences are no failure."""
    from isogloss.workflows import VersionSource, compare_models, open_corpus

    if given := [flag for name, flag in _OTHERS.items() if getattr(options, name)]:
        raise ModelError(f"{', '.join(given)}: has no meaning beside --against, which compares two models as they are")
    if options.model is None:
        raise ModelError("expected MODEL before --against OTHER")
    if options.corpus is None:
        raise CorpusError("--against compares two versions on texts; found none: name them by --corpus")
    loading = loading_options(options, against=True)
    first = VersionSource(options.model, loading["dtype"], loading["device"], loading["dequantize"])
    second = VersionSource(
        options.against, options.against_dtype or first.dtype, first.device, options.against_dequantize
    )
    corpus = open_corpus(options.corpus, languages=options.languages, split=options.split, n_items=options.items)
    result = compare_models(first, second, corpus, out=options.output, token_scope=options.tokens or "content")
    _show(result, options)
    return 0


def _show(result: VersionComparison, options: argparse.Namespace) -> None:
    from isogloss.reports import describe_versions, difference_rows, share_text

    if options.json:
        checks = [{"name": name, "ok": True, "detail": detail} for name, detail in _checks(result).items()]
        print_json({"ok": True, "checks": checks, "comparison": result.to_json()})
        return
    for name, detail in _checks(result).items():
        print_line(f"{'ok':8}{name:11}{detail}")
    for sentence in describe_versions(result):
        print_line(sentence)
    rows = [{"language": code or "mean", **cells} for code, cells in difference_rows(result).items()]
    print_table(list(rows[0]), [list(row.values()) for row in rows])
    layers = result.overall.layers["choices"]
    print_table(
        ["layer", "choices changed, %"],
        [[str(layer), share_text(each)] for layer, each in zip(result.routed_layers, layers, strict=True)],
        longest=len(layers),
    )
    if options.output is not None:
        print_line(f"next: isogloss report {options.output} -o report.html")


def _checks(result: VersionComparison) -> dict[str, str]:
    """Say what was checked of the two versions, each of which is refused where it does not hold."""
    first, second = result.first, result.second
    return {
        "loads": f"{first.name}: {first.summary}; then {second.name}: {second.summary}",
        "routers": f"of both choose as their family's row says: {len(result.routed_layers)} routed layers of "
        f"{result.n_experts} experts, top {result.top_k}",
        "tokens": f"both read the same {result.overall.n_tokens:,} {result.token_scope} tokens",
        "repeats": f"run again on a few texts, {100 * first.repeated:.3g} % and {100 * second.repeated:.3g} % of a "
        "version's own choices differ",
    }
