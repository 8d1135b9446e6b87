"""Capture and steering against the ways they replace, as ratios of medians within one run.

Every comparison alternates its two sides, so a machine that slows down slows both. Run by `make bench`, or for one part
of the page by `bench.py PAGE HEADING`, which leaves the other parts as they are.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import platform
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch

from isogloss.backends.capture_options import CaptureOptions
from isogloss.backends.huggingface import HuggingFaceModel, load_model, steer
from isogloss.organism.shipped import model_folder, problem_corpus, scene_corpus
from isogloss.runs import LanguageRouting
from isogloss.steering import Intervention, Plan
from learning import learning_cost
from operations import added_operations
from timing import alternating_times, ratio_of

Batches: TypeAlias = list[dict[str, torch.Tensor]]

HEAD = """# Performance

Written by `make bench`. Pages of their own: the
[analysis](performance-analysis.md), [serving](performance-serving.md) (no GPU was available).

Nothing here was measured on a GPU. Where there is one, `make bench-gpu` measures capture, steering and learning in at
most 8 minutes, with random weights in the shape of Qwen3-30B-A3B (as many layers as fit), and proves that every
family's tiny model is captured and steered there as on the processor. `python bench/gpu.py docs/performance-gpu.md`
does the same where only torch, transformers 5.19 or later, scipy, array-api-compat and rich are installed; nothing is
fetched.
The script itself has not run on a GPU yet: the tests run it on a processor, with a tiny shape.
"""
ROUNDS = 7
LAYERS = range(3, 9)  # of twelve: those that a plan edits
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


def batches(loaded: HuggingFaceModel, texts: list[str]) -> Batches:
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
def plain_forward(loaded: HuggingFaceModel, prepared: Batches) -> None:
    """The model with its language-model head on padded batches, and nothing else."""
    for batch in prepared:
        loaded.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)


@torch.inference_mode()
def library_logits(loaded: HuggingFaceModel, prepared: Batches) -> None:
    """``output_router_logits=True`` on the same batches, then the softmax mean per text."""
    for batch in prepared:
        mask = batch["attention_mask"].unsqueeze(-1)
        output = loaded.model(**batch, use_cache=False, output_router_logits=True)
        for logits in output.router_logits:
            probabilities = logits.float().softmax(-1).view(*batch["input_ids"].shape, -1)
            (probabilities * mask).sum(1) / mask.sum(1)


@torch.inference_mode()
def one_at_a_time(loaded: HuggingFaceModel, alone: Batches) -> None:
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
    found = ratio_of(*zip(*pairs, strict=True))
    times = f"{found.ours * 1e3:.0f} | {found.other * 1e3:.0f}"
    return f"| {name} | {times} | {found.value:.3f} | {found.low:.2f}-{found.high:.2f} |"


def generation(loaded: HuggingFaceModel, plan: Plan | None) -> None:
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
    loaded = load_model(str(model_folder()), dtype="float32")
    loaded.capture(texts, ids, options=CaptureOptions(batch_tokens=BATCH_TOKENS))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def fresh(function: Callable[[int], int], argument: int) -> int:
    """Call a function in a process of its own."""
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, argument).result()


def machine() -> str:
    """Name what ran the measurements."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("isogloss", "torch", "transformers"))
    cores = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"
    return f"{platform.machine()}, {cores}, Python {platform.python_version()}, {versions}."


