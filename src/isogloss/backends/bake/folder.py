"""Copies a checkpoint's folder file by file, with a few bytes changed; the copy is whole, or is not there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from huggingface_hub import snapshot_download

from isogloss.backends.bake.edits import Edit
from isogloss.backends.stored_tensors import read_tensor, to_bytes
from isogloss.errors import FileError, IsoglossError, ModelError
from isogloss.files import read_json
from isogloss.folders import require_new_folder
from isogloss.hub import asking_hub, refuse_revision_of_path, require_hub_name, split_revision

__all__ = [
    "RECORD",
    "checkpoint_folder",
    "copy_edited",
    "files_of",
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
    """Return the folder of a checkpoint: the one named, or that of the hub's copy, which is fetched where it is not."""
    if Path(name).is_dir():
        return Path(name)
    refuse_revision_of_path(name, "model", error=ModelError)
    source, revision = split_revision(name)
    require_hub_name(source, "model", error=ModelError)
    with asking_hub() as unreachable:
        try:
            return Path(snapshot_download(source, revision=revision, ignore_patterns=list(_NOT_FETCHED)))
        except (OSError, ValueError) as error:
            reason = unreachable or str(error).strip().splitlines()[0]
            raise ModelError(f"cannot fetch {name!r} from the hub: {reason}; give a hub id or a folder") from error


def require_output(output: Path, source: Path | None = None) -> None:
    """Raise a FileError for a folder that cannot be written whole, or that is part of the model's own, where known."""
    whole = output.resolve()
    if source is not None and source.resolve() in (whole, *whole.parents):
        raise FileError(f"{output} lies in the model's own folder {source}; choose a folder elsewhere")
    require_new_folder(output)


def require_not_baked(folder: Path) -> None:
    """Raise a ModelError for a checkpoint that something was baked into before: the two would add up."""
    if not (folder / RECORD).is_file():
        return
    what, sha256, source = "plan", "unknown", "the original"
    with suppress(IsoglossError, KeyError, TypeError):
        record = read_json(folder / RECORD)
        what = "adapter" if "adapter_sha256" in record else "plan"
        sha256, source = str(record[f"{what}_sha256"])[:12], record["source"]
    unite = "unite the plans with `isogloss plan … --into PLAN.json`" if what == "plan" else "give --adapter twice"
    raise ModelError(
        f"{folder} is already baked with {what} {sha256} (its {RECORD} says so); "
        f"{'offsets' if what == 'plan' else 'changes'} would add up: {unite}, and bake into {source}"
    )


def files_of(folder: Path, weights: Iterable[str]) -> tuple[list[Path], list[str]]:
    """List the relative paths of what a copy of a checkpoint contains, and the names of what is left out.

    Weights that are not the model's own safetensors files, which ``weights`` names, are left out: they are not steered,
    and an engine might load them. So are folders that hold such weights and, without being named, hidden files.
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
    """Raise a FileError for a copy that does not fit on the disk."""
    needed = sum((folder / path).stat().st_size for path in files) + _SPARE
    free = shutil.disk_usage(output.resolve().parent).free
    if free < needed:
        raise FileError(
            f"the copy takes {needed / 2**30:.3g} GiB; {free / 2**30:.3g} GiB are free beside {output}: make room, or "
            "choose another disk"
        )


def write_copy(folder: Path, files: Sequence[Path], target: Path, edits: Sequence[Edit]) -> None:
    """Copy files, never as links, and change the bytes of the edited tensors in the copies; errors: `copy_edited`."""
    for path in files:
        try:
            (target / path).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileError(f"cannot copy {folder / path}: {error.strerror}; nothing is left behind") from error
        copy_edited(folder / path, target / path, [edit for edit in edits if edit.place.file == path.as_posix()])


def copy_edited(source: Path, target: Path, edits: Sequence[Edit]) -> None:
    """Copy one file, change the bytes of the edited tensors in the copy, and read them back.

    Raises:
        FileError: it cannot be copied, or was changed meanwhile.
        ModelError: the copy does not hold what was written.
    """
    try:
        shutil.copyfile(source, target)
        with target.open("r+b") as stream:
            for edit in edits:
                before = to_bytes(edit.before)
                stream.seek(edit.place.start)
                if stream.read(len(before)) != before:
                    raise FileError(f"{source.name} was changed while it was copied; run the same command again")
                stream.seek(edit.place.start)
                stream.write(to_bytes(edit.after))
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise FileError(f"cannot copy {source}: {error.strerror}; nothing is left behind") from error
    for edit in edits:
        if not read_tensor(target.parent, replace(edit.place, file=target.name)).equal(edit.after):
            raise ModelError(f"the copy does not hold the new {edit.place.name}; the disk may be failing: try again")
