"""Where tensors lie in the safetensors files of a checkpoint, byte by byte, so that few bytes can be read or changed.

The safetensors library reads whole tensors and writes whole files only. `isogloss bake` copies a checkpoint of 60 GB
and changes some kilobytes of biases in the copy, and `hash_files` reads some bytes of every tensor; their places are in
the files' headers.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from isogloss.errors import ModelError
from isogloss.files import parse_json, read_json

__all__ = [
    "FLOATS",
    "StoredTensor",
    "hash_files",
    "hash_pickles",
    "part_of",
    "read_places",
    "read_tensor",
    "refuse_quantised",
    "stored_bytes",
    "to_bytes",
]

FLOATS = MappingProxyType({"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16})
"""Of the dtypes of safetensors, those that a router's weight and bias may have."""

_EIGHT_BITS = MappingProxyType({"BOOL": "bool", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"})
_KINDS = MappingProxyType({"F": "float", "BF": "bfloat", "I": "int", "U": "uint"})
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLE, _PICKLES = "pytorch_model.bin", "pytorch_model.bin.index.json"
_PIECE, _PIECES, _APART = 512, 8, 2**18  # bytes, least number, and most bytes from one to the next
_LENGTH = 8  # bytes of the number that gives the length of the header
_LONGEST_HEADER = 100_000_000  # the format's own limit


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a checkpoint.

    Attributes:
        name: in the file.
        file: name of the file, in the checkpoint's folder.
        dtype: as safetensors writes it.
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
        found = f"neither {_SINGLE} nor {_INDEX}"
        if single.is_file():
            found = f"both {_SINGLE} and {_INDEX}, and it is not known which an engine would load"
        raise ModelError(
            f"{folder} holds {found}; expected one of the two: fetch the checkpoint again, or save it with "
            "model.save_pretrained(FOLDER)"
        )
    if single.is_file():
        return _header(single)
    weight_map = _weight_map(index, ".safetensors")
    headers = {name: _header(folder / name) for name in sorted(set(weight_map.values()))}
    if absent := sorted(name for name, file in weight_map.items() if name not in headers[file]):
        raise ModelError(f"{index}: {absent[0]} is not in {weight_map[absent[0]]}; fetch the checkpoint again")
    return {name: headers[file][name] for name, file in weight_map.items()}


def part_of(name: str) -> str:
    """Say of what a tensor is by its name: ``experts``, of the routed ones, or ``others``.

    Example:
        >>> part_of("layers.0.mlp.experts.7.up_proj.weight"), part_of("layers.0.mlp.shared_experts.up_proj.weight")
        ('experts', 'others')
    """
    return "experts" if "experts" in name.split(".") else "others"


def stored_bytes(folder: Path) -> dict[tuple[str, str], int]:
    """Count the bytes of a checkpoint's tensors by part (`part_of`) and dtype; errors as of `read_places`."""
    sizes: defaultdict[tuple[str, str], int] = defaultdict(int)
    for name, place in read_places(folder).items():
        sizes[part_of(name), _torch_name(place.dtype)] += place.stop - place.start
    return dict(sizes)


def _torch_name(dtype: str) -> str:
    """Name a dtype of safetensors as torch does, such as ``bfloat16`` for ``BF16``; one that torch lacks stays."""
    match = re.fullmatch(r"(BF|F|I|U)(\d+)", dtype)
    return _EIGHT_BITS.get(dtype) or (f"{_KINDS[match[1]]}{match[2]}" if match else dtype)


def refuse_quantised(places: Mapping[str, StoredTensor], weight: str) -> None:
    """Refuse a router whose weight is stored as other numbers than `FLOATS`, under its own name or one like it.

    Args:
        places: of the checkpoint.
        weight: name of the router's weight; what is stored under another module's name is not found.

    Raises:
        ModelError: names the tensor, and what to do.
    """
    module = weight.rpartition(".")[0] + "."
    for name, place in places.items():
        if name.startswith(module) and "weight" in name.removeprefix(module) and place.dtype not in FLOATS:
            raise ModelError(
                f"the router's {name} is stored as {place.dtype}, so the router is quantised; expected floating point, "
                "which alone can be read and steered: leave routers out of the quantisation (llm_int8_skip_modules of "
                "bitsandbytes, modules_to_not_convert elsewhere)"
            )


def hash_files(folder: Path) -> str:
    """Hash name, dtype, shape and pieces of every tensor of a checkpoint, without reading all of it again.

    Pieces of 512 bytes begin at least every 256 KiB, and at least 8 times in a tensor, or in each of its slices where
    it has three axes or more. So every contiguous change of 256 KiB is seen, and every one of an eighth of a tensor or
    slice: the matrix of one expert that was scaled, negated, trained or replaced. A smaller change may be missed. The
    hash does not depend on how the checkpoint is loaded, and sees nothing that is changed after loading.

    Returns:
        64 hexadecimal digits.

    Raises:
        ModelError: the folder holds no safetensors weights, or damaged ones.
    """
    places = sorted(read_places(folder).values(), key=lambda place: (place.file, place.start))
    entries: dict[str, bytes] = {}
    for file in dict.fromkeys(place.file for place in places):
        with (folder / file).open("rb") as stream:
            for place in (each for each in places if each.file == file):
                digest = hashlib.sha256(f"{place.name} {place.dtype} {place.shape}".encode())
                for start, stop in _pieces(place):
                    stream.seek(start)
                    digest.update(stream.read(stop - start))
                entries[place.name] = digest.digest()
    return hashlib.sha256(b"".join(entries[name] for name in sorted(entries))).hexdigest()


def hash_pickles(folder: Path) -> str | None:
    """Hash the weights of a folder that transformers reads as pickles: every byte of them, none of which is unpickled.

    Returns:
        64 hexadecimal digits; None where the folder holds none, or safetensors weights, which go before.

    Raises:
        ModelError: one that the index names is absent, or cannot be read.
    """
    if any((folder / name).is_file() for name in (_SINGLE, _INDEX)):
        return None
    files = [_PICKLE]
    if not (folder / _PICKLE).is_file():
        if not (folder / _PICKLES).is_file():
            return None
        files = sorted({*_weight_map(folder / _PICKLES, ".bin").values()})
    digest = hashlib.sha256()
    for file in files:
        try:
            with (folder / file).open("rb") as stream:
                digest.update(f"{file} {hashlib.file_digest(stream, 'sha256').hexdigest()} ".encode())
        except OSError as error:
            raise ModelError(f"cannot read {folder / file} ({error.strerror}); fetch the checkpoint again") from error
    return digest.hexdigest()


def read_tensor(folder: Path, place: StoredTensor) -> torch.Tensor:
    """Read one tensor of `FLOATS`, as stored."""
    with (folder / place.file).open("rb") as stream:
        stream.seek(place.start)
        content = bytearray(stream.read(place.stop - place.start))
    return torch.frombuffer(content, dtype=FLOATS[place.dtype]).reshape(place.shape)


def to_bytes(tensor: torch.Tensor) -> bytes:
    """Return a tensor's bytes as safetensors stores them."""
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def _pieces(place: StoredTensor) -> Iterator[tuple[int, int]]:
    size = place.stop - place.start
    n_slices = math.prod(place.shape[:-2])  # 1 for matrices and vectors
    n_pieces = max(_PIECES * n_slices, math.ceil(size / _APART))
    if size <= n_pieces * _PIECE:
        yield place.start, place.stop
        return
    for piece in range(n_pieces):
        start = place.start + size * piece // n_pieces
        yield start, start + _PIECE


def _weight_map(index: Path, suffix: str) -> dict[str, str]:
    raw = read_json(index)
    files = raw.get("weight_map") if isinstance(raw, dict) else None
    if not isinstance(files, dict) or not files or not all(_is_plain(file, suffix) for file in files.values()):
        raise ModelError(f"{index} has no weight_map of names to files beside it; fetch the checkpoint again")
    return files


def _is_plain(file: object, suffix: str) -> bool:
    return isinstance(file, str) and Path(file).name == file and file.endswith(suffix)


def _header(path: Path) -> dict[str, StoredTensor]:
    """Read the header of one file: 8 bytes of its length, then JSON; tensors follow in one piece.

    Source:
        https://github.com/huggingface/safetensors, section Format of its README.
    """
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(_LENGTH), "little")
            raw = parse_json(stream.read(length)) if length <= _LONGEST_HEADER else None
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
