"""docs/schemas.md: the fields of every file format, as tables, from the JSON Schemas."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, TypeAlias

from markdown_parts import table

__all__ = ["schema_page"]

Schema: TypeAlias = dict[str, Any]

INTRODUCTION = """\
Written by `make docs` from the types that write and read the files; [formats](formats.md) says which file is what.
Where a default is named, the field may be absent."""


def schema_page(schemas: Mapping[str, Schema]) -> str:
    """Return the page.

    Args:
        schemas: name of the file in docs/schemas, without its ending -> JSON Schema.
    """
    files = {schema["title"]: _anchor(f"{name}.json") for name, schema in schemas.items()}
    parts = {title: part for schema in schemas.values() for title, part in schema.get("$defs", {}).items()}
    anchors = {title: _anchor(title) for title in parts} | files
    page = ["# Fields of the files", INTRODUCTION]
    for name, schema in schemas.items():
        page += [f"## {name}.json", f"[JSON Schema](schemas/{name}.json). {_prose(schema)}", _fields(schema, anchors)]
    page.append("## Parts of these files")
    for title, part in sorted(parts.items()):
        if title not in files:
            page += [f"### {title}", _prose(part), _fields(part, anchors)]
    return "\n\n".join(each for each in page if each) + "\n"


def _anchor(heading: str) -> str:
    """Return the anchor that renderers of Markdown give a heading of one word."""
    return re.sub(r"[^\w-]", "", heading.lower())


def _prose(schema: Schema) -> str:
    """Return the description, in the words of JSON."""
    return re.sub(r"\bNone\b", "null", str(schema.get("description", "")))


def _fields(schema: Schema, anchors: Mapping[str, str]) -> str:
    """Return the table of an object's fields, empty where it has none by name."""
    required = schema.get("required", ())
    rows = []
    for name, field in schema.get("properties", {}).items():
        default = "" if name in required else f"`{json.dumps(field['default'])}`" if "default" in field else "empty"
        meaning = re.sub(r"\s+", " ", _prose(field)).replace("|", "\\|")
        rows.append((f"`{name}`", _kind(field, anchors), default, meaning))
    return table(("Field", "Type", "Default", "Meaning"), rows) if rows else ""


def _kind(field: Schema, anchors: Mapping[str, str]) -> str:
    """Say in words what a field may hold."""
    match field:
        case {"const": value}:
            words = f"`{json.dumps(value)}`"
        case {"enum": values}:
            words = ", ".join(f"`{json.dumps(value)}`" for value in values)
        case {"$ref": reference}:
            title = reference.rpartition("/")[2]
            words = f"[{title}](#{anchors[title]})"
        case {"anyOf": several}:
            words = " or ".join(dict.fromkeys(_kind(each, anchors) for each in several))
        case {"type": "array", "prefixItems": items}:
            words = f"list: {', '.join(_kind(each, anchors) for each in items)}"
        case {"type": "array"}:
            words = f"list of {_kind(field.get('items', {}), anchors)}"
        case {"type": "object", "additionalProperties": dict(values)}:
            words = f"object of {_kind(values, anchors)}"
        case _:
            words = str(field.get("type", "any"))
    return words
