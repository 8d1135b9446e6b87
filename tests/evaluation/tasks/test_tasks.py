"""Tasks load strictly, and answers are read off outputs as the published protocol does."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from calendar_days import DATED
from transformers import AutoTokenizer

from isogloss.backends.chat_template import TemplateDate
from isogloss.errors import CorpusError, RunError
from isogloss.evaluation import Item, Task, load_task
from isogloss.evaluation.tasks.parse import parse_number, parse_text
from isogloss.evaluation.tasks.render import continuations, render, uses_chat
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


TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}[{{ message.role }}] {{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% if enable_thinking is false %}<no-think>{% endif %}{% endif %}"
)


def question(**options):
    """A task with one question with two options."""
    item = Item("0", "q?", "B", ("A", "B"), 1)
    return item, Task("t", {"eng_Latn": [item]}, parse_text, 0, scoring="options", **options)


def chat_tokenizer():
    """A tokenizer with a beginning of text, which it also puts before every text, and a template with a switch."""
    tokenizer = AutoTokenizer.from_pretrained(model_folder())
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def test_a_chat_prompt_is_one_user_message_with_thinking_off():
    """The template's own text up to the assistant's turn, one beginning of text, and nothing before options."""
    tokenizer = chat_tokenizer()
    item, task = question(chat=True)
    assert uses_chat(tokenizer, task)
    assert render(tokenizer, item, task) == "<s>[user] q?[assistant]<no-think>"
    ids = tokenizer(render(tokenizer, item, task), add_special_tokens=False)["input_ids"]
    assert ids.count(tokenizer.bos_token_id) == 1
    assert continuations(tokenizer, item, task) == ("A", "B")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('needs a system message') }}", r"TemplateError: needs a system message\)"),
        ("{% for message in %}", "TemplateSyntaxError: "),
        ("{{ messages[0].content + 1 }}", "TypeError: "),
    ],
)
def test_a_template_that_fails_is_refused_with_its_own_message(template, message):
    """It raises, does not parse, or computes what cannot be computed."""
    tokenizer = chat_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(RunError, match=rf"chat template does not take this conversation \({message}") as caught:
        render(tokenizer, *question(chat=True))
    assert "\n" not in str(caught.value)


def test_a_template_writes_the_date_that_it_is_given():
    """Whatever day it is, in the template's own form; it is kept where a template asked for it alone."""
    tokenizer, (item, task) = chat_tokenizer(), question(chat=True)
    today = TemplateDate("2024-02-29")
    assert render(tokenizer, item, task, today)
    assert today.kept is None
    tokenizer.chat_template = DATED
    assert render(tokenizer, item, task, today) == "29 Feb 2024 q?"
    assert today.kept == "2024-02-29"
    assert render(tokenizer, item, task) == f"{datetime.now(UTC).astimezone():%d %b %Y} q?"
    for wrong in ("yesterday", "2023-02-29", 5):
        with pytest.raises(RunError, match="expected one such as 2026-08-05"):
            TemplateDate(wrong)


def test_prompts_stay_plain_where_no_chat_is_asked_for_or_possible():
    """A plain task or a tokenizer without a template leaves the prompt, and the delimiter stands before options."""
    item, plain = question()
    _, chat = question(chat=True)
    without = AutoTokenizer.from_pretrained(model_folder())
    assert without.chat_template is None
    for tokenizer, task in ((chat_tokenizer(), plain), (without, chat)):
        assert not uses_chat(tokenizer, task)
        assert render(tokenizer, item, task) == "q?"
        assert continuations(tokenizer, item, task) == (" A", " B")


def test_a_reference_follows_its_prompt_or_stands_alone():
    """A delimiter parts it from a prompt only; generated answers have nothing to measure."""
    tokenizer = AutoTokenizer.from_pretrained(model_folder())
    for prompt, text in (("q?", " ref"), ("", "ref")):
        item = Item("0", prompt, reference="ref")
        task = Task("t", {"eng_Latn": [item]}, parse_text, 0, scoring="reference", metric="bits_per_byte")
        assert continuations(tokenizer, item, task) == (text,)
    item = Item("0", "q?", "a")
    assert continuations(tokenizer, item, Task("t", {"eng_Latn": [item]}, parse_text, 1)) == ()


def test_chat_can_be_switched_and_is_then_written_down():
    """Another way of prompting than the protocol's is said in the protocol."""
    plain = load_task("organism", n_items=1, languages=["en"])
    chat = load_task("organism", n_items=1, languages=["en"], chat=True)
    assert (plain.chat, chat.chat) == (False, True)
    assert chat.protocol == plain.protocol + " (changed here: through the chat template)"
    assert load_task("organism", n_items=1, languages=["en"], chat=False) == plain


@pytest.mark.parametrize(
    ("item", "scoring", "fault"),
    [
        (Item("0", "q", ""), "generated", "empty expected answer"),
        (Item("0", "q", "  "), "generated", "empty expected answer"),
        (Item("0", " ", "a"), "generated", "empty prompt"),
        (Item("0", "q", "A", ("A",), 0), "options", "expected two or more"),
        (Item("0", "q", "", ("A", ""), 1), "options", "not empty"),
        (Item("0", "q", "A", ("A", "B"), 2), "options", "right option 2 of 2"),
        (Item("0", "q", "A", ("A", "B"), -1), "options", "right option -1 of 2"),
        (Item("0", "q", "A", ("A", "B"), 1), "options", "is not 'A'"),
        (Item("0", "q", reference=" "), "reference", "empty reference"),
    ],
)
def test_items_that_cannot_be_scored_are_refused(item, scoring, fault):
    """Whatever an item lacks for its scoring is named with the item."""
    with pytest.raises(CorpusError, match=f"task t, eng_Latn, item '0': .*{fault}"):
        Task("t", {"eng_Latn": [item]}, parse_text, 1, scoring=scoring)


def test_shots_never_stand_among_the_items():
    """An example with the id of an item is refused."""
    item = Item("0", "q", "a")
    with pytest.raises(CorpusError, match="few-shot"):
        Task("t", {"eng_Latn": [item]}, parse_text, 1, few_shot={"eng_Latn": [item]})


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (["0"], "only one of them has item '1'"),
        (["1", "0"], "another order"),
        (["0", "2"], "only one of them has item '1'"),
        ([], "no items in deu_Latn"),
    ],
)
def test_languages_with_other_items_are_refused(other, message):
    """The odd language and item are named."""
    items = {"eng_Latn": [Item(i, "q", "a") for i in ("0", "1")], "deu_Latn": [Item(i, "q", "a") for i in other]}
    with pytest.raises(CorpusError, match=message):
        Task("t", items, parse_text, 1)
    with pytest.raises(CorpusError, match="twice"):
        Task("t", {"eng_Latn": [Item("0", "q", "a")] * 2}, parse_text, 1)
