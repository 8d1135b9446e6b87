"""Turns a language-free meaning into a sentence of one language.

A lexicon (``grammar/xxx_Xxxx.toml``) holds words by section and templates. A template has four kinds of slot:

* ``{person}``            the filler's base form
* ``{place:at}``          the form called ``at``
* ``{thing:@n}``          the form named by the class of another slot (here the number's plural category)
* ``{thing?m=le|f=la}``   the text that belongs to the filler's class

A word is a string, or a table of forms with an optional ``class`` (gender, noun class). The class of a number is its
plural category under the lexicon's ``number_rule`` (names and rules as in Unicode CLDR).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

from isogloss.errors import LanguageError

__all__ = ["ROLE_SECTION", "Lexicon", "grammar_languages", "load_lexicon"]

ROLE_SECTION = {
    "person": "people",
    "other": "people",
    "thing": "things",
    "place": "places",
    "animal": "animals",
    "colour": "colours",
    "mood": "moods",
    "time": "times",
}

_SLOT = re.compile(r"\{(?P<role>\w+)(?::(?P<form>@?\w+)|\?(?P<choices>[^}]*))?\}")

_FIRST_LETTER = re.compile(r"[^\W\d_]")

_FEW_LAST_DIGIT = range(2, 5)
_TEENS = range(11, 15)


def _slavic(n: int) -> str:
    if n % 10 == 1 and n % 100 != 11:  # noqa: PLR2004 - the CLDR rule itself
        return "one"
    return "few" if n % 10 in _FEW_LAST_DIGIT and n % 100 not in _TEENS else "many"


def _arabic(n: int) -> str:
    if n in (1, 2):
        return "one" if n == 1 else "two"
    last = n % 100
    if last in range(3, 11):
        return "few"
    return "many" if last in range(11, 100) else "other"


_NUMBER_RULES = {"other": lambda _n: "other", "slavic": _slavic, "arabic": _arabic}


@dataclass(frozen=True)
class Lexicon:
    """The words and templates of one language.

    Attributes:
        language: code such as ``deu_Latn``.
        sections: section name to key to template or forms (``{"base": …, "class": …}``).
        number_rule: plural rule, one of ``other``, ``slavic``, ``arabic``.
    """

    language: str
    sections: Mapping[str, Mapping[str, Mapping[str, str]]]
    number_rule: str

    def realise(self, section: str, key: str, fillers: Mapping[str, str | int]) -> str:
        """Fill one template of ``sentences``, ``questions``, ``answers`` or ``problems``.

        ``fillers`` is role to lexicon key, or to a number for roles that are counts. The first letter of the result is
        in upper case where the script has cases.

        Raises:
            KeyError: a slot has no filler, or the filler lacks the form or class that the template needs.
        """
        template = self.sections[section][key]["base"]
        text = _SLOT.sub(lambda slot: self._fill(slot, fillers), template)
        return _FIRST_LETTER.sub(lambda letter: letter[0].upper(), text, count=1)

    def _fill(self, slot: re.Match[str], fillers: Mapping[str, str | int]) -> str:
        role = slot["role"]
        if slot["choices"] is not None:
            choices = dict(choice.split("=", 1) for choice in slot["choices"].split("|"))
            return choices[self._class_of(role, fillers)]
        filler = fillers[role]
        if isinstance(filler, int):
            return str(filler)
        form = slot["form"] or "base"
        if form.startswith("@"):
            form = self._class_of(form[1:], fillers)
        return self.sections[ROLE_SECTION[role]][filler][form]

    def _class_of(self, role: str, fillers: Mapping[str, str | int]) -> str:
        filler = fillers[role]
        if isinstance(filler, int):
            return _NUMBER_RULES[self.number_rule](filler)
        return self.sections[ROLE_SECTION[role]][filler]["class"]


def grammar_languages() -> list[str]:
    """List the languages of the small world, sorted."""
    folder = resources.files("isogloss.organism") / "grammar"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


@cache
def load_lexicon(language: str) -> Lexicon:
    """Read the lexicon of one language.

    Raises:
        LanguageError: the small world has no such language.
    """
    path = resources.files("isogloss.organism") / "grammar" / f"{language}.toml"
    if not path.is_file():
        known = ", ".join(grammar_languages())
        raise LanguageError(f"the organism has no language {language!r}; its languages are {known}")
    raw = tomllib.loads(path.read_text(encoding="utf-8"))
    number_rule = raw.pop("number_rule")
    language = raw.pop("language")
    sections = {
        section: {key: {"base": word} if isinstance(word, str) else word for key, word in words.items()}
        for section, words in raw.items()
    }
    return Lexicon(language, sections, number_rule)
