"""The manifest of a Run: what was captured, from which model and corpus, and how."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from isogloss.errors import RunError
from isogloss.files import LONGEST_NAME, read_json
from isogloss.records import decode
from isogloss.routing import Fingerprint, Phase, RouterSpec

__all__ = [
    "LANGUAGE_CODE",
    "MANIFEST_NAME",
    "MANY_UNKNOWN",
    "MOST_UNKNOWN",
    "ROLES",
    "RUN_SCHEMA_VERSION",
    "UNFINISHED",
    "LanguageEntry",
    "Manifest",
    "RunStatus",
    "TokenScope",
    "common_status",
    "read_manifest",
]

RUN_SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"

RunStatus = Literal["partial", "complete"]

UNFINISHED = (
    "The run is partial: its capture has not finished, and these numbers will change; repeat the capture to finish it."
)
"""Shown wherever numbers of an unfinished Run are."""

MANY_UNKNOWN, MOST_UNKNOWN = 0.01, 0.5
"""Shares of a language's tokens that its tokenizer does not know: above the first, noted; above the second, refused."""

Granularity = Literal["items", "pooled"]
TokenScope = Literal["content", "all", "user", "assistant"]

ROLES: tuple[TokenScope, ...] = ("user", "assistant")
"""Token scopes that only a chat has."""

LANGUAGE_CODE = re.compile(r"[a-z]{3}_[A-Z][a-z]{3}")
_SHA256 = re.compile(r"[0-9a-f]{64}")

MASS_JSON, EXPERT_SETS = "mass-json", "expert-sets"
"""Importers of what was published without counts of selections."""


