"""Small valid Runs for tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from isogloss.routing import Fingerprint, RouterSpec
from isogloss.runs import LanguageRouting, Manifest, Run, RunWriter

LANGUAGES = ("deu_Latn", "eng_Latn", "swh_Latn", "zho_Hans")
ITEMS, LAYERS, EXPERTS, TOP_K = 3, (1, 3), 6, 2

MANIFEST = Manifest(
    model="example/model",
    revision="0" * 40,
    config_sha256="a" * 64,
    fingerprint=Fingerprint("olmoe", LAYERS, EXPERTS, TOP_K, "b" * 64),
    routers=tuple(RouterSpec(layer, EXPERTS, TOP_K) for layer in LAYERS),
    corpus={"name": "example", "source": "test", "licence": "CC0-1.0"},
    granularity="items",
    item_ids=("1", "2", "düo"),
    token_scope="content",
    backend="huggingface",
    dtype="float32",
    seed=0,
    packages={"torch": "2.6"},
)


def routing(seed: int) -> LanguageRouting:
    """Draw routing that keeps the laws of a Run."""
    random = np.random.default_rng(seed)
    tokens = random.integers(1, 9, ITEMS).astype(np.int32)
    profiles = random.dirichlet(np.ones(EXPERTS), (ITEMS, len(LAYERS))).astype(np.float32)
    selections = np.zeros((ITEMS, len(LAYERS), EXPERTS), dtype=np.int32)
    for item, layer in np.ndindex(ITEMS, len(LAYERS)):
        for _ in range(tokens[item]):
            selections[item, layer, random.permutation(EXPERTS)[:TOP_K]] += 1
    consistency = random.random((ITEMS, len(LAYERS)), dtype=np.float32)
    consistency[0] = np.nan
    return LanguageRouting(profiles, selections, tokens, consistency, np.ones_like(consistency))


WITH_OPTIONS = replace(MANIFEST, phase="generation", new_tokens=8, distinct_from="eng_Latn", hidden_size=5)


def routing_with_options(seed: int) -> LanguageRouting:
    """Draw routing with every array that a Run need not have; its last item has no distinct token."""
    plain, random = routing(seed), np.random.default_rng(seed + 1000)
    counts = random.multinomial(plain.tokens.sum() - 3, [1 / 3] * 3) + 1
    distinct = random.integers(1, plain.tokens + 1).astype(np.int32)
    distinct[-1] = 0
    profiles = random.dirichlet(np.ones(EXPERTS), (ITEMS, len(LAYERS))).astype(np.float32)
    profiles[-1] = 0
    return replace(
        plain,
        vocabulary=np.int32([3, 5, 8]),
        vocabulary_counts=counts.astype(np.int32),
        distinct_profiles=profiles,
        distinct_tokens=distinct,
        hidden=random.normal(size=(ITEMS, len(LAYERS), 5)).astype(np.float32),
    )


def digest(language: str) -> str:
    """Stand in for the hash of a language's texts."""
    return f"{LANGUAGES.index(language):064x}"


def write(path: Path, languages=LANGUAGES, manifest: Manifest = MANIFEST, *, seed: int = 0, finish: bool = True) -> Run:
    """Write a Run, or continue one; equal arguments give equal routing per language."""
    writer = RunWriter(path, manifest)
    for language in languages:
        if language not in writer.done:
            writer.write(language, routing(seed + LANGUAGES.index(language)), digest(language))
    return writer.finish() if finish else Run(path, writer.manifest)


def with_notes(*notes: str) -> Manifest:
    """Return the example's manifest with notes."""
    return replace(MANIFEST, notes=notes)


def drawn_manifest(routers, n_items: int, **fields) -> Manifest:
    """The manifest of routing that a test draws: items are numbered, and no model is behind it."""
    items = tuple(map(str, range(n_items)))
    corpus = {"name": "drawn", "source": "drawn", "licence": "none"}
    made = {"model": "drawn", "revision": None, "fingerprint": None, "corpus": corpus, "backend": "none", **fields}
    return replace(MANIFEST, routers=tuple(routers), item_ids=items, **made)
