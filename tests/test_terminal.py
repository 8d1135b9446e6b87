"""A terminal gets text, and nothing that it would obey, wherever a name comes from."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import replace

import pytest
from commands import run
from hypothesis import given
from hypothesis import strategies as st
from run_examples import LANGUAGES, MANIFEST, write

from isogloss.progress import note, track
from isogloss.terminal import printable, visible

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202eevil"
SAFE = printable(EVIL)


@given(st.text())
def test_all_of_a_token_is_visible(token):
    """No space and nothing without a shape is left, a terminal obeys none of it, and other text stays as it is."""
    shown = visible(token)
    assert printable(shown) == shown
    assert bool(shown) == bool(token)
    shapeless = {each for each in shown if unicodedata.category(each) in ("Cc", "Cf", "Cs", "Zs", "Zl", "Zp")}
    assert shapeless <= set("\u200c\u200d")
    assert visible(shown.removeprefix("◌")).removeprefix("◌") == shown.removeprefix("◌")


def test_joiners_are_seen_where_they_stand_alone():
    """Between letters they shape them."""
    assert visible("\u200d") == r"\u200d"
    assert visible("क्\u200dष") == "क्\u200dष"
    assert visible("\u202eabc") == r"\u202eabc"


@given(st.text())
def test_what_is_printable(text):
    """No control character but tab and line feed is left, other text is, and JSON stays the same data."""
    clean = printable(text)
    left = set(clean) - set("\t\n")
    assert not any(unicodedata.category(character) == "Cc" for character in left)
    clean.encode()
    assert printable(clean) == clean
    assert json.loads(printable(json.dumps(text, ensure_ascii=False))) == text
    plain = "".join(character for character in text if character.isprintable())
    assert printable(plain) == plain


def test_names_of_a_run_reach_no_terminal_raw(tmp_path, capsys):
    """Model, corpus, notes and paths, in tables, JSON and refusals."""
    manifest = replace(MANIFEST, model=EVIL, corpus={**MANIFEST.corpus, "name": EVIL}, notes=(EVIL,))
    write(tmp_path / "run", LANGUAGES[:2], manifest)
    write(tmp_path / "other", LANGUAGES[:2], replace(manifest, model=f"{EVIL}2"))
    assert run("merge", tmp_path / "run", "-o", tmp_path / "merged") == 0
    assert run("merge", tmp_path / "run", "-o", tmp_path / "again", "--json") == 0
    assert run("merge", tmp_path / "run", tmp_path / "other", "-o", tmp_path / "two") == 2
    assert run("merge", tmp_path / EVIL, "-o", tmp_path / "none") == 2
    with pytest.raises(SystemExit):
        run("merge", tmp_path / "run", "-o", tmp_path / "x", "--no-such", EVIL)
    note(EVIL)
    with track(EVIL, 1) as advance:
        advance(1)
    out, err = capsys.readouterr()
    for text in (out, err):
        assert not set(text) & set("\x1b\x07\x9b\u202e")
        assert SAFE in text


@pytest.mark.parametrize("name", [EVIL, "[/x]", "[bold]"])
def test_names_are_no_markup(capsys, tmp_path, name):
    """A band's name, in the head of a table and in its cells, and what a bar is called."""
    write(tmp_path / "run", LANGUAGES)
    assert run("analyze", tmp_path / "run", "--band", f"{name}=1-3") == 0
    with track(name, 1) as advance:
        advance(1)
    out, err = capsys.readouterr()
    assert not set(out + err) & set("\x1b\x07\x9b\u202e")
    assert f"language  {printable(name)} 1-3" in out
    assert printable(name) in err
