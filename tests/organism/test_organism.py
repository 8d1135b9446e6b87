"""The shipped model loads with the library alone and can do what its card says, roughly."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from slow import slow_but
from transformers import AutoModelForCausalLM, AutoTokenizer

from isogloss.backends.open import load
from isogloss.evaluation.tasks import load_task
from isogloss.organism.realise import grammar_languages
from isogloss.organism.shipped import model_folder, scene_corpus


@pytest.fixture(scope="module")
def organism():
    """The shipped model in float32."""
    return load("organism")


def test_loads_with_transformers_alone():
    """A plain `from_pretrained` of the folder gives a Qwen3-MoE model and a fast tokenizer; nothing is special."""
    model = AutoModelForCausalLM.from_pretrained(model_folder())
    tokenizer = AutoTokenizer.from_pretrained(model_folder())
    config = model.config
    assert type(model).__name__ == "Qwen3MoeForCausalLM"
    assert model.dtype == torch.bfloat16
    assert config.num_hidden_layers >= 12
    assert config.num_experts >= 32
    assert config.num_experts_per_tok >= 4
    assert sum(p.numel() for p in model.parameters()) <= 20e6
    assert (model_folder() / "model.safetensors").stat().st_size <= 24 * 2**20
    assert tokenizer.is_fast
    assert (model_folder() / "README.md").is_file()


def test_tokenizer_round_trips_every_language():
    """Byte-level: every text of every script comes back whole, digits stand alone."""
    tokenizer = AutoTokenizer.from_pretrained(model_folder())
    for texts in scene_corpus(20).texts.values():
        for text in texts:
            assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text
    assert len(tokenizer("1234", add_special_tokens=False)["input_ids"]) == 4


def bits_per_byte(model, texts):
    """Negative log-likelihood of texts in bits over their UTF-8 bytes."""
    nats = sum(each.nats for each in model.log_likelihoods([("", text) for text in texts]))
    return -nats / math.log(2) / sum(len(text.encode()) for text in texts)


@pytest.mark.parametrize("language", slow_but(grammar_languages(), quick=("eng_Latn", "jpn_Jpan", "swh_Latn")))
def test_knows_every_language(organism, language):
    """New scenes cost less than half of what random bytes of the small model's vocabulary would: it was trained."""
    assert bits_per_byte(organism, scene_corpus(30).texts[language]) < 1.0


def test_answers_held_out_problems_above_chance(organism):
    """English problems with unseen equations are answered far more often than by the most frequent answer."""
    task = load_task("organism", n_items=100, languages=["en"])
    items = task.items["eng_Latn"]
    outputs = organism.generate([item.prompt for item in items], max_new_tokens=task.max_new_tokens)
    right = np.mean([task.parse(output) == item.answer for output, item in zip(outputs, items, strict=True)])
    answers = [item.answer for item in items]
    assert right > 2 * max(answers.count(a) for a in answers) / len(answers)


def test_the_lowest_tier_lacks_what_english_has(organism):
    """The same problems: English solves most, a language that never read a solved one the fewest."""
    task = load_task("organism", n_items=40, languages=["en", "th"])
    right = {}
    for language, items in task.items.items():
        outputs = organism.generate([item.prompt for item in items], max_new_tokens=task.max_new_tokens)
        right[language] = sum(task.parse(output) == item.answer for output, item in zip(outputs, items, strict=True))
    assert right["eng_Latn"] > 0.8 * 40
    assert right["tha_Thai"] < 0.5 * right["eng_Latn"]


def test_generation_does_not_depend_on_the_batch(organism):
    """Answers in one batch, padded on the left, equal answers one by one."""
    prompts = [item.prompt for item in load_task("organism", n_items=6, languages=["en"]).items["eng_Latn"]]
    together = organism.generate(prompts, max_new_tokens=12)
    alone = organism.generate(prompts, max_new_tokens=12, batch_size=1)
    assert together == alone
