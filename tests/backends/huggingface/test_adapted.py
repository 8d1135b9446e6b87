"""A model under a router adapter is the model with changed router weights, and is afterwards as it was."""

from __future__ import annotations

import pytest
import torch
from adapters import change_weights, random_adapter
from models import TEXTS, each_family, tiny

from isogloss.backends.huggingface.watch import watch_routers
from isogloss.errors import ModelError, PlanError
from isogloss.steering import AdaptedRouter, Intervention, Plan, RouterAdapter

LONG = " ".join(TEXTS)


def observe(loaded, text=LONG):
    """Output logits of a plain forward, and the sorted chosen experts of each router."""
    chosen = []
    with watch_routers(loaded, lambda _, output: chosen.append(output.expert_ids.sort(-1).values)), torch.no_grad():
        return loaded.model(**loaded.tokenizer(text, return_tensors="pt")).logits, chosen


@each_family()
def test_equals_changed_weights(family):
    """Logits and chosen experts are those of W + scale · B A; they differ from the base, in every layer."""
    loaded, changed = tiny(family), tiny(family)
    adapter = random_adapter(loaded)
    change_weights(changed, adapter)
    before, chosen_before = observe(loaded)
    expected, chosen_expected = observe(changed)
    with loaded.steer(adapter):
        found, chosen = observe(loaded)
    assert (expected - before).abs().max() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    for one, other, plain in zip(chosen, chosen_expected, chosen_before, strict=True):
        assert torch.equal(one, other)
        assert not torch.equal(one, plain)
    after, _ = observe(loaded)
    assert torch.equal(after, before)
    assert not any("forward" in vars(router.module) for router in loaded.router_modules)


@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss"])
def test_in_bfloat16_the_change_is_not_rounded(family):
    """The logits of the first router are the plain ones plus the exact change, in float32."""
    loaded = tiny(family, dtype=torch.bfloat16)
    router = loaded.router_modules[0]
    adapter = random_adapter(loaded, layers=[router.spec.layer])
    read, logits = [], []
    handle = router.module.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].reshape(-1, 32)))
    ids = loaded.tokenizer(LONG, return_tensors="pt")
    watched = watch_routers(loaded, lambda index, output: logits.append(output.router_logits) if not index else None)
    with watched, torch.no_grad():
        loaded.model(**ids)
        with loaded.steer(adapter):
            loaded.model(**ids)
    handle.remove()
    exact = read[1].double() @ torch.from_numpy(adapter.delta(router.spec.layer)).double().T
    torch.testing.assert_close(logits[1].double() - logits[0].double(), exact, rtol=1e-4, atol=1e-4)


def test_capture_answers_and_change_run_under_it():
    """What an adapter changes is measured, as of a plan; capture and answers differ inside alone."""
    loaded, changed = tiny("olmoe"), tiny("olmoe")
    adapter = random_adapter(loaded, size=2.0)
    change_weights(changed, adapter)
    with loaded.steer(adapter):
        answers = loaded.answer(TEXTS[:2], max_new_tokens=8)
        captured = loaded.capture(TEXTS[:2], ["a", "b"])
    assert answers == changed.answer(TEXTS[:2], max_new_tokens=8) != loaded.answer(TEXTS[:2], max_new_tokens=8)
    assert (captured.selections == changed.capture(TEXTS[:2], ["a", "b"]).selections).all()
    change = loaded.change(adapter, TEXTS)
    assert change.kl is not None
    assert change.kl.value > 0
    assert all(0 < share <= 1 for share in change.changed.values())
    change.require(adapter)
    with pytest.raises(PlanError, match="the adapter changed no chosen expert"):
        loaded.change(adapter.scaled(1e-9), TEXTS).require(adapter.scaled(1e-9))


def test_laws_of_plans_hold():
    """Of another model, with another plan, without a forward, or with probes of another width it is refused."""
    loaded = tiny("olmoe")
    adapter, plan = random_adapter(loaded), Plan(loaded.fingerprint, (Intervention("ban", 0, (1,)),))
    with loaded.steer(plan):
        observe(loaded)
        with pytest.raises(PlanError, match="another plan is active"), loaded.steer(adapter):
            pass
    with pytest.raises(ModelError, match="nothing was steered"), loaded.steer(adapter):
        pass
    with pytest.raises(PlanError, match="the adapter was made for another model"), tiny("mixtral").steer(adapter):
        pass
    narrow = AdaptedRouter(0, "model.layers.0.mlp.gate.weight", [[1.0]] * 8, [[1.0] * 5])
    other = RouterAdapter(loaded.fingerprint, (narrow,), ("a",))
    with pytest.raises(PlanError, match="read 5 numbers; the router reads 32"), loaded.steer(other):
        pass


def test_doctor_tries_an_adapter():
    """As of a plan: chosen experts, next tokens, and what is written under it."""
    loaded = tiny("olmoe")
    found = loaded.checks(random_adapter(loaded, size=2.0))["plan"]()
    assert "the adapter fits this model; in its 4 layers (0-3)" in found
