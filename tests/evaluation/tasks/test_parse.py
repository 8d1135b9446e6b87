"""Answers are read off outputs in every script, and what is no answer is none."""

from __future__ import annotations

import math
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isogloss.evaluation.tasks.maths import _BOX, _ERRATA
from isogloss.evaluation.tasks.parse import (
    parse_boxed,
    parse_latex,
    parse_letter,
    parse_number,
    parse_text,
    read_number,
)

# First digits of the scripts in which answers of our tasks may be written.
ZEROS = {"ASCII": "0", "Bengali": "০", "Thai": "๐", "Telugu": "౦", "Arabic": "٠", "Persian": "۰", "full-width": "０"}


@pytest.mark.parametrize(
    ("output", "answer"),
    [
        ("উত্তর হল ১৮।", "18"),
        ("คำตอบคือ ๕,๖๐๐ บาท", "5600"),
        ("జవాబు ౧౮.", "18"),
        ("答えは１，２３４円です。", "1234"),
        ("الجواب ١٬٢٣٤٫٥", "1234.5"),
        ("১,১৪,২০০ টাকা", "114200"),
        ("−12", "-12"),
        ("－12", "-12"),
        ("10-3", "3"),
        ("(x)-3", "3"),
        ("from 10–15", "15"),
        ("12\u00a0345 euros", "12345"),
        ("12\u202f345", "12345"),
        ("20 100", "100"),
        ("1,2,3", "3"),
        ("-1,2", "2"),
        ("1,2.5", "2.5"),
        ("1,234,567.80", "1234567.8"),
        ("1.234.567,8", "1234567.8"),
        ("12,34", "34"),
        ("0.125", "0.125"),
        ("0,125", "0.125"),
        ("1.234", "1.234"),
        ("$1,234", "1234"),
        ("18.00", "18"),
        ("007", "7"),
        ("-0", "0"),
        ("-", None),
        ("−", None),
        (".", None),
        ("²", None),
        ("half", None),
    ],
)
def test_numbers_of_every_script(output, answer):
    """Digits, marks and signs of the scripts of MGSM and MSVAMP; adversarial ones as English reads them."""
    assert parse_number(output) == answer


@pytest.mark.parametrize(
    ("output", "answer"),
    [("3,5 Eier", "3.5"), ("1.234", "1234"), ("1,234", "1234"), ("1.234,50", "1234.5"), ("3.5", "3.5"), ("1,2,3", "3")],
)
def test_decimal_comma(output, answer):
    """In a language with a decimal comma the stop groups and the comma parts."""
    assert parse_number(output, "deu_Latn") == answer


@given(st.integers(-(10**12), 10**12), st.sampled_from(sorted(ZEROS)), st.sampled_from(["", ","]))
def test_a_whole_number_is_read_in_every_script(number, script, mark):
    """However a whole number is written, it is read as itself."""
    first = ord(ZEROS[script])
    text = f"{number:,}".replace(",", mark)
    written = "".join(chr(first + int(char)) if char.isdigit() else char for char in text)
    assert parse_number(f"so {written} .") == str(number)
    assert parse_number(f"also {written} .", "deu_Latn") == str(number)


@given(st.decimals(allow_nan=False, allow_infinity=False, places=2, min_value=0, max_value=10**7))
def test_a_fraction_is_read_with_the_mark_of_the_language(number):
    """Two decimals, grouped, are the same number in both ways of writing."""
    english = f"{number:,}"
    german = english.translate(str.maketrans(",.", ".,"))
    value = parse_number(english)
    assert value is not None
    assert float(value) == float(number)
    assert parse_number(german, "deu_Latn") == value


@given(st.text())
def test_what_is_read_is_a_number_written_plainly(text):
    """Nothing or a number that reads as itself again, whatever the text; and only where there is a digit."""
    answer = parse_number(text)
    assert (answer is None) == (not any(char.isdecimal() for char in text))
    if answer is not None:
        assert set(answer) <= set("-.0123456789")
        assert parse_number(answer) == answer or len(answer.partition(".")[2]) == 3  # 1.234 may be read either way
        assert not answer.startswith("-0") or answer.startswith("-0.")


@pytest.mark.parametrize(
    ("output", "answer"),
    [
        (r"Thus $\boxed{18}$.", "18"),
        (r"\boxed{3} then \boxed{ \$1,234.00 }", "1234"),
        (r"\boxed{\text{18 eggs}}", "18"),
        (r"\boxed{১৮}", "18"),
        (r"\boxed{-7}", "-7"),
        (r"\boxed{60\%}", "60"),
        (r"\boxed{\frac{5}{4}}", "5/4"),
        (r"\boxed{-\dfrac{5}{4}}", "-5/4"),
        (r"\boxed{2^{10}}", "2^{10}"),
        (r"\boxed{x + 1}", "x+1"),
        (r"\boxed{1, 2}", "1,2"),
        (r"\boxed {5}", "5"),
        (r"\boxed{}", None),
        (r"\boxed{ $ }", None),
        (r"\boxed{18", None),
        ("boxed{18}", None),
        ("18", None),
        ("", None),
    ],
)
def test_boxed_answers(output, answer):
    """The last closed box counts, numbers as numbers and other LaTeX without spaces; no box is no answer."""
    assert parse_boxed(output) == answer


def test_a_boxed_number_follows_the_language():
    """The decimal mark of the question's language holds inside the box."""
    assert parse_boxed(r"\boxed{1.234}", "deu_Latn") == "1234"
    assert parse_boxed(r"\boxed{1.234}", "eng_Latn") == "1.234"


