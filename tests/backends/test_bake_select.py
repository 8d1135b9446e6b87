"""A plan of kind `select` in a checkpoint's selection biases: stock transformers chooses as steering does."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from adapters import random_adapter
from models import FAMILIES, TEXTS, checkpoint, each_family, row_for, tokenizer
from safetensors.torch import load_file, save_file
from stored_bytes import stored_bytes
from transformers import __version__ as transformers_version

from isogloss.backends.bake import bake
from isogloss.backends.bake import baked as baking
from isogloss.backends.bake.edits import StoredRouters, edits_of
from isogloss.backends.fingerprint import router_bytes, router_fingerprint
from isogloss.backends.huggingface import load_model, steer
from isogloss.backends.stored_tensors import read_places
from isogloss.errors import ModelError, PlanError
from isogloss.steering import Intervention, Plan

OVERWRITTEN = "zaya"
"""transformers 5.23 loads other biases than its checkpoint holds."""

BIASED = tuple(name for name in FAMILIES if row_for(name).selection_bias and row_for(name).bakes)
NAMES = {
    "afmoe": "model.layers.{}.mlp.expert_bias",
    "deepseek_v3": "model.layers.{}.mlp.gate.e_score_correction_bias",
    "ernie4_5_moe": "model.layers.{}.mlp.moe_statics.e_score_correction_bias",
    "exaone_moe": "model.layers.{}.mlp.e_score_correction_bias",
    "lfm2_moe": "model.layers.{}.feed_forward.expert_bias",
    "minimax_m2": "model.layers.{}.block_sparse_moe.e_score_correction_bias",
}
"""As published checkpoints store them, where transformers' own name is another or the bias lies on the block."""


def load(folder, dtype="float32"):
    """A checkpoint on the processor."""
    with contextlib.redirect_stderr(io.StringIO()):
        return load_model(str(folder), dtype=dtype, device="cpu")


