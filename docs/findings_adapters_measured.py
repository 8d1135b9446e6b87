"""Learns the arms of docs/findings_adapters.py, measures each of them once, and reads back what was measured."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from findings_adapters_arms import (
    ARMS,
    LANGUAGES,
    OTHERS,
    PIVOT,
    AttentionNumbers,
    best_numbers,
    closed_form,
    learned_arm,
    learning_pool,
    other_probes,
    permuted,
    served,
)
from isogloss.analysis import divergence
from isogloss.arrays import FloatArray
from isogloss.backends.huggingface import HuggingFaceModel
from isogloss.backends.open import load
from isogloss.evaluation import Task, ask, compare_scores, load_task
from isogloss.evaluation.asked import AskedTask
from isogloss.files import read_json, write_json
from isogloss.learning import LearnedSet, read_history
from isogloss.statistics import Estimate
from isogloss.steering import Plan, RouterAdapter

__all__ = [
    "LAYERS",
    "N_OTHERS",
    "N_ROUTED",
    "N_TEST",
    "RUNS",
    "Measured",
    "everything",
    "gain",
    "listed",
    "measure",
    "of_arm",
    "read",
]

RUNS: tuple[tuple[int, tuple[int, ...]], ...] = ((32, (0, 1)),)
"""Examples of each language, and the seeds with which everything is learned from as many."""

MOST_SEEDS = 3
"""For which the pool has examples, so that those of a seed do not depend on how many seeds there are."""

N_TEST, N_OTHERS, N_ROUTED, BATCH = 100, 40, 60, 64
LAYERS = (4, 9)
"""First and last layer over which changes of divergence are averaged."""

PERMUTED = ("router", "low-rank", "plan")


@dataclass(frozen=True)
class Measured:
    """What came out of an arm.

    Attributes:
        right: language to ``[n_items]`` results.
        distance: language to ``[n_routed, n_layers]`` divergences from the pivot.
        sets: how learning went; empty for what was not learned.
        n_numbers: that were learned.
    """

    right: Mapping[str, FloatArray]
    distance: Mapping[str, FloatArray]
    sets: Sequence[LearnedSet] = ()
    n_numbers: int = 0


Context = Callable[[str], AbstractContextManager[object]]
"""What requests in a language are served under."""


def measured(model: HuggingFaceModel, task: Task, context: Context, kept: Path) -> None:
    """Answer the test problems and capture the routing of their prompts, once."""
    if not kept.is_file():
        asked = ask(model, task)
        assert isinstance(asked, AskedTask)  # noqa: S101 - of a Task
        right, profiles = {}, {}
        for code, questions in asked.questions.items():
            with context(code):
                questions = questions[: N_OTHERS if code in OTHERS else N_TEST]  # noqa: PLW2901 - fewer of them
                batches = [questions[first : first + BATCH] for first in range(0, len(questions), BATCH)]
                right[code] = [bool(record.value) for batch in batches for record in asked.answer(code, batch)]
                if code in (*LANGUAGES, PIVOT):
                    prompts = questions[:N_ROUTED]
                    texts, ids = [each.text for each in prompts], [each.item_id for each in prompts]
                    profiles[code] = model.capture(texts, ids).profiles
        distance = {code: divergence(profiles[code], profiles[PIVOT]).tolist() for code in LANGUAGES}
        write_json(kept, {"right": right, "distance": distance})


def arrays(raw: tuple[dict[str, Any], ...], sets: Sequence[LearnedSet], n_numbers: int) -> Measured:
    """Make arrays of what was kept."""
    right, distance = ({code: np.array(rows, dtype=np.float64) for code, rows in part.items()} for part in raw)
    right = {code: rows[: N_OTHERS if code in OTHERS else N_TEST] for code, rows in right.items()}
    return Measured(right, distance, sets, n_numbers)


def measure(kept: Path) -> None:
    """Learn every arm and measure it and its controls; what was done before is kept."""
    model = load("organism")
    assert isinstance(model, HuggingFaceModel)  # noqa: S101 - the shipped model is one
    task = load_task("organism", n_items=N_TEST, split="test")

    def under(what: Plan | RouterAdapter | None, name: str) -> None:
        measured(model, task, partial(served, model, what), kept / f"{name}.json")

    under(None, "baseline")
    for n_examples, seeds in RUNS:
        pool = learning_pool(2 * n_examples * MOST_SEEDS + 600)
        for is_last, seed in itertools.product((False, True), seeds):  # what needs the probes comes after all seeds
            of_run = f"{n_examples}-{seed}"
            for arm in (each for each in ARMS if each.from_probes == is_last):
                name = f"{arm.name}-{of_run}"
                learned, numbers = learned_arm(model, arm, pool, n_examples=n_examples, seed=seed, out=kept / name)
                if numbers is not None:
                    measured(numbers.loaded, task, _attention(numbers, kept / name), kept / f"{name}.json")
                    continue
                under(learned.plan, name)
                if arm.name in PERMUTED:
                    under(permuted(learned.plan, seed), f"permuted-{name}")
                if isinstance(learned.plan, Plan):
                    probes = closed_form(model, learned.plan, kept / f"probes-{of_run}")
                    under(probes, f"probes-{of_run}")
                    under(other_probes(probes), f"other-probes-{of_run}")


def read(kept: Path) -> dict[str, Measured]:
    """Read what has been measured so far; by arm, number of examples and seed."""
    names = [f"{arm}-{n_examples}-{seed}" for n_examples, seeds in RUNS for seed in seeds for arm, _ in everything()]
    found = {}
    for name in ("baseline", *names):
        if (file := kept / f"{name}.json").is_file():
            raw = read_json(file)
            is_learned = (kept / name / "history.jsonl").is_file()
            sets = read_history(kept / name).sets if is_learned else ()
            size = best_numbers(kept / name).size * len(sets) if is_learned else 0
            found[name] = arrays((raw["right"], raw["distance"]), sets, size)
    return found


def _attention(numbers: AttentionNumbers, folder: Path) -> Context:
    best = best_numbers(folder)
    return lambda _: numbers.steered(best)


def of_arm(
    found: Mapping[str, Measured], arm: str, run: tuple[int, Sequence[int]], codes: Sequence[str] = LANGUAGES
) -> dict[str, FloatArray]:
    """Average each item's result over the seeds of an arm."""
    n_examples, seeds = run
    names = ["baseline"] if arm == "baseline" else [f"{arm}-{n_examples}-{seed}" for seed in seeds]
    return {code: np.mean([found[name].right[code] for name in names], axis=0) for code in codes}


def gain(before: Mapping[str, FloatArray], after: Mapping[str, FloatArray]) -> Estimate:
    """Difference of two arms, mean over languages, interval over languages and items."""
    return compare_scores(before, after).overall.difference


def listed(found: Mapping[str, Measured], run: tuple[int, Sequence[int]]) -> list[tuple[str, str]]:
    """Name every arm that was measured with all seeds of a run, and what tables say of it."""
    return [(arm, says) for arm, says in everything() if all(f"{arm}-{run[0]}-{seed}" in found for seed in run[1])]


def everything() -> Iterator[tuple[str, str]]:
    """Name every arm, and what tables say of it."""
    yield from ((arm.name, arm.says) for arm in ARMS if not arm.from_probes)
    yield "probes", "the plan by probes in closed form, without a condition"
    yield from ((arm.name, arm.says) for arm in ARMS if arm.from_probes)
    yield "other-probes", "*control*: each language's offsets with the probe of another"
    yield from ((f"permuted-{arm.name}", f"*permuted*: {arm.says}") for arm in ARMS if arm.name in PERMUTED)
