"""Trains the organism, and measures a trained one for its model card."""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from safetensors import safe_open

from isogloss.analysis import Analysis, analyze_curves
from isogloss.backends.model import Model
from isogloss.backends.open import load
from isogloss.corpora import load_corpus
from isogloss.errors import ModelError
from isogloss.evaluation import accuracy, load_task
from isogloss.files import read_json, write_atomically
from isogloss.folders import make_folder, require_file, require_folder
from isogloss.languages import display_name
from isogloss.organism import ORGANISM, TIERS, Mixture, scene_corpus
from isogloss.progress import track
from isogloss.records import Name, Record
from isogloss.reports import describe_analysis
from isogloss.statistics import Estimate
from isogloss.workflows.capture import capture_corpus

__all__ = ["train_organism", "word_problem_accuracies", "write_card"]

_CARD_ITEMS = 200


def train_organism(out: Path, *, seed: int = 0, tokens: int | None = None, text: Path | None = None) -> Path:
    """Train from a seed, or resume a stopped training; return the folder of the finished model.

    Args:
        out: folder of checkpoints, log and finished model.
        seed: of documents and weights.
        tokens: training tokens; None for the shipped model's.
        text: folder of real parallel text to mix in; the shipped model had TICO-19 in the languages that both know.

    Raises:
        CorpusError: the real text cannot be read.
        ModelError: ``out`` holds a training with another recipe.
        FileError: ``out`` cannot be made.
    """
    from isogloss.organism.train import Recipe, train  # noqa: PLC0415 - training is not needed to measure

    require_folder(out)
    real = load_corpus(str(text)).texts if text else {}
    recipe = Recipe(seed=seed) if tokens is None else Recipe(seed=seed, tokens=tokens)
    return train(out, recipe, Mixture(seed, real))


def write_card(training: Path, out: Path, *, force: bool = False) -> Path:
    """Measure a trained organism on held-out items and write its model card, Markdown; return its path.

    Args:
        training: folder of a finished training.
        out: the file, new, or of such a card, which is replaced.
        force: replace a file of any kind.

    Raises:
        ModelError: the folder holds no finished training (``model/``, ``summary.json``).
        FileError: the file cannot be written, or is of another kind.
    """
    summary_path = training / "summary.json"
    if not summary_path.is_file():
        raise ModelError(
            f"{training} holds no finished training; finish it with `isogloss organism train -o {training}`"
        )
    require_file(out, "model card", lambda content: _HEAD.encode() in content, force=force, make_folders=True)
    card = _card(training)
    make_folder(out.parent)
    write_atomically(out, card.encode())
    return out


@dataclass(frozen=True)
class _Recipe(Record):
    """What a card says of a recipe."""

    seed: int
    balance: float


@dataclass(frozen=True)
class _Training(Record):
    """What a card says of a finished training, as ``summary.json`` holds it."""

    step: int
    tokens: int
    seconds: float
    recipe: _Recipe
    real_text: tuple[Name, ...]


def _card(training: Path) -> str:
    trained = _Training.read(training / "summary.json")
    model = load(str(training / "model"), dtype="float32")
    with tempfile.TemporaryDirectory() as folder:
        run = capture_corpus(model, scene_corpus(_CARD_ITEMS), Path(folder) / "run")
        analysis = analyze_curves(run, pivot="eng_Latn")
    accuracies, bits = word_problem_accuracies(model), _bits(model)
    facts = _facts(model, training / "model", trained)
    return "\n".join([_HEAD, *facts, "", *_table(accuracies, bits), "", *_divergence(analysis), ""])


_HEAD = """---
license: apache-2.0
library_name: transformers
tags: [mixture-of-experts, multilingual, isogloss]
---
# The organism

A small multilingual Mixture-of-Experts language model, trained so that isogloss can be tried, tested and taught on
routing that was learned. It knows a small world of people, things and places and word problems in 14 languages, and
nothing else; it is of no use for anything but the study of routing. Written by `isogloss organism card`.
"""


