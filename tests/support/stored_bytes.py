"""What the weight files of a checkpoint hold, byte by byte, read by hand."""

from __future__ import annotations

import json
import struct
from typing import NamedTuple


class Stored(NamedTuple):
    """A tensor as it lies in a file."""

    name: str
    file: str
    dtype: str
    content: bytes


def stored_bytes(folder):
    """Every tensor of a folder's safetensors files, in file order; and file name -> bytes of the file's header."""
    tensors, headers = [], {}
    for path in sorted(folder.glob("*.safetensors")):
        content = path.read_bytes()
        start = 8 + struct.unpack("<Q", content[:8])[0]
        headers[path.name] = content[:start]
        for name, entry in json.loads(content[8:start]).items():
            if name != "__metadata__":
                low, high = entry["data_offsets"]
                tensors.append(Stored(name, path.name, entry["dtype"], content[start + low : start + high]))
    return tensors, headers
