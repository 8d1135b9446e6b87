"""What a comparison of two versions keeps of each language: the first version's routing, then the measures of texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from isogloss.arrays import FloatArray, IntArray
from isogloss.backends.token_routing import RoutedText
from isogloss.errors import ModelError, RunError
from isogloss.evaluation.versions import MEASURES, Measure, text_difference
from isogloss.files import read_bytes, write_atomically

__all__ = ["read_routed", "read_values", "write_routed", "write_values"]

_BY_TOKEN = ("token_ids", "expert_ids", "likeliest", "next_ids", "next_log_probabilities")
_FEW = 256  # experts that a byte tells apart
_LARGEST = 2**40


def write_routed(folder: Path, language: str, routed: Sequence[RoutedText]) -> None:
    """Write what a version did with the texts of a language: for each token a byte or two for every choice, and 264."""
    arrays = {name: np.concatenate([getattr(text, name) for text in routed]) for name in _BY_TOKEN}
    if arrays["expert_ids"].max() < _FEW:
        arrays["expert_ids"] = arrays["expert_ids"].astype(np.uint8)
    arrays["profiles"] = np.stack([text.profile for text in routed])
    arrays["ends"] = np.cumsum([len(text.token_ids) for text in routed])
    write_atomically(_path(folder, language), save(arrays))


def read_routed(folder: Path, language: str) -> list[RoutedText]:
    """Read what `write_routed` wrote; RunError where the file is damaged."""
    arrays = _read(_path(folder, language), ("profiles", "ends", *_BY_TOKEN))
    starts = [0, *arrays["ends"].tolist()]
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


def read_values(folder: Path, language: str) -> tuple[Mapping[Measure, FloatArray], IntArray]:
    """Read the measures of each text, ``[n_items, n_layers]`` or ``[n_items]``, and ``[n_items]`` numbers of tokens."""
    arrays = _read(_path(folder, language), (*MEASURES, "tokens"))
    return {name: arrays[name] for name in MEASURES}, arrays["tokens"]


def _path(folder: Path, language: str) -> Path:
    return folder / f"{language}.safetensors"


def _read(path: Path, names: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    try:
        arrays: dict[str, npt.NDArray[Any]] = load(read_bytes(path, most=_LARGEST))
        return {name: arrays[name] for name in names}
    except (SafetensorError, KeyError) as error:
        raise RunError(f"{path} is damaged ({error}); delete it, and repeat the command") from error
