"""What docs/findings_adapters.py learns on the shipped model, and what learned adapters are compared with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear
from safetensors import safe_open

from isogloss.arrays import Float32Array
from isogloss.backends.huggingface import HuggingFaceModel
from isogloss.backends.huggingface.offsets import RouterChange
from isogloss.backends.open import load
from isogloss.evaluation import Task
from isogloss.learning import Learned, LearningData, LearnOptions, gather_data, learn_plan
from isogloss.learning.folder import CHECKPOINT
from isogloss.learning.parameters import Parameters
from isogloss.organism import TIERS
from isogloss.progress import track
from isogloss.steering import Plan, RouterAdapter, random_control, read_adapter
from isogloss.workflows import adapt, open_corpus

__all__ = [
    "ARMS",
    "LANGUAGES",
    "LORA_RANK",
    "N_DEV",
    "OTHERS",
    "PIVOT",
    "RANK",
    "Arm",
    "AttentionNumbers",
    "Run",
    "best_numbers",
    "closed_form",
    "learned_arm",
    "learning_pool",
    "other_probes",
    "part_of",
    "permuted",
    "served",
]

PIVOT = "eng_Latn"
LANGUAGES = TIERS["very low"].languages
OTHERS = tuple(sorted({code for tier in TIERS.values() for code in tier.languages} - {*LANGUAGES, PIVOT}))
N_DEV, RANK, LORA_RANK = 24, 8, 4
MOST_BETWEEN = 200
"""Steps between two looks at the dev problems; a third of all steps where that is fewer."""

_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")

Served = Plan | RouterAdapter | None


@dataclass(frozen=True)
class Arm:
    """Something that is learned.

    Attributes:
        name: of its folders, with the number of examples and the seed behind it.
        says: what the table says.
        options: but the seed and steps.
        on_attention: whether LoRA on attention is learned in place of what the options name.
        from_probes: whether learning starts from the adapter that `closed_form` makes of the same seed's plan.
    """

    name: str
    says: str
    options: LearnOptions
    on_attention: bool = False
    from_probes: bool = False


@dataclass(frozen=True)
class Run:
    """Every arm, learned from as many examples in as many steps.

    Attributes:
        name: of its folders and results, with the seed behind it.
        n_examples: of each language.
        steps: of Adam; a plan has a set for each language, of a quarter of them.
        seeds: with which everything is learned.
    """

    name: str
    n_examples: int
    steps: int
    seeds: tuple[int, ...]

    def of_seed(self, seed: int) -> Run:
        """Return the part of one seed."""
        return replace(self, seeds=(seed,))

    def names(self, arm: str) -> list[str]:
        """Name an arm's results, a seed each."""
        return [f"{arm}-{self.name}-{seed}" for seed in self.seeds]


ARMS = (
    Arm("router", "routers whole", LearnOptions(parameters="router")),
    Arm("attention", "*control*: LoRA on attention", LearnOptions(parameters="router"), on_attention=True),
    Arm("low-rank", f"rank {RANK} on routers", LearnOptions(parameters="low-rank", rank=RANK)),
    Arm("plan", "offsets by language: a plan with conditions", LearnOptions(leash=3.0)),
    Arm(
        "fixed",
        "the same probes, fixed, with offsets learned on",
        LearnOptions(parameters="low-rank", probes="fixed", learning_rate=0.02),
        from_probes=True,
    ),
)


