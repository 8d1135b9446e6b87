"""What a report is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from isogloss.reports.sentences import describe_evaluation, describe_experts, describe_run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from isogloss.analysis import Analysis, ExpertTable
    from isogloss.evaluation.summary import EvaluationSummary

__all__ = ["Report", "make_report"]


@dataclass(frozen=True)
class Report:
    """What a report is made of.

    Attributes:
        title: heading of the page.
        findings: sentences printed first.
        manifest: of the Run behind the numbers, as JSON types.
        analysis: of the Run.
        experts: one table per rule.
        evaluation: its summary.
    """

    title: str
    findings: tuple[str, ...]
    manifest: Mapping[str, Any]
    analysis: Analysis | None = None
    experts: tuple[ExpertTable, ...] = ()
    evaluation: EvaluationSummary | None = None


def make_report(
    analysis: Analysis | None,
    evaluation: EvaluationSummary | None,
    *,
    experts: Sequence[ExpertTable] = (),
    manifest: Mapping[str, Any] | None = None,
) -> Report:
    """Make a report of results, with sentences on each.

    Args:
        analysis: of a Run; None where there is none.
        evaluation: its summary; None where there is none.
        experts: one table per rule.
        manifest: of the Run behind the numbers, or settings of the evaluation; None for the manifest of the analysis.
    """
    titles: list[str] = []
    sentences: list[str] = []
    if analysis is not None:
        manifest = manifest or (analysis.manifest.to_json() if analysis.manifest else {})
        languages, model = f"{len(analysis.languages)} languages", manifest.get("model")
        titles.append(f"How {model} routes {languages}" if model else f"How {languages} are routed")
        sentences += describe_run(analysis)
    sentences += [describe_experts(table) for table in experts]
    if evaluation is not None:
        titles.append(f"Steering {evaluation.model} on {evaluation.task}")
        sentences += describe_evaluation(evaluation)
    return Report(titles[0], tuple(sentences), manifest or {}, analysis, tuple(experts), evaluation)
