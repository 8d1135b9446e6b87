"""Captures routing of texts, aggregated per text on the device: tokens by layers by experts are never kept."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from isogloss.backends.huggingface.loading import LoadedModel
from isogloss.backends.huggingface.outputs import RouterOutput
from isogloss.backends.huggingface.watch import require_one_call_each, watch_routers
from isogloss.errors import CorpusError
from isogloss.routing import entropy
from isogloss.runs import LanguageRouting

__all__ = ["CaptureOptions", "capture"]


@dataclass(frozen=True)
class CaptureOptions:
    """What is counted, and in which portions.

    Attributes:
        token_scope: ``content`` leaves special tokens out; ``all`` counts them, as the papers do.
        batch_tokens: tokens per forward, padding included.
        sampled_tokens: tokens per text whose pairs give the consistency.
        seed: of that sample.
    """

    token_scope: Literal["content", "all"] = "content"
    batch_tokens: int = 8192
    sampled_tokens: int = 64
    seed: int = 0


class _Text(NamedTuple):
    """One text as token ids; which positions are counted, and which of those give the consistency."""

    item: int
    ids: list[int]
    counted: npt.NDArray[np.int64]
    sampled: npt.NDArray[np.int64]


class _Batch(NamedTuple):
    """Texts that share a forward, padded on the right; ``counted`` is a 0/1 mask, ``sampled`` holds positions."""

    items: list[int]
    input_ids: torch.Tensor
    counted: torch.Tensor
    sampled: torch.Tensor
    n_sampled: torch.Tensor


@torch.inference_mode()
def capture(
    loaded: LoadedModel,
    texts: Sequence[str],
    item_ids: Sequence[str],
    *,
    options: CaptureOptions | None = None,
    progress: Callable[[int], None] | None = None,
) -> LanguageRouting:
    """Capture the routing of texts.

    The decoder stack runs without the language-model head. Texts are padded on the right, where in a causal model
    padding reaches no earlier token; padding is never counted.

    Args:
        loaded: the model; a plan may be active.
        texts: one per item.
        item_ids: seed the sample of tokens for consistency, so it does not depend on the batch.
        options: what is counted.
        progress: told the number of texts finished by each forward.

    Returns:
        Profiles (mean softmax over all experts), selections, tokens, consistency and entropy per text and layer.

    Raises:
        CorpusError: a text has no token to count, or more tokens than the model takes.
        ModelError: a router did not run.
    """
    options = options or CaptureOptions()
    n_layers, n_experts = len(loaded.routers), loaded.routers[0].spec.n_experts
    profiles = np.zeros((len(texts), n_layers, n_experts), dtype=np.float32)
    chosen = np.zeros((len(texts), n_layers, n_experts), dtype=np.int32)
    similar = np.full((len(texts), n_layers), np.nan, dtype=np.float32)
    counted_tokens = np.zeros(len(texts), dtype=np.int32)
    sums: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    batch: _Batch

    def aggregate(_index: int, output: RouterOutput) -> None:
        sums.append(_aggregate(batch, output))

    with watch_routers(loaded, aggregate) as calls:
        for n_forwards, batch in enumerate(_batches(loaded, texts, item_ids, options), start=1):
            sums.clear()
            loaded.decoder(input_ids=batch.input_ids, use_cache=False)
            require_one_call_each(loaded, calls, n_forwards=n_forwards)
            totals, picks, jaccard = (_by_layer(part) for part in zip(*sums, strict=True))
            n_tokens = batch.counted.sum(1).cpu().numpy()
            profiles[batch.items] = totals / n_tokens[:, None, None]
            chosen[batch.items] = np.rint(picks)
            similar[batch.items] = jaccard
            counted_tokens[batch.items] = n_tokens
            if progress is not None:
                progress(len(batch.items))
    return LanguageRouting(profiles, chosen, counted_tokens, similar, entropy(profiles).astype(np.float32))


def _by_layer(parts: Sequence[torch.Tensor]) -> npt.NDArray[np.float32]:
    """Stack what the layers gave, which may lie on different devices."""
    return torch.stack([part.to(parts[0].device, non_blocking=True) for part in parts], dim=1).cpu().numpy()


def _aggregate(batch: _Batch, output: RouterOutput) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sum one layer over the counted tokens of each text: ``[n, n_experts]`` twice, and consistency ``[n]``.

    Sums are batched matrix products with the mask, so their order does not depend on the run.
    """
    n, length = batch.input_ids.shape
    device = output.router_logits.device
    mask, where, n_sampled = (part.to(device) for part in (batch.counted.unsqueeze(1), batch.sampled, batch.n_sampled))
    probabilities = output.router_logits.float().softmax(-1).view(n, length, -1)
    choices = torch.zeros_like(probabilities).scatter_(2, output.expert_ids.view(n, length, -1), 1.0)
    sampled = choices.gather(1, where.unsqueeze(2).expand(-1, -1, choices.shape[2]))
    return (mask @ probabilities).squeeze(1), (mask @ choices).squeeze(1), _consistency(sampled, n_sampled)


