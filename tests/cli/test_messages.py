"""`--quiet`, `--verbose` and completion: for every command, in a pipe and on a terminal; results stay on stdout."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys

import pytest
from commands import run
from run_examples import LANGUAGES, write

from isogloss.cli.main import build_parser


def parsers(parser, name="isogloss"):
    """Yield every command's name and parser, those within commands too."""
    yield name, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, command in action.choices.items():
                yield from parsers(command, f"{name} {word}")


COMMANDS = dict(parsers(build_parser()))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_takes_both(name):
    """By their short names, too."""
    options = {option for action in COMMANDS[name]._actions for option in action.option_strings}
    assert {"-q", "--quiet", "-v", "--verbose"} <= options


@pytest.fixture
def folder(tmp_path):
    """A small Run."""
    write(tmp_path / "run", LANGUAGES[:2])
    return tmp_path


N_LINES = {None: 1, "-q": 0, "--quiet": 0, "-v": 2, "--verbose": 2}


@pytest.mark.parametrize("place", ["before", "behind"])
@pytest.mark.parametrize("option", N_LINES)
def test_results_are_the_same_and_only_messages_differ(folder, capsys, option, place):
    """The option stands before the command or behind it."""
    given = [option] if option else []
    command = ["merge", folder / "run", "-o", folder / "merged", "--json"]
    assert run(*(given + command if place == "before" else command + given)) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["path"] == str(folder / "merged")
    assert err.count("\n") == N_LINES[option]
    assert err.startswith("isogloss: merge\n" if N_LINES[option] else "")
    assert ("merge: took" in err) == (N_LINES[option] == 2)


def test_both_together_are_refused(capsys):
    """By argparse, exit code 2."""
    with pytest.raises(SystemExit) as ended:
        run("tasks", "-q", "-v")
    assert ended.value.code == 2
    assert "not allowed with" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["merge", "import", "report"])
def test_a_refusal_is_one_line(tmp_path, capsys, command):
    """Nothing is said to have begun before it."""
    assert run(command, tmp_path / "none", "-o", tmp_path / "out") == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_where_an_error_was_raised_is_said_if_asked_for(tmp_path, capsys):
    """The last line is the same."""
    said = []
    for option in ((), ("-v",)):
        assert run("merge", tmp_path / "none", "-o", tmp_path / "merged", *option) == 2
        said.append(capsys.readouterr().err.splitlines())
    plain, located = said
    assert plain == located[-1:]
    assert any("Traceback" in line for line in located)
    assert not any("Traceback" in line for line in plain)


@pytest.mark.skipif(sys.platform == "win32", reason="needs pseudo-terminals")
@pytest.mark.parametrize("option", [(), ("-q",)])
def test_on_a_terminal_a_spinner_stands_for_the_line(folder, option):
    """Quiet, a terminal gets nothing at all; results go to stdout as in a pipe."""
    import pty  # noqa: PLC0415 - not on every system

    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "isogloss", "merge", str(folder / "run"), "-o", str(folder / "merged"), *option]
    environment = {**os.environ, "TERM": "xterm"}
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, env=environment, check=True)
    os.close(theirs)
    try:
        shown = os.read(ours, 2**16).decode()
    except OSError:  # so Linux says that nothing was written
        shown = ""
    os.close(ours)
    assert "isogloss: merge" not in shown
    assert bool(shown) == (not option)
    assert done.stdout.decode().startswith(str(folder / "merged"))


@pytest.fixture(scope="module")
def bash_script(tmp_path_factory):
    """Completion for bash, as printed."""
    script = tmp_path_factory.mktemp("completion") / "isogloss.bash"
    command = [sys.executable, "-m", "isogloss", "--print-completion", "bash"]
    script.write_bytes(subprocess.run(command, capture_output=True, check=True).stdout)
    return script


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["isogloss", "expe"], {"experts"}),
        (["isogloss", "experts", "--rule", "sp"], {"specificity"}),
        (["isogloss", "organism", "tr"], {"train"}),
        (["isogloss", "merge", "ru"], {"run"}),
        (["isogloss", "capture", "--first-t"], {"--first-tokens"}),
    ],
)
def test_bash_completes(bash_script, folder, words, expected):
    """Commands, choices, actions of a command, paths and options."""
    line = " ".join(words)
    program = (
        f"source {bash_script}; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; COMP_LINE='{line}'; "
        '_shtab_isogloss; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run([shutil.which("bash"), "-c", program], cwd=folder, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == expected


def test_zsh_gets_a_script_of_its_own(capsys):
    """And an unknown shell is refused."""
    with pytest.raises(SystemExit) as ended:
        run("--print-completion", "zsh")
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("#compdef isogloss\n")
    with pytest.raises(SystemExit) as ended:
        run("--print-completion", "csh")
    assert ended.value.code == 2
