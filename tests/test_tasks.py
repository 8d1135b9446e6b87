"""Tasks load strictly, and answers are read off outputs as the published protocol does."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from isogloss.errors import CorpusError
from isogloss.evaluation.tasks import load_task, parse_number
from isogloss.organism.shipped import model_folder
from isogloss.organism.world import draw_problem


@pytest.mark.parametrize(
    ("output", "answer"),
    [
        ("12+5=17", "17"),
        ("12+5=17 17-3=14", "14"),
        ("47+35=70+12=82 82-35=50-3=47", "47"),
        ("The answer is 1,234.", "1234"),
        ("5.50", "5.5"),
        ("2.0", "2"),
        ("-3", "-3"),
        ("", None),
        ("no number", None),
    ],
)
def test_last_number_counts(output, answer):
    """The last number is the answer; an empty or wordy output has none and is wrong."""
    assert parse_number(output) == answer


def test_organism_task_is_parallel():
    """All languages have the same ids and answers, and prompts end with the line break of training."""
    task = load_task("organism", n_items=5, languages=["en", "th"])
    assert list(task.items) == ["eng_Latn", "tha_Thai"]
    english, thai = task.items.values()
    assert [(i.item_id, i.answer) for i in english] == [(i.item_id, i.answer) for i in thai]
    assert all(item.prompt.endswith("\n") for item in (*english, *thai))


def test_no_working_is_cut_off():
    """The longest working and its end fit into the tokens that an answer may take."""
    tokenizer = AutoTokenizer.from_pretrained(model_folder())
    workings = [draw_problem(index, seed=0, split="test").working for index in range(2000)]
    longest = max(len(tokenizer(working, add_special_tokens=False)["input_ids"]) for working in workings)
    assert longest + 1 <= load_task("organism", n_items=1).max_new_tokens


def test_reads_the_published_mgsm_layout(shared_data):
    """The 11 languages of MGSM with 250 questions each, answers as numbers."""
    task = load_task(str(shared_data / "mgsm"))
    assert len(task.items) == 11
    assert {len(items) for items in task.items.values()} == {250}
    assert len({tuple(i.answer for i in items) for items in task.items.values()}) == 1


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"eng_Latn.tsv": b"how many?\t3\nno tab\n"}, r"eng_Latn.tsv:2: expected a question, a tab and a number"),
        ({"eng_Latn.tsv": b"how many?\tmany\n"}, r"eng_Latn.tsv:1"),
        ({"eng_Latn.tsv": b"\xff\xfe\t3\n"}, "not UTF-8"),
        ({"eng_Latn.tsv": b"a\t1\n", "deu_Latn.tsv": b"a\t1\nb\t2\n"}, "different numbers of items"),
        ({}, "any language"),
    ],
)
def test_bad_files_are_named(tmp_path, files, message):
    """Each kind of bad input names the file, and the line where there is one."""
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=message):
        load_task(str(tmp_path))


def test_missing_task_and_language_are_refused():
    """An unknown task or language says what there is."""
    with pytest.raises(CorpusError, match="expected 'organism' or a folder"):
        load_task("nowhere")
    with pytest.raises(CorpusError, match="kor_Hang"):
        load_task("organism", languages=["ko"])
