"""Which estimator can move the logits of which routers."""

from __future__ import annotations

from isogloss.backends.families import FAMILIES
from isogloss.errors import ModelError
from isogloss.learning.records import LearnOptions
from isogloss.routing import RouterSpec

__all__ = ["reaches_all", "refuse_unmoved"]

_RETURN_WEIGHTS = ("triple", "probabilities")


def reaches_all(spec: RouterSpec) -> bool:
    """Whether the weights of the chosen experts depend on the logits of all, so that answers move every offset."""
    return spec.scoring == "softmax" and not spec.renormalise


def refuse_unmoved(options: LearnOptions, spec: RouterSpec, model_type: str) -> None:
    """Refuse an estimator that cannot move a kind of router, or that has nothing to add there.

    Raises:
        ModelError: says why, and what to use.
    """
    if options.parameters == "select" and options.estimator != "search":
        raise ModelError(
            f"--estimator {options.estimator} cannot move --parameters select: it decides who is chosen, and no weight "
            "has a gradient by it; use --estimator search, or learn --parameters offset"
        )
    if options.estimator == "search" and options.is_adapter:
        raise ModelError(
            "--estimator search tries offsets of a tenth of a logit, and weights are no logits; use --estimator "
            "gradient or straight-through, or learn --parameters offset"
        )
    if options.estimator == "gradient" and options.objective == "answers" and _always_one(spec):
        raise ModelError(
            f"--estimator gradient cannot move a router of {model_type}: its one chosen expert always has weight "
            f"{spec.scaling:g}, so answers have no gradient; use --estimator search, or --objective alignment"
        )
    if options.estimator == "straight-through" and (reason := _not_through(options, spec, model_type)):
        raise ModelError(f"--estimator straight-through: {reason}; use --estimator gradient or search")


def _always_one(spec: RouterSpec) -> bool:
    return spec.top_k == 1 and (spec.scoring == "topk_softmax" or (spec.renormalise and spec.scoring != "sparsemixer"))


def _not_through(options: LearnOptions, spec: RouterSpec, model_type: str) -> str | None:
    if options.objective == "alignment":
        return "alignment has a gradient by every offset already"
    if reaches_all(spec):
        return f"the weights of {model_type} depend on the logits of all experts already"
    if spec.scoring not in ("softmax", "topk_softmax"):
        return f"{model_type} scores its experts by {spec.scoring}, not by a softmax over all"
    if FAMILIES[model_type].returns not in _RETURN_WEIGHTS:
        return f"the routers of {model_type} do not return the weights of the chosen experts"
    return None
