"""The Run: the routing that a capture writes to disk and that every analysis reads.

A Run is a folder with ``manifest.json`` and one ``xxx_Xxxx.safetensors`` per language. It is written language by
language, so a capture that is killed at any moment can be resumed and ends bit-identical to an uninterrupted one. It
contains no times and no paths, so equal captures on one machine, with the same package versions and threads, are equal
byte by byte.
"""

from __future__ import annotations

from isogloss.runs.differences import (
    HOW_READ,
    header_differences,
    model_differences,
    note_other_reading,
    reading_difference,
    text_differences,
)
from isogloss.runs.importers import import_counts_json
from isogloss.runs.language_routing import LanguageRouting
from isogloss.runs.manifest import (
    MOST_UNKNOWN,
    ROLES,
    UNFINISHED,
    LanguageEntry,
    Manifest,
    RunStatus,
    TokenScope,
    common_status,
)
from isogloss.runs.merge import merge
from isogloss.runs.published_mass import import_expert_sets, import_mass_json
from isogloss.runs.run import Run, RunWriter, open_run, require_run_folder, run_writer
from isogloss.runs.served_usage import import_usage_json
from isogloss.runs.token_counts import TokenCounts

__all__ = [
    "HOW_READ",
    "MOST_UNKNOWN",
    "ROLES",
    "UNFINISHED",
    "LanguageEntry",
    "LanguageRouting",
    "Manifest",
    "Run",
    "RunStatus",
    "RunWriter",
    "TokenCounts",
    "TokenScope",
    "common_status",
    "header_differences",
    "import_counts_json",
    "import_expert_sets",
    "import_mass_json",
    "import_usage_json",
    "merge",
    "model_differences",
    "note_other_reading",
    "open_run",
    "reading_difference",
    "require_run_folder",
    "run_writer",
    "text_differences",
]
