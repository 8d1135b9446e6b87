"""What a comparison of two versions keeps of each language: the first version's routing, then the measures of texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from isogloss.arrays import FloatArray, IntArray
from isogloss.backends.token_routing import RoutedText
from isogloss.errors import ModelError, RunError
from isogloss.evaluation.versions import LAYER_MEASURES, MEASURES, Measure, text_difference
from isogloss.files import read_bytes, write_atomically

__all__ = ["Sizes", "read_routed", "read_values", "write_routed", "write_values"]

_BY_TOKEN = ("token_ids", "expert_ids", "likeliest", "next_ids", "next_log_probabilities")
_FEW = 256  # experts that a byte tells apart
_LARGEST = 2**40
_KINDS = {"integers": "iu", "floats": "f"}  # of dtypes


class Sizes(NamedTuple):
    """What files of one comparison have in common.

    Attributes:
        n_items: texts in each language.
        n_layers: routed layers.
        n_experts: of each.
        top_k: experts chosen by a token.
        n_vocabulary: token ids that are predicted.
    """

    n_items: int
    n_layers: int
    n_experts: int
    top_k: int
    n_vocabulary: int


def write_routed(folder: Path, language: str, routed: Sequence[RoutedText]) -> None:
    """Write what a version did with the texts of a language: for each token a byte or two for every choice, and 264."""
    arrays = {name: np.concatenate([getattr(text, name) for text in routed]) for name in _BY_TOKEN}
    if arrays["expert_ids"].max() < _FEW:
        arrays["expert_ids"] = arrays["expert_ids"].astype(np.uint8)
    arrays["profiles"] = np.stack([text.profile for text in routed])
    arrays["ends"] = np.cumsum([len(text.token_ids) for text in routed])
    write_atomically(_path(folder, language), save(arrays))


def read_routed(folder: Path, language: str, sizes: Sizes) -> list[RoutedText]:
    """Read what `write_routed` wrote; RunError where the file is damaged, or of other sizes."""
    path = _path(folder, language)
    arrays = _read(path, ("profiles", "ends", *_BY_TOKEN))
    _require(path, "profiles", arrays["profiles"], "floats", (sizes.n_items, sizes.n_layers, sizes.n_experts))
    _require(path, "ends", arrays["ends"], "integers", (sizes.n_items,))
    starts = [0, *arrays["ends"].tolist()]
    if any(stop <= start for start, stop in pairwise(starts)):
        raise _damaged(path, "ends does not rise from text to text")
    n_tokens, n_kept = starts[-1], arrays["next_ids"].shape[-1] if arrays["next_ids"].ndim else 0
    below = {"expert_ids": sizes.n_experts, "next_ids": sizes.n_vocabulary, "likeliest": sizes.n_vocabulary}
    for name in _BY_TOKEN:
        kind = "floats" if name == "next_log_probabilities" else "integers"
        inner = {"expert_ids": (sizes.n_layers, sizes.top_k), "token_ids": (), "likeliest": ()}.get(name, (n_kept,))
        _require(path, name, arrays[name], kind, (n_tokens, *inner), below.get(name))
    return [
        RoutedText(
            item,
            profile=profile,
            **{name: arrays[name][start:stop] for name in _BY_TOKEN},
        )
        for item, (profile, start, stop) in enumerate(zip(arrays["profiles"], starts, starts[1:], strict=False))
    ]


def write_values(folder: Path, language: str, first: Sequence[RoutedText], second: Sequence[RoutedText]) -> None:
    """Compare what two versions did with the texts of a language, and write the measures of each text.

    Raises:
        ModelError: they did not read the same tokens.
    """
    for one, other in zip(first, second, strict=True):
        if not np.array_equal(one.token_ids, other.token_ids):
            raise ModelError(f"the versions read {language}, item {one.item}, as other tokens; expected the same")
    differences = [text_difference(*pair) for pair in zip(first, second, strict=True)]
    arrays: dict[str, npt.NDArray[Any]] = {
        name: np.stack([each[name] for each in differences]).astype(np.float64) for name in MEASURES
    }
    arrays["tokens"] = np.array([len(text.token_ids) for text in first], dtype=np.int64)
    write_atomically(_path(folder, language), save(arrays))


def read_values(folder: Path, language: str, sizes: Sizes) -> tuple[Mapping[Measure, FloatArray], IntArray]:
    """Read the measures of each text, ``[n_items, n_layers]`` or ``[n_items]``, and ``[n_items]`` numbers of tokens.

    Raises:
        RunError: the file is damaged, or of other sizes.
    """
    path = _path(folder, language)
    arrays = _read(path, (*MEASURES, "tokens"))
    for name in MEASURES:
        shape = (sizes.n_items, sizes.n_layers) if name in LAYER_MEASURES else (sizes.n_items,)
        _require(path, name, arrays[name], "floats", shape)
    _require(path, "tokens", arrays["tokens"], "integers", (sizes.n_items,))
    return {name: arrays[name] for name in MEASURES}, arrays["tokens"]


def _path(folder: Path, language: str) -> Path:
    return folder / f"{language}.safetensors"


def _read(path: Path, names: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    try:
        arrays: dict[str, npt.NDArray[Any]] = load(read_bytes(path, most=_LARGEST))
        return {name: arrays[name] for name in names}
    except (SafetensorError, KeyError) as error:
        raise _damaged(path, str(error)) from error


def _require(
    path: Path, name: str, array: npt.NDArray[Any], kind: str, shape: tuple[int, ...], below: int | None = None
) -> None:
    """Refuse an array of another kind or shape, with values that are not finite, or integers out of their range."""
    if array.dtype.kind not in _KINDS[kind] or array.shape != shape:
        raise _damaged(path, f"{name} is {array.dtype} {array.shape}; expected {kind} {shape}")
    if not np.isfinite(array).all():
        raise _damaged(path, f"{name} holds a value that is not finite")
    if kind == "integers" and array.size and (array.min() < 0 or (below is not None and array.max() >= below)):
        raise _damaged(path, f"{name} holds a number out of its range")


def _damaged(path: Path, why: str) -> RunError:
    return RunError(f"{path} is damaged ({why}); delete it, and repeat the command")
