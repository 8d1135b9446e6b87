"""What the corpora known by name are, and which files a corpus of one's own is: what `isogloss corpora` lists."""

from __future__ import annotations

from dataclasses import dataclass

from isogloss.records import Record

__all__ = ["CORPUS_FACTS", "CORPUS_LAYOUTS", "CorpusFacts", "CorpusLayout"]


@dataclass(frozen=True)
class CorpusFacts(Record):
    """A corpus as published.

    Attributes:
        name: after ``--corpus``.
        texts: what an item is.
        languages: how many.
        items: per language, by split where there are several.
        source: data set of the Hugging Face hub, or where the texts come from.
    """

    name: str
    texts: str
    languages: str
    items: str
    source: str


@dataclass(frozen=True)
class CorpusLayout(Record):
    """How files of one's own have to look.

    Attributes:
        source: what to write after ``--corpus``.
        layout: files, columns and keys.
    """

    source: str
    layout: str


CORPUS_FACTS = (
    CorpusFacts("flores_plus", "a sentence", "about 200", "dev 997, devtest 1,012", "openlanguagedata/flores_plus"),
    CorpusFacts("belebele", "a passage of a few sentences", "122", "test 488", "facebook/belebele"),
    CorpusFacts("mgsm", "a maths question", "11", "test 250", "juletxara/mgsm"),
    CorpusFacts(
        "gsm8k_instruct", "a maths question and its answer", "10", "about 6,500", "Mathoctopus/GSM8KInstruct_Parallel"
    ),
    CorpusFacts(
        "medinstruct", "a medical instruction and its answer", "1", "52,002 rows", "lavita/AlpaCare-MedInstruct-52k"
    ),
    CorpusFacts(
        "organism", "a description of the included model's small world", "14", "any number", "made by isogloss"
    ),
    CorpusFacts("organism:problems", "a word problem of that world", "14", "any number", "made by isogloss"),
)
"""Counts are those of the releases, of which a copy may hold fewer.

Of gsm8k_instruct they are the questions that are in all ten languages (6,504 in QAlign's copy of the questions), of
medinstruct the rows that its card names.
"""

CORPUS_LAYOUTS = (
    CorpusLayout("FOLDER", "one text file per language, xxx_Xxxx.txt or en.txt; line i means the same in every file"),
    CorpusLayout("FILE.jsonl", "one object per line: language, text; also id, and assistant for the answer"),
    CorpusLayout("FILE.tsv", "the same names as the heads of columns; fields are not quoted"),
    CorpusLayout("NAME:FOLDER", "a local copy of the repository of a corpus above"),
    CorpusLayout("NAME@REVISION", "a branch, tag or commit of the hub's"),
)
