"""`isogloss analyze`: everything that one Run can say."""
# ruff: noqa: PLC0415 - heavy rooms are imported when the command runs, so that help is instant

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from isogloss.cli.options import Subparsers, add_json, codes, layer_range
from isogloss.cli.output import print_json, print_line, print_table

if TYPE_CHECKING:
    from isogloss.analysis import Analysis, AnalysisRequest

__all__ = ["register_analyze"]

_EXPERTS = ("exclusive", "common", "coverage")


def _band(text: str) -> tuple[str, tuple[int, int]]:
    """Read ``NAME=A-B``."""
    name, _, layers = text.partition("=")
    if not name or not layers:
        raise argparse.ArgumentTypeError(f"{text!r} is no band; expected NAME=A-B such as middle=8-35")
    return name, layer_range(layers)


def register_analyze(subparsers: Subparsers) -> None:
    """Add `analyze`."""
    parser = subparsers.add_parser(
        "analyze", help="divergence, middle layers, language tree, resources, controls, with intervals"
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a Run")
    parser.add_argument(
        "--pivot", type=codes, default=("eng_Latn",), metavar="L[,L]", help="reference languages (default eng_Latn)"
    )
    parser.add_argument(
        "--band",
        type=_band,
        action="append",
        metavar="NAME=A-B",
        help="layers to analyse; repeatable (default: the detected middle layers)",
    )
    parser.add_argument(
        "--pairs",
        choices=("means", "items"),
        default="means",
        help="compare every two languages by their means over items, or item by item (slower)",
    )
    parser.add_argument("--accuracy", type=Path, metavar="FILE", help="CSV or JSON: language and benchmark accuracy")
    parser.add_argument(
        "--resource", type=Path, metavar="FILE", help="CSV or JSON: language and amount of training text"
    )
    parser.add_argument(
        "--task", type=Path, metavar="RUN", help="Run of task texts in the pivot, compared with this one"
    )
    parser.add_argument(
        "--generation", type=Path, metavar="RUN", help="Run of the text that the model generated after these texts"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="DIR",
        help="folder for JSON and Parquet tables, for `isogloss report` and other programs",
    )
    add_json(parser)
    parser.set_defaults(command=_analyze)


def _analyze(options: argparse.Namespace) -> None:
    from isogloss.analysis import analyze_run
    from isogloss.runs import open_run
    from isogloss.workflows.analysis import write_analysis
    from isogloss.workflows.progress import busy

    with busy("analyze"):
        run = open_run(options.run)
        analysis = analyze_run(run, _request(options))
        paths = write_analysis(analysis, run, options.output) if options.output else ()
    if options.json:
        print_json(analysis.to_json())
        return
    _show(analysis)
    for path in paths:
        print_line(str(path))


def _request(options: argparse.Namespace) -> AnalysisRequest:
    from isogloss.analysis import AnalysisRequest
    from isogloss.analysis.language_values import read_measure
    from isogloss.languages import resolve
    from isogloss.runs import open_run

    return AnalysisRequest(
        pivot=tuple(resolve(code) for code in options.pivot),
        by=options.pairs,
        bands=dict(options.band) if options.band else None,
        accuracy=read_measure(options.accuracy) if options.accuracy else None,
        resource=read_measure(options.resource) if options.resource else None,
        task=open_run(options.task) if options.task else None,
        generation=open_run(options.generation) if options.generation else None,
    )


def _show(analysis: Analysis) -> None:
    """Print sentences first, then one row per language, then what was refused."""
    from isogloss.reports.sentences import describe_run

    for sentence in describe_run(analysis):
        print_line(sentence)
    bands = [f"{name} {first}-{last}" for name, (first, last) in analysis.bands.items()]
    print_table(["language", *bands, "exclusive", "common", "experts for 80 %"], _rows(analysis))
    print_line(
        f"Divergence from {analysis.pivot} by {analysis.quantity}, mean over layers. Exclusive and common "
        "experts, and experts a layer that carry 80 %, by band. --json has every layer, interval and test."
    )
    for what, why in analysis.refused.items():
        print_line(f"{what}: not computed, {why}")


def _rows(analysis: Analysis) -> list[list[str]]:
    means = analysis.by_band(analysis.divergence)
    return [
        [language, *(f"{value:.3f}" for value in bands.values()), *_experts(analysis, language)]
        for language, bands in means.items()
    ]


def _experts(analysis: Analysis, language: str) -> list[str]:
    """Exclusive and common experts and the size of coverage, in the bands' order."""
    resources = analysis.resources
    if resources is None:
        return ["", "", ""]
    return [" / ".join(f"{resources.column(name, band)[language]:.0f}" for band in analysis.bands) for name in _EXPERTS]
