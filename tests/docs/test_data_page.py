"""The examples of docs/data.md are read as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from isogloss.analysis.language_values import read_measure
from isogloss.corpora import load_corpus
from isogloss.evaluation import load_task
from isogloss.learning import data

PAGE = Path(__file__).parents[2] / "docs" / "data.md"


@pytest.fixture
def files(tmp_path):
    """The folder with every file of the page."""
    blocks = re.findall(r"^```\w+ (\S+)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 8
    for name, text in blocks:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(("name", "ids"), [("texts", ("1", "2")), ("texts.jsonl", ("river",)), ("texts.tsv", ("1",))])
def test_texts(files, name, ids):
    """Two languages, parallel."""
    corpus = load_corpus(str(files / name))
    assert set(corpus.languages) == {"eng_Latn", "swh_Latn"}
    assert corpus.item_ids == ids
    assert bool(corpus.turns) == (name == "texts.jsonl")


def test_questions(files):
    """Each language with its own decimal mark."""
    task = load_task(str(files / "sums"))
    assert {code: [item.answer for item in rows] for code, rows in task.items.items()} == {
        code: ["5", "3.5"] for code in ("deu_Latn", "eng_Latn")
    }


def test_examples(files):
    """Prompt and answer, or a text alone."""
    (items,) = data._read_file(files / "examples.jsonl").values()
    assert [item.reference for item in items] == ["5", "Mto ni mpana."]
    assert [bool(item.prompt) for item in items] == [True, False]


def test_values(files):
    """Per cent stay per cent."""
    assert read_measure(files / "accuracy.csv") == {"eng_Latn": 91.5, "swh_Latn": 60.2}
