"""Capture and steering against the ways they replace, as ratios of medians within one run.

Every comparison alternates its two sides, so a machine that slows down slows both. Run by `make bench`.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import platform
import resource
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch

from isogloss.backends.huggingface import CaptureOptions, LoadedModel, capture, load_model, steer
from isogloss.organism.shipped import model_folder, problem_corpus, scene_corpus
from isogloss.steering import Intervention, Plan
from timing import alternating_times

Batches: TypeAlias = list[dict[str, torch.Tensor]]

ROUNDS = 7
BATCH_TOKENS = 4096


def mixed_lengths() -> list[str]:
    """Texts from one sentence to about 200 tokens, in shuffled order."""
    scenes, problems = scene_corpus(120), problem_corpus(120)
    texts = []
    for i in range(120):
        language = scenes.languages[i % 14]
        texts.append(" ".join(scenes.texts[language][i : i + 1 + (i % 7 == 0) * 8]))
        texts.append(problems.texts[language][i])
    return [texts[i] for i in np.random.default_rng(0).permutation(len(texts))]


def batches(loaded: LoadedModel, texts: list[str]) -> Batches:
    """Padded batches sorted by length, within the same budget as capture's, tokenised before the clock starts."""
    lengths = [len(loaded.tokenizer(text)["input_ids"]) for text in texts]
    order = sorted(range(len(texts)), key=lambda i: -lengths[i])
    found, start = [], 0
    while start < len(order):
        size = max(1, BATCH_TOKENS // lengths[order[start]])
        part = [texts[i] for i in order[start : start + size]]
        found.append(dict(loaded.tokenizer(part, return_tensors="pt", padding=True, padding_side="right")))
        start += size
    return found


@torch.inference_mode()
def plain_forward(loaded: LoadedModel, prepared: Batches) -> None:
    """The model with its language-model head on padded batches, and nothing else."""
    for batch in prepared:
        loaded.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)


@torch.inference_mode()
def library_logits(loaded: LoadedModel, prepared: Batches) -> None:
    """``output_router_logits=True`` on the same batches, then the softmax mean per text."""
    for batch in prepared:
        mask = batch["attention_mask"].unsqueeze(-1)
        output = loaded.model(**batch, use_cache=False, output_router_logits=True)
        for logits in output.router_logits:
            probabilities = logits.float().softmax(-1).view(*batch["input_ids"].shape, -1)
            (probabilities * mask).sum(1) / mask.sum(1)


@torch.inference_mode()
def one_at_a_time(loaded: LoadedModel, alone: Batches) -> None:
    """As published scripts do: each text alone with head, router logits kept, then reduced."""
    for text in alone:
        output = loaded.model(**text, use_cache=False, output_router_logits=True)
        for logits in output.router_logits:
            probabilities = logits.float().softmax(-1)
            probabilities.mean(0)
            torch.bincount(probabilities.topk(4).indices.flatten(), minlength=32)


def ratio(name: str, ours: Callable[[], object], other: Callable[[], object]) -> str:
    """Time both sides in turn; give the ratio of their medians and the range over rounds as a table row."""
    ours(), other()
    pairs = alternating_times(ours, other, ROUNDS)
    medians = [statistics.median(side) for side in zip(*pairs, strict=True)]
    rounds = [a / b for a, b in pairs]
    spread = f"{min(rounds):.2f}-{max(rounds):.2f}"
    return f"| {name} | {medians[0] * 1e3:.0f} | {medians[1] * 1e3:.0f} | {medians[0] / medians[1]:.3f} | {spread} |"


def generation(loaded: LoadedModel, plan: Plan | None) -> None:
    """Answer 64 word problems greedily, 16 tokens each."""
    prompts = [text.split("\n")[0] + "\n" for text in problem_corpus(64).texts["eng_Latn"]]
    batch = loaded.tokenizer(prompts, return_tensors="pt", padding=True)
    with steer(loaded, plan) if plan else nullcontext():
        loaded.model.generate(**batch, max_new_tokens=16, min_new_tokens=16, do_sample=False)


def peak_memory(n_copies: int) -> int:
    """Peak resident MiB of a fresh process that captures the texts ``n_copies`` times over."""
    torch.set_num_threads(1)
    texts = mixed_lengths() * n_copies
    ids = [str(i) for i in range(len(texts))]
    capture(
        load_model(str(model_folder()), dtype="float32"), texts, ids, options=CaptureOptions(batch_tokens=BATCH_TOKENS)
    )
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def fresh(function: Callable[[int], int], argument: int) -> int:
    """Call a function in a process of its own."""
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, argument).result()


def measurements() -> Iterator[str]:
    """Yield the lines of docs/performance.md as they are measured."""
    loaded = load_model(str(model_folder()), dtype="float32")
    texts = mixed_lengths()
    ids = [str(i) for i in range(len(texts))]
    options = CaptureOptions(batch_tokens=BATCH_TOKENS)
    layers = range(3, 9)
    plan = Plan(loaded.fingerprint(), tuple(Intervention("soft", layer, (1, 5, 9), strength=0.5) for layer in layers))
    versions = ", ".join(f"{name} {version(name)}" for name in ("isogloss", "torch", "transformers"))
    yield "# Performance\n\nWritten by `make bench`. Pages of their own: the"
    yield "[analysis](performance-analysis.md), [serving](performance-serving.md) (no GPU was at hand).\n"
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    yield f"{machine}, Python {platform.python_version()}, {versions}."
    yield f"The organism in float32, {len(texts)} texts of mixed lengths; the other side is tokenised beforehand."
    yield f"Medians of {ROUNDS} alternating rounds, in milliseconds.\n"
    yield "| Comparison | ours | other | ratio | rounds |\n|---|---|---|---|---|"

    prepared = batches(loaded, texts)
    alone = [dict(loaded.tokenizer(text, return_tensors="pt")) for text in texts]

    def ours() -> None:
        capture(loaded, texts, ids, options=options)

    yield ratio("capture / plain forward with head", ours, lambda: plain_forward(loaded, prepared))
    yield ratio("capture / `output_router_logits=True`", ours, lambda: library_logits(loaded, prepared))
    yield ratio("capture / one text at a time, as published scripts do", ours, lambda: one_at_a_time(loaded, alone))
    steered, plain = (partial(generation, loaded, active) for active in (plan, None))
    yield ratio("steered / unsteered generation, soft in 6 of 12 layers", steered, plain)
    small, large = fresh(peak_memory, 1), fresh(peak_memory, 8)
    yield f"\nPeak memory of a capture: {small} MiB for {len(texts)} texts, {large} MiB for {8 * len(texts)}."


def main() -> None:
    """Print the measurements, and write them to the file that the first argument names."""
    lines = []
    for line in measurements():
        print(line, flush=True)
        lines.append(line)
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
