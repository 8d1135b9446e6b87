"""Capture on real transformers classes agrees with two independent oracles and with itself in every layout."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from models import ITEM_IDS, TEXTS, bypass_router, choose_the_worst, each_family, tiny, tokenizer
from slow import slow_but

from isogloss import routing
from isogloss.backends.capture_options import CaptureOptions
from isogloss.backends.huggingface import prove, prove_routers
from isogloss.backends.huggingface.watch import watch_routers
from isogloss.errors import CorpusError, ModelError

ALL = CaptureOptions(token_scope="all")


def by_hand(loaded, text):
    """Router outputs of one text alone, by a listener of our own: list over layers of (logits, ids)."""
    seen = []
    with (
        watch_routers(loaded, lambda _i, output: seen.append((output.router_logits, output.expert_ids))),
        torch.no_grad(),
    ):
        loaded.model(**loaded.tokenizer(text, return_tensors="pt"))
    return seen


@each_family()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_reference_router_agrees_with_the_library(family, dtype):
    """The reference router, fed the library's logits, chooses the library's experts with its weights."""
    loaded = tiny(family, dtype=dtype)
    prove_routers(loaded, TEXTS[1])


def test_sparsemixer_is_proven_in_16_bits():
    """It masks logits beyond a distance that the library computes in 16 bits; here one lies at the very edge."""
    loaded = tiny("phimoe", dtype=torch.bfloat16, seed=5)
    prove_routers(loaded, " ".join(TEXTS[2:5]))
    prove._EDGE["bfloat16"], edge = 0.0, prove._EDGE["bfloat16"]
    try:
        with pytest.raises(ModelError, match="layer 2 chooses otherwise"):
            prove_routers(loaded, " ".join(TEXTS[2:5]))
    finally:
        prove._EDGE["bfloat16"] = edge


def recorded_inside(loaded, asked):
    """What the text model records by itself: some multimodal classes around it do not hand that on."""
    return loaded.model.get_decoder()(**asked).router_logits


@each_family()
def test_library_records_the_logits_that_we_capture(family):
    """Profiles equal those from ``output_router_logits=True``, the library's own road, one text at a time."""
    loaded = tiny(family)
    captured = loaded.capture(TEXTS, ITEM_IDS, options=ALL)
    for item, text in enumerate(TEXTS):
        with torch.no_grad():
            asked = {**loaded.tokenizer(text, return_tensors="pt"), "output_router_logits": True}
            recorded = getattr(loaded.model(**asked), "router_logits", None) or recorded_inside(loaded, asked)
        step = len(recorded) // len(loaded.router_modules)  # jetmoe records routers of its attention as well
        recorded = recorded[step - 1 :: step]
        assert len(recorded) == len(loaded.router_modules)
        for layer, (router, found) in enumerate(zip(loaded.router_modules, recorded, strict=True)):
            logits = found.log().numpy() if loaded.family.returns == "probabilities" else found.numpy()
            chosen = routing.route(logits, router.spec, router.selection_bias(), expert_scale=router.expert_scale())
            counts = routing.selections(chosen.expert_ids, router.spec.n_experts)
            np.testing.assert_allclose(captured.profiles[item, layer], routing.profile(logits), atol=1e-6)
            np.testing.assert_array_equal(captured.selections[item, layer], counts)


@each_family()
@pytest.mark.parametrize("batch_tokens", slow_but([1, 64, 100_000], quick=[100_000]))
def test_batches_change_nothing(family, batch_tokens):
    """One text per forward, a few, or all together give the same selections, and profiles to rounding."""
    loaded = tiny(family)
    alone = loaded.capture(TEXTS, ITEM_IDS, options=CaptureOptions(batch_tokens=1))
    batched = loaded.capture(TEXTS, ITEM_IDS, options=CaptureOptions(batch_tokens=batch_tokens))
    np.testing.assert_array_equal(batched.selections, alone.selections)
    np.testing.assert_array_equal(batched.tokens, alone.tokens)
    np.testing.assert_allclose(batched.profiles, alone.profiles, atol=1e-6)
    np.testing.assert_allclose(batched.consistency, alone.consistency, atol=1e-6)


@each_family()
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_side_changes_no_choice(family, side):
    """What the library chooses for real tokens under either padding is what capture counts without any."""
    loaded = tiny(family)
    if side == "left" and not loaded.family.left_padding:
        pytest.skip(f"left padding changes what {family} attends to; its prompts are answered one by one")
    captured = loaded.capture(TEXTS, ITEM_IDS, options=ALL)
    batch = loaded.tokenizer(list(TEXTS), return_tensors="pt", padding=True, padding_side=side)
    real = batch["attention_mask"].bool().flatten()
    item = torch.arange(len(TEXTS)).repeat_interleave(batch["input_ids"].shape[1])[real]
    position = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    n_experts = loaded.router_modules[0].spec.n_experts
    counts = torch.zeros(len(TEXTS), len(loaded.router_modules), n_experts, dtype=torch.long)

    def count(index, output):
        ids = output.expert_ids
        chosen = torch.zeros(len(ids), n_experts, dtype=torch.long).scatter(1, ids, 1)[real]
        counts[:, index].index_add_(0, item, chosen)

    with watch_routers(loaded, count), torch.no_grad():
        loaded.model(batch["input_ids"], attention_mask=batch["attention_mask"], position_ids=position)
    np.testing.assert_array_equal(captured.selections, counts.numpy())


