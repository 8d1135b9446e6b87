"""Simulated routing whose answers are known: what a method finds in it can be compared with what was planted.

Runs are written by the writer that captures use, so every analysis reads them as it reads a capture. Researchers plan
with it too: give a world the size of a study, and see how many items an interval of the wanted width needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from zlib import crc32

import numpy as np

from isogloss.analysis.divergence import divergence
from isogloss.analysis.groups import selection_rates
from isogloss.arrays import BoolArray, FloatArray, Int32Array
from isogloss.errors import LanguageError
from isogloss.files import sha256
from isogloss.languages import resolve
from isogloss.routing import RouterSpec, entropy
from isogloss.runs import LanguageRouting, Manifest, Run, RunWriter
from known_answers.worlds import LEAST_TOKENS, SimulatedLanguage, SimulatedWorld

__all__ = ["Truth", "draw_routing", "simulate_run", "simulate_task_run", "truth"]

PAIRED_TOKENS = 64
VOCABULARY = 4000
TRUTH_BLOCK = 250
"""Items drawn at a time: tens of megabytes."""


@dataclass(frozen=True, eq=False)
class _Items:
    """What the languages of an item share.

    Attributes:
        lengths: ``[n_items]``, around 1.
        topics: ``[n_items, n_layers, n_experts]``.
        moods: ``[n_items, n_planted]``, -1 to 1.
    """

    lengths: FloatArray
    topics: FloatArray
    moods: FloatArray


def _stream(world: SimulatedWorld, *parts: str | int) -> np.random.Generator:
    """Give the stream of one part of the draw, so that no part depends on which others are drawn."""
    return np.random.default_rng([world.seed, *(crc32(p.encode()) if isinstance(p, str) else p for p in parts)])


def _renumbered(world: SimulatedWorld, values: FloatArray) -> FloatArray:
    """Give every layer the same values under its own numbering of experts: ``[n_layers, n_experts]``."""
    orders = _stream(world, "numbering").permuted(np.tile(np.arange(world.n_experts), (world.n_layers, 1)), axis=1)
    return np.asarray(values[orders])


def _voice(world: SimulatedWorld, language: SimulatedLanguage) -> FloatArray:
    """Draw what is a language's own, with mean 0 and standard deviation 1 over experts."""
    voice = _stream(world, "voice", language.code).normal(size=world.n_experts)
    if language.family is not None:
        shared = _stream(world, "family", language.family).normal(size=world.n_experts)
        voice = np.sqrt(world.kinship) * shared + np.sqrt(1 - world.kinship) * voice
    return np.asarray((voice - voice.mean()) / voice.std())


def _language_logits(world: SimulatedWorld, language: SimulatedLanguage) -> FloatArray:
    """Return the part of the logits that does not depend on the item, ``[n_layers, n_experts]``."""
    base = _renumbered(world, world.peak * _stream(world, "base").normal(size=world.n_experts))
    voice = _renumbered(world, _voice(world, language))
    return np.asarray(base + language.distance * world.strengths()[:, None] * voice)


def _items(world: SimulatedWorld, corpus: str, draw: int) -> _Items:
    generator = _stream(world, "items", corpus, draw)
    return _Items(
        lengths=generator.uniform(0.6, 1.4, size=world.n_items),
        topics=world.topic * generator.normal(size=(world.n_items, world.n_layers, world.n_experts)),
        moods=generator.uniform(-1.0, 1.0, size=(world.n_items, len(world.planted))),
    )


def _plant(odds: FloatArray, experts: dict[int, FloatArray], generator: np.random.Generator) -> None:
    """Put each planted expert above all others with its token's probability, and else below them, in place."""
    others = np.delete(odds, list(experts), axis=1)
    most, least = np.e * others.max(axis=1), others.min(axis=1) / np.e
    for expert, probability in experts.items():
        odds[:, expert] = np.where(generator.random(len(odds)) < probability, most, least)


def _mean_jaccard(chosen: BoolArray, starts: Int32Array, tokens: Int32Array, top_k: int) -> FloatArray:
    """Return per item the mean Jaccard similarity over pairs of its first 64 tokens (they are exchangeable)."""
    width = min(PAIRED_TOKENS, int(tokens.max()))
    place = np.arange(width)
    there = place < tokens[:, None]
    rows = np.minimum(starts[:, None] + place, len(chosen) - 1)
    sets = (chosen[rows] & there[:, :, None]).astype(np.float32)
    shared = sets @ sets.transpose(0, 2, 1)
    # Absent tokens share nothing; the diagonal holds one per token that is there.
    total = (shared / (2 * top_k - shared)).sum(axis=(1, 2), dtype=np.float64)
    counted = there.sum(axis=1)
    return np.asarray((total - counted) / (counted * (counted - 1)))


