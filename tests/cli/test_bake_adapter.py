"""`isogloss bake --adapter` says what was written and where, and refuses in one line what does not fit."""

from __future__ import annotations

import contextlib
import io
import json
import sys

import numpy as np
import pytest
from adapters import random_adapter
from gguf_files import gguf_tensors, write_gguf
from models import checkpoint, tiny
from safetensors.numpy import load_file, save_file

from isogloss.cli import main
from isogloss.steering import Intervention, Plan, write_adapter, write_plan


def run(*arguments):
    """Run `bake` in this process; return its exit code."""
    with contextlib.redirect_stderr(io.StringIO()) as errors:
        code = main(["bake", *map(str, arguments), "--quiet"])
    sys.stderr.write("".join(line for line in errors.getvalue().splitlines(keepends=True) if "isogloss:" in line))
    return code


@pytest.fixture
def adapter(tmp_path):
    """The folder of an adapter for the tiny qwen3_moe."""
    write_adapter(random_adapter(tiny("qwen3_moe")), tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.fixture
def model(tmp_path):
    """Its GGUF file."""
    return write_gguf(tmp_path / "model.gguf", tiny("qwen3_moe"))


def test_a_checkpoint_is_verified(tmp_path, adapter, capsys):
    """The text says what was changed, how much rounding loses, and how it was checked; the path is last."""
    folder = checkpoint("qwen3_moe")
    assert run(folder, "--adapter", adapter, "-o", tmp_path / "out", "--device", "cpu") == 0
    first, second, last = capsys.readouterr().out.splitlines()
    assert first.startswith("adapter ")
    assert " is in the float32 weights of 3 routers: exact up to rounding to float32" in first
    assert "verified on 6 texts (510 tokens): the adapter changes router logits by up to" in second
    assert last == str(tmp_path / "out")
    assert "adapter_sha256" in json.loads((tmp_path / "out" / "isogloss.json").read_text())


def test_a_file_is_the_default_for_a_gguf_file(tmp_path, adapter, model, capsys):
    """Adapters add up, by the scale that is asked for."""
    options = ("--adapter", adapter, "--adapter", adapter, "--scale", "0.25")
    assert run(model, *options, "-o", tmp_path / "out.gguf") == 0
    first, last = capsys.readouterr().out.splitlines()
    assert "is in the float32 weights of 3 routers" in first
    assert last == str(tmp_path / "out.gguf")
    name = "blk.0.ffn_gate_inp.weight"
    found = gguf_tensors(tmp_path / "out.gguf")[name][1] - gguf_tensors(model)[name][1]
    np.testing.assert_allclose(found, random_adapter(tiny("qwen3_moe")).delta(0) / 2, atol=1e-6)


@pytest.mark.parametrize("form", ["peft", "vllm", "gguf-lora"])
def test_adapters_are_written(tmp_path, adapter, model, capsys, form):
    """JSON says in which form."""
    source = model if form == "gguf-lora" else checkpoint("qwen3_moe")
    assert run(source, "--adapter", adapter, "--as", form, "-o", tmp_path / "out", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["form"], found["path"]) == (form, str(tmp_path / "out"))
    assert ("serve" in found) == (form == "vllm")
    assert (tmp_path / "out").exists()


def test_the_command_for_vllm_is_said(tmp_path, adapter, capsys):
    """It names the rank that vLLM must be told; the path is last."""
    assert run(checkpoint("qwen3_moe"), "--adapter", adapter, "--as", "vllm", "-o", tmp_path / "out") == 0
    _, command, last = capsys.readouterr().out.splitlines()
    assert command.startswith(f"serve it: vllm serve {checkpoint('qwen3_moe')} --enable-lora ")
    assert " --max-lora-rank 8 " in command
    assert last == str(tmp_path / "out")


def poison(folder):
    """Put NaN into an adapter's file."""
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    next(iter(tensors.values()))[0, 0] = np.nan
    save_file(tensors, path)


def empty(folder):
    """Take all ranks away."""
    path = folder / "isogloss_adapter.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"ranks": []}))


def nothing(_folder):
    """Leave it."""


def absent(folder):
    """Name another folder."""
    folder.rename(folder.with_name("elsewhere"))


@pytest.mark.parametrize(
    ("damage", "options", "message"),
    [
        (poison, (), "was changed"),
        (empty, (), "it has rank 0; expected at least one rank; make the adapter again"),
        (absent, (), "cannot read the plan or adapter"),
        (nothing, ("--as", "checkpoint"), "is a GGUF file; expected a hub id or folder"),
        (nothing, ("--scale", "1e300"), "float32 range"),
        (nothing, ("--scale", "0"), "no weight changes"),
        (nothing, ("--scale", "0", "--as", "gguf-lora"), "changes no weight of the model"),
        (nothing, ("--scale", "1e-30", "--as", "gguf-lora"), "changes no weight of the model"),
    ],
)
def test_what_does_not_fit_is_refused(adapter, model, capsys, damage, options, message):
    """One line, exit code 2, nothing written."""
    damage(adapter)
    tmp_path = model.parent
    assert run(model, "--adapter", adapter, *options, "-o", tmp_path / "out") == 2
    streams = capsys.readouterr()
    assert message in streams.err
    assert len(streams.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_plan_has_no_scale(tmp_path, model, capsys):
    """The strength of a plan is in the plan."""
    loaded = tiny("qwen3_moe")
    offset = Intervention("offset", loaded.fingerprint.layers[0], (0,), values=(1.0,))
    write_plan(Plan(loaded.fingerprint, (offset,)), tmp_path / "plan.json")
    assert run(model, "--plan", tmp_path / "plan.json", "--scale", "2", "-o", tmp_path / "out") == 2
    assert "--scale is a factor on an adapter" in capsys.readouterr().err
    assert run(model, "--plan", tmp_path / "plan.json", "--plan", tmp_path / "plan.json", "-o", tmp_path / "out") == 2
    assert "names a plan beside others" in capsys.readouterr().err
