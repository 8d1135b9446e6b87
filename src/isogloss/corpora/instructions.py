"""Questions with answers, from data sets of the hub that models are tuned on: GSM8K-Instruct and MedInstruct."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from isogloss.corpora.corpus import Corpus, Turns, check_language, check_text, require_languages
from isogloss.corpora.hub import DEFAULT_CONFIG, Hub, HubRow
from isogloss.errors import CorpusError, LanguageError
from isogloss.languages import from_name, resolve

__all__ = ["INSTRUCTIONS", "load_instructions"]

_QUESTION = ("prompt", "question", "query", "instruction")
_ANSWER = ("chosen", "answer", "response", "output")
_LANGUAGE = ("language", "lang")
_INPUT = ("input", "context")

_ENGLISH = "eng_Latn"
_PARALLEL = tuple(map(resolve, ("en", "bn", "de", "es", "fr", "ja", "ru", "sw", "th", "zh")))
_ASKED_IN = re.compile(r"\b(?:answer|request) in (\w+)")
_WRAPPED = re.compile(r"### Instruction:\s*\n(.*?)\n\s*### Response:", re.DOTALL)
_NO_INPUT = ("", "<noinput>")
_SEED = 0


@dataclass(frozen=True)
class _Instructions:
    """How a data set is read.

    Attributes:
        hub: its repository.
        licence: SPDX identifier, or ``not stated``.
        columns: that are read, each with the spellings that are known.
        optional: of those, which may be missing.
        read: turns rows into item id -> language -> turns, and says how many of the items the published sample was
            drawn from: the rest comes behind them.
    """

    hub: Hub
    licence: str
    columns: tuple[tuple[str, ...], ...]
    optional: tuple[tuple[str, ...], ...]
    read: Callable[[Sequence[HubRow], str], tuple[dict[str, dict[str, Turns]], int]]


def load_instructions(
    name: str, local: str, wanted: tuple[str, ...] | None, split: str | None, *, revision: str | None = None
) -> Corpus:
    """Load questions with their answers from the hub (``local`` is empty), or from a copy, through the same calls.

    Items are in the order of one fixed draw (numpy's generator of random numbers of 2008, seed 0), so that the first n
    are a sample of n; of GSM8K-Instruct the first 500 are those that arXiv 2510.04694 drew.

    Raises:
        CorpusError: not reachable, no such language or split, or a column is missing: the message lists those found.
    """
    layout = INSTRUCTIONS[name]
    hub = replace(layout.hub, copy=Path(local) if local else None, revision=revision, commits=set())
    split = split or "train"
    where = f"{hub.where}, split {split}"
    rows = hub.rows(DEFAULT_CONFIG, split, layout.columns, optional=layout.optional)
    items, n_drawn = layout.read(rows, where)
    if not items:
        raise CorpusError(f"{where}: {len(rows)} rows and no item in all of its languages; expected the published file")
    ids = _in_drawn_order(list(items), n_drawn)
    codes = require_languages(items[ids[0]], wanted, where)
    turns = {code: tuple(items[item][code] for item in ids) for code in codes}
    texts = {code: tuple(each.text for each in turns[code]) for code in codes}
    source = f"{hub.repository}, split {split}"
    return Corpus(name, texts, tuple(ids), layout.licence, source, revision=hub.commit, turns=turns)


def _in_drawn_order(ids: Sequence[str], n_drawn: int) -> list[str]:
    """Put the first ``n_drawn`` items in the order of the draw, and leave the others behind them."""
    import numpy as np  # noqa: PLC0415 - takes a tenth of a second, and local texts need none

    return [*(ids[place] for place in np.random.RandomState(_SEED).permutation(n_drawn)), *ids[n_drawn:]]


def _parallel_items(rows: Sequence[HubRow], where: str) -> tuple[dict[str, dict[str, Turns]], int]:
    """Divide rows at the English ones, which come first of every item; keep items in all ten languages, each once.

    Source:
        The order of rows, and that items are drawn from all but the last: public analysis code of arXiv 2510.04694.
    """
    groups: list[list[tuple[str, Turns]]] = []
    for language, turns in _languages_of(rows, where):
        if language == _ENGLISH:
            groups.append([])
        if not groups:
            raise CorpusError(f"{where}: the first row is in {language}; expected English before its translations")
        if language in _PARALLEL:
            groups[-1].append((language, turns))
    complete = {
        str(number): dict(group)
        for number, group in enumerate(groups)
        if sorted(language for language, _ in group) == sorted(_PARALLEL)
    }
    return complete, len(complete) - (str(len(groups) - 1) in complete)


def _languages_of(rows: Sequence[HubRow], where: str) -> Iterator[tuple[str, Turns]]:
    """Yield language and turns of every row: the language as a column names it, or as the prompt asks for it."""
    names: dict[str, str] = {}
    for number, row in enumerate(rows, start=1):
        place = f"{where}, row {number}"
        prompt = check_text(row[_QUESTION[0]], place)
        asked = row.get(_LANGUAGE[0]) or next(iter(_ASKED_IN.findall(prompt)), None)
        if asked is None:
            raise CorpusError(
                f"{place}: no column {' or '.join(_LANGUAGE)}, and a prompt that names no language: {prompt[:60]!r}"
            )
        if asked not in names:
            names[asked] = _code(str(asked), place)
        question = _WRAPPED.search(prompt)
        user = question[1].strip() if question else prompt
        yield names[asked], Turns(user, check_text(row[_ANSWER[0]], place).strip())


def _code(name: str, where: str) -> str:
    try:
        return from_name(name)
    except LanguageError:
        return check_language(name, where)


def _single_items(rows: Sequence[HubRow], _where: str) -> tuple[dict[str, dict[str, Turns]], int]:
    """Take every row that has a question and an answer, in English; an input follows its instruction."""
    items = {}
    for number, row in enumerate(rows):
        question, given, answer = (str(row.get(name) or "").strip() for name in ("instruction", "input", "output"))
        if question and answer:
            user = question if given.lower() in _NO_INPUT else f"{question}\n{given}"
            items[str(number)] = {_ENGLISH: Turns(user, answer)}
    return items, len(items)


INSTRUCTIONS = MappingProxyType(
    {
        "gsm8k_instruct": _Instructions(
            Hub("Mathoctopus/GSM8KInstruct_Parallel", None, "gsm8k_instruct", alternative=""),
            licence="Apache-2.0",
            columns=(_QUESTION, _ANSWER, _LANGUAGE),
            optional=(_LANGUAGE,),
            read=_parallel_items,
        ),
        "medinstruct": _Instructions(
            Hub("lavita/AlpaCare-MedInstruct-52k", None, "medinstruct", alternative=""),
            licence="not stated",
            columns=(("instruction", "question", "prompt"), _INPUT, ("output", "response", "answer")),
            optional=(_INPUT,),
            read=_single_items,
        ),
    }
)
"""Data sets that `load_corpus` knows by these names, each item a question with its answer."""
