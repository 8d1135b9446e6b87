"""What can be named is listed, and a word that is nearly right gets the right one."""

from __future__ import annotations

import json

import pytest

from isogloss.cli.main import main
from isogloss.corpora import load_corpus
from isogloss.corpora.catalogue import CORPUS_FACTS
from isogloss.corpora.hub import HUB_CORPORA
from isogloss.corpora.instructions import INSTRUCTIONS
from isogloss.evaluation import TASKS, load_task
from isogloss.evaluation.tasks.catalogue import TASK_FACTS
from known_answers.simulation import simulate_run, simulate_task_run
from known_answers.worlds import SimulatedLanguage, SimulatedWorld


def test_every_task_is_listed_with_its_variants() -> None:
    """The list is that of the loader, in its order."""
    assert {task.name: tuple(sorted(task.variants)) for task in TASK_FACTS} == {
        name: tuple(sorted(variants)) for name, variants in TASKS.items()
    }
    assert [task.name for task in TASK_FACTS] == list(TASKS)


def test_every_corpus_is_listed() -> None:
    """The list is that of the loaders, with the two of the included model."""
    assert {each.name for each in CORPUS_FACTS} == {*HUB_CORPORA, *INSTRUCTIONS, "organism", "organism:problems"}


def test_counts_of_what_is_included_are_true() -> None:
    """The included task has as many languages as the list says."""
    (organism,) = (task for task in TASK_FACTS if task.name == "organism")
    assert len(load_task("organism", n_items=1).items) == organism.languages


@pytest.mark.parametrize("command", ["tasks", "corpora"])
def test_lists_are_printed_as_text_and_json(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every name is in both."""
    assert main([command]) == 0
    text = capsys.readouterr().out
    assert main([command, "--json"]) == 0
    raw = json.loads(capsys.readouterr().out)
    names = [each["name"] for each in (raw if command == "tasks" else raw["corpora"])]
    assert len(names) >= 6
    assert all(name in text for name in names)


@pytest.mark.parametrize(
    ("given", "meant"),
    [(["analyse"], "analyze"), (["evaluat"], "evaluate"), (["experts", "run", "--rule", "shares"], "share")],
)
def test_nearly_right_words_get_the_right_one(given: list[str], meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A command, or a choice of an option; exit code 2."""
    with pytest.raises(SystemExit) as ended:
        main(given)
    assert ended.value.code == 2
    assert f"did you mean {meant}?" in capsys.readouterr().err


def test_words_that_are_near_nothing_get_no_guess(capsys: pytest.CaptureFixture[str]) -> None:
    """No suggestion is better than a wrong one."""
    with pytest.raises(SystemExit):
        main(["xyzzy"])
    assert "did you mean" not in capsys.readouterr().err


def test_middle_layers_can_be_named_by_the_word(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--layers middle` gives the experts of the range that `analyze` finds; where there is none, an error says so."""
    codes = ("eng_Latn", "deu_Latn", "ben_Beng")
    languages = tuple(SimulatedLanguage(code, distance=0.2 + 0.2 * place) for place, code in enumerate(codes))
    world = SimulatedWorld(languages=languages, n_items=30, tokens=20)
    simulate_run(world, tmp_path / "run")
    simulate_task_run(world, tmp_path / "task")
    assert main(["analyze", str(tmp_path / "run"), "--json"]) == 0
    middle = json.loads(capsys.readouterr().out)["middle_layers"]
    rule = [
        "experts",
        str(tmp_path / "task"),
        "--base",
        str(tmp_path / "run"),
        "--rule",
        "delta",
        "--threshold",
        "0.1",
        "--json",
    ]
    if not middle["is_u_shape"]:
        assert main([*rule, "--layers", "middle"]) == 2
        assert "has no middle layers" in capsys.readouterr().err
        return
    assert main([*rule, "--layers", "middle"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert main([*rule, "--layers", f"{middle['start']}-{middle['end']}"]) == 0
    assert json.loads(capsys.readouterr().out) == found


def test_run_without_a_middle_refuses_the_word(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two languages that are routed alike have no middle: one line, exit code 2."""
    languages = tuple(SimulatedLanguage(code, distance=0.0) for code in ("eng_Latn", "deu_Latn"))
    simulate_run(SimulatedWorld(languages=languages, n_items=12, tokens=8, strength=0.0), tmp_path / "run")
    rule = ["experts", str(tmp_path / "run"), "--rule", "share", "--kind", "common", "--threshold", "0.5", "--top", "2"]
    assert main([*rule, "--languages", "en,de", "--layers", "middle"]) == 2
    assert "give a range A-B" in capsys.readouterr().err


def test_corpus_error_still_lists_names() -> None:
    """The loader's own message names them, too."""
    with pytest.raises(Exception, match="flores_plus"):
        load_corpus("florse")