@dataclass(frozen=True)
class LanguageEntry:
    """One language of a Run.

    Attributes:
        tokens: counted tokens, summed over items.
        file_sha256: hash of the language's file.
        corpus_sha256: hash of its ids and texts (`isogloss.corpora.Corpus.sha256`), or of the imported file.
        batch_tokens: tokens per portion that its texts ran in, which decides how sums are rounded; None in an import
            and in Runs of older versions.
        unknown_share: of the texts' tokens, those that the tokenizer does not know, from 0 to 1; None as above.

    Raises:
        RunError: on construction, if a hash is not 64 hexadecimal digits, or the share is out of range.
    """

    tokens: int
    file_sha256: str
    corpus_sha256: str
    batch_tokens: int | None = None
    unknown_share: float | None = None

    def __post_init__(self) -> None:
        if self.unknown_share is not None and not 0 <= self.unknown_share <= 1:
            raise RunError(f"unknown_share is {self.unknown_share}; expected a share from 0 to 1")
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
        weights_sha256: hash of values sampled from all weights (`isogloss.backends.model.Model.weights_sha256`); None
            if unknown, for all languages or for some of them, as in Runs of older versions.
        tokenizer_sha256: hash of what the tokenizer does to a text; None as above.
        routers: one per routed layer, in the order of the arrays' second axis.
        corpus: ``name``, ``source`` and ``licence``.
        corpus_revision: commit of the hub's data set; None for local texts, or if unknown, as in Runs of older
            versions.
        granularity: ``items``, or ``pooled`` if each language has only one record for all items.
        item_ids: in the order of the arrays' first axis, the same for all languages.
        token_scope: ``content`` if only the texts' own tokens were counted, ``user`` or ``assistant`` if only those of
            one side of a chat, ``all`` if chat-template and special tokens were counted too.
        backend: ``huggingface``, ``vllm`` or the name of an importer; versions are in ``packages``.
        dtype: of the model's weights during capture.
        seed: of everything sampled, as token pairs for consistency.
        packages: name -> version of each package that can change the numbers.
        threads: of the processor that ran the model; None on other devices, if unknown, or if merged Runs differ.
        chat_template_sha256: hash of the chat template that the texts were written through; None for plain texts.
        plan_sha256: hash of the plan that steered the model during the capture; None for the unsteered model.
        phase: ``prompt`` if the texts themselves were counted, ``generation`` if the model's continuations were.
        first_tokens: tokens of each text that were counted at most, its first ones; None for all.
        new_tokens: maximum number of generated tokens per item; None in the prompt phase, or if unknown.
        distinct_from: language whose token ids ``distinct_profiles`` exclude; None if the Run has no such profiles.
        hidden_size: length of the last axis of ``hidden``; None if the Run has no hidden states.
        token_counts: whether the Run says how often each expert was chosen for each token id.
        languages: full code -> entry.
        texts_sha256: full code -> hash of the texts, of every language that was read from the corpus, captured or not:
            what is captured or merged later must be of the same texts. In an import of the
            files; empty in Runs of older versions.
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
    corpus_revision: str | None = None
    weights_sha256: str | None = None
    tokenizer_sha256: str | None = None
    threads: int | None = None
    chat_template_sha256: str | None = None
    plan_sha256: str | None = None
    phase: Phase = "prompt"
    new_tokens: int | None = None
    first_tokens: int | None = None
    distinct_from: str | None = None
    hidden_size: int | None = None
    token_counts: bool = False
    languages: dict[str, LanguageEntry] = field(default_factory=dict)
    texts_sha256: dict[str, str] = field(default_factory=dict)
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
        named = {"model": self.model, "revision": self.revision, "backend": self.backend, "dtype": self.dtype}
        for name, value in (named | self.corpus | self.packages).items():
            if value is not None and len(value) > LONGEST_NAME:
                raise RunError(f"manifest: {name} has {len(value):,} characters; expected at most {LONGEST_NAME:,}")
        codes = (*self.languages, *self.texts_sha256)
        if foreign := [code for code in codes if not LANGUAGE_CODE.fullmatch(code)]:  # they become names of files
            raise RunError(f"manifest: language {foreign[0]!r}; expected a full code such as eng_Latn")
        self._check_options()

    def _check_options(self) -> None:
        if self.new_tokens is not None and (self.phase != "generation" or self.new_tokens < 1):
            expected = "at least 1" if self.phase == "generation" else "none"
            raise RunError(f"manifest: new_tokens is {self.new_tokens} in the {self.phase} phase; expected {expected}")
        if self.distinct_from is not None and not LANGUAGE_CODE.fullmatch(self.distinct_from):
            raise RunError(f"manifest: distinct_from is {self.distinct_from!r}; expected a full code such as eng_Latn")
        for code, digest in self.texts_sha256.items():
            if not _SHA256.fullmatch(digest) or self.all_texts_sha256[code] != digest:
                raise RunError(f"manifest: texts_sha256 of {code} is {digest!r}; expected the hash of its texts")
        for name in ("weights_sha256", "tokenizer_sha256", "chat_template_sha256"):
            if (value := getattr(self, name)) is not None and not _SHA256.fullmatch(value):
                raise RunError(f"manifest: {name} is {value!r}; expected 64 hexadecimal digits")
        if self.token_scope in ROLES and self.chat_template_sha256 is None:
            raise RunError(f"manifest: tokens of the {self.token_scope} were counted, and no chat template is named")
        for name in ("hidden_size", "threads", "first_tokens"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise RunError(f"manifest: {name} is {value}; expected at least 1")

    @property
    def unknown_tokens(self) -> dict[str, float]:
        """Language to share of unknown tokens, where it is so large that its routing is partly that of one token."""
        shares = {code: entry.unknown_share or 0.0 for code, entry in sorted(self.languages.items())}
        return {code: share for code, share in shares.items() if share > MANY_UNKNOWN}

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of profiles and selections: ``(n_items, n_layers, n_experts)``."""
        return len(self.item_ids), len(self.routers), self.routers[0].n_experts

    @property
    def all_texts_sha256(self) -> dict[str, str]:
        """``texts_sha256`` and, for Runs of older versions, the hashes of the captured languages' texts."""
        return {**self.texts_sha256, **{code: entry.corpus_sha256 for code, entry in self.languages.items()}}

    @property
    def has_selections(self) -> bool:
        """Whether it is known how often each expert was chosen."""
        return self.backend not in (MASS_JSON, EXPERT_SETS)

    @property
    def is_sets(self) -> bool:
        """Whether only sets of experts are known, and not how evenly they are used, or in which layer more."""
        return self.backend == EXPERT_SETS

    def require_selections(self) -> None:
        """Refuse what needs to know how often experts were chosen; RunError where that was not published."""
        if not self.has_selections:
            raise RunError(
                f"needs how often each expert was chosen, and this run has none (imported {self.backend}); capture the "
                "model with `isogloss capture`, or import counts"
            )

    def require_items(self, metric: str) -> None:
        """Refuse a metric that needs one record per item; RunError where the Run is pooled."""
        if self.granularity != "items":
            raise RunError(
                f"{metric} needs one record per item, and this run has one per language (granularity "
                f"{self.granularity!r}, imported counts); capture the model with `isogloss capture` to get per-item "
                "routing"
            )

    def refusals(self, *metrics: str) -> dict[str, str]:
        """Return, by metric, why this Run cannot give it: all need items, and all but ``consistency`` two of them."""
        refused = {}
        for metric in metrics:
            try:
                self.require_items(metric)
            except RunError as error:
                refused[metric] = str(error)
            else:
                if metric != "consistency" and len(self.item_ids) == 1:
                    refused[metric] = f"{metric}: needs at least two items; this run has one"
        return refused

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON types."""
        return {
            **asdict(self),
            "fingerprint": None if self.fingerprint is None else self.fingerprint.to_json(),
            "routers": [asdict(router) for router in self.routers],
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


def common_status(*manifests: Manifest) -> RunStatus:
    """Return ``partial`` where any of the Runs behind a result is unfinished."""
    return "partial" if any(manifest.status == "partial" for manifest in manifests) else "complete"


def read_manifest(folder: Path) -> Manifest:
    """Read and check the manifest of a Run.

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
