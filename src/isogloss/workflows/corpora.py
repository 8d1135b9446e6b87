"""Opens a corpus by name: a folder or file, a data set of the hub, or the texts of the organism."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from isogloss.corpora import Corpus, load_corpus
from isogloss.errors import CorpusError
from isogloss.languages import resolve
from isogloss.organism import ORGANISM, grammar_languages, problem_corpus, scene_corpus

__all__ = ["open_corpus", "open_corpus_to_capture"]

_PROBLEMS = f"{ORGANISM}:problems"


def open_corpus(
    source: str, *, languages: Sequence[str] | None = None, split: str | None = None, n_items: int | None = None
) -> Corpus:
    """Read a corpus.

    Args:
        source: a folder with one line-aligned text file per language, a ``.jsonl`` or ``.tsv`` file, the name of a
            corpus of the hub (``flores_plus``, ``belebele``, ``mgsm``, ``gsm8k_instruct``, ``medinstruct``;
            ``NAME:FOLDER`` for a copy, ``NAME@REVISION`` for a commit), as `isogloss.corpora.load_corpus` says in full;
            or ``organism`` (scenes of the small world) or ``organism:problems`` (word problems with their working).
        languages: codes; None for all.
        split: of sources that have some.
        n_items: first items to keep; None for all (200 of the organism's).

    Raises:
        CorpusError: the source cannot be read, a language is missing or misaligned, a text is empty or badly encoded,
            or fewer than 1 items were asked for.
        LanguageError: a language is unknown or given twice.
    """
    if n_items is not None and n_items < 1:
        raise CorpusError(f"{n_items} items were asked for; expected 1 or more, or None for all")
    if source in (ORGANISM, _PROBLEMS):
        return _organism_corpus(source, languages, n_items or 200)
    corpus = load_corpus(source, languages=languages, split=split)
    return corpus if n_items is None else corpus.select(corpus.languages, corpus.item_ids[:n_items])


def open_corpus_to_capture(
    source: str, *, languages: Sequence[str] | None = None, split: str | None = None, n_items: int | None = None
) -> Corpus:
    """Read a corpus as `open_corpus` does; of a local one also the other languages, where they can be read with these.

    A Run keeps the hashes of all texts that were read, so that what is captured later, or elsewhere, in another
    language is of the same texts.
    """
    if languages is not None and Path(source).exists():
        with contextlib.suppress(CorpusError):
            corpus = open_corpus(source, split=split, n_items=n_items)
            corpus.select(languages)  # where one is missing, it is refused below
            return corpus
    return open_corpus(source, languages=languages, split=split, n_items=n_items)


def _organism_corpus(source: str, languages: Sequence[str] | None, n_items: int) -> Corpus:
    codes = tuple(grammar_languages() if languages is None else sorted({resolve(code) for code in languages}))
    unknown = sorted(set(codes) - set(grammar_languages()))
    if unknown:
        known = ", ".join(grammar_languages())
        raise CorpusError(f"corpus {source}: no texts in {', '.join(unknown)}; it has {known}")
    make = scene_corpus if source == ORGANISM else problem_corpus
    return make(n_items, languages=codes)
