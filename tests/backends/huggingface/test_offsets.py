"""Offsets get the gradient of what is computed with them, in every family, and leave nothing on the model."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from doubles import in_double, in_float64
from loss_texts import measured, portion
from models import FEW, ITEM_IDS, OTHER_KERNELS, TEXTS, each_family, tiny
from slow import slow_but

from isogloss.analysis import divergence
from isogloss.backends.capture_options import CaptureOptions
from isogloss.backends.huggingface import measure_change, steer
from isogloss.backends.huggingface.losses import (
    RoutedProfiles,
    answer_loss,
    divergence_loss,
    leash_loss,
    without_rounding,
)
from isogloss.backends.huggingface.offsets import Offsets, offsets_applied
from isogloss.backends.joint_texts import Measured
from isogloss.errors import PlanError
from isogloss.routing import RouterSpec
from isogloss.steering import Intervention, Plan

PADDED, ALONE = (1, 0, 4), (1,)  # of TEXTS


def drawn(loaded, dtype=torch.float32, *, scale=0.3):
    """Random offsets of every routed layer ``[n_layers, n_experts]``."""
    generator = torch.Generator().manual_seed(0)
    shape = len(loaded.routers), loaded.routers[0].n_experts
    return scale * torch.randn(shape, generator=generator, dtype=dtype)


def by_layer(loaded, values):
    """Offsets as the model's routers take them."""
    return Offsets({spec.layer: row for spec, row in zip(loaded.routers, values, strict=True)})


def objective(loaded, values, chosen, **how):
    """All losses together, and their gradient to the offsets."""
    values = values.clone().requires_grad_()
    applied, profiles = by_layer(loaded, values), RoutedProfiles(loaded, [spec.layer for spec in loaded.routers])
    texts = portion(loaded, chosen)
    with offsets_applied(loaded, applied, **how), profiles.listening():
        with applied.left_out():
            pivot = profiles.of(texts).roll(1, 1)
        losses = (
            answer_loss(loaded, measured(loaded, chosen)),
            5 * divergence_loss(profiles.of(texts), pivot, "hjs"),
            leash_loss(loaded, applied, measured(loaded, chosen)),
        )
        sum(losses).backward()
    return [loss.item() for loss in losses], values.grad


