"""Writes a checkpoint with a plan inside, and shows that it computes what steering computes."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from isogloss.backends.bake.checkpoint import Edit, edits_of, open_checkpoint, require_slots
from isogloss.backends.bake.folder import (
    RECORD,
    checkpoint_folder,
    files_of,
    new_folder,
    require_free,
    require_not_baked,
    require_output,
    write_copy,
)
from isogloss.backends.bake.tensors import read_tensor
from isogloss.backends.bake.verify import Verification, compare, probe
from isogloss.backends.checks import PROBE_TEXTS
from isogloss.backends.huggingface import LoadedModel, load_model
from isogloss.errors import ModelError
from isogloss.files import write_json
from isogloss.organism.shipped import ORGANISM, model_folder
from isogloss.routing import Fingerprint
from isogloss.steering import Plan

__all__ = ["Baked", "bake_plan"]

_SCHEMA_VERSION = 1
_COMMIT = re.compile("[0-9a-f]{40}")


@dataclass(frozen=True)
class Baked:
    """A checkpoint that was written.

    Attributes:
        path: its folder.
        plan_sha256: of the plan inside.
        n_layers: layers whose bias was changed.
        dtype: that biases are stored in, as safetensors spells it.
        largest_rounding: of any stored sum, in logits; what a model that is loaded in that dtype is off the plan by.
        verification: None where it was not asked for.
        left_out: files and folders of the original that were not taken along, since they hold weights that are not
            steered.
    """

    path: Path
    plan_sha256: str
    n_layers: int
    dtype: str
    largest_rounding: float
    verification: Verification | None
    left_out: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON types."""
        verification = self.verification
        return {
            "path": str(self.path),
            "plan_sha256": self.plan_sha256,
            "n_layers": self.n_layers,
            "dtype": self.dtype,
            "largest_rounding": self.largest_rounding,
            "verified": verification is not None,
            "largest_difference": None if verification is None else verification.largest_difference,
            "left_out": list(self.left_out),
        }


def _silent(_label: str) -> AbstractContextManager[None]:
    """Tell nobody."""
    return nullcontext()


def bake_plan(
    name: str,
    plan: Plan,
    output: Path,
    *,
    verify: bool = True,
    loading: Mapping[str, Any] | None = None,
    busy: Callable[[str], AbstractContextManager[None]] = _silent,
) -> Baked:
    """Copy a checkpoint with a plan's offsets added to its routers' biases.

    No weight is loaded to write: files are copied, and the bytes of the biases changed in the copy, so that memory does
    not grow with the model. The folder is written whole or not at all. Its ``isogloss.json`` says what was baked.

    Args:
        name: hub id or folder of the model, or ``organism``.
        plan: interventions of kind ``offset`` alone, without conditions.
        output: a folder that does not exist or is empty.
        verify: load the original and then the copy, and compare their routers on texts; without it, the files alone
            are checked.
        loading: how they are then loaded: arguments of `isogloss.backends.huggingface.load_model`.
        busy: makes a context that shows what goes on inside it.

    Raises:
        PlanError: the plan cannot be baked, or is for another model.
        ModelError: the model has no bias for it, is baked already, or does not compute what was expected.
        FileError: the folder is in use, lies in the model's own, or does not fit on the disk.
    """
    name, loading = str(model_folder()) if name == ORGANISM else name, loading or {}
    require_output(output, Path(name) if Path(name).is_dir() else None)
    skeleton = require_slots(plan, name)
    with busy("bake: find the files"):
        folder = checkpoint_folder(name)
    require_output(output, folder)
    require_not_baked(folder)
    checkpoint = open_checkpoint(folder, skeleton)
    edits = edits_of(checkpoint, plan)
    files, left_out = files_of(folder, checkpoint.files)
    require_free(folder, files, output)
    original = None
    if verify:
        with busy("bake: run the original under the plan"):
            original = probe(load_model(str(folder), **loading), plan, edits, PROBE_TEXTS)
    with new_folder(output) as unfinished:
        with busy("bake: copy"):
            write_copy(folder, files, unfinished, edits)
        after = _require_written(unfinished, skeleton, edits)
        verification = None
        if original is not None:
            gc.collect()  # hooks of the original may hold on to its weights in circles
            with busy("bake: run the copy"):
                verification = compare(load_model(str(unfinished), **loading), original, edits, PROBE_TEXTS)
        worst = max(edits, key=lambda edit: edit.rounding)
        stored = worst.place.dtype, worst.rounding
        baked = Baked(output, plan.sha256, len(edits), *stored, verification, tuple(left_out))
        fingerprints = {"fingerprint_before": checkpoint.fingerprint.to_json(), "fingerprint_after": after.to_json()}
        write_json(unfinished / RECORD, _record(baked, plan, edits) | _origin(name, folder) | fingerprints)
    return baked


def _require_written(folder: Path, skeleton: LoadedModel, edits: tuple[Edit, ...]) -> Fingerprint:
    """Read the copy's routers back; return their fingerprint."""
    written = open_checkpoint(folder, skeleton)
    for edit in edits:
        if read_tensor(folder, written.bias_by_layer[edit.layer]).tolist() != edit.after.tolist():
            raise ModelError(f"the copy does not hold the new {edit.place.name}; the disk may be failing: try again")
    return written.fingerprint


def _origin(name: str, folder: Path) -> dict[str, Any]:
    """Name the original: a hub id with its commit, or the name of a folder; never a path."""
    if not Path(name).is_dir():
        return {"source": name, "revision": folder.name if _COMMIT.fullmatch(folder.name) else None}
    return {"source": folder.resolve().name, "revision": None}


def _record(baked: Baked, plan: Plan, edits: tuple[Edit, ...]) -> dict[str, Any]:
    """Say what was baked, without times and paths, so that the same command writes the same bytes."""
    return {
        **{key: value for key, value in baked.to_json().items() if key != "path"},
        "schema_version": _SCHEMA_VERSION,
        "isogloss_version": version("isogloss"),
        "plan": plan.to_json(),
        "tensors": {edit.place.name: edit.place.file for edit in edits},
    }
