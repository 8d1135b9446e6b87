"""Work that is begun in a folder under some settings, and gone on with under the same ones only."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from isogloss.errors import RunError, contrast, first_few
from isogloss.folders import make_folder, require_free
from isogloss.progress import note
from isogloss.records import Record, read_typed, write_typed

__all__ = ["UNRECORDED", "claim_folder", "note_unrecorded", "require_threads"]

UNRECORDED = ("data_revision", "float16_sha256", "isogloss_version", "threads", "tokenizer_sha256", "weights_sha256")
"""Names of what older versions did not write down: None is unknown, and no difference."""

_SILENT = ("float16_sha256", "threads")  # another hash of what is compared anyway, and last digits


def claim_folder(folder: Path, record: str, settings: object) -> None:
    """Create a folder for work with these settings, or reopen one that was created with the same settings.

    The file ``record`` in it stores the settings, a dataclass. What one side does not record of `UNRECORDED` is noted
    in one line.

    Raises:
        RunError: the folder was created with other settings, which the message names, or contains anything else.
    """
    path = folder / record
    if path.is_file():
        kind = type(settings)
        stored = vars(kind.read(path) if issubclass(kind, Record) else read_typed(path, kind))
        require_threads(folder, before=stored.get("threads"), now=getattr(settings, "threads", None))
        differing, unrecorded = _compare(stored, vars(settings))
        if differing:
            raise RunError(
                f"{folder} was started with other settings ({first_few(differing)}); repeat that command or choose a "
                "new folder"
            )
        note_unrecorded(folder, unrecorded)
        return
    require_free(folder, record)
    make_folder(folder)
    write_typed(path, settings)


def _compare(stored: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Return what differs, by name with both values, and the names of what is unknown on one side."""
    differing: list[str] = []
    unrecorded: list[str] = []
    for name in sorted({*stored, *now}):
        before, after = stored.get(name), now.get(name)
        if before == after:
            continue
        if name in UNRECORDED and None in (before, after):
            unrecorded.append(name)
        elif isinstance(before, Mapping) and isinstance(after, Mapping):
            inner, unknown = _compare(before, after)
            differing += [f"{name}.{each}" for each in inner]
            unrecorded += unknown
        else:
            differing.append(f"{name}: {contrast(before, after)}")
    return differing, unrecorded


def note_unrecorded(folder: Path, names: Collection[str]) -> None:
    """Say in one line which of `UNRECORDED` cannot be compared, where that matters."""
    if unknown := ", ".join(sorted({*names} - {*_SILENT})):
        note(f"{folder}: whether {unknown} is as it was is unknown, since it was not recorded then, or cannot be now")


def require_threads(folder: Path, *, before: int | None, now: int | None) -> None:
    """Refuse to continue work that was computed on another number of threads; None is unknown or irrelevant.

    How many threads share a sum decides the order of its terms: the last digits of what is there and of what follows
    would differ.

    Raises:
        RunError: names the variable that sets it.
    """
    if before is not None and now is not None and before != now:
        raise RunError(
            f"{folder} was begun on {before} threads, and this process computes on {now}, which rounds sums in another "
            f"order: set OMP_NUM_THREADS={before} and run the command again, or choose another folder"
        )
