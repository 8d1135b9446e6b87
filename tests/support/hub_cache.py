"""A cache of the hub as its library lays it out, so that nothing is fetched."""

from __future__ import annotations

import shutil
from pathlib import Path

from huggingface_hub import constants

COMMITS = {"main": "0123456789abcdef0123456789abcdef01234567", "v1": "89abcdef0123456789abcdef0123456789abcdef"}
"""Branch or tag to commit."""


def hub_cache(monkeypatch, folder):
    """Let the hub's library read this folder alone."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", value=True)
    return Path(folder)


def add_snapshot(cache, repository, source, ref="main", *, kind="models", names=None):
    """Copy a folder into the cache as the commit of a branch; return the copy."""
    place = cache / f"{kind}--{repository.replace('/', '--')}"
    (place / "refs").mkdir(parents=True, exist_ok=True)
    (place / "refs" / ref).write_text(COMMITS[ref])
    copy = place / "snapshots" / COMMITS[ref]
    copy.mkdir(parents=True)
    for path in Path(source).iterdir():
        if path.is_file() and (names is None or path.name in names):
            shutil.copy(path, copy / path.name)
    return copy
