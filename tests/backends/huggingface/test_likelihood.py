"""Likelihoods of continuations are those of one text at a time, whatever the batch, and begin where they should."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from models import FEW, TEXTS, each_family, tiny, tokenizer
from tokenizers.processors import TemplateProcessing

from isogloss.backends.huggingface import HuggingFaceModel, steer
from isogloss.backends.huggingface.likelihood import measure_likelihoods
from isogloss.backends.joint_texts import tokenise_pairs
from isogloss.errors import CorpusError
from isogloss.steering import Intervention, Plan

PAIRS = [
    (TEXTS[0], " The river is deep."),
    (TEXTS[2], " 図書館"),
    (TEXTS[0], " No."),
    (TEXTS[5], " Then they went home."),
]


def naive(loaded, ids, start):
    """Sum of the log-probabilities of the tokens from ``start`` on, from one plain forward, in float64."""
    with torch.no_grad():
        scores = loaded.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return sum(scores[place - 1, ids[place]].item() for place in range(start, len(ids)))


def measure(loaded, pairs, *, add_special_tokens=True, batch_tokens=2048):
    """Measure each continuation after its prompt."""
    texts = tokenise_pairs(loaded.tokenizer, pairs, add_special_tokens=add_special_tokens)
    return measure_likelihoods(loaded, texts, batch_tokens=batch_tokens)


@each_family(quick=FEW)
def test_batches_and_padding_do_not_matter(family):
    """In one padded batch or alone, each sum is that of a plain forward over the joint tokens."""
    loaded = tiny(family)
    for batch_tokens in (1, 10_000):
        found = measure(loaded, PAIRS, batch_tokens=batch_tokens)
        for (prompt, continuation), each in zip(PAIRS, found, strict=True):
            ids = loaded.tokenizer(prompt + continuation)["input_ids"]
            start = len(loaded.tokenizer(prompt)["input_ids"])
            assert ids[:start] == loaded.tokenizer(prompt)["input_ids"]
            assert each.nats == pytest.approx(naive(loaded, ids, start), rel=2e-4, abs=1e-4)
            assert each.n_tokens == len(ids) - start


def test_long_texts_are_summed_in_parts():
    """More positions than are normalised at once give the same sum."""
    loaded = tiny("olmoe")
    text = " ".join(TEXTS * 5)
    ids = loaded.tokenizer(TEXTS[0] + text)["input_ids"]
    start = len(loaded.tokenizer(TEXTS[0])["input_ids"])
    assert len(ids) - start > 300
    (found,) = measure(loaded, [(TEXTS[0], text)])
    assert found.nats == pytest.approx(naive(loaded, ids, start), rel=1e-5)


def test_a_token_across_the_border_counts_for_every_continuation_alike():
    """A trailing space that merges with a continuation counts, for the option that keeps it a token of its own too."""
    loaded = tiny("olmoe")
    encode = lambda text: loaded.tokenizer(text)["input_ids"]  # noqa: E731 - short
    prompt, merging, keeping = "The cup is ", "wide", "図"
    kept = len(encode("The cup is"))
    assert encode(prompt + merging)[: kept + 1] != encode(prompt)  # the case at hand
    assert encode(prompt + keeping)[: kept + 1] == encode(prompt)
    found = measure(loaded, [(prompt, merging), (prompt, keeping)])
    for text, each in zip((merging, keeping), found, strict=True):
        assert each.nats == pytest.approx(naive(loaded, encode(prompt + text), kept), rel=1e-4)
    (alone,) = measure(loaded, [(prompt, keeping)])
    assert alone.n_tokens == found[1].n_tokens - 1


def framing_tokenizer():
    """A tokenizer that puts a beginning and an end around every text."""
    framing = copy.deepcopy(tokenizer())
    begin, end = framing.bos_token, framing.eos_token
    ids = [(token, framing.convert_tokens_to_ids(token)) for token in (begin, end)]
    framing.backend_tokenizer.post_processor = TemplateProcessing(single=f"{begin} $A {end}", special_tokens=ids)
    return framing


def test_special_tokens_stand_before_a_text_alone():
    """A beginning of text is kept where asked for, an end of text after prompt or continuation never."""
    loaded = HuggingFaceModel(tiny("olmoe").model, framing_tokenizer(), name="framing")
    bare = lambda text: loaded.tokenizer(text, add_special_tokens=False)["input_ids"]  # noqa: E731 - short
    prompt, text = TEXTS[0], " Yes."
    begin = loaded.tokenizer.bos_token_id
    for add, head in ((True, [begin]), (False, [])):
        (found,) = measure(loaded, [(prompt, text)], add_special_tokens=add)
        ids = head + bare(prompt + text)
        assert found.n_tokens == len(bare(prompt + text)) - len(bare(prompt))
        assert found.nats == pytest.approx(naive(loaded, ids, len(head + bare(prompt))), rel=1e-4)
    (found,) = measure(loaded, [("", text)])
    assert found.n_tokens == len(bare(text))
    assert found.nats == pytest.approx(naive(loaded, [begin, *bare(text)], 1), rel=1e-4)


def test_without_a_beginning_of_text_the_first_token_is_left_out():
    """Nothing predicts it; a text of one token cannot be measured then."""
    plain = copy.deepcopy(tokenizer())
    plain.bos_token = None
    loaded = HuggingFaceModel(tiny("olmoe").model, plain, name="plain")
    ids = plain("Yes, yes.", add_special_tokens=False)["input_ids"]
    (found,) = measure(loaded, [("", "Yes, yes.")])
    assert found[:2] == (pytest.approx(naive(loaded, ids, 1), rel=1e-4), len(ids) - 1)
    with pytest.raises(CorpusError, match="no token to measure"):
        measure(loaded, [("", "Y")])
    with pytest.raises(CorpusError, match="no token to measure"):
        measure(loaded, [("Yes", "")])


def test_continuations_are_of_the_generation():
    """A plan for the generation acts from the first token of a continuation on, which another token must read."""
    loaded = tiny("olmoe")
    layer = loaded.router_modules[0].spec.layer
    prompt, text = TEXTS[0], " Anna gives the blue cup to Omar."
    first = loaded.tokenizer.decode(loaded.tokenizer(text)["input_ids"][0])
    pairs = [(TEXTS[1], first), (prompt, text)]

    def steered(phase):
        plan = Plan(loaded.fingerprint, (Intervention("ban", layer, (0, 1), phase=phase),))
        with steer(loaded, plan):
            return [each.nats for each in measure(loaded, pairs)]

    plain = [each.nats for each in measure(loaded, pairs)]
    generation, both = steered("generation"), steered("both")
    assert generation[0] == pytest.approx(plain[0], abs=1e-6)
    assert both[0] != pytest.approx(plain[0], abs=1e-6)
    assert not math.isclose(generation[1], plain[1], abs_tol=1e-6)
    assert not math.isclose(generation[1], both[1], abs_tol=1e-6)
