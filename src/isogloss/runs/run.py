"""Read and write the arrays of a Run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy
from safetensors import SafetensorError

from isogloss.errors import RunError
from isogloss.files import read_bytes, remove_stale, require_threads, sha256, write_atomically
from isogloss.languages import resolve
from isogloss.notebook import Shown
from isogloss.runs.manifest import MANIFEST_NAME, LanguageEntry, Manifest, header_differences, read_manifest

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["LanguageRouting", "Run", "RunWriter", "open_run"]

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]

_SUM_TOLERANCE = 1e-3  # means of bfloat16 softmaxes still pass, other quantities do not


@dataclass(frozen=True, eq=False)
class LanguageRouting:
    """The routing of one language's items.

    Attributes:
        profiles: ``[n_items, n_layers, n_experts]`` float32, mean routing weights of an item's counted tokens; they sum
            to 1 over experts. In an imported Run: mean combine weights, see `isogloss.runs.import_counts_json`.
        selections: the same shape, int32, number of counted tokens that chose the expert; sums to top_k x tokens,
            exactly if the Run has items.
        tokens: ``[n_items]`` int32, counted tokens, at least 1.
        consistency: ``[n_items, n_layers]`` float32 in [0, 1], mean Jaccard similarity of token pairs; NaN if unknown.
        entropy: ``[n_items, n_layers]`` float32, of the item's profile, in nats; NaN if unknown.
        vocabulary: ``[n_types]`` int32, ids of the counted tokens, ascending; None if unknown.
        vocabulary_counts: ``[n_types]`` int32, how often each was counted, over all items.
        distinct_profiles: profiles over an item's counted tokens whose ids never occur in the texts of the manifest's
            ``distinct_from`` language; zero if an item has no such token; None if they were not captured.
        distinct_tokens: ``[n_items]`` int32, number of those tokens.
        hidden: ``[n_items, n_layers, hidden_size]`` float32, each router's input, averaged over the counted tokens;
            None if it was not captured.
    """

    profiles: Float32
    selections: Int32
    tokens: Int32
    consistency: Float32
    entropy: Float32
    vocabulary: Int32 | None = None
    vocabulary_counts: Int32 | None = None
    distinct_profiles: Float32 | None = None
    distinct_tokens: Int32 | None = None
    hidden: Float32 | None = None

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays that are not None, by name."""
        return {name: array for name, array in vars(self).items() if array is not None}


