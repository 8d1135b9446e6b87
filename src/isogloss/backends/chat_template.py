"""Fills a tokenizer's chat template: with thinking off, and on a day that does not change from run to run."""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, time
from functools import partial
from types import SimpleNamespace
from typing import Any, Protocol

import jinja2

from isogloss.errors import ModelError, RunError

__all__ = ["ChatTokenizer", "TemplateDate", "fill_template", "filling_template", "template_sha256"]


_TEMPLATES = "transformers.utils.chat_template_utils"
_FIXING = threading.RLock()  # of what all threads share


class ChatTokenizer(Protocol):
    """What is needed of a tokenizer of transformers."""

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any: ...  # noqa: ANN401, D102 - transformers' own


class TemplateDate:
    """The day that chat templates write for today, whatever day it is.

    Args:
        day: such as ``2026-08-05``; None for today.

    Attributes:
        day: as above.
        was_asked: whether a template has asked for it.

    Raises:
        RunError: ``day`` is no date.
    """

    def __init__(self, day: str | None = None) -> None:
        self.day, self.was_asked = datetime.now(UTC).astimezone().date().isoformat() if day is None else day, False
        try:
            self._start = datetime.combine(date.fromisoformat(self.day), time())
        except (TypeError, ValueError) as error:
            raise RunError(f"the date is {day!r}; expected one such as 2026-08-05: restore the settings") from error

    @contextmanager
    def fixed(self) -> Iterator[None]:
        """Let templates that are filled inside get this day's beginning from ``strftime_now``."""
        module = sys.modules.get(_TEMPLATES)  # there where a tokenizer of transformers is
        if module is None:
            yield
            return
        with _FIXING:
            clock = vars(module)["datetime"]
            # A template gets plain data alone (transformers 5.23), so no function of ours can be given to it.
            vars(module)["datetime"] = SimpleNamespace(now=self._now)
            try:
                yield
            finally:
                vars(module)["datetime"] = clock

    def _now(self) -> datetime:
        self.was_asked = True
        return self._start

    @property
    def kept(self) -> str | None:
        """The day where a template has asked for it, to be written down; else None."""
        return self.day if self.was_asked else None


@contextmanager
def filling_template() -> Iterator[None]:
    """Turn what a chat template raises into a RunError of one line, with the template's own message."""
    try:
        yield
    except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError) as error:  # it computes what it likes
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise RunError(
            f"the tokenizer's chat template does not take this conversation ({type(error).__name__}: {first}); "
            "mend chat_template in the model's folder, or leave the chat template out"
        ) from error


def fill_template(
    tokenizer: ChatTokenizer,
    conversation: Sequence[Mapping[str, str]],
    today: TemplateDate,
    *,
    to_continue: bool,
) -> str:
    """Return the text that a chat template makes of a conversation, every special token included.

    Thinking is off where the template has that switch; others ignore it. ``to_continue`` ends it where the assistant
    begins to write.
    """
    in_parts = [{**each, "content": [{"type": "text", "text": each["content"]}]} for each in conversation]
    with filling_template(), today.fixed():
        fill = partial(
            tokenizer.apply_chat_template, add_generation_prompt=to_continue, enable_thinking=False, tokenize=False
        )
        try:
            written = str(fill(list(conversation)))
        except (jinja2.TemplateError, TypeError):
            if (filled := _if_filled(fill, in_parts)) is None:
                raise
            return filled
        left_out = any(each["content"].strip() not in written for each in conversation)
        return (_if_filled(fill, in_parts) if left_out else None) or written


def _if_filled(fill: Callable[[Any], Any], in_parts: Sequence[Mapping[str, Any]]) -> str | None:
    """Return what the template writes where it takes messages in parts, as those of processors do; else None."""
    try:
        written = str(fill(list(in_parts)))
    except (jinja2.TemplateError, TypeError):
        return None
    return written if all(each["content"][0]["text"].strip() in written for each in in_parts) else None


def template_sha256(tokenizer: Any) -> str:  # noqa: ANN401 - transformers' own
    """Hash the chat template of a tokenizer; where it has several, all of them.

    Raises:
        ModelError: it has none.
    """
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        raise ModelError(
            "the model's tokenizer has no chat template, so texts cannot be written as a chat; capture them as they "
            "are, without --chat, or give a model that was tuned for chat"
        )
    return hashlib.sha256((template if isinstance(template, str) else json.dumps(template)).encode()).hexdigest()
