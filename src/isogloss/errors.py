"""Errors whose message says what was found, what was expected, and the next command.

Each class is one cause that a user can act on; the command line prints the message and exits with code 2.
"""

from __future__ import annotations

__all__ = ["CorpusError", "FileError", "IsoglossError", "LanguageError", "ModelError", "PlanError", "RunError"]


class IsoglossError(Exception):
    """Base of every error that isogloss raises on purpose."""


class FileError(IsoglossError):
    """A file or folder cannot be written."""


class LanguageError(IsoglossError):
    """A language code is unknown, ambiguous or given twice."""


class CorpusError(IsoglossError):
    """A corpus is missing, misaligned, empty, or not in the stated encoding."""


class RunError(IsoglossError):
    """A Run directory is missing, damaged, of another version, or of another model or corpus."""


class ModelError(IsoglossError):
    """A model cannot be loaded, is not a Mixture-of-Experts, or its capture failed a check."""


class PlanError(IsoglossError):
    """A plan or router adapter is malformed, impossible for its routers, or was made for another model."""
