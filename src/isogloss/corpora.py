"""Parallel texts by language: local folders and files, and data sets of the Hugging Face hub known by name.

A corpus is accepted only when every language has the same items. Text passes through unchanged; what cannot be read
without guessing (encoding, line ends, alignment) is refused with the file, the line and the remedy.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from isogloss.errors import CorpusError, LanguageError
from isogloss.languages import resolve

__all__ = ["HUB_CORPORA", "Corpus", "load_corpus"]

_LANGUAGE_STEM = re.compile(r"[A-Za-z]{2,3}([_-][A-Za-z]{4})?")
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Corpus:
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
        texts = self.texts[_require(self.texts, resolve(language), self.name)]
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
            code: tuple(self.texts[_require(self.texts, code, self.name)][position[item]] for item in kept_ids)
            for code in _requested(languages)
        }
        return replace(self, texts=texts, item_ids=kept_ids)


def load_corpus(source: str, *, languages: Sequence[str] | None = None, split: str | None = None) -> Corpus:
    """Read a parallel corpus.

    Args:
        source: one of

            * a folder with one text file per language, ``xxx_Xxxx.*`` (short codes too), where line i says the same
              everywhere; hidden files and names that are no language code are ignored;
            * a ``.jsonl`` or ``.tsv`` file with columns ``language``, ``text`` and, optionally, ``id`` (without ids,
              the n-th text of each language is item n);
            * ``flores_plus`` or ``belebele``, fetched from the Hugging Face hub through `datasets`, or
              ``flores_plus:FOLDER`` for a local copy of that repository.
        languages: those to read; None reads all.
        split: for a folder, the subfolder of this name or else the files with this suffix; for the hub, the split
            (``dev`` of flores_plus and ``test`` of belebele by default).

    Returns:
        The corpus, items in the file's order (flores_plus by id, belebele by link), one text per item and language.

    Raises:
        CorpusError: nothing readable at the source, languages misaligned or absent, text empty or badly encoded.
        LanguageError: a requested language is unknown or given twice.

    Source:
        Belebele's passages de-duplicated and sorted by ``link``: Multilingual Routing in Mixture-of-Experts
        (arXiv 2510.04694), public analysis code.
    """
    wanted = None if languages is None else _requested(languages)
    name, _, local = source.partition(":")
    if name in HUB_CORPORA:
        return _load_hub(name, local, wanted, split)
    path = Path(source)
    if path.is_dir():
        return _load_folder(path, wanted, split)
    if path.suffix not in _TABLES:
        known = ", ".join(sorted(HUB_CORPORA))
        raise CorpusError(f"{source}: no such corpus; expected a folder, a .jsonl or .tsv file, or one of {known}")
    if split is not None:
        raise CorpusError(f"{source}: split {split!r} was asked for, but a single file has no splits; leave it out")
    return _load_table(path, wanted)


def _requested(languages: Sequence[str]) -> tuple[str, ...]:
    codes = [resolve(language) for language in languages]
    if not codes:
        raise CorpusError("no language was requested; name at least one, or leave the option out to read all")
    repeated = sorted({code for code in codes if codes.count(code) > 1})
    if repeated:
        raise LanguageError(f"languages given twice: {', '.join(repeated)}; name each once")
    return tuple(sorted(codes))


def _require(available: Iterable[str], code: str, where: str) -> str:
    present = sorted(available)
    if code not in present:
        shown = ", ".join(present[:12]) + (", …" if len(present) > 12 else "")  # noqa: PLR2004 - one line of codes
        raise CorpusError(f"{where}: no texts in {code}; it has {shown or 'none'}; request only those")
    return code


def _language_of(spelling: str, where: str) -> str:
    try:
        return resolve(spelling)
    except LanguageError as error:
        raise CorpusError(f"{where}: {error}; correct the code or take it out") from error


def _check_text(text: object, where: str) -> str:
    if not isinstance(text, str) or not text.strip():
        raise CorpusError(f"{where}: the text is empty or no text ({text!r}); fill it in, or take the item out everywhere")
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise CorpusError(f"{where}: the text holds half of a surrogate pair; repair its encoding")
    return text


# --- local files ------------------------------------------------------------------------------------------------------


def _read_lines(path: Path) -> list[str]:
    """Read lines that end in LF; only LF splits, so that U+2028 and the like stay inside their line."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    if raw.startswith(_BOM):
        raise CorpusError(f"{path}:1: starts with a byte order mark; save it as UTF-8 without BOM")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise CorpusError(f"{path}:{line}: not UTF-8 ({error.reason}); convert it, as with iconv -t UTF-8") from error
    lines = text.removesuffix("\n").split("\n")
    for number, line in enumerate(lines, start=1):
        if line.endswith("\r"):
            raise CorpusError(f"{path}:{number}: ends in CRLF; expected LF; convert the file, as with dos2unix")
        if not line.strip():
            raise CorpusError(f"{path}:{number}: empty line; fill it in, or delete this line in every language's file")
    return lines


def _load_folder(folder: Path, wanted: tuple[str, ...] | None, split: str | None) -> Corpus:
    name = folder.name if split is None else f"{folder.name}/{split}"
    files = _language_files(folder, split)
    codes = sorted(files) if wanted is None else [_require(files, code, str(folder)) for code in wanted]
    texts = {code: tuple(_read_lines(files[code])) for code in codes}
    first = codes[0]
    for code in codes:
        if len(texts[code]) != len(texts[first]):
            shorter = min(len(texts[code]), len(texts[first]))
            raise CorpusError(
                f"{files[code]} has {len(texts[code])} lines, {files[first]} has {len(texts[first])}; expected line i to "
                f"say the same in every file; look from line {shorter + 1} backwards for the one that was split or lost"
            )
    ids = tuple(str(number) for number in range(1, len(texts[first]) + 1))
    return Corpus(name, texts, ids, licence="not stated", source="local folder")


