"""Control adapters: each changes one property of a router adapter, and records the change in its provenance."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from isogloss.errors import PlanError
from isogloss.steering.adapter import AdaptedRouter, RouterAdapter

__all__ = ["exchanged_probes", "permuted_experts", "rescaled"]


def permuted_experts(adapter: RouterAdapter, *, seed: int) -> RouterAdapter:
    """Permute the experts of every layer: what was added to one expert's logit is added to another's.

    Probes and sizes stay. A layer's permutation depends on the seed, at least 0, and the layer, and moves at least one
    expert whose weight changes, where any two differ.

    Raises:
        PlanError: the seed is negative.
    """
    if seed < 0:
        raise PlanError(f"seed is {seed}; expected an integer of at least 0")

    def permuted(router: AdaptedRouter) -> AdaptedRouter:
        drawn = np.random.default_rng([seed, router.layer])
        order = drawn.permutation(len(router.b))
        while np.array_equal(router.b[order], router.b) and (router.b != router.b[0]).any():
            order = drawn.permutation(len(router.b))
        return replace(router, b=router.b[order])

    routers = tuple(map(permuted, adapter.routers))
    return replace(adapter, routers=routers, provenance=_record("random", adapter, seed=seed))


def exchanged_probes(adapter: RouterAdapter) -> RouterAdapter:
    """Give every rank the probe of the next one: the offsets of one language then act on another's tokens.

    Raises:
        PlanError: the adapter has a single rank.
    """
    if adapter.rank == 1:
        raise PlanError(
            f"the adapter has a single rank ({adapter.ranks[0]}), so there is no other probe to exchange it with; "
            "leave this arm out"
        )
    routers = tuple(replace(router, a=np.roll(router.a, -1, axis=0)) for router in adapter.routers)
    probes = [*adapter.ranks[1:], adapter.ranks[0]]
    return replace(adapter, routers=routers, provenance=_record("exchanged probes", adapter, probes=probes))


def rescaled(adapter: RouterAdapter, scale: float) -> RouterAdapter:
    """Set the scale of an adapter; -1 times its own is the opposite of what it does."""
    return replace(adapter, scale=scale, provenance=_record("strength", adapter, strength=scale))


def _record(control: str, adapter: RouterAdapter, **properties: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON types
    return {"control": control, "original_sha256": adapter.sha256, "original": adapter.provenance, **properties}
