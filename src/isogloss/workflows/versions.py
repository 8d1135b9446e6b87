"""Runs two versions of one model over the same texts, one after the other, and compares them token by token.

In the folder, ``first/`` keeps what the first version did, until the second has done the same texts; ``values/`` the
measures of every text; each language a file, so that a stopped comparison goes on with the next one.
"""

from __future__ import annotations

import gc
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from isogloss.backends.capture_options import CaptureOptions
from isogloss.backends.open import load, preview, threads_of
from isogloss.backends.token_routing import NextTokens
from isogloss.corpora import Corpus
from isogloss.errors import ModelError, contrast
from isogloss.evaluation.versions import (
    COMPARISON,
    ModelVersion,
    VersionComparison,
    WeightBytes,
    compare_versions,
    text_difference,
)
from isogloss.files import remove_stale
from isogloss.folders import locked, make_folder, unclaim
from isogloss.progress import note, track
from isogloss.records import Record, write_typed
from isogloss.resuming import claim_folder, require_threads
from isogloss.runs import TokenScope
from isogloss.statistics import DEFAULT_RESAMPLING, Resampling
from isogloss.workflows.version_files import Sizes, read_routed, read_values, write_routed, write_values

if TYPE_CHECKING:
    from isogloss.backends.model import Model
    from isogloss.backends.preview import Preview

__all__ = ["SIDES", "VersionSettings", "VersionSource", "compare_models"]

SIDES = ("first", "second")
_SETTINGS = "settings.json"
_PARTS = (SIDES[0], "values")  # folders of files of languages, by the version that fills them
_BATCH_TOKENS = 2048  # with the logits of all of them
_N_REPEATED = 8  # texts that each version reads twice


@dataclass(frozen=True)
class VersionSource(Record):
    """Where a version comes from, and how it is loaded.

    Attributes:
        name: hub id, with or without ``@REVISION``, folder, or ``organism``.
        dtype: ``auto`` (as stored), ``float32``, ``bfloat16`` or ``float16``.
        device: such as ``cuda:0``; None for a GPU where there is one.
        dequantize: whether quantised weights are turned into floating point; others stay as they are.
    """

    name: str
    dtype: str = "auto"
    device: str | None = None
    dequantize: bool = False

    def load(self) -> Model:
        """Load it by transformers."""
        return load(self.name, dtype=self.dtype, device=self.device, dequantize=self.dequantize)


@dataclass(frozen=True)
class VersionSettings(Record):
    """What decides every number of a comparison.

    Attributes:
        first: source of the first version.
        second: source of the second one.
        checkpoints: of both, the commit on the hub, or a hash of values sampled from the files, of pickles of all
            bytes; None where an older version compared pickles.
        texts_sha256: language to the hash of its texts.
        token_scope: which tokens are compared.
    """

    first: VersionSource
    second: VersionSource
    checkpoints: tuple[str | None, str | None]
    texts_sha256: Mapping[str, str]
    token_scope: TokenScope


def compare_models(
    first: VersionSource | str,
    second: VersionSource | str,
    corpus: Corpus,
    *,
    out: str | Path | None = None,
    token_scope: TokenScope = "content",  # noqa: S107 - a token here is a piece of text
    resampling: Resampling = DEFAULT_RESAMPLING,
) -> VersionComparison:
    """Compare which experts two versions of a model choose for the same tokens, and what they predict next.

    One is in memory at a time, and both compute on as many threads. What can be refused is refused before the first is
    loaded.

    Args:
        first: version, such as the original; a name is loaded as it is stored.
        second: version, such as a quantised one.
        corpus: parallel texts, which both read token by token; see `isogloss.corpus`.
        out: folder of the comparison, new or of a stopped one with the same settings; None keeps nothing.
        token_scope: ``content`` compares the texts' own tokens, ``all`` also special tokens.
        resampling: of the items.

    Raises:
        ModelError: a version cannot be loaded, or the two differ in their family, layers, experts or tokens.
        CorpusError: a text cannot be read.
        RunError: the folder is of other settings, or another process works there.
    """
    sources = [VersionSource(each) if isinstance(each, str) else each for each in (first, second)]
    previews = [preview(each.name, dequantize=each.dequantize) for each in sources]
    _require_versions(sources, previews, corpus)
    _note_unquantised(sources, previews)
    settings = VersionSettings(
        sources[0],
        sources[1],
        (previews[0].place.revision or previews[0].sha256, previews[1].place.revision or previews[1].sha256),
        {code: corpus.sha256(code) for code in corpus.languages},
        token_scope,
    )
    if out is not None:
        return _compare(Path(out), settings, previews, corpus, resampling)
    with tempfile.TemporaryDirectory(prefix="isogloss-") as folder:
        return _compare(Path(folder) / "comparison", settings, previews, corpus, resampling)


