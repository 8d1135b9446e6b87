"""The site's pages name all that there is; that they link to what exists, `make site` checks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import isogloss

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def test_every_name_of_the_face_is_on_the_page_of_python():
    """And no other: the page lists `isogloss.__all__`."""
    page = (DOCS / "python.md").read_text(encoding="utf-8")
    named = re.findall(r"^\.\. auto\w+:: isogloss\.(\w+)(?:\(\))?$", page, re.MULTILINE)
    assert sorted([*named, "__version__"]) == sorted([*isogloss.__all__, "errors"])


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_of_the_root_lead_to_files_and_headings(name):
    """These pages lie outside of the site's folder; an anchor is a heading's, as renderers of Markdown make it."""
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)(?:#([^)]+))?\)", (ROOT / name).read_text(encoding="utf-8"))
    for path, anchor in links:
        assert (ROOT / path).exists(), path
        headings = re.findall(r"^#+ (.+)$", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE) if anchor else ()
        anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert not anchor or anchor in anchors, (path, anchor)
