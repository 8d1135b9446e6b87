"""Answers do not depend on the other prompts of a batch, and likelihoods are those of the text alone."""

from __future__ import annotations

import math

import pytest
import torch
from models import TEXTS, each_family, tiny

from isogloss.backends.huggingface import bits_per_byte, generate


@each_family()
def test_prompts_are_answered_as_if_each_were_alone(family):
    """Greedy answers of a batch of different lengths are those of every prompt by itself."""
    loaded = tiny(family)
    together = generate(loaded, TEXTS, max_new_tokens=6)
    alone = [generate(loaded, [text], max_new_tokens=6)[0] for text in TEXTS]
    assert together == alone
    assert len(set(together)) > 1


def test_bits_per_byte_is_the_likelihood_of_every_next_token():
    """Equal to the sum over tokens of -log2 p, from a plain forward, over UTF-8 bytes."""
    loaded = tiny("olmoe")
    bits = 0.0
    for text in TEXTS[:3]:
        ids = loaded.tokenizer(text)["input_ids"]
        with torch.no_grad():
            probabilities = loaded.model(torch.tensor([ids])).logits[0].softmax(-1)
        bits -= sum(math.log2(probabilities[position, token]) for position, token in enumerate(ids[1:]))
    expected = bits / sum(len(text.encode()) for text in TEXTS[:3])
    assert bits_per_byte(loaded, TEXTS[:3]) == pytest.approx(expected, rel=1e-5)