class AttentionNumbers(Parameters):
    """LoRA of PEFT on the projections of attention: all its matrices, one after the other, A before B.

    Args:
        loaded: a model of its own; PEFT changes its modules.
        seed: of the matrices A; B begins with zeros.
    """

    name = "attention"
    n_experts = 0

    def __init__(self, loaded: HuggingFaceModel, seed: int) -> None:
        self.loaded = loaded
        config = LoraConfig(r=LORA_RANK, lora_alpha=LORA_RANK, target_modules=list(_PROJECTIONS))
        inject_adapter_in_model(config, loaded.core)
        loaded.core.eval()  # PEFT's own layers begin in training mode
        self.layers = [module for module in loaded.core.modules() if isinstance(module, Linear)]
        self.matrices = [part["default"] for layer in self.layers for part in (layer.lora_A, layer.lora_B)]
        rng = np.random.default_rng([seed, 77])
        drawn = [
            np.zeros(each.weight.shape, np.float32)
            if index % 2
            else (rng.standard_normal(each.weight.shape) / np.sqrt(each.weight.shape[1])).astype(np.float32)
            for index, each in enumerate(self.matrices)
        ]
        self._start = np.concatenate([each.ravel() for each in drawn])
        with torch.no_grad():  # so that the hash of all weights does not depend on PEFT's own draw
            for each in self.matrices:
                each.weight.zero_()

    def start(self) -> Float32Array:
        """Return random A and B of zeros."""
        return self._start

    @contextmanager
    def applied(
        self, values: torch.Tensor, *, straight_through: bool = False, checkpointing: bool = False
    ) -> Iterator[RouterChange]:
        """Put parts of the values in the place of PEFT's own parameters; all others are frozen."""
        assert not straight_through  # noqa: S101
        assert not checkpointing  # noqa: S101
        own = [each._parameters["weight"] for each in self.matrices]  # noqa: SLF001 - takes no tensor otherwise
        flags = {parameter: parameter.requires_grad for parameter in self.loaded.core.parameters()}
        with ExitStack() as stack:
            stack.enter_context(self.loaded.own_threads())
            stack.enter_context(torch.enable_grad())
            try:
                for parameter in flags:
                    parameter.requires_grad = False
                for each, part in zip(self.matrices, self.by_layer(values), strict=True):
                    each._parameters["weight"] = part.view(each.weight.shape)  # type: ignore[assignment]  # noqa: SLF001
                yield _Attention(self.layers)
            finally:
                for each, parameter in zip(self.matrices, own, strict=True):
                    each._parameters["weight"] = parameter  # noqa: SLF001
                for parameter, flag in flags.items():
                    parameter.requires_grad = flag

    @contextmanager
    def steered(self, values: Float32Array) -> Iterator[None]:
        """Apply them, without gradient."""
        with self.applied(torch.from_numpy(values)), torch.no_grad():
            yield

    def by_layer(self, values: torch.Tensor) -> Sequence[torch.Tensor]:
        """Return each matrix."""
        parts: Sequence[torch.Tensor] = values.split([each.weight.numel() for each in self.matrices])
        return parts

    def unmoved(self, reached: torch.Tensor) -> int:  # noqa: ARG002 - of routers
        """Return 0: there are no experts."""
        return 0

    def change(self, values: Float32Array) -> Float32Array:
        """Return what is added to the projections, flattened."""
        parts = self.by_layer(torch.from_numpy(values))
        shaped = [part.view(each.weight.shape) for part, each in zip(parts, self.matrices, strict=True)]
        return np.concatenate([(b @ a).numpy().ravel() for a, b in zip(shaped[::2], shaped[1::2], strict=True)])

    def write(
        self, sets: Float32Array, provenance: Mapping[str, object], languages: Sequence[tuple[str, ...] | None]
    ) -> Plan:
        """Return an empty plan with the record: the best numbers are in the checkpoint."""
        del sets, languages
        return Plan(self.loaded.fingerprint, (), dict(provenance))


class _Attention(RouterChange):
    """LoRA layers that can be left out."""

    def __init__(self, layers: Sequence[Linear]) -> None:
        super().__init__({})
        self.layers = layers

    @contextmanager
    def left_out(self) -> Iterator[None]:
        """Run the model without them, without gradient."""
        for each in self.layers:
            each._disable_adapters = True  # noqa: SLF001 - its own method also changes which parameters have gradients
        try:
            with torch.no_grad():
                yield
        finally:
            for each in self.layers:
                each._disable_adapters = False  # noqa: SLF001


