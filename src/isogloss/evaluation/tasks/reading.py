"""Reads rows of published data sets: from the hub, from a copy of a hub repository, or from the original release."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isogloss.corpora.corpus import require_languages
from isogloss.corpora.hub import Hub
from isogloss.corpora.local import read_text
from isogloss.errors import CorpusError
from isogloss.evaluation.tasks.task import Split
from isogloss.files import parse_json

__all__ = ["Request", "glob_languages", "read_csv", "read_languages", "read_rows", "text_of"]


@dataclass(frozen=True)
class Request:
    """What `load_task` was asked for.

    Attributes:
        name: of the task, without variant.
        variant: empty for the plain task.
        argument: what follows ``=`` behind the variant; empty without.
        path: folder or file; None for the hub.
        languages: full codes; None for all.
        split: None for all items.
    """

    name: str
    variant: str
    argument: str
    path: Path | None
    languages: tuple[str, ...] | None
    split: Split | None

    @property
    def title(self) -> str:
        """Name with variant, as users write it."""
        return f"{self.name}:{self.variant}" if self.variant else self.name


def read_rows(path: Path) -> list[Any]:
    """Return the values of a JSON Lines file, or those of the one list or object in a JSON file.

    Raises:
        CorpusError: not JSON; names the line.
    """
    text = read_text(path, allow_mark=True)
    try:
        value = parse_json(text)
    except ValueError:
        return [_parse_line(path, number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    return value if isinstance(value, list) else [value]


def read_languages(
    request: Request,
    hub: Hub,
    files: Mapping[str, Path],
    *,
    split: str,
    columns: Sequence[str],
    read: Callable[[Path], list[Any]] = read_rows,
) -> Iterator[tuple[str, str, list[Any]]]:
    """Read the rows of every language asked for: from files where there are any, else from the hub or a copy of it.

    Args:
        request: what `load_task` was asked for.
        hub: of the data set.
        files: full language code -> file of the original release; empty for the hub.
        split: of the hub.
        columns: of the hub.
        read: returns the rows of a file.

    Yields:
        Full language code, file or configuration for messages, and rows.

    Raises:
        CorpusError: a language is not available, or its rows cannot be read.
    """
    configs = {} if files else hub.configs()
    for code in require_languages(files or configs, request.languages, hub.where):
        if files:
            yield code, str(files[code]), read(files[code])
        else:
            yield code, f"{hub.where}, {code}, {split}", hub.rows(configs[code], split, columns)


def glob_languages(folder: Path, pattern: str, code: Callable[[Path], str | None]) -> dict[str, Path]:
    """Return full language code to file, for the files of a pattern whose name says a language.

    Raises:
        CorpusError: two files are of the same language.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.glob(pattern)):
        language = code(path)
        if language in found:
            raise CorpusError(f"{found[language]} and {path} are both {language}; remove one")
        if language is not None:
            found[language] = path
    return found


def read_csv(path: Path) -> Iterator[list[str]]:
    """Yield the records of a comma-separated file, quoted where needed."""
    yield from csv.reader(io.StringIO(read_text(path, allow_mark=True), newline=""))


def text_of(row: Any, column: str, where: str) -> str:  # noqa: ANN401 - a row as it was published
    """Return a text of a row, without white space around it.

    Raises:
        CorpusError: there is no such column, or nothing in it.
    """
    if not isinstance(row, Mapping) or column not in row:
        found = sorted(row) if isinstance(row, Mapping) else type(row).__name__
        raise CorpusError(f"{where}: no {column}; it has {found}")
    text = "" if row[column] is None else str(row[column]).strip()
    if not text:
        raise CorpusError(f"{where}: {column} is empty")
    return text


def _parse_line(path: Path, number: int, line: str) -> Any:  # noqa: ANN401 - any JSON
    try:
        return parse_json(line)
    except ValueError as error:
        raise CorpusError(f"{path}:{number}: not JSON ({error})") from error
