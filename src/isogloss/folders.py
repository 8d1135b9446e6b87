"""Places that results are written to: folders that one process works in at a time, files that may be replaced."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from isogloss.errors import FileError, RunError

__all__ = [
    "locked",
    "make_folder",
    "new_file",
    "new_folder",
    "require_file",
    "require_folder",
    "require_free",
    "require_new_file",
    "require_new_folder",
    "require_replaceable",
    "unclaim",
]

_LOCK = ".lock"
_MOST_READ = 2**24  # bytes that tell of what kind a file is


@contextlib.contextmanager
def locked(folder: Path, record: str) -> Iterator[None]:
    """Lock a folder, made if need be, for one process; the operating system unlocks it when the process ends.

    Where the work inside fails before it has claimed a new folder, the folder is removed again.

    Args:
        folder: new, empty, or claimed.
        record: name of the file whose presence says that the folder is claimed.

    Raises:
        RunError: another process holds it, or it is in use for something else.
        FileError: it cannot be made or locked.
    """
    require_folder(folder, record)
    path = folder / _LOCK
    # The soft lock that filelock falls back to is a mere file, which a killed process would leave behind.
    lock = FileLock(path, blocking=False, fallback_to_soft=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = lock.acquire()
        path.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
    except Timeout:
        raise RunError(
            f"another process is working in {folder}{_holder(path)}; wait for it to end, or choose another folder "
            "for this one"
        ) from None
    except OSError as error:
        lock.release()
        raise FileError(f"cannot write {folder}: {error.strerror}; choose a folder that is yours") from error
    with held:
        try:
            yield
        except Exception:
            _remove_unclaimed(folder, record)
            raise
        finally:
            with contextlib.suppress(OSError):  # the folder may be gone
                os.truncate(path, 0)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it; FileError where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"cannot make the folder {folder}: {error.strerror}; choose another place") from error


def require_folder(folder: Path, record: str | None = None) -> None:
    """Refuse a folder that cannot be made or written, before anything long runs; nothing of the trial is left.

    Args:
        folder: of results.
        record: as of `locked`; None where the folder may hold anything.

    Raises:
        FileError: it cannot be made or written.
        RunError: it is in use for something else.
    """
    missing: list[Path] = []
    try:
        missing += [each for each in (folder, *folder.parents) if not each.exists()]
        make_folder(folder)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise FileError(f"cannot write {folder}: {error.strerror}; choose another place") from error
    finally:
        for each in missing:
            with contextlib.suppress(OSError):  # it was not made
                each.rmdir()
    if record is not None:
        require_free(folder, record)


def require_new_folder(output: Path) -> None:
    """Raise a FileError for a folder that `new_folder` could not make: one in use, or where nothing can be written."""
    whole = output.resolve()
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise FileError(f"{output} exists and is not empty; choose a new folder")
    if not whole.parent.is_dir():
        raise FileError(
            f"{whole.parent} is no folder; expected one to write {whole.name} into: make it, or choose another"
        )
    require_folder(whole)


@contextlib.contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """Make a folder beside ``output`` that is renamed to it when the context ends well, and deleted when it does not.

    Where the process was killed, the unfinished folder stays until the next call for the same ``output``.

    Raises:
        FileError: it cannot be made or renamed.
    """
    with _unfinished(output) as temporary:
        try:
            temporary.mkdir()
        except OSError as error:
            raise FileError(f"cannot write beside {output}: {error.strerror}; choose a folder that is yours") from error
        yield temporary
        _rename(temporary, output.resolve())


def require_new_file(path: Path) -> None:
    """Raise a FileError for a file that `new_file` could not make: it is there, or nothing can be written there."""
    if path.exists() or path.is_symlink():
        raise FileError(f"{path} exists; choose a new name")
    if not path.resolve().parent.is_dir():
        raise FileError(f"cannot write {path}: there is no folder {path.parent}; make it, or choose another place")
    require_folder(path.resolve().parent)


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Name a file beside ``path`` that is renamed to it when the context ends well, and deleted when it does not.

    Where the process was killed, the unfinished file stays until the next call for the same ``path``.

    Raises:
        FileError: it cannot be renamed.
    """
    with _unfinished(path) as temporary:
        yield temporary
        require_new_file(path)
        try:
            temporary.replace(path.resolve())
        except OSError as error:
            raise FileError(f"cannot make {path}: {error.strerror}; choose a new name") from error


