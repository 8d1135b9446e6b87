"""Captures routing of texts, aggregated per text on the device: tokens by layers by experts are never kept."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from isogloss.backends.huggingface.loading import LoadedModel
from isogloss.errors import CorpusError, ModelError
from isogloss.routing import entropy, route
from isogloss.runs import LanguageRouting

__all__ = ["CaptureOptions", "capture", "prove_routers", "watch_routers"]

_PROBE_TOKENS = 64
# Weights of one token may differ by what rounding the logits to the model's dtype changes.
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 5e-3}

OnRouter = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], None]


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


@contextmanager
def watch_routers(loaded: LoadedModel, on_router: OnRouter) -> Iterator[list[int]]:
    """Call ``on_router(index, router_logits, combine_weights, expert_ids)`` whenever a router has run.

    Args:
        loaded: the model.
        on_router: gets the router's index among the routed layers and what the router itself returned.

    Yields:
        How often each router has run so far.
    """
    family, calls = loaded.family, [0] * len(loaded.routers)

    def listen(index: int) -> Callable[..., None]:
        def hook(_module: torch.nn.Module, _inputs: Any, output: Any) -> None:  # noqa: ANN401 - torch's signature
            calls[index] += 1
            on_router(index, output[family.logits], output[family.weights], output[family.expert_ids])

        return hook

    handles = [router.module.register_forward_hook(listen(i)) for i, router in enumerate(loaded.routers)]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


@torch.inference_mode()
def prove_routers(loaded: LoadedModel, text: str) -> None:
    """Show on one text that every router runs once and chooses what the reference router chooses from its logits.

    Raises:
        ModelError: a router was not called, or chose otherwise; nothing that would be captured could be trusted.
    """
    ids = torch.tensor([loaded.tokenizer(text)["input_ids"][:_PROBE_TOKENS]], device=loaded.model.device)
    wrong: list[str] = []

    def compare(index: int, logits: torch.Tensor, weights: torch.Tensor, expert_ids: torch.Tensor) -> None:
        spec = loaded.routers[index].spec
        expected = route(logits.float().cpu().numpy(), spec)
        tolerance = _TOLERANCE[loaded.model.dtype]
        dense, chosen = np.zeros((2, *logits.shape), dtype=np.float32)
        np.put_along_axis(dense, expected.expert_ids, expected.combine_weights, axis=1)
        np.put_along_axis(chosen, expert_ids.cpu().numpy(), weights.float().cpu().numpy(), axis=1)
        same = (dense > 0) == (chosen > 0)
        if np.abs(dense - chosen)[same].max() > tolerance or (~same).mean() > tolerance:
            wrong.append(f"layer {spec.layer}")

    with watch_routers(loaded, compare) as calls:
        loaded.model.base_model(input_ids=ids, use_cache=False)
    _require_one_call_each(loaded, calls, n_forwards=1)
    if wrong:
        raise ModelError(
            f"the routers of {', '.join(wrong)} choose otherwise than the reference router for "
            f"{loaded.family.model_type}; this version of transformers is not supported for this family"
        )


def _require_one_call_each(loaded: LoadedModel, calls: Sequence[int], *, n_forwards: int) -> None:
    for router, n in zip(loaded.routers, calls, strict=True):
        if n != n_forwards:
            raise ModelError(
                f"the router of layer {router.spec.layer} ran {n} times in {n_forwards} forwards; "
                "another implementation bypasses the module, so nothing can be captured or steered there"
            )


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

    def aggregate(_index: int, logits: torch.Tensor, _weights: torch.Tensor, expert_ids: torch.Tensor) -> None:
        sums.append(_aggregate(batch, logits, expert_ids))

    with watch_routers(loaded, aggregate) as calls:
        for n_forwards, batch in enumerate(_batches(loaded, texts, item_ids, options), start=1):
            sums.clear()
            loaded.model.base_model(input_ids=batch.input_ids, use_cache=False)
            _require_one_call_each(loaded, calls, n_forwards=n_forwards)
            totals, picks, jaccard = (torch.stack(part, dim=1).cpu().numpy() for part in zip(*sums, strict=True))
            n_tokens = batch.counted.sum(1).cpu().numpy()
            profiles[batch.items] = totals / n_tokens[:, None, None]
            chosen[batch.items] = np.rint(picks)
            similar[batch.items] = jaccard
            counted_tokens[batch.items] = n_tokens
            if progress is not None:
                progress(len(batch.items))
    return LanguageRouting(profiles, chosen, counted_tokens, similar, entropy(profiles).astype(np.float32))


def _aggregate(
    batch: _Batch, logits: torch.Tensor, expert_ids: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sum one layer over the counted tokens of each text: ``[n, n_experts]`` twice, and consistency ``[n]``.

    Sums are batched matrix products with the mask, so their order does not depend on the run.
    """
    n, length = batch.input_ids.shape
    mask = batch.counted.unsqueeze(1)
    probabilities = logits.float().softmax(-1).view(n, length, -1)
    choices = torch.zeros_like(probabilities).scatter_(2, expert_ids.view(n, length, -1), 1.0)
    sampled = choices.gather(1, batch.sampled.unsqueeze(2).expand(-1, -1, choices.shape[2]))
    return (mask @ probabilities).squeeze(1), (mask @ choices).squeeze(1), _consistency(sampled, batch.n_sampled)


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
    arrays = (torch.from_numpy(array).to(loaded.model.device) for array in (input_ids, counted, sampled, n_sampled))
    return _Batch([text.item for text in texts], *arrays)
