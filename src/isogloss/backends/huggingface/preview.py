"""Previews a checkpoint, and refuses what transformers could not load, before any of its weights is read."""

from __future__ import annotations

from pathlib import Path

from transformers.utils import WEIGHTS_INDEX_NAME, WEIGHTS_NAME

from isogloss.backends.huggingface.discovery import find_routers, model_without_weights
from isogloss.backends.huggingface.quantisation import quantisation_of, quantisation_text, require_loader
from isogloss.backends.preview import Preview
from isogloss.backends.reading import Checkpoint, find_checkpoint, reading
from isogloss.backends.stored_tensors import hash_files, read_places, refuse_quantised
from isogloss.errors import ModelError

__all__ = ["preview_checkpoint"]


def preview_checkpoint(source: str, *, dequantize: bool = False) -> Preview:
    """Read configuration and tokenizer, build the model without weights, and refuse what could not be loaded.

    Args:
        source: hub id, with or without ``@REVISION``, or local folder.
        dequantize: whether quantised weights will be turned into floating point.

    Raises:
        ModelError: the checkpoint cannot be found, its family is not supported, its routers are quantised, a package
            that loads it is not installed, or a folder's weights are absent or damaged.
    """
    with reading(source, expected="give a hub id, a folder with config.json, weights and tokenizer, or 'organism'"):
        place = find_checkpoint(source)
        config, tokenizer = place.config(), place.tokenizer()
        stored = quantisation_of(config)
        if stored:
            require_loader(stored, source, dequantize=dequantize)
        model = model_without_weights(config)
    routers = find_routers(model)
    names = {module: name for name, module in model.named_modules()}
    return Preview(
        place,
        tokenizer,
        routers[0].family.model_type,
        tuple(router.spec for router in routers),
        int(config.get_text_config().vocab_size),
        quantisation_text(stored) if stored else None,
        _examined(place, [f"{names[router.module]}.{router.weight_name}" for router in routers]),
    )


def _examined(place: Checkpoint, weights: list[str]) -> str | None:
    """Refuse a folder of absent or damaged weights, or of quantised routers; hash its files.

    None on the hub, and of pickles, of which nothing is read before they are loaded.
    """
    folder = Path(place.source)
    try:
        places = read_places(folder)
    except ModelError:
        if not folder.is_dir() or any((folder / name).is_file() for name in (WEIGHTS_NAME, WEIGHTS_INDEX_NAME)):
            return None
        raise
    for weight in weights:
        refuse_quantised(places, weight)
    return hash_files(folder)
