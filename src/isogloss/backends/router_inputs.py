"""A model that lets what its routers read be measured: what a router adapter is fitted on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from isogloss.arrays import Float32Array, FloatArray
from isogloss.backends.joint_texts import Measured
from isogloss.backends.model import Change, Model
from isogloss.steering import RouterAdapter, Steering

__all__ = ["AdaptableModel", "Moments"]


class Moments(NamedTuple):
    """Sums over the tokens of some texts, of what one router reads.

    Attributes:
        n_tokens: number of tokens.
        total: ``[width]`` float64, the sum of x.
        products: ``[width, width]`` float64, the sum of x xᵀ.
    """

    n_tokens: int
    total: FloatArray
    products: FloatArray


class AdaptableModel(Model, Protocol):
    """A model whose backend gives what the product of each router gets: after any norm and scaling inside the router.

    Of texts, the tokens from ``start`` to ``stop`` count; the others are context. ``batch_tokens`` are those of one
    forward, padding included.
    """

    @property
    def router_parameters(self) -> Mapping[int, str]:
        """Decoder layer to the full name of its router's weight, as in the checkpoint that transformers writes."""

    @property
    def extra_rows(self) -> Mapping[int, int]:
        """Decoder layer to the number of rows of that weight after those of the routed experts."""

    def second_moments(
        self, texts: Sequence[Measured], layers: Sequence[int], *, batch_tokens: int = 4096
    ) -> dict[int, Moments]:
        """Sum x and x xᵀ over the tokens of texts, for the router of each layer, in one pass of the unsteered model.

        Raises:
            ModelError: a router did not run, or reads another number of hidden states than there are tokens.
        """

    def probe_values(
        self, texts: Sequence[Measured], probes: Mapping[int, Float32Array], *, batch_tokens: int = 4096
    ) -> dict[int, Float32Array]:
        """Return the value of probes on the tokens of texts, read by the unsteered model.

        Args:
            texts: see above.
            probes: layer to ``[rank, width]``.
            batch_tokens: see above.

        Returns:
            Layer to ``[n_tokens, rank]`` float32, longest text first.

        Raises:
            ModelError: as of `second_moments`.
        """

    def largest_reach(self, layer: int) -> float:
        """Return the largest distance of a token's median router logit to its best, on probe texts."""

    def share_obeying(
        self,
        texts: Sequence[Measured],
        banned: Mapping[int, Sequence[int]],
        adapter: RouterAdapter,
        *,
        batch_tokens: int = 4096,
    ) -> dict[int, float]:
        """Return by layer the share of tokens that choose none of its banned experts under an adapter, from 0 to 1."""

    def change(
        self,
        plan: Steering,
        texts: Sequence[str],
        *,
        add_special_tokens: bool = True,
        against: Steering | None = None,
    ) -> Change:
        """Measure what a plan changes on texts, compared with another plan, or with the unsteered model."""
