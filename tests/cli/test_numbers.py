"""Every number that is given is in its range, or refused at once, before a model is loaded or a folder is made."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import pytest

from isogloss.backends.capture_options import CaptureOptions
from isogloss.cli.main import build_parser, main
from isogloss.cli.output import show_plan
from isogloss.errors import CorpusError, RunError
from isogloss.routing import Fingerprint
from isogloss.steering import Intervention, Plan
from isogloss.workflows import Study, Sweep, open_corpus

CAPTURE = ["capture", "organism", "--corpus", "organism", "-o", "out"]
DOCTOR = ["doctor", "organism", "--corpus", "organism"]
EVALUATE = ["evaluate", "organism", "--plan", "plan.json", "--task", "organism", "-o", "out"]
EXPERTS = ["experts", "run", "--rule", "specificity"]
PLAN = ["plan", "run", "--rule", "delta", "--kind", "soft", "-o", "plan.json"]
TRAIN = ["organism", "train", "-o", "out"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A parser and those of its subcommands."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield from parsers(each)


def test_no_option_takes_any_number() -> None:
    """Every numeric option has a range."""
    actions = [action for parser in parsers(build_parser()) for action in parser._actions]
    assert not [action.option_strings for action in actions if action.type in (int, float)]


@pytest.mark.parametrize(
    ("command", "option", "value", "expected"),
    [
        (CAPTURE, "--items", "0", "of at least 1"),
        (CAPTURE, "--items", "-2", "of at least 1"),
        (CAPTURE, "--items", "1.5", "whole number"),
        (CAPTURE, "--batch-tokens", "-3", "of at least 1"),
        (CAPTURE, "--seed", "-1", "from 0 to 4.29"),
        (CAPTURE, "--seed", "4294967296", "from 0 to 4.29"),
        (CAPTURE, "--new-tokens", "0", "of at least 1"),
        (DOCTOR, "--items", "-2", "of at least 1"),
        (EVALUATE, "--items", "0", "of at least 1"),
        (EVALUATE, "--controls", "-1", "of at least 0"),
        (EVALUATE, "--batch-size", "0", "of at least 1"),
        (EVALUATE, "--temperature", "0", "above 0"),
        (EVALUATE, "--temperature", "inf", "above 0"),
        (EVALUATE, "--top-p", "1.5", "above 0 and at most 1"),
        (EVALUATE, "--top-k", "0", "of at least 1"),
        (EVALUATE, "--seed", "-1", "from 0 to"),
        (EXPERTS, "--threshold", "nan", "of at least 0"),
        (EXPERTS, "--top", "0", "of at least 1"),
        (EXPERTS, "--alpha", "-1", "of at least 0"),
        (PLAN, "--strength", "nan", "that is finite"),
        (TRAIN, "--seed", "-1", "from 0 to"),
        (TRAIN, "--tokens", "0", "of at least 1"),
    ],
)
def test_a_number_out_of_range_is_refused_at_the_door(
    command: list[str],
    option: str,
    value: str,
    expected: str,
    here: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The option, the value and the range are in the message, and nothing is written."""
    with pytest.raises(SystemExit) as stopped:
        main([*command, f"{option}={value}"])
    message = capsys.readouterr().err.splitlines()[-1]
    assert stopped.value.code == 2
    assert all(part in message for part in (option, repr(value), expected))
    assert not list(here.iterdir())


@pytest.mark.parametrize("source", ["organism", "organism:problems"])
@pytest.mark.parametrize("n_items", [0, -2])
def test_functions_refuse_the_same_items(source: str, n_items: int) -> None:
    """None is all; 0 is not."""
    with pytest.raises(CorpusError, match=f"{n_items} items were asked for; expected 1 or more"):
        open_corpus(source, n_items=n_items)


@pytest.mark.parametrize("field", ["batch_tokens", "sampled_tokens", "seed", "new_tokens"])
def test_functions_refuse_the_same_options_of_a_capture(field: str) -> None:
    """Before a folder is claimed."""
    with pytest.raises(ValueError, match=f"{field} is -1; expected at least"):
        CaptureOptions(**{field: -1})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("corpus_items = -1", "corpus_items is -1"),
        ("task_items = -1", "task_items is -1"),
        ("n_controls = -1", "n_controls is -1"),
        ("threshold = 1.5", "threshold is 1.5"),
        ("threshold = nan", "threshold is nan"),
        ("strength = 3.0", r"strength: .*expected a number in \[-1, 1\]"),
        ("layers = [5, 2]", r"layers is \[5, 2\]"),
    ],
)
def test_a_study_refuses_numbers_out_of_range(line: str, message: str, tmp_path: Path) -> None:
    """As the command line does, before anything is captured."""
    path = tmp_path / "study.toml"
    path.write_text(f'model = "organism"\n{line}\n')
    with pytest.raises(RunError, match=message):
        Study.read_toml(path)


def test_a_sweep_refuses_them_too(tmp_path: Path) -> None:
    """It shares the settings of a study."""
    path = tmp_path / "sweep.toml"
    path.write_text('model = "organism"\ncorpus_items = -1\n[grid]\ntops = []\n')
    with pytest.raises(RunError, match="corpus_items is -1"):
        Sweep.read_toml(path)


def test_an_offset_has_its_logits_in_the_column_of_strengths(capsys: pytest.CaptureFixture[str]) -> None:
    """Every kind that has a number shows it."""
    edits = (
        Intervention("offset", 0, (1, 2), None, (0.5, 0.5)),
        Intervention("offset", 1, (1, 2), None, (-1.0, 0.25)),
        Intervention("soft", 2, (1,), 0.5),
        Intervention("ban", 3, (1,)),
    )
    show_plan(Plan(Fingerprint("any", (0, 1, 2, 3), 8, 2, "00"), edits), Path("plan.json"), as_json=False)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[1:5] == [
        ["0", "offset", "+0.5", "logits", "1", "2"],
        ["1", "offset", "−1", "to", "+0.25", "logits", "1", "2"],
        ["2", "soft", "0.5", "1"],
        ["3", "ban", "1"],
    ]