def plan_of(loaded, *, size=0.5, layers=None):
    """Other numbers in every routed layer but the last, for half of the experts."""
    rules = []
    for layer in loaded.fingerprint.layers[:-1] if layers is None else layers:
        drawn = np.random.default_rng((7, layer))
        experts = sorted(drawn.permutation(loaded.fingerprint.n_experts)[: loaded.fingerprint.n_experts // 2].tolist())
        rules.append(Intervention("select", layer, experts, values=(size * drawn.normal(size=len(experts))).tolist()))
    return Plan(loaded.fingerprint, tuple(rules))


def baked(folder, plan, output, **options):
    """Bake on the processor."""
    with contextlib.redirect_stderr(io.StringIO()):
        return bake(str(folder), plan, output, loading={"device": "cpu"}, **options)


@torch.inference_mode()
def logits(loaded, plan=None):
    """Logits of every text, in stock transformers or steered."""
    with contextlib.nullcontext() if plan is None else steer(loaded, plan):
        return torch.cat([loaded.model(**loaded.tokenizer(text, return_tensors="pt")).logits for text in TEXTS], dim=1)


@pytest.mark.skipif(not transformers_version.startswith("5.23."), reason="counted of one version")
@pytest.mark.parametrize("page", ["docs/serving.md", "CHANGELOG.md"])
def test_the_families_that_are_covered_are_counted(page):
    """Where the pages say of how many families it is proven."""
    text = " ".join((Path(__file__).parents[2] / page).read_text(encoding="utf-8").split())
    assert f"{len(BIASED)} families of transformers 5.23" in text


@each_family(BIASED)
def test_equals_steering(tmp_path, family):
    """The copy's logits are those of the plan, far from the original's; only the biases of its layers are changed."""
    folder, out = checkpoint(family), tmp_path / "out"
    original = load(folder)
    plan = plan_of(original)
    result = baked(folder, plan, out)
    copy = load(out)
    plain, steered, found = logits(original), logits(original, plan), logits(copy)
    torch.testing.assert_close(found, steered, rtol=0, atol=2e-5)
    assert (found - plain).abs().max() > 0.1
    (before, headers), (after, others) = stored_bytes(folder), stored_bytes(out)
    assert headers == others
    changed = {old.name for old, new in zip(before, after, strict=True) if old != new}
    assert len(changed) == len(plan.layers) == result.n_layers
    assert all(any(f".{layer}." in name and "bias" in name for name in changed) for layer in plan.layers)
    if family in NAMES:
        assert changed == {NAMES[family].format(layer) for layer in plan.layers}
    assert (result.parts, result.dtype) == (("selection bias",), "F32")
    check = result.verification
    assert check.changed_choices > 0.02
    assert check.different_choices == 0
    assert check.largest_change == 0  # weights are the original's: no logit moves
    with pytest.raises(PlanError, match="made for another model"), steer(copy, plan):
        pass


@pytest.mark.parametrize("family", ["deepseek_v3", "minimax_m2"])
def test_verification_finds_biases_of_other_layers(tmp_path, monkeypatch, family):
    """Sums that are written into each other's layers, and those that are written to neighbouring experts."""
    folder = checkpoint(family)
    original, right = load(folder), edits_of

    def permuted(stored, change):
        first, second, *rest = right(stored, change)
        return (dataclasses.replace(first, after=second.after), dataclasses.replace(second, after=first.after), *rest)

    def shifted(stored, change):
        first, *rest = right(stored, change)
        return (dataclasses.replace(first, after=first.after.roll(1)), *rest)

    layers = original.fingerprint.layers
    for wrong in (permuted, shifted):
        monkeypatch.setattr(baking, "edits_of", wrong)
        with pytest.raises(ModelError, match=rf"router of layer {layers[0]} chooses other experts than the steered"):
            baked(folder, plan_of(original, layers=layers), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_verification_finds_a_bias_that_has_no_effect(tmp_path, monkeypatch):
    """A model that ignores its bias when it loads the copy is found, though the files are right."""
    folder, loads, seen = checkpoint("glm4_moe"), baking.load_model, []
    plan = plan_of(load(folder))

    def deaf(*arguments, **options):
        loaded = loads(*arguments, **options)
        seen.append(loaded)
        if len(seen) == 2:  # the copy
            for one, other in zip(*(model.router_modules for model in seen), strict=True):
                other.module.e_score_correction_bias.copy_(one.module.e_score_correction_bias)
        return loaded

    monkeypatch.setattr(baking, "load_model", deaf)
    with pytest.raises(ModelError, match=f"layer {plan.layers[0]} chooses other experts than the steered one for"):
        baked(folder, plan, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_biases_that_are_loaded_otherwise_are_found(tmp_path):
    """A family whose biases transformers overwrites cannot be verified, and is said to; its files can be changed."""
    folder = checkpoint(OVERWRITTEN)
    plan = plan_of(load(folder))
    with pytest.raises((ModelError, PlanError), match=r"made for another model|selection bias of layer 0 is not"):
        baked(folder, plan, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def stored(place, family, change):
    """A copy of a tiny checkpoint whose tensors are changed in place by a function."""
    shutil.copytree(checkpoint(family), place)
    held = load_file(place / "model.safetensors")
    change(held)
    save_file(
        {name: tensor.contiguous() for name, tensor in held.items()}, place / "model.safetensors", {"format": "pt"}
    )
    return place


def without_biases(held):
    """Leave the selection biases out."""
    for name in [name for name in held if name.endswith("e_score_correction_bias")]:
        del held[name]


def test_a_bias_that_is_not_stored_is_refused(tmp_path):
    """Where transformers makes zeros of it, the files have no place for the plan; an adapter has one."""
    folder = stored(tmp_path / "model", "axk1", without_biases)
    loaded = load(folder)
    with pytest.raises(
        ModelError, match=r"hold no such tensor as model\.layers\.1\.mlp\.gate\.e_score_correction_bias"
    ):
        baked(folder, plan_of(loaded), tmp_path / "out")
    baked(folder, random_adapter(loaded, layers=loaded.fingerprint.layers[:-1]), tmp_path / "out")


def test_a_bias_that_is_quantised_is_refused(tmp_path):
    """What is no floating-point number cannot hold a sum."""
    plan = plan_of(load(checkpoint("deepseek_v3")))
    name = "model.layers.1.mlp.gate.e_score_correction_bias"
    folder = stored(tmp_path / "model", "deepseek_v3", lambda held: held.update({name: held[name].to(torch.int8)}))
    with pytest.raises(
        ModelError, match=rf"hold I8 of shape \[8\] as {name}, the router's selection bias; expected F32"
    ):
        baked(folder, plan, tmp_path / "out")


def in_bfloat16(held):
    """Store the biases in bfloat16, near 1."""
    for name in [name for name in held if name.endswith("e_score_correction_bias")]:
        held[name] = (held[name] + 1).bfloat16()


def test_rounding_is_said_in_scores(tmp_path):
    """A sum in bfloat16 is off by what the files show; the choices of the copy are those of what it holds."""
    folder = stored(tmp_path / "model", "glm4_moe", in_bfloat16)
    loaded = load(folder)
    plan = plan_of(loaded, size=0.1)
    result = baked(folder, plan, tmp_path / "out")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("model", "out"))
    errors = []
    for rule in plan.interventions:
        name = f"model.layers.{rule.layer}.mlp.gate.e_score_correction_bias"
        realised = (after[name].double() - before[name].double())[list(rule.experts)].numpy()
        errors.append(np.abs(realised - np.float32(rule.values)).max())
    assert result.largest_rounding == pytest.approx(max(errors), rel=1e-6)
    assert 1e-4 < result.largest_rounding <= 2**-8
    assert result.dtype == "BF16"
    assert 0.005 < result.lost_share < 0.5
    assert result.verification.different_choices < 0.1 < result.verification.changed_choices
    with pytest.raises(PlanError, match="so small that no selection bias changes when the sum is stored as BF16"):
        baked(folder, plan_of(loaded, size=1e-4), tmp_path / "weak")


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize(("family", "kind"), [("deepseek_v3", "select"), ("gpt_oss", "offset")])
def test_the_same_for_all_experts_is_refused(tmp_path, family, kind, verify):
    """It changes no choice; one layer of several that does something is enough."""
    loaded = load(checkpoint(family))
    n, layers = loaded.fingerprint.n_experts, loaded.fingerprint.layers
    same = Intervention(kind, layers[0], range(n), values=[0.5] * n)
    with pytest.raises(PlanError, match=f"adds the same to all experts by {kind} in layer {layers[0]}, which changes"):
        baked(checkpoint(family), Plan(loaded.fingerprint, (same,)), tmp_path / "out", verify=verify)
    assert not list(tmp_path.iterdir())
    other = Intervention(kind, layers[1], (0,), values=[0.5])
    baked(checkpoint(family), Plan(loaded.fingerprint, (same, other)), tmp_path / "out", verify=verify)


def test_a_plan_without_effect_on_texts_is_refused(tmp_path):
    """A constant too small to move any choice is stored, but has no effect."""
    loaded = load(checkpoint("deepseek_v3"))
    rule = Intervention("select", loaded.fingerprint.layers[0], (0,), values=(1e-6,))
    with pytest.raises(PlanError, match=r"changes no choice of experts and no logit on .* texts.*raise the strength"):
        baked(checkpoint("deepseek_v3"), Plan(loaded.fingerprint, (rule,)), tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("family", "kind", "found"),
    [
        (
            "glm4_moe",
            "offset",
            "kind offset needs a logit bias of the router; found a selection bias, which holds kind select",
        ),
        (
            "gpt_oss",
            "select",
            "kind select needs a selection bias of the router; found a logit bias, which holds kind offset",
        ),
        ("olmoe", "select", "kind select needs a selection bias of the router; found no bias: serve it with the vLLM"),
    ],
)
def test_kinds_that_a_router_cannot_hold_are_named(tmp_path, family, kind, found):
    """A plan of both kinds is refused for the one that has no place."""
    loaded = load(checkpoint(family))
    rules = [Intervention(each, loaded.fingerprint.layers[0], (0,), values=(1.0,)) for each in ("offset", "select")]
    with pytest.raises(ModelError, match=f"{kind} in layer .*{found}"):
        baked(checkpoint(family), Plan(loaded.fingerprint, tuple(rules)), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_both_kinds_go_where_there_is_a_place_for_each(tmp_path):
    """No family has both biases, so the files are made by hand."""
    torch.manual_seed(0)
    weight, logit, selection = torch.randn(4, 8), torch.randn(4), torch.randn(1, 4)
    save_file({"w": weight, "l": logit, "s": selection}, tmp_path / "model.safetensors")
    places = read_places(tmp_path)
    by_part = {"weight": {0: places["w"]}, "logit bias": {0: places["l"]}, "selection bias": {0: places["s"]}}
    fingerprint = router_fingerprint(
        "made", [0], n_experts=4, top_k=1, contents=[router_bytes(weight, logit, selection)]
    )
    rules = (Intervention("select", 0, (3,), values=(0.5,)), Intervention("offset", 0, (1, 2), values=(2.0, -1.0)))
    routers = StoredRouters(tmp_path, ("model.safetensors",), fingerprint, by_part)
    edits = {edit.part: edit for edit in edits_of(routers, Plan(fingerprint, rules))}
    assert edits["logit bias"].after.tolist() == (logit + torch.tensor([0, 2.0, -1.0, 0])).tolist()
    assert edits["selection bias"].after.tolist() == (selection + torch.tensor([0, 0, 0, 0.5])).tolist()
    nothing = Intervention("offset", 0, (1,), values=(0.0,))
    with pytest.raises(PlanError, match="so small that no logit bias changes"):
        edits_of(routers, Plan(fingerprint, (rules[0], nothing)))


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
def test_a_model_in_16_bits_is_verified(tmp_path, dtype):
    """Loaded in 16 bits, routers compute logits in these and keep their biases; the copy chooses as the plan does."""
    folder = tmp_path / "model"
    load(checkpoint("deepseek_v3"), dtype).model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    check = baked(folder, plan_of(load(folder, dtype)), tmp_path / "out").verification
    assert check.changed_choices > 0.02
    assert check.different_choices < 0.01
