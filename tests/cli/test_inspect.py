"""`inspect`: what is printed and written is what was counted, in any script, and a wrong name gets one line."""

from __future__ import annotations

import json
import re

import pytest
from run_examples import LAYERS, write
from token_runs import draw_items, write_counted

import isogloss as ig
from isogloss.analysis import ExpertTokens, expert_tokens
from isogloss.cli.main import main
from isogloss.reports.expert_tokens import expert_tokens_page

NAMES = {0: b"\xe0\xa4", 1: b"\n", 2: " كتاب".encode(), 3: b"<b>x</b>", 4: "़".encode(), 5: "\u200f".encode()}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A Run of Arabic and English whose tokens are hard to show."""
    languages = {"arb_Arab": draw_items(1, n_items=40), "eng_Latn": draw_items(2, n_items=40)}
    return write_counted(tmp_path_factory.mktemp("run") / "run", languages, NAMES)


def test_a_table_for_each_language(run, capsys):
    """With lift, interval, n; the token that always goes there is first."""
    assert main(["inspect", str(run.path), "1:4"]) == 0
    out = capsys.readouterr().out
    first, second = (block.splitlines() for block in out.split("eng_Latn: "))
    assert first[0].startswith("arb_Arab: chosen for ")
    assert first[0].endswith("for 1 of 9 compared tokens more often than by chance.")
    assert first[1].split() == ["token", "id", "counted", "items", "chosen", "lift", "%", "of", "its", "choices"]
    (row,) = expert_tokens(run, 1, 4, languages=["ar"], top=1).languages[0].tokens
    cells = first[2].split()
    assert cells[:5] == ["<b>x</b>", "3", str(row.n), str(row.lift.n), str(row.chosen)]
    assert cells[5] == f"{row.lift.value:.3g}"
    for shown in (r"\xe0\xa4", r"\n", "␣كتاب", "◌़", r"\u200f"):
        assert any(line.startswith(f"{shown} ") for line in (*first, *second)), shown


def test_json_is_the_result(run, capsys):
    """All of it, and nothing else on stdout."""
    assert main(["inspect", str(run.path), "1:4", "--languages", "en", "--top", "3", "--least", "2", "--json"]) == 0
    raw = json.loads(capsys.readouterr().out)
    assert ExpertTokens.from_json(raw, "stdout") == expert_tokens(run, 1, 4, languages=["en"], top=3, least=2)


def test_the_page_shows_tokens_as_they_are(run, tmp_path, capsys):
    """Escaped, each in its own direction and language, without a script or an address; no other file is replaced."""
    out = tmp_path / "new" / "page.html"
    assert main(["inspect", str(run.path), "1:4", "-o", str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(out)
    page = out.read_text("utf-8")
    assert "<b>x" not in page
    assert '<bdi lang="arb-Arab">␣كتاب</bdi>' in page
    assert '<bdi lang="eng-Latn">&lt;b&gt;x&lt;/b&gt;</bdi>' in page
    assert "Arabic" in page
    assert "<script" not in page
    assert "http:" not in page
    result = ig.inspect(run, 1, 4, out=tmp_path / "again.html")
    assert result == expert_tokens(run, 1, 4)
    assert expert_tokens_page(result) == page == (tmp_path / "again.html").read_text("utf-8")
    for each in result.languages:
        row = each.tokens[0]
        assert f"<td>{row.n}</td><td>{row.lift.n}</td><td>{row.chosen}</td>" in page
        assert f"<td>{row.lift.value:.3g} [" in page
    assert main(["inspect", str(run.path), "1:4", "-o", str(out)]) == 0
    other = tmp_path / "mine.html"
    other.write_text("mine")
    assert main(["inspect", str(run.path), "1:4", "-o", str(other)]) == 2
    assert other.read_text() == "mine"
    assert main(["inspect", str(run.path), "1:4", "-o", str(other), "--force"]) == 0


def test_without_an_expert_some_are_named(run, tmp_path, capsys):
    """The most specific of each language, and the command that goes on with the first."""
    assert main(["inspect", str(run.path)]) == 0
    out = capsys.readouterr().out
    named = re.search(rf"isogloss inspect {run.path} (\d+:\d+) lists", out)
    assert named
    assert main(["inspect", str(run.path), named[1]]) == 0
    capsys.readouterr()
    assert main(["inspect", str(run.path), "--json"]) == 0
    raw = json.loads(capsys.readouterr().out)
    assert {each["language"] for each in raw["experts"]} == {"arb_Arab", "eng_Latn"}
    assert main(["inspect", str(run.path), "-o", str(tmp_path / "page.html")]) == 2
    assert "is for one expert; name it" in capsys.readouterr().err


WRONG = {
    "7": "'7' is no expert; expected LAYER:EXPERT such as 7:12",
    "1-4": "did you mean 1:4?",
    "L1E4": "did you mean 1:4?",
    "1:99": "expected a routed layer from 1 to 3 and an expert from 0 to 5",
    "0:4": "did you mean 1:4?",
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_expert_gets_one_line(run, name, capsys):
    """What was found, what was expected, and what may be meant."""
    try:
        code = main(["inspect", str(run.path), name])
    except SystemExit as error:
        code = error.code
    assert code == 2
    assert WRONG[name] in capsys.readouterr().err.splitlines()[-1]


def test_a_run_without_counts_names_the_command(tmp_path, capsys):
    """Before anything else is read; with and without an expert."""
    run = write(tmp_path / "run")
    for more in ([], [f"{LAYERS[0]}:0"]):
        assert main(["inspect", str(run.path), *more]) == 2
        error = capsys.readouterr().err
        assert "isogloss capture example/model --corpus example --token-counts -o RUN" in error
        assert error.count("\n") == 1


def test_from_a_capture_to_the_tokens(tmp_path, capsys):
    """On the command line and from Python: the same numbers."""
    texts = tmp_path / "texts"
    texts.mkdir()
    for code in ("eng_Latn", "rus_Cyrl"):
        (texts / f"{code}.txt").write_text("The cup is red.\nAnna has 12 apples.", encoding="utf-8")
    out = tmp_path / "run"
    assert main(["capture", "organism", "--corpus", str(texts), "--token-counts", "-o", str(out)]) == 0
    run = ig.open_run(out)
    capsys.readouterr()
    layer = run.manifest.routers[0].layer
    assert main(["inspect", str(out), f"{layer}:0", "--json"]) == 0
    assert ig.inspect(run, layer, 0).to_json() == json.loads(capsys.readouterr().out)
