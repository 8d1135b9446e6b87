"""Shows that a baked checkpoint's routers compute what steering computes, one model in memory at a time.

Texts are run through the original under the plan, and what each router reads is kept. Then every router of the original
runs on that once more, steered, in float32; and so does every router of the baked model, without a plan. The logits
must be equal up to the rounding of the stored sums. Routers are compared on equal inputs, layer by layer, since over a
whole model two experts that tie up to rounding are chosen differently now and then, and later layers then read other
states.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from isogloss.backends.bake.checkpoint import Edit
from isogloss.backends.huggingface.loading import LoadedModel
from isogloss.backends.huggingface.prove import prove_routers
from isogloss.backends.huggingface.router_outputs import RouterOutput
from isogloss.backends.huggingface.steer import steer
from isogloss.backends.huggingface.watch import require_one_call_each, watch_inputs, watch_routers
from isogloss.errors import ModelError
from isogloss.steering import Plan

__all__ = ["Probe", "Verification", "compare", "probe"]

_TOLERANCE = 1e-5  # of a float32 product, relative above 1
_DIFFERENT = "nothing is written: this version of transformers may load the checkpoint in another way than it is stored"


@dataclass(frozen=True)
class Probe:
    """What the original's routers read and computed under the plan.

    Attributes:
        inputs: by routed layer, in order, ``[n_tokens, hidden_size]`` in the model's dtype.
        logits: likewise ``[n_tokens, n_experts]`` float32, steered.
    """

    inputs: tuple[torch.Tensor, ...]
    logits: tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Verification:
    """How closely a baked model's routers agree with the steered ones.

    Attributes:
        n_texts: texts that were run.
        n_tokens: their tokens.
        largest_difference: of any logit.
    """

    n_texts: int
    n_tokens: int
    largest_difference: float


@torch.inference_mode()
def probe(loaded: LoadedModel, plan: Plan, edits: Sequence[Edit], texts: Sequence[str]) -> Probe:
    """Run texts through the original under a plan; afterwards its routers are in float32, so let it go.

    Args:
        loaded: the original, unsteered.
        plan: to bake.
        edits: made from it.
        texts: run one by one, as they are tokenised by default.

    Raises:
        ModelError: its biases are not those of the files, a router did not run, or is offloaded.
        PlanError: the plan is for another model.
    """
    for edit in edits:
        router = next(each for each in loaded.routers if each.spec.layer == edit.layer)
        found = router.module.get_parameter(str(router.linear_bias_name))
        if found.is_meta or not torch.equal(edit.before.to(found.dtype), found.detach().cpu()):
            state = "is offloaded" if found.is_meta else f"is not {edit.place.name} of its files"
            raise ModelError(
                f"the loaded model's router bias of layer {edit.layer} {state}, so it cannot be compared; load the "
                f"model on one device or bake with --no-verify; {_DIFFERENT}"
            )
    inputs: list[list[torch.Tensor]] = [[] for _ in loaded.routers]

    def keep(index: int, hidden: torch.Tensor) -> None:
        inputs[index].append(hidden.reshape(-1, hidden.shape[-1]).cpu())

    with steer(loaded, plan), watch_inputs(loaded, keep), watch_routers(loaded, lambda *_: None) as calls:
        for text in texts:
            ids = torch.tensor([loaded.tokenizer(text)["input_ids"]], device=loaded.device)
            loaded.decoder(input_ids=ids, use_cache=False)
    require_one_call_each(loaded, calls, n_forwards=len(texts))
    read = tuple(torch.cat(parts) for parts in inputs)
    return Probe(read, _logits(loaded, read, plan))


@torch.inference_mode()
def compare(baked: LoadedModel, found: Probe, edits: Sequence[Edit], texts: Sequence[str]) -> Verification:
    """Compare a baked model's routers with the steered ones of the original.

    Args:
        baked: loaded from the written files; afterwards its routers are in float32.
        found: of the original.
        edits: that were written.
        texts: that ``found`` is of; on the first, the baked model's routers are proven to choose by their logits.

    Raises:
        ModelError: some logit differs by more than storing its sum and a float32 product can round.
    """
    prove_routers(baked, texts[0])
    edit_by_layer = {edit.layer: edit for edit in edits}
    largest = 0.0
    dtypes = [router.module.get_parameter(str(router.linear_bias_name)).dtype for router in baked.routers]
    for router, dtype, ours, steered in zip(
        baked.routers, dtypes, _logits(baked, found.inputs, None), found.logits, strict=True
    ):
        difference = (ours - steered).abs()
        edit = edit_by_layer.get(router.spec.layer)
        allowed = _TOLERANCE * steered.abs().clamp_min(1.0)
        if edit is not None:
            allowed = allowed + edit.allowance(dtype).float()
        if not (difference <= allowed).all():
            raise ModelError(
                f"the baked router of layer {router.spec.layer} computes logits that differ from the steered ones by "
                f"up to {difference.max().item():.3g}; expected rounding alone: {_DIFFERENT}"
            )
        largest = max(largest, difference.max().item())
    return Verification(len(texts), len(found.inputs[0]), largest)


def _logits(loaded: LoadedModel, inputs: Sequence[torch.Tensor], plan: Plan | None) -> tuple[torch.Tensor, ...]:
    """Run every router alone in float32, steered or not; ``[n_tokens, n_experts]`` each, on the processor."""
    logits: dict[int, torch.Tensor] = {}

    def keep(index: int, output: RouterOutput) -> None:
        logits[index] = output.router_logits.float().cpu()

    for router in loaded.routers:
        router.module.float()
    with nullcontext() if plan is None else steer(loaded, plan), watch_routers(loaded, keep):
        for router, hidden in zip(loaded.routers, inputs, strict=True):
            module: Any = router.module
            module(hidden.float().to(router.module.get_parameter(router.weight_name).device))
    return tuple(logits[index] for index in range(len(loaded.routers)))