def _language_files(folder: Path, split: str | None) -> dict[str, Path]:
    subfolder = folder if split is None else folder / split
    suffix = "" if subfolder.is_dir() else f".{split}"
    place = subfolder if subfolder.is_dir() else folder
    files: dict[str, Path] = {}
    for path in sorted(place.iterdir()):
        stem = path.name.partition(".")[0]
        if not path.is_file() or not path.name.endswith(suffix) or not _LANGUAGE_STEM.fullmatch(stem):
            continue
        code = _language_of(stem, str(path))
        if code in files:
            raise CorpusError(f"{files[code]} and {path} are both {code}; keep one, or name the split to read")
        files[code] = path
    if not files:
        expected = f"xxx_Xxxx.*, as in eng_Latn.{split or 'txt'}"
        raise CorpusError(f"{place}: no language files{f' of split {split}' if split else ''}; expected {expected}")
    return files


def _jsonl_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, line in enumerate(_read_lines(path), start=1):
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise CorpusError(f"{where}: not JSON ({error.msg}); expected one object per line") from error
        if not isinstance(row, dict):
            raise CorpusError(f"{where}: a {type(row).__name__}; expected an object with language, text and id")
        yield where, row


def _tsv_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    header, *lines = (line.split("\t") for line in _read_lines(path))
    if len(set(header)) != len(header) or not {"language", "text"} <= set(header):
        raise CorpusError(f"{path}:1: columns {header}; expected a header with language, text and, optionally, id")
    for number, cells in enumerate(lines, start=2):
        if len(cells) != len(header):
            raise CorpusError(f"{path}:{number}: {len(cells)} columns, expected {len(header)}; a tab inside a text?")
        yield f"{path}:{number}", dict(zip(header, cells, strict=True))


_TABLES: dict[str, Callable[[Path], Iterator[tuple[str, Mapping[str, Any]]]]] = {
    ".jsonl": _jsonl_rows,
    ".tsv": _tsv_rows,
}


def _load_table(path: Path, wanted: tuple[str, ...] | None) -> Corpus:
    texts: defaultdict[str, dict[str, str]] = defaultdict(dict)
    order: dict[str, None] = {}
    with_ids: bool | None = None
    for where, row in _TABLES[path.suffix](path):
        code = _language_of(str(row.get("language", "")), where)
        if with_ids is None:
            with_ids = "id" in row
        elif with_ids != ("id" in row):
            raise CorpusError(f"{where}: some rows have an id and some have none; give all of them one, or none")
        item = _item_id(row["id"], where) if with_ids else str(len(texts[code]) + 1)
        _add(texts[code], item, _check_text(row.get("text"), where), where)
        order.setdefault(item)
    aligned, ids = _align(texts, list(order), wanted, str(path))
    return Corpus(path.stem, aligned, ids, licence="not stated", source=f"local file {path.name}")


def _item_id(raw: object, where: str) -> str:
    if isinstance(raw, bool) or not isinstance(raw, (str, int)) or not str(raw).strip():
        raise CorpusError(f"{where}: id {raw!r}; expected a text or a whole number")
    return _check_text(str(raw), where)


def _add(texts: dict[str, str], item: str, text: str, where: str) -> None:
    if item in texts:
        raise CorpusError(f"{where}: id {item!r} a second time in this language; expected one text per item")
    texts[item] = text


def _align(
    texts: Mapping[str, Mapping[str, str]], order: list[str], wanted: tuple[str, ...] | None, where: str
) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    """Bring all languages into one order of items, or name what one of them lacks."""
    codes = sorted(texts) if wanted is None else [_require(texts, code, where) for code in wanted]
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


# --- data sets of the Hugging Face hub --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _HubCorpus:
    """How one data set of the hub names its languages, items and texts.

    Attributes:
        repository: on the hub.
        licence: SPDX identifier.
        split: read by default.
        language: columns that, joined by ``_``, name the language of a row.
        item: column that names the item in every language.
        text: column with the text.
        sort_key: order of items.
        configs: language -> name of its configuration, where it is not the language's code.
    """

    repository: str
    licence: str
    split: str
    language: tuple[str, ...]
    item: str
    text: str
    sort_key: Callable[[str], Any]
    configs: Mapping[str, str]


# Configurations that FLORES+ names otherwise than FLORES-200 (its data card's list of languages).
_FLORES_PLUS_CONFIGS = {
    "ajp_Arab": "apc_Arab_sout3123",
    "aka_Latn": "twi_Latn_akua1239",
    "apc_Arab": "apc_Arab_nort3139",
    "est_Latn": "ekk_Latn",
    "grn_Latn": "gug_Latn",
    "tgl_Latn": "fil_Latn",
    "twi_Latn": "twi_Latn_asan1239",
    "zho_Hans": "cmn_Hans",
    "zho_Hant": "cmn_Hant",
}

_HUB = {
    "flores_plus": _HubCorpus(
        repository="openlanguagedata/flores_plus",
        licence="CC-BY-SA-4.0",
        split="dev",
        language=("iso_639_3", "iso_15924"),
        item="id",
        text="text",
        sort_key=int,
        configs=_FLORES_PLUS_CONFIGS,
    ),
    "belebele": _HubCorpus(
        repository="facebook/belebele",
        licence="CC-BY-SA-4.0",
        split="test",
        language=("dialect",),
        item="link",
        text="flores_passage",
        sort_key=str,
        configs={},
    ),
}

HUB_CORPORA = frozenset(_HUB)
"""Names that `load_corpus` fetches from the Hugging Face hub."""
