"""Fused kernels in place of routers and blocks: proven right, or refused with the way out; never served unsteered."""

from __future__ import annotations

import copy
import functools
import types

import numpy as np
import pytest
import torch
from kinds import forced_and_banned
from models import ITEM_IDS, TEXTS, each_family, generate, tiny, tokenizer
from transformers.integrations import mxfp4

from isogloss.backends.huggingface import HuggingFaceModel, measure_change, prove_routers, steer
from isogloss.errors import ModelError
from isogloss.evaluation import Item, Task
from isogloss.workflows.evaluate import evaluate_plan


class KernelExperts(torch.nn.Module):
    """Stands in for the experts of the kernels: takes what their routing returns, computes with ordinary weights."""

    def __init__(self, experts):
        super().__init__()
        self.experts = experts

    def forward_routed(self, hidden, routing_data, _gather, _scatter):
        weights, expert_ids = routing_data
        return self.experts(hidden, expert_ids, weights)


def some_task():
    """A few questions."""
    items = tuple(Item(str(index), text, "1") for index, text in enumerate(TEXTS))
    return Task("test", {"eng_Latn": items}, max_new_tokens=2, parse=lambda text: text)


def with_mxfp4_kernels(monkeypatch, *, layers):
    """A gpt_oss whose blocks are the library's own class for MXFP4 kernels, and the unchanged one."""

    def routing(logits, top_k):
        chosen = logits.topk(top_k, dim=-1)
        return (chosen.values.softmax(-1), chosen.indices), None, None

    kernels = types.SimpleNamespace(routing=types.SimpleNamespace(routing=routing))
    monkeypatch.setattr(mxfp4, "triton_kernels_hub", kernels, raising=False)
    plain, bypassed = tiny("gpt_oss"), tiny("gpt_oss")
    for layer in layers:
        mlp = bypassed.model.model.layers[layer].mlp
        bypassed.model.model.layers[layer].mlp = mxfp4.Mxfp4GptOssMLP(mlp.router, KernelExperts(mlp.experts)).eval()
    return plain, HuggingFaceModel(bypassed.model, tokenizer(), name="mxfp4")


def logits_of(loaded):
    """Output logits of one text."""
    with torch.no_grad():
        return loaded.model(**tokenizer()(TEXTS[1], return_tensors="pt")).logits


BYPASSED = r"layer 2 ran 0 times .*--dequantize for MXFP4"


def test_mxfp4_kernels_are_refused(monkeypatch, tmp_path):
    """The library's block for MXFP4 kernels computes logits past the router: nothing is captured, steered, answered."""
    plain, loaded = with_mxfp4_kernels(monkeypatch, layers=[2])
    torch.testing.assert_close(logits_of(loaded), logits_of(plain))  # the block did run, and right
    with pytest.raises(ModelError, match=BYPASSED):
        prove_routers(loaded, TEXTS[1])
    with pytest.raises(ModelError, match=BYPASSED):
        loaded.capture(TEXTS, ITEM_IDS)
    plan = forced_and_banned(loaded)
    with pytest.raises(ModelError, match=BYPASSED):
        measure_change(loaded, plan, TEXTS)
    with pytest.raises(ModelError, match=BYPASSED), steer(loaded, plan):
        generate(loaded, TEXTS[:1], max_new_tokens=2)
    with pytest.raises(ModelError, match=BYPASSED):
        evaluate_plan(loaded, forced_and_banned(loaded, layers={1}), task=some_task(), arms=(), out=tmp_path / "eval")
    assert not (tmp_path / "eval").exists()


def test_a_bypass_ends_the_forward_in_which_it_happens(monkeypatch):
    """Under a plan no forward returns unsteered logits, even if the routers of other layers are steered."""
    _, loaded = with_mxfp4_kernels(monkeypatch, layers=[2])
    returned = []
    with pytest.raises(ModelError, match=BYPASSED), steer(loaded, forced_and_banned(loaded)):
        returned.append(logits_of(loaded))
    assert not returned
    assert not loaded.decoder._forward_hooks
    assert not loaded.decoder._forward_pre_hooks
    with steer(loaded, forced_and_banned(loaded, layers={0, 1, 3})):  # a plan that leaves the layer alone is applied
        logits_of(loaded)