def capture_and_steering() -> Iterator[str]:
    """Yield ratios of times, and the memory of a capture."""
    loaded = load_model(str(model_folder()), dtype="float32")
    texts = mixed_lengths()
    ids = [str(i) for i in range(len(texts))]
    options = CaptureOptions(batch_tokens=BATCH_TOKENS)
    plan = Plan(loaded.fingerprint, tuple(Intervention("soft", layer, (1, 5, 9), strength=0.5) for layer in LAYERS))
    yield machine()
    yield f"The organism in float32, {len(texts)} texts of mixed lengths; the other side is tokenised beforehand."
    yield f"Medians of {ROUNDS} alternating rounds, in milliseconds.\n"
    yield "| Comparison | ours | other | ratio | rounds |\n|---|---|---|---|---|"

    prepared = batches(loaded, texts)
    alone = [dict(loaded.tokenizer(text, return_tensors="pt")) for text in texts]

    def ours() -> None:
        loaded.capture(texts, ids, options=options)

    yield ratio("capture / plain forward with head", ours, lambda: plain_forward(loaded, prepared))
    yield ratio("capture / `output_router_logits=True`", ours, lambda: library_logits(loaded, prepared))
    yield ratio("capture / one text at a time, as published scripts do", ours, lambda: one_at_a_time(loaded, alone))
    steered, plain = (partial(generation, loaded, active) for active in (plan, None))
    yield ratio("steered / unsteered generation, soft in 6 of 12 layers", steered, plain)
    small, large = fresh(peak_memory, 1), fresh(peak_memory, 8)
    yield f"\nPeak memory of a capture: {small} MiB for {len(texts)} texts, {large} MiB for {8 * len(texts)}."


def token_counting() -> Iterator[str]:
    """Yield what counting choices by token adds to a capture, in time and on disk."""
    loaded = load_model(str(model_folder()), dtype="float32")
    plain, counted = (CaptureOptions(batch_tokens=BATCH_TOKENS, token_counts=asked) for asked in (False, True))
    texts = mixed_lengths()

    def capture(options: CaptureOptions, n_copies: int = 1) -> LanguageRouting:
        ids = [str(i) for i in range(n_copies * len(texts))]
        return loaded.capture(texts * n_copies, ids, options=options)

    def kibibytes(options: CaptureOptions, n_copies: int) -> float:
        return sum(array.nbytes for array in capture(options, n_copies).arrays().values()) / 1024

    yield f"`isogloss capture --token-counts` against the same without; {machine()}"
    yield f"The organism in float32; medians of {ROUNDS} alternating rounds.\n"
    yield "| | with | without | ratio | rounds |\n|---|---|---|---|---|"
    yield ratio(f"time for {len(texts)} texts, ms", partial(capture, counted), partial(capture, plain))
    for n_copies, what in ((1, f"{len(texts)} texts"), (8, "the same texts eight times over")):
        sizes = [kibibytes(options, n_copies) for options in (counted, plain)]
        yield f"| arrays of {what}, KiB | {sizes[0]:,.0f} | {sizes[1]:,.0f} | {sizes[0] / sizes[1]:.3f} | |"


def edits() -> Iterator[str]:
    """Yield how many operations each kind of intervention adds."""
    loaded = load_model(str(model_folder()), dtype="float32")
    yield "Operations that torch dispatches more than without a plan, for one layer and one token, views included"
    yield "(the organism in float32; `force` and `ban` edit the logits and the scores by which experts are chosen):\n"
    found = dict(added_operations(loaded, LAYERS))
    yield "| " + " | ".join(f"`{kind}`" for kind in found) + " |\n" + "|---" * len(found) + "|"
    yield "| " + " | ".join(f"{n:g}" for n in found.values()) + " |"


PARTS = {
    "Capture and steering": capture_and_steering,
    "Counts by token": token_counting,
    "Operations of an edit": edits,
    "Learning": learning_cost,
}


def written(page: Path | None) -> dict[str, str]:
    """Return the parts of the page as it is, by heading."""
    text = page.read_text(encoding="utf-8") if page is not None and page.exists() else ""
    return {part.partition("\n")[0]: part.partition("\n")[2].strip() for part in text.split("\n## ")[1:]}


def main() -> None:
    """Print the measurements, and write them to the file that the first argument names; the second names one part."""
    page = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    parts = written(page)
    for heading in [name for name in PARTS if name in sys.argv[2:] or len(sys.argv) <= 2]:  # noqa: PLR2004 - no part named
        lines = []
        for line in PARTS[heading]():
            print(line, flush=True)
            lines.append(line)
        parts[heading] = "\n".join(lines)
    if page is not None:
        body = "\n\n".join(f"## {heading}\n\n{parts[heading]}" for heading in PARTS if heading in parts)
        page.write_text(f"{HEAD}\n{body}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
