"""The Run: the routing that a capture writes to disk and that every analysis reads.

A Run is a folder with ``manifest.json`` and one ``xxx_Xxxx.safetensors`` per language. It is written language by
language, so a capture that is killed at any moment can be resumed and ends bit-identical to an uninterrupted one. It
contains no times and no paths, so equal captures on one machine, with the same package versions and threads, are equal
byte by byte.
"""

from __future__ import annotations

from isogloss.runs.importers import import_counts_json
from isogloss.runs.manifest import RUN_SCHEMA_VERSION, LanguageEntry, Manifest, header_differences
from isogloss.runs.merge import merge
from isogloss.runs.run import LanguageRouting, Run, RunWriter, open_run

__all__ = [
    "RUN_SCHEMA_VERSION",
    "LanguageEntry",
    "LanguageRouting",
    "Manifest",
    "Run",
    "RunWriter",
    "header_differences",
    "import_counts_json",
    "merge",
    "open_run",
]
