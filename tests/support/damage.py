"""Damages the content of a file, in every way in which files come to be wrong, and watches how that is taken."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math

import numpy as np
import pytest
import safetensors.numpy
from deadline import deadline

from isogloss.errors import IsoglossError

_DEEP = 3000  # deeper than Python's stack
_VALUES = (
    None,
    True,
    "",
    "zz",
    "../x",
    "\ud800",
    0,
    7,
    -3,
    0.5,
    1e308,
    10**30,
    10**400,
    math.nan,
    math.inf,
    [],
    [1],
    [None],
    [[1.5]],
    {},
    {"a": 1},
)


@contextlib.contextmanager
def accepted_or_refused(what):
    """Fail unless the work inside ends, by itself or by an error of one line, which is put into the list given."""
    refused = []
    try:
        with deadline(what):
            yield refused
    except IsoglossError as error:
        if "\n" in str(error):
            pytest.fail(f"{what}: {error}")
        refused.append(error)
    except Exception as error:
        error.add_note(what)
        raise


def damaged(name, content, random):
    """Return the content of a file in another state, and what was done to it."""
    structured = {"json": _json, "jsonl": _lines, "tsv": _cells, "csv": _cells, "safetensors": _arrays}
    suffix = name.rpartition(".")[2]
    if suffix in structured and random.random() < 0.8:
        return structured[suffix](content, random)
    return _bytes(content, random)


def _bytes(content, random):
    half, place = len(content) // 2, random.randrange(len(content))
    flipped = bytes([content[place] ^ (1 << random.randrange(8))])
    done = {
        "cut": content[:place],
        "flipped": content[:place] + flipped + content[place + 1 :],
        "lost": content[:place] + content[place + 1 + random.randrange(20) :],
        "empty": b"",
        "noise": random.randbytes(64),
        "twice": content + content,
        "not UTF-8": content[:half] + b"\xff\xfe" + content[half:],
        "NUL": content[:half] + b"\0" + content[half:],
        "deep": b"[" * _DEEP + b"]" * _DEEP,
        "UTF-16": content.decode("utf-8", "replace").encode("utf-16"),
    }
    what = random.choice(sorted(done))
    return done[what], what


def _places(value, path=()):
    """Yield the paths of all values in JSON, of long lists the first ones."""
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value[:3] if isinstance(value, list) else ())
    for key, child in children:
        yield from _places(child, (*path, key))


def _json(content, random):
    value = json.loads(content)
    path = random.choice(list(_places(value)))
    what = random.choice(["lose", "rename", "repeat", "deep", "more", *["replace"] * 6])
    if not path:
        new = random.choice(_VALUES)
        return _dump(new), f"the whole is {new!r}"
    *to, key = path
    inside = value
    for step in to:
        inside = inside[step]
    if what == "lose":
        del inside[key]
    elif what == "rename" and isinstance(inside, dict):
        inside[f"{key}x"] = inside.pop(key)
    elif what == "repeat" and isinstance(inside, dict):
        inside["\0twice"] = inside[key]
        return _dump(value).replace(b'"\\u0000twice"', _dump(key)), f"{path} twice"
    elif what == "more" and isinstance(inside[key], dict | list):
        _grow(inside[key])
    elif what == "deep":
        for _ in range(200):
            inside[key] = [inside[key]]
    else:
        inside[key] = random.choice(_VALUES)
        what = repr(inside[key])[:40]
    return _dump(value), f"{path}: {what}"


def _grow(value):
    if isinstance(value, dict):
        value["unknown"] = 1
    else:
        value += value[-1:] or [1]


def _dump(value):
    return json.dumps(value).encode()


def _lines(content, random):
    lines = content.splitlines()
    place = random.randrange(len(lines))
    what = random.choice(["lose", "twice", *["value"] * 4])
    if what == "lose":
        del lines[place]
    elif what == "twice":
        lines.insert(place, lines[place])
    else:
        lines[place], what = _json(lines[place], random)
    return b"\n".join(lines) + b"\n", f"line {place}: {what}"


def _cells(content, random):
    mark = "\t" if b"\t" in content else ","
    rows = list(csv.reader(io.StringIO(content.decode()), delimiter=mark))
    row = random.choice(rows)
    cell = random.randrange(len(row))
    row[cell] = random.choice(["", " ", '"', '"a""b"', "zz", "-1", "1e999", "nan", "1,5", "9" * 500, "x" * 200_000])
    what = random.choice(["cell", "cell", "more", "lose"])
    if what == "more":
        row.append("1")
    elif what == "lose":
        del row[cell]
    return "".join(f"{mark.join(each)}\n" for each in rows).encode(), f"{what} {row}"[:80]


def _arrays(content, random):
    return _header(content, random) if random.random() < 0.3 else _array(content, random)


def _header(content, random):
    """Damage the header of a safetensors file: 8 bytes of its length, then JSON."""
    start = 8 + int.from_bytes(content[:8], "little")
    header, what = _json(content[8:start], random)
    if random.random() < 0.1:
        deep = 100 * _DEEP
        header, what = b'{"a":' + b"[" * deep + b"]" * deep + b"}", "deep header"
    length = len(header)
    if random.random() < 0.2:
        length = random.choice([0, 1, length - 1, length + 1, 10**8, 2**63, 2**64 - 1])
        what = f"header of length {length}"
    return length.to_bytes(8, "little") + header + content[start:], what


def _array(content, random):
    arrays = dict(safetensors.numpy.load(content))
    name = random.choice(sorted(arrays))
    array = arrays[name].copy()
    what = random.choice(["lose", "rename", "type", "shape", "longer", "empty", "scalar", *["value"] * 4])
    if what == "lose":
        del arrays[name]
    elif what == "rename":
        arrays[f"{name}x"] = arrays.pop(name)
    elif what == "type":
        with np.errstate(invalid="ignore"):
            arrays[name] = array.astype(random.choice([np.float64, np.float16, np.int64, np.int8, np.uint8, np.bool_]))
    elif what == "shape":
        arrays[name] = array.reshape(-1)
    elif what == "longer":
        arrays[name] = np.concatenate([array, array])
    elif what == "empty":
        arrays[name] = array[:0]
    elif what == "scalar":
        arrays[name] = array.reshape(-1)[:1].reshape(())
    else:
        whole = {"i": (-1, 0, 2**30), "u": (0, 2 ** (8 * array.itemsize) - 1)}
        values = whole.get(array.dtype.kind, (-1, 0, 1e30, np.nan, np.inf, -np.inf))
        with np.errstate(over="ignore"):  # 1e30 is infinity in 16 bits
            array.reshape(-1)[random.randrange(array.size)] = random.choice(values)
        arrays[name] = array
    return safetensors.numpy.save(arrays), f"{name}: {what}"
