"""Finds the routers in a GGUF file, the format of llama.cpp and of what is built on it; no other tensor is read.

llama.cpp keeps the weight of a router in float32 whatever the rest is quantised to, in the rows and columns of the
checkpoint that the file was converted from. So the fingerprint of that checkpoint can be computed from the file: the
hash of all routers' weights and biases shows that a plan or an adapter is for this model. What
it does not show is which experts and attention stand around the routers: a model that was trained on with its routers
fixed has the same fingerprint, in GGUF as in a checkpoint.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isogloss.backends.bake.edits import StoredRouters
from isogloss.backends.bake_forms import Part
from isogloss.backends.fingerprint import router_bytes, router_fingerprint
from isogloss.backends.stored_tensors import StoredTensor, read_tensor
from isogloss.errors import ModelError

__all__ = ["GgufFile", "file_version", "gguf_library", "is_gguf", "read_gguf"]

_MAGIC = b"GGUF"
_PARTS: tuple[tuple[Part, re.Pattern[str]], ...] = (
    ("weight", re.compile(r"blk\.(\d+)\.ffn_gate_inp\.weight")),
    ("logit bias", re.compile(r"blk\.(\d+)\.ffn_gate_inp\.bias")),
    ("selection bias", re.compile(r"blk\.(\d+)\.exp_probs_b(?:\.bias)?")),  # of hy-v3 without ending
)
_MATRIX, _FLOAT = 2, "F32"


@dataclass(frozen=True)
class GgufFile:
    """A GGUF file's routers.

    Attributes:
        path: of the file.
        architecture: llama.cpp's name of it, such as ``qwen3moe``.
        routers: where their weights and biases are stored, in float32.
        version: size in bytes and time of the last change, which tell whether the file is being written.
    """

    path: Path
    architecture: str
    routers: StoredRouters
    version: tuple[int, int]


def is_gguf(path: Path) -> bool:
    """Whether a file begins as GGUF files do."""
    try:
        with path.open("rb") as stream:
            return stream.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def gguf_library() -> Any:  # noqa: ANN401 - a module without types, and not always there
    """Import the format's own reader and writer.

    Raises:
        ModelError: it is not installed.
    """
    try:
        import gguf  # noqa: PLC0415 - an extra, and needed for these files alone
    except ImportError as error:
        raise ModelError(
            "GGUF files need the package gguf, which is not installed: pip install 'isogloss[gguf]'"
        ) from (error)
    return gguf


def read_gguf(path: Path, model_type: str) -> GgufFile:
    """Find the routers of a GGUF file, and compute their fingerprint.

    Args:
        path: of the file.
        model_type: of the model that it should be, since the file names its architecture in another way.

    Raises:
        ModelError: the file is damaged or incomplete, one part of several, in the byte order of another machine, or has
            no routers, or some that are not stored in float32.
    """
    version = file_version(path)
    reader = _reader(path)
    if reader.byte_order != "I":
        raise ModelError(f"{path} has the byte order of another kind of machine; convert the model again on this one")
    if (n_parts := _number(reader, "split.count")) is not None and n_parts > 1:
        raise ModelError(
            f"{path} is one of {n_parts} parts; expected one file: unite them by `llama-gguf-split --merge {path} "
            "WHOLE.gguf`, and name that"
        )
    architecture = str(_content(reader, "general.architecture"))
    places = _routers(reader, path, _layers_that_run(reader, architecture))
    top_k = _number(reader, f"{architecture}.expert_used_count")
    if top_k is None:
        raise ModelError(f"{path} does not say how many experts of {architecture} a token chooses; convert it again")
    layers = sorted(places["weight"])
    fingerprint = router_fingerprint(
        model_type,
        layers,
        n_experts=places["weight"][layers[0]].shape[0],
        top_k=top_k,
        contents=(
            router_bytes(*(read_tensor(path.parent, of_part[layer]) for of_part in places.values() if layer in of_part))
            for layer in layers
        ),
    )
    return GgufFile(path, architecture, StoredRouters(path.parent, (path.name,), fingerprint, places), version)


def _reader(path: Path) -> Any:  # noqa: ANN401 - of a module without types
    library = gguf_library()
    try:
        return library.GGUFReader(path)
    except Exception as error:
        why = next(iter(str(error).splitlines()), type(error).__name__)
        raise ModelError(
            f"{path} is no whole GGUF file ({why}); fetch it again, or wait until it is written to the end"
        ) from error


def file_version(path: Path) -> tuple[int, int]:
    """Return a file's size in bytes and its time of the last change; ModelError where there is none."""
    try:
        status = path.stat()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    return status.st_size, status.st_mtime_ns


def _layers_that_run(reader: Any, architecture: str) -> int | None:  # noqa: ANN401 - of a module without types
    """Number of layers before those that only guess the tokens after the next; None where the file does not tell."""
    n_layers = _number(reader, f"{architecture}.block_count")
    return None if n_layers is None else n_layers - (_number(reader, f"{architecture}.nextn_predict_layers") or 0)


def _routers(
    reader: Any,  # noqa: ANN401 - as above
    path: Path,
    n_layers: int | None,
) -> dict[Part, dict[int, StoredTensor]]:
    """Find the parts of every routed layer."""
    places: dict[Part, dict[int, StoredTensor]] = {part: {} for part, _ in _PARTS}
    for tensor in reader.tensors:
        found = [(part, int(match[1])) for part, name in _PARTS if (match := name.fullmatch(tensor.name)) is not None]
        if not found or (n_layers is not None and found[0][1] >= n_layers):
            continue
        if tensor.tensor_type.name != _FLOAT:
            raise ModelError(
                f"{path}: {tensor.name} is stored as {tensor.tensor_type.name}; expected {_FLOAT}, which llama.cpp "
                "keeps routers in: convert the model again by its own convert_hf_to_gguf.py"
            )
        shape = tuple(int(size) for size in reversed(tensor.shape.tolist()))
        start = int(tensor.data_offset)
        place = StoredTensor(tensor.name, path.name, _FLOAT, shape, start, start + int(tensor.n_bytes))
        part, layer = found[0]
        places[part][layer] = place
    _require_alike(places, path)
    return places


def _require_alike(places: Mapping[Part, Mapping[int, StoredTensor]], path: Path) -> None:
    """Raise a ModelError where there is no router, or where layers differ in what their routers have."""
    weights = places["weight"]
    if not weights:
        raise ModelError(f"{path} has no routers (no tensor blk.N.ffn_gate_inp.weight); expected a Mixture-of-Experts")
    for part, of_part in places.items():
        shapes = {place.shape for place in of_part.values()}
        n_numbers = {math.prod(shape) for shape in shapes}
        rows = next(iter(weights.values())).shape[0]
        if part == "weight" and (len(shapes) > 1 or len(next(iter(shapes))) != _MATRIX):
            raise ModelError(f"{path} has routers of different shapes; expected one matrix of one shape per layer")
        if part != "weight" and of_part and (set(of_part) != set(weights) or n_numbers != {rows}):
            raise ModelError(
                f"{path} has a {part} in some routers only, or of another number of experts; expected one of {rows} "
                "numbers in each router, or in none"
            )


def _number(reader: Any, name: str) -> int | None:  # noqa: ANN401 - as above
    content = _content(reader, name)
    return int(content) if isinstance(content, int) else None


def _content(reader: Any, name: str) -> Any:  # noqa: ANN401 - as above
    field = reader.get_field(name)
    return None if field is None else field.contents()