def _facts(model: Model, folder: Path, trained: _Training) -> list[str]:
    config = read_json(folder / "config.json")
    router = model.routers[0]
    shape = (
        f"{config['num_hidden_layers']} layers, {router.n_experts} experts, top-{router.top_k}, "
        f"width {config['hidden_size']}, vocabulary {config['vocab_size']} (byte-level BPE)"
    )
    with safe_open(folder / "model.safetensors", framework="np") as weights:
        parameters = sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118 - no mapping
    tiers = "".join(
        f"\n  * {name} ({100 * tier.share:g} % of documents each, "
        f"{100 * tier.kinds.get('problem', 0):g} % of them solved word problems, "
        f"{100 * tier.kinds.get('translated problem', 0):g} % translated ones): "
        f"{', '.join(map(display_name, tier.languages))}"
        for name, tier in TIERS.items()
    )
    real = ", ".join(map(display_name, trained.real_text)) or "none"
    return [
        f"* Architecture: `{config['architectures'][0]}`, {shape}.",
        f"* Parameters: {parameters / 1e6:.2f} M, stored in bfloat16.",
        f"* Training: {trained.tokens / 1e6:.1f} M tokens in {trained.step} steps, seed {trained.recipe.seed},",
        f"  {trained.seconds / 60:.0f} minutes on one processor core; load balancing {trained.recipe.balance:g}.",
        f"* Resources:{tiers}",
        f"* Real text beside the small world (6 % of the documents of these languages, TICO-19, CC0): {real}.",
        f"* Measured with isogloss {version('isogloss')} in float32 on {_CARD_ITEMS} items per language.",
        "",
        "## Held-out word problems and text",
        "",
        "Word problems ask for equations that no training document contains, in any language or wording. Bits per",
        "byte are of scenes from a stream that training does not read. Brackets: Wilson's 95 % interval over items.",
    ]


def word_problem_accuracies(model: Model) -> dict[str, Estimate]:
    """Ask a model the organism's held-out word problems, unsteered; language to share of right answers."""
    task = load_task(ORGANISM, n_items=_CARD_ITEMS)
    accuracies = {}
    with track("word problems", len(task.items) * _CARD_ITEMS) as advance:
        for language, items in task.items.items():
            prompts = [item.prompt for item in items]
            outputs = model.generate(prompts, max_new_tokens=task.max_new_tokens, progress=advance)
            right = [task.parse(output) == item.answer for output, item in zip(outputs, items, strict=True)]
            accuracies[language] = accuracy(right)
    return accuracies


def _bits(model: Model) -> dict[str, float]:
    """Mean code length of held-out scenes by language: negative log-likelihood in bits over UTF-8 bytes."""
    bits = {}
    for language, texts in scene_corpus(_CARD_ITEMS).texts.items():
        nats = math.fsum(each.nats for each in model.log_likelihoods([("", text) for text in texts]))
        bits[language] = -nats / math.log(2) / sum(len(text.encode()) for text in texts)
    return bits


def _table(accuracies: dict[str, Estimate], bits: dict[str, float]) -> list[str]:
    tier_of = {language: name for name, tier in TIERS.items() for language in tier.languages}
    order = sorted(accuracies, key=lambda code: (list(TIERS).index(tier_of[code]), code))
    rows = [
        f"| {display_name(code)} ({code}) | {tier_of[code]} | "
        f"{accuracies[code].scaled(100).text('{:.1f}'.format)} | {bits[code]:.3f} |"
        for code in order
    ]
    means = [
        f"{name} {100 * sum(accuracies[code].value for code in tier.languages) / len(tier.languages):.1f}"
        for name, tier in TIERS.items()
    ]
    table = ["| Language | Tier | Accuracy, % | Bits per byte |", "|---|---|---|---|", *rows]
    return [*table, "", f"Mean accuracy by tier, %: {'; '.join(means)}."]


def _divergence(analysis: Analysis) -> list[str]:
    layers = " | ".join(str(layer) for layer in analysis.layers)
    rows = [
        f"| {display_name(code)} | " + " | ".join(f"{point.value:.3f}" for point in curve) + " |"
        for code, curve in analysis.divergence.items()
    ]
    return [
        "## Divergence from English by layer",
        "",
        *describe_analysis(analysis),
        "",
        "Entropy-normalised Jensen-Shannon divergence of profiles (arXiv 2510.04694, equation 2), mean over scenes.",
        "",
        f"| Language | {layers} |",
        "|---" * (len(analysis.layers) + 1) + "|",
        *rows,
    ]
