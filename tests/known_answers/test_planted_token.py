"""A model one of whose experts is chosen for one token and no other: capture and `inspect` must say exactly that."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from models import ITEM_IDS, TEXTS, tiny

import isogloss as ig
from isogloss.corpora import Corpus

EXPERT = 5
CORPUS = Corpus("planted", {"eng_Latn": TEXTS, "rus_Cyrl": (*TEXTS[1:], TEXTS[0])}, ITEM_IDS, "none", "here")


@pytest.fixture(scope="module")
def planted():
    """The model, the token, and the layer: what marks the token is a dimension that nothing else writes."""
    loaded = tiny("olmoe")
    ids = Counter(token for text in TEXTS for token in loaded.tokenizer(text, add_special_tokens=False)["input_ids"])
    token, router = ids.most_common(1)[0][0], loaded.router_modules[1]
    mark, always = -1, -2
    with torch.no_grad():
        embeddings = loaded.model.get_input_embeddings().weight
        embeddings[:, mark], embeddings[:, always], embeddings[token, mark] = 0.0, 5.0, 20.0
        for name, weight in loaded.model.named_parameters():
            if name.endswith("o_proj.weight"):
                weight[[mark, always]] = 0.0
            elif "down_proj" in name:
                weight[..., [mark, always], :] = 0.0
        row = router.module.weight[EXPERT]
        row.zero_()
        row[mark], row[always] = 100.0, -100.0
    return loaded, token, router.spec.layer


def test_the_planted_token_is_found_and_no_other(planted, tmp_path):
    """All choices of the expert are for it, and all its occurrences choose the expert: the lift is N / n."""
    loaded, token, layer = planted
    run = ig.capture(loaded, CORPUS, tmp_path / "run", options=ig.CaptureOptions(token_counts=True))
    result = ig.inspect(run, layer, EXPERT)
    assert [each.language for each in result.languages] == ["eng_Latn", "rus_Cyrl"]
    read = [loaded.tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    n, total = sum(ids.count(token) for ids in read), sum(map(len, read))
    assert n >= 5
    for each in result.languages:
        (row,) = each.tokens
        assert (row.token_id, row.n, row.chosen, row.share) == (token, n, n, 1.0)
        assert row.token == loaded.tokenizer.decode([token])
        assert row.lift.value == pytest.approx(total / n)
        assert row.lift.n == sum(token in ids for ids in read)
        assert 1 < row.lift.low < row.lift.value
    elsewhere = ig.inspect(run, layer, EXPERT - 1, least=1)
    assert {row.token_id for each in elsewhere.languages for row in each.tokens} - {token}
