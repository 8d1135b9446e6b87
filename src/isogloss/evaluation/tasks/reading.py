"""Reads rows of published data sets: from the hub, from a copy of a hub repository, or from the original release."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from isogloss.corpora import Hub, check_text, full_code, read_text, require_languages
from isogloss.errors import CorpusError, shorten
from isogloss.evaluation.tasks.task import Item, Parse, Task, TaskSplit
from isogloss.files import parse_json

__all__ = ["DataSet", "Request", "glob_languages", "published", "read_csv", "read_rows", "text_of"]

Rows: TypeAlias = tuple[str, list[tuple[str, Any]]]
"""A language with its rows, each after its place for messages."""

Words = TypeVar("Words")


@dataclass(frozen=True)
class Request:
    """What `load_task` was given.

    Attributes:
        name: of the task, without variant.
        variant: empty for the plain task.
        argument: what follows ``=`` after the variant; empty without.
        path: folder or file; None for the hub.
        languages: full codes; None for all.
        split: None for all items.
        n_items: first items to keep, after the split; None for all.
        revision: branch, tag or commit of the hub's data set; None for its main branch.
        commits: by repository, those that were read so far.
    """

    name: str
    variant: str
    argument: str
    path: Path | None
    languages: tuple[str, ...] | None
    split: TaskSplit | None
    n_items: int | None = None
    revision: str | None = None
    commits: dict[str, set[str]] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Name with variant, as users write it."""
        return f"{self.name}:{self.variant}" if self.variant else self.name

    @property
    def read_from(self) -> str | None:
        """``REPOSITORY@COMMIT`` of all that was read from the hub so far; None where that is unknown, or nothing."""
        read = (f"{name}@{commit}" for name, commits in sorted(self.commits.items()) for commit in sorted(commits))
        return ", ".join(read) or None

    def hub(self, repository: str, *, prefix: str = "") -> Hub:
        """Return the repository, or the copy of it that was named."""
        commits = self.commits.setdefault(repository, set())
        return Hub(repository, self.path, self.title, prefix=prefix, revision=self.revision, commits=commits)


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


def glob_languages(folder: Path, pattern: str, code: Callable[[Path], str | None]) -> dict[str, Path]:
    """Return full language code to file, for the files of a pattern whose name contains a language.

    Raises:
        CorpusError: two files are of the same language.
    """
    files: dict[str, Path] = {}
    for path in sorted(folder.glob(pattern)):
        language = code(path)
        if language in files:
            raise CorpusError(f"{files[language]} and {path} are both {language}; remove one")
        if language is not None:
            files[language] = path
    return files


@dataclass(frozen=True)
class DataSet:
    """A published data set, one configuration of the hub or one file of the original release per language.

    Attributes:
        repository: on the hub.
        columns: of the hub that are read.
        licence: SPDX identifier of the texts, or ``not stated``.
        source: where the texts were published, for an evaluation's settings.
        patterns: of the original release's files, ``{split}`` for the split's name there; the first one that matches
            any file counts.
        code: full code of the language that a file is in, or None.
        read: returns the rows of a file.
        prefix: what precedes the language in the name of a configuration.
    """

    repository: str
    columns: tuple[str, ...]
    licence: str
    source: str
    patterns: tuple[str, ...] = ()
    code: Callable[[Path], str | None] = lambda path: full_code(path.stem)
    read: Callable[[Path], list[Any]] = read_rows
    prefix: str = ""

    def rows(self, request: Request, split: str = "test", *, file_split: str = "") -> Iterator[Rows]:
        """Yield the rows of every language requested: from files where there are any, else from the hub or a copy.

        Args:
            request: what `load_task` was given.
            split: of the hub.
            file_split: its name in the original release, if it is another.

        Raises:
            CorpusError: a language is not available, or its rows cannot be read.
        """
        hub = request.hub(self.repository, prefix=self.prefix)
        files: dict[str, Path] = {}
        for pattern in self.patterns if request.path is not None else ():
            name = pattern.format(split=file_split or split)
            files = files or glob_languages(Path(hub.where), name, self.code)
        configs = {} if files else hub.configs()
        for code in require_languages(files or configs, request.languages, hub.where):
            if files:
                where, rows = str(files[code]), self.read(files[code])
            else:
                where, rows = f"{hub.where}, {code}, {split}", hub.rows(configs[code], split, self.columns)
            yield code, [(f"{where}:{number}", row) for number, row in enumerate(rows, start=1)]

    def task(self, request: Request, items: Mapping[str, Sequence[Item]], parse: Parse, **fields: Any) -> Task:  # noqa: ANN401 - fields of a Task
        """Build a task from its items."""
        common = {"licence": self.licence, "source": self.source, "split": request.split}
        return Task(request.title, items, parse, **(common | fields))


def published(table: Mapping[str, Words], code: str, what: str, where: str) -> Words:
    """Return what was published for a language; CorpusError where there is nothing, which no one should invent."""
    if code not in table:
        raise CorpusError(f"{where}: no {what} in {code}; it has {', '.join(table)}")
    return table[code]


def read_csv(path: Path) -> Iterator[list[str]]:
    """Yield the records of a comma-separated file, quoted where needed; CorpusError where it is none."""
    reader = csv.reader(io.StringIO(read_text(path, allow_mark=True), newline=""))
    try:
        yield from reader
    except csv.Error as error:
        raise CorpusError(f"{path}:{reader.line_num}: not CSV ({error}); check its quotes") from error


def text_of(row: Any, column: str, where: str) -> str:  # noqa: ANN401 - a row as it was published
    """Return a text of a row, without white space around it.

    Raises:
        CorpusError: there is no such column, nothing in it, or neither a text nor a number.
    """
    if not isinstance(row, Mapping) or column not in row:
        columns = sorted(row) if isinstance(row, Mapping) else type(row).__name__
        raise CorpusError(f"{where}: no {column}; it has {columns}")
    value = row[column]
    if isinstance(value, bool) or not isinstance(value, str | int | float | None):
        raise CorpusError(f"{where}: {column} is {shorten(value)}, expected a text or a number")
    text = "" if value is None else str(value).strip()
    if not text:
        raise CorpusError(f"{where}: {column} is empty")
    return check_text(text, where)


def _parse_line(path: Path, number: int, line: str) -> Any:  # noqa: ANN401 - any JSON
    try:
        return parse_json(line)
    except ValueError as error:
        raise CorpusError(f"{path}:{number}: not JSON ({error})") from error
