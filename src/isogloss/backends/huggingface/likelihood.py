"""Log-likelihood of given continuations: what a model thinks of options and reference texts that it does not write.

Tokens, and where a continuation begins, are those of `isogloss.backends.joint_texts`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence

import torch

from isogloss.backends.huggingface.loading import LoadedModel
from isogloss.backends.huggingface.steer import mark_generated
from isogloss.backends.joint_texts import JointText
from isogloss.backends.model import Likelihood

__all__ = ["joint_log_likelihoods"]

_CHUNK = 256  # positions whose distributions are float32 at the same time


@torch.inference_mode()
def joint_log_likelihoods(
    loaded: LoadedModel, texts: Sequence[JointText], *, batch_tokens: int = 2048
) -> list[Likelihood]:
    """Sum the log-probabilities of the tokens of each text from its start on.

    Under a plan with conditions on phases, these tokens are of the generation: as if the model had written them.
    Forwards are padded on the right, which reaches no earlier token of a causal model.

    Args:
        loaded: the model; a plan may be active.
        texts: with the places 0 to n - 1, in any order.
        batch_tokens: tokens per forward, padding included; a longer text runs alone.

    Returns:
        One per text, by place.
    """
    likelihoods: dict[int, Likelihood] = {}
    for batch in _batches(texts, batch_tokens):
        logits, first = _forward(loaded, batch)
        for row, text in zip(logits, batch, strict=True):
            measured = row[text.start - 1 - first : len(text.ids) - 1 - first]
            targets = torch.tensor(text.ids[text.start :], device=row.device)
            greedy = bool((measured.argmax(-1) == targets).all())
            likelihoods[text.place] = Likelihood(_sum(measured, targets), len(targets), greedy)
    return [likelihoods[place] for place in range(len(texts))]


def _batches(texts: Sequence[JointText], batch_tokens: int) -> Iterator[list[JointText]]:
    """Group texts of like length within the budget of tokens, longest first."""
    left = sorted(texts, key=lambda text: (-len(text.ids), text.place))
    while left:
        size = max(1, batch_tokens // len(left[0].ids))
        yield left[:size]
        left = left[size:]


def _forward(loaded: LoadedModel, batch: Sequence[JointText]) -> tuple[torch.Tensor, int]:
    """Return logits ``[n, n_positions, vocabulary]`` from the first position that is needed on, and that position."""
    length = len(batch[0].ids)
    input_ids = torch.full((len(batch), length), loaded.tokenizer.pad_token_id or 0)
    generated = torch.zeros((len(batch), length), dtype=torch.bool)
    for row, text in enumerate(batch):
        input_ids[row, : len(text.ids)] = torch.tensor(text.ids)
        generated[row, text.start :] = True
    first = min(text.start for text in batch) - 1
    # Most families can leave out the head's product, the largest array by far, where nothing is measured.
    partial = "logits_to_keep" in inspect.signature(loaded.model.forward).parameters
    options = {"logits_to_keep": length - first} if partial else {}
    with mark_generated(loaded, generated.to(loaded.device)):
        output = loaded.model(input_ids=input_ids.to(loaded.device), use_cache=False, **options)
    return output.logits if partial else output.logits[:, first:], first


def _sum(logits: torch.Tensor, targets: torch.Tensor) -> float:
    """Sum the log-probabilities of the targets ``[n_tokens]`` under logits ``[n_tokens, vocabulary]``, in float32."""
    total = 0.0
    for scores, expected in zip(logits.split(_CHUNK), targets.split(_CHUNK), strict=True):
        chosen = scores.float().log_softmax(-1).gather(-1, expected[:, None])
        total += chosen.sum(dtype=torch.float64).item()
    return total
