"""Parallel texts by language: local folders and files, and data sets of the Hugging Face hub known by name.

A corpus is accepted only if every language has the same items. Text is never changed. Input that could only be read by
guessing (encoding, line ends, alignment) is an error that names the file, the line and the remedy.
"""

from __future__ import annotations

from isogloss.corpora.corpus import Corpus, Turns, check_language, check_text, full_code, require_languages
from isogloss.corpora.hub import HUB_CORPORA, Hub
from isogloss.corpora.load import load_corpus
from isogloss.corpora.local import check_cells, names_language, read_lines, read_text

__all__ = [
    "HUB_CORPORA",
    "Corpus",
    "Hub",
    "Turns",
    "check_cells",
    "check_language",
    "check_text",
    "full_code",
    "load_corpus",
    "names_language",
    "read_lines",
    "read_text",
    "require_languages",
]
