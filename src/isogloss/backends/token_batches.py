"""Turns texts into the tokens that a capture counts, in portions that run together; the same for every backend."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from isogloss.backends.model import CaptureOptions
from isogloss.errors import CorpusError

__all__ = ["Reader", "Text", "Writer", "counted_ids", "portions", "until_end"]

Int64 = npt.NDArray[np.int64]


class Writer(Protocol):
    """What a backend does in the generation phase."""

    def __call__(self, prompts: Sequence[Sequence[int]], *, max_new_tokens: int) -> list[list[int]]:
        """Continue prompts greedily, each by at least one token, up to the token that ends the text and without it."""


@dataclass(frozen=True)
class Reader:
    """What a backend must say about a model, to tell which tokens are counted.

    Attributes:
        tokenizer: of the model.
        write: continues prompts.
        limit: most tokens of one text and its continuation; None for no limit.
        together: whether prompts of unlike lengths may be continued together without changing answers.
        remedy: what to do about a text beyond the limit.
    """

    tokenizer: PreTrainedTokenizerBase
    write: Writer
    limit: int | None
    together: bool = True
    remedy: str = "split or remove the item"


class Text(NamedTuple):
    """One text as token ids, what the model wrote after it included; which of them are counted.

    Attributes:
        item: position among the texts.
        ids: all that the model reads.
        start: of what the model wrote, in ``ids``; their number where it wrote nothing.
        counted: positions in ``ids``, ascending.
        sampled: those of them that give the consistency.
        distinct: those of the counted ones whose ids the pivot's texts do not have; None if not asked for.
    """

    item: int
    ids: list[int]
    start: int
    counted: Int64
    sampled: Int64
    distinct: Int64 | None


def portions(
    reader: Reader,
    texts: Sequence[str],
    item_ids: Sequence[str],
    options: CaptureOptions,
    *,
    pivot_ids: Int64 | None = None,
) -> Iterator[list[Text]]:
    """Group texts of like length within the budget of tokens, longest first.

    Only tokens that the model reads are counted. What it writes last is not read any more where that is the
    end-of-text token: it is not counted in either token scope. Where the model was stopped by ``new_tokens``, its last
    token is counted, with the routing that it has when the model reads it to go on.

    Args:
        reader: of the model; in the generation phase an active plan also steers what it writes.
        texts: one per item.
        item_ids: seed the sample for consistency, and name the item in errors.
        options: what is counted.
        pivot_ids: ids that no distinct token has; None where distinct tokens are not asked for.

    Raises:
        CorpusError: a text has no token to count, or more tokens than the model takes.
    """
    left = sorted(_tokenise(reader, texts, item_ids, options), key=lambda prompt: (-len(prompt.ids), prompt.item))
    together = reader.together or not options.written
    while left:
        size = max(1, options.batch_tokens // (len(left[0].ids) + options.written)) if together else 1
        portion, left = left[:size], left[size:]
        if options.written:
            portion = _continue(reader, portion, item_ids, options)
        yield [
            Text(*text, _sample(text.counted, item_ids[text.item], options), _distinct(text, pivot_ids))
            for text in portion
        ]


def counted_ids(reader: Reader, texts: Sequence[str], item_ids: Sequence[str], options: CaptureOptions) -> Int64:
    """Return the ids, ascending, that are counted anywhere in these texts.

    In the generation phase the model writes its continuations for this, as in the capture of the same texts.

    Raises:
        CorpusError: as `portions`.
    """
    found = [np.array(t.ids)[t.counted] for portion in portions(reader, texts, item_ids, options) for t in portion]
    return np.unique(np.concatenate(found))


def until_end(ids: Sequence[int], ends: set[int]) -> list[int]:
    """Return what stands before the first token that ends a text.

    Example:
        >>> until_end([5, 7, 2, 0, 0], {2})
        [5, 7]
    """
    return list(ids[: next((place for place, token in enumerate(ids) if token in ends), len(ids))])


class _Tokens(NamedTuple):
    """A text, or a prompt and its continuation, before the sample for consistency is drawn."""

    item: int
    ids: list[int]
    start: int
    counted: Int64


def _tokenise(reader: Reader, texts: Sequence[str], item_ids: Sequence[str], options: CaptureOptions) -> list[_Tokens]:
    encoded = reader.tokenizer(list(texts), return_special_tokens_mask=True)
    everything, limit = options.token_scope == "all", reader.limit
    tokenised = []
    for item, (ids, special) in enumerate(zip(encoded["input_ids"], encoded["special_tokens_mask"], strict=True)):
        positions = np.array([p for p in range(len(ids)) if everything or not special[p]], dtype=np.int64)
        name = item_ids[item]
        if not len(positions):
            raise CorpusError(f"item {name} has no token to count; remove the item in all languages")
        if limit is not None and len(ids) + options.written > limit:
            more = f" and {options.written} to be written" if options.written else ""
            raise CorpusError(f"item {name} has {len(ids)} tokens{more}; the model takes {limit}: {reader.remedy}")
        tokenised.append(_Tokens(item, ids, len(ids), positions))
    return tokenised


def _continue(
    reader: Reader, prompts: Sequence[_Tokens], item_ids: Sequence[str], options: CaptureOptions
) -> list[_Tokens]:
    """Append what the model writes; only that is counted."""
    left_out = set() if options.token_scope == "all" else set(reader.tokenizer.all_special_ids)
    continued = []
    written = reader.write([prompt.ids for prompt in prompts], max_new_tokens=options.new_tokens)
    for prompt, new in zip(prompts, written, strict=True):
        start = len(prompt.ids)
        counted = np.array([start + p for p, token in enumerate(new) if token not in left_out], dtype=np.int64)
        if not len(counted):
            raise CorpusError(
                f"after item {item_ids[prompt.item]} the model writes only special tokens, so none is counted; count "
                "them with --tokens all, or remove the item in all languages"
            )
        continued.append(_Tokens(prompt.item, [*prompt.ids, *new], start, counted))
    return continued


def _sample(positions: Int64, name: str, options: CaptureOptions) -> Int64:
    rng = np.random.default_rng([options.seed, zlib.crc32(name.encode())])
    return np.sort(rng.permutation(positions)[: options.sampled_tokens])


def _distinct(text: _Tokens, pivot_ids: Int64 | None) -> Int64 | None:
    if pivot_ids is None:
        return None
    return text.counted[~np.isin(np.array(text.ids)[text.counted], pivot_ids)]
