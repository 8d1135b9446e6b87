"""A parallel corpus, and the checks that every source of texts passes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from isogloss.errors import CorpusError, LanguageError
from isogloss.languages import resolve
from isogloss.notebook import Shown

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Corpus",
    "Turns",
    "add_text",
    "align",
    "check_language",
    "check_text",
    "full_code",
    "item_id",
    "requested_codes",
    "require_languages",
]


class Turns(NamedTuple):
    """One item as a conversation: what the user writes, and what the assistant answers; None for no answer."""

    user: str
    assistant: str | None = None

    @property
    def text(self) -> str:
        """Question and answer as one plain text, divided by a line break."""
        return self.user if self.assistant is None else f"{self.user}\n{self.assistant}"

    @property
    def messages(self) -> list[dict[str, str]]:
        """The turns as chat templates take them."""
        answer = [] if self.assistant is None else [{"role": "assistant", "content": self.assistant}]
        return [{"role": "user", "content": self.user}, *answer]


@dataclass(frozen=True, repr=False)
class Corpus(Shown):
    """A parallel corpus: each item has the same meaning in every language.

    Attributes:
        name: short name for tables.
        texts: full language code -> one text per item, in the order of ``item_ids``.
        item_ids: unique, the same for all languages.
        licence: SPDX identifier, or ``not stated``.
        source: where the texts come from; never a local path, so that Runs from several machines can be merged.
        files: full language code -> file with its texts, for messages; empty where there are none.
        revision: commit of the hub's repository; None for local texts, or where it is unknown.
        turns: full language code -> the same items as conversations, whose `Turns.text` are the ``texts``; empty where
            texts are no conversations.

    Raises:
        CorpusError: on construction, if a language's number of texts differs from the number of items, or ids repeat.
    """

    name: str
    texts: Mapping[str, tuple[str, ...]]
    item_ids: tuple[str, ...]
    licence: str
    source: str
    files: Mapping[str, str] = field(default_factory=dict, compare=False)
    revision: str | None = None
    turns: Mapping[str, tuple[Turns, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(set(self.item_ids)) != len(self.item_ids):
            raise CorpusError(f"corpus {self.name}: item ids repeat; give every item its own id")
        for language, texts in self.texts.items():
            if len(texts) != len(self.item_ids):
                raise CorpusError(
                    f"corpus {self.name}: {language} has {len(texts)} texts, expected {len(self.item_ids)} (one per id)"
                )
        for language, turns in self.turns.items():
            if tuple(each.text for each in turns) != self.texts.get(language):
                raise CorpusError(f"corpus {self.name}: the turns of {language} are not its texts; give both alike")

    def __repr__(self) -> str:
        return f"Corpus({self.name}: {len(self.texts)} languages, {len(self.item_ids):,} items)"

    def to_frame(self) -> pd.DataFrame:
        """Return one row per item and language: ``item``, ``language``, ``text``."""
        import pandas as pd  # noqa: PLC0415 - takes a third of a second, and most commands show no table

        rows = [
            (item, language, text)
            for language in self.languages
            for item, text in zip(self.item_ids, self.texts[language], strict=True)
        ]
        return pd.DataFrame(rows, columns=["item", "language", "text"])

    @property
    def languages(self) -> tuple[str, ...]:
        """Full codes of the languages, sorted."""
        return tuple(sorted(self.texts))

    def where(self, language: str) -> str:
        """Name a language with the file of its texts, or with the corpus, for messages."""
        return f"{language} ({self.files.get(language, f'corpus {self.name}')})"

    def sha256(self, language: str) -> str:
        """Hash the ids and texts of one language, not the corpus's name; CorpusError where it lacks the language."""
        (code,) = require_languages(self.texts, (resolve(language),), self.name)
        texts = self.turns.get(code) or self.texts[code]
        return hashlib.sha256(json.dumps([self.item_ids, texts], separators=(",", ":")).encode()).hexdigest()

    def select(self, languages: Sequence[str], items: Sequence[str] | None = None) -> Corpus:
        """Keep some languages, as `resolve` accepts them, and items, by their ids in this order; None keeps all items.

        Raises:
            CorpusError: the corpus does not have a language or an item, or nothing was requested.
            LanguageError: a language is unknown or given twice.
        """
        kept_ids = self.item_ids if items is None else tuple(items)
        position = {item: index for index, item in enumerate(self.item_ids)}
        missing = [item for item in kept_ids if item not in position]
        if missing or not kept_ids:
            problem = f"no items {missing[:3]}" if missing else "no items were requested"
            raise CorpusError(f"corpus {self.name}: {problem}; its first items are {list(self.item_ids[:3])}")
        texts = {
            code: tuple(self.texts[code][position[item]] for item in kept_ids)
            for code in require_languages(self.texts, requested_codes(languages), self.name)
        }
        turns = {
            code: tuple(self.turns[code][position[item]] for item in kept_ids) for code in texts if code in self.turns
        }
        return replace(self, texts=texts, item_ids=kept_ids, turns=turns)

    def conversations(self, language: str) -> tuple[Turns, ...]:
        """Return the items of a language, by its full code, as conversations; a plain text is the user's message."""
        return self.turns.get(language) or tuple(Turns(text) for text in self.texts[language])


