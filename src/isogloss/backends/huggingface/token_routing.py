"""Reads the routing of texts token by token: of one text all scores, of many the choices and the next tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from isogloss.arrays import Float32Array, Int32Array
from isogloss.backends.capture_options import CaptureOptions
from isogloss.backends.huggingface.capture import sum_counted
from isogloss.backends.huggingface.loading import LoadedModel, computing
from isogloss.backends.huggingface.padded_batches import make_batch, reader_of
from isogloss.backends.huggingface.router_outputs import RouterOutput
from isogloss.backends.huggingface.watch import require_one_call_each, watch_routers
from isogloss.backends.joint_texts import encode_texts, refuse_placeholders
from isogloss.backends.token_batches import Text, portions
from isogloss.backends.token_routing import N_LIKELIEST, NextTokens, RoutedText, TokenRouting

__all__ = ["route_texts", "route_tokens"]

_CHUNK = 256  # positions whose distributions are float32 at the same time


@computing
def route_tokens(loaded: LoadedModel, text: str, *, add_special_tokens: bool = True) -> TokenRouting:
    """Run one text and keep what every router computed for every token; see `isogloss.backends.model.Model`."""
    (ids,) = encode_texts(loaded.tokenizer, [text], add_special_tokens=add_special_tokens)
    refuse_placeholders([ids], loaded)
    outputs: list[RouterOutput] = []

    def keep(_index: int, output: RouterOutput) -> None:
        weights, ids_of = _by_weight(output)
        outputs.append(RouterOutput(output.router_logits.float().cpu(), weights.cpu(), ids_of.cpu()))

    with torch.no_grad(), watch_routers(loaded, keep) as calls:
        input_ids = torch.tensor([ids], device=loaded.device)
        logits = loaded.model(input_ids=input_ids, use_cache=False).logits[0, -1]
    require_one_call_each(loaded, calls, n_forwards=1)
    shape = (len(outputs), len(ids), -1)
    return TokenRouting(
        np.array(ids, dtype=np.int64),
        torch.stack([each.router_logits for each in outputs]).view(shape).numpy(),
        torch.stack([each.expert_ids for each in outputs]).view(shape).numpy(),
        torch.stack([each.combine_weights for each in outputs]).view(shape).numpy(),
        logits.float().softmax(-1).cpu().numpy(),
    )


@computing
def route_texts(
    loaded: LoadedModel,
    texts: Sequence[str],
    item_ids: Sequence[str],
    *,
    options: CaptureOptions,
    next_tokens: NextTokens,
    progress: Callable[[int], None] | None = None,
) -> list[RoutedText]:
    """Run texts and keep the choices of every counted token, and what came next; see `isogloss.backends.model.Model`.

    The whole model runs, with its language-model head, whose logits are the largest array: ``batch_tokens`` times the
    vocabulary. Equal texts run in equal batches, whatever the model.
    """
    routed: list[RoutedText] = []
    for portion in portions(reader_of(loaded), texts, item_ids, options):
        routed += _route_portion(loaded, portion, options, next_tokens)
        if progress is not None:
            progress(len(portion))
    return sorted(routed, key=lambda text: text.item)


def _route_portion(
    loaded: LoadedModel, portion: Sequence[Text], options: CaptureOptions, next_tokens: NextTokens
) -> list[RoutedText]:
    batch = make_batch(loaded, portion, options)
    counted = batch.counted.flatten().nonzero().squeeze(1)
    chosen: list[torch.Tensor] = []
    profiles: list[torch.Tensor] = []

    def keep(_index: int, output: RouterOutput) -> None:
        at = counted.to(output.expert_ids.device)
        weights = RouterOutput(output.router_logits, output.combine_weights[at], output.expert_ids[at])
        chosen.append(_by_weight(weights)[1].to(torch.int32).cpu())
        profiles.append(sum_counted(batch.counted, output.router_logits.float().softmax(-1)).cpu())

    with watch_routers(loaded, keep) as calls:
        logits = loaded.model(input_ids=batch.input_ids, use_cache=False).logits
    require_one_call_each(loaded, calls, n_forwards=1)
    expert_ids = torch.stack(chosen, dim=1).numpy().astype(np.uint16)
    ends = np.cumsum([len(text.counted) for text in portion])
    routed = []
    for row, text in enumerate(portion):
        after = logits[row, torch.from_numpy(text.counted).to(logits.device), : next_tokens.n_vocabulary]
        n_tokens = len(text.counted)
        routed.append(
            RoutedText(
                text.item,
                np.array(text.ids, dtype=np.int32)[text.counted],
                expert_ids[ends[row] - n_tokens : ends[row]],
                (torch.stack([layer[row] for layer in profiles]) / n_tokens).numpy(),
                *_next_tokens(after, None if next_tokens.ids is None else next_tokens.ids[text.item]),
            )
        )
    return routed


def _by_weight(output: RouterOutput) -> tuple[torch.Tensor, torch.Tensor]:
    """Return combine weights in float32 and expert ids, the greatest weight first."""
    weights, order = output.combine_weights.float().sort(dim=-1, descending=True, stable=True)
    return weights, output.expert_ids.gather(-1, order)


def _next_tokens(logits: torch.Tensor, asked: Int32Array | None) -> tuple[Int32Array, Int32Array, Float32Array]:
    """Return the likeliest next token, the tokens asked for or the likeliest ones, and their log-probabilities.

    Args:
        logits: ``[n_tokens, n_vocabulary]``.
        asked: ``[n_tokens, n_kept]``; None for the likeliest ones.
    """
    parts = []
    for start in range(0, len(logits), _CHUNK):
        scores = logits[start : start + _CHUNK].float().log_softmax(-1)
        if asked is None:
            ids = scores.topk(min(N_LIKELIEST, scores.shape[1])).indices
        else:
            ids = torch.from_numpy(asked[start : start + _CHUNK]).to(scores.device, torch.int64)
        parts.append((scores.argmax(-1).int(), ids.int(), scores.gather(-1, ids)))
    likeliest, next_ids, log_probabilities = (torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True))
    return likeliest, next_ids, log_probabilities
