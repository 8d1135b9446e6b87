"""JSON Schemas of the files that isogloss writes, generated from the types that write and read them."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, TypeAlias, get_args, get_type_hints

from pydantic import TypeAdapter

from isogloss.runs.manifest import RUN_SCHEMA_VERSION, Manifest
from isogloss.steering.plan import PLAN_SCHEMA_VERSION, Plan
from isogloss.workflows.study import Study
from isogloss.workflows.sweep.settings import Sweep

__all__ = ["FOLDER", "TYPES", "schema", "write_schemas"]

Schema: TypeAlias = dict[str, Any]

FOLDER = Path(__file__).parent / "schemas"

TYPES: dict[str, tuple[type, dict[str, Any]]] = {
    "manifest": (Manifest, {"schema_version": RUN_SCHEMA_VERSION}),
    "plan": (Plan, {"schema_version": PLAN_SCHEMA_VERSION}),
    "study": (Study, {}),
    "sweep": (Sweep, {}),
}
"""Name of the schema -> type, and fields that always have one value."""


def schema(name: str) -> Schema:
    """Return the JSON Schema of one of `TYPES`; the docstrings of its classes describe it and its fields."""
    kind, constants = TYPES[name]
    drawn: Schema = TypeAdapter(kind).json_schema()
    classes = {each.__name__: each for each in _classes(kind)}
    for part in (drawn, *drawn.get("$defs", {}).values()):
        if part.get("title") in classes:
            _describe(part, classes[part["title"]])
    for field, value in constants.items():
        drawn["properties"][field] = {"const": value, "title": "Schema Version"}
        drawn["required"] = sorted({*drawn["required"], field})
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **drawn}


def write_schemas() -> None:
    """Write every schema into ``docs/schemas``."""
    FOLDER.mkdir(exist_ok=True)
    for name in TYPES:
        (FOLDER / f"{name}.json").write_text(json.dumps(schema(name), indent=2, ensure_ascii=False) + "\n", "utf-8")


def _classes(kind: Any) -> Iterator[type]:  # noqa: ANN401 - any annotation
    """Yield the dataclasses that an annotation is made of, at any depth."""
    if is_dataclass(kind) and isinstance(kind, type):
        yield kind
        for hint in get_type_hints(kind).values():
            yield from _classes(hint)
    for part in get_args(kind):
        yield from _classes(part)


def _describe(part: Schema, kind: type) -> None:
    """Divide a docstring: its first paragraphs describe the object, its section Attributes the fields."""
    text = inspect.getdoc(kind) or ""
    part["description"] = re.split(r"\n\n?(?:Attributes|Raises|Example):", text)[0].strip()
    attributes = re.search(r"Attributes:\n(.*?)(?:\n\n|\Z)", text, re.DOTALL)
    for name, words in re.findall(r"^    (\w+): (.*(?:\n {6,}.*)*)", attributes[1] if attributes else "", re.MULTILINE):
        if name in part["properties"]:
            part["properties"][name]["description"] = re.sub(r"\s+", " ", words)


if __name__ == "__main__":
    write_schemas()
