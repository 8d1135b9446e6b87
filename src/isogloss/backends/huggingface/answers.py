"""Answers to a batch of prompts, greedy or sampled, such that an item's draw depends on nothing but its own key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from isogloss.backends.configuration import end_tokens, generation_settings
from isogloss.backends.huggingface.loading import LoadedModel
from isogloss.backends.model import Sampling
from isogloss.backends.token_batches import until_end

__all__ = ["answer_batch", "continue_prompts", "draw"]


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
    """Leaves each row only the token that was drawn for it, so that the greedy choice is the draw."""

    def __init__(self, sampling: Sampling, keys: Sequence[str], *, max_new_tokens: int, n_given: int) -> None:
        self.sampling, self.n_given = sampling, n_given
        self.numbers = torch.from_numpy(np.stack([sampling.numbers(key, max_new_tokens) for key in keys]))

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return scores that are minus infinity but for the token drawn."""
        numbers = self.numbers[:, input_ids.shape[1] - self.n_given].to(scores.device)
        chosen = draw(scores, numbers, self.sampling)
        return torch.full_like(scores, -torch.inf).scatter(-1, chosen[:, None], 0.0)


class _Stops(StoppingCriteria):
    """Ends an answer once one of some texts stands in it."""

    def __init__(self, tokenizer: Any, stop: Sequence[str], *, n_given: int) -> None:  # noqa: ANN401 - transformers' own
        self.tokenizer, self.stop, self.n_given = tokenizer, stop, n_given
        self.n_last = max(len(text.encode()) for text in stop) + 2  # a token holds a byte at least

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:  # noqa: ANN401, ARG002 - transformers' own
        """Return which answers end."""
        return torch.tensor([self._ended(row) for row in input_ids[:, self.n_given :]], device=input_ids.device)

    def _ended(self, row: torch.Tensor) -> bool:
        """Look at the last tokens, and at all where these seem to hold a stop: a part may decode otherwise."""
        last = self.tokenizer.decode(row[-self.n_last :])
        return any(text in last and text in self.tokenizer.decode(row) for text in self.stop)


@torch.inference_mode()
def answer_batch(
    loaded: LoadedModel,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    add_special_tokens: bool = True,
    sampling: tuple[Sampling, Sequence[str]] | None = None,
    stop: Sequence[str] = (),
) -> list[str]:
    """Continue all prompts in one forward per token.

    Args:
        loaded: the model; a plan may be active.
        prompts: padded on the left; families in which that padding changes answers get them one by one.
        max_new_tokens: most tokens per answer.
        add_special_tokens: False for prompts that come from a chat template.
        sampling: how tokens are drawn, and one key per prompt; None for greedy answers.
        stop: texts after which an answer may end; they are not cut off, and special tokens count as their text.

    Returns:
        The continuations, without the prompt and special tokens.
    """
    if not loaded.family.left_padding and len(prompts) > 1:
        answers = []
        for index, prompt in enumerate(prompts):
            own = None if sampling is None else (sampling[0], [sampling[1][index]])
            answers += answer_batch(
                loaded,
                [prompt],
                max_new_tokens=max_new_tokens,
                add_special_tokens=add_special_tokens,
                sampling=own,
                stop=stop,
            )
        return answers
    batch = loaded.tokenizer(
        list(prompts), return_tensors="pt", padding=True, padding_side="left", add_special_tokens=add_special_tokens
    ).to(loaded.device)
    n_given = batch["input_ids"].shape[1]
    draws = []
    if sampling is not None:
        draws = [_Draws(*sampling, max_new_tokens=max_new_tokens, n_given=n_given)]
    stop = [text for text in stop if text]
    stops = [_Stops(loaded.tokenizer, stop, n_given=n_given)] if stop else []
    new = _continue_ids(
        loaded,
        batch["input_ids"],
        batch["attention_mask"],
        max_new_tokens=max_new_tokens,
        logits_processor=LogitsProcessorList(draws),
        stopping_criteria=StoppingCriteriaList(stops),
    )
    return list(loaded.tokenizer.batch_decode(new, skip_special_tokens=True))


def _continue_ids(
    loaded: LoadedModel,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    **options: Any,  # noqa: ANN401 - those of generate
) -> torch.Tensor:
    """Continue token ids by the likeliest token each time.

    Args:
        loaded: the model; a plan may be active.
        input_ids: ``[n, length]``, padded on the left.
        attention_mask: the same shape, 0 at the padding.
        options: of the model's own ``generate``, ``max_new_tokens`` at least.

    Returns:
        The new tokens ``[n, n_new]``, padded after the end of each text.
    """
    output = loaded.model.generate(
        input_ids=input_ids,
        attention_mask=attention_mask,
        do_sample=False,
        temperature=None,
        top_p=None,
        top_k=None,
        pad_token_id=loaded.tokenizer.pad_token_id,
        **options,
    )
    new: torch.Tensor = output[:, input_ids.shape[1] :]
    return new


@torch.inference_mode()
def continue_prompts(loaded: LoadedModel, prompts: Sequence[Sequence[int]], *, max_new_tokens: int) -> list[list[int]]:
    """Continue prompts greedily in one batch, each by at least one token.

    Args:
        loaded: the model; a plan may be active.
        prompts: token ids, sent as they are; one alone for families in which left padding changes answers.
        max_new_tokens: most tokens per continuation.

    Returns:
        The ids of each continuation up to the token that ends the text, without it. That token is never the first:
        until one other is written it cannot be chosen.
    """
    length = max(len(prompt) for prompt in prompts)
    pad = loaded.tokenizer.pad_token_id or 0
    rows = [[pad] * (length - len(prompt)) + list(prompt) for prompt in prompts]
    masks = [[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    input_ids, attention_mask = (torch.tensor(part, device=loaded.device) for part in (rows, masks))
    new = _continue_ids(loaded, input_ids, attention_mask, max_new_tokens=max_new_tokens, min_new_tokens=1)
    ends = set(end_tokens(generation_settings(loaded.model.generation_config)))
    return [until_end(row, ends) for row in new.tolist()]
