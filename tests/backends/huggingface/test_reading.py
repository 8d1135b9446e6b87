"""A checkpoint that cannot be loaded is refused in one line that says why; none of its code ever runs."""

from __future__ import annotations

import json
import random
import shutil

import pytest
import torch
from damage import accepted_or_refused, damaged
from models import tiny, tokenizer

from isogloss.backends.huggingface import load_model, prove_routers
from isogloss.errors import ModelError

_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "model.safetensors")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A checkpoint with its tokenizer."""
    folder = tmp_path_factory.mktemp("whole") / "model"
    tiny("olmoe").model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def copy(whole, tmp_path):
    """A copy of the checkpoint."""
    return shutil.copytree(whole, tmp_path / "model")


def update(path, **fields):
    """Change fields of a file of JSON."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_an_adapter_is_to_be_merged_first(copy):
    """Also beside a configuration, where transformers would put it onto another model."""
    (copy / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"LoRA adapter.*merge it first"):
        load_model(str(copy))
    (copy / "config.json").unlink()
    with pytest.raises(ModelError, match=r"LoRA adapter.*merge it first"):
        load_model(str(copy))


def test_code_of_a_checkpoint_never_runs_and_nothing_is_asked(copy, monkeypatch, capsys):
    """The answer to a question would be yes."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    update(copy / "config.json", model_type="own", auto_map={"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.O"})
    (copy / "own.py").write_text("raise SystemExit('it ran')\n")
    with pytest.raises(ModelError, match="needs code of its own, which isogloss never runs"):
        load_model(str(copy))
    assert capsys.readouterr().out == ""


def test_tokens_beyond_the_embedding_are_refused_by_name(copy):
    """On a GPU they would stop the process."""
    larger = tokenizer().__class__.from_pretrained(copy)
    larger.add_tokens([f"<new-{i}>" for i in range(1000)])
    larger.save_pretrained(copy)
    with pytest.raises(ModelError, match=r"has \d+ tokens that the model has no embedding for \('<new-\d+>' is \d+"):
        load_model(str(copy))


def test_weights_that_are_not_finite_are_named_as_such(copy):
    """The version of transformers is not to blame."""
    loaded = load_model(str(copy), device="cpu")
    with torch.no_grad():
        next(loaded.router_modules[1].module.parameters()).fill_(float("nan"))
    layer = loaded.routers[1].layer
    with pytest.raises(ModelError, match=f"router logits of layer {layer} are not finite.*--dtype float32"):
        prove_routers(loaded, "The river is wide.")


def _require_loaded_or_refused(folder, seed):
    """Damage a file of a checkpoint, load it, and let it answer."""
    draws = random.Random(f"model {seed}")
    path = folder / _FILES[seed % len(_FILES)]
    content, what = damaged(path.name, path.read_bytes(), draws)
    path.write_bytes(content)
    with accepted_or_refused(f"seed {seed}, {path.name}: {what}"):
        load_model(str(folder), device="cpu")


@pytest.mark.filterwarnings("ignore")  # transformers warns of what it does not know
@pytest.mark.parametrize("seeds", [range(15), pytest.param(range(15, 200), marks=pytest.mark.slow)], ids=str)
def test_damaged_checkpoints_are_loaded_or_refused_in_one_line(whole, tmp_path, seeds):
    """Whatever the libraries raise about the files of a model."""
    for seed in seeds:
        shutil.rmtree(tmp_path / "model", ignore_errors=True)
        _require_loaded_or_refused(shutil.copytree(whole, tmp_path / "model"), seed)
