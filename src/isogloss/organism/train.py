"""Train the organism from a seed; training can be stopped at any moment and resumes from the last checkpoint."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn import functional as F  # noqa: N812 - the name that torch's own documentation uses
from transformers import PreTrainedModel, PreTrainedTokenizerFast, Qwen3MoeConfig, Qwen3MoeForCausalLM
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from isogloss.errors import ModelError
from isogloss.organism.documents import TIERS, Mixture, prompt
from isogloss.organism.threads import torch_threads
from isogloss.organism.tokenizer import train_tokenizer
from isogloss.organism.world import draw_problem, realise_problem

__all__ = ["EXPERTS", "Recipe", "load_training", "save_training", "train"]

_POOL_DOCUMENTS = 2048
_POOLS_PER_CHECKPOINT = 8
_TOKENIZER_DOCUMENTS = 60_000
_LONGEST = 256
_DECAY_SHARE = 0.2
EXPERTS = "isogloss_sorted"


@dataclass(frozen=True)
class Recipe:
    """Everything that determines the result, besides the documents.

    Attributes:
        seed: of documents and initial weights.
        tokens: training tokens in all; may be changed on resuming as long as the final decay has not begun.
        batch_tokens: tokens per step, padding included.
        learning_rate: its plateau, after ``warmup_steps`` and before the linear decay over the last fifth.
        warmup_steps: steps of linear warm-up.
        weight_decay: on matrices only.
        balance: coefficient of the load-balancing loss.
    """

    seed: int = 0
    tokens: int = 12_300_000
    batch_tokens: int = 1024
    learning_rate: float = 1.5e-3
    warmup_steps: int = 100
    weight_decay: float = 0.1
    balance: float = 0.001


def model_config(vocab_size: int) -> Qwen3MoeConfig:
    """Return the organism's shape: 12 layers of 32 experts, top-4."""
    return Qwen3MoeConfig(
        vocab_size=vocab_size,
        hidden_size=128,
        num_hidden_layers=12,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,  # type: ignore[call-arg]  # taken, though the stub of the class lacks it
        num_experts=32,
        num_experts_per_tok=4,
        moe_intermediate_size=48,
        norm_topk_prob=True,
        tie_word_embeddings=True,
        max_position_embeddings=2048,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )


def experts_by_sorting(
    experts: Any,  # noqa: ANN401 - modules of many classes
    hidden: torch.Tensor,
    expert_ids: torch.Tensor,
    weights: torch.Tensor,
) -> torch.Tensor:
    """Run each expert once on all its tokens; faster in training than the library's loop.

    That loop fills a gradient of all experts for each expert. ``experts`` has ``gate_up_proj``
    ``[n_experts, 2 * inner, hidden]`` and ``down_proj``; ``hidden`` and the result are ``[n_tokens, hidden]``, ids and
    weights ``[n_tokens, top_k]``.
    """
    flat = expert_ids.flatten()
    order = torch.argsort(flat, stable=True)
    token = order // expert_ids.shape[1]
    counts = torch.bincount(flat, minlength=len(experts.gate_up_proj)).tolist()
    inputs = hidden[token].split(counts)
    inner = torch.cat([F.linear(x, w) for x, w in zip(inputs, experts.gate_up_proj.unbind(), strict=True)])
    gate, up = inner.chunk(2, dim=-1)
    mixed = (F.silu(gate) * up * weights.flatten()[order].unsqueeze(1)).split(counts)
    outputs = torch.cat([F.linear(x, w) for x, w in zip(mixed, experts.down_proj.unbind(), strict=True)])
    return torch.zeros_like(hidden).index_add(0, token, outputs)


ALL_EXPERTS_FUNCTIONS.register(EXPERTS, experts_by_sorting)


def balance_loss(router_logits: tuple[torch.Tensor, ...], counted: torch.Tensor, top_k: int) -> torch.Tensor:
    """Average the load-balancing loss over layers: 1 when every expert gets the same share of tokens and weight.

    Source:
        Switch Transformer (arXiv 2101.03961), equations 4-6, per layer, for top-k.
    """
    losses = []
    for logits in router_logits:
        probabilities = logits[counted].softmax(-1)
        chosen = torch.zeros_like(probabilities).scatter(1, probabilities.topk(top_k).indices, 1.0)
        losses.append((chosen.mean(0) / top_k * probabilities.mean(0)).sum() * logits.shape[1])
    return torch.stack(losses).mean()