def requested_codes(languages: Sequence[str]) -> tuple[str, ...]:
    """Return the sorted full codes of the requested languages: at least one, each once."""
    codes = [resolve(language) for language in languages]
    if not codes:
        raise CorpusError("no language was requested; name at least one, or omit the option to read all")
    repeated = sorted({code for code in codes if codes.count(code) > 1})
    if repeated:
        raise LanguageError(f"languages given twice: {', '.join(repeated)}; name each once")
    return tuple(sorted(codes))


def require_languages(available: Iterable[str], wanted: Sequence[str] | None, where: str) -> list[str]:
    """Return the languages to read: those wanted, in their order, or all that are available, sorted.

    Raises:
        CorpusError: a wanted language is not available, or none is; ``where`` starts the message.
    """
    present = sorted(available)
    missing = [code for code in wanted or () if code not in present]
    if missing or not present:
        shown = ", ".join(present[:12]) + (", …" if len(present) > 12 else "")  # noqa: PLR2004 - one line of codes
        raise CorpusError(
            f"{where}: no texts in {', '.join(missing) or 'any language'}; available languages: {shown or 'none'}"
        )
    return present if wanted is None else list(wanted)


def full_code(name: str) -> str | None:
    """Return the full code of a language, or None where a name is no code."""
    try:
        return resolve(name)
    except LanguageError:
        return None


def check_language(spelling: str, where: str) -> str:
    """Return the full code of a language named in a corpus; ``where`` is the file and line for the error message."""
    try:
        return resolve(spelling)
    except LanguageError as error:
        raise CorpusError(f"{where}: {error}; correct or remove the code") from error


def check_text(text: object, where: str) -> str:
    """Return a text unchanged; it must not be empty, and UTF-8 must be able to encode it."""
    if not isinstance(text, str) or not text.strip():
        raise CorpusError(
            f"{where}: expected a text that is not empty, found {text!r}; fill it in, or remove the item from all "
            "languages"
        )
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise CorpusError(f"{where}: the text contains half of a surrogate pair; repair its encoding")
    return text


def item_id(raw: object, where: str) -> str:
    """Return an item's id as text; integers are accepted."""
    if isinstance(raw, bool) or not isinstance(raw, (str, int)) or not str(raw).strip():
        raise CorpusError(f"{where}: id {raw!r}; expected a text or an integer")
    return check_text(str(raw), where)


def add_text(texts: dict[str, str], item: str, text: str, where: str) -> None:
    """Add an item's text to those of its language; an item may have only one."""
    if item in texts:
        raise CorpusError(f"{where}: id {item!r} appears twice in this language; expected one text per item")
    texts[item] = text


def align(
    texts: Mapping[str, Mapping[str, str]], order: list[str], wanted: tuple[str, ...] | None, where: str
) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    """Put the texts of all languages in the same order of items."""
    if not texts and wanted is None:
        raise CorpusError(f"{where}: no rows; expected at least one text")
    codes = require_languages(texts, wanted, where)
    items = set().union(*(texts[code] for code in codes))
    ids = tuple(item for item in order if item in items)
    for code in codes:
        lacking = [item for item in ids if item not in texts[code]]
        if lacking:
            other = next(other for other in codes if lacking[0] in texts[other])
            raise CorpusError(
                f"{where}: {code} lacks {len(lacking)} of {len(ids)} items, first {lacking[0]!r}, which {other} "
                f"has; expected the same items in every language; add them, or omit {code}"
            )
    return {code: tuple(texts[code][item] for item in ids) for code in codes}, ids
