"""Batches of pairs: which tokens are learned, which are in a profile, and which rows belong together."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from models import ITEM_IDS, TEXTS, tiny
from transformers import AutoTokenizer

from isogloss.corpora import Corpus
from isogloss.errors import CorpusError
from isogloss.learning import PairCollator, RoutingAlignment
from isogloss.learning.paired_batches import COUNTED, PAIR, PIVOT_PROFILES
from isogloss.organism import model_folder
from isogloss.workflows import capture_corpus

TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] | trim }}"
    "{{ eos_token }}\n{% endfor %}"
)
CHAT = (
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": " How many user cups? "},
    {"role": "assistant", "content": "3 cups."},
    {"role": "user", "content": "How many user cups?"},
    {"role": "assistant", "content": "Still 3 cups."},
)


@pytest.fixture(scope="module")
def tokenizer():
    """The shipped model's, with a chat template that writes role names as ordinary text."""
    own = AutoTokenizer.from_pretrained(model_folder())
    own.chat_template = TEMPLATE
    return own


def texts_of(tokenizer, batch, row, kept):
    """What the kept tokens of a row say."""
    return tokenizer.decode(batch["input_ids"][row][kept[row]])


def test_rows_of_strings(tokenizer):
    """Every token is learned and, but for padding and special tokens, counted; pairs have opposite signs."""
    pairs = [{"text": "Three cats.", "pivot": "A longer text about three cats."}, {"text": "Alone."}]
    batch = PairCollator(tokenizer=tokenizer, append_eos=True)(pairs)
    assert batch[PAIR].tolist() == [1, -1, 0]
    for row, text in enumerate(("Three cats.", "A longer text about three cats.", "Alone.")):
        assert texts_of(tokenizer, batch, row, batch[COUNTED] == 1) == text
        learned = batch["labels"] != -100
        assert torch.equal(learned[row], batch["attention_mask"][row] == 1)
        assert torch.equal(batch["labels"][row][learned[row]], batch["input_ids"][row][learned[row]])
        assert batch["input_ids"][row][learned[row]][-1] == tokenizer.eos_token_id
        alone = PairCollator(tokenizer=tokenizer)([{"text": text}])
        assert tokenizer.eos_token_id not in alone["input_ids"]
    assert (batch["input_ids"][batch["attention_mask"] == 0] == tokenizer.pad_token_id).all()


def test_the_pivot_may_be_read_alone(tokenizer):
    """Then it is in a profile, and nothing of it is learned."""
    batch = PairCollator(tokenizer=tokenizer, learn_pivot=False)([{"text": "Cats.", "pivot": "Dogs."}])
    assert (batch["labels"][0] != -100).any()
    assert (batch["labels"][1] == -100).all()
    assert batch[COUNTED][1].any()


def test_roles_are_not_in_a_profile(tokenizer):
    """Of a chat, contents of users and assistant count, wherever a role's name occurs; answers and their ends learn."""
    batch = PairCollator(tokenizer=tokenizer)([{"text": list(CHAT), "pivot": list(CHAT[1:3])}])
    said = texts_of(tokenizer, batch, 0, batch[COUNTED] == 1)
    assert said == "How many user cups?3 cups.How many user cups?Still 3 cups."
    assert texts_of(tokenizer, batch, 1, batch[COUNTED] == 1) == "How many user cups?3 cups."
    end = tokenizer.eos_token
    assert texts_of(tokenizer, batch, 0, batch["labels"] != -100) == f"3 cups.{end}Still 3 cups.{end}"
    chosen = PairCollator(tokenizer=tokenizer, roles=("assistant",))([{"text": list(CHAT), "pivot": list(CHAT)}])
    assert texts_of(tokenizer, chosen, 0, chosen[COUNTED] == 1) == "3 cups.Still 3 cups."


def test_a_pair_that_is_cut_is_not_aligned(tokenizer):
    """Half a text is no translation of a whole one; it is still learned."""
    pairs = [{"text": "Cats.", "pivot": "A very long text about three cats and their many habits."}]
    batch = PairCollator(tokenizer=tokenizer, max_length=6)(pairs)
    assert batch[PAIR].tolist() == [0, 0]
    assert batch["input_ids"].shape[1] <= 6
    assert (batch["labels"] != -100).any(dim=1).all()


def test_stored_pivots_come_from_a_run(tmp_path):
    """Their divergence is that from the Run's own texts, which are no rows then."""
    loaded = tiny("olmoe")
    run = capture_corpus(loaded, Corpus("c", {"eng_Latn": TEXTS}, ITEM_IDS, "CC0-1.0", "ours"), tmp_path / "run")
    examples = [{"text": TEXTS[2], "item": ITEM_IDS[0]}, {"text": TEXTS[3]}, {"text": TEXTS[4], "item": ITEM_IDS[5]}]
    batch = PairCollator(tokenizer=loaded.tokenizer, stored=run)(examples)
    assert batch[PAIR].tolist() == [1, 0, 3]
    np.testing.assert_array_equal(batch[PIVOT_PROFILES][2].numpy(), run.load("eng_Latn").profiles[5])
    found = []
    for options, rows in (
        ({"pivot": "stored"}, batch),
        (
            {},
            PairCollator(tokenizer=loaded.tokenizer)(
                [examples[0] | {"pivot": TEXTS[0]}, examples[2] | {"pivot": TEXTS[5]}]
            ),
        ),
    ):
        with RoutingAlignment(loaded.model, layers="all", coefficient=1.0, **options) as alignment, torch.no_grad():
            labels = rows.pop("labels")
            alignment(loaded.model(**rows), labels)
            found.append(list(alignment.log(evaluation=True).by_layer.values()))
    np.testing.assert_allclose(*found, rtol=1e-4)
    with pytest.raises(CorpusError, match="has no item 'x'"):
        PairCollator(tokenizer=loaded.tokenizer, stored=run)([{"text": "a", "item": "x"}])


def test_what_cannot_be_read_is_refused(tokenizer):
    """In one line, which says what to do."""
    with pytest.raises(CorpusError, match="remove_unused_columns=False"):
        PairCollator(tokenizer=tokenizer)([{"labels": 1}])
    silent = AutoTokenizer.from_pretrained(model_folder())
    silent.pad_token = None
    with pytest.raises(CorpusError, match="pad_token"):
        PairCollator(tokenizer=silent)
    with pytest.raises(CorpusError, match="fast"):
        PairCollator(tokenizer=object())
    rewriting = AutoTokenizer.from_pretrained(model_folder())
    rewriting.chat_template = "{% for message in messages %}{{ message['content'] | upper }}{% endfor %}"
    with pytest.raises(CorpusError, match="as it stands"):
        PairCollator(tokenizer=rewriting)([{"text": list(CHAT)}])
