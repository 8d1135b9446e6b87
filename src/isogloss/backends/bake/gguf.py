"""Writes GGUF files for llama.cpp and what is built on it: a model with a change inside, and an adapter beside it.

Adapter files hold, for the router of layer N, ``blk.N.ffn_gate_inp.weight.lora_a`` (A, ``[rank, width]``) and
``.lora_b`` (B, ``[n_experts, rank]``). llama.cpp adds ``alpha / rank`` times B A, or B A alone where alpha is 0; the
adapter's scale is therefore multiplied into B, and alpha is the rank.

Source:
    llama.cpp src/llama-adapter.cpp and src/llama-adapter.h, of llama-cpp-python 0.3.36; tried in ``tests_llama``.
"""

from __future__ import annotations

from pathlib import Path

from isogloss.backends.bake.baked import Baked, adapter_written, baked_from
from isogloss.backends.bake.edits import (
    Change,
    edits_of,
    require_constants,
    require_effect,
    require_fits,
    require_places,
)
from isogloss.backends.bake.folder import copy_edited, require_free
from isogloss.backends.bake.gguf_file import GgufFile, file_version, gguf_library, read_gguf
from isogloss.errors import FileError
from isogloss.folders import new_file, require_new_file
from isogloss.steering import Plan, RouterAdapter

__all__ = ["bake_gguf", "write_gguf_adapter"]

_BY_SOFTMAX = ("gpt-oss",)  # the architectures with a bias of the logits, whose weights are a softmax of these


def bake_gguf(path: Path, change: Change, output: Path) -> Baked:
    """Copy a GGUF file with an adapter added to its routers' weights, or a plan's constants to their biases.

    Only the bytes of these tensors are changed, whatever the others are quantised to. The file is written whole or not
    at all.

    Args:
        path: of the file.
        change: an adapter; or a plan of kinds ``offset`` and ``select`` alone, without conditions.
        output: a file that does not exist.

    Raises:
        PlanError: the plan or adapter cannot be baked, or is for another model.
        ModelError: the file is damaged, is being written, or has no routers in float32 or no biases for a
            kind of the plan.
        FileError: the output is there, or does not fit on the disk.
    """
    if isinstance(change, Plan):
        require_constants(change)
    require_new_file(output)
    file = read_gguf(path, change.fingerprint.model_type)
    if isinstance(change, Plan):
        require_places(change, file.routers.places, str(path))
    edits = edits_of(file.routers, change)
    if isinstance(change, Plan):
        require_effect(change, change.layers if file.architecture in _BY_SOFTMAX else ())
    require_free(path.parent, [Path(path.name)], output)
    with new_file(output) as unfinished:
        copy_edited(path, unfinished, edits)
        if file_version(path) != file.version:
            raise FileError(f"{path} was changed while it was copied; wait until it is written, and run this again")
    return baked_from(output, "gguf", change, edits)


def write_gguf_adapter(path: Path, adapter: RouterAdapter, output: Path) -> Baked:
    """Write an adapter as llama.cpp reads it (``--lora FILE``), for the model of a GGUF file.

    Args:
        path: of the model's file, which is read alone.
        adapter: made for that model.
        output: a file that does not exist.

    Raises:
        PlanError: the adapter is for another model.
        ModelError: the model's file is damaged, is being written, or has no routers in float32.
        FileError: the output is there, or cannot be written.
    """
    require_new_file(output)
    file = read_gguf(path, adapter.fingerprint.model_type)
    require_fits(file.routers, adapter)
    with new_file(output) as unfinished:
        try:
            _write_adapter(file, adapter, unfinished)
        except OSError as error:
            raise FileError(f"cannot write {output}: {error.strerror}; nothing is left behind") from error
    return adapter_written(output, "gguf-lora", adapter)


def _write_adapter(file: GgufFile, adapter: RouterAdapter, output: Path) -> None:
    library = gguf_library()
    writer = library.GGUFWriter(output, file.architecture)
    writer.add_type(library.GGUFType.ADAPTER)
    writer.add_string(library.Keys.Adapter.TYPE, "lora")
    writer.add_float32(library.Keys.Adapter.LORA_ALPHA, float(adapter.rank))
    for router in adapter.unscaled().routers:
        name = file.routers.places["weight"][router.layer].name
        writer.add_tensor(f"{name}.lora_a", router.a)
        writer.add_tensor(f"{name}.lora_b", router.whole_b)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
