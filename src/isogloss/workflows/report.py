"""Writes a report on whatever a folder holds: a Run, an analysis, an evaluation, or a study."""

from __future__ import annotations

from pathlib import Path

from isogloss.analysis import AnalysisRequest, analyze_run
from isogloss.errors import RunError
from isogloss.files import read_json
from isogloss.languages import resolve
from isogloss.report import Report, write_report
from isogloss.runs import open_run
from isogloss.workflows.findings import describe_evaluation, describe_run
from isogloss.workflows.study import report_study

__all__ = ["report_on"]


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
        RunError: the folder is none of the four, or not finished.
    """
    if (source / "study.json").is_file():
        return report_study(source, out)
    if (source / "manifest.json").is_file():
        run = open_run(source)
        analysis = analyze_run(run, AnalysisRequest(pivot=(resolve(pivot),)))
        report = Report(
            title=f"How {run.manifest.model} routes {len(run.languages)} languages",
            findings=describe_run(analysis),
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
    elif (source / "analysis.json").is_file():
        report = _on_analysis(source)
    else:
        raise RunError(
            f"{source} holds no manifest.json, analysis.json, summary.json or study.json; "
            "give the folder of a finished capture, analysis, evaluation or study"
        )
    write_report(out, report)
    return out


def _on_analysis(source: Path) -> Report:
    """Report what an analysis says; without ``findings.json`` beside it, by itself."""
    analysis, beside = read_json(source / "analysis.json"), source / "findings.json"
    kept = read_json(beside) if beside.is_file() else {}
    manifest = kept.get("run", {})
    languages = {*analysis.get("divergence", ()), *analysis.get("pivots", ())}
    return Report(
        title=f"How {manifest['model']} routes {len(languages)} languages"
        if manifest
        else f"How {len(languages)} languages are routed",
        findings=tuple(kept.get("findings", ())),
        manifest=manifest,
        analysis=analysis,
    )
