"""Corpora from local text files: a folder with one file per language, or one table with a language column."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from isogloss.corpora.corpus import (
    Corpus,
    Turns,
    add_text,
    align,
    check_language,
    check_text,
    full_code,
    item_id,
    require_languages,
)
from isogloss.errors import CorpusError
from isogloss.files import parse_json, read_bytes

__all__ = ["TABLE_READERS", "check_cells", "load_folder", "load_table", "names_language", "read_lines", "read_text"]

_LANGUAGE_STEM = re.compile(r"[A-Za-z]{2,3}([_-][A-Za-z]{4})?")
# A field as writers of CSV quote one that holds a quotation mark: marks around it, those inside doubled.
_QUOTED = re.compile(r'"(?=.*""|"$)(?:[^"]|"")*"')
_BOM = b"\xef\xbb\xbf"


def read_text(path: Path, *, allow_mark: bool = False) -> str:
    """Read a UTF-8 file without changing its text.

    Raises:
        CorpusError: it cannot be read, is not UTF-8, or starts with a byte order mark that is not allowed (else it is
            dropped).
    """
    raw = read_bytes(path, error=CorpusError)
    if raw.startswith(_BOM) and not allow_mark:
        raise CorpusError(f"{path}:1: starts with a byte order mark; save it as UTF-8 without BOM")
    try:
        return raw.removeprefix(_BOM).decode("utf-8")
    except UnicodeDecodeError as error:
        position = raw.count(b"\n", 0, error.start) + 1
        raise CorpusError(
            f"{path}:{position}: not UTF-8 ({error.reason}); convert it, as with iconv -t UTF-8"
        ) from error


def read_lines(path: Path, *, allow_mark: bool = False) -> list[str]:
    """Return the lines of a UTF-8 file without their ends.

    LF and CRLF end a line, also mixed in one file. A carriage return elsewhere may be a line's end, as on old Macs, or
    a stray character: it is refused. NEL, U+2028, vertical tabs and form feeds are part of their line.

    Raises:
        CorpusError: as `read_text`, or for a carriage return without a line feed behind it.
    """
    lines = read_text(path, allow_mark=allow_mark).replace("\r\n", "\n").removesuffix("\n").split("\n")
    for number, line in enumerate(lines, start=1):
        if "\r" in line:
            raise CorpusError(
                f"{path}:{number}: a carriage return without a line feed; end lines in LF or CRLF, as with "
                "mac2unix, or take it out of the text"
            )
    return lines


def check_cells(cells: Sequence[str], where: str) -> None:
    """Refuse cells of a tab-separated line that a writer of CSV has quoted, by a CorpusError that names the cell.

    These files know no quoting: marks around a whole text, with none or single ones inside, are part of the text.
    """
    for cell in cells:
        if _QUOTED.fullmatch(cell):
            raise CorpusError(
                f"{where}: {cell[:40]!r} is quoted as in CSV; write texts as they are (pandas: "
                "quoting=csv.QUOTE_NONE), or use .jsonl"
            )


def _read_full_lines(path: Path) -> list[str]:
    """Read lines of which none may be empty."""
    lines = read_lines(path)
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            raise CorpusError(
                f"{path}:{number}: empty line; fill it in, or delete this line from every language's file"
            )
    return lines


def load_folder(folder: Path, wanted: tuple[str, ...] | None, split: str | None) -> Corpus:
    """Read line-aligned files, one per language; arguments and errors as `isogloss.corpora.load_corpus`."""
    name = folder.name if split is None else f"{folder.name}/{split}"
    files = _language_files(folder, split)
    codes = require_languages(files, wanted, str(folder))
    texts = {code: tuple(_read_full_lines(files[code])) for code in codes}
    first = codes[0]
    for code in codes:
        if len(texts[code]) != len(texts[first]):
            shorter = min(len(texts[code]), len(texts[first]))
            raise CorpusError(
                f"{files[code]} has {len(texts[code])} lines, {files[first]} has {len(texts[first])}; expected line i "
                f"to have the same meaning in every file; search backwards from line {shorter + 1} for a split or "
                "lost line"
            )
    ids = tuple(str(number) for number in range(1, len(texts[first]) + 1))
    return Corpus(name, texts, ids, "not stated", "local folder", {code: str(files[code]) for code in codes})


def names_language(stem: str) -> bool:
    """Return whether a file's name, up to the first stop, is meant as a language.

    It is where it has the form of a code, or begins with one that is known and goes on behind a hyphen or an underscore
    (``pt-BR``, ``eng_Latn_clean``).
    """
    return bool(_LANGUAGE_STEM.fullmatch(stem)) or full_code(re.split("[-_]", stem)[0]) is not None


def _language_files(folder: Path, split: str | None) -> dict[str, Path]:
    subfolder = folder if split is None else folder / split
    suffix = "" if subfolder.is_dir() else f".{split}"
    place = subfolder if subfolder.is_dir() else folder
    files: dict[str, Path] = {}
    for path in sorted(place.iterdir()):
        stem = path.name.partition(".")[0]
        if not path.is_file() or not path.name.endswith(suffix) or not names_language(stem):
            continue
        code = check_language(stem, str(path))
        if code in files:
            raise CorpusError(f"{files[code]} and {path} are both {code}; keep one, or name the split to read")
        files[code] = path
    if not files:
        expected = f"xxx_Xxxx.*, as in eng_Latn.{split or 'txt'}"
        raise CorpusError(f"{place}: no language files{f' of split {split}' if split else ''}; expected {expected}")
    return files


def _jsonl_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, line in enumerate(_read_full_lines(path), start=1):
        where = f"{path}:{number}"
        try:
            row = parse_json(line)
        except ValueError as error:
            raise CorpusError(f"{where}: not JSON ({error}); expected one object per line") from error
        if not isinstance(row, dict):
            raise CorpusError(f"{where}: found a {type(row).__name__}; expected an object with language, text and id")
        yield where, row


def _tsv_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    header, *lines = (line.split("\t") for line in _read_full_lines(path))
    if len(set(header)) != len(header) or not {"language", "text"} <= set(header):
        raise CorpusError(f"{path}:1: columns {header}; expected a header with language, text and, optionally, id")
    for number, cells in enumerate(lines, start=2):
        if len(cells) != len(header):
            raise CorpusError(
                f"{path}:{number}: {len(cells)} columns, expected {len(header)}; replace tabs inside texts"
            )
        check_cells(cells, f"{path}:{number}")
        yield f"{path}:{number}", dict(zip(header, cells, strict=True))


TABLE_READERS: dict[str, Callable[[Path], Iterator[tuple[str, Mapping[str, Any]]]]] = {
    ".jsonl": _jsonl_rows,
    ".tsv": _tsv_rows,
}


def load_table(path: Path, wanted: tuple[str, ...] | None) -> Corpus:
    """Read a table with a language column; arguments and errors as `isogloss.corpora.load_corpus`."""
    texts: defaultdict[str, dict[str, str]] = defaultdict(dict)
    order: dict[str, None] = {}
    turns: defaultdict[str, dict[str, Turns]] = defaultdict(dict)
    with_ids: bool | None = None
    for where, row in TABLE_READERS[path.suffix](path):
        code = check_language(str(row.get("language", "")), where)
        if with_ids is None:
            with_ids = "id" in row
        elif with_ids != ("id" in row):
            raise CorpusError(f"{where}: some rows have an id and others do not; give every row an id, or no row")
        item = item_id(row["id"], where) if with_ids else str(len(texts[code]) + 1)
        turn = Turns(
            check_text(row.get("text"), where), None if "assistant" not in row else check_text(row["assistant"], where)
        )
        add_text(texts[code], item, turn.text, where)
        turns[code][item] = turn
        order.setdefault(item)
    aligned, ids = align(texts, list(order), wanted, str(path))
    pairs = {code: tuple(turns[code][item] for item in ids) for code in aligned}
    answered = {turn.assistant is not None for each in pairs.values() for turn in each}
    if len(answered) > 1:
        raise CorpusError(
            f"{path}: some rows have an answer of the assistant and others do not; give every row one, or none"
        )
    files = dict.fromkeys(aligned, str(path))
    source = f"local file {path.name}"
    return Corpus(path.stem, aligned, ids, "not stated", source, files, turns=pairs if answered == {True} else {})