@each_family()
@pytest.mark.parametrize("chosen", slow_but([PADDED, ALONE], quick=[PADDED]), ids=["padded", "unpadded"])
@pytest.mark.parametrize("checkpointing", slow_but([False, True], quick=[True]), ids=["kept", "recomputed"])
def test_gradient_is_the_slope_of_the_objective(family, chosen, checkpointing, monkeypatch):
    """Along any direction, the gradient by offsets is the central finite difference, in float64."""
    loaded = in_float64(family)
    with in_double(monkeypatch):
        values, step = drawn(loaded, torch.float64), 1e-6
        _, gradient = objective(loaded, values, chosen, checkpointing=checkpointing)
        for seed in (1, 2):
            direction = torch.randn(values.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            ahead, behind = (objective(loaded, values + sign * step * direction, chosen)[0] for sign in (1, -1))
            slope = (sum(ahead) - sum(behind)) / (2 * step)
            assert (gradient * direction).sum().item() == pytest.approx(slope, rel=1e-5, abs=1e-8)
    assert gradient.abs().max() > 1e-6


@each_family()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_learning_sees_what_a_plan_computes(family, dtype):
    """The logits under offsets are those of `steer` with a plan of the same offsets, bit by bit, gradient or not."""
    loaded = tiny(family, dtype=dtype)
    values = drawn(loaded)
    ids = loaded.tokenizer(TEXTS[1], return_tensors="pt")["input_ids"]
    experts = tuple(range(values.shape[1]))
    edits = [
        Intervention("offset", spec.layer, experts, values=tuple(row.tolist()))
        for spec, row in zip(loaded.routers, values, strict=True)
    ]
    plain = loaded.model(ids).logits
    with steer(loaded, Plan(loaded.fingerprint, tuple(edits))), torch.no_grad():
        expected = loaded.model(ids).logits
    with offsets_applied(loaded, by_layer(loaded, values.requires_grad_())):
        logits = loaded.model(ids).logits
        with torch.no_grad():
            assert torch.equal(loaded.model(ids).logits, expected)
    assert logits.requires_grad
    if family in OTHER_KERNELS:
        torch.testing.assert_close(logits.detach(), expected, rtol=1e-2, atol=5e-2 if dtype == torch.bfloat16 else 1e-5)
    else:
        assert torch.equal(logits.detach(), expected)
    assert not torch.equal(plain, expected)


def whole_softmax(spec: RouterSpec) -> bool:
    """Whether the weights of the chosen depend on the logits of all experts."""
    return spec.scoring == "softmax" and not spec.renormalise


@each_family()
def test_experts_without_gradient_are_those_that_no_token_chose(family):
    """Answers move every expert where the weights come from a softmax over all; elsewhere the chosen ones alone."""
    loaded = tiny(family)
    values = drawn(loaded).requires_grad_()
    texts = measured(loaded, PADDED)
    with offsets_applied(loaded, by_layer(loaded, values)):
        answer_loss(loaded, texts).backward()
    gradient = torch.stack([without_rounding(row) for row in values.grad]) != 0
    with steer(loaded, plan_of(loaded, values.detach())):
        texts, ids = [TEXTS[index] for index in PADDED], [ITEM_IDS[index] for index in PADDED]
        selections = loaded.capture(texts, ids, options=CaptureOptions("all"))
    chosen = torch.from_numpy(selections.selections.sum(0) > 0)
    spec = loaded.routers[0]
    if whole_softmax(spec) and spec.n_groups == 1:
        assert gradient.all()
    else:
        assert not (gradient & ~chosen).any() or spec.scoring == "sparsemixer" or whole_softmax(spec)
        assert gradient.any()


def plan_of(loaded, values):
    """A plan of offsets."""
    experts = tuple(range(values.shape[1]))
    return Plan(
        loaded.fingerprint,
        tuple(
            Intervention("offset", spec.layer, experts, values=tuple(row.tolist()))
            for spec, row in zip(loaded.routers, values, strict=True)
        ),
    )


@each_family(("mixtral", "gpt_oss", "qwen3_moe", "gemma4"), quick=("mixtral", "gpt_oss"))
def test_straight_through_reaches_every_expert_and_changes_no_value(family):
    """Losses stay those of the plain gradient, bit by bit; experts that no token chose get a gradient too."""
    loaded = tiny(family)
    values = drawn(loaded)
    plain, own = objective(loaded, values, PADDED)
    through, estimate = objective(loaded, values, PADDED, straight_through=True)
    assert through == plain
    assert (estimate != 0).all()
    assert not torch.equal(own, estimate)


@each_family(quick=FEW)
def test_bfloat16_weights_take_float32_offsets(family):
    """Gradients are float32 and point where those of the float32 model do."""
    gradients = [objective(tiny(family, dtype=dtype), drawn(tiny(family)), PADDED)[1] for dtype in DTYPES]
    assert gradients[1].dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(*(each.flatten() for each in gradients), dim=0) > 0.5


DTYPES = (torch.float32, torch.bfloat16)


def test_the_losses_are_those_measured_elsewhere():
    """The leash is `measure_change`'s divergence, alignment the analysis' divergence of captured profiles."""
    loaded = tiny("olmoe")
    values, texts = drawn(loaded), [TEXTS[index] for index in PADDED]
    with offsets_applied(loaded, applied := by_layer(loaded, values)):
        ids = [loaded.tokenizer(text)["input_ids"] for text in texts]
        whole = sorted((Measured(i, each, 0, len(each)) for i, each in enumerate(ids)), key=lambda t: -len(t.ids))
        leash = leash_loss(loaded, applied, whole).item()
        profiles = RoutedProfiles(loaded, [spec.layer for spec in loaded.routers])
        with profiles.listening():
            steered = profiles.of(portion(loaded, PADDED)).detach()
    assert leash == pytest.approx(measure_change(loaded, plan_of(loaded, values), texts).kl.value, rel=1e-5)
    order = [text.item for text in portion(loaded, PADDED)]
    with steer(loaded, plan_of(loaded, values)):
        captured = loaded.capture(texts, [ITEM_IDS[index] for index in PADDED]).profiles[order]
    np.testing.assert_allclose(steered.numpy(), captured, atol=1e-6)
    other = steered.roll(1, 1)
    expected = divergence(steered.numpy(), other.numpy()).mean()
    assert divergence_loss(steered, other, "hjs").item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("raised", [None, KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_nothing_is_left_on_the_model(raised, checkpointing):
    """Afterwards outputs, flags and forwards are as before, whatever was raised in a forward or between."""
    loaded = tiny("mixtral")
    ids = loaded.tokenizer(TEXTS[1], return_tensors="pt")["input_ids"]
    frozen = next(loaded.model.parameters()).requires_grad_(requires_grad=False)
    before, flags = loaded.model(ids).logits, [each.requires_grad for each in loaded.model.parameters()]

    def interrupt(*_):
        raise raised

    handle = loaded.router_modules[-1].module.register_forward_hook(interrupt) if raised else None
    with pytest.raises(raised) if raised else nullcontext():
        objective(loaded, drawn(loaded), PADDED, checkpointing=checkpointing)
    if handle:
        handle.remove()
    assert torch.equal(loaded.model(ids).logits, before)
    assert [each.requires_grad for each in loaded.model.parameters()] == flags
    assert not frozen.requires_grad
    assert all(each.grad is None for each in loaded.model.parameters())
    for module in loaded.model.modules():
        assert "forward" not in vars(module)
        assert not module._forward_pre_hooks
        assert not module._forward_hooks


def test_offsets_and_plans_are_not_nested():
    """One of them at a time, so that it is clear what was measured."""
    loaded = tiny("olmoe")
    values = drawn(loaded)
    with (
        pytest.raises(PlanError, match="another plan is active"),
        steer(loaded, plan_of(loaded, values)),
        offsets_applied(loaded, by_layer(loaded, values)),
    ):
        pass
