"""Writes a report on whatever a folder holds: a Run, an analysis, an evaluation, what was learned, or a study."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isogloss.errors import LanguageError, RunError
from isogloss.evaluation import (
    ABLATION,
    COMPARISON,
    SETTINGS,
    SUMMARY,
    AblationResult,
    EvaluationSummary,
    VersionComparison,
)
from isogloss.files import read_json
from isogloss.hub import fetched
from isogloss.languages import resolve
from isogloss.learning.adapt_records import ADAPT_REPORT, AdaptReport
from isogloss.learning.folder import HISTORY
from isogloss.learning.history import read_history
from isogloss.progress import busy
from isogloss.records import Record, read_typed
from isogloss.reports.ablation import describe_ablation
from isogloss.reports.adapters import describe_adapter
from isogloss.reports.answers import sample_answers
from isogloss.reports.learning import describe_learning, learns_adapter
from isogloss.reports.page import Report, join_reports, make_report, require_report_file, write_report
from isogloss.reports.published import PublishedComparison
from isogloss.reports.versions import describe_versions
from isogloss.runs import Manifest, open_run
from isogloss.steering import read_adapter

if TYPE_CHECKING:
    from isogloss.analysis import DivergenceChange


_RECORDED = ("revision", "dtype", "quantisation", "weights_sha256", "threads", "packages")
"""Of a compared version, what a report lists beside how it was loaded."""


@dataclass(frozen=True)
class Findings(Record):
    """What ``findings.json`` holds beside an analysis.

    Attributes:
        findings: sentences.
        run: manifest of the Run; None where it lies beside.
    """

    findings: tuple[str, ...] = ()
    run: Manifest | None = None

    @classmethod
    def fields_of_json(cls, raw: Any) -> Any:  # noqa: ANN401 - as in Record
        """Older files have an empty manifest where there is none."""
        return {**raw, "run": raw.get("run") or None} if isinstance(raw, dict) else raw


@dataclass(frozen=True)
class _Source(Record):
    """How a compared version was loaded, as its settings say."""

    name: str
    dtype: str
    device: str | None
    dequantize: bool


@dataclass(frozen=True)
class _Sources(Record):
    """Both of a comparison."""

    first: _Source
    second: _Source


def report_on(source: Path | Sequence[Path], out: Path, *, pivot: str = "eng_Latn", force: bool = False) -> Path:
    """Write one HTML file.

    Args:
        source: folder of a Run (``manifest.json``), an evaluation (``summary.json``), a study (``study.json``), of
            what `isogloss analyze -o` writes (``analysis.json``), of a learned plan (``history.jsonl``), of an
            ablation (``ablation.json``), of an adapter that was made from a plan (``adapt.json``), or of two compared
            versions of a model (``comparison.json``); or several folders, which are drawn over each other. Any may be
            an address on the hub, ``hf://…``.
        out: the file.
        pivot: reference language for a Run; the others have theirs.
        force: replace a file of any kind, not only a report.

    Returns:
        ``out``.

    Raises:
        RunError: the folder is none of these, or not finished, or a file is damaged.
        FileError: ``out`` cannot be written, or is a file of another kind.
    """
    require_report_file(out, force=force)
    sources = [source] if isinstance(source, Path) else list(source)
    names = _names(sources)
    folders = [fetched(each, error=RunError) for each in sources]
    readers = [_reader(folder, pivot) for folder in folders]
    with busy("report"):
        reports = [read(folder) for read, folder in zip(readers, folders, strict=True)]
        report = reports[0]
        if len(folders) > 1:
            changes = _changes(dict(zip(names, folders, strict=True)), pivot)
            report = join_reports(dict(zip(names, reports, strict=True)), changes)
        write_report(out, report, force=force)
    return out


def _changes(folders: Mapping[str, Path], pivot: str) -> dict[str, DivergenceChange]:
    """Compare every Run with the first folder, where that is a Run, too, of the same texts; others have no change."""
    from isogloss.analysis import divergence_change  # noqa: PLC0415 - as of studies

    (_, first), *others = folders.items()
    changes: dict[str, DivergenceChange] = {}
    for name, folder in others:
        if all((each / "manifest.json").is_file() for each in (first, folder)):
            with suppress(RunError, LanguageError):
                changes[name] = divergence_change(open_run(first), open_run(folder), pivot=resolve(pivot))
    return changes


def _names(folders: Sequence[Path]) -> list[str]:
    """Name folders by their own names, and by as much of their paths as tells them apart."""
    parts = [folder.resolve().parts for folder in folders]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-depth:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    raise RunError(f"a folder is given twice: {', '.join(map(str, folders))}; give each once")


def _reader(source: Path, pivot: str) -> Callable[[Path], Report]:
    """Return what reads such a folder as this one into a report."""
    kinds: dict[str, Callable[[Path], Report]] = {
        "study.json": _of_study,
        "manifest.json": lambda folder: _of_run(folder, pivot),
        SUMMARY: _of_evaluation,
        "analysis.json": _of_analysis,
        HISTORY: _of_learning,
        ADAPT_REPORT: _of_adapter,
        ABLATION: _of_ablation,
        COMPARISON: _of_versions,
    }
    for name, read in kinds.items():
        if (source / name).is_file():
            return read
    raise RunError(
        f"{source} holds no manifest.json, analysis.json, summary.json, study.json, {HISTORY}, {ABLATION}, "
        f"{ADAPT_REPORT} or {COMPARISON}; give the folder of a finished capture, analysis, evaluation, ablation, study "
        "or comparison of versions, of a learned plan or adapter, or of an adapter made from a plan"
    )


def report_study(folder: Path, out: Path) -> Path:
    """Write the report of a finished study from its files, and return ``out``; errors as of `report_on`."""
    write_report(out, _of_study(folder))
    return out


def _of_study(folder: Path) -> Report:
    from isogloss.analysis import Analysis, ExpertTable  # noqa: PLC0415 - 0.2 s, and an evaluation needs none of it

    run, summary, experts = open_run(folder / "run"), folder / "eval" / SUMMARY, folder / "experts.json"
    evaluation = read_typed(summary, EvaluationSummary) if summary.is_file() else None
    report = make_report(
        Analysis.read(folder / "analysis.json"),
        evaluation,
        experts=[ExpertTable.read(experts)] if experts.is_file() else (),
        manifest=run.manifest.to_json(),
    )
    more = tuple(read_typed(path, EvaluationSummary) for path in sorted(folder.glob(f"eval-*/{SUMMARY}")))
    kept, beside = Findings.read(folder / "findings.json").findings, folder / "published.json"
    banned = folder / "ablation" / ABLATION
    return replace(
        report,
        findings=(*report.findings, *(text for text in kept if text not in report.findings)),
        more=more,
        published=PublishedComparison.read(beside) if beside.is_file() else None,
        ablation=AblationResult.read(banned) if banned.is_file() else None,
        answers=sample_answers(folder / "eval", evaluation) if evaluation else (),
        study=_settings(folder / "study.json"),
        written=_date(folder / "analysis.json"),
        command="isogloss study STUDY.toml, with the settings under Provenance",
    )


def _of_run(folder: Path, pivot: str) -> Report:
    from isogloss.analysis import AnalysisRequest, analyze_run  # noqa: PLC0415 - as above

    run = open_run(folder)
    report = make_report(analyze_run(run, AnalysisRequest(pivot=(resolve(pivot),))), None)
    return replace(report, written=_date(folder / "manifest.json"), command=_capture_command(run.manifest))


def _of_evaluation(folder: Path) -> Report:
    summary, settings = read_typed(folder / SUMMARY, EvaluationSummary), _settings(folder / SETTINGS)
    return replace(
        make_report(None, summary, manifest=settings),
        answers=sample_answers(folder, summary),
        written=_date(folder / SUMMARY),
        command=f"isogloss evaluate {summary.model} --plan PLAN.json --task {summary.task}",
    )


def _settings(path: Path) -> dict[str, Any]:
    """Read settings of any version: all that they hold is listed."""
    settings = read_json(path)
    if not isinstance(settings, dict):
        raise RunError(f"{path}: expected an object; restore the file, or run again")
    return settings


def _date(path: Path) -> str:
    """Return the day on which a file was written, in UTC."""
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).date().isoformat()


def _capture_command(manifest: Manifest) -> str:
    """Write the command that captures a Run again; imported counts have none."""
    if manifest.granularity != "items":
        return ""
    return f"isogloss capture {manifest.model} --corpus {manifest.corpus.get('name')} -o RUN"


def _of_analysis(folder: Path) -> Report:
    """Report an analysis; without ``findings.json`` beside it, by itself."""
    from isogloss.analysis import Analysis  # noqa: PLC0415 - as above

    beside = folder / "findings.json"
    kept = Findings.read(beside) if beside.is_file() else Findings()
    report = make_report(
        Analysis.read(folder / "analysis.json"), None, manifest=None if kept.run is None else kept.run.to_json()
    )
    written = _date(folder / "analysis.json")
    return replace(report, findings=kept.findings or report.findings, written=written)


def _of_adapter(folder: Path) -> Report:
    adapter, report = read_adapter(folder), AdaptReport.read(folder / ADAPT_REPORT)
    model = adapter.provenance.get("model_name") or adapter.fingerprint.model_type
    title = f"A router adapter for {model}"
    settings = {"model_name": model, "adapter_sha256": adapter.sha256, **adapter.provenance}
    return Report(title, describe_adapter(report), settings, adapter=report)


def _of_ablation(folder: Path) -> Report:
    result, settings = AblationResult.read(folder / ABLATION), _settings(folder / SETTINGS)
    title = f"Experts that {result.model} needs for one language"
    settings["captured_languages"] = settings.pop("languages", [])  # a manifest has a table of that name
    return Report(title, describe_ablation(result), settings, ablation=result)


def _of_versions(folder: Path) -> Report:
    result, settings = VersionComparison.read(folder / COMPARISON), _settings(folder / SETTINGS)
    title = f"{result.first.name} against {result.second.name}: which experts are chosen"
    read = _Sources.from_json(settings, folder / SETTINGS)
    sources = read.first, read.second
    settings["first"], settings["second"] = (
        {**source.to_json(), **{name: value for name, value in vars(version).items() if name in _RECORDED}}
        for source, version in zip(sources, (result.first, result.second), strict=True)
    )
    return replace(
        Report(title, describe_versions(result), settings, versions=result),
        written=_date(folder / COMPARISON),
        command=_versions_command(result, sources),
    )


def _versions_command(result: VersionComparison, sources: Sequence[_Source]) -> str:
    """Write the command that compares two versions again, of which each ``sources`` says how it was loaded."""
    first, second = sources
    command = ["isogloss", "doctor", first.name, "--against", second.name, "--corpus", result.corpus]
    command += ["--languages", ",".join(result.languages), "--items", str(result.n_items)]
    command += ["--tokens", result.token_scope, "--dtype", first.dtype, "--against-dtype", second.dtype]
    command += ["--device", first.device] if first.device else []
    command += ["--dequantize"] if first.dequantize else []
    command += ["--against-dequantize"] if second.dequantize else []
    return shlex.join(command)


def _of_learning(folder: Path) -> Report:
    history = read_history(folder)
    model = history.settings.model.get("model_name") or "the model"
    what = "router adapter" if learns_adapter(history) else "plan"
    title = f"Learning a {what} for {model} on {history.settings.dev_task}"
    settings = history.settings.to_json()
    settings["learned_languages"] = settings.pop("languages")
    return Report(title, describe_learning(history), settings, learning=history)
