"""Tokenises a prompt and its continuation together, and finds where the continuation begins.

They are tokenised as the model would meet them. The continuation begins at the first
token that differs between the prompt alone and the prompt with any of its continuations. Where the joint tokens begin
with the prompt's own, that is the rule of lm-evaluation-harness: the suffix after the prompt's own length. Where a
token reaches across the border (its rule moves trailing spaces for that reason), that token counts, whole, as part of
the continuation, for every continuation of the prompt alike. So no character of a continuation is left out, and
differences between the options of one prompt are exactly those between the likelihoods of the joint texts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import takewhile
from typing import Any, NamedTuple, Protocol

from isogloss.errors import CorpusError, RunError

__all__ = [
    "JointText",
    "Measured",
    "encode_start",
    "encode_texts",
    "refuse_placeholders",
    "require_room",
    "tokenise_pairs",
]


class HoldsPlaceholders(Protocol):
    """What is asked of a model, or of what reads its texts."""

    @property
    def placeholders(self) -> frozenset[int]:
        """Ids of tokens in whose place it reads something else than text."""

    @property
    def tokenizer(self) -> Any:  # noqa: ANN401 - transformers' own
        """Of the model."""


class Measured(NamedTuple):
    """Token ids of one text, and the positions whose predictions are measured: ``start`` up to, without, ``stop``."""

    place: int
    ids: list[int]
    start: int
    stop: int


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

    @property
    def measured(self) -> Measured:
        """The positions that predict the tokens from ``start`` on."""
        return Measured(self.place, self.ids, self.start - 1, len(self.ids) - 1)


def tokenise_pairs(
    tokenizer: Any,  # noqa: ANN401 - transformers' own
    pairs: Sequence[tuple[str, str]],
    *,
    add_special_tokens: bool,
) -> list[JointText]:
    """Encode prompt and continuation together and find where the continuation begins, once for every prompt.

    Args:
        tokenizer: of the model.
        pairs: (prompt, continuation) each. Give all continuations of a prompt in one call, since they decide together
            where continuations begin.
        add_special_tokens: whether the tokenizer adds those that stand before a text; False for prompts that come from
            a chat template. Those that it would add after a text are always left out.

    Returns:
        One per pair, grouped by prompt. After an empty prompt, the first token is measured after the tokenizer's
        beginning of text; a tokenizer without one leaves the first token out.

    Raises:
        CorpusError: a continuation without a token to measure.
    """
    by_prompt: defaultdict[str, list[int]] = defaultdict(list)
    for index, (prompt, _) in enumerate(pairs):
        by_prompt[prompt].append(index)
    texts = []
    for prompt, indices in by_prompt.items():
        joint = [encode_start(tokenizer, prompt, pairs[i][1], add_special_tokens=add_special_tokens) for i in indices]
        alone = encode_start(tokenizer, prompt, "", add_special_tokens=add_special_tokens)
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


def encode_start(
    tokenizer: Any,  # noqa: ANN401 - transformers' own
    prompt: str,
    continuation: str = "",
    *,
    add_special_tokens: bool,
) -> list[int]:
    """Tokenise the start of a text that goes on: what the tokenizer adds before a text is kept, what after it is not.

    Args:
        tokenizer: of the model.
        prompt: what is given; where it is empty, the beginning of text alone.
        continuation: of the prompt, tokenised together with it.
        add_special_tokens: False for prompts that come from a chat template.
    """
    text = prompt + continuation
    bare = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    if not prompt:
        return bare if tokenizer.bos_token_id is None else [tokenizer.bos_token_id, *bare]
    ids = list(tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"])
    n_added = len(ids) - len(bare)
    n_before = next((place for place in range(n_added) if ids[place : place + len(bare)] == bare), n_added)
    return ids[: n_before + len(bare)]


def encode_texts(
    tokenizer: Any,  # noqa: ANN401 - transformers' own
    texts: Sequence[str],
    *,
    add_special_tokens: bool,
) -> list[list[int]]:
    """Tokenise texts that are read as they are; CorpusError where there are none, or one has no token."""
    ids = [list(tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"]) for text in texts]
    if not ids or not all(ids):
        raise CorpusError("a text has no token; give at least one text, and none that is empty")
    return ids


def refuse_placeholders(
    texts: Sequence[Sequence[int]], model: HoldsPlaceholders, names: Sequence[str] | None = None
) -> None:
    """Refuse texts that hold a token in whose place the model reads an image, video or sound.

    Args:
        texts: token ids.
        model: tells which these are.
        names: of the texts.

    Raises:
        CorpusError: names the text and the token.
    """
    placeholders = model.placeholders
    for place, ids in enumerate(texts):
        if held := placeholders.intersection(ids):
            token = model.tokenizer.convert_ids_to_tokens(min(held))
            name = f"item {names[place]}" if names else "a text"
            raise CorpusError(
                f"{name} holds {token!r}, in whose place the model reads an image, video or sound, and there is none; "
                "take it out of the text, or remove the item in all languages"
            )


def require_room(
    texts: Sequence[Sequence[int]], n_new: int, *, limit: int | None, remedy: str = "leave long items out"
) -> None:
    """Refuse texts of token ids after which the model has no room for so many more.

    Args:
        texts: token ids.
        n_new: tokens to come after each.
        limit: most tokens; None for no limit.
        remedy: what to do, with ``{needed}`` for the context that would hold the longest text.

    Raises:
        RunError: the text is longer than the limit leaves.
    """
    longest = max((len(ids) for ids in texts), default=0)
    if limit is not None and longest + n_new > limit:
        raise RunError(
            f"a text of {longest} tokens and {n_new} after it need a context of {longest + n_new}; the model takes "
            f"{limit}: {remedy.format(needed=longest + n_new)}"
        )
