"""The gradient of a steered model is the slope of what it computes, whatever the plan does to its logits."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from doubles import central_difference, in_double, in_float64
from kinds import everywhere
from models import REPRESENTATIVES, TEXTS, each_family

from isogloss.steering import Intervention

EDITS = {
    "soft": {"experts": (1, 4), "strength": 0.5},
    "adaptive": {"experts": (1, 4), "strength": 0.5, "values": (0.3, -0.7)},
    "offset": {"experts": (1, 4), "values": (0.6, -0.4)},
    "suppress": {"experts": (2,)},
    "on": {"experts": (3,)},
    "off": {"experts": (0,)},
    "force": {"experts": (5,)},
    "ban": {"experts": (7,)},
    "select": {"experts": (1, 4), "values": (0.2, -0.1)},
}


def computed(loaded, kinds):
    """One number of everything that the model predicts under a plan, which is made for the weights as they are."""
    ids = loaded.tokenizer(TEXTS[1], return_tensors="pt")["input_ids"]
    with loaded.steer(everywhere(loaded, *(Intervention(kind, 0, **EDITS[kind]) for kind in kinds))):
        logits = loaded.model(ids, use_cache=False).logits
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0), dtype=logits.dtype)
    return (logits * weights).sum()


@each_family(sorted(REPRESENTATIVES))
def test_gradients_under_every_kind_are_finite_differences(family, monkeypatch):
    """By what the routers read and by their own weights, along a random direction, in float64."""
    loaded = in_float64(family)
    parameters = [loaded.model.get_input_embeddings().weight]
    parameters += [next(router.module.parameters()) for router in loaded.router_modules]
    generator = torch.Generator().manual_seed(1)
    sizes = [each.detach().std() for each in parameters]
    directions = [
        size * torch.randn(each.shape, generator=generator, dtype=each.dtype)
        for size, each in zip(sizes, parameters, strict=True)
    ]
    together = tuple(kind for kind in EDITS if kind != "on" or loaded.routers[0].top_k > 1)  # one forces, one is on
    with in_double(monkeypatch):
        for kinds in (*((kind,) for kind in EDITS), together):
            gradients = torch.autograd.grad(computed(loaded, kinds), parameters)
            slope = sum((each * way).sum() for each, way in zip(gradients, directions, strict=True)).item()
            with torch.no_grad():
                expected = central_difference(partial(computed, loaded, kinds), parameters, directions)
            assert slope == pytest.approx(expected, rel=1e-5, abs=1e-8), kinds
            assert all(each.isfinite().all() for each in gradients)
            assert abs(slope) > 1e-6
