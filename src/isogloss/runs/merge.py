"""Merge Runs of one model and corpus that were captured in parts."""

from __future__ import annotations

import itertools
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from isogloss.errors import RunError
from isogloss.progress import busy
from isogloss.resuming import note_unrecorded
from isogloss.runs.differences import require_same, unrecorded
from isogloss.runs.manifest import LanguageEntry
from isogloss.runs.run import Run, RunWriter, open_run, run_writer

__all__ = ["merge"]


def merge(paths: Sequence[str | Path], out: str | Path) -> Run:
    """Write a Run with the languages and notes of several Runs.

    Merging is commutative and associative. Several Runs may contain the same language if its routing is the same. The
    result is complete if all Runs are.

    Args:
        paths: folders of Runs whose manifests agree in everything but languages, status, notes and threads.
        out: folder to create, or one in which the same merge was interrupted.

    Raises:
        RunError: no Runs were given, their headers differ (the message names the field), a language has different
            routing in two Runs, a file is damaged, or the output folder contains something else.
    """
    runs = [open_run(path) for path in paths]
    if not runs:
        raise RunError("nothing to merge; name at least one Run")
    for one, other in itertools.combinations(runs, 2):
        require_same((one.path, one.manifest), (other.path, other.manifest))
    texts_sha256 = {code: digest for run in runs for code, digest in run.manifest.texts_sha256.items()}
    origins = _origins(runs)
    notes = tuple(sorted({note for run in runs for note in run.manifest.notes}))
    threads = {run.manifest.threads for run in runs}
    common_threads = threads.pop() if len(threads) == 1 else None
    unknown = unrecorded(*(run.manifest for run in runs))
    note_unrecorded(Path(out), unknown)
    manifest = replace(runs[0].manifest, notes=notes, threads=common_threads, texts_sha256=texts_sha256, **unknown)
    with run_writer(out, manifest) as writer:
        _require_ours(writer, origins)
        with busy("merge"):
            return _write(writer, runs, origins)


def _require_ours(writer: RunWriter, languages: Container[str]) -> None:
    if foreign := sorted(language for language in writer.done if language not in languages):
        raise RunError(
            f"{writer.path}: already has {', '.join(foreign)}, which none of the Runs to merge has; choose another "
            "folder"
        )


def _write(writer: RunWriter, runs: Sequence[Run], origins: Mapping[str, tuple[Run, LanguageEntry]]) -> Run:
    for language in sorted(origins.keys() - writer.done):
        writer.copy(origins[language][0], language)
    if all(run.manifest.status == "complete" for run in runs):
        return writer.finish()
    return Run(writer.path, writer.manifest)


def _origins(runs: Sequence[Run]) -> dict[str, tuple[Run, LanguageEntry]]:
    """Return a Run for each language; RunError if two Runs have different routing for one."""
    origins: dict[str, tuple[Run, LanguageEntry]] = {}
    for run in runs:
        for language, entry in run.manifest.languages.items():
            first, known = origins.setdefault(language, (run, entry))
            if not _is_same(known, entry):
                raise RunError(
                    f"{language} differs between {first.path} and {run.path}; delete it from one of them, or merge "
                    "only one"
                )
            if _order(entry) < _order(known):  # any order of Runs gives the same bytes
                origins[language] = run, entry
    return origins


def _is_same(one: LanguageEntry, other: LanguageEntry) -> bool:
    """Whether two entries are of the same routing; Runs of older versions have no share of unknown tokens."""
    if None in (one.unknown_share, other.unknown_share):
        one, other = replace(one, unknown_share=None), replace(other, unknown_share=None)
    return replace(one, batch_tokens=other.batch_tokens) == other


def _order(entry: LanguageEntry) -> tuple[int, bool]:
    return entry.batch_tokens or 0, entry.unknown_share is None
