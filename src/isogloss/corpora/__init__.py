"""Parallel texts by language: local folders and files, and data sets of the Hugging Face hub known by name.

A corpus is accepted only if every language has the same items. Text is never changed. Input that could only be read by
guessing (encoding, line ends, alignment) is an error that names the file, the line and the remedy.
"""

from __future__ import annotations

from isogloss.corpora.corpus import Corpus
from isogloss.corpora.hub import HUB_CORPORA
from isogloss.corpora.load import load_corpus

__all__ = ["HUB_CORPORA", "Corpus", "load_corpus"]
