"""Writes an analysis into a folder, for `isogloss report` and for programs."""

from __future__ import annotations

from pathlib import Path

from isogloss.analysis import Analysis
from isogloss.analysis.tables import write_tables
from isogloss.errors import FileError
from isogloss.files import write_json
from isogloss.reports.sentences import describe_run
from isogloss.runs import Run

__all__ = ["write_analysis"]


def write_analysis(analysis: Analysis, run: Run, folder: Path) -> tuple[Path, ...]:
    """Write an analysis; each file is there whole or not at all.

    Args:
        analysis: of the Run; becomes ``analysis.json`` and one Parquet file per table.
        run: becomes, with the sentences that `isogloss analyze` prints, ``findings.json``, so that
            `isogloss report` finds here all it needs.
        folder: made where absent; files of these names are replaced.

    Returns:
        The files.

    Raises:
        FileError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"cannot make the folder {folder}: {error.strerror}; choose another place") from error
    paths = folder / "analysis.json", folder / "findings.json"
    write_json(paths[0], analysis.to_json())
    write_json(paths[1], {"findings": list(describe_run(analysis)), "run": run.manifest.to_json()})
    return (*paths, *write_tables(analysis, folder))
