"""Previews a checkpoint, and refuses what transformers could not load, before any of its weights is read."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_INDEX_NAME, WEIGHTS_NAME

from isogloss.backends.huggingface.discovery import find_routers, model_without_weights
from isogloss.backends.huggingface.quantisation import quantisation_of, quantisation_text, require_loader
from isogloss.backends.preview import Preview
from isogloss.backends.reading import Checkpoint, find_checkpoint, reading, require_embedded
from isogloss.backends.stored_tensors import hash_files, hash_pickles, read_places, refuse_quantised
from isogloss.errors import ModelError
from isogloss.files import read_json

__all__ = ["preview_checkpoint"]

_WEIGHTS = ((SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME), (WEIGHTS_NAME, WEIGHTS_INDEX_NAME))
_SUFFIXES = (".safetensors", ".bin")
_EXPECTED = "give a hub id, a folder with config.json, weights and tokenizer, or 'organism'"


def preview_checkpoint(source: str, *, dequantize: bool = False) -> Preview:
    """Read configuration and tokenizer, build the model without weights, and refuse what could not be loaded.

    Args:
        source: hub id, with or without ``@REVISION``, or local folder.
        dequantize: whether quantised weights will be turned into floating point.

    Raises:
        ModelError: the checkpoint cannot be found, its family is not supported, its tokenizer has tokens without an
            embedding, its routers are quantised, a package that loads it is not installed, or its weights are absent
            or, in a folder, damaged. Of weights that are still on the hub, only that there are some is known.
    """
    with reading(source, expected=_EXPECTED):
        place = find_checkpoint(source)
        config, tokenizer = place.config(), place.tokenizer()
        stored = quantisation_of(config)
        if stored is not None:
            require_loader(stored, source, dequantize=dequantize)
        model = model_without_weights(config)
    embeddings: Any = model.get_input_embeddings()
    require_embedded(tokenizer, len(embeddings.weight), source)
    routers = find_routers(model)
    names = {module: name for name, module in model.named_modules()}
    return Preview(
        place,
        tokenizer,
        routers[0].family.model_type,
        tuple(router.spec for router in routers),
        int(config.get_text_config().vocab_size),
        quantisation_text(stored) if stored else None,
        _examined(source, place, [f"{names[router.module]}.{router.weight_name}" for router in routers]),
    )


def _examined(name: str, place: Checkpoint, weights: list[str]) -> str | None:
    """Refuse absent or damaged weights, and quantised routers; hash a folder's files.

    None on the hub, of which only what this machine has kept is read. Of pickles the bytes are hashed, and nothing else
    is read.
    """
    folder = Path(place.source)
    if on_hub := not folder.is_dir():
        with reading(name, expected=_EXPECTED):
            folder = place.folder()
            if not _all_here(folder):
                _require_weights(place)
    if not on_hub and (sha256 := hash_pickles(folder)) is not None:
        return sha256
    try:
        places = read_places(folder)
    except ModelError:
        if on_hub:
            return None
        raise
    for weight in weights:
        refuse_quantised(places, weight)
    return None if on_hub else hash_files(folder)


def _all_here(folder: Path) -> bool:
    """Whether a folder has weights, and every file that an index names."""
    for single, index in _WEIGHTS:
        if (folder / single).is_file():
            return True
        if (folder / index).is_file():
            return all((folder / name).is_file() for name in set(read_json(folder / index)["weight_map"].values()))
    return False


def _require_weights(place: Checkpoint) -> None:
    """Refuse a repository of the hub without weights, by the names of its files; inside `reading`.

    Where the hub cannot be reached, and so cannot give what is not here, its library says so.
    """
    with suppress(HfHubHTTPError):  # of a mirror that lists no files
        names = HfApi().list_repo_files(place.source, revision=place.revision)
        if not any(name.endswith(_SUFFIXES) for name in names):
            raise ModelError(
                f"{place.source!r} holds no weights that transformers reads: none of its {len(names)} files ends in "
                f"{' or '.join(_SUFFIXES)}; expected some: give the repository from which it was converted"
            )
