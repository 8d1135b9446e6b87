"""Captures routing of texts, aggregated per text on the device: tokens by layers by experts are never kept."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import numpy as np
import numpy.typing as npt
import torch

from isogloss.backends import token_batches
from isogloss.backends.huggingface.loading import LoadedModel
from isogloss.backends.huggingface.padded_batches import Batch, make_batch, reader_of
from isogloss.backends.huggingface.router_outputs import RouterOutput
from isogloss.backends.huggingface.steer import mark_generated
from isogloss.backends.huggingface.watch import require_one_call_each, watch_inputs, watch_routers
from isogloss.backends.model import CaptureOptions
from isogloss.backends.profiles import gather, pair_consistency
from isogloss.backends.token_batches import Text, portions
from isogloss.errors import ModelError
from isogloss.runs import LanguageRouting

__all__ = ["capture", "counted_ids"]


@torch.inference_mode()
def capture(
    loaded: LoadedModel,
    texts: Sequence[str],
    item_ids: Sequence[str],
    *,
    options: CaptureOptions | None = None,
    pivot_ids: npt.NDArray[np.int64] | None = None,
    progress: Callable[[int], None] | None = None,
) -> LanguageRouting:
    """Capture the routing of texts, or of what the model writes after them.

    The decoder stack runs without the language-model head. Texts are padded on the right, where in a causal model
    padding reaches no earlier token; padding is never counted. In the generation phase the model first continues
    each text greedily; then text and continuation run through the decoder stack together, which routes every token as
    it was routed when the model read it back, also under a plan that edits prompt and generation differently; and only
    tokens of the continuation are counted.

    Args:
        loaded: the model; a plan may be active.
        texts: one per item.
        item_ids: seed the sample of tokens for consistency, so it does not depend on the batch.
        options: what is counted.
        pivot_ids: token ids of the pivot language (`counted_ids`); profiles are then also taken over those counted
            tokens alone whose id is none of them. None leaves that out.
        progress: told the number of texts finished by each forward.

    Returns:
        Profiles (mean softmax over all experts), selections, tokens, consistency and entropy per text and layer; the
        vocabulary; and, where asked for, the profiles over distinct tokens and what the routers read.

    Raises:
        CorpusError: a text has no token to count, or more tokens than the model takes.
        ModelError: a router did not run, or what it reads cannot be told.
    """
    options = options or CaptureOptions()

    def run(portion: Sequence[Text]) -> dict[str, npt.NDArray[np.float32]]:
        return _run(loaded, make_batch(loaded, portion, options), hidden_states=options.hidden_states)

    parts = portions(reader_of(loaded), texts, item_ids, options, pivot_ids=pivot_ids)
    return gather(parts, len(texts), run=run, progress=progress)


def counted_ids(
    loaded: LoadedModel, texts: Sequence[str], item_ids: Sequence[str], options: CaptureOptions
) -> npt.NDArray[np.int64]:
    """Return the ids, ascending, that are counted anywhere in these texts; see `isogloss.backends.token_batches`.

    Raises:
        CorpusError: a text has no token to count, or more tokens than the model takes.
    """
    return token_batches.counted_ids(reader_of(loaded), texts, item_ids, options)


def _run(loaded: LoadedModel, batch: Batch, *, hidden_states: bool) -> dict[str, npt.NDArray[np.float32]]:
    """Run a batch; return the consistency and sums over the counted tokens, ``[n, n_layers, …]`` each."""
    sums: defaultdict[str, list[torch.Tensor]] = defaultdict(list)

    def on_router(_index: int, output: RouterOutput) -> None:
        for name, part in _aggregate(batch, output).items():
            sums[name].append(part)

    def on_input(index: int, hidden: torch.Tensor) -> None:
        if len(hidden) != batch.input_ids.numel():
            raise ModelError(
                f"the router of layer {loaded.routers[index].spec.layer} reads {len(hidden)} hidden states of "
                f"{batch.input_ids.numel()} tokens; expected one each: capture without hidden states"
            )
        sums["hidden"].append(_total(batch.counted, hidden))

    reading = watch_inputs(loaded, on_input) if hidden_states else nullcontext()
    with watch_routers(loaded, on_router) as calls, reading, mark_generated(loaded, batch.generated):
        loaded.decoder(input_ids=batch.input_ids, use_cache=False)
    require_one_call_each(loaded, calls, n_forwards=1)
    return {name: _by_layer(parts) for name, parts in sums.items()}


def _by_layer(parts: Sequence[torch.Tensor]) -> npt.NDArray[np.float32]:
    """Stack what the layers gave, which may lie on different devices."""
    return torch.stack([part.to(parts[0].device, non_blocking=True) for part in parts], dim=1).cpu().numpy()


def _aggregate(batch: Batch, output: RouterOutput) -> dict[str, torch.Tensor]:
    """Sum one layer over the counted tokens of each text: ``[n, n_experts]`` each, and consistency ``[n]``."""
    n, length = batch.input_ids.shape
    device = output.router_logits.device
    where, n_sampled = batch.sampled.to(device), batch.n_sampled.to(device)
    probabilities = output.router_logits.float().softmax(-1).view(n, length, -1)
    choices = torch.zeros_like(probabilities).scatter_(2, output.expert_ids.view(n, length, -1), 1.0)
    sampled = choices.gather(1, where.unsqueeze(2).expand(-1, -1, choices.shape[2]))
    sums = {
        "profiles": _total(batch.counted, probabilities),
        "selections": _total(batch.counted, choices),
        "consistency": pair_consistency(sampled, n_sampled),
    }
    if batch.distinct is not None:
        sums["distinct_profiles"] = _total(batch.distinct, probabilities)
    return sums


def _total(mask: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Sum over the tokens of the mask: a batched matrix product, whose order does not depend on the run."""
    n, length = mask.shape
    return (mask.to(values.device).unsqueeze(1) @ values.float().view(n, length, -1)).squeeze(1)