def _require_versions(sources: Sequence[VersionSource], previews: Sequence[Preview], corpus: Corpus) -> None:
    """Refuse two checkpoints that are no versions of one model, or that read a text as other tokens."""
    one, other = previews
    names = " and ".join(repr(each.name) for each in sources)
    if one.model_type != other.model_type:
        raise ModelError(f"{names} are no versions of one model: {one.model_type} and {other.model_type}")
    if one.routers != other.routers:
        raise ModelError(
            f"{names} are no versions of one model: their routers differ in {contrast(one.routers, other.routers)}; "
            "expected the same layers with the same experts, of which the same number is chosen alike"
        )
    if one.tokenizer_sha256 == other.tokenizer_sha256:
        return
    for language, texts in corpus.texts.items():
        ids = [each.tokenizer(list(texts))["input_ids"] for each in previews]
        for item, ours, theirs in zip(corpus.item_ids, *ids, strict=True):
            if ours != theirs:
                raise ModelError(
                    f"{names} read {corpus.where(language)}, item {item}, as other tokens: "
                    f"{contrast(tuple(ours), tuple(theirs))}; expected one tokenizer: token by token is the comparison"
                )
    note(f"the tokenizers of {names} differ, and read every text of {corpus.name} as the same tokens")


def _note_unquantised(sources: Sequence[VersionSource], previews: Sequence[Preview]) -> None:
    """Say where there is nothing to dequantise: every loader then leaves the weights as they are."""
    asked = [
        one.name for one, found in zip(sources, previews, strict=True) if one.dequantize and not found.quantisation
    ]
    for name in dict.fromkeys(asked):
        note(f"dequantising changes nothing of {name!r}, which is not quantised")


def _compare(
    folder: Path, settings: VersionSettings, previews: Sequence[Preview], corpus: Corpus, resampling: Resampling
) -> VersionComparison:
    """Go on where a comparison in this folder was stopped."""
    from isogloss.organism.threads import torch_threads  # noqa: PLC0415 - torch, of which `isogloss.workflows` is free

    fixed = filter(None, (threads_of(each.name) for each in (settings.first, settings.second)))
    with locked(folder, _SETTINGS), torch_threads(next(fixed, None)):
        is_new = not (folder / _SETTINGS).is_file()
        claim_folder(folder, _SETTINGS, settings)
        for place in (folder, *(folder / name for name in _PARTS)):
            make_folder(place)
            remove_stale(place)
        try:
            for side in SIDES:
                _run(folder, side, settings, previews, corpus)
        except Exception:
            if is_new:
                _release(folder)
            raise
        comparison = _summarise(folder, settings, previews, corpus, resampling)
        write_typed(folder / COMPARISON, comparison)
        shutil.rmtree(folder / SIDES[0])
        return comparison


def _release(folder: Path) -> None:
    """Leave a folder free for other settings where no language was finished."""
    with suppress(OSError):  # of a part that is not empty
        for part in _PARTS:
            (folder / part).rmdir()
        for side in SIDES:
            (folder / f"{side}.json").unlink(missing_ok=True)
        unclaim(folder, _SETTINGS)


