"""`doctor MODEL --against OTHER`: what it prints, writes and refuses."""

from __future__ import annotations

import html
import json
import re
import shlex

import pytest
from models import checkpoint

from isogloss.cli import main
from isogloss.evaluation import VersionComparison

CORPUS = ("--corpus", "organism", "--languages", "en,sw,de", "--items", "6")
TINY = str(checkpoint("qwen3_moe"))


def doctor(*arguments):
    """Exit code of the command."""
    return main(["doctor", *map(str, arguments)])


def test_dtypes_are_compared_printed_and_reported(tmp_path, capsys):
    """As text, as JSON, and in a folder that `report` draws: the same numbers."""
    out = tmp_path / "out"
    options = (TINY, "--against", TINY, "--against-dtype", "bfloat16", "--device", "cpu", *CORPUS, "-o", out)
    assert doctor(*options) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[:4]] == [
        ["ok", name] for name in ("loads", "routers", "tokens", "repeats")
    ]
    assert any(line.startswith("mean ") for line in lines)
    assert any("of the choices of" in line and "float32 to" in line and "in bfloat16" in line for line in lines)
    assert lines[-1] == f"next: isogloss report {out} -o report.html"
    assert doctor(*options, "--json") == 0  # reads the files of the finished comparison
    printed = json.loads(capsys.readouterr().out)
    assert set(printed) == {"ok", "checks", "comparison"}
    assert all(set(check) == {"name", "ok", "detail"} for check in printed["checks"])
    stored = VersionComparison.read(out / "comparison.json")
    assert VersionComparison.from_json(printed["comparison"], "stdout") == stored
    assert set(stored.languages) == {"deu_Latn", "eng_Latn", "swh_Latn"}
    assert main(["report", str(out), "-o", str(tmp_path / "report.html")]) == 0
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for text in (
        "Changed choices by layer",
        "What changes, by language",
        "What the weights take",
        "Swahili (swh_Latn)",
    ):
        assert text in page


def test_the_report_says_how_to_repeat(tmp_path, capsys):
    """Its command has the settings of the comparison, in whose folder it therefore goes on."""
    out, page = tmp_path / "out", tmp_path / "report.html"
    loading = ("--dtype", "bfloat16", "--against-dtype", "float32", "--device", "cpu", "--tokens", "all")
    assert doctor(TINY, "--against", TINY, *loading, *CORPUS, "-o", out) == 0
    assert main(["report", str(out), "-o", str(page)]) == 0
    (command,) = set(re.findall(r"isogloss doctor [^<]+", html.unescape(page.read_text(encoding="utf-8"))))
    capsys.readouterr()
    assert main([*shlex.split(command)[1:], "-o", str(out)]) == 0
    assert "load" not in capsys.readouterr().err


def test_nothing_is_left_without_a_folder(tmp_path, monkeypatch, capsys):
    """What the first version did lies in a temporary folder, and is gone."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert doctor(TINY, "--against", TINY, "--device", "cpu", *CORPUS, "--tokens", "all") == 0
    assert "0 [0, 0] % of the choices" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_one_language_has_no_columns_of_dashes(capsys):
    """What compares languages is left out, and what is tested stands beside the choices where there are several."""
    assert doctor(TINY, "--against", TINY, "--device", "cpu", *CORPUS) == 0
    several = capsys.readouterr().out
    assert doctor(TINY, "--against", TINY, "--device", "cpu", *CORPUS, "--languages", "sw") == 0
    alone = capsys.readouterr().out
    assert re.search(r"^language +choices, % +choices − others', points +p \(Holm\) +sets, %", several, re.MULTILINE)
    assert re.search(r"^language +choices, % +sets, %", alone, re.MULTILINE)
    assert "–" not in alone
    assert "Holm" not in alone


def test_weights_that_are_not_quantised_stay_as_they_are(capsys):
    """Of either model, as everywhere; what was asked for in vain is said before anything is loaded."""
    said = f"isogloss: note: dequantising changes nothing of {TINY!r}, which is not quantised"
    options = ("--against", TINY, "--against-dtype", "bfloat16", "--device", "cpu", *CORPUS, "--items", "1")
    for flags in (("--dequantize",), ("--against-dequantize",), ("--dequantize", "--against-dequantize")):
        assert doctor(TINY, *options, *flags) == 0
        first, *others = capsys.readouterr().err.splitlines()
        assert first == said
        assert said not in others
    assert doctor(TINY, *options) == 0
    assert "note" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "refused"),
    [
        ((TINY, "--against", TINY), "found none: name them by --corpus"),
        (("--against", TINY, *CORPUS), "expected MODEL before --against"),
        ((TINY, "--against", TINY, *CORPUS, "--plan", "p.json"), "--plan: has no meaning beside --against"),
        ((TINY, "--against", TINY, *CORPUS, "--language", "en"), "--language: has no meaning beside --against"),
        ((TINY, "--against-dtype", "bfloat16"), "--against-dtype: of a comparison"),
        ((TINY, "--tokens", "all", "-o", "x"), "--tokens, -o: of a comparison"),
        (("--server", "http://localhost:1", "--against", TINY, *CORPUS), "--server: has no meaning beside --against"),
        (("--server", "http://localhost:1", "-o", "x"), "-o: of a comparison"),
        ((TINY, "--against", TINY, *CORPUS, "--backend", "vllm"), "give --backend huggingface"),
        ((TINY, "--against", str(checkpoint("olmoe")), *CORPUS), "no versions of one model"),
        ((TINY, "--against", "/nowhere/at/all", *CORPUS), "there is no such file or folder"),
    ],
)
def test_what_has_no_meaning_is_refused(arguments, refused, capsys):
    """In one line, exit code 2, and nothing is loaded."""
    assert doctor(*arguments) == 2
    error = capsys.readouterr().err
    assert refused in error
    assert len(error.splitlines()) == 1
