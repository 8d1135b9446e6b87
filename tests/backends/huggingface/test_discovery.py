"""Routers are found by structure, and whatever disagrees with the family's row is refused by name."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from configs import moe_model_types, tiny_model
from models import FAMILIES, ITEM_IDS, TEXTS, each_family, tiny, tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from isogloss.backends.families import FAMILIES as ROWS
from isogloss.backends.families import REFUSED
from isogloss.backends.huggingface import HuggingFaceModel, discovery, prove_routers, steer
from isogloss.errors import ModelError
from isogloss.steering import Intervention, Plan

DENSE = {"flint": 1, "qwen2_moe": 1, "qwen3_moe": 1, "qwen3_next": 1, "deepseek_v3": 0, "glm4_moe": 0, "lfm2_moe": 0}
HYBRID = {"jamba": [1, 3], "nemotron_h": [3, 5], "deepseek_v4": [1, 2, 3]}


def with_row(monkeypatch, model_type, **changes):
    """Make the row of a family claim something else."""
    rows = {**ROWS, model_type: dataclasses.replace(ROWS[model_type], **changes)}
    monkeypatch.setattr(discovery, "FAMILIES", rows)


@each_family()
def test_relabelling_experts_permutes_the_routing(family):
    """Rows of the router, its bias and its scales in another order give the same profiles in that order."""
    loaded, moved = tiny(family), tiny(family)
    router = moved.router_modules[0]
    n_experts = router.spec.n_experts
    last = n_experts - 1 if loaded.family.returns == "skipping" else n_experts  # the class that skips is no expert
    order = np.concatenate([np.random.default_rng(0).permutation(last), np.arange(last, n_experts)])
    if router.spec.n_groups > 1:  # whole groups, and experts within a group, may change places
        order = np.array([5, 4, 0, 1, 7, 6, 2, 3])
    weight = router.module.get_parameter(router.weight_name)
    others = [tensor for tensor in named(router.module, router.block) if tensor.numel() == n_experts]
    for tensor in {id(tensor): tensor for tensor in (weight[:n_experts], *others)}.values():
        flat = tensor.data.view(n_experts, -1)
        flat.copy_(flat[torch.from_numpy(order)].clone())
    plain, relabelled = (model.capture(TEXTS, ITEM_IDS) for model in (loaded, moved))
    np.testing.assert_allclose(relabelled.profiles[:, 0], plain.profiles[:, 0][:, order], atol=1e-5)
    np.testing.assert_array_equal(relabelled.selections[:, 0], plain.selections[:, 0][:, order])
    assert (plain.selections[:, 0] != relabelled.selections[:, 0]).any()


def named(router, block):
    """Parameters and buffers of a router, and those that its block holds itself."""
    return (*router.parameters(), *router.buffers(), *block.parameters(recurse=False), *block.buffers(recurse=False))


@each_family()
def test_each_listener_matters(family):
    """Removing any one router's hook makes capture fail instead of writing zeros."""
    for missing, router in enumerate(tiny(family).router_modules):
        loaded = tiny(family)
        deaf = loaded.router_modules[missing].module
        deaf.register_forward_hook = lambda *_args, **_kwargs: torch.nn.Identity().register_forward_hook(
            lambda *_: None
        )
        with pytest.raises(
            (ModelError, IndexError), match=f"layer {router.spec.layer} ran 0 times|pop from empty list"
        ):
            loaded.capture(TEXTS, ITEM_IDS)


@each_family()
def test_each_edit_matters(family):
    """A router whose edit is taken away is not silently left unsteered."""
    loaded = tiny(family)
    router = loaded.router_modules[-1]
    plan = Plan(loaded.fingerprint, (Intervention("force", router.spec.layer, (5,)),))
    plain = router.module.forward
    with steer(loaded, plan):
        router.module.forward = plain
        with pytest.raises(ModelError, match=f"layer {router.spec.layer} ran 0 times in 1 forwards"):
            loaded.capture(TEXTS, ITEM_IDS)


@pytest.mark.parametrize("model_type", [*DENSE, *HYBRID])
def test_layers_keep_their_place_in_the_stack(model_type):
    """Dense, attention, Mamba and hash-routed layers have no router, and the others keep their index."""
    if model_type not in FAMILIES:
        pytest.skip(f"this version of transformers has no {model_type}")
    layers = [router.spec.layer for router in tiny(model_type).router_modules]
    assert layers == HYBRID.get(model_type, [layer for layer in range(4) if layer != DENSE.get(model_type)])


def test_what_is_read_is_what_was_configured():
    """Sizes, flags, groups and factors of one family of each rule."""
    spec = tiny("deepseek_v3").router_modules[0].spec
    assert dataclasses.asdict(spec) == {
        "layer": 1,
        "n_experts": 8,
        "top_k": 2,
        "scoring": "sigmoid",
        "renormalise": True,
        "selection_bias": True,
        "n_groups": 4,
        "top_groups": 2,
        "group_score": "top2_sum",
        "others_score_zero": False,
        "scaling": 1.5,
        "expert_scale": False,
        "jitter": 0.0,
    }
    assert not tiny("olmoe").router_modules[0].spec.renormalise
    assert tiny("qwen3_moe").router_modules[0].spec.renormalise
    assert tiny("phimoe").router_modules[0].spec.jitter > 0
    assert tiny("gemma4_text").router_modules[0].spec.expert_scale


