"""Random router adapters, and a model whose weights are changed as an adapter says: the independent oracle."""

from __future__ import annotations

import numpy as np
import torch

from isogloss.steering import AdaptedRouter, RouterAdapter

ADAPTED_FAMILIES = ("qwen3_moe", "olmoe", "mixtral", "qwen2_moe", "glm4_moe", "deepseek_v3", "granitemoe", "gpt_oss")
"""Those that adapters are proven on in every engine."""


def random_adapter(loaded, *, layers=None, rank=2, size=0.5, scale=0.5, seed=3):
    """An adapter on the routers of a model; all routed layers by default.

    Args:
        loaded: the model.
        layers: decoder layers.
        rank: number of ranks.
        size: standard deviation of B.
        scale: of the adapter.
        seed: of the matrices.
    """
    routers = []
    for router in loaded.router_modules:
        layer, n_rows, width = router.spec.layer, *router.weight_shape
        if layers is None or layer in layers:
            drawn, n_experts = np.random.default_rng((seed, layer)), router.spec.n_experts
            b, a = size * drawn.normal(size=(n_experts, rank)), drawn.normal(size=(rank, width))
            routers.append(AdaptedRouter(layer, loaded.router_parameters[layer], b, a, n_rows - n_experts))
    return RouterAdapter(loaded.fingerprint, tuple(routers), tuple(f"rank {n}" for n in range(rank)), scale=scale)


def change_weights(loaded, adapter):
    """Add an adapter's change to the router weights of a model, in place."""
    for router in loaded.router_modules:
        if router.spec.layer in adapter.layers:
            with torch.no_grad():
                weight = router.module.get_parameter(router.weight_name)[: router.spec.n_experts]
                weight += torch.from_numpy(adapter.delta(router.spec.layer)).to(weight.dtype)
