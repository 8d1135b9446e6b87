"""In what two Runs differ: their models and settings, their texts, and how texts were read."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields
from pathlib import Path
from typing import Any

from isogloss.errors import RunError, contrast
from isogloss.progress import note
from isogloss.routing import Fingerprint
from isogloss.runs.manifest import Manifest

__all__ = [
    "HOW_READ",
    "header_differences",
    "model_differences",
    "note_other_reading",
    "reading_difference",
    "require_same",
    "text_differences",
    "unrecorded",
]

HOW_READ = ("chat_template_sha256", "token_scope", "first_tokens")
"""Fields that say which tokens of a text were read and counted."""

# By older versions: None is unknown, and no difference.
_UNRECORDED = ("tokenizer_sha256", "weights_sha256", "corpus_revision")
_CONTENT = ("status", "languages", "texts_sha256")
_SHOWN_DIGITS = 12


def header_differences(
    ours: Manifest, theirs: Manifest, *, only: Collection[str] | None = None, ignore: tuple[str, ...] = ()
) -> list[str]:
    """Return the fields in which two manifests differ, with both values.

    Compared are those of ``only``, or all; never status, languages and ``ignore``. What only one of them records is no
    difference; see `unrecorded`.
    """
    compared = {f.name for f in fields(Manifest)} if only is None else set(only)
    names = [f.name for f in fields(Manifest) if f.name in compared - {*_CONTENT, *ignore}]
    pairs = [(name, getattr(ours, name), getattr(theirs, name)) for name in names]
    return [
        f"{name} ({contrast(one, other)})"
        for name, one, other in pairs
        if _differ(one, other) and not (name in _UNRECORDED and None in (one, other))
    ]


def _differ(one: object, other: object) -> bool:
    if isinstance(one, Fingerprint) and isinstance(other, Fingerprint):
        return bool(one.differences(other))
    return one != other


def model_differences(ours: Manifest, theirs: Manifest) -> list[str]:
    """Return how the models of two Runs of different texts differ, with both values: tokenizer, or weights.

    Weights are compared where backend, dtype and packages are the same, on which their hash depends.
    """
    names = ["routers", "fingerprint", "tokenizer_sha256"]
    if (ours.backend, ours.dtype, ours.packages) == (theirs.backend, theirs.dtype, theirs.packages):
        names.append("weights_sha256")
    return header_differences(ours, theirs, only=names)


def reading_difference(ours: Manifest, theirs: Manifest) -> str | None:
    """Say in one sentence in what two Runs of different texts read and counted them otherwise; None where alike."""
    if all(getattr(ours, name) == getattr(theirs, name) for name in HOW_READ):
        return None
    one, other = (_reading(each) for each in (ours, theirs))
    return f"One Run is of {one}, the other of {other}: what differs between them may be due to that."


def _reading(manifest: Manifest) -> str:
    template = manifest.chat_template_sha256
    texts = "plain texts" if template is None else f"texts as a chat (template {template[:_SHOWN_DIGITS]}…)"
    first = "" if manifest.first_tokens is None else f", the first {manifest.first_tokens} of each text"
    return f"{texts} with {manifest.token_scope} tokens counted{first}"


def note_other_reading(ours: Manifest, theirs: Manifest) -> None:
    """Say on stderr what `reading_difference` finds, if anything."""
    if difference := reading_difference(ours, theirs):
        note(f"{difference} Capture both alike, with or without --chat and with the same --tokens and --first-tokens.")


def unrecorded(*manifests: Manifest) -> dict[str, Any]:
    """Return the fields, each None, that some of the manifests record and others, as of older versions, do not."""
    values = {name: {getattr(each, name) for each in manifests} for name in _UNRECORDED}
    return dict.fromkeys(name for name, each in values.items() if len(each) > 1 and None in each)


def text_differences(ours: Manifest, theirs: Manifest) -> list[str]:
    """Return the languages whose texts differ between two Runs, with both hashes; captured there or not."""
    one, other = ours.all_texts_sha256, theirs.all_texts_sha256
    return [
        f"{code} (texts with sha256 {one[code][:_SHOWN_DIGITS]}… and {other[code][:_SHOWN_DIGITS]}…)"
        for code in sorted(one.keys() & other.keys())
        if one[code] != other[code]
    ]


def require_same(one: tuple[Path, Manifest], other: tuple[Path, Manifest]) -> None:
    """Refuse to unite two Runs, each with its folder, that differ in more than languages, status, notes and threads.

    Raises:
        RunError: names what differs, with both values.
    """
    (ours, first), (theirs, second) = one, other
    differences = header_differences(first, second, ignore=("notes", "threads")) + text_differences(first, second)
    if differences:
        raise RunError(
            f"{ours} and {theirs} differ in {'; '.join(differences)}; only Runs of the same model, texts and settings "
            "can be merged"
        )