@pytest.mark.parametrize(
    ("model_type", "changes", "message"),
    [
        (
            "olmoe",
            {"router_class": "OlmoeRouter"},
            r"declares \['OlmoeTopKRouter'\]; expected router class OlmoeRouter",
        ),
        ("olmoe", {"path": "mlp.router"}, r"a router lies at mlp.gate of layer 0; expected mlp.router"),
        ("olmoe", {"renormalise": True}, "the router's flag for renormalising is False; expected True"),
        ("mixtral", {"renormalise": None}, "the router's flag for renormalising is None"),
        ("deepseek_v3", {"group_score": None}, "the router has 4 groups of experts; expected none"),
        ("deepseek_v3", {"selection_bias": None}, r"has the bias \['e_score_correction_bias'\]; expected None"),
        ("minimax_m2", {"selection_bias": None}, r"has the bias \['e_score_correction_bias'\]; expected None"),
        ("jetmoe", {"other_routers": ()}, "a router lies at self_attention.experts.router of layer 0"),
        ("ernie4_5_moe", {"weight": None}, r"matrices are \['weight', 'moe_statics.e_score_correction_bias'\]"),
    ],
)
def test_a_row_that_disagrees_is_an_error(monkeypatch, model_type, changes, message):
    """What the model is and what the row says are compared before anything runs."""
    with_row(monkeypatch, model_type, **changes)
    with pytest.raises(ModelError, match=message):
        tiny(model_type)


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        ("olmoe", {"scoring": "sigmoid"}),
        ("mixtral", {"renormalise": False}),
        ("deepseek_v3", {"group_score": "max"}),
        ("deepseek_v3", {"scoring": "softmax"}),
        ("axk2", {"others_score_zero": False}),
        ("phimoe", {"scoring": "topk_softmax"}),
        ("gemma4_text", {"expert_scale": None}),
        ("llama4_text", {"scoring": "topk_softmax"}),
    ],
)
def test_a_row_that_claims_another_rule_fails_the_proof(monkeypatch, model_type, changes):
    """What structure cannot show, the proof on a text does: the choice or a weight differs from the reference."""
    with_row(monkeypatch, model_type, **changes)
    loaded = tiny(model_type)
    if model_type == "axk2":  # the two differ only where a biased score is negative
        for router in loaded.router_modules:
            router.module.e_score_correction_bias -= 1
    with pytest.raises(ModelError, match="chooses otherwise than the reference router"):
        prove_routers(loaded, " ".join(TEXTS))


@each_family([name for name in FAMILIES if ROWS.get(name) and ROWS[name].selection_bias])
def test_a_bias_that_is_ignored_fails_the_proof(family):
    """A family whose bias were not read would be refused: the bias of the tiny models matters."""
    loaded = tiny(family)
    router = loaded.router_modules[0]
    blind = dataclasses.replace(router, spec=dataclasses.replace(router.spec, selection_bias=False), bias_name=None)
    loaded.router_modules = (blind, *loaded.router_modules[1:])
    with pytest.raises(ModelError, match="chooses otherwise than the reference router"):
        prove_routers(loaded, " ".join(TEXTS))


def test_experts_that_are_handed_another_choice_fail_the_proof():
    """A block that changes the router's choice on the way to its experts is refused."""
    loaded = tiny("mixtral")
    block = loaded.router_modules[1].block

    def swapped(hidden):
        flat = hidden.view(-1, 32)
        _, weights, ids = block.gate(flat)
        return block.experts(flat, (ids + 1) % 8, weights).view(hidden.shape)

    block.forward = swapped
    with pytest.raises(ModelError, match="layer 1 receive other expert ids"):
        prove_routers(loaded, TEXTS[1])


def test_layers_of_different_sizes_are_refused():
    """Hunyuan may have other numbers of experts by layer; a Run cannot hold them."""
    model = tiny_model("mixtral")
    gate = model.model.layers[2].mlp.gate
    gate.weight = torch.nn.Parameter(gate.weight[:6])
    with pytest.raises(ModelError, match=r"different numbers of experts .*\(6, 2\), \(8, 2\)"):
        HuggingFaceModel(model, tokenizer(), name="uneven")


def test_models_without_routers_or_rows_are_refused():
    """A dense model, a refused one and an unknown one are told apart."""
    dense = LlamaForCausalLM(LlamaConfig(vocab_size=400, hidden_size=16, num_hidden_layers=1, num_attention_heads=2))
    with pytest.raises(ModelError, match=r"'llama' is not supported: it has no routers.*olmoe"):
        HuggingFaceModel(dense, tokenizer(), name="dense")
    with pytest.raises(ModelError, match="'doge' is not supported: experts are retrieved by pairs of product keys"):
        HuggingFaceModel(tiny_model("doge"), tokenizer(), name="doge")
    unknown = tiny_model("olmoe")
    unknown.config.model_type = "olmoe9"
    with pytest.raises(ModelError, match="declares routers of class OlmoeTopKRouter, but no row says how they choose"):
        HuggingFaceModel(unknown, tokenizer(), name="unknown")


def test_an_older_transformers_is_named(monkeypatch):
    """A family whose routers changed says from which version on it is supported."""
    with_row(monkeypatch, "olmoe", since="99.0")
    with pytest.raises(ModelError, match=r"has other routers for olmoe; expected 99.0 or later"):
        tiny("olmoe")


def test_most_families_are_supported():
    """At least fifty model types of the newest transformers that was proven."""
    found = moe_model_types()
    assert len([name for name in found if name not in REFUSED]) >= min(50, len(found) - len(REFUSED))