@each_family()
def test_cache_equals_full_forward(family):
    """Token by token with a KV cache, the routers choose what they choose in one forward."""
    loaded = tiny(family)
    full = by_hand(loaded, TEXTS[1])
    ids = loaded.tokenizer(TEXTS[1], return_tensors="pt")["input_ids"]
    steps = [[] for _ in loaded.router_modules]
    cache = None
    with watch_routers(loaded, lambda i, output: steps[i].append(output.expert_ids)), torch.no_grad():
        for token in ids[0]:
            cache = loaded.model(token.view(1, 1), past_key_values=cache, use_cache=True).past_key_values
    for (_, expected), chosen in zip(full, steps, strict=True):
        np.testing.assert_array_equal(torch.cat(chosen).sort(-1).values, expected.sort(-1).values)


@each_family()
def test_counts_add_up(family):
    """Selections sum to top-k times tokens, profiles to 1, and entropy lies between 0 and log n_experts."""
    loaded = tiny(family)
    captured = loaded.capture(TEXTS, ITEM_IDS)
    spec = loaded.router_modules[0].spec
    expected = spec.top_k * captured.tokens[:, None].repeat(len(loaded.router_modules), 1)
    np.testing.assert_array_equal(captured.selections.sum(-1), expected)
    np.testing.assert_allclose(captured.profiles.sum(-1), 1, atol=1e-5)
    assert (captured.entropy >= 0).all()
    assert (captured.entropy <= np.log(spec.n_experts) + 1e-5).all()


def test_content_leaves_special_tokens_out():
    """``content`` counts one token less per text than ``all``: the begin-of-text token."""
    loaded = tiny("olmoe")
    content, everything = (
        loaded.capture(TEXTS, ITEM_IDS, options=CaptureOptions(token_scope=s)) for s in ("content", "all")
    )
    np.testing.assert_array_equal(everything.tokens - content.tokens, 1)
    lengths = [len(tokenizer()(text)["input_ids"]) for text in TEXTS]
    np.testing.assert_array_equal(everything.tokens, lengths)


def test_consistency_equals_the_definition():
    """The device's consistency is that of the reference, over all tokens where there are at most 64."""
    loaded = tiny("olmoe")
    captured = loaded.capture(TEXTS, ITEM_IDS, options=ALL)
    for item, text in enumerate(TEXTS):
        outputs = by_hand(loaded, text)
        if len(outputs[0][1]) <= 64:
            expected = [routing.consistency(ids.numpy(), 8) for _, ids in outputs]
            np.testing.assert_allclose(captured.consistency[item], expected, atol=1e-6)


def test_consistency_samples_do_not_depend_on_neighbours():
    """A long text's sampled tokens are the same whatever it is captured with."""
    loaded = tiny("olmoe")
    long = " ".join(TEXTS * 2)
    alone = loaded.capture([long], ["long"])
    together = loaded.capture([*TEXTS, long], [*ITEM_IDS, "long"])
    np.testing.assert_allclose(together.consistency[-1], alone.consistency[0], atol=1e-6)


def test_empty_text_is_refused_by_name():
    """A text without a token to count is an error that names the item."""
    with pytest.raises(CorpusError, match="item-empty"):
        tiny("olmoe").capture(["fine", ""], ["item-0", "item-empty"])


def test_too_long_text_is_refused_by_name():
    """A text beyond the model's positions is never cut in silence."""
    with pytest.raises(CorpusError, match=r"item-long has .* tokens; the model takes 512"):
        tiny("olmoe").capture(["a b " * 600], ["item-long"])


def test_bypassed_router_is_an_error():
    """A block that computes its routing without calling the router module is refused, not captured as zeros."""
    loaded = tiny("olmoe")
    bypass_router(loaded, 2)
    with pytest.raises(ModelError, match="layer 2 ran 0 times"):
        prove_routers(loaded, TEXTS[0])


def test_router_that_chooses_otherwise_is_an_error():
    """A router that does not do what its family's row says fails the proof."""
    loaded = tiny("olmoe")
    choose_the_worst(loaded, 1)
    with pytest.raises(ModelError, match="layer 1 chooses otherwise"):
        prove_routers(loaded, TEXTS[1])


def test_no_hook_is_left():
    """After a capture, and after one that raised, no router carries a hook."""
    loaded = tiny("olmoe")
    loaded.capture(TEXTS, ITEM_IDS)
    with pytest.raises(CorpusError):
        loaded.capture([""], ["item"])
    assert not any(router.module._forward_hooks for router in loaded.router_modules)
