"""Reads texts for the forwards of transformers: padded batches of what `isogloss.backends.token_batches` counts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from isogloss.backends.huggingface.answers import continue_prompts
from isogloss.backends.huggingface.loading import LoadedModel
from isogloss.backends.model import CaptureOptions
from isogloss.backends.token_batches import Reader, Text

__all__ = ["Batch", "make_batch", "reader_of"]


class Batch(NamedTuple):
    """Texts that share a forward, padded on the right.

    Attributes:
        input_ids: ``[n, length]`` int64.
        generated: mask ``[n, length]`` bool, True from the first token on that the model wrote.
        counted: 0/1 mask ``[n, length]`` float32.
        distinct: the same for those counted tokens whose ids the pivot's text does not have; None if not asked for.
        sampled: positions ``[n, sample]`` int64, of which the first ``n_sampled`` hold.
        n_sampled: ``[n]`` int64.
    """

    input_ids: torch.Tensor
    generated: torch.Tensor
    counted: torch.Tensor
    distinct: torch.Tensor | None
    sampled: torch.Tensor
    n_sampled: torch.Tensor


def reader_of(loaded: LoadedModel) -> Reader:
    """Say how texts are read, and how prompts are continued."""
    return Reader(
        loaded.tokenizer,
        write=partial(continue_prompts, loaded),
        limit=getattr(loaded.model.config, "max_position_embeddings", None),
        together=loaded.family.left_padding,
    )


def make_batch(loaded: LoadedModel, texts: Sequence[Text], options: CaptureOptions) -> Batch:
    """Pad texts to one length and bring them to the model.

    Args:
        loaded: the model.
        texts: a portion.
        options: of the capture.
    """
    shape = (len(texts), max(len(text.ids) for text in texts))
    input_ids = np.full(shape, loaded.tokenizer.pad_token_id or 0, dtype=np.int64)
    counted, distinct = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.float32)
    generated = np.zeros(shape, dtype=np.bool_)
    sampled = np.zeros((len(texts), options.sampled_tokens), dtype=np.int64)
    n_sampled = np.array([len(text.sampled) for text in texts])
    for row, text in enumerate(texts):
        input_ids[row, : len(text.ids)] = text.ids
        generated[row, text.start :] = text.start < len(text.ids)
        counted[row, text.counted] = 1
        if text.distinct is not None:
            distinct[row, text.distinct] = 1
        sampled[row, : len(text.sampled)] = text.sampled
    ids, wrote, mask, apart, where, n = (
        torch.from_numpy(array).to(loaded.device)
        for array in (input_ids, generated, counted, distinct, sampled, n_sampled)
    )
    return Batch(ids, wrote, mask, None if texts[0].distinct is None else apart, where, n)
