"""Captures routing of texts, aggregated per text on the device: tokens by layers by experts are never kept."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy.typing as npt
import torch

from isogloss.backends.capture_options import CaptureOptions
from isogloss.backends.huggingface.loading import LoadedModel
from isogloss.backends.huggingface.padded_batches import Batch, make_batch
from isogloss.backends.huggingface.router_outputs import RouterOutput
from isogloss.backends.huggingface.steer import mark_generated
from isogloss.backends.huggingface.watch import require_one_call_each, watch_inputs, watch_routers
from isogloss.backends.profiles import pair_consistency
from isogloss.backends.token_batches import Text
from isogloss.errors import ModelError

__all__ = ["run_portion", "sum_counted"]


def run_portion(
    loaded: LoadedModel, portion: Sequence[Text], *, options: CaptureOptions
) -> dict[str, npt.NDArray[Any]]:
    """Run a portion of texts, as `isogloss.backends.profiles.gather` asks for it.

    The decoder stack runs without the language-model head. Texts are padded on the right, where in a causal model
    padding reaches no earlier token; padding is never counted.

    Raises:
        ModelError: a router did not run, or its input is not known.
    """
    batch = make_batch(loaded, portion, options)
    sums: defaultdict[str, list[torch.Tensor]] = defaultdict(list)
    counted = batch.counted.flatten().nonzero().squeeze(1) if options.token_counts else None

    def on_router(_index: int, output: RouterOutput) -> None:
        if counted is not None:
            sums["expert_ids"].append(output.expert_ids[counted.to(output.expert_ids.device)].to(torch.int32))
        for name, part in _aggregate(batch, output).items():
            sums[name].append(part)

    def on_input(index: int, hidden: torch.Tensor) -> None:
        if len(hidden) != batch.input_ids.numel():
            raise ModelError(
                f"the router of layer {loaded.routers[index].layer} reads {len(hidden)} hidden states of "
                f"{batch.input_ids.numel()} tokens; expected one each: capture without hidden states"
            )
        sums["hidden"].append(sum_counted(batch.counted, hidden))

    reading = watch_inputs(loaded, on_input) if options.hidden_states else nullcontext()
    with watch_routers(loaded, on_router) as calls, reading, mark_generated(loaded, batch.generated):
        loaded.decoder(input_ids=batch.input_ids, use_cache=False)
    require_one_call_each(loaded, calls, n_forwards=1)
    return {name: _by_layer(parts) for name, parts in sums.items()}


def _by_layer(parts: Sequence[torch.Tensor]) -> npt.NDArray[Any]:
    """Stack what the layers gave, which may lie on different devices."""
    return torch.stack([part.to(parts[0].device, non_blocking=True) for part in parts], dim=1).cpu().numpy()


def _aggregate(batch: Batch, output: RouterOutput) -> dict[str, torch.Tensor]:
    """Sum one layer over the counted tokens of each text: ``[n, n_experts]`` each, and consistency ``[n]``."""
    n, length = batch.input_ids.shape
    device = output.router_logits.device
    where, n_sampled = batch.sampled.to(device), batch.n_sampled.to(device)
    probabilities = output.router_logits.float().softmax(-1).view(n, length, -1)
    chosen = torch.zeros_like(probabilities).scatter_(2, output.expert_ids.view(n, length, -1), 1.0)
    sampled = chosen.gather(1, where.unsqueeze(2).expand(-1, -1, chosen.shape[2]))
    sums = {
        "profiles": sum_counted(batch.counted, probabilities),
        "selections": sum_counted(batch.counted, chosen),
        "consistency": pair_consistency(sampled, n_sampled),
    }
    if batch.distinct is not None:
        sums["distinct_profiles"] = sum_counted(batch.distinct, probabilities)
    return sums


def sum_counted(mask: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Sum over the tokens of the mask: a batched matrix product, whose order does not depend on the run."""
    n, length = mask.shape
    return (mask.to(values.device).unsqueeze(1) @ values.float().view(n, length, -1)).squeeze(1)
