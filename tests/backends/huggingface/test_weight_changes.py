"""Changed router weights get the gradient of what is computed with them, in every family, as in a checkpoint."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from doubles import in_double, in_float64
from loss_texts import measured, portion
from models import FEW, OTHER_KERNELS, TEXTS, each_family, tiny
from slow import slow_but

from isogloss.backends.huggingface.losses import RoutedProfiles, answer_loss, leash_loss, without_rounding
from isogloss.backends.huggingface.offsets import Offsets, WeightChanges, offsets_applied
from isogloss.steering import AdaptedRouter, RouterAdapter

CHOSEN = (1, 0, 4)  # of TEXTS, padded
RANK = 3


def drawn(loaded, dtype=torch.float32, *, scale=0.3):
    """Random matrices b and a of every routed layer, by layer."""
    generator = torch.Generator().manual_seed(0)
    matrices = {}
    for router in loaded.router_modules:
        shapes = (router.spec.n_experts, RANK), (RANK, router.weight_shape[1])
        matrices[router.spec.layer] = tuple(
            scale * torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes
        )
    return matrices


def objective(loaded, matrices, **how):
    """All losses together, and their gradient to all matrices."""
    leaves = {layer: tuple(each.clone().requires_grad_() for each in both) for layer, both in matrices.items()}
    applied, profiles = WeightChanges(leaves), RoutedProfiles(loaded, [spec.layer for spec in loaded.routers])
    texts, answers = portion(loaded, CHOSEN), measured(loaded, CHOSEN)
    with offsets_applied(loaded, applied, **how), profiles.listening():
        with applied.left_out():
            pivot = profiles.of(texts).roll(1, 1)
        losses = (
            answer_loss(loaded, answers),
            50 * (profiles.of(texts) - pivot).square().sum(),
            leash_loss(loaded, applied, answers),
        )
        sum(losses).backward()
    return [loss.item() for loss in losses], {layer: tuple(e.grad for e in both) for layer, both in leaves.items()}


def moved(matrices, direction, step):
    """The matrices, a step further."""
    return {
        layer: tuple(each + step * along for each, along in zip(both, direction[layer], strict=True))
        for layer, both in matrices.items()
    }


@each_family()
@pytest.mark.parametrize("checkpointing", slow_but([False, True], quick=[True]), ids=["kept", "recomputed"])
def test_gradient_is_the_slope_of_the_objective(family, checkpointing, monkeypatch):
    """Along any direction of both matrices, the gradient is the central finite difference, in float64; it acts."""
    loaded = in_float64(family)
    with in_double(monkeypatch):
        matrices, step = drawn(loaded, torch.float64), 1e-6
        losses, gradient = objective(loaded, matrices, checkpointing=checkpointing)
        direction = {
            layer: tuple(torch.randn(each.shape, generator=torch.Generator().manual_seed(layer)) for each in both)
            for layer, both in matrices.items()
        }
        ahead, behind = (objective(loaded, moved(matrices, direction, sign * step))[0] for sign in (1, -1))
        slope = (sum(ahead) - sum(behind)) / (2 * step)
        along = sum(
            (part * each).sum().item()
            for layer, both in gradient.items()
            for part, each in zip(both, direction[layer], strict=True)
        )
        assert along == pytest.approx(slope, rel=1e-5, abs=1e-8)
    assert losses[2] > 1e-4
    for both in gradient.values():
        assert all(each.abs().max() > 1e-7 for each in both)


@each_family()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_learning_sees_what_an_adapter_computes(family, dtype):
    """The logits are those of `steer` with the adapter, bit by bit, gradient or not; they are not the model's own."""
    loaded, ids = tiny(family, dtype=dtype), tiny(family).tokenizer(TEXTS[1], return_tensors="pt")["input_ids"]
    matrices, names = drawn(loaded), loaded.router_parameters
    routers = tuple(
        AdaptedRouter(layer, names[layer], b.numpy(), a.numpy(), n_extra_rows(loaded, layer))
        for layer, (b, a) in matrices.items()
    )
    with torch.no_grad():
        plain = loaded.model(ids).logits
        with loaded.steer(RouterAdapter(loaded.fingerprint, routers, tuple("xyz"))):
            expected = loaded.model(ids).logits
    trained = {layer: tuple(each.clone().requires_grad_() for each in both) for layer, both in matrices.items()}
    with offsets_applied(loaded, WeightChanges(trained)):
        logits = loaded.model(ids).logits
        with torch.no_grad():
            assert torch.equal(loaded.model(ids).logits, expected)
    assert logits.requires_grad
    assert family in OTHER_KERNELS or torch.equal(logits.detach(), expected)
    assert not torch.equal(plain, expected)
    with torch.no_grad():
        assert torch.equal(loaded.model(ids).logits, plain)


def n_extra_rows(loaded, layer):
    """Rows of a router's weight after those of the routed experts."""
    (router,) = [each for each in loaded.router_modules if each.spec.layer == layer]
    return router.weight_shape[0] - router.spec.n_experts


@each_family(("mixtral", "gpt_oss", "qwen3_moe", "gemma4"), quick=("mixtral",))
def test_straight_through_reaches_every_row_and_changes_no_value(family):
    """Losses stay those of the plain gradient, bit by bit; experts that no token chose get a gradient too."""
    loaded = tiny(family)
    matrices = drawn(loaded)
    plain, own = objective(loaded, matrices)
    through, estimate = objective(loaded, matrices, straight_through=True)
    assert through == plain
    for layer, (b, _) in estimate.items():
        assert (b != 0).all()
        assert not torch.equal(own[layer][0], b)


@each_family(quick=FEW)
def test_rows_of_experts_that_no_token_chose_get_no_gradient_but_rounding(family):
    """What is left of it is taken for 0, so that Adam makes no direction of it."""
    loaded = tiny(family)
    spec = loaded.routers[0]
    whole = {
        router.spec.layer: (torch.eye(spec.n_experts), torch.zeros(spec.n_experts, router.weight_shape[1]))
        for router in loaded.router_modules
    }
    for _, a in whole.values():
        a.requires_grad_()
    offsets = {layer: torch.zeros(spec.n_experts, requires_grad=True) for layer in whole}
    texts = measured(loaded, CHOSEN)
    with offsets_applied(loaded, WeightChanges(whole)):
        answer_loss(loaded, texts).backward()
    with offsets_applied(loaded, Offsets(offsets)):
        answer_loss(loaded, texts).backward()
    for layer, (_, a) in whole.items():
        rows = (without_rounding(a.grad) != 0).any(1)
        assert torch.equal(rows, without_rounding(offsets[layer].grad) != 0)


@pytest.mark.parametrize("raised", [None, KeyboardInterrupt])
def test_nothing_is_left_on_the_model(raised):
    """Afterwards weights, flags and forwards are as before, whatever was raised in a forward."""
    loaded = tiny("mixtral")
    before = {name: (each, each.clone(), each.requires_grad) for name, each in loaded.model.named_parameters()}

    def interrupt(*_):
        raise raised

    handle = loaded.router_modules[-1].module.register_forward_hook(interrupt) if raised else None
    with pytest.raises(raised) if raised else nullcontext():
        objective(loaded, drawn(loaded))
    if handle:
        handle.remove()
    after = dict(loaded.model.named_parameters())
    assert list(after) == list(before)
    for name, (same, value, flag) in before.items():
        assert after[name] is same
        assert torch.equal(same, value)
        assert same.requires_grad == flag
        assert same.grad is None
    assert not [module for module in loaded.model.modules() if "forward" in vars(module)]
