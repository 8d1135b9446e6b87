"""How often each expert is chosen for each token: as a plain loop over what the library itself reports counts it."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from chat_templates import CHATML
from killing import KilledError, kill_at
from models import ITEM_IDS, TEXTS, each_family, tiny

from isogloss.backends.capture_options import CaptureOptions
from isogloss.backends.token_counts import TokenCounter
from isogloss.corpora import Corpus, Turns
from isogloss.errors import RunError
from isogloss.runs import merge, open_run
from isogloss.workflows import capture_corpus

COUNTED = CaptureOptions(token_counts=True)
CORPUS = Corpus("words", {"eng_Latn": TEXTS, "rus_Cyrl": TEXTS[::-1]}, ITEM_IDS, "none", "here")


def as_counter(routing):
    """Choices by (place of the layer, token id, expert)."""
    found, vocabulary = Counter(), routing.vocabulary.tolist()
    for layer, row in enumerate(routing.token_counts.choice_ends):
        for expert in range(routing.selections.shape[2]):
            chosen = routing.token_counts.of_expert(layer, expert)
            assert len(chosen) == len(row)
            found |= Counter(
                {(layer, vocabulary[place], expert): int(chosen[place]) for place in np.flatnonzero(chosen)}
            )
    return found


def reported(loaded, texts, own):
    """Count by a loop over the library's router outputs, one text at a time; ``own`` chooses positions."""
    found, top_k = Counter(), loaded.routers[0].top_k
    for text in texts:
        read = loaded.tokenizer(text, return_special_tokens_mask=True)
        ids, special = read["input_ids"], read["special_tokens_mask"]
        with torch.no_grad():
            output = loaded.model(torch.tensor([ids]), output_router_logits=True)
        for layer, logits in enumerate(output.router_logits):
            for place in own(special):
                for expert in logits[place].topk(top_k).indices.tolist():
                    found[layer, ids[place], expert] += 1
    return found


def content(special):
    """Positions of a text's own tokens."""
    return [place for place, each in enumerate(special) if not each]


@pytest.mark.parametrize("family", ["olmoe", "mixtral"])
@pytest.mark.parametrize("batch_tokens", [1, 8192])
def test_counts_are_those_of_a_loop_over_reported_logits(family, batch_tokens):
    """Of texts of mixed lengths, alone or padded together: padding is not counted."""
    loaded = tiny(family)
    routing = loaded.capture(TEXTS, ITEM_IDS, options=replace(COUNTED, batch_tokens=batch_tokens))
    assert as_counter(routing) == reported(loaded, TEXTS, content)
    first = loaded.capture(TEXTS, ITEM_IDS, options=replace(COUNTED, first_tokens=2))
    assert as_counter(first) == reported(loaded, TEXTS, lambda special: content(special)[:2])
    everything = loaded.capture(TEXTS, ITEM_IDS, options=replace(COUNTED, token_scope="all"))
    assert as_counter(everything) == reported(loaded, TEXTS, lambda special: range(len(special)))


