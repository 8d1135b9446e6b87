"""Shows that a baked checkpoint's routers compute what steering computes, one model in memory at a time.

Texts are run through the original, under the plan where it is one, and what each router reads is kept. Then every
router of the original runs on that once more in float32, steered, or with the adapter added to its weight; and so does
every router of the baked model, as it is. The logits must be equal up to the rounding of the stored sums. Routers are
compared on equal inputs, layer by layer: over a whole model, experts that tie up to rounding are sometimes chosen
differently, and later layers then read other states.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

from isogloss.backends.bake.edits import Change, Edit
from isogloss.backends.huggingface.loading import LoadedModel, computing
from isogloss.backends.huggingface.prove import prove_routers
from isogloss.backends.huggingface.router_outputs import RouterOutput
from isogloss.backends.huggingface.steer import steer
from isogloss.backends.huggingface.watch import require_one_call_each, watch_inputs, watch_routers
from isogloss.errors import ModelError
from isogloss.steering import Plan

__all__ = ["SteeredLogits", "Verification", "compare_routers", "record_routers"]

_TOLERANCE = 1e-5  # of a float32 product, relative above 1
_DIFFERENT = "nothing is written: this version of transformers may load the checkpoint in another way than it is stored"


@dataclass(frozen=True)
class SteeredLogits:
    """What the original's routers read and computed; the logits are ``[n_tokens, n_experts]`` float32, by layer.

    Attributes:
        inputs: by routed layer, in order, ``[n_tokens, hidden_size]`` in the model's dtype.
        plain: logits of the original.
        exact: logits under the plan, or with the adapter added in float32.
        stored: logits by what the files hold, as a model of the same dtype loads it; those of ``exact`` under a plan.
    """

    inputs: tuple[torch.Tensor, ...]
    plain: tuple[torch.Tensor, ...]
    exact: tuple[torch.Tensor, ...]
    stored: tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Verification:
    """How closely a baked model's routers agree with the steered ones.

    Attributes:
        n_texts: texts that were run.
        n_tokens: their tokens.
        largest_difference: of any logit from the exact one.
        largest_change: of any logit by the plan or the adapter.
    """

    n_texts: int
    n_tokens: int
    largest_difference: float
    largest_change: float


@computing
def record_routers(loaded: LoadedModel, change: Change, edits: Sequence[Edit], texts: Sequence[str]) -> SteeredLogits:
    """Run texts through the original, one by one; afterwards its routers are changed and in float32.

    Raises:
        ModelError: its routers are not those of the files, one did not run, or is offloaded.
        PlanError: the plan is for another model.
    """
    plan = change if isinstance(change, Plan) else None
    for edit in edits:
        _require_loaded(loaded, change, edit)
    dtypes = {edit.layer: _tensor(loaded, edit.layer, change).dtype for edit in edits}
    inputs: list[list[torch.Tensor]] = [[] for _ in loaded.router_modules]

    def keep(index: int, hidden: torch.Tensor) -> None:
        inputs[index].append(hidden.reshape(-1, hidden.shape[-1]).cpu())

    steered = nullcontext() if plan is None else steer(loaded, plan)
    with steered, watch_inputs(loaded, keep), watch_routers(loaded, lambda *_: None) as calls:
        for text in texts:
            ids = torch.tensor([loaded.tokenizer(text)["input_ids"]], device=loaded.device)
            loaded.decoder(input_ids=ids, use_cache=False)
    require_one_call_each(loaded, calls, n_forwards=len(texts))
    read = tuple(torch.cat(parts) for parts in inputs)
    plain = _logits(loaded, read, None)
    if plan is not None:
        exact = _logits(loaded, read, plan)
        return SteeredLogits(read, plain, exact, exact)
    exact = _logits(loaded, read, None, {edit.layer: edit.before + edit.change for edit in edits})
    stored = _logits(loaded, read, None, {edit.layer: edit.after.to(dtypes[edit.layer]) for edit in edits})
    return SteeredLogits(read, plain, exact, stored)


def _require_loaded(loaded: LoadedModel, change: Change, edit: Edit) -> None:
    """Raise a ModelError where a router that is changed was not loaded as the files hold it."""
    tensor, what = _tensor(loaded, edit.layer, change), "bias" if isinstance(change, Plan) else "weight"
    if tensor.is_meta or not torch.equal(edit.before.to(tensor.dtype), tensor.detach().cpu()):
        state = "is offloaded" if tensor.is_meta else f"is not {edit.place.name} of its files"
        raise ModelError(
            f"the loaded model's router {what} of layer {edit.layer} {state}, so it cannot be compared; load the "
            f"model on one device or bake with --no-verify; {_DIFFERENT}"
        )


def _tensor(loaded: LoadedModel, layer: int, change: Change) -> torch.nn.Parameter:
    router = next(each for each in loaded.router_modules if each.spec.layer == layer)
    name = router.linear_bias_name if isinstance(change, Plan) else router.weight_name
    return router.module.get_parameter(str(name))


@computing
def compare_routers(
    baked: LoadedModel, original: SteeredLogits, change: Change, edits: Sequence[Edit], texts: Sequence[str]
) -> Verification:
    """Compare a baked model's routers with those of the original, recorded on the same texts.

    On the first text, the baked model's routers are proven to choose by their logits. Afterwards they are in float32.

    Raises:
        ModelError: some logit differs by more than storing its sum and a float32 product can round.
    """
    prove_routers(baked, texts[0])
    edit_by_layer = {edit.layer: edit for edit in edits}
    dtypes = {layer: _tensor(baked, layer, change).dtype for layer in edit_by_layer}
    computed = _logits(baked, original.inputs, None)
    routers = baked.router_modules
    for router, ours, expected, exact in zip(routers, computed, original.stored, original.exact, strict=True):
        difference = (ours - expected).abs()
        allowed = _TOLERANCE * expected.abs().clamp_min(1.0)
        layer = router.spec.layer
        if layer in edit_by_layer and isinstance(change, Plan):
            allowed = allowed + edit_by_layer[layer].allowance(dtypes[layer]).float()
        added = layer not in edit_by_layer or edit_by_layer[layer].is_sum
        if not added or not (difference <= allowed).all():
            raise ModelError(
                f"the baked router of layer {layer} computes logits that differ from the steered ones by up to "
                f"{(ours - exact).abs().max().item():.3g}; expected rounding alone: {_DIFFERENT}"
            )
    largest = _largest(computed, original.exact), _largest(original.plain, original.exact)
    return Verification(len(texts), len(original.inputs[0]), *largest)


def _largest(ours: Sequence[torch.Tensor], theirs: Sequence[torch.Tensor]) -> float:
    return max((one - other).abs().max().item() for one, other in zip(ours, theirs, strict=True))


def _logits(
    loaded: LoadedModel,
    inputs: Sequence[torch.Tensor],
    plan: Plan | None,
    weights: Mapping[int, torch.Tensor] = MappingProxyType({}),
) -> tuple[torch.Tensor, ...]:
    """Run every router alone in float32; ``[n_tokens, n_experts]`` each, on the processor.

    Args:
        loaded: the model, whose routers are turned into float32.
        inputs: what each router reads.
        plan: to steer by.
        weights: of routers, by layer; they replace the router's own, which are lost.
    """
    logits: dict[int, torch.Tensor] = {}

    def keep(index: int, output: RouterOutput) -> None:
        logits[index] = output.router_logits.float().cpu()

    for router in loaded.router_modules:
        router.module.float()
        if (weight := weights.get(router.spec.layer)) is not None:
            router.module.get_parameter(router.weight_name).data.copy_(weight)
    with nullcontext() if plan is None else steer(loaded, plan), watch_routers(loaded, keep):
        for router, hidden in zip(loaded.router_modules, inputs, strict=True):
            module: Any = router.module
            module(hidden.float().to(router.module.get_parameter(router.weight_name).device))
    return tuple(logits[index] for index in range(len(loaded.router_modules)))
