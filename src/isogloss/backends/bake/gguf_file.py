"""Finds the routers in a GGUF file, the format of llama.cpp and of what is built on it; no other tensor is read.

llama.cpp keeps the weight of a router in float32 whatever the rest is quantised to, in the rows and columns of the
checkpoint that the file was converted from. So the fingerprint of that checkpoint can be computed from the file: the
hash of all routers' weights, and of biases in their products, shows that a plan or an adapter is for this model. What
it does not show is which experts and attention stand around the routers: a model that was trained on with its routers
fixed has the same fingerprint, in GGUF as in a checkpoint.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isogloss.backends.bake.edits import StoredRouters
from isogloss.backends.fingerprint import router_bytes, router_fingerprint
from isogloss.backends.stored_tensors import StoredTensor, read_tensor
from isogloss.errors import ModelError

__all__ = ["GgufFile", "file_version", "gguf_library", "is_gguf", "read_gguf"]

_MAGIC = b"GGUF"
_ROUTER = re.compile(r"blk\.(\d+)\.ffn_gate_inp\.(weight|bias)")
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
    weights, biases = _routers(reader, path, _layers_that_run(reader, architecture))
    top_k = _number(reader, f"{architecture}.expert_used_count")
    if top_k is None:
        raise ModelError(f"{path} does not say how many experts of {architecture} a token chooses; convert it again")
    places = [(weights[layer], biases.get(layer)) for layer in sorted(weights)]
    fingerprint = router_fingerprint(
        model_type,
        sorted(weights),
        n_experts=places[0][0].shape[0],
        top_k=top_k,
        contents=(
            router_bytes(*(None if place is None else read_tensor(path.parent, place) for place in pair))
            for pair in places
        ),
    )
    return GgufFile(path, architecture, StoredRouters(path.parent, (path.name,), fingerprint, weights, biases), version)


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
) -> tuple[dict[int, StoredTensor], dict[int, StoredTensor]]:
    """Find weight and bias of every routed layer."""
    places: dict[str, dict[int, StoredTensor]] = {"weight": {}, "bias": {}}
    for tensor in reader.tensors:
        match = _ROUTER.fullmatch(tensor.name)
        if match is None or (n_layers is not None and int(match[1]) >= n_layers):
            continue
        if tensor.tensor_type.name != _FLOAT:
            raise ModelError(
                f"{path}: {tensor.name} is stored as {tensor.tensor_type.name}; expected {_FLOAT}, which llama.cpp "
                "keeps routers in: convert the model again by its own convert_hf_to_gguf.py"
            )
        shape = tuple(int(size) for size in reversed(tensor.shape.tolist()))
        start = int(tensor.data_offset)
        place = StoredTensor(tensor.name, path.name, _FLOAT, shape, start, start + int(tensor.n_bytes))
        places[match[2]][int(match[1])] = place
    weights, biases = places["weight"], places["bias"]
    if not weights:
        raise ModelError(f"{path} has no routers (no tensor blk.N.ffn_gate_inp.weight); expected a Mixture-of-Experts")
    if len({place.shape for place in weights.values()}) > 1 or len(next(iter(weights.values())).shape) != _MATRIX:
        raise ModelError(f"{path} has routers of different shapes; expected one matrix of one shape per layer")
    if biases and set(biases) != set(weights):
        raise ModelError(f"{path} has a bias in some routers only; expected one in each, or in none")
    return weights, biases


def _number(reader: Any, name: str) -> int | None:  # noqa: ANN401 - as above
    content = _content(reader, name)
    return int(content) if isinstance(content, int) else None


def _content(reader: Any, name: str) -> Any:  # noqa: ANN401 - as above
    field = reader.get_field(name)
    return None if field is None else field.contents()
