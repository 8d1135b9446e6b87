"""Batches of texts beside their parallel texts in the pivot, for `isogloss.learning.RoutingAlignment`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from isogloss.errors import CorpusError, RunError
from isogloss.runs import Run

__all__ = ["COUNTED", "PAIR", "PIVOT_PROFILES", "PairCollator", "label_tokens", "rows_of_pairs"]

PAIR, COUNTED, PIVOT_PROFILES = "alignment_pair", "alignment_counted", "alignment_pivot_profiles"
"""Arguments beside those of the model: ``[n]`` int64, the pair's number, negative for its pivot, 0 for a text that is
not aligned; ``[n, length]`` float32, 1 for a token of the profile; ``[n, n_layers, n_experts]`` float32."""

IGNORED = -100


class _Row(NamedTuple):
    """A text as token ids; labels, and which tokens are in its profile."""

    ids: list[int]
    labels: list[int]
    counted: list[bool]


@dataclass(frozen=True, kw_only=True)
class PairCollator:
    """Turns examples into one padded batch, in which every text and its pivot are rows.

    An example is a mapping with ``text``, and with ``pivot`` where it is to be aligned: strings, or lists of messages
    (mappings with ``role`` and ``content``) that the tokenizer's chat template formats. Of a string all tokens are
    learned; of messages the assistant's contents and the token that ends each. A profile has no padding, no special
    tokens, and of messages only the tokens that lie inside contents of ``roles``: neither role names nor what the
    template adds.

    A text or pivot that is longer than ``max_length`` is cut, and the pair is then learned but not aligned.

    Attributes:
        tokenizer: a fast tokenizer of transformers.
        max_length: most tokens of a row; None for no limit.
        learn_pivot: whether the pivot's texts are learned too; else they are only read.
        append_eos: end every string with the end-of-text token, which is learned: right for whole documents; after a
            prompt it teaches the model not to answer.
        roles: whose contents are in a profile.
        stored: a Run of the pivot, whose profiles take the place of ``pivot``; examples then have ``item``, its id in
            the Run, and no row of the pivot.
        stored_pivot: language of the Run that is the pivot.
        pad_to_multiple_of: of the length of a batch; None for the longest row.

    Raises:
        CorpusError: the tokenizer has no token to pad with, or tells nothing about where its tokens lie.
    """

    tokenizer: Any
    max_length: int | None = None
    learn_pivot: bool = True
    append_eos: bool = False
    roles: tuple[str, ...] = ("user", "assistant")
    stored: Run | None = None
    stored_pivot: str = "eng_Latn"
    pad_to_multiple_of: int | None = None

    def __post_init__(self) -> None:
        if not getattr(self.tokenizer, "is_fast", False):
            raise CorpusError("the tokenizer does not tell where its tokens lie; expected a fast one (use_fast=True)")
        if self.tokenizer.pad_token_id is None:
            raise CorpusError("the tokenizer has no pad token; set one: tokenizer.pad_token = tokenizer.eos_token")
        profiles = {}
        if self.stored is not None:
            ids, shares = (
                self.stored.manifest.item_ids,
                self.stored.load_items(self.stored_pivot, "profiles", slice(None)),
            )
            profiles = dict(zip(ids, shares.astype(np.float32), strict=True))
        object.__setattr__(self, "_profiles", profiles)

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Return ``input_ids``, ``attention_mask``, ``labels`` and the marks of the pairs.

        Raises:
            CorpusError: an example without text, or an item that the stored Run lacks.
        """
        rows: list[_Row] = []
        pairs: list[int] = []
        profiles: dict[int, Any] = {}
        for number, example in enumerate(examples, start=1):
            if "text" not in example:
                raise CorpusError(
                    f"an example has {', '.join(example) or 'nothing'}; expected text and pivot (a trainer removes "
                    "columns unless remove_unused_columns=False)"
                )
            whole, row = self._row(example["text"], learned=True)
            if self.stored is not None:
                profiles[len(rows)] = self._stored(example) if whole and "item" in example else None
                pairs.append(number if profiles[len(rows)] is not None else 0)
                rows.append(row)
                continue
            partner = None if example.get("pivot") is None else self._row(example["pivot"], learned=self.learn_pivot)
            aligned = whole and partner is not None and partner[0]
            pairs.append(number if aligned else 0)
            rows.append(row)
            if partner is not None:
                pairs.append(-number if aligned else 0)
                rows.append(partner[1])
        return self._padded(rows, pairs) | self._with_profiles(profiles)

    def _row(self, text: str | Sequence[Mapping[str, str]], *, learned: bool) -> tuple[bool, _Row]:
        """Tokenise one side; say whether it is whole and has a token to count."""
        row = self._of_string(text) if isinstance(text, str) else self._of_messages(text)
        whole = self.max_length is None or len(row.ids) <= self.max_length
        if not learned:
            row = row._replace(labels=[IGNORED] * len(row.ids))
        return whole and any(row.counted), _Row(*(part[: self.max_length] for part in row))  # type: ignore[arg-type]

    def _of_string(self, text: str) -> _Row:
        encoded = self.tokenizer(text, return_special_tokens_mask=True)
        ids, counted = list(encoded["input_ids"]), [not special for special in encoded["special_tokens_mask"]]
        end = self.tokenizer.eos_token_id
        if self.append_eos and end is not None and ids[-1:] != [end]:
            ids, counted = [*ids, end], [*counted, False]
        return _Row(ids, list(ids), counted)

    def _of_messages(self, messages: Sequence[Mapping[str, str]]) -> _Row:
        text = self.tokenizer.apply_chat_template(messages, tokenize=False)
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, at = list(encoded["input_ids"]), encoded["offset_mapping"]
        counted, labels, reached = [False] * len(ids), [IGNORED] * len(ids), 0
        special = set(self.tokenizer.all_special_ids)
        for message in messages:
            content = message["content"].strip()
            start = text.find(content, reached)
            if start < 0:
                raise CorpusError(
                    f"the chat template does not write the message {content[:40]!r} as it stands; expected contents "
                    "inside the formatted text, without which roles cannot be left out of a profile"
                )
            reached = start + len(content)
            inside = [place for place, (a, b) in enumerate(at) if start <= a < b <= reached]
            for place in inside:
                counted[place] = message["role"] in self.roles and ids[place] not in special
            if message["role"] == "assistant" and inside:
                for place in range(inside[0], min(inside[-1] + 2, len(ids))):
                    labels[place] = ids[place]
        return _Row(ids, labels, counted)

    def _padded(self, rows: Sequence[_Row], pairs: Sequence[int]) -> dict[str, torch.Tensor]:
        length, multiple = max(len(row.ids) for row in rows), self.pad_to_multiple_of or 1
        shape = len(rows), -(-length // multiple) * multiple
        input_ids = torch.full(shape, self.tokenizer.pad_token_id)
        labels, mask, counted = torch.full(shape, IGNORED), torch.zeros(shape, dtype=torch.int64), torch.zeros(shape)
        for place, row in enumerate(rows):
            n = len(row.ids)
            input_ids[place, :n], labels[place, :n] = torch.tensor(row.ids), torch.tensor(row.labels)
            mask[place, :n], counted[place, :n] = 1, torch.tensor(row.counted, dtype=torch.float32)
        return {
            "input_ids": input_ids,
            "attention_mask": mask,
            "labels": labels,
            PAIR: torch.tensor(pairs),
            COUNTED: counted,
        }

    def _stored(self, example: Mapping[str, Any]) -> Any:  # noqa: ANN401 - an array of one item
        profiles: dict[str, Any] = self._profiles  # type: ignore[attr-defined]
        if example["item"] not in profiles:
            raise CorpusError(
                f"the stored Run has no item {example['item']!r}; it has {len(profiles)}, such as "
                f"{next(iter(profiles))!r}: capture the pivot of these examples"
            )
        return profiles[example["item"]]

    def _with_profiles(self, profiles: Mapping[int, Any]) -> dict[str, torch.Tensor]:
        if not profiles:
            return {}
        example = next(iter(self._profiles.values()))  # type: ignore[attr-defined]
        rows = [
            np.zeros_like(example) if profiles[place] is None else profiles[place] for place in range(len(profiles))
        ]
        return {PIVOT_PROFILES: torch.from_numpy(np.stack(rows))}


def label_tokens(labels: torch.Tensor) -> torch.Tensor:
    """Count the tokens of every row ``[n, length]`` that a causal language model's loss predicts: ``[n]``."""
    return (labels[:, 1:] != IGNORED).sum(1)


def rows_of_pairs(pair: torch.Tensor, *, with_pivot: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the rows of the aligned texts, and of their pivots in the same order (none without pivots).

    Raises:
        RunError: a pair has lost one of its rows.
    """
    texts = torch.nonzero(pair > 0).flatten()
    texts = texts[pair[texts].argsort()]
    if not with_pivot:
        return texts, texts[:0]
    pivots = torch.nonzero(pair < 0).flatten()
    pivots = pivots[(-pair[pivots]).argsort()]
    if not torch.equal(pair[texts], -pair[pivots]):
        raise RunError(
            f"{len(texts)} texts and {len(pivots)} pivots are in the batch, and not of the same pairs; expected both "
            "rows of a pair in one batch: let nothing divide a collated batch (accelerate: dispatch_batches=False; "
            "stored pivots: pivot='stored')"
        )
    return texts, pivots