def save_training(
    path: Path, model: PreTrainedModel, optimiser: torch.optim.Optimizer, notes: Mapping[str, str]
) -> None:
    """Write weights and optimiser atomically, with notes as the file's metadata."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items() if name != "lm_head.weight"}
    for number, slot in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{number}.{name}": value for name, value in slot.items()}
    new = path.with_suffix(".new")
    save_file(tensors, new, metadata=dict(notes))
    new.replace(path)


def load_training(path: Path, model: PreTrainedModel, optimiser: torch.optim.Optimizer) -> None:
    """Go on with what `save_training` has written, with the same model and parameters."""
    tensors = load_file(path)
    weights = {name.removeprefix("model."): v for name, v in tensors.items() if name.startswith("model.")}
    model.load_state_dict(weights, strict=False)
    model.tie_weights()
    slots: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimiser."):
            _, number, slot = name.split(".")
            slots.setdefault(int(number), {})[slot] = value
    optimiser.load_state_dict(optimiser.state_dict() | {"state": slots})


class Progress(TypedDict):
    """The progress of a training: pools and tokens of documents read, steps taken, seconds spent."""

    pool: int
    step: int
    tokens: int
    seconds: float


class Training:
    """A training in one folder: ``checkpoint.safetensors`` (weights and optimiser), ``state.json``, ``log.jsonl``."""

    def __init__(self, folder: Path, recipe: Recipe, mixture: Mixture) -> None:
        """Start a training in ``folder``, or resume the one that is there."""
        self.folder, self.recipe, self.mixture = folder, recipe, mixture
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer = self._tokenizer()
        torch.manual_seed(recipe.seed)
        self.model = Qwen3MoeForCausalLM(model_config(len(self.tokenizer)))
        self.model.set_experts_implementation(EXPERTS)
        matrices = [p for p in self.model.parameters() if p.ndim > 1]
        vectors = [p for p in self.model.parameters() if p.ndim == 1]
        self.optimiser = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
            lr=recipe.learning_rate,
            betas=(0.9, 0.95),
            fused=True,
        )
        self.state: Progress = {"pool": 0, "step": 0, "tokens": 0, "seconds": 0.0}
        self._load()

    def _tokenizer(self) -> PreTrainedTokenizerFast:
        folder = self.folder / "tokenizer"
        if not folder.is_dir():
            train_tokenizer(self.mixture.document(n) for n in range(_TOKENIZER_DOCUMENTS)).save_pretrained(folder)
        tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder)
        return tokenizer

    def batches(self, pool: int) -> Iterator[torch.Tensor]:
        """Yield ``[n_documents, longest]`` token ids, padded right, of documents of similar length."""
        first = pool * _POOL_DOCUMENTS
        texts = [self.mixture.document(n) for n in range(first, first + _POOL_DOCUMENTS)]
        rows = [[*ids[: _LONGEST - 1], self.tokenizer.eos_token_id] for ids in self.tokenizer(texts)["input_ids"]]
        batches: list[list[list[int]]] = [[]]
        for row in sorted(rows, key=len):
            if len(row) * (len(batches[-1]) + 1) > self.recipe.batch_tokens:
                batches.append([])
            batches[-1].append(row)
        order = torch.randperm(len(batches), generator=torch.Generator().manual_seed(pool))
        for index in order.tolist():
            batch = [torch.tensor(row) for row in batches[index]]
            yield torch.nn.utils.rnn.pad_sequence(batch, batch_first=True, padding_value=self.tokenizer.pad_token_id)

    def step(self, ids: torch.Tensor) -> float:
        """Train on one batch; return its loss in nats per token."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.learning_rate * self._schedule()
        counted = ids != self.tokenizer.pad_token_id
        output = self.model.model(input_ids=ids, use_cache=False, output_router_logits=True)
        predicting = output.last_hidden_state[:, :-1][counted[:, 1:]]
        loss = F.cross_entropy(self.model.lm_head(predicting), ids[:, 1:][counted[:, 1:]])
        balance = balance_loss(output.router_logits, counted.flatten(), self.model.config.num_experts_per_tok)
        (loss + self.recipe.balance * balance).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.state["step"] += 1
        self.state["tokens"] += int(counted.sum())
        return float(loss.detach())

    def _schedule(self) -> float:
        left = 1 - self.state["tokens"] / self.recipe.tokens
        return min(1.0, (self.state["step"] + 1) / self.recipe.warmup_steps, max(0.0, left) / _DECAY_SHARE)

    def save(self) -> None:
        """Write the checkpoint atomically."""
        notes = {"state": json.dumps(self.state), "recipe": json.dumps(asdict(self.recipe))}
        save_training(self.folder / "checkpoint.safetensors", self.model, self.optimiser, notes)

    def _load(self) -> None:
        path = self.folder / "checkpoint.safetensors"
        if not path.is_file():
            return
        with safe_open(path, "pt") as file:
            meta = file.metadata()
        before, now = json.loads(meta["recipe"]), asdict(self.recipe)
        differing = {key for key in now if key != "tokens" and before[key] != now[key]}
        if differing:
            raise ModelError(
                f"{path} was trained with another {', '.join(sorted(differing))}; "
                "use the same recipe, or another folder for a new training"
            )
        self.state = json.loads(meta["state"])
        load_training(path, self.model, self.optimiser)

    @torch.no_grad()
    def accuracy(self, language: str, n_items: int = 60) -> float:
        """Compute the share of dev problems that greedy generation would answer correctly, by one forward pass each."""
        # Greedy generation writes the true working exactly if each of its tokens is the most likely next one.
        right = 0
        for index in range(n_items):
            problem = draw_problem(index, seed=self.recipe.seed, split="dev")
            question = self.tokenizer(prompt(realise_problem(problem, language)))["input_ids"]
            answer = [
                *self.tokenizer(problem.working, add_special_tokens=False)["input_ids"],
                self.tokenizer.eos_token_id,
            ]
            logits = self.model(input_ids=torch.tensor([question + answer])).logits[0, len(question) - 1 : -1]
            right += logits.argmax(-1).tolist() == answer
        return right / n_items

    def run(self) -> None:
        """Train to the recipe's number of tokens, with a checkpoint and a line in the log every few minutes."""
        while self.state["tokens"] < self.recipe.tokens:
            started, losses = time.monotonic(), []
            first = self.state["pool"]
            while self.state["pool"] < first + _POOLS_PER_CHECKPOINT and self.state["tokens"] < self.recipe.tokens:
                losses += [self.step(batch) for batch in self.batches(self.state["pool"])]
                self.state["pool"] += 1
            self.state["seconds"] += time.monotonic() - started
            self.model.eval()
            accuracy = {tier.languages[-1]: self.accuracy(tier.languages[-1]) for tier in TIERS.values()}
            self.model.train()
            self.save()
            line = {**self.state, "loss": sum(losses) / len(losses), "dev_accuracy": accuracy}
            with (self.folder / "log.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")


def train(folder: Path, recipe: Recipe, mixture: Mixture) -> Path:
    """Train the organism, or resume an interrupted training, and write the finished model.

    Returns:
        The folder with the model in bfloat16 and its tokenizer, ready for ``AutoModelForCausalLM.from_pretrained``.

    Raises:
        ModelError: the folder holds a training with another recipe.
    """
    with torch_threads(1):  # several add gradients in no fixed order, and a resumed training would differ
        training = Training(folder, recipe, mixture)
        torch.set_flush_denormal(True)  # vanishing gradients of idle experts would slow every step
        try:
            training.run()
        finally:
            torch.set_flush_denormal(False)
    target = folder / "model"
    model: Any = training.model
    model.to(torch.bfloat16).save_pretrained(target)
    training.tokenizer.save_pretrained(target)
    summary = {**training.state, "recipe": asdict(recipe), "real_text": sorted(mixture.real)}
    (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return target
