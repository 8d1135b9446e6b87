"""Writes an analysis into a folder, for `isogloss report` and for programs."""

from __future__ import annotations

from pathlib import Path

from isogloss.analysis import TABLES, Analysis, write_tables
from isogloss.files import write_json
from isogloss.folders import make_folder, require_folder, require_replaceable
from isogloss.reports import describe_run
from isogloss.runs import Run

__all__ = ["require_analysis_folder", "write_analysis"]

_ANALYSIS, _FINDINGS = "analysis.json", "findings.json"


def require_analysis_folder(folder: Path, *, force: bool = False) -> None:
    """Refuse a folder that cannot be written, or that has a file where `write_analysis` writes one, and no analysis.

    Raises:
        FileError: the message names the folder or the file; with ``force``, only for a folder that cannot be written.
    """
    require_folder(folder)
    names = (_ANALYSIS, _FINDINGS, *(f"{name}.parquet" for name in ("pairs", *TABLES)))
    if there := [name for name in names if (folder / name).exists()]:
        require_replaceable(folder / there[0], "analysis", _is_analysis, force=force)


def _is_analysis(content: bytes) -> bool:
    return content.startswith(b'{\n "accuracy": {') and b'\n "bands": {' in content


def write_analysis(analysis: Analysis, run: Run, folder: Path, *, force: bool = False) -> tuple[Path, ...]:
    """Write an analysis; each file is there whole or not at all.

    Args:
        analysis: of the Run; becomes ``analysis.json`` and one Parquet file per table.
        run: becomes, with the sentences that `isogloss analyze` prints, ``findings.json``, so that
            `isogloss report` finds here all it needs.
        folder: made where absent; an analysis in it is replaced.
        force: replace files of these names also where the folder holds no analysis.

    Returns:
        The files.

    Raises:
        FileError: the folder cannot be written, or holds a file of such a name without an analysis.
    """
    require_analysis_folder(folder, force=force)
    make_folder(folder)
    paths = folder / _ANALYSIS, folder / _FINDINGS
    write_json(paths[0], analysis.to_json())
    write_json(paths[1], {"findings": list(describe_run(analysis)), "run": run.manifest.to_json()})
    return (*paths, *write_tables(analysis, folder))
