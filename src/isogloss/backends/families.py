"""One declarative row per model family: what its router module is called and what it returns.

Adding a family is adding a row here and its model to the family tests. What a row states is proven on every loaded
model before a capture (`isogloss.backends.huggingface.capture.prove_routers`).
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

__all__ = ["FAMILIES", "Family"]


@dataclass(frozen=True)
class Family:
    """How one family of transformers models routes.

    Attributes:
        model_type: ``config.model_type``.
        router_class: class name of the router module; one per routed decoder layer.
        scoring: as in `isogloss.routing.RouterSpec`.
        renormalise: attribute of the router that says whether chosen weights are divided by their sum.
        logits, weights, expert_ids: positions in the tuple that the router returns.
    """

    model_type: str
    router_class: str
    scoring: Literal["softmax", "sigmoid", "topk_softmax"] = "softmax"
    renormalise: str = "norm_topk_prob"
    logits: int = 0
    weights: int = 1
    expert_ids: int = 2


FAMILIES = MappingProxyType(
    {
        row.model_type: row
        for row in (
            Family("olmoe", "OlmoeTopKRouter"),
            Family("qwen3_moe", "Qwen3MoeTopKRouter"),
        )
    }
)
