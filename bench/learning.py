"""What a step of learning costs beside other steps of the same model, in time and in memory, and how that grows."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial

import torch
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from isogloss.backends.huggingface import HuggingFaceModel
from isogloss.backends.huggingface.losses import answer_loss
from isogloss.backends.huggingface.offsets import Offsets, offsets_applied
from isogloss.backends.joint_texts import Measured
from isogloss.organism.tokenizer import train_tokenizer
from timing import alternating_times

__all__ = ["learning_cost"]

ROUNDS = 5
BASE = {"layers": 4, "experts": 16, "tokens": 256}
SIZES = [BASE, BASE | {"layers": 8}, BASE | {"experts": 64}, BASE | {"tokens": 1024}]


def _model(layers: int, experts: int) -> HuggingFaceModel:
    """A Qwen3-MoE with random weights: hidden size 128, experts of 64, of which each token chooses 4."""
    config = Qwen3MoeConfig(
        vocab_size=512,
        hidden_size=128,
        intermediate_size=256,
        moe_intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        num_experts=experts,
        num_experts_per_tok=4,
    )
    torch.manual_seed(0)
    return HuggingFaceModel(
        Qwen3MoeForCausalLM(config).eval(), train_tokenizer(["text"] * 20, vocab_size=300), name="random"
    )


def _batch(tokens: int) -> list[Measured]:
    """Four texts of random tokens; the second half of each is the answer."""
    drawn = torch.randint(512, (4, tokens // 4), generator=torch.Generator().manual_seed(0)).tolist()
    return [Measured(place, ids, len(ids) // 2, len(ids) - 1) for place, ids in enumerate(drawn)]


def _learning_step(loaded: HuggingFaceModel, batch: list[Measured], *, checkpointing: bool = False) -> None:
    values = {s.layer: torch.zeros(s.n_experts, requires_grad=True) for s in loaded.routers}
    with offsets_applied(loaded, Offsets(values), checkpointing=checkpointing):
        answer_loss(loaded, batch).backward()


def _training_step(loaded: HuggingFaceModel, batch: list[Measured], *, weights: bool) -> None:
    """Gradients of all weights; or with all of them frozen, of what the embedding gives."""
    embedding = loaded.model.get_input_embeddings()
    asks = nullcontext() if weights else embedding.register_forward_hook(lambda *args: args[2].requires_grad_())
    loaded.model.requires_grad_(weights)
    with asks, torch.enable_grad():
        answer_loss(loaded, batch).backward()
    loaded.model.zero_grad()


def _kept(step: Callable[[], None], loaded: HuggingFaceModel) -> float:
    """MiB that a forward keeps for the backward pass, weights left out."""
    weights = {each.untyped_storage().data_ptr() for each in loaded.model.parameters()}
    sizes: dict[int, int] = {}
    held = []  # so that no address is used twice

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
            held.append(storage)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step()
    return sum(sizes.values()) / 2**20


def _row(layers: int, experts: int, tokens: int) -> str:
    loaded, batch = _model(layers, experts), _batch(tokens)
    ours = partial(_learning_step, loaded, batch)
    others = [partial(_training_step, loaded, batch, weights=weights) for weights in (False, True)]
    again = partial(_learning_step, loaded, batch, checkpointing=True)
    times = []
    for other in (*others, again):
        ours(), other()
        pairs = alternating_times(ours, other, ROUNDS)
        times.append([statistics.median(side) for side in zip(*pairs, strict=True)])
    frozen, trained = (mine / other for mine, other in times[:2])
    cells = [
        f"{layers} | {experts} | {tokens} | {times[0][0] * 1e3:.0f} ms | {frozen:.2f} | {trained:.2f}",
        f"{times[2][1] / times[2][0]:.2f}",
        *(f"{_kept(step, loaded):.1f}" for step in (ours, *others, again)),
    ]
    return "| " + " | ".join(cells) + " |"


def learning_cost() -> Iterator[str]:
    """Yield the lines of the part on learning."""
    yield INTRODUCTION.format(ROUNDS, torch.get_num_threads())
    yield (
        "| layers | experts | tokens | learning | / frozen | / trained | recomputed / learning "
        "| MiB: learning | frozen | trained | recomputed |"
    )
    yield "|---" * 11 + "|"
    for size in SIZES:
        yield _row(**size)
    yield ARITHMETIC


INTRODUCTION = """\
A step here is a forward and a backward pass over 4 texts, half of each being the answer, without an optimiser; a
Qwen3-MoE with random weights in float32 (hidden size 128, experts of 64, top 4, vocabulary 512). Learning has the
gradient of the offsets of all layers. *Frozen* is a step with all weights frozen and the gradient of the embedded
inputs, *trained* one with the gradient of all weights. Times are medians of {} alternating rounds, threads: {}; the
ratios are within one run. Memory is what the forward keeps for the backward pass, weights left out, counted, not
sampled. *Recomputed* is learning with `--checkpointing`: the tensors of one layer, about those of learning over the
number of layers, come on top while that layer is computed again.
"""

ARITHMETIC = """
By arithmetic, since no GPU was available and nothing was measured on one: Qwen3-30B-A3B (48 layers, 128 experts of 768,
top 8, hidden size 2048, vocabulary 151,936) in bfloat16 with `--checkpointing`, 4,096 tokens per forward:

* weights: 30.5 billion of 2 bytes, 61 GB; no gradient and no optimiser state of theirs;
* offsets: 48 * 128 numbers with gradient and two moments of Adam, under 0.1 MB;
* inputs of 48 layers: 48 * 4096 * 2048 * 2 bytes, 0.8 GB;
* one layer computed again: experts 8 * (2 * 2048 + 4 * 768) numbers per token, 0.5 GB; attention and norms, 0.2 GB;
* predictions: 4096 * 151,936 numbers, 1.2 GB in bfloat16 and 2.5 GB for each of three float32 copies (the logits, their
  log-softmax, the gradient), 8.7 GB if every token is of an answer; with a leash, two more log-softmaxes, their
  probabilities and products, about 10 GB.

Together 71 GB, or 81 GB with a leash: a GPU of 141 GB holds it, one of 80 GB does with fewer tokens per forward.
Without `--checkpointing` the layers keep up to 48 * 0.7 GB, 34 GB, in place of 1.5 GB."""
