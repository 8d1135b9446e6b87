"""Runs from published routing counts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from isogloss.errors import LanguageError, RunError
from isogloss.files import read_json
from isogloss.languages import from_name, resolve
from isogloss.routing import RouterSpec
from isogloss.runs.language_routing import LanguageRouting
from isogloss.runs.pooled import Published, is_weight, pooled_routing, whole, write_pooled
from isogloss.runs.run import Run

__all__ = ["import_counts_json"]

_TOTAL, _COUNT, _WEIGHT = "total_tokens", "activation_tokens", "gate_values_sum"
_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class _Counts:
    """One language's file.

    Attributes:
        path: of the file.
        tokens: counted tokens, the same in every layer.
        layers: decoder layers, ascending.
        selections: ``[n_layers, n_experts]`` int64; 0 for experts without an entry.
        weights: the same shape, float64, summed combine weights; None if the file has none.
        mismatch: ``[n_layers]``, relative difference of summed selections and top_k x tokens.
        top_k: per layer.
    """

    path: Path
    tokens: int
    layers: tuple[int, ...]
    selections: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float64] | None

    @property
    def top_k(self) -> tuple[int, ...]:
        return tuple(round(total / self.tokens) for total in self.selections.sum(axis=1).tolist())

    @property
    def mismatch(self) -> npt.NDArray[np.float64]:
        expected = np.array(self.top_k, dtype=np.float64) * self.tokens
        difference: npt.NDArray[np.float64] = np.abs(self.selections.sum(axis=1) - expected) / np.maximum(expected, 1)
        return difference


def import_counts_json(
    folder: str | Path, out: str | Path, *, model: str = "unknown", n_experts: int | None = None
) -> Run:
    """Convert per-language counts, one JSON file per language, into a pooled Run.

    A file is ``{layer: {expert: {"activation_tokens": int, "gate_values_sum": float}, ..., "total_tokens": int}}``. The
    name of a file contains a language code or an English language name, as in ``mgsm_sw.json`` or
    ``test_Bengali.json``.

    The Run has one item and ``granularity`` ``pooled``. Selections are the published counts, exactly. Profiles are
    ``gate_values_sum`` divided by its sum per layer: the mean combine weight over the chosen experts, not the mean
    softmax over all experts that a capture stores; without ``gate_values_sum``, selections divided by their sum. Both
    cases are in the Run's notes. Consistency and entropy of items are unknown (NaN).

    Args:
        folder: contains the files; hidden files and those of other types are ignored.
        out: folder of the new Run.
        model: the model that was counted.
        n_experts: routed experts per layer; None takes one more than the highest expert id. Experts without an entry
            count 0.

    Returns:
        The Run; its notes give, per language, by how much Σ activation_tokens differs from top_k x total_tokens.

    Raises:
        RunError: ``out`` holds something else, or an import of other files; there are no files, two files of one
            language or a name without a language; a file is malformed; layers or experts differ between languages; only
            some files have weights; or counts are off by more than 0.1 %.
    """
    files = _files_by_language(Path(folder))
    raw = {language: _read(path) for language, path in files.items()}
    if n_experts is None:
        n_experts = 1 + max(max(layer.experts) for layers in raw.values() for layer in layers.values())
    counts = {language: _dense(files[language], layers, n_experts) for language, layers in raw.items()}
    routers = _routers(counts)
    published = Published(
        model=model,
        routers=routers,
        corpus=(Path(folder).resolve().name, "published counts"),
        backend="counts-json" if _with_weights(counts) else "counts-json-without-weights",
        files=files,
        notes=tuple(sorted({note for language in counts for note in _notes(language, counts[language])})),
    )
    return write_pooled(out, published, {language: _routing(each) for language, each in counts.items()})


def _files_by_language(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise RunError(f"{folder}: no such folder; expected one with a JSON file per language")
    files: dict[str, Path] = {}
    for path in sorted(folder.glob("*.json")):
        if path.name.startswith("."):
            continue
        language = _language_of(path)
        if language in files:
            raise RunError(f"{files[language]} and {path} are both {language}; keep one of them")
        files[language] = path
    if not files:
        raise RunError(f"{folder}: no .json file; expected one per language, for example mgsm_sw.json")
    return files


def _language_of(path: Path) -> str:
    for candidate in _candidates(path.stem):
        for find in (resolve, from_name):
            with suppress(LanguageError):
                return find(candidate)
    raise RunError(
        f"{path}: no language in the file name; rename it, for example to {path.stem}_sw.json, or move it away"
    )


def _candidates(stem: str) -> Iterator[str]:
    """Yield parts of a file name that may be a language: its endings, longest first, then its beginnings."""
    parts = re.split(r"([_.-])", stem)
    yield from ("".join(parts[start:]) for start in range(0, len(parts), 2))
    yield from ("".join(parts[: end + 1]) for end in range(len(parts) - 3, -1, -2))


@dataclass(frozen=True)
class _Layer:
    tokens: int
    experts: dict[int, tuple[int, float | None]]


def _read(path: Path) -> dict[int, _Layer]:
    raw = read_json(path)
    if not isinstance(raw, dict) or not raw:
        raise RunError(f"{path}: expected an object with one entry per layer")
    layers = {_index(key, f"{path}: layer"): _layer(entry, f"{path}: layer {key}") for key, entry in raw.items()}
    totals = sorted({layer.tokens for layer in layers.values()})
    if len(totals) > 1:
        raise RunError(f"{path}: {_TOTAL} differs between layers ({totals[0]} and {totals[-1]}); expected one number")
    return dict(sorted(layers.items()))


def _layer(raw: Any, where: str) -> _Layer:  # noqa: ANN401 - JSON before it is checked
    if not isinstance(raw, dict) or _TOTAL not in raw:
        raise RunError(f"{where}: expected an object with experts and {_TOTAL}")
    tokens = whole(raw[_TOTAL], f"{where}: {_TOTAL}")
    experts = {
        _index(key, f"{where}: expert"): _expert(entry, f"{where}, expert {key}")
        for key, entry in raw.items()
        if key != _TOTAL
    }
    if tokens < 1 or not experts:
        raise RunError(f"{where}: {tokens} tokens and {len(experts)} experts; expected at least one of each")
    return _Layer(tokens, experts)


def _expert(raw: Any, where: str) -> tuple[int, float | None]:  # noqa: ANN401 - JSON before it is checked
    if not isinstance(raw, dict) or _COUNT not in raw:
        raise RunError(f"{where}: expected an object with {_COUNT}")
    weight = raw.get(_WEIGHT)
    if weight is not None and not is_weight(weight):
        raise RunError(f"{where}: {_WEIGHT} is {weight!r}; expected a number of at least 0")
    return whole(raw[_COUNT], f"{where}: {_COUNT}"), None if weight is None else float(weight)


def _index(key: str, where: str) -> int:
    if not re.fullmatch(r"0|[1-9][0-9]{0,5}", key):
        raise RunError(f"{where} {key!r}; expected an integer of at least 0")
    return int(key)


def _dense(path: Path, layers: dict[int, _Layer], n_experts: int) -> _Counts:
    selections = np.zeros((len(layers), n_experts), dtype=np.int64)
    weights = np.zeros((len(layers), n_experts), dtype=np.float64)
    known = [weight is not None for layer in layers.values() for _, weight in layer.experts.values()]
    if any(known) != all(known):
        raise RunError(f"{path}: only some experts have {_WEIGHT}; expected it for all or none")
    for row, (number, layer) in enumerate(layers.items()):
        if max(layer.experts) >= n_experts:
            raise RunError(f"{path}: layer {number} has expert {max(layer.experts)}; expected below {n_experts}")
        for expert, (count, weight) in layer.experts.items():
            selections[row, expert] = count
            weights[row, expert] = weight or 0.0
    tokens = next(iter(layers.values())).tokens
    counts = _Counts(path, tokens, tuple(layers), selections, weights if all(known) else None)
    _check(counts)
    return counts


def _check(counts: _Counts) -> None:
    for layer, top_k, mismatch, row in zip(
        counts.layers, counts.top_k, counts.mismatch, counts.selections, strict=True
    ):
        where = f"{counts.path}: layer {layer}"
        if top_k < 1 or mismatch > _TOLERANCE:
            raise RunError(
                f"{where}: Σ {_COUNT} is {row.sum()}, not a multiple of {_TOTAL} ({counts.tokens}) within 0.1 %; "
                "check whether the counts of several files were added up, or experts are missing"
            )
        if row.max() > counts.tokens:
            raise RunError(f"{where}: expert {row.argmax()} was chosen by {row.max()} of {counts.tokens} tokens")
    if counts.weights is not None and not counts.weights.sum(axis=1).all():
        raise RunError(f"{counts.path}: a layer has no {_WEIGHT} above 0; omit the field if it is unknown")


def _routers(counts: dict[str, _Counts]) -> tuple[RouterSpec, ...]:
    first = next(iter(counts.values()))
    for other in counts.values():
        if (other.layers, other.top_k) != (first.layers, first.top_k):
            raise RunError(
                f"{first.path} and {other.path} differ in layers or experts per token ({len(first.layers)} layers, top "
                f"{first.top_k[0]}, and {len(other.layers)}, top {other.top_k[0]}); import one model at a time"
            )
    # Weights that sum to 1 per token were renormalised over the chosen experts; the sums tell nothing else.
    per_token = [
        np.mean(item.weights.sum(axis=1)) / item.tokens for item in counts.values() if item.weights is not None
    ]
    renormalise = all(abs(total - 1) <= 10 * _TOLERANCE for total in per_token)
    return tuple(
        RouterSpec(layer, first.selections.shape[1], top_k, scoring="softmax", renormalise=renormalise)
        for layer, top_k in zip(first.layers, first.top_k, strict=True)
    )


def _with_weights(counts: dict[str, _Counts]) -> bool:
    """Return whether the files have combine weights; RunError if only some have: such profiles are not comparable."""
    with_weights = {item.weights is not None: item.path for item in counts.values()}
    if len(with_weights) > 1:
        raise RunError(f"{with_weights[True]} has {_WEIGHT}, {with_weights[False]} has none; import them separately")
    return True in with_weights


def _routing(counts: _Counts) -> LanguageRouting:
    weights = counts.selections.astype(np.float64) if counts.weights is None else counts.weights
    return pooled_routing(weights, counts.tokens, counts.selections)


def _notes(language: str, counts: _Counts) -> Iterator[str]:
    if counts.weights is None:
        yield "profiles are selection counts normalised per layer; no combine weights were published"
    else:
        yield "profiles are mean combine weights over the chosen experts, not the softmax over all experts"
    worst = int(counts.mismatch.argmax())
    if counts.mismatch[worst] > 0:
        yield (
            f"{language}: Σ {_COUNT} differs from top_k x {_TOTAL} by up to {counts.mismatch[worst]:.4%} "
            f"(layer {counts.layers[worst]}); counts are kept as published"
        )
