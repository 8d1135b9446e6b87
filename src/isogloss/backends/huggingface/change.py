"""Measures what a plan changes on given texts: which experts are chosen, and what the model predicts next."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from isogloss.backends.huggingface.loading import LoadedModel, computing
from isogloss.backends.huggingface.padded_batches import by_length, pad
from isogloss.backends.huggingface.router_outputs import RouterOutput
from isogloss.backends.huggingface.steer import mark_generated, steer
from isogloss.backends.huggingface.watch import require_one_call_each, watch_routers
from isogloss.backends.joint_texts import Measured, encode_texts, refuse_placeholders
from isogloss.backends.model import Change
from isogloss.routing import PHASES
from isogloss.statistics import Estimate, bootstrap_counts, percentile_interval
from isogloss.steering import Steering

__all__ = ["divergence_terms", "measure_change"]

_CHUNK = 256  # positions whose distributions are float32 at the same time


class _Outputs(NamedTuple):
    """Logits ``[n, length, vocabulary]``, and the sorted chosen experts ``[n, length, top_k]`` of every layer."""

    logits: torch.Tensor
    expert_ids: list[torch.Tensor]


@computing
def measure_change(
    loaded: LoadedModel,
    plan: Steering,
    texts: Sequence[str],
    *,
    add_special_tokens: bool = True,
    batch_tokens: int = 2048,
    against: Steering | None = None,
) -> Change:
    """Compare chosen experts and next-token distributions with and without the plan, on the same tokens.

    Both forwards see the same batch, padded on the right, where in a causal model padding reaches no earlier token.
    Distributions are compared in float32, and those of one batch are all that is held.

    Texts are read once as tokens of each phase that the plan names; of these readings, the larger share of tokens with
    changed experts counts, layer by layer, and the larger divergence.

    Args:
        loaded: the model, unsteered.
        plan: the plan to measure; an empty one changes exactly nothing.
        texts: one per item, at least one.
        add_special_tokens: False for prompts that come from a chat template.
        batch_tokens: tokens per forward, padding included; a longer text runs alone.
        against: what the plan is compared with, in place of the unsteered model.

    Raises:
        CorpusError: no texts, or one without tokens.
        PlanError: the plan was made for another model.
        ModelError: a router did not run, or could not be steered.
    """
    ids = encode_texts(loaded.tokenizer, texts, add_special_tokens=add_special_tokens)
    refuse_placeholders(ids, loaded)
    measured = [Measured(place, each, 0, len(each)) for place, each in enumerate(ids)]
    n_tokens = np.array([text.stop for text in measured], dtype=np.float64)
    readings = plan.phases or PHASES[:1]
    sums = np.zeros((len(readings), len(measured), 2 + len(loaded.routers)))
    for batch in by_length(measured, batch_tokens):
        input_ids = pad(loaded, batch)
        with nullcontext() if against is None else steer(loaded, against):
            plain = _forward(loaded, input_ids)
        for reading_sums, reading in zip(sums, readings, strict=True):
            generated = torch.full_like(input_ids, reading == "generation", dtype=torch.bool)
            with steer(loaded, plan), mark_generated(loaded, generated):
                steered = _forward(loaded, input_ids)
            for row, text in enumerate(batch):
                reading_sums[text.place] = _change(plain, steered, row, slice(text.stop))
    total = n_tokens.sum()
    _, other_tokens, *changed = (sums.sum(1) / total).max(0).tolist()
    largest = sums[int(sums[:, :, 0].sum(1).argmax()), :, 0]  # of the readings, that with the larger divergence
    layers = [spec.layer for spec in loaded.routers]
    per_item = tuple((largest / n_tokens).tolist())
    return Change(
        dict(zip(layers, changed, strict=True)), _per_token(largest, n_tokens), per_item, other_tokens, int(total)
    )


def _change(plain: _Outputs, steered: _Outputs, row: int, measured: slice) -> list[float]:
    """Sum over the measured tokens of one text: divergence, other likeliest tokens, and changed expert ids by layer."""
    counts = [
        (before[row, measured] != after[row, measured]).any(-1).sum()
        for before, after in zip(plain.expert_ids, steered.expert_ids, strict=True)
    ]
    # Read at once: a GPU has to finish before every number that is read from it.
    changed = torch.stack([count.to(counts[0].device) for count in counts]).tolist()
    logits = plain.logits[row, measured], steered.logits[row, measured]
    other_tokens = (logits[0].argmax(-1) != logits[1].argmax(-1)).sum().item()
    return [_divergence(*logits), other_tokens, *changed]


def _forward(loaded: LoadedModel, input_ids: torch.Tensor) -> _Outputs:
    expert_ids: list[torch.Tensor] = []

    def keep(_index: int, output: RouterOutput) -> None:
        expert_ids.append(output.expert_ids.sort(-1).values.view(*input_ids.shape, -1))

    with watch_routers(loaded, keep) as calls:
        logits = loaded.model(input_ids=input_ids, use_cache=False).logits
    require_one_call_each(loaded, calls, n_forwards=1)
    return _Outputs(logits, expert_ids)


def _divergence(plain: torch.Tensor, steered: torch.Tensor) -> float:
    """Sum over ``[n_tokens, vocabulary]`` logits of the divergence of steered from plain, in nats."""
    total = 0.0
    for before, after in zip(plain.split(_CHUNK), steered.split(_CHUNK), strict=True):
        sums = divergence_terms(before, after).sum(-1, dtype=torch.float64)
        total += sums.clamp_min(0.0).sum().item()  # below 0 only by rounding
    return total


def divergence_terms(plain: torch.Tensor, steered: torch.Tensor) -> torch.Tensor:
    """Return what each token of the vocabulary adds to the divergence of steered from plain logits, in nats."""
    expected, observed = plain.float().log_softmax(-1), steered.float().log_softmax(-1)
    probability = expected.exp()
    # Where a token is impossible, its logarithm is -inf, and the product has no value though its limit is 0.
    return torch.where(probability > 0, probability * (expected - observed), 0.0)


def _per_token(sums: npt.NDArray[np.float64], n_tokens: npt.NDArray[np.float64]) -> Estimate:
    """Estimate ``[n_items]`` sums per token, with an interval over items."""
    n_items, value = len(sums), float(sums.sum() / n_tokens.sum())
    if n_items == 1:
        return Estimate(value, np.nan, np.nan, n_items)
    counts = bootstrap_counts(n_items).astype(np.float64)
    low, high = percentile_interval((counts @ sums) / (counts @ n_tokens))
    return Estimate(value, float(low), float(high), n_items)
