"""Sampled answers follow the distribution asked for, and depend on nothing but an item's key."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from models import FAMILIES, FEW, TEXTS, each_family, generate, tiny
from tokenizers.processors import TemplateProcessing
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from isogloss.backends.capture_options import CaptureOptions
from isogloss.backends.huggingface.answers import continue_prompts, draw
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
            texts = loaded.answer(
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
    assert len(set(loaded.answer(same, **options))) == 2
    again = loaded.answer(same, max_new_tokens=8, sampling=(Sampling(1.5, seed=4), KEYS[:2]))
    assert again != loaded.answer(same, **options)
    assert np.array_equal(sampling.numbers("a", 3), sampling.numbers("a", 5)[:3])


@pytest.mark.parametrize("model_type", [name for name in ("olmoe", "jamba") if name in FAMILIES])
def test_greedy_answers_are_those_of_generate(model_type):
    """Without sampling nothing is drawn; families that cannot be padded are answered one by one."""
    loaded = tiny(model_type)
    assert loaded.answer(TEXTS, max_new_tokens=6) == generate(loaded, TEXTS, max_new_tokens=6)


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
    whole = loaded.answer(TEXTS, max_new_tokens=12)
    place = next(index for index, text in enumerate(whole) if len(text.strip()) > 4)
    stop = whole[place].strip()[2:4]
    ended = loaded.answer(TEXTS, max_new_tokens=12, stop=("", stop, "never written"))
    assert ended[place] != whole[place]
    for text, full in zip(ended, whole, strict=True):
        assert full.startswith(text)
        assert text == full if stop not in full else stop in text


SETTINGS = {
    "no_repeat_ngram_size": 1,
    "repetition_penalty": 5.0,
    "encoder_repetition_penalty": 5.0,
    "suppress_tokens": list(range(40)),
    "begin_suppress_tokens": list(range(40)),
    "bad_words_ids": [[token] for token in range(40)],
    "sequence_bias": [[[token], -50.0] for token in range(40)],
    "exponential_decay_length_penalty": [1, 9.0],
    "forced_eos_token_id": 3,
    "min_new_tokens": 3,
    "max_time": 1e-9,
    "stop_strings": [" "],
    "num_beams": 3,
    "length_penalty": 9.0,
    "return_dict_in_generate": True,
    "output_scores": True,
    "guidance_scale": 3.0,
    "top_k": 5,
    "temperature": 0.5,
    "do_sample": True,
    "renormalize_logits": True,
    "remove_invalid_values": True,
    "cache_implementation": "static",
    "use_cache": False,
}


@pytest.mark.parametrize("name", SETTINGS)
def test_answers_follow_no_setting_of_the_checkpoint(name):
    """Greedy is the most probable token each time, and a draw follows what was asked for, whatever the file says."""
    loaded, sampling = tiny("olmoe"), (Sampling(1.5, seed=3), KEYS[:2])
    ways = [{"max_new_tokens": 6}, {"max_new_tokens": 6, "sampling": sampling}]
    plain = [loaded.answer(TEXTS[:2], **way) for way in ways]
    continued = continue_prompts(loaded, [[5, 6, 7]], max_new_tokens=6)
    setattr(loaded.model.generation_config, name, SETTINGS[name])
    assert [loaded.answer(TEXTS[:2], **way) for way in ways] == plain
    assert continue_prompts(loaded, [[5, 6, 7]], max_new_tokens=6) == continued
    ignored = loaded.describe().get("generation_config_ignored", {})
    assert (name in ignored) == (name != "do_sample")  # every call says whether it draws


@each_family()
def test_a_checkpoint_that_stored_output_router_logits_answers(family):
    """Fine-tuning with the load-balancing loss leaves this behind; the loss fails on the batches of generation."""
    loaded = tiny(family)
    plain = loaded.answer(TEXTS[:2], max_new_tokens=3)
    for config in (loaded.model.config, loaded.model.config.get_text_config()):
        config.output_router_logits = True
    assert loaded.answer(TEXTS[:2], max_new_tokens=3) == plain


def test_what_a_tokenizer_adds_behind_a_prompt_is_left_out():
    """After an end of text the model would start another one: answers, likelihoods and captures of generation."""
    loaded, ending = tiny("olmoe"), tiny("olmoe")
    ending.tokenizer = copy.deepcopy(loaded.tokenizer)
    ending.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 2)]
    )
    assert ending.tokenizer(TEXTS[0])["input_ids"] == [*loaded.tokenizer(TEXTS[0])["input_ids"], 2]
    options = CaptureOptions("all", phase="generation", new_tokens=4)
    for ask in (
        lambda model: model.answer(TEXTS, max_new_tokens=4),
        lambda model: model.log_likelihoods([(text, " and") for text in TEXTS], add_special_tokens=True),
        lambda model: model.capture(TEXTS, KEYS, options=options).selections.tolist(),
    ):
        assert ask(ending) == ask(loaded)


def test_prompts_beyond_the_context_are_refused():
    """The model would answer them, by positions that it has never seen; composite configurations name it inside."""
    loaded = tiny("olmoe")
    loaded.model.config.max_position_embeddings = 20
    long = " ".join(TEXTS)
    n = len(loaded.tokenizer(long)["input_ids"])
    with pytest.raises(RunError, match=rf"a text of {n} tokens and 3 after it need .* {n + 3}; the model takes 20"):
        loaded.answer([TEXTS[0], long], max_new_tokens=3)
    with pytest.raises(RunError, match="the model takes 20"):
        loaded.log_likelihoods([(long, " and")], add_special_tokens=True)


@each_family(quick=FEW)
def test_a_tokenizer_with_neither_pad_nor_end_answers(family):
    """Under a mask any id will do as padding, and what follows the end of a shorter answer is none of it."""
    loaded, bare = tiny(family), tiny(family)
    bare.tokenizer = copy.deepcopy(loaded.tokenizer)
    bare.tokenizer.pad_token = bare.tokenizer.eos_token = None
    written = continue_prompts(loaded, [loaded.tokenizer(text)["input_ids"] for text in TEXTS[:2]], max_new_tokens=6)
    end = next(token for token in written[0][1:] if token not in written[1])
    for model in (loaded, bare):
        model.model.generation_config.eos_token_id = end
    alone = [answer for text in TEXTS[:2] for answer in loaded.answer([text], max_new_tokens=6)]
    assert bare.answer(TEXTS[:2], max_new_tokens=6) == alone
    assert loaded.answer(TEXTS[:2], max_new_tokens=6) == alone
