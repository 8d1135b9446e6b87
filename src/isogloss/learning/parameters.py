"""What a set of learned numbers is: offsets on logits or on what is ranked, matrices of low rank, whole router weights.

All numbers of a set are one tensor, so that one optimiser moves them and one array keeps them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from isogloss.arrays import Float32Array
from isogloss.backends.huggingface import (
    LoadedModel,
    Offsets,
    Router,
    RouterChange,
    Selections,
    WeightChanges,
    offsets_applied,
)
from isogloss.errors import PlanError
from isogloss.learning.records import LearnOptions
from isogloss.steering import AdaptedRouter, Intervention, Plan, RouterAdapter, check_plan

__all__ = ["AdapterNumbers", "OffsetNumbers", "Parameters", "SelectNumbers", "parameters_of"]

_RATE_OF_PERTURBATION = 0.3  # as of offsets: 0.03 to 0.1


class Parameters(ABC):
    """The numbers of a set.

    Attributes:
        name: what the settings call them.
        loaded: the model, unsteered.
        n_experts: of the layers that are changed.
        perturbation: by which search moves each number, in its own unit.
    """

    name: str
    perturbation = 0.1  # in logits; learned offsets reach 2 to 3
    loaded: LoadedModel
    n_experts: int

    @abstractmethod
    def start(self) -> Float32Array:
        """Return the numbers that a set begins with."""

    @abstractmethod
    def applied(
        self, values: torch.Tensor, *, straight_through: bool = False, checkpointing: bool = False
    ) -> AbstractContextManager[RouterChange]:
        """Apply numbers to every forward inside the context, with their gradient."""

    @abstractmethod
    def steered(self, values: Float32Array) -> AbstractContextManager[object]:
        """Apply numbers as they are served."""

    @abstractmethod
    def by_layer(self, values: torch.Tensor) -> Sequence[torch.Tensor]:
        """Divide numbers, or their gradient, into the matrices of the layers."""

    @abstractmethod
    def unmoved(self, reached: torch.Tensor) -> int:
        """Count the experts none of whose numbers has moved."""

    @abstractmethod
    def change(self, values: Float32Array) -> Float32Array:
        """Return what numbers add: to logits, or to weights."""

    @abstractmethod
    def write(
        self, sets: Float32Array, provenance: Mapping[str, Any], languages: Sequence[tuple[str, ...] | None]
    ) -> Plan | RouterAdapter:
        """Return the best numbers of every set as what engines serve; those of a set may be for languages alone."""


def parameters_of(
    loaded: LoadedModel, options: LearnOptions, layers: Sequence[int], start: RouterAdapter | None
) -> Parameters:
    """Return what the options name.

    Raises:
        PlanError: the adapter to start from is of another model, or of other layers; or the rank exceeds that of the
            routers' weights.
    """
    if options.parameters == "offset":
        return OffsetNumbers(loaded, layers)
    if options.parameters == "select":
        return SelectNumbers(loaded, layers, perturbation=options.learning_rate / _RATE_OF_PERTURBATION)
    return AdapterNumbers(loaded, options, layers, start)


class OffsetNumbers(Parameters):
    """One offset per expert and layer: ``[n_layers, n_experts]``, in logits."""

    name: Literal["offset", "select"] = "offset"

    def __init__(self, loaded: LoadedModel, layers: Sequence[int]) -> None:
        self.loaded, self.layers = loaded, tuple(layers)
        self.shape = len(layers), loaded.routers[0].n_experts
        self.n_experts = self.shape[0] * self.shape[1]

    def start(self) -> Float32Array:
        """Return zeros."""
        return np.zeros(self.shape, dtype=np.float32)

    def applied(
        self, values: torch.Tensor, *, straight_through: bool = False, checkpointing: bool = False
    ) -> AbstractContextManager[RouterChange]:
        """Add offsets to router logits."""
        change = Offsets(dict(zip(self.layers, values, strict=True)))
        return _open(self.loaded, change, straight_through=straight_through, checkpointing=checkpointing)

    def steered(self, values: Float32Array) -> AbstractContextManager[object]:
        """Apply them as a plan."""
        return self.loaded.steer(Plan(self.loaded.fingerprint, self.interventions(values)))

    def by_layer(self, values: torch.Tensor) -> Sequence[torch.Tensor]:
        """Return the rows."""
        return values.unbind()

    def unmoved(self, reached: torch.Tensor) -> int:
        """Count the offsets that have not moved."""
        return int((~reached).sum())

    def change(self, values: Float32Array) -> Float32Array:
        """Return the offsets."""
        return values

    def write(
        self, sets: Float32Array, provenance: Mapping[str, Any], languages: Sequence[tuple[str, ...] | None]
    ) -> Plan:
        """Return a plan."""
        rules = [
            rule for values, each in zip(sets, languages, strict=True) for rule in self.interventions(values, each)
        ]
        return Plan(self.loaded.fingerprint, tuple(rules), dict(provenance))

    def interventions(self, values: Float32Array, languages: tuple[str, ...] | None = None) -> tuple[Intervention, ...]:
        """Write offsets as rules; layers and experts without any are left out."""
        rules = []
        for layer, row in zip(self.layers, values, strict=True):
            if experts := tuple(np.flatnonzero(row).tolist()):
                offsets = tuple(row[list(experts)].tolist())
                rules.append(Intervention(self.name, layer, experts, values=offsets, languages=languages))
        return tuple(rules)


class SelectNumbers(OffsetNumbers):
    """One constant per expert and layer that is added to what is ranked: ``[n_layers, n_experts]``, in its unit."""

    name = "select"

    def __init__(self, loaded: LoadedModel, layers: Sequence[int], *, perturbation: float) -> None:
        super().__init__(loaded, layers)
        self.perturbation = perturbation

    def applied(
        self, values: torch.Tensor, *, straight_through: bool = False, checkpointing: bool = False
    ) -> AbstractContextManager[RouterChange]:
        """Add the constants to what is ranked."""
        change = Selections(dict(zip(self.layers, values, strict=True)))
        return _open(self.loaded, change, straight_through=straight_through, checkpointing=checkpointing)


class _Layer(NamedTuple):
    """The matrices of one layer: those that are learned stand in the numbers, ``b`` first."""

    router: Router
    parameter: str
    b: Float32Array
    a: Float32Array


class AdapterNumbers(Parameters):
    """The matrices of an adapter that are learned, one layer after the other, flattened.

    ``low-rank`` learns b ``[n_experts, rank]`` and, unless probes are fixed, a ``[rank, width]``. ``router`` learns the
    whole change of the weight, ``[n_experts, width]``, which is a; b is the identity, so that their product is exact.
    """

    def __init__(
        self, loaded: LoadedModel, options: LearnOptions, layers: Sequence[int], start: RouterAdapter | None
    ) -> None:
        if options.probes == "fixed" and start is None:
            raise PlanError(
                "fixed probes are those of an adapter to start from, and none was given; give it with --start ADAPTER"
            )
        if start is not None:
            check_plan(start, loaded.fingerprint)
        self.loaded, self.options, self.name = loaded, options, options.parameters
        self.learns_b = options.parameters == "low-rank"
        self.learns_a = options.parameters == "router" or options.probes == "learned"
        routers = [router for router in loaded.router_modules if router.spec.layer in layers]
        _require_low(options, routers, start)
        self.ranks = _ranks(options, loaded.routers[0].n_experts, start)
        self.layers = [self._begin(router, start) for router in routers]
        self.n_experts = sum(router.spec.n_experts for router in routers)
        self._sizes = [matrix.size for layer in self.layers for matrix in self._learned(layer)]

    def start(self) -> Float32Array:
        """Return the adapter's matrices; or zeros, and of learned probes random ones."""
        return np.concatenate([matrix.ravel() for layer in self.layers for matrix in self._learned(layer)])

    def applied(
        self, values: torch.Tensor, *, straight_through: bool = False, checkpointing: bool = False
    ) -> AbstractContextManager[RouterChange]:
        """Change the routers' weights."""
        change = WeightChanges(self._matrices(values))
        return _open(self.loaded, change, straight_through=straight_through, checkpointing=checkpointing)

    def steered(self, values: Float32Array) -> AbstractContextManager[object]:
        """Apply them as an adapter."""
        return self.loaded.steer(self.adapter(values, {}))

    def by_layer(self, values: torch.Tensor) -> Sequence[torch.Tensor]:
        """Return each learned matrix."""
        parts: Sequence[torch.Tensor] = values.split(self._sizes)
        return parts

    def unmoved(self, reached: torch.Tensor) -> int:
        """Count the rows of experts in which nothing has moved."""
        parts = iter(self.by_layer(reached))
        unmoved = 0
        for layer in self.layers:
            rows = next(parts).view(layer.router.spec.n_experts, -1)
            unmoved += int((~rows.any(1)).sum())
            if self.learns_a and self.learns_b:
                next(parts)
        return unmoved

    def change(self, values: Float32Array) -> Float32Array:
        """Return what is added to the weights, flattened."""
        matrices = self._matrices(torch.from_numpy(values))
        return np.concatenate([(b @ a).numpy().ravel() for b, a in matrices.values()])

    def write(
        self, sets: Float32Array, provenance: Mapping[str, Any], languages: Sequence[tuple[str, ...] | None]
    ) -> RouterAdapter:
        """Return an adapter, of the only set."""
        del languages
        return self.adapter(sets[0], provenance)

    def adapter(self, values: Float32Array, provenance: Mapping[str, Any]) -> RouterAdapter:
        """Write numbers as an adapter."""
        matrices = self._matrices(torch.from_numpy(values))
        routers = []
        for layer in self.layers:
            spec = layer.router.spec
            b, a = (matrix.numpy() for matrix in matrices[spec.layer])
            if self.options.parameters == "router":
                b = b * a.any(axis=1)  # an expert to which nothing is added is none of the adapter's
            n_extra = int(layer.router.weight_shape[0]) - spec.n_experts
            routers.append(AdaptedRouter(spec.layer, layer.parameter, b, a, n_extra))
        return RouterAdapter(self.loaded.fingerprint, tuple(routers), self.ranks, dict(provenance))

    def _learned(self, layer: _Layer) -> list[Float32Array]:
        return [layer.b] * self.learns_b + [layer.a] * self.learns_a

    def _begin(self, router: Router, start: RouterAdapter | None) -> _Layer:
        layer, width = router.spec.layer, router.weight_shape[1]
        name = self.loaded.router_parameters[layer]
        if start is not None:
            own = start.router(layer)
            return _Layer(router, name, np.float32(start.scale) * own.b, own.a)
        if self.options.parameters == "router":
            n_experts = router.spec.n_experts
            return _Layer(router, name, np.eye(n_experts, dtype=np.float32), np.zeros((n_experts, width), np.float32))
        rng = np.random.default_rng([self.options.seed, layer])
        probes = (rng.standard_normal((len(self.ranks), width)) / np.sqrt(width)).astype(np.float32)
        return _Layer(router, name, np.zeros((router.spec.n_experts, len(self.ranks)), np.float32), probes)

    def _matrices(self, values: torch.Tensor) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
        parts = iter(self.by_layer(values))
        matrices = {}
        for layer in self.layers:
            both = [
                next(parts).view(fixed.shape) if learned else torch.tensor(fixed, device=values.device)
                for fixed, learned in ((layer.b, self.learns_b), (layer.a, self.learns_a))
            ]
            matrices[layer.router.spec.layer] = both[0], both[1]
        return matrices


@contextmanager
def _open(loaded: LoadedModel, change: RouterChange, **how: bool) -> Iterator[RouterChange]:
    with offsets_applied(loaded, change, **how):
        yield change


def _require_low(options: LearnOptions, routers: Sequence[Router], start: RouterAdapter | None) -> None:
    """Refuse a rank that no change of a router's weight can have."""
    sides = (min(router.spec.n_experts, int(router.weight_shape[1])) for router in routers)
    if start is None and options.parameters == "low-rank" and options.rank > (most := min(sides)):
        raise PlanError(
            f"rank is {options.rank}; expected at most {most}, the smaller side of the routers' weights: that is their "
            "whole change, which --parameters router learns"
        )


def _ranks(options: LearnOptions, n_experts: int, start: RouterAdapter | None) -> tuple[str, ...]:
    if start is not None:
        return start.ranks
    if options.parameters == "router":
        return tuple(f"expert {number}" for number in range(n_experts))
    return tuple(f"rank {number}" for number in range(options.rank))