def _consistency(sampled: torch.Tensor, n_sampled: torch.Tensor) -> torch.Tensor:
    """Mean Jaccard similarity over pairs of the first ``n_sampled`` of ``[n, sample, n_experts]`` choices."""
    shared = sampled @ sampled.transpose(1, 2)
    size = sampled[:, :1].sum(-1, keepdim=True)
    position = torch.arange(sampled.shape[1], device=sampled.device)
    pairs = (position[:, None] < position[None, :]) & (position < n_sampled[:, None]).unsqueeze(1)
    jaccard = shared / (2 * size - shared)
    return (jaccard * pairs).sum((1, 2)) / pairs.sum((1, 2))


def _batches(
    loaded: LoadedModel, texts: Sequence[str], item_ids: Sequence[str], options: CaptureOptions
) -> Iterator[_Batch]:
    """Group texts of like length within the budget of tokens, longest first."""
    tokenised = _tokenise(loaded, texts, item_ids, options)
    left = sorted(tokenised, key=lambda text: (-len(text.ids), text.item))
    while left:
        size = max(1, options.batch_tokens // len(left[0].ids))
        yield _make_batch(loaded, left[:size], options)
        left = left[size:]


def _tokenise(
    loaded: LoadedModel, texts: Sequence[str], item_ids: Sequence[str], options: CaptureOptions
) -> list[_Text]:
    encoded = loaded.tokenizer(list(texts), return_special_tokens_mask=True)
    everything = options.token_scope == "all"
    limit = getattr(loaded.model.config, "max_position_embeddings", None)
    tokenised = []
    for item, (ids, special) in enumerate(zip(encoded["input_ids"], encoded["special_tokens_mask"], strict=True)):
        positions = np.array([p for p in range(len(ids)) if everything or not special[p]], dtype=np.int64)
        name = item_ids[item]
        if not len(positions):
            raise CorpusError(f"item {name} has no token to count; remove the item in all languages")
        if limit is not None and len(ids) > limit:
            raise CorpusError(f"item {name} has {len(ids)} tokens; the model takes {limit}: split or remove the item")
        rng = np.random.default_rng([options.seed, zlib.crc32(name.encode())])
        sampled = np.sort(rng.permutation(positions)[: options.sampled_tokens])
        tokenised.append(_Text(item, ids, positions, sampled))
    return tokenised


def _make_batch(loaded: LoadedModel, texts: Sequence[_Text], options: CaptureOptions) -> _Batch:
    shape = (len(texts), max(len(text.ids) for text in texts))
    input_ids = np.full(shape, loaded.tokenizer.pad_token_id or 0, dtype=np.int64)
    counted = np.zeros(shape, dtype=np.float32)
    sampled = np.zeros((len(texts), options.sampled_tokens), dtype=np.int64)
    n_sampled = np.array([len(text.sampled) for text in texts])
    for row, text in enumerate(texts):
        input_ids[row, : len(text.ids)] = text.ids
        counted[row, text.counted] = 1
        sampled[row, : len(text.sampled)] = text.sampled
    arrays = (torch.from_numpy(array).to(loaded.device) for array in (input_ids, counted, sampled, n_sampled))
    return _Batch([text.item for text in texts], *arrays)