# Shapes of PolyMath's expected answers that are no number, and numbers that stand in them.
ANSWERS = r"""
[2,3) (3,6] [e,7] (-1,1) (3,2) (1,4,4),(2,4,4) (-0.5,0.87),(0,0) e-1 2n 2n-1 n-1 n(n-1) m(n-1) n! 2n^2-2n+1 270-\theta
k=-4,-2,-1,1 p=2,3,7 2^{99}-1 \frac{1}{2} -\frac{2}{3} \frac{11n}{12} 4\sqrt{2} \ln2 2(p!)^2 e 2 3 1 6 7 2.3 0.65 -0.127
16 99 3! |3| 3i 3² √3 3π <3 3' [3] {2,3} 5:4 12 -12
""".split()  # noqa: SIM905 - a table


def test_every_expected_answer_is_right_and_no_other_in_its_place():
    """Boxed, in the 18 languages of PolyMath, an answer is itself and none of the others, in dollar signs or not."""
    assert len({parse_latex(answer) for answer in ANSWERS}) == len(ANSWERS)
    for language in _BOX:
        for answer in ANSWERS:
            assert parse_boxed(rf"\boxed{{{answer}}}", language) == parse_latex(answer)
            assert parse_boxed(rf"so $\boxed{{ ${answer}$ }}$.", language) == parse_latex(f"${answer}$.")


def test_the_erratum_of_polymath_is_its_integral():
    """The brace that is missing in the published answer stands where the value is that of the integral."""
    (repaired,) = _ERRATA.values()
    assert parse_boxed(rf"\boxed{{{repaired}}}") == r"\frac{1}{2\sqrt{2}}\ln\frac{\sqrt{2}+2}{2-\sqrt{2}}"
    value = math.log((math.sqrt(2) + 2) / (2 - math.sqrt(2))) / (2 * math.sqrt(2))
    steps = [math.pi / 2 * (i + 0.5) / 10000 for i in range(10000)]
    integral = sum(math.cos(x) / (1 + math.tan(x)) for x in steps) * math.pi / 2 / 10000
    assert math.isclose(value, integral, rel_tol=1e-6)


@pytest.mark.parametrize(
    ("text", "english", "german"),
    [
        ("3,5", None, "3.5"),
        ("3.5", "3.5", "3.5"),
        ("1.234", "1.234", "1234"),
        ("1,234", "1234", "1234"),
        ("12 345", "12345", "12345"),
        ("1 234,5", "1234.5", "1234.5"),
        ("- 3", "-3", "-3"),
        ("+3", "3", "3"),
        ("US$5", "5", "5"),
        ("18 €", "18", "18"),
        ("45°", "45", "45"),
        ("18 eggs.", "18", "18"),
        ("18个", "18", "18"),
        ("১৮ টাকা", "18", "18"),
        ("12 bis 15", None, None),
        ("1 2", None, None),
        ("1,2,3", None, None),
        ("3 million", None, None),
        ("3万", None, None),
        ("3 Millionen Euro", None, None),
        ("3 ล้าน", None, None),
        ("3 হাজার", None, None),
        ("2 n", None, None),
        ("2 pi", None, None),
        ("0.3...", None, None),
        ("about 3", None, None),
        ("", None, None),
    ],
)
def test_one_number_or_none(text, english, german):
    """What is more or less than one number is none; the decimal mark is that of the language."""
    assert (read_number(text, "eng_Latn"), read_number(text, "deu_Latn")) == (english, german)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"\left(0, \dfrac{1}{2}\right]", r"(0,\frac{1}{2}]"),
        (r"\frac{1}{2}\left(1-e^{-2}\right).", r"\frac{1}{2}(1 - e^{-2})"),
        (r"2\,n\;-~1", "2n-1"),
        (r"18\text{ m}", "18"),
        (r"\mathrm{e}-1", "e-1"),
    ],
)
def test_looks_do_not_count(one, other):
    """Spaces, sizes of brackets and a last stop change nothing."""
    assert parse_boxed(rf"\boxed{{{one}}}") == parse_boxed(rf"\boxed{{{other}}}")


@given(st.text())
def test_a_box_never_breaks_and_is_never_empty(text):
    """Whatever is boxed, the answer is none or says something."""
    answer = parse_boxed("\\boxed{" + text + "}")
    assert answer is None or answer.strip()


@pytest.mark.parametrize(
    ("output", "answer"),
    [
        ("B", "B"),
        (" b", None),
        ("(C)", "C"),
        ("D.", "D"),
        ("**A**", "A"),
        ("A\nbecause", "A"),
        ("Answer: B", "B"),
        ("Options: A) 3 B) 4. The answer is B", "B"),
        ("Answer: A. No, wait. Answer: C", "C"),
        (r"The answer is $\boxed{D}$", "D"),
        ("答案：Ｂ", "B"),
        ("Antwort: C", "C"),
        ("I would say C here", "C"),
        ("A dog barks", None),
        ("A or B", None),
        ("Both A and C", None),
        ("Answer: Apples", None),
        ("E", None),
        ("Don't", None),
        ("", None),
        ("None of these", None),
    ],
)
def test_letters(output, answer):
    """A letter counts where it is chosen, not where it is an article, a word's beginning, or one of several."""
    assert parse_letter(output) == answer


@given(st.sampled_from("ABCD"), st.sampled_from(["{}", "{}.", "({})", "Answer: {}", "**{}**", "The answer is ({})."]))
def test_every_letter_is_read_in_every_dress(letter, dress):
    """All letters are treated alike."""
    assert parse_letter(dress.format(letter)) == letter


@given(st.text())
def test_plain_text_is_stripped(text):
    """Text counts unless it is only white space."""
    assert parse_text(text) == (text.strip() or None)


def test_no_script_has_digits_that_we_miss():
    """Every decimal digit that Unicode knows is read."""
    digits = [chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) == "Nd"]
    assert {parse_number(digit) for digit in digits} == set("0123456789")
