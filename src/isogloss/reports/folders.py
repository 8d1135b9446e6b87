"""Writes a report on whatever a folder holds: a Run, an analysis, an evaluation, or a study."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from isogloss.analysis import Analysis, AnalysisRequest, ExpertTable, analyze_run
from isogloss.errors import RunError
from isogloss.evaluation.summary import SUMMARY, EvaluationSummary
from isogloss.files import Record, read_json, read_typed
from isogloss.languages import resolve
from isogloss.reports.page import write_report
from isogloss.reports.results import Report, make_report
from isogloss.runs import open_run

__all__ = ["Findings", "report_on", "report_study"]


@dataclass(frozen=True)
class Findings(Record):
    """What ``findings.json`` holds beside an analysis.

    Attributes:
        findings: sentences.
        run: manifest of the Run, as JSON types; empty where it lies beside.
    """

    findings: tuple[str, ...] = ()
    run: dict[str, Any] = field(default_factory=dict)


def report_on(source: Path, out: Path, *, pivot: str = "eng_Latn") -> Path:
    """Write one HTML file.

    Args:
        source: folder of a Run (``manifest.json``), an evaluation (``summary.json``), a study (``study.json``), or of
            what `isogloss analyze -o` writes (``analysis.json``).
        out: the file.
        pivot: reference language for a Run; the others have theirs.

    Returns:
        ``out``.

    Raises:
        RunError: the folder is none of the four, or not finished, or a file is damaged.
    """
    kinds = {
        "study.json": _of_study,
        "manifest.json": lambda folder: _of_run(folder, pivot),
        SUMMARY: _of_evaluation,
        "analysis.json": _of_analysis,
    }
    for name, read in kinds.items():
        if (source / name).is_file():
            write_report(out, read(source))
            return out
    raise RunError(
        f"{source} holds no manifest.json, analysis.json, summary.json or study.json; "
        "give the folder of a finished capture, analysis, evaluation or study"
    )


def report_study(folder: Path, out: Path) -> Path:
    """Write the report of a finished study from its files, and return ``out``; errors as of `report_on`."""
    write_report(out, _of_study(folder))
    return out


def _of_study(folder: Path) -> Report:
    run, summary = open_run(folder / "run"), folder / "eval" / SUMMARY
    report = make_report(
        Analysis.read(folder / "analysis.json"),
        read_typed(summary, EvaluationSummary) if summary.is_file() else None,
        experts=(ExpertTable.read(folder / "experts.json"),),
        manifest=run.manifest.to_json(),
    )
    return replace(report, findings=Findings.read(folder / "findings.json").findings)


def _of_run(folder: Path, pivot: str) -> Report:
    return make_report(analyze_run(open_run(folder), AnalysisRequest(pivot=(resolve(pivot),))), None)


def _of_evaluation(folder: Path) -> Report:
    summary = read_typed(folder / SUMMARY, EvaluationSummary)
    return make_report(None, summary, manifest=read_json(folder / "settings.json"))


def _of_analysis(folder: Path) -> Report:
    """Report an analysis; without ``findings.json`` beside it, by itself."""
    beside = folder / "findings.json"
    kept = Findings.read(beside) if beside.is_file() else Findings()
    report = make_report(Analysis.read(folder / "analysis.json"), None, manifest=kept.run)
    return replace(report, findings=kept.findings)
