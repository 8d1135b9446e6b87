"""Belebele's passages in every variety of FLORES-200, built from FLORES-200's sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from isogloss.corpora.corpus import Corpus, item_id
from isogloss.corpora.local import load_folder, read_text
from isogloss.errors import CorpusError
from isogloss.files import parse_json

__all__ = ["holds_passages", "load_passages"]

_MAP = Path("belebele", "passage_to_flores200.json")
_SENTENCES = "flores200"
_SPLITS = ("dev", "devtest")


class _Passage(NamedTuple):
    """A passage: its link, and its sentences as pairs of split and 0-based line."""

    link: str
    sentences: tuple[tuple[str, int], ...]
    where: str


def holds_passages(folder: Path) -> bool:
    """Return whether a folder contains the map from passages to sentences."""
    return (folder / _MAP).is_file()


def load_passages(folder: Path, wanted: tuple[str, ...] | None) -> Corpus:
    """Build Belebele's passages by joining sentences of FLORES-200 with one space.

    Every passage of Belebele is a sequence of FLORES-200 sentences, so all 488 can be built in each of the 204
    varieties; the data set has 117 of them (its other five are romanisations outside FLORES-200). Sentences are not
    changed.

    Some copies of the data set contain passages with CSV quoting (RFC 4180): the passage is enclosed in quotation
    marks, and those inside it are doubled. After unquoting, all 488 English and German passages equal those built here
    (396 and 441 do before). The quoting is not part of the text and is not reproduced.

    Args:
        folder: contains ``belebele/passage_to_flores200.json`` (a list of ``{"link": text, "flores": [[split, 0-based
            line], …]}``) and ``flores200/dev`` and ``flores200/devtest`` (``xxx_Xxxx.*``, line-aligned).
        wanted: full codes; None for all.

    Returns:
        The corpus: items are passages, named and ordered by link as those of the data set on the hub.

    Raises:
        CorpusError: the map is malformed or names a line that does not exist, or a language lacks a split.

    Source:
        The Belebele Benchmark (arXiv 2308.16884) and FLORES-200 (arXiv 2207.04672), both CC-BY-SA-4.0.
    """
    passages = sorted(_read_map(folder / _MAP))
    links = tuple(passage.link for passage in passages)
    repeated = next((link for link, following in pairwise(links) if link == following), None)
    if repeated is not None:
        raise CorpusError(f"{folder / _MAP}: link {repeated!r} appears twice; expected one entry per passage")
    splits = {split: _read_split(folder / _SENTENCES / split, wanted) for split in _SPLITS}
    _require_both(splits, folder / _SENTENCES)
    for passage in passages:
        _require_lines(passage, splits)
    texts = {
        language: tuple(
            " ".join(splits[split].texts[language][line] for split, line in passage.sentences) for passage in passages
        )
        for language in splits[_SPLITS[0]].languages
    }
    return Corpus("belebele", texts, links, "CC-BY-SA-4.0", "FLORES-200, joined to the passages of facebook/belebele")


def _read_split(folder: Path, wanted: tuple[str, ...] | None) -> Corpus:
    if not folder.is_dir():
        raise CorpusError(f"{folder}: no such folder; expected the sentences of FLORES-200, one xxx_Xxxx.* per variety")
    return load_folder(folder, wanted, None)


def _require_both(splits: Mapping[str, Corpus], folder: Path) -> None:
    for one, other in (_SPLITS, _SPLITS[::-1]):
        lacking = sorted(set(splits[other].languages) - set(splits[one].languages))
        if lacking:
            raise CorpusError(
                f"{folder / one}: no texts in {', '.join(lacking)}, which {other} has; passages need both splits: "
                "add the files, or omit these languages"
            )


def _require_lines(passage: _Passage, splits: Mapping[str, Corpus]) -> None:
    for split, line in passage.sentences:
        n_lines = len(splits[split].item_ids)
        if line >= n_lines:
            raise CorpusError(
                f"{passage.where}: line {line} of {split}, whose files have {n_lines} lines (0 to {n_lines - 1}); "
                "restore the map or the sentences"
            )


def _read_map(path: Path) -> Iterator[_Passage]:
    try:
        entries = parse_json(read_text(path))
    except ValueError as error:
        raise CorpusError(f"{path}: not JSON ({error}); restore the file") from error
    if not isinstance(entries, list) or not entries:
        raise CorpusError(f"{path}: expected a list of passages, at least one; restore the file")
    for number, entry in enumerate(entries):
        where = f"{path}, entry {number}"
        sentences = entry.get("flores") if isinstance(entry, dict) else None
        if not isinstance(sentences, list) or not sentences or not all(map(_is_sentence, sentences)):
            raise CorpusError(
                f"{where}: {str(entry)[:80]}; expected an object with link and flores, a list of [split, line] with "
                f"split {' or '.join(_SPLITS)} and line from 0"
            )
        yield _Passage(item_id(entry.get("link"), where), tuple((split, line) for split, line in sentences), where)


def _is_sentence(raw: Any) -> bool:  # noqa: ANN401 - whatever JSON holds
    if not isinstance(raw, list) or len(raw) != len(("split", "line")):
        return False
    split, line = raw
    return split in _SPLITS and type(line) is int and line >= 0
