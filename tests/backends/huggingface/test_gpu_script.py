"""The script for a GPU runs whole on a processor, with tiny shapes, and notices what is not equal."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from kinds import plan_of
from models import bypass_router, choose_the_worst, tiny
from transformers import CompileConfig

import gpu_equality
from gpu import NEEDED, main, run_part
from gpu_equality import compare, trap_rows
from gpu_model import SHAPES, Sizes, fitting_layers
from gpu_results import Results, Row
from timing import Side, interleaved_times, ratio_of

SCRIPT = Path(__file__).parents[3] / "bench" / "gpu.py"
TINY = ["--shape", "tiny", "--device", "cpu", "--families", "olmoe"]
PARTS = {"capture", "steered answers", "learning", "families"}


def test_the_whole_script_runs_on_a_processor(tmp_path, capsys):
    """Every part has its numbers in the file and on the page; a comparison has a ratio and a range."""
    page, kept = tmp_path / "page.md", tmp_path / "new" / "gpu.json"
    assert main([str(page), "--json", str(kept), *TINY, "--parts", *PARTS]) == 0
    found = json.loads(kept.read_text(encoding="utf-8"))
    assert not found["unfinished"]
    rows = {name: {row["what"]: row for row in rows} for name, rows in found["parts"].items()}
    assert set(rows) == PARTS
    assert rows["capture"]["capture / prefill without head"]["ratio"]["low"] > 0
    steered = [row for row in rows["steered answers"].values() if row["aim"]]
    assert len(steered) >= 5
    assert all(row["ratio"]["value"] > 0 for row in (*steered, *rows["learning"].values()))
    assert [row["equal"] for row in rows["families"].values()] == [True, True]
    assert "router adapter of rank 8 / unsteered" in page.read_text(encoding="utf-8")
    assert page.read_text(encoding="utf-8") in capsys.readouterr().out


@pytest.mark.slow
def test_it_needs_no_package_beyond_those_that_it_names(tmp_path):
    """In an interpreter with torch, transformers, what they require and what the script asks for, it runs."""
    for name in required({"torch", "transformers", *NEEDED.values()}):
        for file in {file.parts[0] for file in importlib.metadata.files(name) or ()} - {"..", "__pycache__"}:
            place = Path(importlib.metadata.distribution(name).locate_file(file))
            if not (tmp_path / file).exists() and place.exists():
                (tmp_path / file).symlink_to(place)
    assert not {"pandas", "ruptures", "datasets", "pytest"} & {each.name for each in tmp_path.iterdir()}
    command = [sys.executable, "-S", "-P", str(SCRIPT), *TINY, "--json", str(tmp_path / "gpu.json")]
    done = subprocess.run(command, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (tmp_path / "rich").unlink()
    done = subprocess.run(command, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["bench/gpu.py needs rich: install with python -m pip install"]


def required(names):
    """The distributions that are installed, and all that they require without extras, by name."""
    installed = {plain(each.metadata["Name"]): each for each in importlib.metadata.distributions()}
    found, left = set(), {plain(name) for name in names}
    while left:
        found.add(name := left.pop())
        lines = [line for line in installed[name].requires or () if "extra" not in line]
        left |= {plain(re.match(r"[\w.-]+", line)[0]) for line in lines} & installed.keys() - found
    return found


def plain(name):
    """The name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_without_a_gpu_it_says_so(capsys, monkeypatch):
    """One line, and nothing is begun."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([]) == 2
    assert main([*TINY, "nosuch"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("bench/gpu.py found no GPU")
    assert lines[1].startswith("--families has nosuch; expected some of afmoe")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["/nowhere/page.md"], "the folder of /nowhere/page.md does not exist"),
        (["--layers", "0"], "--layers is 0; expected 1 or more"),
        (["--device", "nonsense"], "--device is 'nonsense'"),
    ],
)
def test_wrong_arguments_end_before_anything_is_measured(wrong, message, capsys):
    """A page that cannot be written would be noticed after eight minutes."""
    with contextlib.suppress(SystemExit):
        assert main(wrong) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("broken", [choose_the_worst, bypass_router])
def test_a_router_that_is_broken_there_is_not_equal(broken):
    """Whether it chooses otherwise, or is not called."""
    there = tiny("olmoe")
    broken(there, 2)
    with pytest.raises(Exception, match="layer 2"):
        compare(tiny("olmoe"), there, allowed=0.01)


def test_another_model_there_is_not_equal():
    """Routers that agree with the reference, but not with the processor."""
    with pytest.raises(AssertionError, match="a capture moves"):
        compare(tiny("olmoe"), tiny("olmoe", seed=1), allowed=0.01)


@pytest.mark.slow
def test_what_is_special_on_a_gpu_holds_on_a_processor_too():
    """Experts by every product, gradients and packed weights; what CUDA alone has is named as not tried."""
    rows = list(trap_rows(torch.device("cpu"), time.monotonic() + 100))
    assert {row.equal for row in rows} == {True, None}
    assert sum(row.note == "on a GPU alone" for row in rows) == 3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_compiled_answers_are_compared(monkeypatch):
    """What a GPU compiles by itself, compiled here because it is asked for: it agrees, and the plans act in it."""
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "0")  # as transformers sets it before it compiles
    torch._dynamo.reset()
    config = CompileConfig(backend="eager", mode=None)
    config._compile_all_devices = True
    assert "the plans change them by 0." in gpu_equality._try_compiled(torch.device("cpu"), compile_config=config)
    monkeypatch.setattr(gpu_equality, "forced", lambda loaded, **_: plan_of(loaded))
    with pytest.raises(AssertionError, match="the plans changed logits by"):
        gpu_equality._try_compiled(torch.device("cpu"), compile_config=config)


def test_an_inequality_and_a_fault_end_with_code_1_and_a_part_ends_at_its_time(tmp_path):
    """What was measured before stands in the file, whatever comes after."""
    results = Results({"machine": "none"}, tmp_path / "gpu.json", say=lambda _: None)

    def rows(_until):
        yield Row("first", equal=False, note="differs")
        raise ValueError("broken")

    def endless(_until):
        yield Row("kept")
        time.sleep(60)

    assert not run_part(results, "one", rows, time.monotonic() + 10)
    assert results.failed == ["one: first"]
    assert run_part(results, "two", endless, time.monotonic() - 10)
    found = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert [row["what"] for row in found["parts"]["one"]] == ["first", "failed"]
    assert [row["what"] for row in found["parts"]["two"]] == ["kept"]
    assert found["unfinished"] == ["two"]
    assert "| first | NOT EQUAL | differs |" in results.page()
    assert "Cut off at its time." in results.page()


def test_layers_are_as_many_as_fit():
    """All of them from 80 GB on; a small GPU gets some, and none gets no layer at all."""
    shape, gigabyte = SHAPES["qwen3-30b-a3b"], 10**9
    layers = [fitting_layers(shape, size * gigabyte, Sizes()) for size in (150, 84, 42, 25, 1)]
    assert layers == sorted(layers, reverse=True)
    assert (layers[0], layers[1], layers[-1]) == (48, 48, 1)
    assert 15 < layers[2] < 25


def test_sides_take_turns_and_contexts_are_not_timed():
    """Each round runs every side once; a round is whole; no round begins after the end."""
    order = []

    class Slow:
        def __enter__(self):
            time.sleep(0.05)

        def __exit__(self, *_):
            order.append("left")

    sides = {"a": Side(lambda: order.append("a"), Slow), "b": Side(lambda: order.append("b"))}
    rounds = list(interleaved_times(sides, 2))
    assert order == ["a", "left", "b"] * 2
    assert max(times["a"] for times in rounds) < 0.04
    assert list(interleaved_times(sides, 2, until=time.monotonic() - 1)) == []
    ratio = ratio_of([1.0, 2.0, 4.0], [1.0, 1.0, 2.0])
    assert (ratio.value, ratio.low, ratio.high, ratio.n_rounds) == (2.0, 1.0, 2.0, 3)
