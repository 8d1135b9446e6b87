"""`isogloss analyze`: everything that one Run shows."""
# ruff: noqa: PLC0415 - heavy rooms are imported when the command runs, so that help is instant

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from isogloss.cli.options import Subparsers, add_force, add_json, codes, parse_layers
from isogloss.cli.output import print_json, print_line, print_table

if TYPE_CHECKING:
    from isogloss.analysis import Analysis, AnalysisRequest, ResourceTable

__all__ = ["register_analyze"]


def _band(text: str) -> tuple[str, tuple[int, int]]:
    """Read ``NAME=A-B``."""
    name, _, layers = text.partition("=")
    if not name or not layers:
        raise argparse.ArgumentTypeError(f"{text!r} is no band; expected NAME=A-B such as middle=8-35")
    return name, parse_layers(layers)


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
    add_force(parser)
    add_json(parser)
    parser.set_defaults(command=_analyze)


def _analyze(options: argparse.Namespace) -> None:
    from isogloss import open_run
    from isogloss.analysis import analyze_run
    from isogloss.progress import busy
    from isogloss.workflows import require_analysis_folder, write_analysis

    if options.output:
        require_analysis_folder(options.output, force=options.force)
    run, request = open_run(options.run), _request(options)
    with busy("analyze"):
        analysis = analyze_run(run, request)
        paths = write_analysis(analysis, run, options.output, force=options.force) if options.output else ()
    if options.json:
        print_json(analysis.to_json())
        return
    _show(analysis)
    for path in paths:
        print_line(str(path))


def _request(options: argparse.Namespace) -> AnalysisRequest:
    from isogloss import open_run
    from isogloss.analysis import AnalysisRequest, read_measure
    from isogloss.languages import resolve

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
    bands = [f"{band} {first}-{last}" for band, (first, last) in analysis.bands.items()]
    print_table(["language", *bands], _rows(analysis))
    sizes = {mean.n for means in analysis.divergence_by_band.values() for mean in means.values()}
    behind = "pooled counts, no interval" if analysis.is_pooled else f"n = {min(sizes)} items"
    print_line(f"Divergence from {analysis.pivot} by {analysis.quantity}, mean over layers; {behind}.")
    if analysis.resources is not None:
        print_table(
            ["language", "layers", "exclusive", "common", "experts that carry most"], _experts(analysis.resources)
        )
        print_line(
            f"Experts of {', '.join(analysis.resources.rule.languages)} by the share rule, summed over the layers, and "
            f"how few of a layer carry {analysis.resources.rule.coverage:.0%} of the selections; {behind}."
        )
    print_line("--json has every layer, interval and test.")
    for what, why in analysis.refused.items():
        print_line(f"{what}: not computed, {why}")


def _rows(analysis: Analysis) -> list[list[str]]:
    return [
        [language, *(mean.text() for mean in bands.values())] for language, bands in analysis.divergence_by_band.items()
    ]


def _experts(resources: ResourceTable) -> list[list[str]]:
    """Write the counted experts of every language and band with their intervals."""
    return [
        [
            *(row.language, row.band, row.exclusive.text("{:.0f}".format), row.common.text("{:.0f}".format)),
            row.coverage.text("{:.1f}".format),
        ]
        for row in sorted(resources.rows, key=lambda row: row.language)
    ]