def require_file(
    path: Path, kind: str, is_of_kind: Callable[[bytes], bool], *, force: bool = False, make_folders: bool = False
) -> None:
    """Refuse a file that cannot be written, or that holds anything of another kind, before anything long runs.

    Args:
        path: of the result.
        kind: what the result is, such as "report", for the message.
        is_of_kind: says of a file's first 16 MiB whether the file may be replaced.
        force: replace a file of any kind.
        make_folders: whether the folders above will be made.

    Raises:
        FileError: the message names the file, or the folder that cannot be written.
    """
    if path.is_symlink():
        path, make_folders = Path(os.path.realpath(path)), False  # what is written is the target
    if path.exists() and not path.is_file():
        what = "a folder" if path.is_dir() else "not an ordinary file"
        raise FileError(f"cannot write {path}: it is {what}; expected the name of a file for the {kind}")
    if not make_folders and not path.parent.is_dir():
        raise FileError(f"cannot write {path}: there is no folder {path.parent}; make it, or choose another place")
    require_folder(path.parent)
    if path.exists():
        require_replaceable(path, kind, is_of_kind, force=force)


def require_replaceable(path: Path, kind: str, is_of_kind: Callable[[bytes], bool], *, force: bool) -> None:
    """Refuse to replace a file of another kind, as `require_file` does; the file is there."""
    if force:
        return
    try:
        with path.open("rb") as stream:
            content = stream.read(_MOST_READ)
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror}; choose another name") from error
    if not is_of_kind(content):
        raise FileError(
            f"{path} exists and is no {kind} of isogloss; choose another name, or replace it: --force (in Python: "
            "force=True)"
        )


def _leftovers(record: str) -> set[str]:
    """Name the files that a process may leave which is killed before it has claimed a folder by ``record``."""
    return {_LOCK, f".{record}.tmp"}


def require_free(folder: Path, record: str) -> None:
    """Refuse a folder that is not claimed and holds more than what a killed process may leave; RunError names it."""
    if (folder / record).is_file() or not folder.exists():
        return
    if not folder.is_dir():
        raise RunError(f"{folder} is a file; choose a folder")
    if foreign := sorted({path.name for path in folder.iterdir()} - _leftovers(record)):
        raise RunError(f"{folder} holds {foreign[0]} and no {record}; choose a new or empty folder")


def unclaim(folder: Path, record: str) -> None:
    """Delete the record of a folder that holds nothing else, so that it may be used for something else."""
    if {path.name for path in folder.iterdir()} <= {record, *_leftovers(record)}:
        with contextlib.suppress(OSError):  # as of `_remove_unclaimed`
            (folder / record).unlink()


def _remove_unclaimed(folder: Path, record: str) -> None:
    if {path.name for path in folder.iterdir()} <= _leftovers(record):
        with contextlib.suppress(OSError):  # an open file cannot be removed everywhere; then the folder stays, empty
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()


@contextlib.contextmanager
def _unfinished(output: Path) -> Iterator[Path]:
    """Name a path beside ``output``, and delete what is there in the end; what killed processes left is deleted first.

    That is renamed before, so that no half-deleted folder keeps its name.
    """
    place = output.resolve()
    prefix = f".{place.name}.unfinished-"

    def named() -> Path:
        return place.with_name(prefix + secrets.token_hex(4))

    try:
        for stale in [each for each in place.parent.iterdir() if each.name.startswith(prefix)]:
            _remove(stale.replace(named()))
    except OSError as error:
        raise FileError(f"cannot write beside {output}: {error.strerror}; choose a folder that is yours") from error
    temporary = named()
    try:
        yield temporary
    finally:
        _remove(temporary)


def _remove(path: Path) -> None:
    """Delete a folder or a file, where there is one and it can be."""
    shutil.rmtree(path, ignore_errors=True)  # leaves a file alone
    with contextlib.suppress(OSError):
        path.unlink()


def _rename(temporary: Path, place: Path) -> None:
    try:
        if place.exists():
            place.rmdir()  # fails where somebody has put a file there meanwhile
        temporary.replace(place)
    except OSError as error:
        raise FileError(f"cannot make {place}: {error.strerror}; choose a new folder") from error


def _holder(lock: Path) -> str:
    """Name the process that wrote a lock file, in brackets; empty where it cannot be read."""
    with contextlib.suppress(OSError, UnicodeDecodeError):  # Windows lets nobody read a locked file
        if holder := lock.read_text(encoding="utf-8"):
            return f" ({holder})"
    return ""
