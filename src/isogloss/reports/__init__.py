"""One self-contained HTML page that shows what was measured, how sure it is, and what it rests on."""

from __future__ import annotations

from isogloss.reports.ablation import describe_ablation
from isogloss.reports.effects import describe_evaluation
from isogloss.reports.expert_tokens import describe_tokens, lift_text, require_expert_page, write_expert_page
from isogloss.reports.folders import Findings, report_on, report_study
from isogloss.reports.page import (
    Report,
    join_reports,
    make_report,
    plot,
    render_report,
    require_report_file,
    write_report,
)
from isogloss.reports.published import Condition, Published, PublishedComparison, PublishedRow, Quantity
from isogloss.reports.sentences import describe_analysis, describe_experts, describe_run
from isogloss.reports.versions import describe_versions, difference_rows, share_text

__all__ = [
    "Condition",
    "Findings",
    "Published",
    "PublishedComparison",
    "PublishedRow",
    "Quantity",
    "Report",
    "describe_ablation",
    "describe_analysis",
    "describe_evaluation",
    "describe_experts",
    "describe_run",
    "describe_tokens",
    "describe_versions",
    "difference_rows",
    "join_reports",
    "lift_text",
    "make_report",
    "plot",
    "render_report",
    "report_on",
    "report_study",
    "require_expert_page",
    "require_report_file",
    "share_text",
    "write_expert_page",
    "write_report",
]
