"""What lies beyond the model is refused by name: layers that it has not, and texts longer than its context."""

from __future__ import annotations

import pytest
from commands import run
from models import checkpoint
from run_examples import MANIFEST, write

from isogloss.errors import PlanError, RunError
from isogloss.evaluation import make_arms
from isogloss.steering import Intervention, Plan
from isogloss.workflows.sweep.settings import resolve_layers

DELTA = ("--rule", "delta", "--languages", "de", "--threshold", "0.01")


@pytest.mark.parametrize(
    "command",
    [
        ("experts", *DELTA, "--layers", "0-99"),
        ("plan", *DELTA, "--layers", "3-4", "--kind", "ban", "-o", "plan.json"),
        ("analyze", "--band", "whole=0-3", "--band", "mid=3-40"),
    ],
    ids=lambda command: command[0],
)
def test_layers_beyond_the_model(tmp_path, monkeypatch, capsys, command):
    """The last routed layer is 3: a range that goes on behind it is a mistake, and is named."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "run")
    name, *options = command
    assert run(name, "run", *options) == 2
    assert " go beyond the model: its last routed layer is 3 " in capsys.readouterr().err
    assert not (tmp_path / "plan.json").exists()


def test_layers_beyond_the_model_in_arms_and_grids():
    """As in commands."""
    plan = Plan(MANIFEST.fingerprint, (Intervention("force", layer=1, experts=(3,)),))
    with pytest.raises(PlanError, match="layers=2-9 goes beyond the model, whose last routed layer is 3"):
        make_arms(plan, ["layers=2-9"])
    with pytest.raises(RunError, match=r"grid\.layers: 0-12 goes beyond the model, whose last routed layer is 11"):
        resolve_layers("0-12", range(12), {})
    assert resolve_layers("0-11", range(1, 12), {}) == ((0, 11), "")


@pytest.mark.parametrize("form", ["folder", "table"])
def test_a_text_beyond_the_context(tmp_path, capsys, form):
    """Found before the first language is run, with language, file and item; by `doctor`, too."""
    long = "Anna goes to the market. " * 100
    if form == "folder":
        (tmp_path / "texts").mkdir()
        (tmp_path / "texts" / "deu_Latn.txt").write_text("Anna geht.\nOmar geht.\n", encoding="utf-8")
        (tmp_path / "texts" / "swh_Latn.txt").write_text(f"Anna.\n{long}\n", encoding="utf-8")
        texts = tmp_path / "texts"
        file = texts / "swh_Latn.txt"
    else:
        texts = file = tmp_path / "texts.tsv"
        rows = ["language\ttext", "de\tAnna geht.", "de\tOmar geht.", "sw\tAnna.", f"sw\t{long}"]
        texts.write_text("\n".join(rows) + "\n", encoding="utf-8")
    assert run("capture", checkpoint("olmoe"), "--corpus", texts, "-o", tmp_path / "run") == 2
    expected = f"swh_Latn ({file}): item 2 has 1001 tokens; the model takes 512: split or remove the item"
    assert expected in capsys.readouterr().err
    assert not list((tmp_path / "run").glob("*.safetensors"))
    assert run("doctor", checkpoint("olmoe"), "--corpus", texts) == 1
    assert expected in capsys.readouterr().out
