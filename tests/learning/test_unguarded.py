"""Where nothing guards the choice of a step, it is said; where a guard was asked for, it is refused."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import pytest
from adapters import random_adapter
from commands import run
from models import TEXTS, tiny

from isogloss.backends import open as opening
from isogloss.cli.learn import _show
from isogloss.corpora import Corpus
from isogloss.errors import CorpusError
from isogloss.evaluation import load_task
from isogloss.learning import Learned, LearnedSet, gather_data
from isogloss.learning import data as gathering
from isogloss.reports.learning import describe_learning

SETTINGS = {"options": {"parameters": "low-rank"}, "languages": ("swh_Latn",), "dev_metric": "accuracy"}


def generic():
    """Texts of the pivot and of another language."""
    texts = {code: tuple(f"{code} {text}" for text in TEXTS) for code in ("eng_Latn", "fra_Latn")}
    return Corpus("generic", texts, tuple(map(str, range(len(TEXTS)))), "CC0-1.0", "ours")


@pytest.fixture
def corpus(tmp_path):
    """The same in a folder."""
    (tmp_path / "generic").mkdir()
    for code, texts in generic().texts.items():
        (tmp_path / "generic" / f"{code}.txt").write_text("".join(f"{text}\n" for text in texts))
    return tmp_path / "generic"


@pytest.mark.parametrize(
    ("more", "found"),
    [
        (["--tolerance", "0.1"], "--tolerance"),
        (["--protect", "en,fr"], "eng_Latn, fra_Latn"),
    ],
)
def test_a_guard_that_was_asked_for_and_cannot_be_is_refused(more, found, examples, corpus, capsys, monkeypatch):
    """Before the model is loaded: without a task there are no dev items in protected languages."""
    monkeypatch.setattr(opening, "load", lambda *_, **__: pytest.fail("the model was loaded"))
    out = corpus.parent / "out"
    line = ["learn", "organism", "--examples", examples, "--generic", corpus, "--parameters", "low-rank"]
    assert run(*line, *more, "-o", out) == 2
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert found in error
    assert "nothing would guard the choice of the step: no dev items are in a protected language" in error
    assert "give --task TASK" in error
    assert not out.exists()


def test_a_task_without_the_pivot_does_not_guard_it(monkeypatch):
    """Refused where languages were named; else told."""

    def without_pivot(*args, **more):
        task = load_task(*args, **more)
        items = {code: rows for code, rows in task.items.items() if code != "eng_Latn"}
        return dataclasses.replace(task, items=items)

    monkeypatch.setattr(gathering, "load_task", without_pivot)
    sources = {"task": "organism", "examples": "organism:reference", "languages": ["sw"], "n_items": 40}
    with pytest.raises(CorpusError, match=r"eng_Latn, fra_Latn.*no dev items are in the pivot eng_Latn"):
        gather_data(**sources, generic=generic(), protect=["en", "fr"])
    data = gather_data(**sources, generic=generic(), protect=None)
    assert "no dev items are in the pivot eng_Latn" in data.unguarded("eng_Latn")


def test_what_guards_and_what_does_not(examples):
    """Of examples in a file alone nothing guards; of a task its protected languages do."""
    data = gather_data(None, examples=examples, languages=["sw", "de"], generic=generic(), protect=None)
    assert data.unguarded("eng_Latn") == "no dev items are in a protected language"
    guarded = gather_data("organism", examples="organism:reference", languages=["sw"], n_items=40, protect=None)
    assert guarded.unguarded("eng_Latn") is None


@pytest.mark.parametrize("protected", [None, {"eng_Latn": 1.0}, {"fra_Latn": 1.0}], ids=["none", "pivot", "another"])
@pytest.mark.parametrize("json_too", [False, True])
def test_that_nothing_guarded_is_said_with_the_result(protected, json_too, tmp_path, capsys):
    """In a line, in the JSON, and in the report; the pivot's dev values are shown where they guard."""
    values = {"swh_Latn": 0.5}
    each = LearnedSet(("swh_Latn",), 1, values, values, 0, 8, 0.1, protected, protected)
    learned = Learned(random_adapter(tiny("olmoe")), (each,), "accuracy")
    _show(learned, SimpleNamespace(output=tmp_path, json=json_too, pivot="eng_Latn"))
    out = capsys.readouterr().out
    if json_too:
        assert json.loads(out)["guarded"] == list(protected or {})
        return
    assert ("Nothing guarded the choice of the step" in out) == (protected is None)
    assert ("The pivot eng_Latn did not guard the choice of the step" in out) == (protected == {"fra_Latn": 1.0})
    assert ("protected language" in out.replace("a protected language", "")) == (protected is not None)
    history = SimpleNamespace(settings=SimpleNamespace(**SETTINGS), sets=(each,), steps={})
    said = " ".join(describe_learning(history))
    assert ("Nothing guarded the choice of the step" in said) == (protected is None)
