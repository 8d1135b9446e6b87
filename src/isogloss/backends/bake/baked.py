"""Writes a checkpoint with a plan or an adapter inside, and shows that it computes what steering computes."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from isogloss.backends.bake.checkpoint import open_checkpoint, without_weights
from isogloss.backends.bake.edits import (
    Change,
    Edit,
    edits_of,
    lost_share,
    parts_of,
    require_effect,
    with_own_names,
)
from isogloss.backends.bake.folder import (
    RECORD,
    checkpoint_folder,
    files_of,
    require_free,
    require_not_baked,
    require_output,
    write_copy,
)
from isogloss.backends.bake.verify import Verification, compare_routers, record_routers
from isogloss.backends.bake_forms import Part
from isogloss.backends.checks import PROBE_TEXTS
from isogloss.backends.huggingface import LoadedModel, load_model
from isogloss.backends.open import folder_of
from isogloss.files import write_json
from isogloss.folders import new_folder
from isogloss.hub import split_revision
from isogloss.steering import RouterAdapter

__all__ = ["Baked", "adapter_written", "bake_checkpoint", "baked_from"]

_SCHEMA_VERSION = 1
_BY_SOFTMAX = ("softmax", "topk_softmax")
_COMMIT = re.compile("[0-9a-f]{40}")


@dataclass(frozen=True)
class Baked:
    """What was written.

    Attributes:
        path: its folder or file.
        form: one of `isogloss.backends.bake_forms.FORMS`.
        change: what is inside: ``plan`` or ``adapter``.
        sha256: of that.
        parts: of routers that are changed: ``weight``, ``logit bias``, ``selection bias``.
        n_layers: layers whose routers are changed.
        dtype: that the changed tensors are stored in, as safetensors writes it.
        largest_rounding: of any stored sum: how far a model loaded in that dtype differs from the plan or the adapter;
            of a logit bias in logits, of a selection bias in the unit of the scores that are ranked.
        lost_share: the Euclidean length of all errors of rounding, as a share of that of the change.
        verification: None where it was not asked for, or where no model could be loaded to compare.
        left_out: files and folders of the original that were not copied, since they hold weights that are not steered.
        serve: the command that serves an adapter for vLLM beside its model; None for other forms.
    """

    path: Path
    form: str
    change: str
    sha256: str
    parts: tuple[Part, ...]
    n_layers: int
    dtype: str
    largest_rounding: float
    lost_share: float
    verification: Verification | None
    left_out: tuple[str, ...] = ()
    serve: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON types."""
        verification = self.verification
        return {
            "path": str(self.path),
            "form": self.form,
            f"{self.change}_sha256": self.sha256,
            "parts": list(self.parts),
            "n_layers": self.n_layers,
            "dtype": self.dtype,
            "largest_rounding": self.largest_rounding,
            "lost_share": self.lost_share,
            "verified": verification is not None,
            "largest_difference": None if verification is None else verification.largest_difference,
            "largest_change": None if verification is None else verification.largest_change,
            "different_choices": None if verification is None else verification.different_choices,
            "changed_choices": None if verification is None else verification.changed_choices,
            "left_out": list(self.left_out),
            **({} if self.serve is None else {"serve": self.serve}),
        }


def adapter_written(output: Path, form: str, adapter: RouterAdapter, *, serve: str | None = None) -> Baked:
    """Describe an adapter that was written by itself, in float32: nothing is rounded."""
    what = adapter.noun, adapter.sha256, parts_of(adapter), len(adapter.layers)
    return Baked(output, form, *what, dtype="F32", largest_rounding=0.0, lost_share=0.0, verification=None, serve=serve)


def baked_from(
    output: Path,
    form: str,
    change: Change,
    edits: tuple[Edit, ...],
    verification: Verification | None = None,
    left_out: tuple[str, ...] = (),
) -> Baked:
    """Describe what was written by the edits that it holds."""
    worst = max(edits, key=lambda edit: edit.rounding)
    stored = worst.place.dtype, worst.rounding, lost_share(edits)
    what = change.noun, change.sha256, parts_of(change), len({edit.layer for edit in edits})
    return Baked(output, form, *what, *stored, verification, left_out)