def _route_layer(
    odds: FloatArray, starts: Int32Array, tokens: Int32Array, top_k: int
) -> tuple[FloatArray, Int32Array, FloatArray]:
    """Turn the odds of tokens, ``[n_tokens, n_experts]``, into profiles, selections and consistency per item."""
    shares = odds / odds.sum(axis=1, keepdims=True)
    profiles = np.add.reduceat(shares, starts, axis=0, dtype=np.float64) / tokens[:, None]
    chosen = np.zeros(odds.shape, dtype=bool)
    np.put_along_axis(chosen, np.argpartition(odds, -top_k, axis=1)[:, -top_k:], values=True, axis=1)
    selections = np.add.reduceat(chosen, starts, axis=0, dtype=np.int32)
    return profiles, selections, _mean_jaccard(chosen, starts, tokens, top_k)


def _token_odds(
    world: SimulatedWorld, language: SimulatedLanguage, *, corpus: str, draw: int, task: bool
) -> tuple[Int32Array, Iterator[FloatArray]]:
    """Return tokens per item, and layer by layer the exponentials of every token's router logits."""
    items = _items(world, corpus, draw)
    generator = _stream(world, "tokens", corpus, draw, language.code)
    tokens = np.maximum(LEAST_TOKENS, np.rint(world.tokens * language.fertility * items.lengths)).astype(np.int32)
    owner = np.repeat(np.arange(world.n_items), tokens)
    fixed = _language_logits(world, language)

    def layers() -> Iterator[FloatArray]:
        for layer in range(world.n_layers):
            means = np.exp(fixed[layer] + items.topics[:, layer]).astype(np.float32)
            # exp(logit + Gumbel) = exp(logit) / Exponential; the floor keeps a division by zero out.
            noise = generator.standard_exponential((len(owner), world.n_experts), dtype=np.float32)
            odds = means[owner] / np.maximum(noise, np.float32(1e-12))
            experts = {}
            for place, expert in enumerate(world.planted):
                if expert.layer == layer:
                    mean = expert.rate_in(language.code, task=task)
                    reach = world.spread * min(mean, 1 - mean)
                    experts[expert.expert] = (mean + reach * items.moods[:, place])[owner]
            if experts:
                _plant(odds, experts, generator)
            yield odds

    return tokens, layers()


def _token_ids(
    world: SimulatedWorld, language: SimulatedLanguage, n_tokens: int, stream: tuple[str, int]
) -> Int32Array:
    """Draw token ids, low ones often; each language has its own range besides the pivot's."""
    generator = _stream(world, "vocabulary", *stream, language.code)
    ids = (VOCABULARY * generator.random(n_tokens) ** 3).astype(np.int32)
    own = generator.random(n_tokens) >= world.shared_tokens
    return np.asarray(ids + VOCABULARY * world.codes.index(language.code) * own, dtype=np.int32)


def draw_routing(
    world: SimulatedWorld, language: str, *, corpus: str = "simulated", draw: int = 0, task: bool = False
) -> LanguageRouting:
    """Draw the routing of one language in memory, the same whichever other languages are drawn.

    Another name of the ``corpus`` or number of the ``draw`` gives other items; ``task`` plants the rates of task text.

    Raises:
        LanguageError: the world has no such language.
    """
    code = resolve(language)
    if code not in world.codes:
        raise LanguageError(f"{code} is not in this world; it has {', '.join(world.codes)}")
    known = world.languages[world.codes.index(code)]
    tokens, layers = _token_odds(world, known, corpus=corpus, draw=draw, task=task)
    starts = np.concatenate([[0], np.cumsum(tokens)[:-1]])
    parts = [_route_layer(odds, starts, tokens, world.top_k) for odds in layers]
    profiles, selections, consistency = (np.stack(part, axis=1) for part in zip(*parts, strict=True))
    ids = _token_ids(world, known, int(tokens.sum()), (corpus, draw))
    vocabulary, counts = np.unique(ids, return_counts=True)
    return LanguageRouting(
        profiles=profiles.astype(np.float32),
        selections=selections.astype(np.int32),
        tokens=tokens,
        consistency=consistency.astype(np.float32),
        entropy=entropy(profiles).astype(np.float32),
        vocabulary=vocabulary,
        vocabulary_counts=counts.astype(np.int32),
    )


def _manifest(world: SimulatedWorld, corpus: str, draw: int) -> Manifest:
    return Manifest(
        model="simulated",
        revision=None,
        config_sha256=sha256(repr(world).encode()),
        fingerprint=None,
        routers=tuple(RouterSpec(layer, world.n_experts, world.top_k) for layer in range(world.n_layers)),
        corpus={"name": corpus, "source": __name__, "licence": "none"},
        granularity="items",
        item_ids=tuple(f"{draw}.{number}" for number in range(world.n_items)),
        token_scope="content",
        backend="simulation",
        dtype="float32",
        seed=world.seed,
        packages={"numpy": np.__version__},
        notes=("simulated routing, without a model or a text",),
    )


def _write(path: str | Path, world: SimulatedWorld, *, corpus: str, draw: int, task: bool) -> Run:
    writer = RunWriter(path, _manifest(world, corpus, draw))
    codes = (world.pivot,) if task else world.codes
    for code in sorted(set(codes) - writer.done):
        routing = draw_routing(world, code, corpus=corpus, draw=draw, task=task)
        writer.write(code, routing, sha256(f"{corpus} {draw} {code}".encode()))
    return writer.finish()