class Run(Shown):
    """A Run on disk; arrays are read one language at a time.

    Attributes:
        path: folder of the Run.
        manifest: its description.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self._verified: set[str] = set()

    def __repr__(self) -> str:
        manifest = self.manifest
        first = manifest.routers[0] if manifest.routers else None
        routers = f", {len(manifest.routers)} routed layers of {first.n_experts} experts" if first else ""
        plan = ", under a plan" if manifest.plan_sha256 else ""
        return (
            f"Run({self.path}: {manifest.model} on {manifest.corpus['name']}, {len(self.languages)} languages, "
            f"{len(manifest.item_ids):,} items{routers}{plan}, {manifest.status})"
        )

    def to_frame(self) -> pd.DataFrame:
        """Return one row per language: ``language``, ``n_items``, ``n_tokens``."""
        import pandas as pd  # noqa: PLC0415 - takes a third of a second, and most commands show no table

        entries = self.manifest.languages
        rows = [(language, len(self.manifest.item_ids), entries[language].tokens) for language in self.languages]
        return pd.DataFrame(rows, columns=["language", "n_items", "n_tokens"])

    @property
    def languages(self) -> tuple[str, ...]:
        """Full codes of the languages captured so far, sorted."""
        return tuple(sorted(self.manifest.languages))

    def read(self, language: str) -> bytes:
        """Return the verified bytes of one language's file.

        Args:
            language: as `isogloss.languages.resolve` accepts it.

        Returns:
            Content of the safetensors file.

        Raises:
            RunError: the Run lacks the language, or its file is missing or was changed.
        """
        code = resolve(language)
        if code not in self.manifest.languages:
            raise RunError(
                f"{self.path}: no routing for {code}; available languages: {', '.join(self.languages) or 'none'}"
            )
        path = _language_path(self.path, code)
        content = read_bytes(path)
        expected = self.manifest.languages[code].file_sha256
        if sha256(content) != expected:
            raise RunError(
                f"{path}: damaged (sha256 {sha256(content)[:12]}…, expected {expected[:12]}…); restore the "
                f"file, or delete it and capture again into this folder"
            )
        self._verified.add(code)
        return content

    def load_items(self, language: str, name: str, items: slice) -> npt.NDArray[Any]:
        """Read some items of one array without loading the rest.

        Args:
            language: as `isogloss.languages.resolve` accepts it; its file is verified on first use.
            name: of an array of `LanguageRouting` whose first axis is items.
            items: positions along that axis; as in numpy, the slice may extend beyond the end.

        Returns:
            The selected part of the array.

        Raises:
            RunError: the Run lacks the language or the array, or the file is missing or damaged.
        """
        code = resolve(language)
        path = _language_path(self.path, code)
        if code not in self._verified:
            self.read(code)
        with safetensors.safe_open(path, framework="numpy") as file:
            if name not in file.keys():  # noqa: SIM118 - no mapping
                raise RunError(f"{path}: has no {name}: it was not captured; see `isogloss capture --help`")
            stored = file.get_slice(name)
            chosen = range(stored.get_shape()[0])[items]
            # safetensors takes neither steps nor bounds beyond the end.
            first, last = (min(chosen), max(chosen)) if chosen else (0, -1)
            part: npt.NDArray[Any] = stored[first : last + 1]
        return part[:: items.step]

    def load(self, language: str) -> LanguageRouting:
        """Read one language's arrays.

        Args:
            language: as `isogloss.languages.resolve` accepts it.

        Returns:
            The arrays, with the shapes that the manifest implies.

        Raises:
            RunError: the Run lacks the language, or its file is missing, damaged or of another shape.
        """
        content = self.read(language)
        where = str(_language_path(self.path, resolve(language)))
        try:
            routing = LanguageRouting(**safetensors.numpy.load(content))
        except (SafetensorError, TypeError, KeyError, ValueError) as error:
            raise RunError(f"{where}: not the arrays of a Run ({error}); capture this language again") from error
        _check_shapes(routing, self.manifest, where)
        return routing


def open_run(path: str | Path) -> Run:
    """Open a complete or partial Run; arrays are read and verified on demand.

    Args:
        path: folder of the Run.

    Returns:
        The Run.

    Raises:
        RunError: the folder has no Run, or one with another schema version or a malformed manifest.
    """
    folder = Path(path)
    return Run(folder, read_manifest(folder))


class RunWriter:
    """Write a Run language by language; open the same folder again to resume an interrupted capture.

    Args:
        path: folder to create, or one that contains a Run with an equal header.
        manifest: header of the Run; its status and languages are ignored.

    Raises:
        RunError: the folder contains something else, a Run with another header (the message names the field), or a
            damaged language file.

    Attributes:
        manifest: as on disk.
    """

    def __init__(self, path: str | Path, manifest: Manifest) -> None:
        self._path = Path(path)
        self.manifest = replace(manifest, status="partial", languages={})
        if (self._path / MANIFEST_NAME).is_file():
            self._resume()
        else:
            self._create()

    @property
    def done(self) -> set[str]:
        """Full codes of the languages already written."""
        return set(self.manifest.languages)

    def write(self, language: str, routing: LanguageRouting, corpus_sha256: str) -> None:
        """Write one language; it is part of the Run once this call has returned.

        Args:
            language: full code, ``xxx_Xxxx``.
            routing: its arrays, with the shapes that the manifest implies.
            corpus_sha256: hash of its ids and texts.

        Raises:
            RunError: arrays are inconsistent with the manifest or each other, or the language is already written.
        """
        _check_shapes(routing, self.manifest, language)
        _check_values(routing, self.manifest, language)
        arrays = {name: np.ascontiguousarray(array) for name, array in routing.arrays().items()}
        content = safetensors.numpy.save(arrays)
        entry = LanguageEntry(int(routing.tokens.sum(dtype=np.int64)), sha256(content), corpus_sha256)
        self._add(language, content, entry)

    def copy(self, run: Run, language: str) -> None:
        """Copy one language of another Run, byte for byte.

        Args:
            run: with an equal header, except for notes.
            language: full code.

        Raises:
            RunError: the header differs, the file is damaged, or the language is already written.
        """
        differences = header_differences(self.manifest, run.manifest, ignore=("notes", "threads"))
        if differences:
            raise RunError(
                f"{run.path} and {self._path} differ in {'; '.join(differences)}; copy only between Runs with equal "
                "headers"
            )
        self._add(language, run.read(language), run.manifest.languages[language])

    def finish(self) -> Run:
        """Mark the Run complete.

        Returns:
            The Run as on disk.
        """
        self._save(replace(self.manifest, status="complete"))
        return Run(self._path, self.manifest)

    def _create(self) -> None:
        if self._path.exists() and not self._path.is_dir():
            raise RunError(f"{self._path} is a file; choose a folder")
        self._path.mkdir(parents=True, exist_ok=True)
        remove_stale(self._path)
        foreign = sorted(entry.name for entry in self._path.iterdir())
        if foreign:
            raise RunError(f"{self._path}: contains {foreign[0]} but no Run; choose a new or empty folder")
        self._save(self.manifest)

    def _resume(self) -> None:
        existing = open_run(self._path)
        require_threads(self._path, before=existing.manifest.threads, now=self.manifest.threads)
        differences = header_differences(existing.manifest, self.manifest, ignore=("threads",))
        if differences:
            raise RunError(
                f"{self._path}: contains a Run that differs in {'; '.join(differences)}; choose another folder, or "
                "repeat the capture with the settings of that Run"
            )
        remove_stale(self._path)
        kept = {code: existing.manifest.languages[code] for code in existing.languages if _present(self._path, code)}
        for code in kept:
            existing.read(code)
        self.manifest = existing.manifest
        if len(kept) < len(existing.languages):
            self._save(replace(existing.manifest, status="partial", languages=kept))

    def _add(self, language: str, content: bytes, entry: LanguageEntry) -> None:
        if resolve(language) != language:
            raise RunError(f"language {language!r}: expected its full code, {resolve(language)}")
        if language in self.done:
            raise RunError(f"{self._path}: {language} is already written; skip the languages in RunWriter.done")
        write_atomically(_language_path(self._path, language), content)
        languages = {**self.manifest.languages, language: entry}
        self._save(replace(self.manifest, status="partial", languages=languages))

    def _save(self, manifest: Manifest) -> None:
        write_atomically(self._path / MANIFEST_NAME, manifest.encode())
        self.manifest = manifest


def _language_path(folder: Path, language: str) -> Path:
    return folder / f"{language}.safetensors"


def _present(folder: Path, language: str) -> bool:
    return _language_path(folder, language).is_file()


def _check_shapes(routing: LanguageRouting, manifest: Manifest, where: str) -> None:
    n_items, n_layers, n_experts = manifest.shape
    n_types = () if routing.vocabulary is None else routing.vocabulary.shape[:1]
    expected: dict[str, tuple[type, tuple[int, ...]]] = {
        "profiles": (np.float32, (n_items, n_layers, n_experts)),
        "selections": (np.int32, (n_items, n_layers, n_experts)),
        "tokens": (np.int32, (n_items,)),
        "consistency": (np.float32, (n_items, n_layers)),
        "entropy": (np.float32, (n_items, n_layers)),
        "vocabulary": (np.int32, n_types),
        "vocabulary_counts": (np.int32, n_types),
        "distinct_profiles": (np.float32, (n_items, n_layers, n_experts)),
        "distinct_tokens": (np.int32, (n_items,)),
        "hidden": (np.float32, (n_items, n_layers, manifest.hidden_size or 0)),
    }
    arrays = routing.arrays()
    for name, array in arrays.items():
        dtype, shape = expected[name]
        if array.dtype != dtype or array.shape != shape:
            raise RunError(f"{where}: {name} is {array.dtype} {array.shape}; expected {np.dtype(dtype)} {shape}")
    optional = {
        "vocabulary_counts": "vocabulary" in arrays,
        "distinct_profiles": manifest.distinct_from is not None,
        "distinct_tokens": manifest.distinct_from is not None,
        "hidden": manifest.hidden_size is not None,
    }
    for name, wanted in optional.items():
        if wanted != (name in arrays):
            state = "missing" if wanted else "present"
            raise RunError(f"{where}: {name} is {state}, contrary to the manifest; capture this language again")


def _check_values(routing: LanguageRouting, manifest: Manifest, language: str) -> None:
    """Raise RunError for arrays that violate an invariant of Runs."""
    tokens, selections, profiles = routing.tokens[:, None, None], routing.selections, routing.profiles
    sums = selections.sum(axis=-1, dtype=np.int64)
    expected = routing.tokens[:, None].astype(np.int64) * [router.top_k for router in manifest.routers]
    with_items = manifest.granularity == "items"
    violations = {
        "tokens: an item without counted tokens": routing.tokens < 1,
        "selections: an expert chosen by fewer than 0 or more than all tokens": (selections < 0)
        | (selections > tokens),
        "selections: not top_k per token": (sums != expected) & with_items,
        "profiles: negative or not finite": ~(np.isfinite(profiles) & (profiles >= 0)),
        "profiles: not summing to 1": ~(abs(profiles.sum(axis=-1, dtype=np.float64) - 1) <= _SUM_TOLERANCE),
        "entropy: not finite": ~np.isfinite(routing.entropy) & with_items,
        "consistency: outside 0 to 1": (routing.consistency < 0) | (routing.consistency > 1),
        **_optional_violations(routing),
    }
    for problem, violated in violations.items():
        if np.any(violated):
            place = tuple(int(index) for index in np.argwhere(violated)[0])
            raise RunError(f"{language}: {problem} at index {place}; check the capture with `isogloss doctor`")


def _optional_violations(routing: LanguageRouting) -> dict[str, npt.NDArray[np.bool_]]:
    """Mark where optional arrays violate an invariant."""
    violations: dict[str, npt.NDArray[np.bool_]] = {}
    vocabulary, counts = routing.vocabulary, routing.vocabulary_counts
    if vocabulary is not None and counts is not None:
        violations["vocabulary: not ascending"] = np.diff(vocabulary) <= 0
        violations["vocabulary_counts: below 1"] = counts < 1
        total = counts.sum(dtype=np.int64) != routing.tokens.sum(dtype=np.int64)
        violations["vocabulary_counts: not the number of counted tokens"] = np.atleast_1d(total)
    profiles, tokens = routing.distinct_profiles, routing.distinct_tokens
    if profiles is not None and tokens is not None:
        off = abs(profiles.sum(axis=-1, dtype=np.float64) - (tokens > 0)[:, None])
        violations["distinct_tokens: below 0, or more than all"] = (tokens < 0) | (tokens > routing.tokens)
        violations["distinct_profiles: negative or not finite"] = ~(np.isfinite(profiles) & (profiles >= 0))
        violations["distinct_profiles: summing neither to 1 nor, without tokens, to 0"] = ~(off <= _SUM_TOLERANCE)
    if routing.hidden is not None:
        violations["hidden: not finite"] = ~np.isfinite(routing.hidden)
    return violations
