"""Sampled answers follow the distribution asked for, and depend on nothing but an item's key."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from models import FAMILIES, FEW, TEXTS, each_family, generate, tiny
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from isogloss.backends.huggingface.answers import answer_batch, draw
from isogloss.backends.model import Sampling
from isogloss.errors import RunError

KEYS = [f"eng_Latn/{index}" for index in range(len(TEXTS))]


@pytest.mark.parametrize("sampling", [Sampling(0.7, 0.8, 20), Sampling(1.0), Sampling(2.0, 0.5), Sampling(0.3, 1.0, 3)])
def test_draws_follow_the_distribution_of_transformers_own_warpers(sampling):
    """Over evenly spread numbers every token is drawn as often as its warped probability says."""
    n = 4000
    logits = 2 * torch.randn(1, 50, generator=torch.Generator().manual_seed(0))
    numbers = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    drawn = draw(logits.expand(n, -1), numbers, sampling)
    warped = TemperatureLogitsWarper(sampling.temperature)(None, logits)
    if sampling.top_k is not None:
        warped = TopKLogitsWarper(sampling.top_k)(None, warped)
    warped = TopPLogitsWarper(sampling.top_p)(None, warped)
    frequencies = torch.bincount(drawn, minlength=50) / n
    assert frequencies.numpy() == pytest.approx(warped.softmax(-1)[0].numpy(), abs=1.5 / n)
    assert ((frequencies > 0) <= (warped[0] > -torch.inf)).all()


def test_an_items_draw_depends_on_its_key_alone():
    """Other companions, another place or size of the batch: the same answers; another seed or key: others."""
    loaded, sampling = tiny("olmoe"), Sampling(1.5, seed=3)

    def answers(order, size):
        found = {}
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            texts = answer_batch(
                loaded,
                [TEXTS[index] for index in chosen],
                max_new_tokens=8,
                sampling=(sampling, [KEYS[index] for index in chosen]),
            )
            found |= dict(zip(chosen, texts, strict=True))
        return [found[index] for index in range(len(TEXTS))]

    plain = answers(range(len(TEXTS)), 6)
    assert answers([5, 3, 1, 0, 2, 4], 6) == plain
    assert answers([4, 5, 0, 3, 2, 1], 2) == plain
    assert len(set(plain)) == len(plain)
    same = [TEXTS[0]] * 2
    options = {"max_new_tokens": 8, "sampling": (sampling, KEYS[:2])}
    assert len(set(answer_batch(loaded, same, **options))) == 2
    again = answer_batch(loaded, same, max_new_tokens=8, sampling=(Sampling(1.5, seed=4), KEYS[:2]))
    assert again != answer_batch(loaded, same, **options)
    assert np.array_equal(sampling.numbers("a", 3), sampling.numbers("a", 5)[:3])


@pytest.mark.parametrize("model_type", [name for name in ("olmoe", "jamba") if name in FAMILIES])
def test_greedy_answers_are_those_of_generate(model_type):
    """Without sampling nothing is drawn; families that cannot be padded are answered one by one."""
    loaded = tiny(model_type)
    assert answer_batch(loaded, TEXTS, max_new_tokens=6) == generate(loaded, TEXTS, max_new_tokens=6)


@pytest.mark.parametrize("setting", [(0.0,), (-1.0,), (1.0, 0.0), (1.0, 1.1), (1.0, 1.0, 0), (1.0, 1.0, None, -1)])
def test_settings_out_of_range_are_refused(setting):
    """The message says what was given."""
    with pytest.raises(RunError, match="expected temperature above 0"):
        Sampling(*setting)


@each_family(quick=FEW)
def test_prompts_are_answered_as_if_each_were_alone(family):
    """Greedy answers of a batch of different lengths are those of every prompt by itself."""
    loaded = tiny(family)
    together = generate(loaded, TEXTS, max_new_tokens=6)
    alone = [generate(loaded, [text], max_new_tokens=6)[0] for text in TEXTS]
    assert together == alone
    assert len(set(together)) > 1


@pytest.mark.parametrize("model_type", ["olmoe", "qwen3_next"])
def test_an_answer_ends_after_a_stop(model_type):
    """It is the beginning of the answer without stops, up to the token that completes one; others go on."""
    loaded = tiny(model_type)
    whole = answer_batch(loaded, TEXTS, max_new_tokens=12)
    place = next(index for index, text in enumerate(whole) if len(text.strip()) > 4)
    stop = whole[place].strip()[2:4]
    ended = answer_batch(loaded, TEXTS, max_new_tokens=12, stop=("", stop, "never written"))
    assert ended[place] != whole[place]
    for text, full in zip(ended, whole, strict=True):
        assert full.startswith(text)
        assert text == full if stop not in full else stop in text
