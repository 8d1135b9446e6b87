"""Training resumes bit by bit, and its parts compute what they say."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from isogloss.cli import main
from isogloss.errors import ModelError
from isogloss.organism import train as training
from isogloss.organism.documents import Mixture
from isogloss.workflows import organism as studies

RECIPE = training.Recipe(tokens=3000, batch_tokens=512, warmup_steps=2)


@pytest.fixture
def small(monkeypatch):
    """A model of two layers and pools of 24 documents: a training of a few seconds."""
    config = training.model_config

    def tiny_config(vocab_size):
        shape = config(vocab_size)
        shape.num_hidden_layers, shape.num_experts, shape.hidden_size, shape.num_attention_heads = 2, 8, 32, 2
        return shape

    monkeypatch.setattr(training, "model_config", tiny_config)
    monkeypatch.setattr(training, "_POOL_DOCUMENTS", 24)
    monkeypatch.setattr(training, "_TOKENIZER_DOCUMENTS", 300)


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_stopped_training_ends_bit_identical(tmp_path, monkeypatch):
    """A training that is killed after a checkpoint and started again gives the weights of one that ran through."""
    through = training.train(tmp_path / "through", RECIPE, Mixture(0, {}))
    save, saves = training.Training.save, []

    def save_and_die(self):
        save(self)
        saves.append(1)
        if len(saves) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(training, "_POOLS_PER_CHECKPOINT", 1)
    monkeypatch.setattr(training.Training, "save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        training.train(tmp_path / "stopped", RECIPE, Mixture(0, {}))
    resumed = training.train(tmp_path / "stopped", RECIPE, Mixture(0, {}))
    assert len(saves) > 1
    assert (through / "model.safetensors").read_bytes() == (resumed / "model.safetensors").read_bytes()
    AutoTokenizer.from_pretrained(resumed)
    assert AutoModelForCausalLM.from_pretrained(resumed).dtype == torch.bfloat16


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_trained_and_measured_from_the_command_line(tmp_path, monkeypatch, capsys):
    """`organism train` mixes in real text and writes a model; `organism card` measures it and states the facts."""
    monkeypatch.setattr(studies, "_CARD_ITEMS", 3)
    real = tmp_path / "real"
    real.mkdir()
    (real / "eng_Latn.txt").write_text("A real sentence.\n", encoding="utf-8")
    folder, card = tmp_path / "training", tmp_path / "CARD.md"
    assert main(["organism", "train", "-o", str(folder), "--tokens", "2000", "--text", str(real)]) == 0
    assert capsys.readouterr().out.strip() == str(folder / "model")
    assert main(["organism", "card", str(folder), "-o", str(card)]) == 0
    text = card.read_text(encoding="utf-8")
    for fact in (
        "Qwen3MoeForCausalLM",
        "| Swahili (swh_Latn) | very low |",
        "TICO-19, CC0): English",
        "seed 0",
        "Mean accuracy by tier",
    ):
        assert fact in text


@pytest.mark.usefixtures("small")
def test_another_recipe_is_refused(tmp_path):
    """Resuming with another learning rate says so instead of mixing two trainings."""
    training.train(tmp_path, RECIPE, Mixture(0, {}))
    other = dataclasses.replace(RECIPE, learning_rate=1.0)
    with pytest.raises(ModelError, match="another learning_rate"):
        training.train(tmp_path, other, Mixture(0, {}))


@pytest.mark.usefixtures("small")
def test_experts_by_sorting_equal_the_library(tmp_path):
    """The faster experts of the training give the outputs of the library's own."""
    run = training.Training(tmp_path, RECIPE, Mixture(0, {}))
    batch = next(run.batches(0))
    with torch.no_grad():
        ours = run.model(batch).logits
        run.model.set_experts_implementation("eager")
        theirs = run.model(batch).logits
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_balance_loss_is_one_when_balanced_and_grows_with_collapse():
    """Uniform logits with an even choice give 1; all tokens on the same experts give n_experts over top_k."""
    counted = torch.ones(64, dtype=torch.bool)
    even = torch.eye(8).repeat(8, 1) * 1e-4
    collapsed = torch.zeros(64, 8)
    collapsed[:, :2] = 30.0
    assert training.balance_loss((even,), counted, 1).item() == pytest.approx(1.0, abs=1e-3)
    assert training.balance_loss((collapsed,), counted, 2).item() == pytest.approx(4.0, abs=1e-3)


@pytest.mark.usefixtures("small")
def test_padding_is_never_trained_on(tmp_path):
    """Batches hold every document once, padded on the right only."""
    run = training.Training(tmp_path, RECIPE, Mixture(0, {}))
    rows = [row[row != 0].tolist() for batch in run.batches(3) for row in batch]
    expected = [run.tokenizer(Mixture(0, {}).document(n))["input_ids"] + [2] for n in range(72, 96)]
    assert sorted(rows) == sorted(expected)