def test_items_and_squares_are_those_of_the_texts():
    """How many texts hold a token, and the sum of the squares of how often each does."""
    loaded = tiny("olmoe")
    routing = loaded.capture(TEXTS, ITEM_IDS, options=COUNTED)
    by_text = [Counter(loaded.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in TEXTS]
    assert max(max(each.values()) for each in by_text) > 1
    for place, token in enumerate(routing.vocabulary.tolist()):
        times = [each[token] for each in by_text if token in each]
        assert routing.vocabulary_counts[place] == sum(times)
        assert routing.token_counts.token_items[place] == len(times)
        assert routing.token_counts.token_squares[place] == sum(n * n for n in times)
    parts = dict(zip(routing.vocabulary.tolist(), routing.token_counts.texts(), strict=True))
    for text in TEXTS:
        ids = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert b"".join(parts[token] for token in ids).decode() == text


@each_family()
def test_counts_add_up_to_selections(family):
    """For every kind of router: by expert to the selections, by token to top_k of its occurrences."""
    routing = tiny(family).capture(TEXTS, ITEM_IDS, options=COUNTED)
    top_k = routing.selections.sum(2)[0] // routing.tokens[0]
    problems = routing.token_counts.violations(routing.vocabulary_counts, routing.selections, top_k)
    assert not [name for name, wrong in problems.items() if wrong.any()]


def test_roles_of_a_chat_are_counted_apart():
    """User and assistant together are the content; what the template writes comes on top in ``all``."""
    loaded = tiny("qwen3_moe")
    loaded.tokenizer = copy.deepcopy(loaded.tokenizer)
    loaded.tokenizer.chat_template = CHATML
    turns = [Turns(question, answer) for question, answer in zip(TEXTS, reversed(TEXTS), strict=True)]
    user, assistant, own, everything = (
        as_counter(loaded.capture(turns, ITEM_IDS, options=replace(COUNTED, chat=True, token_scope=scope)))
        for scope in ("user", "assistant", "content", "all")
    )
    assert user + assistant == own
    assert user != assistant
    assert own < everything


def test_what_the_model_writes_is_counted_alone():
    """In the generation phase: top_k choices of every written token, none of the prompts'."""
    loaded = tiny("olmoe")
    options = replace(COUNTED, phase="generation", new_tokens=4)
    routing = loaded.capture(TEXTS, ITEM_IDS, options=options)
    n_layers, top_k = len(loaded.routers), loaded.routers[0].top_k
    assert sum(as_counter(routing).values()) == n_layers * top_k * routing.tokens.sum()
    assert routing.tokens.max() <= 4


def test_a_capture_without_says_so_and_is_no_other(tmp_path):
    """The manifest tells them apart; they neither resume nor merge, and the other arrays are the same."""
    loaded = tiny("olmoe")
    with_counts = capture_corpus(loaded, CORPUS, tmp_path / "with", options=COUNTED)
    plain = capture_corpus(loaded, CORPUS, tmp_path / "plain")
    assert (with_counts.manifest.token_counts, plain.manifest.token_counts) == (True, False)
    with pytest.raises(RunError, match=r"differs in token_counts \(False and True\)"):
        capture_corpus(loaded, CORPUS, tmp_path / "plain", options=COUNTED)
    with pytest.raises(RunError, match=r"differ in token_counts"):
        merge([tmp_path / "with", tmp_path / "plain"], tmp_path / "merged")
    ours, theirs = (run.load("eng_Latn").arrays() for run in (with_counts, plain))
    assert ours.keys() - theirs.keys() == {
        *("token_bytes", "token_ends", "token_items", "token_squares"),
        *("choice_ends", "choice_experts", "choice_counts"),
    }
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name], array, strict=True)
    assert plain.load("eng_Latn").token_counts is None


def test_killed_at_any_moment_it_ends_in_equal_bytes(tmp_path, monkeypatch):
    """As if it had not been stopped."""
    loaded = tiny("olmoe")
    capture_corpus(loaded, CORPUS, tmp_path / "whole", options=COUNTED)
    whole = {path.name: path.read_bytes() for path in (tmp_path / "whole").glob("*.*s*")}
    assert len(whole) == 3
    for moment in range(2, 100, 7):
        out = tmp_path / str(moment)
        with monkeypatch.context() as patch:
            kill_at(patch, moment)
            try:
                capture_corpus(loaded, CORPUS, out, options=COUNTED)
            except KilledError:
                pass
            else:
                assert moment > 4
                break
        capture_corpus(loaded, CORPUS, out, options=COUNTED)
        assert {path.name: path.read_bytes() for path in out.glob("*.*s*")} == whole
    else:
        pytest.fail("the capture never got through")


def test_languages_captured_apart_merge_to_the_same_bytes(tmp_path):
    """Byte for byte those of one capture."""
    loaded = tiny("olmoe")
    capture_corpus(loaded, CORPUS, tmp_path / "whole", options=COUNTED)
    for code in CORPUS.languages:
        capture_corpus(loaded, CORPUS, tmp_path / code, options=COUNTED, languages=(code,))
    merge([tmp_path / code for code in CORPUS.languages], tmp_path / "merged")
    for name in ("eng_Latn.safetensors", "rus_Cyrl.safetensors", "manifest.json"):
        assert (tmp_path / "merged" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert open_run(tmp_path / "merged").load("rus_Cyrl").token_counts is not None


def test_portions_change_nothing(monkeypatch):
    """However often what is new is added up, and in which parts it comes."""
    random = np.random.default_rng(0)
    ids, experts = random.integers(0, 9, 300), random.random((300, 3, 8)).argsort(-1)[..., :2]
    texts = np.split(ids, [10, 11, 100])
    counts = []
    for size, buffered in ((300, 2**20), (7, 2**20), (7, 0)):
        monkeypatch.setattr("isogloss.backends.token_counts._BUFFERED", buffered)
        counter = TokenCounter(tiny("olmoe").tokenizer, 8)
        for start in range(0, 300, size):
            counter.add(ids[start : start + size], experts[start : start + size])
        counts.append(counter.counts(texts).arrays())
    for other in counts[1:]:
        for name, array in counts[0].items():
            np.testing.assert_array_equal(other[name], array, strict=True)
    expected = Counter(
        (layer, int(token), int(e))
        for token, row in zip(ids, experts, strict=True)
        for layer in range(3)
        for e in row[layer]
    )
    assert counts[0]["choice_counts"].sum() == expected.total() == 300 * 3 * 2
    assert len(counts[0]["choice_counts"]) == len(expected)
