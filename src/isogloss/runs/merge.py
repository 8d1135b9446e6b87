"""Merge Runs of one model and corpus that were captured in parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from isogloss.errors import RunError
from isogloss.runs.manifest import LanguageEntry, header_differences
from isogloss.runs.run import Run, RunWriter, open_run

__all__ = ["merge"]


def merge(paths: Sequence[str | Path], out: str | Path) -> Run:
    """Write a Run with the languages of several Runs.

    Merging is commutative and associative. Several Runs may contain the same language if its routing is the same. The
    result is complete if all Runs are.

    Args:
        paths: folders of Runs whose manifests agree in everything but languages, status, notes and threads.
        out: folder to create, or one in which the same merge was interrupted.

    Returns:
        The merged Run, with the notes of all Runs.

    Raises:
        RunError: no Runs were given, their headers differ (the message names the field), a language has different
            routing in two Runs, a file is damaged, or the output folder contains something else.
    """
    runs = [open_run(path) for path in paths]
    if not runs:
        raise RunError("nothing to merge; name at least one Run")
    for run in runs[1:]:
        differences = header_differences(runs[0].manifest, run.manifest, ignore=("notes", "threads"))
        if differences:
            raise RunError(
                f"{runs[0].path} and {run.path} differ in {'; '.join(differences)}; only Runs of the same "
                "model, corpus and settings can be merged"
            )
    origins = _origins(runs)
    notes = tuple(sorted({note for run in runs for note in run.manifest.notes}))
    threads = {run.manifest.threads for run in runs}
    common_threads = threads.pop() if len(threads) == 1 else None
    writer = RunWriter(out, replace(runs[0].manifest, notes=notes, threads=common_threads))
    foreign = sorted(writer.done - origins.keys())
    if foreign:
        raise RunError(
            f"{out}: already has {', '.join(foreign)}, which none of the Runs to merge has; choose another folder"
        )
    for language in sorted(origins.keys() - writer.done):
        writer.copy(origins[language][0], language)
    if all(run.manifest.status == "complete" for run in runs):
        return writer.finish()
    return Run(Path(out), writer.manifest)


def _origins(runs: Sequence[Run]) -> dict[str, tuple[Run, LanguageEntry]]:
    """Return a Run for each language; RunError if two Runs have different routing for one."""
    origins: dict[str, tuple[Run, LanguageEntry]] = {}
    for run in runs:
        for language, entry in run.manifest.languages.items():
            first, known = origins.setdefault(language, (run, entry))
            if known != entry:
                raise RunError(
                    f"{language} differs between {first.path} and {run.path}; delete it from one of them, or merge "
                    "only one"
                )
    return origins
