"""One self-contained HTML page that shows what was measured, how sure it is, and what it rests on."""

from __future__ import annotations

from isogloss.report.page import render_report, write_report
from isogloss.report.results import Report

__all__ = ["Report", "render_report", "write_report"]
