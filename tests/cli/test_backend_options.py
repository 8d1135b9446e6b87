"""The choice of what runs a model: how the command reads it, and what it refuses before a model is loaded."""

from __future__ import annotations

import argparse

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from isogloss import routing
from isogloss.backends.profiles import pair_consistency
from isogloss.cli import main
from isogloss.cli.options import add_backend, add_loading, loading_options
from isogloss.errors import IsoglossError

COMMAND = ("capture", "organism", "--corpus", "organism", "--items", "2")


def read(*arguments):
    """The arguments for vLLM that a command line gives."""
    parser = argparse.ArgumentParser()
    add_backend(parser)
    add_loading(parser)
    return loading_options(parser.parse_args(arguments))["engine"]


@pytest.mark.parametrize(
    ("given_text", "expected"),
    [
        ("tensor_parallel_size=8", {"tensor_parallel_size": 8}),
        ("enforce_eager=true", {"enforce_eager": True}),
        ("distributed_executor_backend=ray", {"distributed_executor_backend": "ray"}),
        ("gpu_memory_utilization=0.9", {"gpu_memory_utilization": 0.9}),
        ('hf_overrides={"a": [1, null]}', {"hf_overrides": {"a": [1, None]}}),
        ('quantization="fp8"', {"quantization": "fp8"}),
        ("load_format=a=b", {"load_format": "a=b"}),
    ],
)
def test_a_value_is_json_where_it_can_be(given_text, expected):
    """Else it is text, up to the end."""
    assert read("--backend", "vllm", "--engine", given_text) == expected


def test_arguments_add_up():
    """Every --engine is one more; without any there are none."""
    assert read("--backend", "vllm") == {}
    assert read() == {}
    found = read("--backend", "vllm", "--engine", "max_model_len=4096", "--engine", "seed=1")
    assert found == {"max_model_len": 4096, "seed": 1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--engine", "seed=1"), "only vLLM takes it: give --backend vllm"),
        (("--backend", "vllm", "--device", "cuda:0"), "--device has no meaning for --backend vllm"),
        (("--backend", "vllm", "--dequantize"), "--dequantize has no meaning for --backend vllm"),
        (("--backend", "vllm", "--engine", "seed=1", "--engine", "seed=2"), "gives seed more than once"),
    ],
)
def test_options_of_the_other_backend_are_refused(arguments, message):
    """Rather than left unread."""
    with pytest.raises(IsoglossError, match=message):
        read(*arguments)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("tensor_parallel_size", "expected KEY=VALUE such as tensor_parallel_size=8"),
        ("=8", "expected KEY=VALUE"),
        ("seed=", "expected KEY=VALUE"),
        ("--seed=1", "expected"),
        ("tensor-parallel-size=8", "expected KEY=VALUE"),
    ],
)
def test_malformed_arguments_are_refused(tmp_path, capsys, argument, message):
    """By the parser, with what it expected; nothing is written."""
    with pytest.raises(SystemExit) as stop:
        main([*COMMAND, "--backend", "vllm", "--engine", argument, "-o", str(tmp_path / "run")])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--backend", "vllm", "--hidden-states"), "hidden states are captured by --backend huggingface alone"),
        (("--engine", "tensor_parallel_size=8"), "give --backend vllm"),
        (("--backend", "vllm", "--device", "cpu"), "--engine tensor_parallel_size=N"),
        (("--backend", "vllm", "--engine", "enable_prefix_caching=true"), "a prefix cache leaves out tokens"),
    ],
)
def test_what_the_backend_cannot_do_is_one_readable_message(tmp_path, capsys, arguments, message):
    """Exit code 2, nothing loaded, nothing written."""
    assert main([*COMMAND, *arguments, "--quiet", "-o", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_machine_without_vllm_is_told_so(tmp_path, capsys, monkeypatch):
    """With what to install, and what works without it."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert main([*COMMAND, "--backend", "vllm", "--engine", "max_model_len=64", "-o", str(tmp_path / "run")]) == 2
    assert "vLLM is not installed here; install it (pip install vllm)" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@given(st.data())
def test_pair_consistency_is_the_definition(data):
    """Of any choices, in a batch, with whatever stands behind the sampled ones."""
    n, n_experts = data.draw(st.integers(1, 3)), 5
    counts = data.draw(st.lists(st.integers(2, 4), min_size=n, max_size=n))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    ids = np.stack([[rng.permutation(n_experts)[:2] for _ in range(4)] for _ in range(n)])
    choices = torch.nn.functional.one_hot(torch.from_numpy(ids), n_experts).amax(2).float()
    found = pair_consistency(choices, torch.tensor(counts))
    expected = [routing.consistency(row[:count], n_experts) for row, count in zip(ids, counts, strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-6)
