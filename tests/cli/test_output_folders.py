"""Folders that cannot be made are refused in one line before anything long runs, and nothing of the trial is left."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import run
from run_examples import MANIFEST

from isogloss.backends import open as opening
from isogloss.errors import FileError, RunError
from isogloss.folders import require_folder
from isogloss.runs import run_writer
from isogloss.steering import Intervention, Plan, write_plan


@pytest.fixture(params=["file as parent", "dangling link", "long name", "read-only"])
def bad(request, tmp_path):
    """A folder that cannot be made."""
    if request.param == "file as parent":
        (tmp_path / "file").touch()
        return tmp_path / "file" / "out"
    if request.param == "dangling link":
        (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "deep")
        return tmp_path / "link"
    if request.param == "long name":
        return tmp_path / ("x" * 300)
    return Path("/proc/isogloss")  # where nobody may make a folder, not even root


@pytest.mark.parametrize(
    "command",
    ["capture", "merge", "import", "demo", "study", "sweep", "evaluate", "analyze", "learn", "train", "card"],
)
def test_refused_before_a_model_is_loaded(bad, command, tmp_path, monkeypatch, capsys):
    """One line, exit code 2, and no model was asked for."""

    def never(*_arguments, **_options):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(opening, "load", never)
    for module in (
        "isogloss",
        "isogloss.workflows.settings",
        "isogloss.workflows.organism",
    ):
        monkeypatch.setattr(f"{module}.load", never)
    (tmp_path / "study.toml").write_text('model = "organism"\n')
    (tmp_path / "sweep.toml").write_text('model = "organism"\n[grid]\nthresholds = [0.1]\n')
    (tmp_path / "counts").mkdir()
    (tmp_path / "counts" / "en.json").write_text('{"0": {"0": {"activation_tokens": 1}, "total_tokens": 1}}')
    (tmp_path / "summary.json").write_text("{}")
    assert run("import", tmp_path / "counts", "-o", tmp_path / "run") == 0
    write_plan(Plan(MANIFEST.fingerprint, (Intervention("force", layer=1, experts=(3,)),)), tmp_path / "plan.json")
    capsys.readouterr()
    arguments = {
        "capture": ("capture", "organism", "--corpus", "organism"),
        "merge": ("merge", tmp_path / "run"),
        "import": ("import", tmp_path / "counts"),
        "demo": ("demo",),
        "study": ("study", tmp_path / "study.toml"),
        "sweep": ("sweep", tmp_path / "sweep.toml"),
        "evaluate": ("evaluate", "organism", "--plan", tmp_path / "plan.json", "--task", "organism"),
        "analyze": ("analyze", tmp_path / "run"),
        "learn": ("learn", "organism", "--task", "organism"),
        "train": ("organism", "train"),
        "card": ("organism", "card", tmp_path),
    }
    out = bad / "card.md" if command == "card" else bad
    assert run(*arguments[command], "-o", out) == 2
    error = capsys.readouterr().err
    assert error.startswith("isogloss: ")
    assert error.count("\n") == 1
    assert str(bad)[:200] in error


def test_the_trial_leaves_nothing(tmp_path):
    """Not even the folders above; what was there stays."""
    require_folder(tmp_path / "deep" / "out")
    assert not list(tmp_path.iterdir())
    (tmp_path / "out").mkdir()
    require_folder(tmp_path / "out", "settings.json")
    assert (tmp_path / "out").is_dir()
    (tmp_path / "out" / "notes.txt").touch()
    require_folder(tmp_path / "out")
    with pytest.raises(RunError, match=r"holds notes\.txt"):
        require_folder(tmp_path / "out", "settings.json")


def test_from_python_it_is_one_line_too(bad):
    """An error of ours, which names the folder."""
    with pytest.raises(FileError, match="choose another place"), run_writer(bad, MANIFEST):
        pass
