"""Router adapters: a small change of the routers' weights, checked against the fingerprint of their model.

A router computes logits ``z = W x`` from what it reads. An adapter makes them ``(W + scale · B A) x``: each row of A is
a probe, a linear function of what the router reads, and the column of B beside it is what a probe of 1 adds to the
logits. Where the probe is 1 on tokens of a language and 0 on others, the column is an offset for that language alone,
without any condition; where it is 1 on every token, it is a bias.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from isogloss.arrays import Float32Array
from isogloss.errors import PlanError
from isogloss.notebook import Shown
from isogloss.routing import Fingerprint, Phase
from isogloss.steering.checks import as_provenance, canonical, check_fingerprint, check_plan, layer_span

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["AdaptedRouter", "RouterAdapter"]

_MATRIX = 2  # axes


@dataclass(frozen=True, eq=False)
class AdaptedRouter:
    """The change of one router's weight: the product of two thin matrices.

    Attributes:
        layer: 0-based position in the whole decoder stack.
        parameter: full name of the router's weight in transformers, such as ``model.layers.3.mlp.gate.weight``.
        b: ``[n_experts, rank]`` float32, in logits: what each rank adds to the experts where its probe is 1.
        a: ``[rank, width]`` float32: the probes; ``width`` is that of what the weight is multiplied with.
        n_extra: rows that the weight has after those of the routed experts; they are not changed.

    Raises:
        PlanError: a matrix of another shape, NaN, infinity, or a name that no parameter can have.
    """

    layer: int
    parameter: str
    b: Float32Array
    a: Float32Array
    n_extra: int = 0

    def __post_init__(self) -> None:
        if any(type(number) is not int or number < 0 for number in (self.layer, self.n_extra)):
            raise PlanError(f"layer {self.layer!r} with {self.n_extra!r} extra rows; expected integers of at least 0")
        parts = self.parameter.split(".") if isinstance(self.parameter, str) else []
        if len(parts) < 2 or not all(part.isidentifier() or part.isdecimal() for part in parts):  # noqa: PLR2004
            raise PlanError(
                f"layer {self.layer} has the parameter {self.parameter!r}; expected a module and its parameter, "
                "such as model.layers.3.mlp.gate.weight"
            )
        for name in ("b", "a"):
            object.__setattr__(self, name, _as_matrix(getattr(self, name), f"{name} of layer {self.layer}"))
        if self.b.shape[1] != self.a.shape[0]:
            raise PlanError(
                f"b of layer {self.layer} is {list(self.b.shape)} and a is {list(self.a.shape)}; expected "
                "[n_experts, rank] and [rank, width] of one rank"
            )

    @property
    def whole_b(self) -> Float32Array:
        """B for all rows of the weight, ``[n_experts + n_extra, rank]``: zeros in those that are not changed."""
        return np.vstack([self.b, np.zeros((self.n_extra, self.b.shape[1]), dtype=np.float32)])


@dataclass(frozen=True, repr=False, eq=False)
class RouterAdapter(Shown):
    """A change of router weights of low rank, for one model; it takes the place of a plan without conditions.

    All layers have the same ranks; one that a layer does not use is a column of zeros there. Adapters are equal where
    all their numbers, names and provenance are.

    Attributes:
        fingerprint: of the model that the adapter was made for, before it is changed.
        routers: of the layers that it changes, ascending; at least one.
        ranks: name of each rank: a language, ``constant``, or whatever it was made for; at least one.
        provenance: where it comes from; JSON types only.
        scale: factor on the change.
        base_model: hub id, for engines that load an adapter's model by name; None where there is none.

    Raises:
        PlanError: the adapter does not fit the fingerprint, has no rank, or numbers that float32 cannot hold.
    """

    fingerprint: Fingerprint
    routers: tuple[AdaptedRouter, ...]
    ranks: tuple[str, ...]
    provenance: dict[str, Any] = field(default_factory=dict)
    scale: float = 1.0
    base_model: str | None = None

    noun: ClassVar[str] = "adapter"
    remedy: ClassVar[str] = "make an adapter for this one with `isogloss adapt`"

    def __post_init__(self) -> None:
        check_fingerprint(self.fingerprint, "adapter")
        object.__setattr__(self, "routers", tuple(sorted(self.routers, key=lambda each: each.layer)))
        object.__setattr__(self, "ranks", tuple(self.ranks))
        object.__setattr__(self, "provenance", as_provenance(self.provenance))
        object.__setattr__(self, "scale", float(self.scale))
        self._check_names()
        self._check_routers()

    def __repr__(self) -> str:
        layers = f"{len(self.layers)} layers, {self.layers[0]} to {self.layers[-1]}"
        scale = "" if self.scale == 1 else f", scale {self.scale:g}"
        return f"RouterAdapter({self.fingerprint.model_type}: {', '.join(self.ranks)}; {layers}{scale})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RouterAdapter) and self.sha256 == other.sha256

    def __hash__(self) -> int:
        return hash(self.sha256)

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers whose routers are changed, ascending."""
        return tuple(router.layer for router in self.routers)

    @property
    def languages(self) -> tuple[str, ...]:
        """Always empty, since an adapter has no conditions; its probes tell languages apart, if at all."""
        return ()

    @property
    def phases(self) -> tuple[Phase, ...]:
        """None, as of `languages`."""
        return ()

    @property
    def by_phase(self) -> bool:
        """Whether it acts on the tokens of one phase only, which it never does."""
        return False

    @property
    def is_empty(self) -> bool:
        """Whether it changes nothing."""
        return not self.n_experts

    @property
    def n_experts(self) -> int:
        """Number of experts whose weights change, over all layers."""
        return 0 if self.scale == 0 else sum(int(each.b.any(axis=1).sum()) for each in self.routers)

    def applies_to(self, language: str | None) -> bool:  # noqa: ARG002 - as of a plan
        """Whether requests in a language run under the adapter: all do."""
        return True

    def for_request(self, language: str | None) -> RouterAdapter:  # noqa: ARG002 - as of a plan
        """Return what applies to requests in a language: the adapter."""
        return self

    @property
    def rank(self) -> int:
        """Number of ranks, at least 1."""
        return len(self.ranks)

    def router(self, layer: int) -> AdaptedRouter:
        """Return the change of one layer.

        Raises:
            PlanError: the adapter does not change it.
        """
        for router in self.routers:
            if router.layer == layer:
                return router
        raise PlanError(f"the adapter does not change layer {layer}; expected {layer_span(self.layers)}")

    def delta(self, layer: int) -> Float32Array:
        """Return what is added to a router's weight: ``scale · B A``, ``[n_experts, width]`` float32.

        Raises:
            PlanError: the adapter does not change the layer.
        """
        router = self.router(layer)
        exact = self.scale * (router.b.astype(np.float64) @ router.a.astype(np.float64))
        return exact.astype(np.float32)

    def scaled(self, factor: float) -> RouterAdapter:
        """Return the adapter with its scale multiplied by a factor."""
        return replace(self, scale=self.scale * factor)

    def unscaled(self) -> RouterAdapter:
        """Return the same change at scale 1, with the scale multiplied into B.

        Raises:
            PlanError: B then exceeds the float32 range.
        """
        with np.errstate(over="ignore"):
            routers = tuple(replace(each, b=np.float32(self.scale) * each.b) for each in self.routers)
        return replace(self, routers=routers, scale=1.0)

    def __add__(self, other: RouterAdapter) -> RouterAdapter:
        """Add the changes of two adapters of one model: its ranks are those of both, its scale is 1.

        The provenance holds that of both, by hash.

        Raises:
            PlanError: they are for different models, or name a layer's router differently.
        """
        if not isinstance(other, RouterAdapter):
            return NotImplemented
        check_plan(other, self.fingerprint)
        parts = (self, other)
        layers = sorted({*self.layers, *other.layers})
        record = {"sum_of": [{"sha256": part.sha256, "provenance": part.provenance} for part in parts]}
        base_model = self.base_model if self.base_model == other.base_model else None
        unscaled = [part.unscaled() for part in parts]
        routers = tuple(_added(unscaled, layer) for layer in layers)
        return RouterAdapter(self.fingerprint, routers, self.ranks + other.ranks, record, base_model=base_model)

    @cached_property
    def sha256(self) -> str:
        """Hash of all that the adapter is, its fields as canonical JSON and the bytes of its matrices."""
        digest = hashlib.sha256(canonical(self.to_json()))
        for router in self.routers:
            digest.update(router.b.astype("<f4").tobytes() + router.a.astype("<f4").tobytes())
        return digest.hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return all but the matrices as JSON types; see `isogloss.steering.adapter_folder` for the whole."""
        return {
            "fingerprint": self.fingerprint.to_json(),
            "ranks": list(self.ranks),
            "scale": self.scale,
            "base_model": self.base_model,
            "routers": [
                {"layer": each.layer, "parameter": each.parameter, "n_extra": each.n_extra, "width": each.a.shape[1]}
                for each in self.routers
            ],
            "provenance": self.provenance,
        }

    def to_frame(self) -> pd.DataFrame:
        """Return one row per layer and rank.

        Columns are ``layer``, ``rank``, ``largest`` (expert whose logit a probe of 1 raises most), ``offset`` (by how
        much, in logits, scale included) and ``probe_norm`` (Euclidean length of the probe).
        """
        import pandas as pd  # noqa: PLC0415 - takes a third of a second, and most commands show no table

        rows = [
            (each.layer, name, int(column.argmax()), float(self.scale * column.max()), float(np.linalg.norm(probe)))
            for each in self.routers
            for name, column, probe in zip(self.ranks, each.b.T, each.a, strict=True)
        ]
        return pd.DataFrame(rows, columns=["layer", "rank", "largest", "offset", "probe_norm"])

    def _check_names(self) -> None:
        if not self.ranks:
            raise PlanError("the adapter has rank 0; expected at least one rank: leave the model as it is instead")
        for text in (*self.ranks, *([] if self.base_model is None else [self.base_model])):
            if not isinstance(text, str) or not text or not text.isprintable():
                raise PlanError(f"the adapter names {text!r}; expected a printable text")
        if self.base_model is not None and (self.base_model[0] in "/\\.~" or ":" in self.base_model):
            raise PlanError(
                f"the adapter's base model is {self.base_model!r}; expected a hub id, which means the same "
                "on every machine"
            )
        if not math.isfinite(self.scale * self.rank):  # alpha, in the configuration of PEFT
            raise PlanError(
                f"the adapter's scale is {self.scale}; expected a number that is finite, also times the rank, "
                f"{self.rank}"
            )

    def _check_routers(self) -> None:
        if not self.routers:
            raise PlanError("the adapter changes no router; expected at least one layer")
        if twice := [layer for layer, times in Counter(self.layers).items() if times > 1]:
            raise PlanError(f"the adapter changes layer {twice[0]} twice; add the two changes")
        for router in self.routers:
            if router.layer not in self.fingerprint.layers:
                raise PlanError(
                    f"layer {router.layer} is not a routed layer of the model; expected "
                    f"{layer_span(self.fingerprint.layers)}"
                )
            expected = (self.fingerprint.n_experts, self.rank)
            if router.b.shape != expected:
                raise PlanError(
                    f"b of layer {router.layer} is {list(router.b.shape)}; expected {list(expected)}: the model's "
                    "experts by the adapter's ranks"
                )
            with np.errstate(over="ignore"):
                if not np.isfinite(self.delta(router.layer)).all():
                    raise PlanError(f"the change of layer {router.layer} exceeds the float32 range; lower the scale")


def _as_matrix(raw: object, name: str) -> Float32Array:
    """Return a read-only float32 copy of a matrix of finite numbers."""
    try:
        given = np.asarray(raw)
    except ValueError as error:
        raise PlanError(f"{name} is no matrix: {error}") from error
    if given.ndim != _MATRIX or not np.issubdtype(given.dtype, np.floating) or 0 in given.shape:
        raise PlanError(f"{name} is {given.dtype} of shape {list(given.shape)}; expected a matrix of floats, not empty")
    with np.errstate(over="ignore"):
        matrix = np.array(given, dtype=np.float32, order="C")
    if not np.isfinite(matrix).all():
        raise PlanError(f"{name} has NaN, infinity or numbers outside the float32 range; expected finite numbers")
    matrix.flags.writeable = False
    return matrix


def _added(parts: Sequence[RouterAdapter], layer: int) -> AdaptedRouter:
    """Put the ranks of all parts beside each other; those of a part that does not change the layer are zeros."""
    present = [part.router(layer) for part in parts if layer in part.layers]
    shapes = {(router.parameter, router.a.shape[1], router.n_extra) for router in present}
    if len(shapes) > 1:
        raise PlanError(f"the adapters describe the router of layer {layer} differently: {sorted(shapes)}")
    (parameter, width, n_extra), n_experts = shapes.pop(), parts[0].fingerprint.n_experts
    columns, probes = [], []
    for part in parts:
        if layer in part.layers:
            columns.append(part.router(layer).b)
            probes.append(part.router(layer).a)
        else:
            columns.append(np.zeros((n_experts, part.rank), dtype=np.float32))
            probes.append(np.zeros((part.rank, width), dtype=np.float32))
    return AdaptedRouter(layer, parameter, np.hstack(columns), np.vstack(probes), n_extra)
