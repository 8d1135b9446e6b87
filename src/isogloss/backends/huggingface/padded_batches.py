"""Padded batches for the forwards of transformers, and how texts are read for a capture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from isogloss.backends.capture_options import CaptureOptions
from isogloss.backends.huggingface.answers import continue_prompts
from isogloss.backends.huggingface.loading import LoadedModel
from isogloss.backends.joint_texts import Measured
from isogloss.backends.token_batches import Reader, Text

__all__ = ["Batch", "after_start", "by_length", "make_batch", "pad", "reader_of"]


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
    """Return how texts are read, and how prompts are continued."""
    return Reader(
        loaded.tokenizer,
        write=partial(continue_prompts, loaded),
        limit=loaded.context_length,
        together=loaded.family.left_padding,
        placeholders=loaded.placeholders,
    )


def make_batch(loaded: LoadedModel, texts: Sequence[Text], options: CaptureOptions) -> Batch:
    """Pad a portion of texts to one length and bring it to the model's device."""
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


def by_length(texts: Sequence[Measured], batch_tokens: int) -> Iterator[list[Measured]]:
    """Group texts of like length within the budget of tokens, longest first."""
    left = sorted(texts, key=lambda text: (-len(text.ids), text.place))
    while left:
        size = max(1, batch_tokens // len(left[0].ids))
        yield left[:size]
        left = left[size:]


def pad(loaded: LoadedModel, batch: Sequence[Measured]) -> torch.Tensor:
    """Return ``[n, length]`` token ids, padded on the right, where padding reaches no earlier token."""
    input_ids = torch.full((len(batch), len(batch[0].ids)), loaded.tokenizer.pad_token_id or 0)
    for row, text in enumerate(batch):
        input_ids[row, : len(text.ids)] = torch.tensor(text.ids)
    return input_ids.to(loaded.device)


def after_start(batch: Sequence[Measured], input_ids: torch.Tensor) -> torch.Tensor:
    """Return the mask ``[n, length]`` of the tokens after each text's first measured position."""
    starts = torch.tensor([text.start for text in batch], device=input_ids.device)
    return torch.arange(input_ids.shape[1], device=input_ids.device) > starts[:, None]
