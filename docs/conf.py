"""Sphinx makes the site from these pages: `make site`; ``-D nb_execution_mode=off`` leaves the notebooks unexecuted."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from docutils import nodes
from myst_nb.core import render

import isogloss

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]

project = "isogloss"
author = "The isogloss authors"
project_copyright = "the isogloss authors, Apache-2.0"
version = release = isogloss.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_argparse_cli"]
exclude_patterns = ["*.py", "schemas"]
suppress_warnings = ["misc.highlighting_failure"]  # a quoted text over several lines in a console has plain colours
nitpicky = True
# Names that have no place on these pages are left without a link; a sentence that was taken for a type is not.
nitpick_ignore_regex = [("py:obj", ".*"), ("py:class", r"\S+")]
default_role = "py:obj"

myst_heading_anchors = 4  # the same as a repository's page gives

autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # fields of a class as one list

nb_custom_formats = {".py": ["jupytext.reads", {"fmt": "py:percent"}]}
nb_execution_mode = "force"  # what a page shows is what this version does
nb_execution_in_temp = True
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_output_stderr = "remove"  # progress
nb_mime_priority_overrides = [("html", "application/vnd.plotly.v1+json", 0)]

_PLOTLY = Path(tempfile.mkdtemp()) / "plotly.min.js"
_PLOTLY.symlink_to(str(files("plotly") / "package_data" / "plotly.min.js"))

html_theme = "furo"
html_title = "isogloss"
html_static_path = ["site", str(_PLOTLY.parent)]
html_css_files = ["site.css"]
html_copy_source = False
toc_object_entries_show_parents = "hide"


class PlotlyFigure:
    """Draws figures on a notebook's page by one script for all of them, of the site and not of the net."""

    mime_priority_overrides = ()

    @staticmethod
    def handle_mime(_renderer: object, data: render.MimeData, inline: bool) -> list[nodes.Node] | None:  # noqa: FBT001
        """Return the figure as HTML; None for what is none."""
        if inline or data.mime_type != "application/vnd.plotly.v1+json":
            return None
        name = f"figure-{data.cell_index}-{data.output_index}"
        layout = data.content["layout"] | {"autosize": True}
        drawn = ", ".join(json.dumps(each) for each in (name, data.content["data"], layout))
        html = (
            f'<div id="{name}" class="plotly-figure"></div>\n<script type="module">'
            f"Plotly.newPlot({drawn}, {{responsive: true, displayModeBar: false}})</script>"
        )
        return [nodes.raw(text=html.replace("</s", "<\\/s", html.count("</s") - 1), format="html")]


def _add_plotly(app: Sphinx, page: str, *_: object) -> None:
    if page.startswith("notebooks/"):
        app.add_js_file("plotly.min.js")


def _tiny_model() -> str:
    """Return the folder of the model that stands for one from the hub: of the same class, tiny, with random weights."""
    sys.path.insert(0, str(ROOT / "tests" / "support"))
    from models import checkpoint  # noqa: PLC0415 - takes seconds, and pages alone need none

    return str(checkpoint("qwen3_moe"))


def _prepare(app: Sphinx) -> None:
    if app.config.nb_execution_mode != "off":
        os.environ["ISOGLOSS_MODEL"] = _tiny_model()


def setup(app: Sphinx) -> None:
    """Connect the above."""
    render.load_mime_renders = lambda: [PlotlyFigure]  # else found by entry points of installed packages alone
    app.connect("builder-inited", _prepare)
    app.connect("html-page-context", _add_plotly)