def bake_checkpoint(
    name: str,
    change: Change,
    output: Path,
    *,
    verify: bool = True,
    loading: Mapping[str, Any] | None = None,
    busy: Callable[[str], AbstractContextManager[object]] = nullcontext,
) -> Baked:
    """Copy a checkpoint with a plan's constants added to its routers' biases, or an adapter to their weights.

    No weight is loaded to write: files are copied, and the bytes of these tensors changed in the copy, so that memory
    does not grow with the model. The folder is written whole or not at all. Its ``isogloss.json`` records what was
    baked.

    Args:
        name: hub id or folder of the model, or ``organism``.
        change: an adapter; or a plan of kinds ``offset`` and ``select`` alone, without conditions.
        output: a folder that does not exist or is empty.
        verify: load the original and then the copy, and compare their routers on texts; without it, the files alone
            are checked.
        loading: how they are then loaded: arguments of `isogloss.backends.huggingface.load_model`.
        busy: makes a context that shows what runs inside it.

    Raises:
        PlanError: the plan or adapter cannot be baked, or is for another model.
        ModelError: the model has no bias for a kind of the plan, is baked already, or computes something else.
        FileError: the folder is in use, lies in the model's own, or does not fit on the disk.
    """
    name, loading = folder_of(name), loading or {}
    require_output(output, Path(name) if Path(name).is_dir() else None)
    skeleton = without_weights(change, name)
    with busy("bake: find the files"):
        folder = checkpoint_folder(name)
    require_output(output, folder)
    require_not_baked(folder)
    stored = open_checkpoint(folder, skeleton, change)
    edits = edits_of(stored, change)
    _require_sense(change, skeleton)
    files, left_out = files_of(folder, stored.files)
    require_free(folder, files, output)
    original = None
    if verify:
        with busy("bake: run the original"):
            original = record_routers(load_model(str(folder), **loading), change, edits, PROBE_TEXTS)
    with new_folder(output) as unfinished:
        with busy("bake: copy"):
            write_copy(folder, files, unfinished, edits)
        after = open_checkpoint(unfinished, skeleton, change).fingerprint
        verification = None
        if original is not None:
            gc.collect()  # reference cycles with hooks may keep the weights of the original
            with busy("bake: run the copy"):
                verification = compare_routers(
                    load_model(str(unfinished), **loading), original, change, edits, PROBE_TEXTS
                )
        baked = baked_from(output, "checkpoint", change, edits, verification, tuple(left_out))
        fingerprints = {"fingerprint_before": stored.fingerprint.to_json(), "fingerprint_after": after.to_json()}
        write_json(unfinished / RECORD, _record(baked, change, edits) | _origin(name, folder) | fingerprints)
    return baked


def _require_sense(change: Change, skeleton: LoadedModel) -> None:
    """Refuse an adapter that names other weights than the routers', and a plan that changes nothing."""
    if isinstance(change, RouterAdapter):
        with_own_names(change, skeleton.router_parameters)
    else:
        require_effect(change, [each.layer for each in skeleton.routers if each.scoring in _BY_SOFTMAX])


def _origin(name: str, folder: Path) -> dict[str, Any]:
    """Name the original: a hub id with its commit, or the name of a folder; never a path."""
    if not Path(name).is_dir():
        return {"source": split_revision(name)[0], "revision": folder.name if _COMMIT.fullmatch(folder.name) else None}
    return {"source": folder.resolve().name, "revision": None}


def _record(baked: Baked, change: Change, edits: tuple[Edit, ...]) -> dict[str, Any]:
    """Return what was baked, without times and paths, so that the same command writes the same bytes.

    Of an adapter, the matrices are left out, as they are in its hash alone.
    """
    return {
        **{key: value for key, value in baked.to_json().items() if key != "path"},
        "schema_version": _SCHEMA_VERSION,
        "isogloss_version": version("isogloss"),
        change.noun: change.to_json(),
        "tensors": {edit.place.name: edit.place.file for edit in edits},
    }
