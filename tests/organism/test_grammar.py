"""The small world says the same thing in every language."""

from __future__ import annotations

import itertools
import re

import pytest

from isogloss.organism.realise import ROLE_SECTION, grammar_languages, load_lexicon

ENGLISH = load_lexicon("eng_Latn")
TEMPLATES = ("sentences", "questions", "answers", "problems")
NUMBERS = [2, 3, 4, 5, 10, 11, 12, 14, 15, 20, 21, 22, 25, 31, 40, 51, 62, 75, 99]


def roles(lexicon, section, key):
    """Roles that a template shows (not those it only agrees with)."""
    return set(re.findall(r"\{(\w+)(?:\}|:)", lexicon.sections[section][key]["base"]))


@pytest.mark.parametrize("language", grammar_languages())
def test_mirrors_english_key_by_key(language):
    """Every section of every language has exactly English's keys."""
    lexicon = load_lexicon(language)
    assert lexicon.language == language
    assert {s: set(w) for s, w in lexicon.sections.items()} == {s: set(w) for s, w in ENGLISH.sections.items()}


@pytest.mark.parametrize("language", grammar_languages())
def test_templates_show_the_same_roles(language):
    """A template never drops or invents a participant."""
    lexicon = load_lexicon(language)
    for section, key in ((s, k) for s in TEMPLATES for k in lexicon.sections[s]):
        assert roles(lexicon, section, key) == roles(ENGLISH, section, key), (section, key)


@pytest.mark.parametrize("language", grammar_languages())
def test_every_filler_fits_every_template(language):
    """No filler lacks a form or class that some template asks for, and nothing is left unfilled."""
    lexicon = load_lexicon(language)
    for section in TEMPLATES:
        for key in lexicon.sections[section]:
            needed = sorted(set(re.findall(r"\{(\w+)", lexicon.sections[section][key]["base"])))
            needed = sorted(set(needed) | set(re.findall(r"@(\w+)", lexicon.sections[section][key]["base"])))
            pools = [NUMBERS if role == "n" else list(lexicon.sections[ROLE_SECTION[role]]) for role in needed]
            longest = max(map(len, pools), default=0)
            rows = zip(*(itertools.islice(itertools.cycle(p), longest * 3) for p in pools), strict=True)
            pairs = itertools.chain(rows, zip(*pools, strict=False))
            for row in pairs:
                text = lexicon.realise(section, key, dict(zip(needed, row, strict=True)))
                assert not re.search(r"[{}|@?=]", text.rstrip("?")), text
                assert "  " not in text
                assert text == text.strip()


@pytest.mark.parametrize("language", grammar_languages())
def test_words_are_distinct(language):
    """Two people, things or places never share a name, so answers are never ambiguous."""
    lexicon = load_lexicon(language)
    for section in set(ROLE_SECTION.values()):
        bases = [forms["base"] for forms in lexicon.sections[section].values()]
        assert len(set(bases)) == len(bases), section
