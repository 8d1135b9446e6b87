"""Writes conversations through a tokenizer's chat template, and finds each token's role in them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

from isogloss.backends.chat_template import TemplateDate, fill_template, template_sha256
from isogloss.corpora import Turns
from isogloss.errors import CorpusError, ModelError

__all__ = ["CAPTURE_DATE", "ReadText", "read_chats", "read_plain"]

CAPTURE_DATE = "2026-01-01"
"""What templates that write the date get in every capture, so that Runs of other days and machines agree."""

_MARKS = ("isogloss-user-text", "isogloss-assistant-text")
_OWN_MASK = re.compile(r"\{%-?\s*generation\s*-?%\}")


class ReadText(NamedTuple):
    """A text as the model reads it.

    Attributes:
        ids: token ids.
        special: of each token, whether it is none of the text's own: special tokens, and in a chat all that the
            template writes around the messages.
        user: positions of the tokens of the user's message; empty where the text is no chat.
        assistant: the same of the assistant's.
    """

    ids: list[int]
    special: list[bool]
    user: list[int]
    assistant: list[int]


class _Frame(NamedTuple):
    """What the template writes before, between and after messages; ``between`` and what follows it may be empty."""

    before: str
    between: str
    after: str


def read_plain(tokenizer: Any, texts: Sequence[str]) -> Iterator[ReadText]:  # noqa: ANN401 - transformers' own
    """Yield texts as they are, with the special tokens that the tokenizer adds."""
    encoded = tokenizer(list(texts), return_special_tokens_mask=True)
    for ids, special in zip(encoded["input_ids"], encoded["special_tokens_mask"], strict=True):
        yield ReadText(ids, [bool(each) for each in special], [], [])


def read_chats(
    tokenizer: Any,  # noqa: ANN401 - transformers' own
    texts: Sequence[str | Turns],
    item_ids: Sequence[str],
    *,
    to_continue: bool = False,
) -> Iterator[ReadText]:
    """Yield conversations as the tokenizer's chat template writes them, with thinking off where it knows that.

    A text that is no pair of turns is one message of the user. Where messages lie is found by what the template writes
    before, between and after two others, and checked: text and frame together must be the whole. A token that reaches
    across the edge of a message is one of the message. Where the template marks what the assistant writes by itself
    (``{% generation %}``), its mask decides which of these tokens are the assistant's.

    Args:
        tokenizer: of the model, with a template; a fast one, which tells where in the text a token stands.
        texts: one per item.
        item_ids: name the item in errors.
        to_continue: leave the assistant's turns out, and end where the assistant begins to write.

    Raises:
        ModelError: there is no template, or the tokenizer is not a fast one.
        RunError: the template fails.
        CorpusError: the template changes the text of a message, so that its tokens cannot be told from the template's;
            or its own mask says otherwise.
    """
    template_sha256(tokenizer)
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            "a chat is captured by where each token stands in the text, which only fast tokenizers tell "
            f"(tokenizer.json); this one is {type(tokenizer).__name__}: convert it, or capture without --chat"
        )
    today = TemplateDate(CAPTURE_DATE)
    turns = [text if isinstance(text, Turns) else Turns(text) for text in texts]
    turns = [Turns(each.user) for each in turns] if to_continue else turns
    frames = {n: _frame(tokenizer, n, today, to_continue=to_continue) for n in {len(each.messages) for each in turns}}
    for name, each in zip(item_ids, turns, strict=True):
        written = fill_template(tokenizer, each.messages, today, to_continue=to_continue)
        spans = _spans(written, [message["content"] for message in each.messages], frames[len(each.messages)], name)
        encoded = tokenizer(written, add_special_tokens=False, return_offsets_mapping=True)
        roles = [_inside(encoded["offset_mapping"], span) for span in spans]
        if len(roles) > 1 and (own := _own_mask(tokenizer, each, today)) is not None:
            roles = _masked(roles, own, name)
        user, assistant = roles if len(roles) > 1 else (roles[0], [])
        inside = {*user, *assistant}
        yield ReadText(
            encoded["input_ids"], [place not in inside for place in range(len(encoded["input_ids"]))], user, assistant
        )


def _frame(tokenizer: Any, n_messages: int, today: TemplateDate, *, to_continue: bool) -> _Frame:  # noqa: ANN401 - as above
    """Find what the template writes around messages, by two that it cannot know."""
    marks = _MARKS[:n_messages]
    written = fill_template(tokenizer, Turns(*marks).messages, today, to_continue=to_continue)
    if any(written.count(mark) != 1 for mark in marks):
        raise CorpusError(
            "the chat template does not write every message once, so that tokens of messages cannot be told from its "
            "own; capture without --chat"
        )
    before, rest = written.split(marks[0])
    if n_messages == 1:
        return _Frame(before, "", rest)
    return _Frame(before, *rest.split(marks[1]))


def _spans(written: str, contents: Sequence[str], frame: _Frame, name: str) -> list[tuple[int, int]]:
    """Return first character and end of each message; the template may take off white space at its ends."""
    forms = [dict.fromkeys((text, text.strip(), text.lstrip(), text.rstrip(), text.strip("\n"))) for text in contents]
    for texts in product(*forms):
        if frame.before + frame.between.join(texts) + frame.after == written:
            spans, start = [], len(frame.before)
            for text in texts:
                spans.append((start, start + len(text)))
                start += len(text) + len(frame.between)
            return spans
    raise CorpusError(
        f"item {name}: the chat template changes the text, so that its tokens cannot be told from the template's; "
        "remove the item in all languages, or capture without --chat"
    )


def _inside(offsets: Sequence[tuple[int, int]], span: tuple[int, int]) -> list[int]:
    return [place for place, (start, end) in enumerate(offsets) if max(start, span[0]) < min(end, span[1])]


def _own_mask(tokenizer: Any, turns: Turns, today: TemplateDate) -> set[int] | None:  # noqa: ANN401 - as above
    """Return the positions that the template itself calls the assistant's; None where it does not say."""
    if not _OWN_MASK.search(tokenizer.get_chat_template()):
        return None
    with today.fixed():
        encoded = tokenizer.apply_chat_template(
            turns.messages,
            enable_thinking=False,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
    return {place for place, own in enumerate(encoded["assistant_masks"]) if own}


def _masked(roles: Sequence[list[int]], own: set[int], name: str) -> list[list[int]]:
    user, assistant = (
        [place for place in places if (place in own) == mine] for places, mine in zip(roles, (False, True), strict=True)
    )
    if len(user) < len(roles[0]) or not assistant:
        raise CorpusError(
            f"item {name}: the chat template's own mask of the assistant's tokens covers some of the user's, or none "
            "of the assistant's; mend chat_template in the model's folder, or capture without --chat"
        )
    return [user, assistant]
