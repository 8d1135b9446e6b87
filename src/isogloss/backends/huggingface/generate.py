"""Greedy answers to prompts and likelihood of texts, in the same batches whatever plan is active."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from isogloss.backends.huggingface.loading import LoadedModel

__all__ = ["bits_per_byte", "generate"]


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
        batch = loaded.tokenizer(
            list(prompts[start : start + batch_size]), return_tensors="pt", padding=True, padding_side="left"
        ).to(loaded.device)
        output = loaded.model.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            max_new_tokens=max_new_tokens,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=loaded.tokenizer.pad_token_id,
        )
        new = output[:, batch["input_ids"].shape[1] :]
        answers += loaded.tokenizer.batch_decode(new, skip_special_tokens=True)
        if progress is not None:
            progress(len(new))
    return answers


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
