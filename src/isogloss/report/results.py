"""What a report is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from isogloss.analysis import Analysis, ExpertTable
    from isogloss.evaluation.summary import EvaluationSummary

__all__ = ["Report"]


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
