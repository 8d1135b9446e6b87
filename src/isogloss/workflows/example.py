"""A file of settings with every setting in it, written from the class that reads it, so that both say the same."""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from isogloss.workflows.settings import Layers, LayersOrMiddle, StudySettings

__all__ = ["example_toml", "field_descriptions"]

_WIDTH = 100
_KINDS = {
    str: "text",
    bool: "true or false",
    int: "whole number",
    float: "number",
    Layers: "text A-B",
    LayersOrMiddle: 'text A-B or "middle"',
}


def field_descriptions(kind: type) -> dict[str, str]:
    """Return what the docstrings of a class and of its bases say of its fields, under Attributes."""
    described: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        section = re.search(r"Attributes:\n(.*?)(?:\n\n|\Z)", inspect.getdoc(base) or "", re.DOTALL)
        rows = re.findall(r"^    (\w+): (.*(?:\n {6,}.*)*)", section[1] if section else "", re.MULTILINE)
        described |= {name: re.sub(r"\s+", " ", words) for name, words in rows}
    return described


def example_toml(kind: type[StudySettings]) -> str:
    """Write a file of settings that runs on the included model; settings that it need not state are commented out.

    A line that begins with ``#`` and no space is a setting with its default: without the ``#`` it says the same.
    """
    what = kind.__name__.lower()
    named = {"study": "study", "sweep": "sweep", "ablation": "ablate"}[what]
    head = f"# Settings of `isogloss {named} FILE.toml -o FOLDER`. Lines that begin with # and a name are defaults."
    tables = [each for each in fields(kind) if _table(each)]
    plain = [each for each in fields(kind) if not _table(each)]
    lines = [head, *_settings(kind, plain, kind.example)]
    for each in tables:
        table, name = _table(each), each.name
        values = {inner.name: _default(inner) for inner in fields(table)} if table else {}
        lines += ["", *_comment(field_descriptions(kind)[name]), f"[{name}]"]
        lines += _settings(table, list(fields(table)), values) if table else []
    return "\n".join(lines)


def _settings(kind: Any, chosen: list[Field[Any]], stated: Mapping[str, Any]) -> Iterator[str]:  # noqa: ANN401 - a dataclass
    described, hints = field_descriptions(kind), get_type_hints(kind, include_extras=True)
    for each in chosen:
        default = _default(each)
        yield ""
        yield from _comment(f"{described[each.name]} ({_words(hints[each.name])})")
        if each.name in stated:
            yield f"{each.name} = {json.dumps(stated[each.name], ensure_ascii=False)}"
        elif hints[each.name] == LayersOrMiddle:
            yield f'#{each.name} = "middle"'
        elif default is None:
            yield f"# {each.name} is not set"
        else:
            yield f"#{each.name} = {json.dumps(default, ensure_ascii=False)}"


def _table(each: Field[Any]) -> Any:  # noqa: ANN401 - a dataclass, or None
    return each.default_factory if is_dataclass(each.default_factory) else None


def _default(each: Field[Any]) -> Any:  # noqa: ANN401 - any setting
    return each.default if each.default_factory is MISSING else each.default_factory()


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text.replace("``", "`").replace("None for", "not set for"), _WIDTH)]


def _words(hint: Any) -> str:  # noqa: ANN401 - any annotation
    """Say in words what a setting may be."""
    origin, parts = get_origin(hint), get_args(hint)
    if hint in _KINDS:
        return _KINDS[hint]
    if origin is Literal:
        return f"one of {', '.join(json.dumps(each) for each in parts)}"
    if origin in (Union, UnionType):
        return " or ".join(_words(each) for each in parts if each is not type(None))
    if origin is tuple:
        several = parts[-1] is Ellipsis
        return f"list: {_words(parts[0])}" if several else f"list of {len(parts)}: {_words(parts[0])}"
    if is_dataclass(hint):
        return f"table with {', '.join(each.name for each in fields(hint))}"
    return f"table: {_words(parts[1])} by name" if len(parts) > 1 and parts[1] is not Any else "table"
