"""The routing of texts, token by token: what `isogloss show` draws, and what versions of a model are compared by."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from isogloss.arrays import Float32Array, Int32Array, Int64Array, IntArray

__all__ = ["N_LIKELIEST", "NextTokens", "RoutedText", "TokenRouting", "token_bytes", "token_texts"]

N_LIKELIEST = 32
"""Tokens of a `RoutedText` whose probabilities are kept after each token."""

_BROKEN = "\ufffd"  # what decoders write for a part of a character


class NextTokens(NamedTuple):
    """Of which next tokens probabilities are kept.

    Attributes:
        n_vocabulary: first so many token ids, among which they are predicted.
        ids: by text, ``[n_tokens, n_kept]`` after each of its counted tokens; None for the `N_LIKELIEST` likeliest.
    """

    n_vocabulary: int
    ids: Sequence[Int32Array] | None = None


class RoutedText(NamedTuple):
    """What a model did with the counted tokens of one text, without its scores of the experts that it did not choose.

    Attributes:
        item: position among the texts.
        token_ids: ``[n_tokens]`` int32.
        expert_ids: ``[n_tokens, n_layers, top_k]`` uint16, the greatest weight first.
        profile: ``[n_layers, n_experts]`` float32, mean routing weights.
        likeliest: ``[n_tokens]`` int32, the likeliest token after each.
        next_ids: ``[n_tokens, n_kept]`` int32, tokens whose probabilities after each token are kept, as `NextTokens`
            asks.
        next_log_probabilities: ``[n_tokens, n_kept]`` float32.
    """

    item: int
    token_ids: Int32Array
    expert_ids: IntArray
    profile: Float32Array
    likeliest: Int32Array
    next_ids: Int32Array
    next_log_probabilities: Float32Array


@dataclass(frozen=True, eq=False)
class TokenRouting:
    """What every router did with every token of a text, and what the model predicts after the last one.

    Attributes:
        token_ids: ``[n_tokens]``, special tokens included.
        router_logits: ``[n_layers, n_tokens, n_experts]`` float32, before any gating function; under a plan, after it.
        expert_ids: ``[n_layers, n_tokens, top_k]``, the greatest weight first.
        weights: ``[n_layers, n_tokens, top_k]`` float32, that mix the experts' outputs, in the same order.
        next_probabilities: ``[vocabulary]`` float32, of the token after the last one.
    """

    token_ids: Int64Array
    router_logits: Float32Array
    expert_ids: Int64Array
    weights: Float32Array
    next_probabilities: Float32Array

    def likeliest(self, n: int) -> list[tuple[int, float]]:
        """Return the ``n`` likeliest next tokens with their probabilities, the likeliest first."""
        order = np.argsort(-self.next_probabilities, kind="stable")[:n]
        return [(int(token), float(self.next_probabilities[token])) for token in order]

    def ranks(self) -> Int64Array:
        """Return where each chosen expert stands among all by its logit, 1 for the greatest: as ``expert_ids``."""
        chosen = np.take_along_axis(self.router_logits, self.expert_ids, axis=-1)
        return np.asarray((self.router_logits[:, :, None, :] > chosen[..., None]).sum(axis=-1) + 1)


def token_texts(tokenizer: Any, token_ids: Int64Array) -> list[tuple[str, int, int]]:  # noqa: ANN401 - transformers' own
    """Write every token as text: one whose bytes are a part of a character gets the whole of it.

    Args:
        tokenizer: with ``decode``.
        token_ids: ``[n_tokens]``.

    Returns:
        For each token its text, its place among the tokens that share this text, from 1, and their number.
    """
    texts: list[tuple[str, int, int]] = []
    before, start = "", 0
    for place in range(len(token_ids)):
        whole = tokenizer.decode(token_ids[: place + 1].tolist(), skip_special_tokens=False)
        last = place == len(token_ids) - 1
        if whole.endswith(_BROKEN) and not last:
            continue
        text = whole.removeprefix(before)
        n = place + 1 - start
        texts += [(text, part, n) for part in range(1, n + 1)]
        before, start = whole, place + 1
    return texts


def token_bytes(tokenizer: Any, token_id: int) -> bytes:  # noqa: ANN401 - transformers' own
    """Return what one token adds inside a text, in UTF-8; its bytes where they are no whole characters; never nothing.

    Args:
        tokenizer: with ``decode`` and ``convert_ids_to_tokens``.
        token_id: of the model; one that the tokenizer does not have is written as ``<151999>``.
    """

    def decode(*ids: int) -> str:
        text: str = tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    # Decoders leave out the space before a text's first token.
    text = decode(token_id, token_id).removeprefix(decode(token_id))
    if text and _BROKEN not in text:
        return text.encode()
    piece: str = tokenizer.convert_ids_to_tokens(token_id) or ""
    if match := re.fullmatch(r"<0x([0-9A-F]{2})>", piece):
        return bytes.fromhex(match[1])
    of_character = _byte_level()
    if piece and all(character in of_character for character in piece):
        return bytes(of_character[character] for character in piece)
    return (piece or f"<{token_id}>").encode()


@cache
def _byte_level() -> dict[str, int]:
    """Return the byte that each character of a byte-level vocabulary stands for.

    Source:
        ``bytes_to_unicode`` of openai/gpt-2, ``src/encoder.py``: printable characters of Latin-1 stand for themselves,
        the other bytes in order for the characters from 256 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}
