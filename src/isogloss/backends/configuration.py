"""What a checkpoint's configuration files say: revision, hashes, and how the model writes and ends."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from transformers import GenerationConfig, PreTrainedConfig

__all__ = [
    "config_sha256",
    "context_length",
    "end_tokens",
    "generation_settings",
    "lasting_generation_settings",
    "revision_of",
    "tokenizer_sha256",
]

# Of a configuration, what depends on where and how it was loaded and not on the model.
_VOLATILE = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures")
# Of generation settings, what every call sets anew.
_SET_BY_CALLS = ("transformers_version", "_from_model_config", "max_length", "max_new_tokens", "do_sample")


def config_sha256(config: PreTrainedConfig) -> str:
    """Hash a configuration, apart from what depends on where and how it was loaded."""
    fields = {key: value for key, value in config.to_dict().items() if key not in _VOLATILE}
    return hashlib.sha256(json.dumps(fields, sort_keys=True, default=str).encode()).hexdigest()


def context_length(config: PreTrainedConfig) -> int | None:
    """Return the most tokens of a text that a configuration names; None where it names none."""
    text = getattr(config, "text_config", None) or config
    lengths = (getattr(text, name, None) for name in ("n_positions", "max_position_embeddings", "n_ctx"))
    return next((int(length) for length in lengths if length is not None), None)


def revision_of(config: PreTrainedConfig) -> str | None:
    """Return the hub commit, where the checkpoint came from the hub."""
    return getattr(config, "_commit_hash", None)


def tokenizer_sha256(tokenizer: Any) -> str:  # noqa: ANN401 - transformers' own
    """Hash what a tokenizer does to a text, apart from padding and truncation, which each call sets."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    state = tokenizer.get_vocab() if fast is None else json.loads(fast.to_str())
    state = {key: value for key, value in state.items() if key not in ("padding", "truncation")}
    special = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id]
    return hashlib.sha256(json.dumps([state, special], sort_keys=True).encode()).hexdigest()


def generation_settings(config: GenerationConfig | None) -> dict[str, Any]:
    """Return what a checkpoint says about generation where it differs from the defaults of transformers."""
    return {} if config is None else dict(config.to_diff_dict())


def lasting_generation_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `generation_settings` decide, apart from what every call sets anew."""
    return {key: value for key, value in settings.items() if key not in _SET_BY_CALLS}


def end_tokens(settings: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the ids of the tokens that end a text, as `generation_settings` name them."""
    ends: int | list[int] | None = settings.get("eos_token_id")
    return () if ends is None else (ends,) if isinstance(ends, int) else tuple(ends)
