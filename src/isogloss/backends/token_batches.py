"""Turns texts into the tokens that a capture counts, in portions that run together; the same for every backend."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from isogloss.arrays import Int64Array
from isogloss.backends.capture_options import CaptureOptions
from isogloss.backends.chat_texts import ReadText, read_chats, read_plain
from isogloss.backends.joint_texts import encode_start, refuse_placeholders
from isogloss.corpora import Corpus, Turns
from isogloss.errors import CorpusError
from isogloss.runs import MOST_UNKNOWN, ROLES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Reader", "Text", "Writer", "counted_ids", "portions", "require_room", "until_end"]


class Writer(Protocol):
    """What a backend does in the generation phase."""

    def __call__(self, prompts: Sequence[Sequence[int]], *, max_new_tokens: int) -> list[list[int]]:
        """Continue prompts greedily, each by at least one token, up to the token that ends the text and without it."""


@dataclass(frozen=True)
class Reader:
    """What decides which tokens of a model's texts are counted.

    Attributes:
        tokenizer: of the model.
        write: continues prompts.
        limit: most tokens of one text and its continuation; None for no limit.
        together: whether prompts of unlike lengths may be continued together without changing answers.
        remedy: what to do about a text beyond the limit.
        placeholders: ids of tokens in whose place the model reads something else than text.
    """

    tokenizer: PreTrainedTokenizerBase
    write: Writer
    limit: int | None
    together: bool = True
    remedy: str = "split or remove the item"
    placeholders: frozenset[int] = frozenset()


class Text(NamedTuple):
    """One text as token ids, what the model wrote after it included; which of them are counted.

    Attributes:
        item: position among the texts.
        ids: all that the model reads.
        start: of what the model wrote, in ``ids``; their number where it wrote nothing.
        counted: positions in ``ids``, ascending.
        sampled: those of them that give the consistency.
        distinct: those of the counted ones whose ids the pivot's texts do not have; None if not asked for.
        unknown: positions of the text's own tokens that are the tokenizer's unknown token.
    """

    item: int
    ids: list[int]
    start: int
    counted: Int64Array
    sampled: Int64Array = np.empty(0, dtype=np.int64)
    distinct: Int64Array | None = None
    unknown: tuple[int, ...] = ()


def portions(
    reader: Reader,
    texts: Sequence[str | Turns],
    item_ids: Sequence[str],
    options: CaptureOptions,
    *,
    pivot_ids: Int64Array | None = None,
) -> Iterator[list[Text]]:
    """Group texts of like length within the budget of tokens, longest first.

    Only tokens that the model reads are counted. What it writes last is not read any more where that is the
    end-of-text token: it is not counted in either token scope. Where the model was stopped by ``new_tokens``, its last
    token is counted, with the routing that it has when the model reads it to go on.

    Args:
        reader: of the model; in the generation phase an active plan also steers what it writes.
        texts: one per item; turns in a chat alone.
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
            text._replace(
                sampled=_sample(text.counted, item_ids[text.item], options), distinct=_distinct(text, pivot_ids)
            )
            for text in portion
        ]


def counted_ids(
    reader: Reader, texts: Sequence[str | Turns], item_ids: Sequence[str], options: CaptureOptions
) -> Int64Array:
    """Return the ids, ascending, that are counted anywhere in these texts.

    In the generation phase the model writes its continuations for this, as in the capture of the same texts.

    Raises:
        CorpusError: as `portions`.
    """
    ids = [np.array(t.ids)[t.counted] for portion in portions(reader, texts, item_ids, options) for t in portion]
    return np.unique(np.concatenate(ids))


