"""What a checkpoint's files define besides the weights: its tokenizer, and how it generates."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from transformers import GenerationConfig

__all__ = [
    "applied_settings",
    "end_tokens",
    "generation_settings",
    "neutral_settings",
    "placeholders",
    "set_aside",
    "tokenizer_sha256",
]

_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
# Of generation settings, what every call sets anew.
_SET_BY_CALLS = ("transformers_version", "_from_model_config", "max_length", "max_new_tokens", "do_sample")

# By these names configurations and tokenizers call the tokens in whose place images, videos and sound are read.
_PLACEHOLDER = re.compile(r"(image|video|audio)_token_(id|index)")
_PLACEHOLDERS = ("image_token_id", "video_token_id", "audio_token_id")


def tokenizer_sha256(tokenizer: Any) -> str:  # noqa: ANN401 - transformers' own
    """Hash what a tokenizer does to a text, apart from padding and truncation, which each call sets."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    state = tokenizer.get_vocab() if fast is None else json.loads(fast.to_str())
    state = {key: value for key, value in state.items() if key not in ("padding", "truncation")}
    special = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id]
    return hashlib.sha256(json.dumps([state, special], sort_keys=True).encode()).hexdigest()


def generation_settings(config: GenerationConfig | None) -> dict[str, Any]:
    """Return a checkpoint's settings for generation that differ from the defaults of transformers."""
    return {} if config is None else dict(config.to_diff_dict())


def applied_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of `generation_settings` answers follow: the tokens that begin and end texts, and nothing else.

    A greedy answer is the most probable token each time, and a drawn one follows the temperature that was asked for. A
    checkpoint's penalties, beams or forbidden n-grams would change both, and differently from engine to engine.
    """
    return {key: value for key, value in settings.items() if key in _TOKENS}


def set_aside(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of `generation_settings` answers do not follow, apart from what changes nothing or each call sets."""
    left = {key: value for key, value in settings.items() if key not in (*_TOKENS, *_SET_BY_CALLS)}
    neutral = _neutral()
    return {key: value for key, value in left.items() if value != (neutral.get(key) or False)}


def neutral_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return, for every setting of `set_aside`, the value that changes no token, as an argument of ``generate``.

    They must be given: ``generate`` fills what is left out from the checkpoint's own configuration.
    """
    neutral = _neutral()
    return {name: neutral[name] for name in set_aside(settings) if name in neutral}


def _neutral() -> dict[str, Any]:
    defaults = GenerationConfig._get_default_generation_params()  # noqa: SLF001 - its only list of defaults
    return {**dict.fromkeys(GenerationConfig().to_dict()), **defaults}


def placeholders(config: Any, tokenizer: Any) -> frozenset[int]:  # noqa: ANN401 - transformers' own
    """Return the ids of the tokens in whose place a multimodal model reads something else than text."""
    own = [value for name, value in config.to_dict().items() if _PLACEHOLDER.fullmatch(name)]
    own += [getattr(tokenizer, name, None) for name in _PLACEHOLDERS]
    return frozenset(value for value in own if isinstance(value, int))


def end_tokens(settings: Mapping[str, Any]) -> frozenset[int]:
    """Return the ids of the tokens that end a text, as `generation_settings` name them."""
    ends: int | list[int] | None = settings.get("eos_token_id")
    return frozenset(() if ends is None else (ends,) if isinstance(ends, int) else ends)