def learning_pool(n_items: int) -> LearningData:
    """Read what all arms take their examples from, dev items in all languages, and scenes that protect the others."""
    return gather_data(
        "organism",
        examples="organism:reference",
        languages=LANGUAGES,
        generic=open_corpus("organism"),
        n_items=n_items,
        n_dev=N_DEV,
        protect=None,
    )


def part_of(pool: LearningData, first: int, last: int) -> LearningData:
    """Keep some examples of every language, of which there must be enough."""
    if any(len(task.items[code]) < last for code, task in pool.examples.items()):
        raise SystemExit(f"fewer than {last} examples in the pool; read more items")
    examples: dict[str, Task] = {
        code: replace(task, items={code: task.items[code][first:last]}) for code, task in pool.examples.items()
    }
    return replace(pool, examples=examples)


def learned_arm(
    model: HuggingFaceModel, arm: Arm, pool: LearningData, *, run: Run, seed: int, out: Path
) -> tuple[Learned, AttentionNumbers | None]:
    """Learn an arm from a seed's part of the pool, or read what was learned; attention has a model of its own."""
    steps, numbers = run.steps // (1 if arm.options.one_set else len(pool.languages)), None
    options = replace(arm.options, seed=seed, steps=steps, dev_every=max(1, min(steps // 3, MOST_BETWEEN)))
    data = part_of(pool, seed * run.n_examples, (seed + 1) * run.n_examples)
    if not options.is_adapter:
        data = replace(data, protected={}, guarded={})  # it serves no request in another language
    if arm.on_attention:
        own = load("organism")
        assert isinstance(own, HuggingFaceModel)  # noqa: S101 - the shipped model is one
        model, numbers = own, AttentionNumbers(own, seed)
    n_sets = 1 if options.one_set else len(data.languages)
    with track(f"learn {out.name}", n_sets * options.steps) as advance:
        learned = learn_plan(
            model,
            data,
            out=out,
            options=options,
            start=read_adapter(out.parent / f"probes-{run.name}-{seed}") if arm.from_probes else None,
            parameters=numbers,
            progress=advance,
        )
    return learned, numbers


def best_numbers(out: Path) -> Float32Array:
    """Read the numbers of the only set's best step."""
    with safe_open(out / CHECKPOINT, framework="np") as tensors:
        best: Float32Array = tensors.get_tensor("best")[0]
    return best


def closed_form(model: HuggingFaceModel, plan: Plan, out: Path) -> RouterAdapter:
    """Make an adapter of a plan by probes in closed form, as `isogloss adapt` does, or read it."""
    if not out.is_dir():
        adapt(model, plan, open_corpus("organism"), out=out)
    return read_adapter(out)


def other_probes(adapter: RouterAdapter) -> RouterAdapter:
    """Give the offsets of each rank the probe of the next one."""
    routers = tuple(replace(each, a=np.roll(each.a, 1, axis=0)) for each in adapter.routers)
    return replace(adapter, routers=routers, provenance={"control": "other probes", "of": adapter.sha256})


def permuted(what: Plan | RouterAdapter, seed: int) -> Plan | RouterAdapter:
    """Give what is added for each expert to another one of its layer, at random."""
    if isinstance(what, Plan):
        return random_control(what, seed=seed)
    routers = tuple(
        replace(each, b=each.b[np.random.default_rng([seed, each.layer]).permutation(len(each.b))])
        for each in what.routers
    )
    return replace(what, routers=routers, provenance={"control": "permuted", "of": what.sha256, "seed": seed})


def served(model: HuggingFaceModel, what: Served, language: str) -> AbstractContextManager[object]:
    """Serve requests in a language."""
    if what is None or (own := what.for_request(language)).is_empty:
        return nullcontext()
    return model.steer(own)
