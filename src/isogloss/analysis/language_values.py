"""Reads what is known about languages: benchmark accuracy, resources, anything with one number per language."""

from __future__ import annotations

import csv
import io
import math
import re
from pathlib import Path

from isogloss.errors import LanguageError, RunError
from isogloss.files import read_bytes, read_json
from isogloss.languages import resolve

__all__ = ["read_measure"]

_KEY = re.compile(r"(?:.*_)?([A-Za-z]{3}_[A-Za-z]{4})")
"""A full code, alone or behind the prefix of a task, as in ``belebele_arb_Arab``."""

_DELIMITERS = "\t;,"  # in the order tried: a header with a tab may well hold a comma, hardly the other way round
_COLUMNS = 2


def read_measure(path: Path) -> dict[str, float]:
    """Read one number per language.

    Args:
        path: where its name ends in ``.json``, an object of language to number; else a table with a header (of any
            names) and two columns, language and value, separated by commas, semicolons or tabs. Languages as
            `isogloss.languages.resolve` accepts them, also behind a task's name (``belebele_arb_Arab``).

    Returns:
        Full code to value, as it stands in the file: per cent stay per cent.

    Raises:
        LanguageError: a language is unknown, or there twice under two spellings; the file and place are named.
        RunError: the file cannot be read, is not UTF-8, holds no language, or holds something that is no number.
    """
    entries = _entries_of_json(path) if path.suffix.lower() == ".json" else _entries_of_csv(path)
    if not entries:
        raise RunError(f"{path}: holds no language; expected one line per language with its value")
    measure: dict[str, float] = {}
    for place, code, value in entries:
        language = _language(code, place)
        if language in measure:
            raise LanguageError(f"{place}: {language} a second time (as {code!r}); keep one value per language")
        measure[language] = value
    return measure


def _language(text: str, place: str) -> str:
    match = _KEY.fullmatch(text.strip())
    try:
        return resolve(match[1] if match else text)
    except LanguageError as error:
        raise LanguageError(f"{place}: {error}") from error


def _entries_of_json(path: Path) -> list[tuple[str, str, float]]:
    raw = read_json(path)
    if not isinstance(raw, dict):
        raise RunError(f"{path}: is a {type(raw).__name__}; expected an object of language to number")
    entries = []
    for code, value in raw.items():
        place = f"{path}, key {code!r}"
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise RunError(f"{place}: found {value!r}; expected a number without quotes")
        entries.append((place, code, _number(str(value), place)))
    return entries


def _entries_of_csv(path: Path) -> list[tuple[str, str, float]]:
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RunError(f"{path}: not UTF-8 ({error}); save it as UTF-8") from error
    header, _, _ = text.partition("\n")
    delimiter = next((mark for mark in _DELIMITERS if mark in header), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    entries = []
    try:
        for row in reader:
            place = f"{path}, line {reader.line_num}"
            if not any(cell.strip() for cell in row):
                continue
            if len(row) != _COLUMNS:
                raise RunError(
                    f"{place}: {len(row)} columns; expected language and value, separated by comma, semicolon or tab"
                )
            entries.append((place, row[0], row[1]))
    except csv.Error as error:
        raise RunError(f"{path}, line {reader.line_num}: not CSV ({error}); check its quotes") from error
    return _without_header(entries)


def _without_header(entries: list[tuple[str, str, str]]) -> list[tuple[str, str, float]]:
    """Take the first line as names of columns; a number there means that the header is missing."""
    if entries and _is_number(entries[0][2]):
        place, code, value = entries[0]
        raise RunError(f"{place}: {code!r} with {value!r} where a header was expected; add a line 'language,value'")
    return [(place, code, _number(value, place)) for place, code, value in entries[1:]]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text  # Python reads 1_000


def _number(text: str, place: str) -> float:
    if not _is_number(text) or not math.isfinite(float(text)):
        raise RunError(f"{place}: found {text!r}; expected a finite number with a decimal point")
    return float(text)
