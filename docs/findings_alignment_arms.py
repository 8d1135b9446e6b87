"""What docs/findings_alignment.py trains: the shipped model goes on, on the same texts, with and without alignment."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from findings_learning_arms import LANGUAGES, PIVOT, learning_pool, shuffled
from isogloss.corpora import Corpus
from isogloss.files import read_json, write_json
from isogloss.learning import PairCollator, RoutingAlignment, trainable
from isogloss.learning.paired_batches import label_tokens
from isogloss.organism import model_folder
from isogloss.organism.documents import Mixture
from isogloss.organism.threads import torch_threads
from isogloss.organism.train import EXPERTS, load_training, save_training
from isogloss.progress import track

__all__ = ["ARMS", "N_PAIRS", "RECIPE", "AlignmentArm", "trained"]

N_PAIRS = 600
"""Of each language: the examples of the learned plans' seed 0."""

MIDDLE = (4, 9)


@dataclass(frozen=True)
class Training:
    """What all arms have in common.

    Attributes:
        seed: of the documents, the pairs' order and their shuffling.
        steps: of AdamW, after a linear warm-up and with a linear decay to 0.
        warmup: steps.
        learning_rate: at its highest.
        weight_decay: of matrices.
        document_tokens: of a step, padding included, of documents drawn as in the model's training.
        pairs: of a step.
        weight: of the alignment, as a ratio to the language-modelling loss.
        save_every: steps between checkpoints.
    """

    seed: int = 0
    steps: int = 120
    warmup: int = 12
    learning_rate: float = 3e-4
    weight_decay: float = 0.1
    document_tokens: int = 1024
    pairs: int = 8
    weight: float = 1.0
    save_every: int = 40


RECIPE = Training()


@dataclass(frozen=True)
class AlignmentArm:
    """A training that differs from the others in what it says.

    Attributes:
        name: of its folder.
        says: what the table says.
        layers: aligned; None for no alignment.
        true_pairs: texts stand beside their own translations; else beside another problem's.
        routers: only routers are trained.
    """

    name: str
    says: str
    layers: tuple[int, int] | None = MIDDLE
    true_pairs: bool = True
    routers: bool = False


ARMS = (
    AlignmentArm("without", "all weights, no alignment", layers=None),
    AlignmentArm("middle", f"all weights, aligned in layers {MIDDLE[0]}-{MIDDLE[1]}"),
    AlignmentArm("shuffled", "the same with shuffled pairs", true_pairs=False),
    AlignmentArm("routers", "routers alone, aligned in the same layers", routers=True),
    AlignmentArm("all", "all weights, aligned in all layers", layers=(0, 11)),
    AlignmentArm("early", "all weights, aligned in layers 0-3", layers=(0, 3)),
    AlignmentArm("late", "all weights, aligned in layers 10-11", layers=(10, 11)),
    AlignmentArm("routers-without", "routers alone, no alignment", layers=None, routers=True),
)


def pairs_of(arm: AlignmentArm, corpus: Corpus, seed: int) -> list[dict[str, str]]:
    """Put every language's texts beside the pivot's; an arm without alignment reads the same texts."""
    texts = (corpus if arm.true_pairs else shuffled(corpus, seed)).texts
    return [
        {"text": text, "pivot": pivot}
        for code in LANGUAGES
        for text, pivot in zip(texts[code], texts[PIVOT], strict=True)
    ]


def document_batches(mixture: Mixture, tokenizer: Any, most: int) -> Iterator[list[dict[str, str]]]:  # noqa: ANN401
    """Yield documents of like length, in random order within each thousand of them."""
    size, pool = 1000, 0
    while True:
        texts = [mixture.document(number) for number in range(pool * size, (pool + 1) * size)]
        lengths = [min(256, len(ids) + 1) for ids in tokenizer(texts)["input_ids"]]
        batches: list[list[dict[str, str]]] = [[]]
        for length, text in sorted(zip(lengths, texts, strict=True)):
            if length * (len(batches[-1]) + 1) > most:
                batches.append([])
            batches[-1].append({"text": text})
        random.Random(pool).shuffle(batches)
        yield from batches
        pool += 1


def steps_of(
    arm: AlignmentArm,
    corpus: Corpus,
    tokenizer: Any,  # noqa: ANN401
    recipe: Training,
) -> Iterator[tuple[list[dict[str, str]], list[dict[str, str]]]]:
    """Yield the documents and the pairs of every step: the same texts in every arm."""
    documents = document_batches(Mixture(recipe.seed + 1000, {}), tokenizer, recipe.document_tokens)
    pairs, drawn = pairs_of(arm, corpus, recipe.seed), []
    order = random.Random(recipe.seed)
    for _ in range(recipe.steps):
        while len(drawn) < recipe.pairs:
            drawn += order.sample(range(len(pairs)), len(pairs))
        now, drawn = drawn[: recipe.pairs], drawn[recipe.pairs :]
        yield next(documents), [pairs[place] for place in now]