def _sizes(previews: Sequence[Preview], corpus: Corpus) -> Sizes:
    routers, n_vocabulary = previews[0].routers, min(each.n_vocabulary for each in previews)
    return Sizes(len(corpus.item_ids), len(routers), routers[0].n_experts, routers[0].top_k, n_vocabulary)


def _run(folder: Path, side: str, settings: VersionSettings, previews: Sequence[Preview], corpus: Corpus) -> None:
    """Let one version read the languages that it has not read."""
    done = {each.stem for part in _PARTS[SIDES.index(side) :] for each in (folder / part).iterdir()}
    missing = [code for code in corpus.languages if code not in done]
    record = folder / f"{side}.json"
    if not missing and record.is_file():
        return
    options = CaptureOptions(token_scope=settings.token_scope, batch_tokens=_BATCH_TOKENS)
    sizes = _sizes(previews, corpus)
    likeliest = NextTokens(sizes.n_vocabulary)
    source: VersionSource = getattr(settings, side)
    model = source.load()
    if missing:
        model.require_room(corpus.select(missing), options)
    version = _describe(model, previews[SIDES.index(side)], corpus, options=options, next_tokens=likeliest)
    for other in (folder / f"{each}.json" for each in SIDES):
        if other.is_file():
            require_threads(folder, before=ModelVersion.read(other).threads, now=version.threads)
    write_typed(record, version)
    for code in missing:
        kept = None if side == SIDES[0] else read_routed(folder / SIDES[0], code, sizes)
        wanted = likeliest if kept is None else likeliest._replace(ids=[text.next_ids for text in kept])
        with track(f"{side} {code}", len(corpus.item_ids)) as advance:
            routed = model.route_texts(
                corpus.texts[code], corpus.item_ids, options=options, next_tokens=wanted, progress=advance
            )
        if kept is None:
            write_routed(folder / SIDES[0], code, routed)
        else:
            write_values(folder / "values", code, kept, routed)
    del model
    gc.collect()  # hooks and modules refer to each other, and the next version needs the memory


def _describe(
    model: Model, preview: Preview, corpus: Corpus, *, options: CaptureOptions, next_tokens: NextTokens
) -> ModelVersion:
    """Prove the routers of a loaded version, let it read a few texts twice, and say what it is."""
    texts, ids = next(iter(corpus.texts.values()))[:_N_REPEATED], corpus.item_ids[:_N_REPEATED]
    model.prove(texts[0])
    once, again = (model.route_texts(texts, ids, options=options, next_tokens=next_tokens) for _ in range(2))
    stored, held = preview.stored_bytes(), model.held_bytes
    return ModelVersion(
        name=model.name,
        revision=model.revision,
        dtype=model.dtype,
        summary=model.summary,
        quantisation=preview.quantisation,
        weights=tuple(
            WeightBytes(part, dtype, stored.get((part, dtype), 0) if stored else None, held.get((part, dtype), 0))
            for part, dtype in sorted({*stored, *held})
        ),
        weights_sha256=model.weights_sha256,
        repeated=float(np.mean([text_difference(*pair)["choices"] for pair in zip(once, again, strict=True)])),
        threads=model.threads,
        packages=model.packages,
    )


def _summarise(
    folder: Path, settings: VersionSettings, previews: Sequence[Preview], corpus: Corpus, resampling: Resampling
) -> VersionComparison:
    values, tokens, sizes = {}, {}, _sizes(previews, corpus)
    for code in corpus.languages:
        values[code], tokens[code] = read_values(folder / "values", code, sizes)
    languages, overall = compare_versions(values, tokens, resampling=resampling)
    return VersionComparison(
        first=ModelVersion.read(folder / "first.json"),
        second=ModelVersion.read(folder / "second.json"),
        corpus=corpus.name,
        token_scope=settings.token_scope,
        n_items=len(corpus.item_ids),
        routed_layers=tuple(router.layer for router in previews[0].routers),
        n_experts=sizes.n_experts,
        top_k=sizes.top_k,
        languages=languages,
        overall=overall,
        resampling=resampling,
    )
