"""The manifest of a Run: what was captured, from which model and corpus, and how."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from isogloss.errors import RunError
from isogloss.files import decode, read_json, shorten
from isogloss.routing import Fingerprint, Phase, RouterSpec

__all__ = ["MANIFEST_NAME", "RUN_SCHEMA_VERSION", "LanguageEntry", "Manifest", "header_differences", "read_manifest"]

RUN_SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"

RunStatus = Literal["partial", "complete"]
Granularity = Literal["items", "pooled"]
TokenScope = Literal["content", "all"]

_LANGUAGE = re.compile(r"[a-z]{3}_[A-Z][a-z]{3}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CONTENT = ("status", "languages")


@dataclass(frozen=True)
class LanguageEntry:
    """One language of a Run.

    Attributes:
        tokens: counted tokens, summed over items.
        file_sha256: hash of the language's file.
        corpus_sha256: hash of its ids and texts (`isogloss.corpora.Corpus.sha256`), or of the imported file.

    Raises:
        RunError: on construction, if a hash is not 64 hexadecimal digits.
    """

    tokens: int
    file_sha256: str
    corpus_sha256: str

    def __post_init__(self) -> None:
        if not all(_SHA256.fullmatch(digest) for digest in (self.file_sha256, self.corpus_sha256)):
            raise RunError(
                f"hashes {self.file_sha256!r} and {self.corpus_sha256!r}; expected 64 hexadecimal digits each"
            )


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The description of a Run: everything except its arrays.

    Attributes:
        schema_version: of this format.
        status: ``partial`` until the capture has finished.
        model: hub id, or the name of a local folder; never a path.
        revision: commit of the hub repository; None for a local model.
        config_sha256: hash of the model's configuration, or ``unknown``.
        fingerprint: compared with that of plans; None if the weights are unknown, as in an import.
        routers: one per routed layer, in the order of the arrays' second axis.
        corpus: ``name``, ``source`` and ``licence``.
        granularity: ``items``, or ``pooled`` if each language has only one record for all items.
        item_ids: in the order of the arrays' first axis, the same for all languages.
        token_scope: ``all`` if chat-template and special tokens were counted, otherwise ``content``.
        backend: ``huggingface``, ``vllm`` or the name of an importer; versions are in ``packages``.
        dtype: of the model's weights during capture.
        seed: of everything sampled, as token pairs for consistency.
        packages: name -> version of each package that can change the numbers.
        threads: of the processor that ran the model; None on other devices, if unknown, or if merged Runs differ.
        plan_sha256: hash of the plan that steered the model during the capture; None for the unsteered model.
        phase: ``prompt`` if the texts themselves were counted, ``generation`` if the model's continuations were.
        new_tokens: maximum number of generated tokens per item; None in the prompt phase, or if unknown.
        distinct_from: language whose token ids ``distinct_profiles`` exclude; None if the Run has no such profiles.
        hidden_size: length of the last axis of ``hidden``; None if the Run has no hidden states.
        languages: full code -> entry.
        notes: remarks needed to interpret the numbers; sorted.

    Raises:
        RunError: on construction, if fields are invalid or inconsistent.
    """

    schema_version: int = RUN_SCHEMA_VERSION
    status: RunStatus = "partial"
    model: str
    revision: str | None
    config_sha256: str
    fingerprint: Fingerprint | None
    routers: tuple[RouterSpec, ...]
    corpus: dict[str, str]
    granularity: Granularity
    item_ids: tuple[str, ...]
    token_scope: TokenScope
    backend: str
    dtype: str
    seed: int
    packages: dict[str, str]
    threads: int | None = None
    plan_sha256: str | None = None
    phase: Phase = "prompt"
    new_tokens: int | None = None
    distinct_from: str | None = None
    hidden_size: int | None = None
    languages: dict[str, LanguageEntry] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        layers = [router.layer for router in self.routers]
        if not layers or layers != sorted(set(layers)):
            raise RunError(
                f"manifest: the routers' layers are {layers}; expected at least one, in ascending order, each once"
            )
        if len({router.n_experts for router in self.routers}) != 1:
            raise RunError("manifest: routers have different numbers of experts; a Run holds layers of one width only")
        if not self.item_ids or len(set(self.item_ids)) != len(self.item_ids):
            raise RunError(f"manifest: {len(self.item_ids)} item ids; expected at least one, each once")
        if self.granularity == "pooled" and len(self.item_ids) != 1:
            raise RunError(f"manifest: pooled over items, but {len(self.item_ids)} item ids; expected one")
        if set(self.corpus) != {"name", "source", "licence"}:
            raise RunError(f"manifest: corpus has {sorted(self.corpus)}; expected name, source and licence")
        if foreign := [code for code in self.languages if not _LANGUAGE.fullmatch(code)]:  # they become names of files
            raise RunError(f"manifest: language {foreign[0]!r}; expected a full code such as eng_Latn")
        self._check_options()

    def _check_options(self) -> None:
        if self.new_tokens is not None and (self.phase != "generation" or self.new_tokens < 1):
            expected = "at least 1" if self.phase == "generation" else "none"
            raise RunError(f"manifest: new_tokens is {self.new_tokens} in the {self.phase} phase; expected {expected}")
        if self.distinct_from is not None and not _LANGUAGE.fullmatch(self.distinct_from):
            raise RunError(f"manifest: distinct_from is {self.distinct_from!r}; expected a full code such as eng_Latn")
        for name in ("hidden_size", "threads"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise RunError(f"manifest: {name} is {value}; expected at least 1")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of profiles and selections: ``(n_items, n_layers, n_experts)``."""
        return len(self.item_ids), len(self.routers), self.routers[0].n_experts

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON types."""
        return {
            **asdict(self),
            "fingerprint": None if self.fingerprint is None else self.fingerprint.to_json(),
            "routers": [router.to_json() for router in self.routers],
            "item_ids": list(self.item_ids),
            "notes": list(self.notes),
        }

    def encode(self) -> bytes:
        """Return the bytes of ``manifest.json``: keys sorted, one line per value; equal manifests, equal bytes.

        Raises:
            RunError: a number is not finite or a text is not valid Unicode, so JSON in UTF-8 cannot represent it.
        """
        try:
            text = json.dumps(self.to_json(), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
            return f"{text}\n".encode()
        except ValueError as error:
            raise RunError(f"manifest: {error}; expected finite numbers and valid Unicode") from error


def header_differences(ours: Manifest, theirs: Manifest, *, ignore: tuple[str, ...] = ()) -> list[str]:
    """Return the fields in which two manifests differ, ignoring status and languages.

    Args:
        ours: one manifest.
        theirs: the other.
        ignore: further fields that may differ.

    Returns:
        One text per field with both values, shortened; empty where the headers are equal.
    """
    skipped = {*_CONTENT, *ignore}
    pairs = [
        (f.name, getattr(ours, f.name), getattr(theirs, f.name)) for f in fields(Manifest) if f.name not in skipped
    ]
    return [f"{name} ({shorten(one)} and {shorten(other)})" for name, one, other in pairs if one != other]


def read_manifest(folder: Path) -> Manifest:
    """Read and check the manifest of a Run.

    Args:
        folder: of the Run.

    Returns:
        The manifest.

    Raises:
        RunError: the folder has no Run, or one with another schema version or a malformed manifest.
    """
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise RunError(
            f"{folder}: not a Run (no {MANIFEST_NAME}); make one with `isogloss capture` or `isogloss import`"
        )
    raw = read_json(path)
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if version != RUN_SCHEMA_VERSION or isinstance(version, bool):
        raise RunError(
            f"{path}: schema_version {version!r}, expected {RUN_SCHEMA_VERSION}; capture again with this version of "
            "isogloss"
        )
    try:
        return decode(Manifest, raw, "")
    except (ValueError, RunError) as error:
        raise RunError(f"{path}: malformed ({error}); restore it, or capture again") from error
