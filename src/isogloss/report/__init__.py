"""One self-contained HTML page that shows what was measured, how sure it is, and what it rests on."""

from __future__ import annotations

from isogloss.report.folders import Findings, report_on, report_study
from isogloss.report.page import render_report, write_report
from isogloss.report.plots import plot
from isogloss.report.results import Report, make_report

__all__ = ["Findings", "Report", "make_report", "plot", "render_report", "report_on", "report_study", "write_report"]
