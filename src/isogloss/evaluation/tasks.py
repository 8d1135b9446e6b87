"""Tasks: prompts with known answers, the same items in every language."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from isogloss.errors import CorpusError
from isogloss.languages import resolve
from isogloss.organism.realise import grammar_languages
from isogloss.organism.shipped import ORGANISM, problem_items

__all__ = ["Item", "Task", "load_task", "parse_number"]

# The longest working, such as 16+17=20+13=33 33+18=40+11=51, has 29 tokens and an end.
_ORGANISM_TOKENS = 30

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


class Item(NamedTuple):
    """One question in one language."""

    item_id: str
    prompt: str
    answer: str


@dataclass(frozen=True)
class Task:
    """Items per language and how an answer is read off the model's output.

    Attributes:
        name: for tables and files.
        items: full language code to items; ids agree between languages.
        parse: the answer in an output, or None where there is none (which counts as wrong).
        max_new_tokens: most tokens per answer.
    """

    name: str
    items: Mapping[str, Sequence[Item]]
    parse: Callable[[str], str | None]
    max_new_tokens: int


def parse_number(output: str) -> str | None:
    """Return the last number of an output without thousands separators and trailing zeros, or None.

    Source:
        The flexible-extract filter of lm-evaluation-harness's mgsm tasks: the last number counts.
    """
    found = _NUMBER.findall(output)
    if not found:
        return None
    number = str(found[-1]).replace(",", "")
    return number.rstrip("0").rstrip(".") if "." in number else number


def load_task(source: str, *, languages: Sequence[str] | None = None, n_items: int | None = None) -> Task:
    """Load a task.

    Args:
        source: ``organism`` for the shipped model's held-out word problems, or a folder with one file per language,
            ``xxx_Xxxx.tsv`` or ``FOLDER_code.tsv`` (as in MGSM), each line a question, a tab, and a number.
        languages: codes to keep; None for all.
        n_items: first items to keep; None for all (200 for the organism).

    Raises:
        CorpusError: no such task, a language is missing, or a file is malformed; the message names file and line.
    """
    wanted = None if languages is None else [resolve(code) for code in languages]
    if source == ORGANISM:
        items = _organism_items(wanted, n_items or 200)
        return Task("organism-problems", items, parse_number, max_new_tokens=_ORGANISM_TOKENS)
    folder = Path(source)
    if not folder.is_dir():
        raise CorpusError(f"no task {source!r}; expected 'organism' or a folder with one xxx_Xxxx.tsv per language")
    files = {resolve(path.stem.removeprefix(f"{folder.name}_")): path for path in sorted(folder.glob("*.tsv"))}
    missing = set(wanted or files) - set(files)
    if missing or not files:
        raise CorpusError(f"{folder} has no file for {', '.join(sorted(missing)) or 'any language'}; it needs *.tsv")
    items = {code: _read_items(files[code])[:n_items] for code in wanted or files}
    lengths = {code: len(rows) for code, rows in items.items()}
    if len(set(lengths.values())) > 1:
        raise CorpusError(f"{folder}: languages have different numbers of items: {lengths}; line i must be one item")
    return Task(folder.name, items, parse_number, max_new_tokens=256)


def _organism_items(wanted: list[str] | None, n_items: int) -> dict[str, list[Item]]:
    unknown = set(wanted or ()) - set(grammar_languages())
    if unknown:
        known = ", ".join(grammar_languages())
        raise CorpusError(f"the organism has no problems in {', '.join(sorted(unknown))}; it knows {known}")
    return {code: [Item(*row) for row in problem_items(n_items, code)] for code in wanted or grammar_languages()}


def _read_items(path: Path) -> list[Item]:
    items = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}); convert it") from error
    for number, line in enumerate(lines, start=1):
        question, tab, answer = line.partition("\t")
        parsed = parse_number(answer)
        if not question.strip() or not tab or parsed is None:
            raise CorpusError(f"{path}:{number}: expected a question, a tab and a number, found {line[:60]!r}")
        items.append(Item(f"{number - 1}", question + "\n", parsed))
    return items
