"""Copies a checkpoint's folder file by file, with a few bytes changed; the copy is whole, or is not there."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import snapshot_download

from isogloss.backends.bake.checkpoint import Edit
from isogloss.backends.bake.tensors import to_bytes
from isogloss.errors import FileError, IsoglossError, ModelError
from isogloss.files import read_json

__all__ = [
    "RECORD",
    "checkpoint_folder",
    "files_of",
    "new_folder",
    "require_free",
    "require_not_baked",
    "require_output",
    "write_copy",
]

RECORD = "isogloss.json"
"""Says what was baked into a folder; engines take no notice of it."""

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx", ".npz")
_NOT_FETCHED = ("original/*", "metal/*", *(f"*{end}" for end in _WEIGHTS if end != ".safetensors"))
_SPARE = 2**24  # bytes: what we write besides, and folders


def checkpoint_folder(name: str) -> Path:
    """Return the folder of a checkpoint: the one named, or that of the hub's copy, which is fetched where it is not.

    Raises:
        ModelError: the hub does not give it.
    """
    if Path(name).is_dir():
        return Path(name)
    try:
        return Path(snapshot_download(name, ignore_patterns=list(_NOT_FETCHED)))
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise ModelError(f"cannot fetch {name!r} from the hub: {first}; give a hub id or a folder") from error


def require_output(output: Path, source: Path | None = None) -> None:
    """Refuse a folder that cannot be written whole, or that is part of the model's own.

    Args:
        output: the folder to be.
        source: the model's folder; None where it is not known yet.

    Raises:
        FileError: says why.
    """
    whole = output.resolve()
    if source is not None and source.resolve() in (whole, *whole.parents):
        raise FileError(f"{output} lies in the model's own folder {source}; choose a folder elsewhere")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise FileError(f"{output} exists and is not empty; choose a new folder")
    if not whole.parent.is_dir():
        raise FileError(
            f"{whole.parent} is no folder; expected one to write {whole.name} into: make it, or choose another"
        )


def require_not_baked(folder: Path) -> None:
    """Refuse a checkpoint that offsets were baked into before.

    Its offsets would add up with the new ones, which its plan was not made for.

    Raises:
        ModelError: names the plan and the model that it was baked into.
    """
    if not (folder / RECORD).is_file():
        return
    try:
        record = read_json(folder / RECORD)
        plan, source = str(record["plan_sha256"])[:12], record["source"]
    except (IsoglossError, KeyError, TypeError):
        plan, source = "unknown", "the original"
    raise ModelError(
        f"{folder} is already baked with plan {plan} (its {RECORD} says so); offsets would add up: unite the plans "
        f"with `isogloss plan … --into PLAN.json`, and bake into {source}"
    )


def files_of(folder: Path, weights: Iterable[str]) -> tuple[list[Path], list[str]]:
    """List what a copy of a checkpoint takes along.

    Weights that are not the model's own safetensors files (other formats, a publisher's original) are left out: they
    are not steered, and an engine might load them. So are folders that hold such weights, and hidden files.

    Args:
        folder: the checkpoint's.
        weights: names of the files that hold its weights.

    Returns:
        Paths of the files, relative to the folder; and names of what is left out, hidden files apart.
    """
    kept, left_out, own = [], [], set(weights)
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            inside = [each for each in sorted(path.rglob("*")) if each.is_file()]
            if path.is_symlink() or any(each.suffix in _WEIGHTS for each in inside):
                left_out.append(path.name + "/")
            else:
                kept += [each.relative_to(folder) for each in inside]
        elif path.suffix in _WEIGHTS and path.name not in own:
            left_out.append(path.name)
        else:
            kept.append(path.relative_to(folder))
    return kept, left_out


def require_free(folder: Path, files: Sequence[Path], output: Path) -> None:
    """Refuse to begin a copy that does not fit on the disk.

    Raises:
        FileError: says how much is needed and how much is free.
    """
    needed = sum((folder / path).stat().st_size for path in files) + _SPARE
    free = shutil.disk_usage(output.resolve().parent).free
    if free < needed:
        raise FileError(
            f"the copy takes {needed / 2**30:.3g} GiB; {free / 2**30:.3g} GiB are free beside {output}: make room, or "
            "choose another disk"
        )


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """Make a folder beside ``output`` that becomes it when the context ends well, and vanishes when it does not.

    Where the process was killed outright, the unfinished folder stays until the next call for the same ``output``.

    Yields:
        The unfinished folder.

    Raises:
        FileError: it cannot be made or renamed.
    """
    place = output.resolve()
    prefix = f".{place.name}.baking-"
    temporary = place.with_name(prefix + secrets.token_hex(4))
    try:
        _remove_stale(place.parent, prefix)
        temporary.mkdir()
    except OSError as error:
        raise FileError(f"cannot write beside {output}: {error.strerror}; choose a folder that is yours") from error
    try:
        yield temporary
        _rename(temporary, place)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_copy(folder: Path, files: Sequence[Path], target: Path, edits: Sequence[Edit]) -> None:
    """Copy files, never as links, and change the bytes of the edited biases in the copies.

    Raises:
        FileError: a file cannot be read or written, or was changed meanwhile.
    """
    for path in files:
        try:
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / path, target / path)
            _patch(target / path, [edit for edit in edits if edit.place.file == path.as_posix()])
        except OSError as error:
            raise FileError(f"cannot copy {folder / path}: {error.strerror}; nothing is left behind") from error


def _patch(path: Path, edits: Sequence[Edit]) -> None:
    with path.open("r+b") as stream:
        for edit in edits:
            before = to_bytes(edit.before)
            stream.seek(edit.place.start)
            if stream.read(len(before)) != before:
                raise FileError(f"{path.name} was changed while it was copied; run the same command again")
            stream.seek(edit.place.start)
            stream.write(to_bytes(edit.after))
        stream.flush()
        os.fsync(stream.fileno())


def _remove_stale(parent: Path, prefix: str) -> None:
    """Delete what killed processes left, under another name first, so that none of it can be taken for a whole one."""
    for path in [each for each in parent.iterdir() if each.name.startswith(prefix)]:
        gone = path.with_name(prefix + secrets.token_hex(4))
        path.replace(gone)
        shutil.rmtree(gone)


def _rename(temporary: Path, place: Path) -> None:
    try:
        if place.exists():
            place.rmdir()  # fails where somebody has put a file there meanwhile
        temporary.replace(place)
    except OSError as error:
        raise FileError(f"cannot make {place}: {error.strerror}; choose a new folder") from error
