"""Where tensors lie in the safetensors files of a checkpoint, byte by byte, so that few of them can be read or changed.

The library reads tensors and writes whole files; a checkpoint of 60 GB whose biases take some kilobytes is copied as it
is, and the bytes of the biases are changed in the copy. For that their places are read from the files' headers.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from isogloss.errors import ModelError
from isogloss.files import read_json

__all__ = ["FLOATS", "StoredTensor", "read_places", "read_tensor", "to_bytes"]

FLOATS = MappingProxyType({"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16})
"""Of the dtypes of safetensors, those that a router's weight and bias may have."""

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_LENGTH = 8  # bytes of the number that says how long the header is
_LONGEST_HEADER = 100_000_000  # the format's own limit


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a checkpoint.

    Attributes:
        name: in the file.
        file: name of the file, in the checkpoint's folder.
        dtype: as safetensors spells it.
        shape: as stored.
        start: of its first byte in the file.
        stop: after its last byte.
    """

    name: str
    file: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def read_places(folder: Path) -> dict[str, StoredTensor]:
    """Find every tensor of a checkpoint by the headers of its files; no tensor is read.

    Raises:
        ModelError: the folder holds no safetensors weights, both a single file and an index of several, or damaged
            ones.
    """
    single, index = (folder / name for name in (_SINGLE, _INDEX))
    if single.is_file() == index.is_file():
        found = "holds both" if single.is_file() else "holds neither"
        raise ModelError(
            f"{folder} {found} {_SINGLE} and {_INDEX}; expected one of the two: it cannot be told what an engine would "
            "load, so fetch the checkpoint again, or save it with model.save_pretrained(FOLDER)"
        )
    if single.is_file():
        return _header(single)
    weight_map = _weight_map(index)
    headers = {name: _header(folder / name) for name in sorted(set(weight_map.values()))}
    if absent := sorted(name for name, file in weight_map.items() if name not in headers[file]):
        raise ModelError(f"{index}: {absent[0]} is not in {weight_map[absent[0]]}; fetch the checkpoint again")
    return {name: headers[file][name] for name, file in weight_map.items()}


def read_tensor(folder: Path, place: StoredTensor) -> torch.Tensor:
    """Read one tensor of `FLOATS`, as stored."""
    with (folder / place.file).open("rb") as stream:
        stream.seek(place.start)
        content = bytearray(stream.read(place.stop - place.start))
    return torch.frombuffer(content, dtype=FLOATS[place.dtype]).reshape(place.shape)


def to_bytes(tensor: torch.Tensor) -> bytes:
    """Return a tensor's bytes as safetensors stores them."""
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def _weight_map(index: Path) -> dict[str, str]:
    raw = read_json(index)
    found = raw.get("weight_map") if isinstance(raw, dict) else None
    if not isinstance(found, dict) or not found or not all(_is_plain(file) for file in found.values()):
        raise ModelError(f"{index} has no weight_map of names to files beside it; fetch the checkpoint again")
    return found


def _is_plain(file: object) -> bool:
    return isinstance(file, str) and Path(file).name == file and file.endswith(".safetensors")


def _header(path: Path) -> dict[str, StoredTensor]:
    """Read the header of one file: 8 bytes of its length, then JSON; tensors follow in one piece.

    Source:
        https://github.com/huggingface/safetensors, section Format of its README.
    """
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(_LENGTH), "little")
            raw = json.loads(stream.read(length)) if length <= _LONGEST_HEADER else None
        size = path.stat().st_size
        entries = {name: entry for name, entry in raw.items() if name != "__metadata__"}  # type: ignore[union-attr] # below
        return {name: _place(path, name, entry, _LENGTH + length, size) for name, entry in entries.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} is no whole safetensors file ({error}); fetch the checkpoint again") from error


def _place(path: Path, name: str, entry: dict[str, Any], data: int, size: int) -> StoredTensor:
    start, stop = (data + offset for offset in entry["data_offsets"])
    if not data <= start <= stop <= size:
        raise ValueError(f"{name} ends at byte {stop} of {size}")
    shape = tuple(entry["shape"])
    if entry["dtype"] in FLOATS and math.prod(shape) * FLOATS[entry["dtype"]].itemsize != stop - start:
        raise ValueError(f"{name} has {stop - start} bytes for the shape {list(shape)}")
    return StoredTensor(name, path.name, entry["dtype"], shape, start, stop)
