"""Join Runs of one model and corpus, captured in parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from isogloss.errors import RunError
from isogloss.runs.manifest import LanguageEntry, header_differences
from isogloss.runs.run import Run, RunWriter, open_run

__all__ = ["merge"]


def merge(paths: Sequence[str | Path], out: str | Path) -> Run:
    """Write the union of the languages of several Runs.

    The result does not depend on the order of the Runs, nor on merging some of them first. A language may be in
    several Runs if its routing is the same. The result is complete if all Runs are.

    Args:
        paths: folders of Runs whose manifests agree in everything but languages, status and notes.
        out: folder to create, or one in which the same merge was interrupted.

    Returns:
        The merged Run, its notes those of all Runs.

    Raises:
        RunError: nothing to merge, headers that differ (the message names the field), one language with different
            routing, a damaged file, or an output folder that holds something else.
    """
    runs = [open_run(path) for path in paths]
    if not runs:
        raise RunError("nothing to merge; name at least one Run")
    for run in runs[1:]:
        differences = header_differences(runs[0].manifest, run.manifest, ignore=("notes",))
        if differences:
            raise RunError(
                f"{runs[0].path} and {run.path} differ in {'; '.join(differences)}; only Runs of the same "
                f"model, corpus and settings merge"
            )
    origins = _origins(runs)
    notes = tuple(sorted({note for run in runs for note in run.manifest.notes}))
    writer = RunWriter(out, replace(runs[0].manifest, notes=notes))
    foreign = sorted(writer.done - origins.keys())
    if foreign:
        raise RunError(f"{out}: already has {', '.join(foreign)}, which no Run to merge has; choose another folder")
    for language in sorted(origins.keys() - writer.done):
        writer.copy(origins[language][0], language)
    if all(run.manifest.status == "complete" for run in runs):
        return writer.finish()
    return Run(Path(out), writer.manifest)


def _origins(runs: Sequence[Run]) -> dict[str, tuple[Run, LanguageEntry]]:
    """Find a Run for each language; RunError where two Runs disagree on one."""
    origins: dict[str, tuple[Run, LanguageEntry]] = {}
    for run in runs:
        for language, entry in run.manifest.languages.items():
            first, known = origins.setdefault(language, (run, entry))
            if known != entry:
                raise RunError(
                    f"{language} differs between {first.path} and {run.path}; delete it from one, or merge one"
                )
    return origins
