"""The example of a file of settings has every setting, and says what is so when nothing is set."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass

import pytest

from isogloss.cli.main import main
from isogloss.errors import RunError
from isogloss.workflows import Ablation, Study, Sweep
from isogloss.workflows.example import example_toml

KINDS = {"study": Study, "sweep": Sweep, "ablate": Ablation}


def printed_example(capsys, command):
    """What ``--example`` prints; nothing else is asked for."""
    with pytest.raises(SystemExit) as ended:
        main([command, "--example"])
    assert ended.value.code == 0
    return capsys.readouterr().out


def read(kind, folder, text):
    """Read a file of settings."""
    (folder / "settings.toml").write_text(text, encoding="utf-8")
    return kind.read_toml(folder / "settings.toml")


@pytest.mark.parametrize("command", KINDS)
def test_the_example_is_read_and_its_defaults_are_true(tmp_path, capsys, command):
    """As it is, and with every default written out, it is the same settings."""
    text, kind = printed_example(capsys, command), KINDS[command]
    settings = read(kind, tmp_path, text)
    assert settings == read(kind, tmp_path, re.sub(r"^#(?=\w)", "", text, flags=re.MULTILINE))
    stated = {name: tuple(value) if isinstance(value, list) else value for name, value in kind.example.items()}
    assert settings == kind(**stated)


@pytest.mark.parametrize("kind", KINDS.values())
def test_every_setting_is_there_once_with_words_and_a_type(kind):
    """Those of tables, too."""
    text = example_toml(kind)
    names = [each.name for each in fields(kind) if not is_dataclass(each.default_factory)]
    names += [
        inner.name
        for each in fields(kind)
        if is_dataclass(each.default_factory)
        for inner in fields(each.default_factory)
    ]
    for name in names:
        assert len(re.findall(rf"\)\n#? ?{name} (?:= |is not set)", text)) == 1, name
    assert "typing" not in text
    assert max(map(len, text.splitlines())) <= 110


def test_its_dry_run_needs_nothing_but_the_package(tmp_path, capsys):
    """On the included model."""
    (tmp_path / "study.toml").write_text(printed_example(capsys, "study"), encoding="utf-8")
    assert main(["study", str(tmp_path / "study.toml"), "--dry-run"]) == 0
    assert "Nothing is fetched." in capsys.readouterr().out


@pytest.mark.parametrize(("written", "layers"), [('"4-9"', (4, 9)), ("[4, 9]", (4, 9)), ('"middle"', None)])
def test_layers_are_written_as_in_sweeps_and_commands(tmp_path, written, layers):
    """A list of both is read still, and bands likewise."""
    assert read(Study, tmp_path, f'model = "organism"\nlayers = {written}').layers == layers
    assert Study().with_settings([f"layers={written.strip(chr(34))}"]).layers == layers
    if layers is not None:
        text = f'model = "organism"\ntasks = ["organism:scenes"]\ntop = 8\n[bands]\nfirst = {written}'
        assert read(Ablation, tmp_path, text).bands == {"first": layers}


@pytest.mark.parametrize("written", ['"4"', '"4-"', '"end"', '"9-4"', "[4]"])
def test_other_layers_are_refused_in_one_line(tmp_path, written):
    """With the name of the setting."""
    with pytest.raises(RunError, match="layers") as refused:
        read(Study, tmp_path, f'model = "organism"\nlayers = {written}')
    assert "\n" not in str(refused.value)
