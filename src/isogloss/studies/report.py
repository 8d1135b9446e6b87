"""Writes a report on whatever a folder holds: a Run, an evaluation, or a study."""

from __future__ import annotations

from pathlib import Path

from isogloss.analysis import analyze
from isogloss.errors import RunError
from isogloss.files import read_json
from isogloss.languages import resolve
from isogloss.report import Report, write_report
from isogloss.runs import open_run
from isogloss.studies.findings import describe_analysis, describe_evaluation
from isogloss.studies.study import report_study

__all__ = ["report_on"]


def report_on(source: Path, out: Path, *, pivot: str = "eng_Latn") -> Path:
    """Write one HTML file.

    Args:
        source: folder of a Run (``manifest.json``), an evaluation (``summary.json``) or a study (``study.json``).
        out: the file.
        pivot: reference language for a Run.

    Returns:
        ``out``.

    Raises:
        RunError: the folder is none of the three, or not finished.
    """
    if (source / "study.json").is_file():
        return report_study(source, out)
    if (source / "manifest.json").is_file():
        run = open_run(source)
        analysis = analyze(run, pivot=resolve(pivot))
        report = Report(
            title=f"How {run.manifest.model} routes {len(run.languages)} languages",
            findings=describe_analysis(analysis),
            manifest=run.manifest.to_json(),
            analysis=analysis.to_json(),
        )
    elif (source / "summary.json").is_file():
        summary = read_json(source / "summary.json")
        report = Report(
            title=f"Steering {summary['model']} on {summary['task']}",
            findings=describe_evaluation(summary),
            manifest=read_json(source / "settings.json"),
            evaluation=summary,
        )
    else:
        raise RunError(
            f"{source} holds no manifest.json, summary.json or study.json; "
            "give the folder of a finished capture, evaluation or study"
        )
    write_report(out, report)
    return out