@each_family()
def test_steering_notices_a_bypassed_router(family):
    """In every family a router that its block does not call makes a forward under a plan fail, generation too."""
    loaded = tiny(family)
    router = loaded.router_modules[-1]
    name = next(name for name, module in router.block.named_modules() if module is router.module)
    plan = forced_and_banned(loaded, layers={router.spec.layer})
    other, ids = copy.deepcopy(router.module), tokenizer()(TEXTS[1], return_tensors="pt")

    def run(use):
        with steer(loaded, plan):
            setattr(router.block, name, other)  # another module now does its work
            use(**ids)

    for use in (loaded.model, functools.partial(loaded.model.generate, max_new_tokens=1)):
        with pytest.raises(ModelError, match=f"layer {router.spec.layer} ran 0 times"):
            run(use)
        setattr(router.block, name, router.module)


# `kernels` binds the forward of a layer from the hub to the module in place of its own.
def exact_kernel(self, hidden_states):
    """Softmax, top-k and weights in one, from the weight, as a fused kernel does: without `torch.nn.functional`."""
    logits = hidden_states.reshape(-1, hidden_states.shape[-1]) @ self.weight.T
    if cap := getattr(self, "router_logit_softcapping", 0):
        logits = cap * torch.tanh(logits / cap)
    weights, expert_ids = logits.softmax(-1).topk(self.top_k)
    return logits, weights / weights.sum(-1, keepdim=True), expert_ids


def wrong_kernel(self, hidden_states):
    """A kernel that leaves out the renormalisation."""
    logits, _, expert_ids = exact_kernel(self, hidden_states)
    return logits, logits.softmax(-1).gather(-1, expert_ids), expert_ids


def with_kernel(family, kernel):
    """A model whose last router runs a kernel."""
    loaded = tiny(family)
    module = loaded.router_modules[-1].module
    module.forward = types.MethodType(kernel, module)
    return loaded


def test_router_kernel_that_agrees_is_captured():
    """A kernel in place of a softmax router's forward is proven like it, and gives the same selections."""
    loaded = with_kernel("qwen3_5_moe", exact_kernel)
    prove_routers(loaded, TEXTS[1])
    expected = tiny("qwen3_5_moe").capture(TEXTS, ITEM_IDS)
    np.testing.assert_array_equal(loaded.capture(TEXTS, ITEM_IDS).selections, expected.selections)


@pytest.mark.parametrize(("family", "kernel"), [("qwen3_5_moe", wrong_kernel), ("laguna", exact_kernel)])
def test_router_kernel_that_disagrees_is_refused(family, kernel, tmp_path):
    """One with other weights, or for another rule (laguna scores by sigmoid, with a bias), fails every proof."""
    loaded = with_kernel(family, kernel)
    with pytest.raises(ModelError, match="chooses otherwise than the reference router"):
        prove_routers(loaded, TEXTS[1])
    steerable = forced_and_banned(loaded, layers={loaded.router_modules[0].spec.layer})
    with pytest.raises(ModelError, match="chooses otherwise than the reference router"):
        evaluate_plan(loaded, steerable, task=some_task(), arms=(), out=tmp_path / "eval")


@pytest.mark.parametrize("family", ["qwen3_5_moe", "laguna"])
def test_router_kernel_cannot_be_steered(family):
    """The product inside a kernel is out of reach; the first forward under a plan says so."""
    loaded = with_kernel(family, exact_kernel)
    with (
        pytest.raises(ModelError, match="ran once; its logits were edited 0 times"),
        steer(loaded, forced_and_banned(loaded)),
    ):
        logits_of(loaded)


def test_block_kernel_is_refused():
    """A kernel for a whole block, as MegaBlocks for gpt_oss, never calls the router: not captured, not steered."""
    loaded = tiny("gpt_oss")
    mlp = loaded.model.model.layers[2].mlp

    def fused(self, hidden_states):
        router, hidden = self.router, hidden_states.reshape(-1, hidden_states.shape[-1])
        top, expert_ids = torch.nn.functional.linear(hidden, router.weight, router.bias).topk(router.top_k)
        weights = top.softmax(-1)
        return self.experts(hidden_states.flatten(0, 1), expert_ids, weights).view_as(hidden_states), weights

    mlp.forward = types.MethodType(fused, mlp)
    torch.testing.assert_close(logits_of(loaded), logits_of(tiny("gpt_oss")))
    with pytest.raises(ModelError, match=BYPASSED):
        prove_routers(loaded, TEXTS[1])
    with pytest.raises(ModelError, match=BYPASSED), steer(loaded, forced_and_banned(loaded)):
        logits_of(loaded)
