"""On a device that is not the processor: nothing is computed across two devices, and no router waits for the host."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from adapters import random_adapter
from kinds import EVERY_KIND, everywhere, forced
from models import ITEM_IDS, TEXTS, tiny
from other_device import on_other_device
from slow import slow_but

from isogloss.backends.huggingface import Offsets, answer_loss, measure_change, offsets_applied, steer
from isogloss.backends.joint_texts import Measured

FAMILIES = slow_but(["olmoe", "deepseek_v3", "gpt_oss"], ["olmoe"])


def ids_of(loaded, device="cpu"):
    """One text's token ids ``[1, n_tokens]``."""
    return loaded.tokenizer(TEXTS[1], return_tensors="pt")["input_ids"].to(device)


@pytest.mark.parametrize("family", FAMILIES)
def test_steered_forwards_move_nothing(family, monkeypatch):
    """Each kind comes to the device when the plan is entered; forwards then copy and read what unsteered ones do."""
    host = tiny(family)
    with on_other_device(host, monkeypatch) as (loaded, traffic), torch.no_grad():
        ids = ids_of(loaded, loaded.device)

        def forward():
            found.append(loaded.model(input_ids=ids, use_cache=False).logits)

        found = []
        plain = traffic.counted(forward)
        for plan in (*(everywhere(host, intervention) for intervention in EVERY_KIND), random_adapter(host)):
            with steer(loaded, plan):
                assert traffic.counted(forward) == plain, plan
            with steer(host, plan):
                expected = host.model(input_ids=ids_of(host), use_cache=False).logits
            torch.testing.assert_close(found[-1].cpu(), expected, atol=1e-4, rtol=1e-4)
            assert (found[-1].cpu() - found[0].cpu()).abs().max() > 1e-3


def test_generation_without_a_cache_moves_nothing_by_router(monkeypatch):
    """Which tokens were given is known on the device, whatever the number of routers."""
    loaded = tiny("olmoe")
    options = {"use_cache": False, "max_new_tokens": 3, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with on_other_device(loaded, monkeypatch) as (loaded, traffic):
        ids = ids_of(loaded, loaded.device)

        def write():
            loaded.model.generate(ids, **options)

        plain = traffic.counted(write)
        with steer(loaded, forced(loaded, phase="generation")):
            assert traffic.counted(write) == plain


def test_a_capture_moves_batches(monkeypatch):
    """What is captured is what the processor captures; copies and reads do not grow with the layers."""
    host = tiny("olmoe")
    expected = host.capture(TEXTS, ITEM_IDS)
    with on_other_device(host, monkeypatch) as (loaded, traffic):
        found = []
        copies, reads = traffic.counted(lambda: found.append(loaded.capture(TEXTS, ITEM_IDS)))
        np.testing.assert_array_equal(found[0].selections, expected.selections)
        np.testing.assert_allclose(found[0].profiles, expected.profiles, atol=1e-5)
        assert copies <= 7  # arrays of a batch
        assert reads <= 7  # three results, whether a batch has written tokens, and what the library asks


def test_a_change_is_measured_with_few_reads(monkeypatch):
    """Reads grow with the texts, not with texts times layers."""
    host = tiny("olmoe")
    plan = everywhere(host, EVERY_KIND[0])
    expected = measure_change(host, plan, TEXTS)
    with on_other_device(host, monkeypatch) as (loaded, traffic):
        found = []
        _, reads = traffic.counted(lambda: found.append(measure_change(loaded, plan, TEXTS)))
        assert found[0].changed == pytest.approx(expected.changed)
        assert reads <= 3 * len(TEXTS) + 2 * len(host.routers) + 8  # the fingerprint is read once


def test_what_routers_read_is_read_back_once_by_layer(monkeypatch):
    """Moments, and the share of tokens that obey an adapter, are read when all batches have run."""
    host = tiny("olmoe")
    layers = [spec.layer for spec in host.routers]
    ids = [host.tokenizer(text)["input_ids"] for text in TEXTS]
    texts, banned = [Measured(n, each, 1, len(each)) for n, each in enumerate(ids)], {layer: [0, 3] for layer in layers}
    adapter = random_adapter(host)
    sums, shares = host.second_moments(texts, layers), host.share_obeying(texts, banned, adapter)
    assert 0 < min(shares.values()) < 1
    with on_other_device(host, monkeypatch) as (loaded, traffic):
        found = []
        _, reads = traffic.counted(lambda: found.append(loaded.second_moments(texts, layers, batch_tokens=8)))
        assert reads <= 2 * len(layers) + len(texts)  # the library asks something of every batch
        for layer, moments in sums.items():
            np.testing.assert_allclose(found[0][layer].products, moments.products, atol=1e-4)
        _, reads = traffic.counted(lambda: found.append(loaded.share_obeying(texts, banned, adapter, batch_tokens=8)))
        assert found[1] == pytest.approx(shares)
        assert reads <= 3 * len(layers) + len(texts)  # two by layer are of the fingerprint


@pytest.mark.parametrize("checkpointing", [False, True])
def test_learning_has_the_gradient_of_the_processor(checkpointing, monkeypatch):
    """A step on the device gives the gradient that a step on the processor gives."""
    host = tiny("olmoe")
    ids = host.tokenizer(TEXTS[1])["input_ids"]
    batch = [Measured(0, ids, 3, len(ids) - 1)]

    def gradients(loaded):
        values = {spec.layer: torch.zeros(spec.n_experts, requires_grad=True) for spec in loaded.routers}
        with offsets_applied(loaded, Offsets(values), checkpointing=checkpointing):
            answer_loss(loaded, batch).backward()
        return torch.stack([value.grad for value in values.values()])

    expected = gradients(host)
    with on_other_device(host, monkeypatch) as (loaded, _traffic):
        torch.testing.assert_close(gradients(loaded), expected, atol=1e-6, rtol=1e-4)
    assert expected.abs().max() > 1e-4
