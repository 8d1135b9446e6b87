"""Greedy answers to prompts and likelihood of texts, in the same batches whatever plan is active."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from isogloss.backends.huggingface.loading import LoadedModel
from isogloss.backends.huggingface.sampling import answer_batch, continue_ids
from isogloss.backends.token_batches import until_end

__all__ = ["bits_per_byte", "continue_prompts", "generate"]


@torch.inference_mode()
def generate(
    loaded: LoadedModel,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    batch_size: int = 64,
    progress: Callable[[int], None] | None = None,
) -> list[str]:
    """Continue every prompt greedily until the model ends it.

    Args:
        loaded: the model; a plan may be active.
        prompts: sent as they are, in the order given, so that batches are the same in every arm of a comparison.
        max_new_tokens: most tokens per answer.
        batch_size: prompts per forward, padded on the left; 1 for families in which that padding changes answers.
        progress: told the number of prompts finished by each batch.

    Returns:
        The continuations, without the prompt and special tokens.
    """
    answers: list[str] = []
    batch_size = batch_size if loaded.family.left_padding else 1
    for start in range(0, len(prompts), batch_size):
        batch = prompts[start : start + batch_size]
        answers += answer_batch(loaded, batch, max_new_tokens=max_new_tokens)
        if progress is not None:
            progress(len(batch))
    return answers


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
    new = continue_ids(loaded, input_ids, attention_mask, max_new_tokens=max_new_tokens, min_new_tokens=1)
    end: int | list[int] | None = loaded.model.generation_config.eos_token_id
    ends = set() if end is None else {end} if isinstance(end, int) else set(end)
    return [until_end(row, ends) for row in new.tolist()]


@torch.inference_mode()
def bits_per_byte(loaded: LoadedModel, texts: Sequence[str]) -> float:
    """Mean code length of texts: their negative log-likelihood in bits over their UTF-8 bytes.

    Comparable between languages, whatever the tokenizer makes of them.

    Args:
        loaded: the model; a plan may be active.
        texts: each scored alone, without an end-of-text token.
    """
    nats = 0.0
    for text in texts:
        ids = loaded.tokenizer(text, return_tensors="pt")["input_ids"].to(loaded.device)
        logits = loaded.model(input_ids=ids, use_cache=False).logits[0, :-1].float()
        nats += torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
    return nats / math.log(2) / sum(len(text.encode()) for text in texts)
