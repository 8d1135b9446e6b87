"""The page itself: sections laid into a template with plotly inside, written in one step."""

from __future__ import annotations

import base64
import hashlib
import json
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import jinja2
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from isogloss.errors import FileError
from isogloss.files import to_json, write_atomically
from isogloss.reports.evaluations import evaluation_section
from isogloss.reports.maps import Grid
from isogloss.reports.provenance import provenance_section
from isogloss.reports.sections import analysis_sections, expert_sections
from isogloss.reports.text import plain

if TYPE_CHECKING:
    from pathlib import Path

    from isogloss.reports.figures import Figure, Section
    from isogloss.reports.results import Report

__all__ = ["render_report", "write_report"]


def _source(name: str) -> str:
    return (resources.files("isogloss.reports") / name).read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    loader = jinja2.FunctionLoader(_source)
    return jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def _integrity(script: str) -> str:
    """Return a script's source expression for the content security policy."""
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def _dump(value: Any, **_: Any) -> str:  # noqa: ANN401 - any JSON value
    return json.dumps(to_json(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _drawing(figure: Figure) -> Markup:
    """Write a figure as JSON that cannot end its script element."""
    return htmlsafe_json_dumps(figure.drawing, dumps=_dump)


def _grid(report: Report) -> Grid:
    """Say where experts can be, as far as the manifest or the analysis knows."""
    analysis, routers = report.analysis, report.manifest.get("routers") or ()
    layers = tuple(int(router["layer"]) for router in routers) or (analysis.layers if analysis else ())
    n_experts = max(analysis.n_experts if analysis else 1, *(int(each.get("n_experts", 1)) for each in routers), 1)
    return Grid(layers, n_experts, analysis.middle_layers if analysis else None)


def _sections(report: Report) -> list[Section]:
    analysis = report.analysis
    sections = analysis_sections(analysis) if analysis else []
    sections += expert_sections(report.experts, _grid(report))
    if report.evaluation is not None:
        sections.append(evaluation_section(report.evaluation))
    settings = {}
    if analysis:
        settings = {"quantity": analysis.quantity, "pivot": analysis.pivot, **analysis.resampling.to_json()}
    return [*sections, provenance_section(report.manifest, settings, report.evaluation)]


def render_report(report: Report) -> str:
    """Render a report as one HTML page that loads nothing and runs only its own two scripts.

    Args:
        report: what was measured.

    Returns:
        The page, about 5 MB, most of it plotly; equal reports give equal pages.

    Raises:
        RunError: a result lacks a field that the report cannot do without.
    """
    scripts = (get_plotlyjs(), _source("page.js"))
    sections = _sections(report)
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            title=plain(report.title),
            subject=[plain(text) for text in map(report.manifest.get, ("model", "revision")) if isinstance(text, str)],
            partial=report.manifest.get("status") == "partial",
            notes=[plain(note) for note in report.manifest.get("notes") or ()],
            findings=[plain(finding) for finding in report.findings],
            sections=sections,
            drawing=_drawing,
            style=Markup(_source("page.css")),  # noqa: S704 - package data
            scripts=[Markup(script) for script in scripts],  # noqa: S704 - package data
            allowed_scripts=" ".join(map(_integrity, scripts)),
        )
    )


def write_report(path: Path, report: Report) -> None:
    """Write a report; whoever reads the path sees the old file or the whole new one.

    Args:
        path: of the HTML file; its folder is made where absent.
        report: what was measured.

    Raises:
        RunError: a result lacks a field that the report cannot do without; nothing is written then.
        FileError: the folder cannot be written.
    """
    page = render_report(report)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"cannot make the folder {path.parent}: {error.strerror}; choose another place") from error
    write_atomically(path, page.encode("utf-8", "replace"))
