"""Log-likelihood of given continuations: what a model thinks of options and reference texts that it does not write.

Prompt and continuation are tokenised together, as the model would meet them. The continuation begins at the first
token that differs between the prompt alone and the prompt with any of its continuations. Where the joint tokens begin
with the prompt's own, that is the rule of lm-evaluation-harness: the suffix after the prompt's own length. Where a
token reaches across the border (its rule moves trailing spaces for that reason), that token counts, whole, as part of
the continuation, for every continuation of the prompt alike. So no character of a continuation is left out, and
differences between the options of one prompt are exactly those between the likelihoods of the joint texts.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import NamedTuple

import torch
from transformers import PreTrainedTokenizerBase

from isogloss.backends.huggingface.loading import LoadedModel
from isogloss.backends.huggingface.steer import mark_generated
from isogloss.errors import CorpusError

__all__ = ["JointText", "Likelihood", "continuation_log_likelihoods", "tokenise_pairs"]

_CHUNK = 256  # positions whose distributions are float32 at the same time


class Likelihood(NamedTuple):
    """How likely one continuation is.

    Attributes:
        nats: natural logarithm of its probability after its prompt, at most 0.
        n_tokens: tokens that the sum runs over.
    """

    nats: float
    n_tokens: int


class JointText(NamedTuple):
    """Tokens of a prompt and its continuation together.

    Attributes:
        place: of the pair among all.
        ids: token ids.
        start: position of the first token that is measured, at least 1: nothing predicts the one before.
    """

    place: int
    ids: list[int]
    start: int


@torch.inference_mode()
def continuation_log_likelihoods(
    loaded: LoadedModel,
    pairs: Sequence[tuple[str, str]],
    *,
    add_special_tokens: bool = True,
    batch_tokens: int = 2048,
) -> list[Likelihood]:
    """Sum the log-probabilities of the tokens of each continuation after its prompt.

    Under a plan with conditions on phases, the tokens of a continuation are of the generation: as if the model had
    written them. Forwards are padded on the right, which reaches no earlier token of a causal model.

    Args:
        loaded: the model; a plan may be active.
        pairs: (prompt, continuation) each. Give all continuations of a prompt in one call, since they decide together
            where continuations begin.
        add_special_tokens: whether the tokenizer adds those that stand before a text; False for prompts that come from
            a chat template. Those that it would add after a text are always left out.
        batch_tokens: tokens per forward, padding included; a longer text runs alone.

    Returns:
        One per pair, in order. After an empty prompt, the first token is measured after the tokenizer's beginning of
        text; a tokenizer without one leaves the first token out, and ``n_tokens`` one smaller.

    Raises:
        CorpusError: a continuation without a token to measure.
    """
    texts = tokenise_pairs(loaded.tokenizer, pairs, add_special_tokens=add_special_tokens)
    found: dict[int, Likelihood] = {}
    for batch in _batches(texts, batch_tokens):
        logits, first = _forward(loaded, batch)
        for row, text in zip(logits, batch, strict=True):
            measured = row[text.start - 1 - first : len(text.ids) - 1 - first]
            targets = torch.tensor(text.ids[text.start :], device=row.device)
            found[text.place] = Likelihood(_sum(measured, targets), len(targets))
    return [found[index] for index in range(len(pairs))]


def tokenise_pairs(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]], *, add_special_tokens: bool
) -> list[JointText]:
    """Encode prompt and continuation together and find where the continuation begins, once for every prompt.

    Args:
        tokenizer: of the model.
        pairs: (prompt, continuation) each; see `continuation_log_likelihoods`.
        add_special_tokens: as there.

    Returns:
        One per pair, grouped by prompt.

    Raises:
        CorpusError: a continuation without a token to measure.
    """
    by_prompt: defaultdict[str, list[int]] = defaultdict(list)
    for index, (prompt, _) in enumerate(pairs):
        by_prompt[prompt].append(index)
    texts = []
    for prompt, indices in by_prompt.items():
        joint = [_encode(tokenizer, prompt, pairs[i][1], add_special_tokens=add_special_tokens) for i in indices]
        alone = _encode(tokenizer, prompt, "", add_special_tokens=add_special_tokens)
        same = (len(set(column)) == 1 for column in zip(alone, *joint, strict=False))
        start = max(1, sum(takewhile(bool, same)))
        texts += [JointText(index, ids, start) for index, ids in zip(indices, joint, strict=True)]
    for text in texts:
        if len(text.ids) <= text.start:
            raise CorpusError(
                f"continuation {pairs[text.place][1]!r} has no token to measure after its prompt; expected at least "
                "one, and two after an empty prompt where the tokenizer has no beginning of text"
            )
    return texts


def _encode(
    tokenizer: PreTrainedTokenizerBase, prompt: str, continuation: str, *, add_special_tokens: bool
) -> list[int]:
    """Tokenise both together: what the tokenizer adds before a text is kept, what it adds after one is not."""
    text = prompt + continuation
    bare = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    if not prompt:
        return bare if tokenizer.bos_token_id is None else [tokenizer.bos_token_id, *bare]
    ids = list(tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"])
    n_added = len(ids) - len(bare)
    n_before = next((place for place in range(n_added) if ids[place : place + len(bare)] == bare), n_added)
    return ids[: n_before + len(bare)]


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
