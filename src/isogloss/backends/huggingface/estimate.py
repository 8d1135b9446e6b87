"""What a capture will take: time, memory, and the size of its Run, from a short measurement."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from dataclasses import dataclass

import numpy as np
import torch

from isogloss.backends.capture_options import CaptureOptions
from isogloss.backends.checks import PROBE_IDS, PROBE_TEXTS
from isogloss.backends.huggingface.loading import LoadedModel, computing
from isogloss.corpora import Corpus

__all__ = ["Load", "Speed", "count_corpus", "estimate_capture", "measure_speed", "run_bytes", "weight_bytes"]

_TOKENS_ON_CPU = 1024
_TOKENS_ON_GPU = 8192  # a batch of capture
_REPEATS = 3
_SAMPLED_ITEMS = 200
_MILLION = 1_000_000
_GIB = 2**30


@dataclass(frozen=True)
class Speed:
    """How fast a capture runs.

    Attributes:
        tokens_per_second: median over the timed batches.
        n_tokens: of a timed batch.
        peak_bytes: most memory that this process, or its share of all GPUs, has held; the weights are part of it.
    """

    tokens_per_second: float
    n_tokens: int
    peak_bytes: int


@dataclass(frozen=True)
class Load:
    """What is to be captured.

    Attributes:
        name: of the corpus.
        n_texts: items of all languages.
        n_tokens: of all of them, special tokens included; where only some items were counted, scaled up.
    """

    name: str
    n_texts: int
    n_tokens: int


@computing
def estimate_capture(loaded: LoadedModel, corpus: Corpus | None) -> str:
    """Describe what capturing a corpus, or a million tokens of texts like the probes, will take.

    Raises:
        CorpusError: a text of the corpus cannot be captured; see `isogloss.backends.model.Model.require_room`.
    """
    if corpus is not None:
        loaded.require_room(corpus, CaptureOptions())
    speed = measure_speed(loaded)
    per_text = speed.n_tokens / _n_probe_texts(loaded)
    load = (
        count_corpus(loaded, corpus) if corpus else Load("texts like the probes", round(_MILLION / per_text), _MILLION)
    )
    minutes = load.n_tokens / speed.tokens_per_second / 60
    return (
        f"{speed.tokens_per_second:,.0f} tokens per second on {loaded.device} in batches of {speed.n_tokens:,}; peak "
        f"memory {_number(speed.peak_bytes / _GIB)} GiB, of which weights {_number(weight_bytes(loaded) / _GIB)} GiB; "
        f"capturing {load.name} ({load.n_texts:,} texts, {load.n_tokens:,} tokens) takes about {_number(minutes)} "
        f"minutes and {_number(run_bytes(loaded, load.n_texts) / _GIB)} GiB on disk"
    )


def measure_speed(loaded: LoadedModel) -> Speed:
    """Time captures of one batch of probe texts after a warm-up."""
    copies = _n_probe_texts(loaded) // len(PROBE_TEXTS)
    texts, ids = PROBE_TEXTS * copies, [f"{name}-{copy}" for copy in range(copies) for name in PROBE_IDS]
    options = CaptureOptions(token_scope="all", batch_tokens=_batch_tokens(loaded))
    seconds = []
    for _ in range(1 + _REPEATS):
        start = time.perf_counter()
        n_tokens = int(loaded.capture(texts, ids, options=options).tokens.sum())
        seconds.append(time.perf_counter() - start)
    return Speed(n_tokens / statistics.median(seconds[1:]), n_tokens, _peak_bytes(loaded.device))


def _batch_tokens(loaded: LoadedModel) -> int:
    return _TOKENS_ON_CPU if loaded.device.type == "cpu" else _TOKENS_ON_GPU


def _n_probe_texts(loaded: LoadedModel) -> int:
    """Texts that fill one batch, each probe text equally often, and each at least once."""
    longest = max(len(ids) for ids in loaded.tokenizer(list(PROBE_TEXTS))["input_ids"])
    return max(1, _batch_tokens(loaded) // longest // len(PROBE_TEXTS)) * len(PROBE_TEXTS)


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return sum(torch.cuda.max_memory_allocated(index) for index in range(torch.cuda.device_count()))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes there, KiB elsewhere


def count_corpus(loaded: LoadedModel, corpus: Corpus) -> Load:
    """Count a corpus in the model's own tokens, at most 200 items of each language, drawn from a fixed seed."""
    n_items = len(corpus.item_ids)
    # Drawn and not every n-th: corpora that repeat a pattern of short and long items are common.
    positions = np.random.default_rng(0).permutation(n_items)[:_SAMPLED_ITEMS]
    n_tokens = 0.0
    for texts in corpus.texts.values():
        encoded = loaded.tokenizer([texts[position] for position in positions])["input_ids"]
        n_tokens += sum(map(len, encoded)) * n_items / len(positions)
    return Load(corpus.name, n_items * len(corpus.texts), round(n_tokens))


def run_bytes(loaded: LoadedModel, n_texts: int) -> int:
    """Size of a Run's arrays without those that must be asked for: four per layer, and tokens."""
    per_layer = 4 * (2 * loaded.routers[0].n_experts + 2)
    return n_texts * (len(loaded.routers) * per_layer + 4)


def weight_bytes(loaded: LoadedModel) -> int:
    """Size of all parameters and buffers, wherever they lie."""
    tensors = (*loaded.model.parameters(), *loaded.model.buffers())
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _number(value: float) -> str:
    """Write a size or a time with two digits that count, and whole from 100."""
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f}" if value >= 1 else f"{value:.2g}"  # noqa: PLR2004
