"""Which estimator can move the logits of which routers."""

from __future__ import annotations

from dataclasses import replace

from isogloss.backends.families import FAMILIES
from isogloss.errors import ModelError
from isogloss.learning.records import Estimator, LearnOptions
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
    if (why := _why_not(options, spec, model_type)) is None:
        return
    others: list[Estimator] = ["gradient", "straight-through", "search"]
    usable = [each for each in others if _why_not(replace(options, estimator=each), spec, model_type) is None]
    advice = [f"use --estimator {' or '.join(usable)}"] if usable else []
    if options.estimator == "search":
        advice.append("learn --parameters offset" if advice else "use --parameters offset")
    elif "gradient" not in usable:
        advice.append("--objective alignment" if advice else "use --objective alignment with --estimator gradient")
    raise ModelError(f"{why}; {', or '.join(advice)}")


def _why_not(options: LearnOptions, spec: RouterSpec, model_type: str) -> str | None:
    """Say why the options' estimator cannot move a router; None where it can."""
    if options.estimator == "search":
        if not options.is_adapter:
            return None
        return "--estimator search tries offsets of a tenth of a logit, and weights are no logits"
    if options.estimator == "gradient":
        if options.objective != "answers" or not _always_one(spec):
            return None
        return (
            f"--estimator gradient cannot move a router of {model_type}: its one chosen expert always has weight "
            f"{spec.scaling:g}, so answers have no gradient"
        )
    reason = _not_through(options, spec, model_type)
    return reason and f"--estimator straight-through: {reason}"


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
