"""What docs/findings_learning.py learns on the shipped model, from what, and what learned plans are compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from isogloss.arrays import FloatArray
from isogloss.backends.model import Model
from isogloss.corpora import Corpus
from isogloss.evaluation import Task
from isogloss.learning import Learned, LearningData, LearnOptions, gather_data
from isogloss.organism import TIERS
from isogloss.steering import Intervention, Plan, random_control
from isogloss.workflows import learn_with_progress, open_corpus

__all__ = [
    "ARMS",
    "CONTROLS",
    "DOSES",
    "LANGUAGES",
    "N_DEV",
    "N_EXAMPLES",
    "PIVOT",
    "RECIPE",
    "SEEDS",
    "SHARED",
    "controls",
    "learned_arms",
    "learning_pool",
]

PIVOT = "eng_Latn"
LANGUAGES = TIERS["very low"].languages
SEEDS = (0, 1, 2)
N_POOL = 3900
"""Items of the dev split: half of them, less 64 dev items, are the pool that seeds take their examples from."""

N_DEV, N_EXAMPLES = 64, 600
RECIPE = LearnOptions(steps=200, dev_every=50)
"""Of the plans by language. That of seed 0 ships with the package."""
SHARED = replace(RECIPE, shared=True, steps=120, dev_every=60)
ALIGNED = replace(SHARED, objective="alignment")
FEW = (32,)
LAYERS = {"early": (0, 3), "middle": (4, 9), "late": (10, 11)}


@dataclass(frozen=True)
class Arm:
    """Something that is learned.

    Attributes:
        name: of its folders, with the seed behind it.
        says: what the table says.
        seeds: that are run.
        options: but the seed.
        n_examples: per language; None for all of the seed's.
        parallel: ``true`` or ``shuffled`` pairs; None for answers.
    """

    name: str
    says: str
    seeds: Sequence[int]
    options: LearnOptions
    n_examples: int | None = None
    parallel: str | None = None

    def data(self, pool: LearningData, seed: int) -> LearningData:
        """Take the seed's part of the pool."""
        first = seed * N_EXAMPLES
        last = first + (self.n_examples or N_EXAMPLES)
        if self.parallel is None:
            return replace(pool, examples=part_of(pool.examples, first, last), parallel=None)
        assert pool.parallel is not None  # noqa: S101 - the pool was gathered with it
        pairs = pool.parallel.select(pool.parallel.languages, pool.parallel.item_ids[first:last])
        return replace(pool, examples={}, parallel=shuffled(pairs, seed) if self.parallel == "shuffled" else pairs)


ARMS = (
    Arm("by-language", "answers, by language", SEEDS, RECIPE),
    Arm("shared", "answers, shared", SEEDS, SHARED),
    Arm("alignment", "alignment alone, shared", SEEDS, ALIGNED, parallel="true"),
    Arm("shuffled", "alignment to shuffled pairs, shared", SEEDS, ALIGNED, parallel="shuffled"),
    *(
        Arm(name, f"answers, shared, layers {a}-{b}", SEEDS[:1], replace(SHARED, layers=(a, b)))
        for name, (a, b) in LAYERS.items()
    ),
    *(Arm(f"few-{n}", f"answers, shared, {n} examples", SEEDS[:1], SHARED, n_examples=n) for n in FEW),
)


def part_of(tasks: Mapping[str, Task], first: int, last: int) -> dict[str, Task]:
    """Keep some items of every language, of which there must be enough."""
    if any(len(task.items[code]) < last for code, task in tasks.items()):
        raise SystemExit(f"fewer than {last} examples in the pool; raise N_POOL")
    return {code: replace(task, items={code: task.items[code][first:last]}) for code, task in tasks.items()}


def shuffled(pairs: Corpus, seed: int) -> Corpus:
    """Give every text of the languages the pivot's text of another item, the same in each language."""
    order = np.random.default_rng(seed).permutation(len(pairs.item_ids))
    after = dict(zip(order.tolist(), np.roll(order, 1).tolist(), strict=True))
    other = tuple(pairs.texts[PIVOT][after[place]] for place in range(len(pairs.item_ids)))
    return replace(pairs, texts={**pairs.texts, PIVOT: other})


def learning_pool() -> LearningData:
    """Read what all arms take their examples from, the dev items, and English scenes to measure divergence on."""
    return gather_data(
        "organism",
        examples="organism:reference",
        languages=LANGUAGES,
        alignment=True,
        generic=open_corpus("organism"),
        n_items=N_POOL,
        n_dev=N_DEV,
    )


def learned_arms(model: Model, pool: LearningData, kept: Path) -> dict[str, Learned]:
    """Learn every arm with every seed, those that are needed most first."""
    learned = {}
    for arm in ARMS:
        for seed in arm.seeds:
            name, options = f"{arm.name}-{seed}", replace(arm.options, seed=seed)
            learned[name] = learn_with_progress(model, arm.data(pool, seed), out=kept / name, options=options)
    return learned


def with_values(plan: Plan, change: Callable[[Intervention], FloatArray], **record: object) -> Plan:
    """Change the values of every rule."""
    rules = (replace(each, values=tuple(map(float, change(each)))) for each in plan.interventions)
    return Plan(plan.fingerprint, tuple(rules), {**record, "plan_sha256": plan.sha256})


def scaled(plan: Plan, factor: float) -> Plan:
    """Multiply every offset."""
    return with_values(plan, lambda rule: factor * np.array(rule.values), control="scaled", factor=factor)


def same_norm(plan: Plan, seed: int) -> Plan:
    """Replace the offsets of every language and layer by random ones of the same Euclidean norm."""

    def drawn(rule: Intervention) -> FloatArray:
        language = 0 if rule.languages is None else 1 + LANGUAGES.index(rule.languages[0])
        values = np.random.default_rng([seed, rule.layer, language]).standard_normal(len(rule.experts))
        return np.asarray(values * np.linalg.norm(np.array(rule.values)) / np.linalg.norm(values))

    return with_values(plan, drawn, control="same norm", seed=seed)


def exchanged(plan: Plan) -> Plan:
    """Give each language the offsets of the one before it."""
    after = dict(zip(LANGUAGES, (*LANGUAGES[1:], LANGUAGES[0]), strict=True))
    rules = [replace(each, languages=(after[code],)) for each in plan.interventions for code in each.languages or ()]
    return Plan(plan.fingerprint, tuple(rules), {"control": "exchanged", "plan_sha256": plan.sha256})


CONTROLS = (
    ("permuted", "its offsets, permuted within each layer", SEEDS),
    ("same-norm", "random offsets of equal norm", SEEDS[:1]),
    ("other-language", "offsets of another of the four", SEEDS),
)
DOSES = (0.5, 2.0)


def controls(plans: Mapping[str, Plan]) -> dict[str, Plan]:
    """Make what the plans by language are compared with."""
    make: dict[str, Callable[[Plan, int], Plan]] = {
        "permuted": lambda plan, seed: random_control(plan, seed=seed),
        "same-norm": same_norm,
        "other-language": lambda plan, _: exchanged(plan),
    }
    made = {
        f"{name}-{seed}": make[name](plans[f"by-language-{seed}"], seed)
        for name, _, seeds in CONTROLS
        for seed in seeds
    }
    return made | {f"scale-{factor:g}": scaled(plans["by-language-0"], factor) for factor in DOSES}