def optimiser_of(model: PreTrainedModel, recipe: Training) -> torch.optim.Optimizer:
    """AdamW as in the model's own training."""
    weights = [each for each in model.parameters() if each.requires_grad]
    groups = [
        {"params": [each for each in weights if each.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [each for each in weights if each.ndim == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], recipe.learning_rate, (0.9, 0.95))


def train_arm(arm: AlignmentArm, corpus: Corpus, folder: Path, recipe: Training) -> None:
    """Train an arm, or go on with it, and write the model."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(model_folder())
    model = AutoModelForCausalLM.from_pretrained(model_folder(), dtype=torch.float32)
    model.set_experts_implementation(EXPERTS)
    model.train()
    trainable(model, "routers" if arm.routers else "all")
    optimiser = optimiser_of(model, recipe)
    aligned = {"layers": arm.layers or MIDDLE, "weight": recipe.weight}
    alignment = RoutingAlignment(model, **aligned, coefficient=None if arm.layers else 0.0)
    checkpoint, done, seconds = folder / "checkpoint.safetensors", 0, 0.0
    if checkpoint.is_file():
        load_training(checkpoint, model, optimiser)
        with safe_open(checkpoint, "pt") as file:
            notes = json.loads(file.metadata()["notes"])
        done, seconds, alignment.coefficient = notes["step"], notes["seconds"], notes["coefficient"]
    # A problem without its working is no whole text: an end after it would teach the model not to answer.
    collators = [PairCollator(tokenizer=tokenizer, max_length=256, append_eos=end) for end in (True, False)]
    started = time.monotonic() - seconds
    with torch_threads(1), track(arm.name, recipe.steps) as advance:
        torch.set_flush_denormal(True)
        for step, parts in enumerate(steps_of(arm, corpus, tokenizer, recipe), start=1):
            if step > done:
                batches = [collate(part) for collate, part in zip(collators, parts, strict=True)]
                take_step(model, alignment, optimiser, batches, rate_at(step, recipe))
                if step % recipe.save_every == 0:
                    log = alignment.log()
                    seconds = time.monotonic() - started
                    notes = {"step": step, "seconds": seconds, "coefficient": alignment.coefficient}
                    save_training(checkpoint, model, optimiser, {"notes": json.dumps(notes)})
                    with (folder / "log.jsonl").open("a", encoding="utf-8") as stream:
                        stream.write(json.dumps({"step": step, **log.to_json()}) + "\n")
            advance(1)
        torch.set_flush_denormal(False)
    if arm.routers:
        alignment.save_routers(folder / "routers.safetensors")
    alignment.close()
    trained_numbers = sum(each.numel() for each in model.parameters() if each.requires_grad)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    write_json(
        folder / "trained.json",
        {"seconds": seconds, "trained": trained_numbers, "coefficient": alignment.coefficient},
    )


def rate_at(step: int, recipe: Training) -> float:
    """Warm up, then decay to 0."""
    return recipe.learning_rate * min(step / recipe.warmup, (recipe.steps - step + 1) / (recipe.steps - recipe.warmup))


def take_step(
    model: PreTrainedModel,
    alignment: RoutingAlignment,
    optimiser: torch.optim.Optimizer,
    batches: Sequence[Mapping[str, torch.Tensor]],
    rate: float,
) -> None:
    """Take one step on documents and pairs, as one batch in two parts."""
    for group in optimiser.param_groups:
        group["lr"] = rate
    n_items = sum(label_tokens(batch["labels"]).sum() for batch in batches)
    for batch in batches:
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        alignment(model(**inputs, use_cache=False), batch["labels"], num_items_in_batch=n_items).backward()
    torch.nn.utils.clip_grad_norm_([each for each in model.parameters() if each.requires_grad], 1.0)
    optimiser.step()
    optimiser.zero_grad()


def trained(kept: Path, arms: Sequence[AlignmentArm] = ARMS, recipe: Training = RECIPE) -> dict[str, dict[str, Any]]:
    """Train every arm that is not yet trained; return what was written down of each."""
    corpus = None
    for arm in arms:
        if not (kept / arm.name / "trained.json").is_file():
            corpus = corpus or learning_pool().parallel
            assert corpus is not None  # noqa: S101 - the pool is gathered with parallel texts
            chosen = corpus.select(corpus.languages, corpus.item_ids[:N_PAIRS])
            train_arm(arm, chosen, kept / arm.name, recipe)
    return {arm.name: read_json(kept / arm.name / "trained.json") for arm in arms}
