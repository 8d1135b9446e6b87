"""Questions with answers are read from the hub's layout, in the languages and the order that the paper took."""

from __future__ import annotations

import json

import numpy as np
import pytest
from published_layouts import NAMES, copy_of
from published_layouts import instruction_prompt as prompt

from isogloss.corpora import Turns, load_corpus
from isogloss.errors import CorpusError

CODES = "ben_Beng deu_Latn eng_Latn fra_Latn jpn_Jpan rus_Cyrl spa_Latn swh_Latn tha_Thai zho_Hans"


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    """Keep what `datasets` caches inside the test's folder."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def parallel_rows(n_items, *, without=()):
    """Rows as published, English first of each item; those of (item, language) left out."""
    return [
        {"prompt": prompt(name, f"{name} question {item}"), "chosen": f"{name} answer {item}", "rejected": "none"}
        for item in range(n_items)
        for name in NAMES
        if (item, name) not in without
    ]


def test_gsm8k_instruct_has_the_items_of_all_ten_languages(tmp_path):
    """As turns, the prompt's frame left out; a row of Telugu, an item without Thai and one twice in German are not."""
    rows = parallel_rows(9, without={(3, "Thai")})
    rows.insert(4, {"prompt": prompt("Telugu", "?"), "chosen": "?", "rejected": ""})
    german = next(row for row in rows if "German question 5" in row["prompt"])
    rows.insert(rows.index(german), german)
    folder = copy_of(tmp_path / "copy", rows)
    corpus = load_corpus(f"gsm8k_instruct:{folder}")
    assert " ".join(corpus.languages) == CODES
    assert sorted(corpus.item_ids) == ["0", "1", "2", "4", "6", "7", "8"]
    item = corpus.item_ids.index("6")
    assert corpus.turns["swh_Latn"][item] == Turns("Swahili question 6", "Swahili answer 6")
    assert corpus.texts["swh_Latn"][item] == "Swahili question 6\nSwahili answer 6"
    english = load_corpus(f"gsm8k_instruct:{folder}", languages=["en"])
    assert english.item_ids == corpus.item_ids
    assert english.sha256("en") == corpus.sha256("en")
    assert str(tmp_path) not in corpus.source


def test_the_first_items_are_those_that_the_paper_drew(tmp_path):
    """It draws with numpy's seed 0 from all complete items but the last one of the file, which comes last here."""
    corpus = load_corpus(f"gsm8k_instruct:{copy_of(tmp_path / 'copy', parallel_rows(40))}", languages=["en"])
    np.random.seed(0)  # noqa: NPY002 - what the paper's code calls
    drawn = np.random.choice(range(39), 12, replace=False)  # noqa: NPY002 - as above
    assert corpus.item_ids[:12] == tuple(map(str, drawn))
    assert corpus.item_ids[-1] == "39"
    assert len(corpus.select(["en"], corpus.item_ids[:12]).turns["eng_Latn"]) == 12


def test_other_spellings_of_columns_are_read(tmp_path):
    """A column that names the language, questions without a frame; what is none is refused with the columns found."""
    rows = [
        {"lang": name, "query": f"{name} {item}", "response": f"answer {item}"} for item in range(3) for name in NAMES
    ]
    corpus = load_corpus(f"gsm8k_instruct:{copy_of(tmp_path / 'copy', rows)}", languages=["zh"])
    assert set(corpus.turns["zho_Hans"]) == {Turns(f"Chinese {item}", f"answer {item}") for item in range(3)}
    wrong = [{"problem": "1 + 1", "chosen": "2"}]
    with pytest.raises(CorpusError, match=r"no column prompt or question or query or instruction; it has \['problem'"):
        load_corpus(f"gsm8k_instruct:{copy_of(tmp_path / 'wrong', wrong)}")
    with pytest.raises(CorpusError, match="row 1: no column language or lang, and a prompt that names no language"):
        load_corpus(f"gsm8k_instruct:{copy_of(tmp_path / 'none', [{'question': '1 + 1', 'answer': '2'}])}")
    with pytest.raises(CorpusError, match="no item in all of its languages"):
        load_corpus(f"gsm8k_instruct:{copy_of(tmp_path / 'few', parallel_rows(2, without={(0, 'Thai'), (1, 'Thai')}))}")


def test_medinstruct_is_english_questions_with_their_input(tmp_path):
    """An input follows its instruction, where there is one; rows without an answer are left out."""
    rows = [
        {"instruction": "Name the organ.", "input": "It pumps blood.", "output": "The heart."},
        {"instruction": "What is a fever?", "input": "<noinput>", "output": "A high temperature."},
        {"instruction": "What is a cold?", "input": "", "output": ""},
    ]
    corpus = load_corpus(f"medinstruct:{copy_of(tmp_path / 'copy', rows, 'train.json')}")
    assert corpus.languages == ("eng_Latn",)
    assert dict(zip(corpus.item_ids, corpus.turns["eng_Latn"], strict=True)) == {
        "0": Turns("Name the organ.\nIt pumps blood.", "The heart."),
        "1": Turns("What is a fever?", "A high temperature."),
    }
    with pytest.raises(CorpusError, match="no texts in deu_Latn"):
        load_corpus(f"medinstruct:{tmp_path / 'copy'}", languages=["de"])


def test_a_table_may_hold_answers(tmp_path):
    """A column ``assistant``, in every row or in none."""
    rows = [{"language": "en", "text": "One?", "assistant": "1"}, {"language": "en", "text": "Two?", "assistant": "2"}]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert load_corpus(str(path)).turns["eng_Latn"] == (Turns("One?", "1"), Turns("Two?", "2"))
    del rows[1]["assistant"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(CorpusError, match="some rows have an answer of the assistant and others do not"):
        load_corpus(str(path))


def test_real_questions_are_read_as_published(tmp_path, shared_data):
    """GSM8K's own test questions in the published layout: the same texts come back."""
    lines = (shared_data / "gsm8k" / "test.jsonl").read_text(encoding="utf-8").splitlines()[:50]
    problems = [json.loads(line) for line in lines]
    rows = [
        {"prompt": prompt(name, each["question"]), "chosen": each["answer"], "rejected": "-"}
        for each in problems
        for name in NAMES
    ]
    corpus = load_corpus(f"gsm8k_instruct:{copy_of(tmp_path / 'copy', rows)}", languages=["en"])
    for item, turns in zip(corpus.item_ids, corpus.turns["eng_Latn"], strict=True):
        each = problems[int(item)]
        assert turns == Turns(each["question"].strip(), each["answer"].strip())
