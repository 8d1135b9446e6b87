"""Read and write the arrays of a Run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy
from safetensors import SafetensorError

from isogloss.errors import LanguageError, RunError
from isogloss.files import read_bytes, remove_stale, sha256, write_atomically
from isogloss.folders import locked, make_folder, require_folder, require_free, unclaim
from isogloss.hub import fetched
from isogloss.languages import resolve
from isogloss.notebook import Shown
from isogloss.resuming import note_unrecorded, require_threads
from isogloss.runs.differences import header_differences, require_same, text_differences, unrecorded
from isogloss.runs.language_routing import LanguageRouting, check_shapes, check_values
from isogloss.runs.manifest import LANGUAGE_CODE, MANIFEST_NAME, LanguageEntry, Manifest, read_manifest

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Run", "RunWriter", "open_run", "require_run_folder", "run_writer"]


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

    def require(self, languages: Iterable[str]) -> None:
        """Refuse full codes that the Run lacks; LanguageError lists what it holds."""
        if absent := [language for language in languages if language not in self.manifest.languages]:
            raise LanguageError(f"{', '.join(absent)} not in this run; it holds {', '.join(self.languages)}")

    def read(self, language: str) -> bytes:
        """Return the verified bytes of the safetensors file of one language, as `resolve` accepts it.

        Raises:
            RunError: the Run lacks the language, or its file is missing or was changed.
        """
        code = resolve(language)
        if code not in self.manifest.languages:
            raise RunError(
                f"{self.path}: no routing for {code}; available languages: {', '.join(self.languages) or 'none'}"
            )
        path = _language_path(self.path, code)
        content = read_bytes(path, most=_largest_file(self.manifest, code))
        expected = self.manifest.languages[code].file_sha256
        if sha256(content) != expected:
            raise RunError(
                f"{path}: damaged (sha256 {sha256(content)[:12]}…, expected {expected[:12]}…); restore the "
                f"file, or delete it and capture again into this folder"
            )
        return content

    def load_items(self, language: str, name: str, items: slice, *, layers: slice | None = None) -> npt.NDArray[Any]:
        """Read some items, and of arrays by layer some layers, of one array without loading the rest.

        Args:
            language: as `isogloss.languages.resolve` accepts it; its file is verified on first use.
            name: of an array of `LanguageRouting` whose first axis is items.
            items: positions along that axis; as in numpy, the slice may extend beyond the end.
            layers: positions along the second axis, without a step; None for all, and for arrays without layers.

        Raises:
            RunError: the Run lacks the language or the array, or the file is missing or damaged.
        """
        code = resolve(language)
        path = _language_path(self.path, code)
        if name == "selections":
            self.manifest.require_selections()
        if code not in self._verified:
            self.load(code)
        with safetensors.safe_open(path, framework="numpy") as file:
            if name not in file.keys():  # noqa: SIM118 - no mapping
                raise RunError(f"{path}: has no {name}: it was not captured; see `isogloss capture --help`")
            stored = file.get_slice(name)
            chosen = range(stored.get_shape()[0])[items]
            # safetensors takes neither steps nor bounds beyond the end.
            first, last = (min(chosen), max(chosen)) if chosen else (0, -1)
            part: npt.NDArray[Any]
            part = stored[first : last + 1] if layers is None else stored[first : last + 1, _bounded(stored, layers)]
        return part[:: items.step]

    def load(self, language: str) -> LanguageRouting:
        """Read the arrays of one language, as `resolve` accepts it, with the shapes that the manifest implies.

        Values are checked when the language is first read.

        Raises:
            RunError: the Run lacks the language, or its file is missing, damaged, of another shape, or holds values
                that no capture gives.
        """
        content, code = self.read(language), resolve(language)
        where = str(_language_path(self.path, code))
        try:
            routing = LanguageRouting.of_arrays(safetensors.numpy.load(content))
        except (SafetensorError, TypeError, KeyError, ValueError) as error:
            raise RunError(f"{where}: not the arrays of a Run ({error}); capture this language again") from error
        check_shapes(routing, self.manifest, where)
        if code not in self._verified:
            check_values(routing, self.manifest, where)
            self._verified.add(code)
        return routing


def open_run(path: str | Path) -> Run:
    """Open the folder of a complete or partial Run, or ``hf://datasets/OWNER/NAME``; arrays are verified on demand.

    Raises:
        RunError: the folder has no Run, one with another schema version or a malformed manifest, or a complete one with
            a language file that the manifest does not list.
    """
    folder = fetched(path, error=RunError)
    run = Run(folder, read_manifest(folder))
    if run.manifest.status == "complete":  # a capture that is stopped may leave a file that is not listed yet
        _require_listed(run)
    return run


def _require_listed(run: Run) -> None:
    """Refuse language files that the manifest does not list, such as those of two captures at once."""
    names = (path.name for path in run.path.glob("*_*.safetensors"))
    listed = {_language_path(run.path, code).name for code in run.manifest.languages}
    if unlisted := sorted(
        name for name in names if LANGUAGE_CODE.fullmatch(name.partition(".")[0]) and name not in listed
    ):
        raise RunError(
            f"{run.path}: holds {', '.join(unlisted)}, which its {MANIFEST_NAME} does not list, so that other "
            "processes may have written here: capture these languages into this folder again, or delete the files"
        )


@contextmanager
def run_writer(path: str | Path, manifest: Manifest) -> Iterator[RunWriter]:
    """Write a Run into a folder, made where absent, that this process alone holds meanwhile.

    Where the work inside fails before any language is written, the folder is again free for other settings.

    Args:
        path: as of `RunWriter`.
        manifest: as of `RunWriter`.

    Raises:
        RunError: another process holds the folder; or as of `RunWriter`.
        FileError: it cannot be made or locked.
    """
    with locked(Path(path), MANIFEST_NAME):
        writer = RunWriter(path, manifest)
        try:
            yield writer
        except Exception:
            unclaim(writer.path, MANIFEST_NAME)
            raise


def require_run_folder(path: str | Path) -> None:
    """Refuse, before a model is loaded, a folder that no Run can be written into; errors as of `run_writer`."""
    require_folder(Path(path), MANIFEST_NAME)


class RunWriter:
    """Write a Run language by language; open the same folder again to resume an interrupted capture.

    `run_writer` gives one where several processes may write into one folder.

    Args:
        path: folder to create, or one that contains a Run with an equal header.
        manifest: header of the Run; its status and languages are ignored.

    Raises:
        RunError: the folder contains something else, a Run with another header (the message names the field) or of
            other texts (the message names the language), or a damaged language file.

    Attributes:
        path: of the folder.
        manifest: as on disk.
    """

    def __init__(self, path: str | Path, manifest: Manifest) -> None:
        self.path = Path(path)
        self.manifest = replace(manifest, status="partial", languages={})
        if (self.path / MANIFEST_NAME).is_file():
            self._resume()
        else:
            self._create()

    @property
    def done(self) -> set[str]:
        """Full codes of the languages already written."""
        return set(self.manifest.languages)

    def write(
        self,
        language: str,
        routing: LanguageRouting,
        corpus_sha256: str,
        *,
        batch_tokens: int | None = None,
        unknown_share: float | None = None,
    ) -> None:
        """Write one language, by its full code; it is part of the Run once this call has returned.

        Args:
            language: its full code.
            routing: its arrays.
            corpus_sha256: hash of its texts.
            batch_tokens: tokens per portion that they ran in; None where unknown.
            unknown_share: of their tokens, those that the tokenizer does not know; None where not counted.

        Raises:
            RunError: arrays are inconsistent with the manifest or each other, or the language is already written.
        """
        check_shapes(routing, self.manifest, language)
        check_values(routing, self.manifest, language)
        arrays = {name: np.ascontiguousarray(array) for name, array in routing.arrays().items()}
        content = safetensors.numpy.save(arrays)
        n_tokens = int(routing.tokens.sum(dtype=np.int64))
        entry = LanguageEntry(n_tokens, sha256(content), corpus_sha256, batch_tokens, unknown_share)
        self._add(language, content, entry)

    def copy(self, run: Run, language: str) -> None:
        """Copy one language of a Run with an equal header, except for notes, byte for byte.

        Raises:
            RunError: the header or the texts differ, the file is damaged, or the language is already written.
        """
        require_same((run.path, run.manifest), (self.path, self.manifest))
        self._add(language, run.read(language), run.manifest.languages[language])

    def finish(self) -> Run:
        """Mark the Run complete, and return it as on disk.

        Raises:
            RunError: the folder has a language file that the manifest does not list.
        """
        _require_listed(Run(self.path, self.manifest))
        self._save(replace(self.manifest, status="complete"))
        return Run(self.path, self.manifest)

    def _create(self) -> None:
        require_free(self.path, MANIFEST_NAME)
        make_folder(self.path)
        remove_stale(self.path)
        self._save(self.manifest)

    def _resume(self) -> None:
        existing = Run(self.path, read_manifest(self.path))
        require_threads(self.path, before=existing.manifest.threads, now=self.manifest.threads)
        differences = header_differences(existing.manifest, self.manifest, ignore=("threads",))
        if differences:
            raise RunError(
                f"{self.path}: contains a Run that differs in {'; '.join(differences)}; choose another folder, or "
                "repeat the capture with the settings of that Run"
            )
        if differences := text_differences(existing.manifest, self.manifest):
            raise RunError(
                f"{self.path}: contains a Run of other texts in {'; '.join(differences)}; restore the texts, or "
                "choose another folder"
            )
        texts_sha256 = {**existing.manifest.texts_sha256, **self.manifest.texts_sha256}
        unknown = unrecorded(existing.manifest, self.manifest)
        note_unrecorded(self.path, unknown)
        remove_stale(self.path)
        entries = existing.manifest.languages
        kept = {code: entries[code] for code in existing.languages if _language_path(self.path, code).is_file()}
        for code in kept:
            existing.read(code)
        self.manifest = replace(existing.manifest, texts_sha256=texts_sha256, **unknown)
        if len(kept) < len(existing.languages):
            self._save(replace(self.manifest, status="partial", languages=kept))

    def _add(self, language: str, content: bytes, entry: LanguageEntry) -> None:
        if resolve(language) != language:
            raise RunError(f"language {language!r}: expected its full code, {resolve(language)}")
        if language in self.done:
            raise RunError(f"{self.path}: {language} is already written; skip the languages in RunWriter.done")
        languages = {**self.manifest.languages, language: entry}
        grown = replace(self.manifest, status="partial", languages=languages)
        if self.manifest.status == "complete":
            self._save(replace(self.manifest, status="partial"))
        write_atomically(_language_path(self.path, language), content)
        self._save(grown)

    def _save(self, manifest: Manifest) -> None:
        write_atomically(self.path / MANIFEST_NAME, manifest.encode())
        self.manifest = manifest


def _largest_file(manifest: Manifest, language: str) -> int:
    """Bound the bytes of a language's file: profiles twice, selections, hidden states, room for a vocabulary.

    Where choices are counted by token: one end and ``top_k`` entries for each counted token in every layer.
    """
    n_items, n_layers, n_experts = manifest.shape
    counted = manifest.languages[language].tokens * sum(8 + 6 * router.top_k for router in manifest.routers)
    more = counted if manifest.token_counts else 0
    return 4 * n_items * n_layers * (3 * n_experts + 2 + (manifest.hidden_size or 0)) + 8 * n_items + 2**27 + more


def _bounded(stored: Any, layers: slice) -> slice:  # noqa: ANN401 - safetensors' own
    start, stop, _ = layers.indices(stored.get_shape()[1])
    return slice(start, stop)


def _language_path(folder: Path, language: str) -> Path:
    return folder / f"{language}.safetensors"
