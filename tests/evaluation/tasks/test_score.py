"""Outputs and likelihoods become scores; nothing empty is ever right."""

from __future__ import annotations

import math
import string
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax

from isogloss.errors import CorpusError
from isogloss.evaluation import Item, Task
from isogloss.evaluation.tasks.parse import parse_boxed, parse_latex, parse_number, parse_text
from isogloss.evaluation.tasks.score import (
    corpus_chrf,
    normalise_text,
    same_expression,
    score_bits,
    score_options,
    score_output,
    token_f1,
)

ENGLISH = "eng_Latn"


def task_of(*items, **options):
    """A task with these items in English."""
    return Task("t", {ENGLISH: items}, options.pop("parse", parse_text), max_new_tokens=1, **options)


@pytest.mark.parametrize("metric", ["accuracy", "f1", "chrf"])
@pytest.mark.parametrize("output", ["", "  \n", "\t"])
def test_an_empty_output_is_wrong(output, metric):
    """Nothing said is worth nothing, whatever the metric and even where the parser would let it through."""
    item = Item("0", "q", "x")
    for parse in (parse_text, lambda text: text):
        score = score_output(task_of(item, metric=metric, parse=parse), ENGLISH, item, output)
        assert (score.parsed, score.value) == (None, 0.0)
        assert score.correct is (None if metric == "chrf" else False)


def test_an_answer_is_no_substring_match():
    """An answer inside another is wrong, in both directions."""
    item = Item("0", "q", "18")
    task = task_of(item, parse=parse_number)
    assert score_output(task, ENGLISH, item, "it is 18.").correct is True
    assert not any(score_output(task, ENGLISH, item, text).correct for text in ("1", "8", "118", "180", "none"))


def test_stop_strings_end_an_answer_but_not_before_it_begins():
    """What follows the stop does not count, and white space in front is no answer."""
    item = Item("0", "q", "18")
    task = task_of(item, parse=parse_number, stop={ENGLISH: ("Question:", "\n")})
    assert score_output(task, ENGLISH, item, "\n\n18\n19").correct is True
    assert score_output(task, ENGLISH, item, "18 Question: 20").correct is True
    assert score_output(task, ENGLISH, item, "Question: 18").parsed is None


def test_a_language_may_have_its_own_parser():
    """A parser of the language goes before the task's."""
    item = Item("0", "q", "18")
    task = task_of(item, parse=parse_number, parsers={"deu_Latn": lambda _: "18"})
    assert score_output(task, "deu_Latn", item, "achtzehn").correct is True
    assert score_output(task, ENGLISH, item, "eighteen").correct is False


def squad_f1(said, expected):
    """F1 over words as SQuAD defines it, by precision and recall."""
    pool = list(expected)
    same = 0
    for word in said:
        if word in pool:
            pool.remove(word)
            same += 1
    if not same:
        return 0.0
    precision, recall = same / len(said), same / len(expected)
    return 2 * precision * recall / (precision + recall)


@given(st.lists(st.sampled_from("abc")), st.lists(st.sampled_from("abc")))
def test_f1_is_squads(said, expected):
    """Words are counted with their repetitions; the score is symmetric and 1 only for the same words."""
    assert token_f1(said, expected) == pytest.approx(squad_f1(said, expected))
    assert token_f1(said, expected) == token_f1(expected, said)
    assert (token_f1(said, expected) == 1) == (bool(said) and sorted(said) == sorted(expected))


@pytest.mark.parametrize(
    ("text", "language", "normal"),
    [
        ("The Denver Broncos.", "eng_Latn", "denver broncos"),
        ("Der  Hund!", "deu_Latn", "hund"),
        ("Los Ángeles", "spa_Latn", "ángeles"),
        ("野马队，2016年", "zho_Hans", "野 马 队 2016 年"),
        ("النص", "arb_Arab", "نص"),
        ("¿La “casa”?", "spa_Latn", "casa"),
        ("Другой текст — да", "rus_Cyrl", "другой текст да"),
        ("The", "eng_Latn", ""),
    ],
)
def test_text_is_normalised_by_language(text, language, normal):
    """Case, punctuation of all scripts and the articles of the language do not count."""
    assert normalise_text(text, language) == normal


@given(st.text(), st.sampled_from(["eng_Latn", "zho_Hans", "tha_Thai", "rus_Cyrl"]))
def test_normalised_text_holds_no_punctuation(text, language):
    """No ASCII mark and no outer white space is left."""
    normal = normalise_text(text, language)
    assert not set(normal) & set(string.punctuation)
    assert normal == normal.strip()


def test_exact_match_and_f1_of_spans():
    """Articles are forgiven, further words cost F1, and an answer of only an article must still be said."""
    item = Item("0", "q", "the Broncos")
    task = task_of(item, metric="f1")
    assert score_output(task, ENGLISH, item, "Broncos!") == ("Broncos!", True, 1.0)
    longer = score_output(task, ENGLISH, item, "Denver Broncos")
    assert (longer.correct, longer.value) == (False, pytest.approx(2 / 3))
    bare = Item("1", "q", "The")
    assert score_output(task, ENGLISH, bare, "the").correct is True
    assert score_output(task, ENGLISH, bare, "a").correct is False
    assert score_output(task, ENGLISH, item, "...").correct is False


