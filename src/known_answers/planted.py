"""A case with a known answer: sums in five languages that a tiny model solves where one particular expert is chosen.

The model is built, not trained; see `known_answers.planted_model`. In English the task chooses the planted expert
at every token; in the other languages the router's logit for it falls short at most sums, where the model guesses. So
capture, the difference rule, a plan and its evaluation must find this expert, and a gain in every language but English.
Where they do not, something between the installation and the statistics is broken.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from isogloss.corpora import Corpus

__all__ = ["DIGITS", "LARGEST", "LEXICON", "PIVOT", "SumWords", "planted_corpora", "planted_problems"]

PIVOT = "eng_Latn"

DIGITS = range(10)
"""Numbers that are added."""

LARGEST = 18
"""The largest sum, and the largest number in the vocabulary."""

_N_SOLVED = 40  # of the 100 sums: texts for the capture; the others are asked
_N_GENERIC = 60
_WORDS_PER_TEXT = 8
_LICENCE = "Apache-2.0"


class SumWords(NamedTuple):
    """Words of one language; words at the same position have the same meaning in all.

    Attributes:
        nouns: what is counted.
        plus: between the two numbers.
        makes: before the sum.
        generic: words of texts without numbers.
    """

    nouns: tuple[str, ...]
    plus: str
    makes: str
    generic: tuple[str, ...]

    @property
    def task_words(self) -> tuple[str, ...]:
        """The words that occur in sums only."""
        return (*self.nouns, self.plus, self.makes)


def _words(nouns: str, plus: str, makes: str, generic: str) -> SumWords:
    return SumWords(tuple(nouns.split()), plus, makes, tuple(generic.split()))


LEXICON: Mapping[str, SumWords] = MappingProxyType(
    {
        "eng_Latn": _words(
            "apples books cups stones birds shoes", "and", "makes", "river wide market old quiet garden road house"
        ),
        "deu_Latn": _words(
            "Äpfel Bücher Tassen Steine Vögel Schuhe", "und", "ergibt", "Fluss breit Markt alt still Garten Straße Haus"
        ),
        "fra_Latn": _words(
            "pommes livres tasses pierres oiseaux chaussures",
            "et",
            "font",
            "fleuve large marché vieux calme jardin route maison",
        ),
        "spa_Latn": _words(
            "manzanas libros copas piedras pájaros zapatos",
            "y",
            "suman",
            "río ancho mercado viejo tranquilo huerto camino casa",
        ),
        "swh_Latn": _words(
            "matofaa vitabu vikombe mawe ndege viatu",
            "na",
            "jumla",
            "mto pana soko zamani kimya bustani barabara nyumba",
        ),
    }
)
"""Language to its words; no word occurs in two languages."""


class _Sum(NamedTuple):
    """Two numbers and the place of the noun that they count."""

    first: int
    second: int
    noun: int

    @property
    def item_id(self) -> str:
        return f"{self.first}+{self.second}"


def planted_problems() -> dict[str, list[tuple[str, str, str]]]:
    """Write the sums to ask as (item id, prompt, answer); an id has the same meaning in every language.

    Example:
        >>> problems = planted_problems()
        >>> problems["eng_Latn"][0]
        ('8+4', 'apples 8 and apples 4 makes', '12')
        >>> len(problems), len(problems["swh_Latn"])
        (5, 60)
    """
    return {
        code: [(each.item_id, _prompt(each, words), str(each.first + each.second)) for each in _sums()[_N_SOLVED:]]
        for code, words in LEXICON.items()
    }


def planted_corpora() -> tuple[Corpus, Corpus]:
    """Write the texts to capture: solved sums, none of which is asked, and texts without numbers.

    Returns:
        Task texts and generic texts, each in all five languages.
    """
    sums = _sums()[:_N_SOLVED]
    solved = {
        code: tuple(f"{_prompt(each, words)} {each.first + each.second}" for each in sums)
        for code, words in LEXICON.items()
    }
    drawn = random.Random(1)
    places = [drawn.choices(range(len(LEXICON[PIVOT].generic)), k=_WORDS_PER_TEXT) for _ in range(_N_GENERIC)]
    generic = {
        code: tuple(" ".join(words.generic[place] for place in text) for text in places)
        for code, words in LEXICON.items()
    }
    ids = tuple(f"text-{index}" for index in range(_N_GENERIC))
    return (
        Corpus("planted-sums", solved, tuple(each.item_id for each in sums), _LICENCE, "isogloss planted case, sums"),
        Corpus("planted-texts", generic, ids, _LICENCE, "isogloss planted case, generic texts"),
    )


def _sums() -> list[_Sum]:
    """Return all pairs of digits in a fixed random order."""
    drawn = random.Random(0)
    pairs = list(itertools.product(DIGITS, DIGITS))
    drawn.shuffle(pairs)
    return [_Sum(first, second, drawn.randrange(len(LEXICON[PIVOT].nouns))) for first, second in pairs]


def _prompt(each: _Sum, words: SumWords) -> str:
    noun = words.nouns[each.noun]
    return f"{noun} {each.first} {words.plus} {noun} {each.second} {words.makes}"