def require_room(reader: Reader, corpus: Corpus, options: CaptureOptions) -> dict[str, float]:
    """Refuse a corpus with a text that the model cannot take, or cannot read, before any of it is run.

    Returns:
        Language to the share of its texts' tokens that are the tokenizer's unknown token, from 0 to 1.

    Raises:
        CorpusError: as `portions`, or more than half of a language's tokens are unknown; names the language, its file
            and the item.
    """
    shares = {}
    for language in corpus.languages:
        try:
            texts = corpus.conversations(language) if options.chat else corpus.texts[language]
            shares[language] = _unknown_share(_tokenise(reader, texts, corpus.item_ids, options))
        except CorpusError as error:
            raise CorpusError(f"{corpus.where(language)}: {error}") from error
        if shares[language] > MOST_UNKNOWN:
            raise CorpusError(
                f"{corpus.where(language)}: {100 * shares[language]:.0f} % of the tokens are "
                f"{reader.tokenizer.unk_token}, which the tokenizer writes for what it does not know; expected at most "
                f"{100 * MOST_UNKNOWN:.0f} %, or the routing is that of one token: leave the language out, or capture "
                "a model that can read it"
            )
    return shares


def _unknown_share(texts: Sequence[Text]) -> float:
    unknown = sum(len(text.unknown) for text in texts)
    more = sum(len(np.setdiff1d(text.unknown, text.counted)) for text in texts if text.unknown)
    return unknown / (sum(len(text.counted) for text in texts) + more)


def until_end(ids: Sequence[int], ends: Collection[int]) -> list[int]:
    """Return what stands before the first token that ends a text.

    Example:
        >>> until_end([5, 7, 2, 0, 0], {2})
        [5, 7]
    """
    return list(ids[: next((place for place, token in enumerate(ids) if token in ends), len(ids))])


def _tokenise(
    reader: Reader, texts: Sequence[str | Turns], item_ids: Sequence[str], options: CaptureOptions
) -> list[Text]:
    limit, unk = reader.limit, reader.tokenizer.unk_token_id
    others = ("bos_token_id", "eos_token_id", "pad_token_id", "cls_token_id", "sep_token_id")
    own = unk not in [getattr(reader.tokenizer, name) for name in others]  # else it may mark a beginning or an end
    tokenised = []
    for item, (ids, special, user, assistant) in enumerate(_read(reader, texts, item_ids, options)):
        own_tokens = [p for p in range(len(ids)) if not special[p]]
        counted = {"all": range(len(ids)), "content": own_tokens, "user": user, "assistant": assistant}
        positions = np.array(counted[options.token_scope][: options.first_tokens], dtype=np.int64)
        name = item_ids[item]
        refuse_placeholders([ids], reader, [name])
        if not len(positions):
            where = f" of the {options.token_scope}" if options.token_scope in ROLES else ""
            raise CorpusError(f"item {name} has no token{where} to count; remove the item in all languages")
        if limit is not None and len(ids) + options.written > limit:
            more = f" and {options.written} to be written" if options.written else ""
            raise CorpusError(f"item {name} has {len(ids)} tokens{more}; the model takes {limit}: {reader.remedy}")
        unknown = tuple(p for p, token in enumerate(ids) if token == unk and (own or not special[p]))
        tokenised.append(Text(item, ids, len(ids), positions, unknown=unknown))
    return tokenised


def _read(
    reader: Reader, texts: Sequence[str | Turns], item_ids: Sequence[str], options: CaptureOptions
) -> Iterator[ReadText]:
    """Yield the texts as the model reads them."""
    tokenizer = reader.tokenizer
    if options.chat:
        yield from read_chats(tokenizer, texts, item_ids, to_continue=bool(options.written))
        return
    plain = [text.text if isinstance(text, Turns) else text for text in texts]
    for text, read in zip(plain, read_plain(tokenizer, plain), strict=True):
        # What the tokenizer adds behind a text would end it before the model writes.
        ids = encode_start(tokenizer, text, add_special_tokens=True) if options.written else read.ids
        yield read._replace(ids=ids)


def _continue(reader: Reader, prompts: Sequence[Text], item_ids: Sequence[str], options: CaptureOptions) -> list[Text]:
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
        continued.append(Text(prompt.item, [*prompt.ids, *new], start, counted))
    return continued


def _sample(positions: Int64Array, name: str, options: CaptureOptions) -> Int64Array:
    rng = np.random.default_rng([options.seed, zlib.crc32(name.encode())])
    return np.sort(rng.permutation(positions)[: options.sampled_tokens])


def _distinct(text: Text, pivot_ids: Int64Array | None) -> Int64Array | None:
    if pivot_ids is None:
        return None
    return text.counted[~np.isin(np.array(text.ids)[text.counted], pivot_ids)]
