"""Small Runs that count choices by token, made from lists of tokens and their experts by plain loops."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
from run_examples import EXPERTS, LAYERS, MANIFEST

from isogloss.files import sha256
from isogloss.runs import LanguageRouting, Run, RunWriter, TokenCounts

Item = list[tuple[int, list[list[int]]]]
"""Token ids of one text, each with the experts that it chose in every layer."""


def counts_of(items: list[Item], texts: dict[int, bytes]) -> TokenCounts:
    """Count choices by layer, token and expert."""
    vocabulary = sorted({token for item in items for token, _ in item})
    by_item = [Counter(token for token, _ in item) for item in items]
    choices = Counter(
        (layer, token, expert)
        for item in items
        for token, layers in item
        for layer, experts in enumerate(layers)
        for expert in experts
    )
    found = sorted(choices)
    ends = [
        [sum((at, each) <= (layer, token) for at, each, _ in found) for token in vocabulary]
        for layer in range(len(LAYERS))
    ]
    named = [texts.get(token, f"t{token}".encode()) for token in vocabulary]
    return TokenCounts(
        np.frombuffer(b"".join(named), dtype=np.uint8),
        np.cumsum([len(each) for each in named]),
        np.array([sum(token in each for each in by_item) for token in vocabulary], dtype=np.int32),
        np.array([sum(each[token] ** 2 for each in by_item) for token in vocabulary]),
        np.array(ends),
        np.array([expert for _, _, expert in found], dtype=np.uint16),
        np.array([choices[each] for each in found], dtype=np.int32),
    )


def routing_of(items: list[Item], texts: dict[int, bytes]) -> LanguageRouting:
    """The routing of some texts; profiles are the shares of choices."""
    tokens = np.array([len(item) for item in items], dtype=np.int32)
    selections = np.zeros((len(items), len(LAYERS), EXPERTS), dtype=np.int32)
    for place, item in enumerate(items):
        for _, layers in item:
            for layer, experts in enumerate(layers):
                selections[place, layer, experts] += 1
    counted = Counter(token for item in items for token, _ in item)
    unknown = np.ones((len(items), len(LAYERS)), dtype=np.float32)
    return LanguageRouting(
        (selections / selections.sum(2, keepdims=True)).astype(np.float32),
        selections,
        tokens,
        unknown,
        unknown,
        vocabulary=np.array(sorted(counted), dtype=np.int32),
        vocabulary_counts=np.array([counted[token] for token in sorted(counted)], dtype=np.int32),
        token_counts=counts_of(items, texts),
    )


def draw_items(seed: int, *, n_items: int = 12, n_types: int = 9, longest: int = 20) -> list[Item]:
    """Draw texts whose tokens choose two experts by chance, but token 3, which always chooses expert 4 in layer 1."""
    random = np.random.default_rng(seed)
    items = []
    for _ in range(n_items):
        ids = random.integers(0, n_types, random.integers(1, longest)).tolist()
        item = [(token, [random.permutation(EXPERTS)[:2].tolist() for _ in LAYERS]) for token in ids]
        for token, layers in item:
            if token == 3 and 4 not in layers[0]:
                layers[0][0] = 4
        items.append(item)
    return items


def write_counted(path: Path, languages: dict[str, list[Item]], texts: dict[int, bytes] | None = None) -> Run:
    """Write a Run of such texts."""
    n_items = len(next(iter(languages.values())))
    ids = tuple(map(str, range(n_items)))
    writer = RunWriter(path, replace(MANIFEST, token_counts=True, item_ids=ids))
    for code, items in languages.items():
        writer.write(code, routing_of(items, texts or {}), sha256(code.encode()))
    return writer.finish()
