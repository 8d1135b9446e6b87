"""What a checkpoint's files say of a model before any of its weights is read."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from isogloss.backends.configuration import tokenizer_sha256
from isogloss.backends.reading import Checkpoint
from isogloss.backends.stored_tensors import stored_bytes
from isogloss.errors import ModelError
from isogloss.routing import RouterSpec

__all__ = ["Preview"]


class Preview(NamedTuple):
    """A checkpoint that is known to be supported, and to have what loads it.

    Attributes:
        place: where it is read from.
        tokenizer: transformers' own.
        model_type: of the text configuration.
        routers: how each routed layer chooses, by layer.
        n_vocabulary: token ids that it predicts.
        quantisation: method and bits, as the configuration states them; None where it is not quantised.
        sha256: hash of values sampled from its files, or of all bytes of pickles; None on the hub, where ``place``
            has a commit.
    """

    place: Checkpoint
    tokenizer: PreTrainedTokenizerBase
    model_type: str
    routers: tuple[RouterSpec, ...]
    n_vocabulary: int
    quantisation: str | None
    sha256: str | None

    @property
    def tokenizer_sha256(self) -> str:
        """Hash of what the tokenizer does to a text."""
        return tokenizer_sha256(self.tokenizer)

    def stored_bytes(self) -> Mapping[tuple[str, str], int]:
        """Count the bytes of its files by part and dtype, once they are here; empty where they are no safetensors."""
        with suppress(ModelError, OSError):
            return stored_bytes(self.place.folder())
        return {}
