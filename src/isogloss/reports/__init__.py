"""One self-contained HTML page that shows what was measured, how sure it is, and what it rests on."""

from __future__ import annotations

from isogloss.reports.folders import Findings, report_on, report_study
from isogloss.reports.page import Report, join_reports, make_report, plot, render_report, write_report
from isogloss.reports.published import Condition, Published, PublishedComparison, PublishedRow, Quantity

__all__ = [
    "Condition",
    "Findings",
    "Published",
    "PublishedComparison",
    "PublishedRow",
    "Quantity",
    "Report",
    "join_reports",
    "make_report",
    "plot",
    "render_report",
    "report_on",
    "report_study",
    "write_report",
]
