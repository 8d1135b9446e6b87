"""Load a corpus from a folder, a file or the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from isogloss.corpora.corpus import Corpus, requested_codes
from isogloss.corpora.hub import HUB_CORPORA, load_hub
from isogloss.corpora.instructions import INSTRUCTIONS, load_instructions
from isogloss.corpora.local import TABLE_READERS, load_folder, load_table
from isogloss.corpora.passages import holds_passages, load_passages
from isogloss.corpora.questions import holds_mgsm, load_mgsm_questions
from isogloss.errors import CorpusError
from isogloss.hub import split_revision

__all__ = ["load_corpus"]


def load_corpus(source: str, *, languages: Sequence[str] | None = None, split: str | None = None) -> Corpus:
    """Read a parallel corpus.

    Args:
        source: one of

            * a folder with one text file per language, ``xxx_Xxxx.*`` (or short codes), where line i has the same
              meaning in every file; hidden files and files not named by a language code are ignored, but a name that
              begins with a known code and is none (``en_clean.txt``) is an error;
            * a ``.jsonl`` or ``.tsv`` file with columns ``language``, ``text`` and, optionally, ``id`` (without ids,
              the n-th text of each language is item n) and ``assistant``, the answer to a text that is a question
              (`Corpus.turns`); fields of a ``.tsv`` are not quoted;
            * ``flores_plus``, ``belebele`` or ``mgsm`` (its questions), fetched from the Hugging Face hub, or
              ``flores_plus:FOLDER`` for a local copy of that repository; ``flores_plus@REVISION`` names a branch, tag
              or commit of the hub's;
            * ``belebele:FOLDER`` with ``FOLDER/belebele/passage_to_flores200.json`` and FLORES-200 in
              ``FOLDER/flores200``: the passages of Belebele, joined from the sentences of any of the 204 varieties,
              with the same ids as those of the hub;
            * ``mgsm:FOLDER`` with ``mgsm_xx.tsv`` files, as MGSM was released;
            * ``gsm8k_instruct`` (ten languages) or ``medinstruct`` (English): questions with answers from the hub, or
              from a local copy as above, in the order of one fixed draw; `Corpus.turns` holds both sides. MedInstruct's
              input follows its instruction.
        languages: the languages to read; None reads all.
        split: for a folder, the subfolder of this name or else the files with this suffix; for the hub, the split
            (``dev`` of flores_plus, ``test`` of the others by default).

    Returns:
        The corpus, items in the file's order (flores_plus by id, belebele by link, questions as drawn), one text per
        item and language.

    Raises:
        CorpusError: the source cannot be read, a language is missing or misaligned, or a text is empty or badly
            encoded.
        LanguageError: a requested language is unknown or given twice.

    Source:
        Belebele's passages de-duplicated and sorted by ``link``: Multilingual Routing in Mixture-of-Experts
        (arXiv 2510.04694), public analysis code.
    """
    wanted = None if languages is None else requested_codes(languages)
    name, _, local = source.partition(":")
    name, revision = split_revision(name)
    if local and revision and name in {*HUB_CORPORA, *INSTRUCTIONS}:
        raise CorpusError(f"{source}: a local copy has no revision; leave @{revision} out")
    if local and name == "belebele" and holds_passages(Path(local)):
        _refuse_split(source, split)
        return load_passages(Path(local), wanted)
    if local and name == "mgsm" and holds_mgsm(Path(local)):
        _refuse_split(source, split)
        return load_mgsm_questions(Path(local), wanted)
    if name in HUB_CORPORA:
        return load_hub(name, local, wanted, split, revision=revision)
    if name in INSTRUCTIONS:
        return load_instructions(name, local, wanted, split, revision=revision)
    path = Path(source)
    if path.is_dir():
        return load_folder(path, wanted, split)
    if path.suffix not in TABLE_READERS:
        known = ", ".join(sorted({*HUB_CORPORA, *INSTRUCTIONS}))
        raise CorpusError(f"{source}: no such corpus; expected a folder, a .jsonl or .tsv file, or one of {known}")
    _refuse_split(source, split)
    return load_table(path, wanted)


def _refuse_split(source: str, split: str | None) -> None:
    if split is not None:
        raise CorpusError(f"{source}: split {split!r} was requested, but this corpus has no splits; omit the split")
