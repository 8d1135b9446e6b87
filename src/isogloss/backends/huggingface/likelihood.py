"""Log-likelihood of given continuations, such as the options of a question, under a model in transformers.

Tokens, and where a continuation begins, are those of `isogloss.backends.joint_texts`.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch

from isogloss.backends.huggingface.loading import LoadedModel, computing
from isogloss.backends.huggingface.padded_batches import after_start, by_length, pad
from isogloss.backends.huggingface.steer import mark_generated
from isogloss.backends.joint_texts import JointText, Measured, refuse_placeholders, require_room
from isogloss.backends.model import Likelihood

__all__ = ["measure_likelihoods", "next_token_logits"]

_CHUNK = 256  # positions whose distributions are float32 at the same time


@computing
def measure_likelihoods(
    loaded: LoadedModel, texts: Sequence[JointText], *, batch_tokens: int = 2048
) -> list[Likelihood]:
    """Measure the tokens of each text from its start on; see `Model.joint_log_likelihoods`.

    Under a plan with conditions on phases, these tokens are of the generation: as if the model had written them.

    Args:
        loaded: the model; a plan may be active.
        texts: with the places 0 to n - 1, in any order.
        batch_tokens: tokens per forward, padding included; a longer text runs alone.
    """
    require_room([text.ids for text in texts], 0, limit=loaded.context_length)
    refuse_placeholders([text.ids for text in texts], loaded)
    likelihoods: dict[int, Likelihood] = {}
    for batch in by_length([text.measured for text in texts], batch_tokens):
        logits, first = next_token_logits(loaded, batch)
        for row, text in zip(logits, batch, strict=True):
            scores = row[text.start - first : text.stop - first]
            targets = torch.tensor(text.ids[text.start + 1 :], device=row.device)
            greedy = bool((scores.argmax(-1) == targets).all())
            likelihoods[text.place] = Likelihood(_sum(scores, targets), len(targets), greedy)
    return [likelihoods[place] for place in range(len(texts))]


def next_token_logits(loaded: LoadedModel, batch: Sequence[Measured]) -> tuple[torch.Tensor, int]:
    """Return logits ``[n, n_positions, vocabulary]`` from the first position that is needed on, and that position."""
    input_ids, first = pad(loaded, batch), min(text.start for text in batch)
    # Most families can leave out the head's product, the largest array by far, where nothing is measured.
    partial = "logits_to_keep" in inspect.signature(loaded.model.forward).parameters
    options = {"logits_to_keep": input_ids.shape[1] - first} if partial else {}
    with mark_generated(loaded, after_start(batch, input_ids)):
        output = loaded.model(input_ids=input_ids, use_cache=False, **options)
    return output.logits if partial else output.logits[:, first:], first


def _sum(logits: torch.Tensor, targets: torch.Tensor) -> float:
    """Sum the log-probabilities of the targets ``[n_tokens]`` under logits ``[n_tokens, vocabulary]``, in float32."""
    total = 0.0
    for scores, expected in zip(logits.split(_CHUNK), targets.split(_CHUNK), strict=True):
        chosen = scores.float().log_softmax(-1).gather(-1, expected[:, None])
        total += chosen.sum(dtype=torch.float64).item()
    return total
