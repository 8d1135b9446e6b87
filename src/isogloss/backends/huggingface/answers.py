"""Answers to a batch of prompts, greedy or sampled, such that an item's draw depends on nothing but its own key."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from isogloss.backends.configuration import neutral_settings
from isogloss.backends.huggingface.loading import LoadedModel, computing
from isogloss.backends.joint_texts import encode_start, refuse_placeholders, require_room
from isogloss.backends.model import AnswerOptions, Sampling
from isogloss.backends.token_batches import until_end

__all__ = ["answer_ids", "continue_prompts", "draw", "pad_left"]


def draw(logits: torch.Tensor, numbers: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Draw one token per row by inverting the cumulative distribution of its tokens, the most probable first.

    Args:
        logits: ``[batch, vocabulary]``.
        numbers: ``[batch]`` from 0 up to 1.
        sampling: how.

    Returns:
        ``[batch]`` token ids.
    """
    scores, tokens = (logits.float() / sampling.temperature).sort(dim=-1, descending=True, stable=True)
    if sampling.top_k is not None:
        scores, tokens = scores[:, : sampling.top_k], tokens[:, : sampling.top_k]
    probabilities = scores.double().softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    kept = torch.where(before < sampling.top_p, probabilities, 0.0)
    kept[:, 0] = probabilities[:, 0]
    reached = kept.cumsum(-1)
    goal = numbers.to(reached)[:, None] * reached[:, -1:]
    place = (reached <= goal).sum(-1, keepdim=True).clamp_max(int(tokens.shape[-1]) - 1)
    last = (kept > 0).sum(-1, keepdim=True) - 1  # rounding may not reach past what is kept
    return tokens.gather(-1, torch.minimum(place, last))[:, 0]


class _Draws(LogitsProcessor):
    """Leaves each row only the token that was drawn for it, so that greedy decoding takes the draw."""

    def __init__(self, sampling: Sampling, keys: Sequence[str], max_new_tokens: int, n_given: int) -> None:
        self.sampling, self.n_given = sampling, n_given
        self.numbers = torch.from_numpy(np.stack([sampling.numbers(key, max_new_tokens) for key in keys]))

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return scores that are minus infinity but for the token drawn."""
        numbers = self.numbers[:, input_ids.shape[1] - self.n_given].to(scores.device)
        chosen = draw(scores, numbers, self.sampling)
        return torch.full_like(scores, -torch.inf).scatter(-1, chosen[:, None], 0.0)


class _Stops(StoppingCriteria):
    """Ends an answer once it contains one of some texts."""

    def __init__(self, tokenizer: Any, stop: Sequence[str], n_given: int) -> None:  # noqa: ANN401 - transformers' own
        self.tokenizer, self.stop, self.n_given = tokenizer, stop, n_given
        self.n_last = max(len(text.encode()) for text in stop) + 2  # a token holds a byte at least

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:  # noqa: ANN401, ARG002 - transformers' own
        """Return which answers end."""
        return torch.tensor(
            [self._ended(row) for row in input_ids[:, self.n_given :].tolist()], device=input_ids.device
        )

    def _ended(self, row: list[int]) -> bool:
        """Decode the last tokens, and all where these contain a stop: a part may decode differently."""
        last = self.tokenizer.decode(row[-self.n_last :])
        return any(text in last and text in self.tokenizer.decode(row) for text in self.stop)


@computing
def answer_ids(loaded: LoadedModel, prompts: Sequence[str], options: AnswerOptions) -> list[list[int]]:
    """Continue prompts in one batch, by token ids; see `Model.answer`.

    They are padded on the left; families in which that padding changes answers get them one by one.

    Returns:
        The ids of each answer up to the one that ends it, with it.
    """
    special, answers = options.add_special_tokens, list[list[int]]()
    texts = [encode_start(loaded.tokenizer, prompt, add_special_tokens=special) for prompt in prompts]
    require_room(texts, options.max_new_tokens, limit=loaded.context_length)
    refuse_placeholders(texts, loaded)
    ends, size = loaded.ends, max(1, len(texts)) if loaded.family.left_padding else 1
    for start in range(0, len(texts), size):
        part = slice(start, start + size)
        input_ids, attention_mask = pad_left(loaded, texts[part])
        n_given = input_ids.shape[1]
        draws, stops = LogitsProcessorList(), StoppingCriteriaList()
        if options.sampling:
            sampling, keys = options.sampling
            draws.append(_Draws(sampling, keys[part], options.max_new_tokens, n_given))
        if options.stop:
            stops.append(_Stops(loaded.tokenizer, options.stop, n_given))
        new = _continue_ids(
            loaded,
            input_ids,
            attention_mask,
            max_new_tokens=options.max_new_tokens,
            logits_processor=draws,
            stopping_criteria=stops,
        )
        # What follows the end of an answer is padding, which need not be a special token.
        answers += [row[: len(until_end(row, ends)) + 1] for row in new.tolist()]
    return answers


def _continue_ids(
    loaded: LoadedModel,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    **options: Any,  # noqa: ANN401 - those of generate
) -> torch.Tensor:
    """Continue ids ``[n, length]``, padded on the left, greedily; return ``[n, n_new]``, padded on the right."""
    neutral = neutral_settings(loaded.generation_settings())
    if "output_router_logits" in inspect.signature(loaded.model.forward).parameters:
        # Checkpoints that were trained with it may store True; the loss it adds fails on padded batches.
        neutral["output_router_logits"] = False
    output = loaded.model.generate(
        input_ids=input_ids,
        attention_mask=attention_mask,
        **neutral
        | {
            "do_sample": False,
            "temperature": None,
            "top_p": None,
            "top_k": None,
            "pad_token_id": loaded.tokenizer.pad_token_id or 0,  # any will do under a mask
            **options,
        },
    )
    new: torch.Tensor = output[:, input_ids.shape[1] :]
    return new


def pad_left(loaded: LoadedModel, prompts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and mask ``[n, length]``."""
    length = max(len(prompt) for prompt in prompts)
    pad = loaded.tokenizer.pad_token_id or 0
    rows = [[pad] * (length - len(prompt)) + list(prompt) for prompt in prompts]
    masks = [[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(rows, device=loaded.device), torch.tensor(masks, device=loaded.device)


@computing
def continue_prompts(
    loaded: LoadedModel, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, min_new_tokens: int = 1
) -> list[list[int]]:
    """Continue prompts greedily in one batch, each by at least one token.

    Args:
        loaded: the model; a plan may be active.
        prompts: token ids, sent as they are; one alone for families in which left padding changes answers.
        max_new_tokens: most tokens per continuation.
        min_new_tokens: least tokens per continuation, at least 1: until they are written no token can end it.

    Returns:
        The ids of each continuation up to the token that ends the text, without it.
    """
    ids, mask = pad_left(loaded, prompts)
    new = _continue_ids(loaded, ids, mask, max_new_tokens=max_new_tokens, min_new_tokens=min_new_tokens)
    ends = loaded.ends
    return [until_end(row, ends) for row in new.tolist()]