@given(st.lists(st.floats(-50, 0), min_size=2, max_size=5, unique=True))
def test_the_most_likely_option_is_chosen(values):
    """The choice is the largest log-likelihood, as numpy finds it."""
    options = tuple("ABCDE"[: len(values)])
    item = Item("0", "q", "A", options, 0)
    score = score_options(task_of(item, scoring="options"), item, values)
    assert score.parsed == options[int(np.argmax(values))]
    assert score.correct is (int(np.argmax(values)) == 0)


def test_options_may_be_compared_per_byte():
    """Dividing by UTF-8 bytes lets a longer option win, and counts bytes, not characters."""
    item = Item("0", "q", "ถูก", ("ab", "ถูก"), 1)
    plain = task_of(item, scoring="options")
    assert score_options(plain, item, [-2.0, -6.0]).correct is False
    assert score_options(replace(plain, normalise="bytes"), item, [-2.0, -6.0]).correct is True
    assert score_options(replace(plain, normalise="bytes"), item, [-2.0, -9.5]).correct is False


@pytest.mark.parametrize("values", [[-1.0, -1.0], [math.nan, -1.0], [-math.inf, -math.inf]])
def test_no_choice_is_wrong(values):
    """A tie for the best, which a constant model would make, and a missing number choose nothing."""
    item = Item("0", "q", "A", ("A", "B"), 0)
    assert score_options(task_of(item, scoring="options"), item, values) == (None, False, 0.0)


def test_every_option_needs_a_likelihood():
    """A runner that scores too few options is told."""
    item = Item("0", "q", "A", ("A", "B"), 0)
    with pytest.raises(CorpusError, match="1 log-likelihoods for 2 options"):
        score_options(task_of(item, scoring="options"), item, [-1.0])


@given(st.text(min_size=1).filter(str.strip))
def test_bits_per_byte_of_a_uniform_model_over_bytes(text):
    """A model that finds all 256 bytes equally likely needs 8 bits for each, in every script."""
    size = len(text.encode())
    likelihood = size * float(log_softmax(np.zeros(256))[0])
    assert score_bits(Item("0", "", reference=text), likelihood).value == pytest.approx(8)


def test_chrf_is_sacrebleus():
    """Sentence and corpus scores agree with a computation of chrF2 by hand, and an empty output is 0."""
    pytest.importorskip("sacrebleu")
    item = Item("0", "q", "abcd")
    task = task_of(item, metric="chrf")
    assert score_output(task, ENGLISH, item, "abcd").value == pytest.approx(100)
    # abce: of n-grams of 1 to 4 characters, 3/4, 2/3, 1/2 and 0/1 match; precision equals recall for each.
    by_hand = 100 * np.mean([3 / 4, 2 / 3, 1 / 2, 0])
    assert score_output(task, ENGLISH, item, "abce").value == pytest.approx(by_hand)
    assert corpus_chrf(["abcd"], ["abcd"]) == pytest.approx(100)
    assert corpus_chrf(["abcd", None], ["abcd", "abcd"]) < corpus_chrf(["abcd", "abce"], ["abcd", "abcd"])
    assert corpus_chrf([None], ["abcd"]) == 0


BY_VALUE = [
    ("0.5", r"\frac{1}{2}"),
    ("n-1", "-1+n"),
    (r"2\sqrt{2}", r"\sqrt{8}"),
    ("1024", "2^{10}"),
    (r"\{2,1\}", r"\{1,2\}"),
    (r"\frac{\pi}{2}", r"\pi/2"),
]
NOT_ALIKE = [
    ("2n", "2"),
    ("[2,3)", "3"),
    ("(5,2)", "2"),
    ("(5,2)", "(2,5)"),
    ("(2,3]", "(2,3)"),
    ("1 or 2", "2"),
    ("1.2345678", "1.2345679"),
    ("nonsense", "3"),
]


@pytest.mark.parametrize(
    ("answer", "expected", "alike"), [*((*pair, True) for pair in BY_VALUE), *((*pair, False) for pair in NOT_ALIKE)]
)
def test_boxed_answers_are_compared_by_value(answer, expected, alike):
    """Where math-verify is installed, an answer that is written otherwise is right if it is worth the same."""
    pytest.importorskip("math_verify")
    task = Task("some", {"eng_Latn": [Item("1", "?", parse_latex(expected))]}, parse_boxed, 8, normalise="expressions")
    score = score_output(task, "eng_Latn", task.items["eng_Latn"][0], f"so $\\boxed{{{answer}}}$")
    assert score.correct is alike
    as_written = score_output(
        replace(task, normalise="none"), "eng_Latn", task.items["eng_Latn"][0], f"\\boxed{{{answer}}}"
    )
    assert as_written.correct is (parse_latex(answer) == parse_latex(expected))


def test_values_are_compared_in_the_main_thread_alone():
    """Elsewhere math-verify could not end a comparison that takes too long."""
    pytest.importorskip("math_verify")
    with ThreadPoolExecutor(1) as pool, pytest.raises(CorpusError, match="main thread alone"):
        pool.submit(same_expression, "n-1", "2").result()
