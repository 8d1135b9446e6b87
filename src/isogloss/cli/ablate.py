"""The command `ablate`."""
# ruff: noqa: PLC0415 - heavy rooms are imported when the command needs them, so that help is instant

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from isogloss.cli.options import Subparsers, add_configured
from isogloss.cli.output import print_json, print_line, print_table

if TYPE_CHECKING:
    from isogloss.evaluation.ablation import AblationResult, Selectivity

__all__ = ["register_ablate", "show_selectivity"]


def register_ablate(subparsers: Subparsers) -> None:
    """Add `ablate`."""
    about = "ban the experts of each language by band, and measure what every language and task loses"
    parser = add_configured(subparsers, "ablate", "ablation", about)
    parser.set_defaults(command=_ablate)


def _ablate(options: argparse.Namespace) -> None:
    from isogloss.workflows import Ablation, ablate

    _show(ablate(Ablation.read_toml(options.ablation), options.output), as_json=options.json)


def _show(result: AblationResult, *, as_json: bool) -> None:
    """Print every family's row, then the sentences of the report."""
    if as_json:
        print_json(result.to_json())
        return
    from isogloss.reports.ablation import describe_ablation

    show_selectivity(result)
    for sentence in describe_ablation(result):
        print_line(sentence)
    print_line("`isogloss report` draws what every ban costs every language; --json has all numbers.")


def show_selectivity(result: AblationResult) -> None:
    """Print every family with its own loss, the null and the worst other axis."""
    titles = ["band", "family", "corpus", "own loss", "random", "worst other", "selective"]
    print_table(titles, [_row(result, test) for test in result.tests])


def _row(result: AblationResult, test: Selectivity) -> list[str]:
    from isogloss.reports.metrics import Metric

    units = {task.name: Metric.named(task.metric) for task in result.families.tasks}
    metric, other = units[test.own.rpartition("/")[0]], units[test.worst.rpartition("/")[0]]
    null = f"{metric.change(min(test.null))} to {metric.change(max(test.null))}"
    worst = f"{test.worst} {other.change_text(test.worst_loss)}"
    return [test.band, test.family, test.task, metric.change_text(test.loss), null, worst, test.verdict]
