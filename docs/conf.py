"""Sphinx makes the site from these pages: `make site`."""

from __future__ import annotations

import isogloss

project = "isogloss"
author = "The isogloss authors"
project_copyright = "the isogloss authors, Apache-2.0"
version = release = isogloss.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_argparse_cli"]
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

html_theme = "furo"
html_title = "isogloss"
html_static_path = ["site"]
html_css_files = ["site.css"]
html_copy_source = False
toc_object_entries_show_parents = "hide"
