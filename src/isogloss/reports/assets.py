"""Pages: a template filled with its style and its script, and written in one step, over no file of another kind."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from isogloss.files import write_atomically
from isogloss.folders import make_folder, require_file
from isogloss.records import to_json
from isogloss.reports.palette import css_variables

_HEAD = 4096  # bytes in which a page says what made it


def render(name: str, *, style: str | None = None, **values: object) -> str:
    """Fill the template ``NAME.html.j2``, with the style ``NAME.css`` and, as the only script, ``NAME.js``.

    Args:
        name: of the page.
        style: name of the page whose style this one has; it has no script then. None for its own.
        **values: of the template.
    """
    script = _source(f"{name}.js") if style is None else ""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_source(f"{name}.html.j2")).render(
        style=Markup(css_variables() + _source(f"{style or name}.css")),  # noqa: S704 - package data
        script=Markup(script),  # noqa: S704 - package data
        allowed_scripts=_integrity(script),
        **values,
    )


def embedded(value: object) -> Markup:
    """Write JSON that cannot end its script element."""
    return htmlsafe_json_dumps(value, dumps=_dump)


def require_page(path: Path, kind: str, generator: str, *, force: bool) -> None:
    """Refuse a file that is not a page whose template names this generator, by the errors of `require_file`."""
    mark = f'<meta name="generator" content="{generator}">'.encode()
    require_file(path, kind, lambda content: mark in content[:_HEAD], force=force, make_folders=True)


def write_page(path: Path, page: str) -> None:
    """Write a page in one step, its folder made where absent."""
    make_folder(path.parent)
    write_atomically(path, page.encode("utf-8", "replace"))


def _source(name: str) -> str:
    return (resources.files("isogloss.reports") / name).read_text(encoding="utf-8")


def _integrity(script: str) -> str:
    """Return a script's source expression for the content security policy."""
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def _dump(value: Any, **_: Any) -> str:  # noqa: ANN401 - any JSON value
    return json.dumps(to_json(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
