"""The first tokens of texts are counted, and nothing else: as the router's own sums over them say."""

from __future__ import annotations

import numpy as np
import pytest
from models import ITEM_IDS, TEXTS, hooked_logits, tiny

from isogloss.backends.capture_options import CaptureOptions
from isogloss.corpora import Corpus
from isogloss.errors import RunError
from isogloss.runs import reading_difference
from isogloss.workflows import capture_corpus

FIRST = 3


def test_profiles_are_those_of_the_first_tokens():
    """Of the whole text's routing by hooks, averaged over its first tokens; a shorter text is counted whole."""
    loaded = tiny("qwen3_moe")
    texts, ids = [*TEXTS, TEXTS[0].split()[0]], [*ITEM_IDS, "short"]
    cut = loaded.capture(texts, ids, options=CaptureOptions(first_tokens=FIRST))
    whole = loaded.capture(texts, ids, options=CaptureOptions())
    for item, text in enumerate(texts):
        read = loaded.tokenizer(text, return_special_tokens_mask=True)
        own = [place for place, special in enumerate(read["special_tokens_mask"]) if not special]
        assert cut.tokens[item] == min(FIRST, len(own))
        expected = hooked_logits(loaded, read["input_ids"]).softmax(-1)[:, own[:FIRST]].mean(1)
        np.testing.assert_allclose(cut.profiles[item], expected, atol=1e-5)
        top_k = [spec.top_k for spec in loaded.routers]
        assert cut.selections[item].sum(axis=1).tolist() == [k * cut.tokens[item] for k in top_k]
    longer = whole.tokens > FIRST
    assert longer.any()
    assert (abs(cut.profiles - whole.profiles)[longer].max(axis=(1, 2)) > 1e-4).all()
    assert (cut.profiles == whole.profiles)[~longer].all()


def test_a_run_says_so_and_is_compared_with_a_word(tmp_path):
    """The manifest keeps the number; another Run of whole texts differs in it."""
    corpus = Corpus("words", {"eng_Latn": tuple(TEXTS), "deu_Latn": tuple(TEXTS)}, tuple(ITEM_IDS), "none", "here")
    model = tiny("qwen3_moe")
    cut = capture_corpus(model, corpus, tmp_path / "cut", options=CaptureOptions(first_tokens=FIRST)).manifest
    whole = capture_corpus(model, corpus, tmp_path / "whole").manifest
    assert (cut.first_tokens, whole.first_tokens) == (FIRST, None)
    assert "the first 3 of each text" in (reading_difference(cut, whole) or "")
    with pytest.raises(RunError, match="other"):
        capture_corpus(model, corpus, tmp_path / "cut")


@pytest.mark.parametrize("wrong", [{"first_tokens": 0}, {"first_tokens": 5, "phase": "generation"}])
def test_wrong_numbers_are_refused(wrong):
    """None at all, and of what a model writes."""
    with pytest.raises(RunError, match="first_tokens is"):
        CaptureOptions(**wrong)