def simulate_run(world: SimulatedWorld, path: str | Path, *, corpus: str = "simulated", draw: int = 0) -> Run:
    """Draw generic text in all languages of a world; equal arguments give equal bytes.

    Another name of the ``corpus`` or number of the ``draw`` gives other items of the same world.

    Raises:
        RunError: the folder holds something else.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     simulate_run(SimulatedWorld(n_items=5), folder).languages
        ('deu_Latn', 'eng_Latn', 'swh_Latn', 'tel_Telu')
    """
    return _write(path, world, corpus=corpus, draw=draw, task=False)


def simulate_task_run(world: SimulatedWorld, path: str | Path, *, corpus: str = "simulated task", draw: int = 0) -> Run:
    """Draw task text in the pivot language: other items, and the planted task experts at their rate in task text.

    Arguments, result and errors are those of `simulate_run`.
    """
    return _write(path, world, corpus=corpus, draw=draw, task=True)


@dataclass(frozen=True, eq=False)
class Truth:
    """Population values of a world; arrays are ``[n_layers]`` by language unless stated otherwise.

    Attributes:
        divergence: from the pivot, by non-pivot language: the mean over the population of items of the divergence of
            an item's two profiles at the world's tokens per item. It is what the mean over items of a Run estimates
            without bias. Two profiles of finitely many tokens differ even where the languages are routed alike, so it
            is above zero also there.
        entropy: of an item's profile, nats, likewise.
        consistency: of an item, likewise.
        rates: selection rate, ``[n_layers, n_experts]``; exact for planted experts.
        divergence_error: standard error of ``divergence``, which is a mean over ``n_items`` drawn items.
        middle: first and last layer of the planted middle, inclusive.
        depth: mean of the outer layers minus mean of the middle ones, of the mean divergence over languages; NaN where
            the middle is everything or no language is compared.
        n_items: drawn for it.
    """

    divergence: dict[str, FloatArray]
    entropy: dict[str, FloatArray]
    consistency: dict[str, FloatArray]
    rates: dict[str, FloatArray]
    divergence_error: dict[str, FloatArray]
    middle: tuple[int, int]
    depth: float
    n_items: int

    def difference(self, language: str, pivot: str) -> FloatArray:
        """Give the difference of selection rates, ``[n_layers, n_experts]``."""
        return np.asarray(self.rates[language] - self.rates[pivot])


def _block(world: SimulatedWorld, draw: int) -> dict[str, dict[str, FloatArray]]:
    """Draw items of all languages and sum over them, by measure and language."""
    drawn = {code: draw_routing(world, code, corpus="population", draw=draw) for code in world.codes}
    pivot = drawn[world.pivot].profiles
    apart = {code: divergence(pivot, drawn[code].profiles) for code in world.codes[1:]}
    records: dict[str, dict[str, FloatArray]] = {
        "divergence": {**apart},
        "squares": {code: values**2 for code, values in apart.items()},
        "entropy": {code: routing.entropy for code, routing in drawn.items()},
        "consistency": {code: routing.consistency for code, routing in drawn.items()},
        "rates": {code: selection_rates(routing.selections, routing.tokens) for code, routing in drawn.items()},
    }
    return {
        measure: {code: values.sum(axis=0, dtype=np.float64) for code, values in by_language.items()}
        for measure, by_language in records.items()
    }


def _depth(curve: FloatArray, middle: tuple[int, int]) -> float:
    inside = np.zeros(len(curve), dtype=bool)
    inside[middle[0] : middle[1] + 1] = True
    return float(curve[~inside].mean() - curve[inside].mean()) if not inside.all() else float("nan")


def truth(world: SimulatedWorld, *, n_items: int = 5000) -> Truth:
    """Compute the population values of a world: by drawing many items, and exactly where something is planted.

    ``n_items`` is rounded up to whole blocks of 250, which no Run contains; the world's own number of items does not
    matter, its tokens per item do.
    """
    n_blocks = -(-n_items // TRUTH_BLOCK)
    total = n_blocks * TRUTH_BLOCK
    means = _block(replace(world, n_items=TRUTH_BLOCK), 0)
    for number in range(1, n_blocks):
        for measure, by_language in _block(replace(world, n_items=TRUTH_BLOCK), number).items():
            for code, values in by_language.items():
                means[measure][code] += values
    means = {measure: {code: sums / total for code, sums in each.items()} for measure, each in means.items()}
    for expert in world.planted:
        for code, rates in means["rates"].items():
            rates[expert.layer, expert.expert] = expert.rate_in(code)
    squares, curves = means.pop("squares"), means["divergence"]
    return Truth(
        **means,
        divergence_error={code: np.sqrt((squares[code] - curve**2) / total) for code, curve in curves.items()},
        middle=world.middle,
        depth=_depth(np.mean(list(curves.values()), axis=0), world.middle) if curves else float("nan"),
        n_items=total,
    )
