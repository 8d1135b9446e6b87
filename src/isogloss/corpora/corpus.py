"""A parallel corpus, and the checks that every source passes through."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from isogloss.errors import CorpusError, LanguageError
from isogloss.languages import resolve
from isogloss.notebook import Shown

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Corpus", "add_text", "align", "check_text", "item_id", "language_of", "requested_codes", "require_language"]


@dataclass(frozen=True, repr=False)
class Corpus(Shown):
    """Texts in several languages that say the same, item by item.

    Attributes:
        name: short name for tables.
        texts: full language code -> one text per item, in the order of ``item_ids``.
        item_ids: unique, the same for all languages.
        licence: SPDX identifier, or ``not stated``.
        source: where the texts come from; no path of this machine, so that Runs of several machines merge.

    Raises:
        CorpusError: on construction, where a language has another number of texts than there are items, or ids repeat.
    """

    name: str
    texts: Mapping[str, tuple[str, ...]]
    item_ids: tuple[str, ...]
    licence: str
    source: str

    def __post_init__(self) -> None:
        if len(set(self.item_ids)) != len(self.item_ids):
            raise CorpusError(f"corpus {self.name}: item ids repeat; give every item its own id")
        for language, texts in self.texts.items():
            if len(texts) != len(self.item_ids):
                raise CorpusError(
                    f"corpus {self.name}: {language} has {len(texts)} texts, expected {len(self.item_ids)} (one per id)"
                )

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

    def sha256(self, language: str) -> str:
        """Hash the ids and texts of one language.

        Args:
            language: a language of this corpus, as `isogloss.languages.resolve` accepts it.

        Returns:
            64 hexadecimal digits; equal exactly where ids and texts are equal, whatever the corpus is called.

        Raises:
            CorpusError: the corpus lacks the language.
        """
        texts = self.texts[require_language(self.texts, resolve(language), self.name)]
        return hashlib.sha256(json.dumps([self.item_ids, texts], separators=(",", ":")).encode()).hexdigest()

    def select(self, languages: Sequence[str], items: Sequence[str] | None = None) -> Corpus:
        """Keep some languages and items.

        Args:
            languages: to keep, as `isogloss.languages.resolve` accepts them.
            items: ids to keep, in this order; None keeps all.

        Returns:
            The smaller corpus.

        Raises:
            CorpusError: a language or an item is not there, or nothing would be left.
            LanguageError: a language is unknown or given twice.
        """
        kept_ids = self.item_ids if items is None else tuple(items)
        position = {item: index for index, item in enumerate(self.item_ids)}
        missing = [item for item in kept_ids if item not in position]
        if missing or not kept_ids:
            raise CorpusError(f"corpus {self.name}: no item {missing[:3] or 'left'}; it has {self.item_ids[:3]} and on")
        texts = {
            code: tuple(self.texts[require_language(self.texts, code, self.name)][position[item]] for item in kept_ids)
            for code in requested_codes(languages)
        }
        return replace(self, texts=texts, item_ids=kept_ids)


def requested_codes(languages: Sequence[str]) -> tuple[str, ...]:
    """Resolve requested languages: sorted full codes, at least one, none twice."""
    codes = [resolve(language) for language in languages]
    if not codes:
        raise CorpusError("no language was requested; name at least one, or leave the option out to read all")
    repeated = sorted({code for code in codes if codes.count(code) > 1})
    if repeated:
        raise LanguageError(f"languages given twice: {', '.join(repeated)}; name each once")
    return tuple(sorted(codes))


def require_language(available: Iterable[str], code: str, where: str) -> str:
    """Return the code if it is available; ``where`` opens the error's message."""
    present = sorted(available)
    if code not in present:
        shown = ", ".join(present[:12]) + (", …" if len(present) > 12 else "")  # noqa: PLR2004 - one line of codes
        raise CorpusError(f"{where}: no texts in {code}; it has {shown or 'none'}; request only those")
    return code


def language_of(spelling: str, where: str) -> str:
    """Resolve a code that a corpus carries; ``where`` names the file and line in the error."""
    try:
        return resolve(spelling)
    except LanguageError as error:
        raise CorpusError(f"{where}: {error}; correct the code or take it out") from error


def check_text(text: object, where: str) -> str:
    """Return a text unchanged; refuse what is empty or could not be encoded as UTF-8."""
    if not isinstance(text, str) or not text.strip():
        raise CorpusError(
            f"{where}: the text is empty or no text ({text!r}); fill it in, or take the item out everywhere"
        )
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise CorpusError(f"{where}: the text holds half of a surrogate pair; repair its encoding")
    return text


def item_id(raw: object, where: str) -> str:
    """Return an item's id as text; whole numbers are accepted."""
    if isinstance(raw, bool) or not isinstance(raw, (str, int)) or not str(raw).strip():
        raise CorpusError(f"{where}: id {raw!r}; expected a text or a whole number")
    return check_text(str(raw), where)


def add_text(texts: dict[str, str], item: str, text: str, where: str) -> None:
    """Add an item's text to those of its language; refuse a second one."""
    if item in texts:
        raise CorpusError(f"{where}: id {item!r} a second time in this language; expected one text per item")
    texts[item] = text


def align(
    texts: Mapping[str, Mapping[str, str]], order: list[str], wanted: tuple[str, ...] | None, where: str
) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    """Bring all languages into one order of items, or name what one of them lacks."""
    codes = sorted(texts) if wanted is None else [require_language(texts, code, where) for code in wanted]
    if not codes:
        raise CorpusError(f"{where}: no rows; expected at least one text")
    items = set().union(*(texts[code] for code in codes))
    ids = tuple(item for item in order if item in items)
    for code in codes:
        lacking = [item for item in ids if item not in texts[code]]
        if lacking:
            other = next(other for other in codes if lacking[0] in texts[other])
            raise CorpusError(
                f"{where}: {code} lacks {len(lacking)} of {len(ids)} items, the first is {lacking[0]!r}, which {other} "
                f"has; expected the same items in every language; add them, or leave {code} out of the languages"
            )
    return {code: tuple(texts[code][item] for item in ids) for code in codes}, ids
