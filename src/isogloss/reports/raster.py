"""Heat maps as pictures: one small PNG of coloured cells, sharp at every size and on paper."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from math import isnan

Scale = Sequence[tuple[float, str]]
"""Places from 0 to 1, each with its ``#rrggbb`` colour."""

CLEAR = 255
"""Place of no colour."""

_PIXELS = 720  # a viewer that smooths pictures then blurs edges by less than a cell


def colour_at(scale: Scale, place: float) -> tuple[int, int, int]:
    """Return the colour at a place from 0 to 1, between those that the scale gives."""
    place = min(1.0, max(0.0, place))
    upper = next(step for step, (at, _) in enumerate(scale) if at >= place or step == len(scale) - 1)
    (first, one), (last, other) = scale[max(0, upper - 1)], scale[upper]
    share = (place - first) / (last - first) if last > first else 1.0
    pairs = zip(bytes.fromhex(one[1:]), bytes.fromhex(other[1:]), strict=True)
    red, green, blue = (round(low + share * (high - low)) for low, high in pairs)
    return red, green, blue


def picture(cells: Sequence[Sequence[float | None]], scale: Scale, low: float, high: float) -> str:
    """Write cells, the top row first, as a ``data:`` address of a PNG; a cell without a value is clear."""
    span = (high - low) or 1.0

    def level(value: float | None) -> int:
        if value is None or isnan(value):
            return CLEAR
        return round((CLEAR - 1) * min(1.0, max(0.0, (value - low) / span)))

    colours = [colour_at(scale, place / (CLEAR - 1)) for place in range(CLEAR)]
    return indexed_picture([[level(value) for value in row] for row in cells], colours)


def indexed_picture(cells: Sequence[Sequence[int]], colours: Sequence[tuple[int, int, int]]) -> str:
    """Write cells of places among up to 255 colours, the top row first, as a picture; `CLEAR` is clear."""
    height, width = len(cells), len(cells[0])
    zoom = max(1, _PIXELS // max(height, width))
    rows = bytearray()
    for row in cells:
        line = b"".join(bytes([level]) * zoom for level in row)
        rows += b"\x00" + line
        rows += (b"\x02" + bytes(len(line))) * (zoom - 1)  # filter "up": as the row above
    palette = b"".join(map(bytes, colours)) + bytes(3) * (CLEAR + 1 - len(colours))
    head = struct.pack(">IIBBBBB", width * zoom, height * zoom, 8, 3, 0, 0, 0)
    parts = (
        (b"IHDR", head),
        (b"PLTE", palette),
        (b"tRNS", b"\xff" * CLEAR + b"\x00"),
        (b"IDAT", zlib.compress(bytes(rows), 9)),
        (b"IEND", b""),
    )
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in parts
    )
    return f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}"
