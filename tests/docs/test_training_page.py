"""The examples of docs/training.md run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "training.md"
SETUP, TRAINER, SFT, LOOP, AFTER = re.findall(
    r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run an example after the lines that come before all of them."""
    monkeypatch.chdir(tmp_path)

    def run(example):
        names = {}
        exec(compile(SETUP + example, str(PAGE), "exec"), names)  # noqa: S102 - our own page
        return names, capsys.readouterr().out

    return run


def of_trainer(names):
    """What a trainer has logged of its steps."""
    return [log for log in names["trainer"].state.log_history if "loss" in log]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the libraries, about memory that no GPU shares, and about TRL's version 2
@pytest.mark.parametrize("example", [TRAINER, SFT], ids=["Trainer", "SFTTrainer"])
def test_trainers_align_and_log(run, example):
    """The divergence falls within a few steps where all weights are trained, and every log has its parts."""
    names, printed = run(example)
    logs = of_trainer(names)
    assert len(logs) == 2
    assert float(printed.split()[-1]) == logs[0]["alignment/divergence"] > 0
    for log in logs:
        aligned = log["alignment/coefficient"] * log["alignment/divergence"]
        balance = 0.001 * log["alignment/load_balance"]
        assert log["loss"] == pytest.approx(log["alignment/lm_loss"] + aligned + balance, rel=0.02)
        assert log["alignment/pairs"] == 16
    names["alignment"].close()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_loop_trains_routers_alone(run):
    """And the file brings them into a fresh copy of the model."""
    names, printed = run(LOOP + AFTER)
    assert "swh_Latn" in printed
    assert "AlignmentLog(lm_loss=" in printed
    for (name, one), (_, other) in zip(
        names["model"].named_parameters(), names["fresh"].named_parameters(), strict=True
    ):
        assert one.equal(other), name
