"""One self-contained HTML page that shows what was measured, how sure it is, and what it rests on."""

from __future__ import annotations

from isogloss.reports.folders import Findings, report_on, report_study
from isogloss.reports.page import render_report, write_report
from isogloss.reports.plots import plot
from isogloss.reports.results import Report, make_report

__all__ = ["Findings", "Report", "make_report", "plot", "render_report", "report_on", "report_study", "write_report"]
