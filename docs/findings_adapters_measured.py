"""Learns the arms of docs/findings_adapters.py, measures each of them once, and reads back what was measured.

Every result stays in ``findings_adapters.safetensors`` beside this file, so that a seed more costs that seed alone,
wherever it runs: what is there is not learned or measured again.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from findings_adapters_arms import (
    ARMS,
    LANGUAGES,
    OTHERS,
    PIVOT,
    AttentionNumbers,
    Run,
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
from isogloss.files import read_bytes, read_json, sha256, write_atomically, write_json
from isogloss.learning import LearnedSet, read_history
from isogloss.organism import model_folder
from isogloss.statistics import Estimate
from isogloss.steering import Plan, RouterAdapter

__all__ = [
    "LAYERS",
    "N_OTHERS",
    "N_ROUTED",
    "N_TEST",
    "RUNS",
    "STORED",
    "Measured",
    "everything",
    "gain",
    "listed",
    "measure",
    "of_arm",
    "read_measured",
    "read_stored",
    "store",
]

STORED = Path(__file__).with_name("findings_adapters.safetensors")
"""What has been measured so far, of every arm, number of examples and seed."""

RUNS = (Run("32", 32, 120, (0, 1, 2)), Run("1200", 1200, 240, (0, 1, 2)), Run("1200-long", 1200, 1200, (0,)))

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
        best_steps: that were chosen, of every set; empty for what was not learned.
        kl: of the next token of English scenes at these steps, in nats per token.
        n_numbers: that were learned.
    """

    right: Mapping[str, FloatArray]
    distance: Mapping[str, FloatArray]
    best_steps: Sequence[int] = ()
    kl: Sequence[float] = ()
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


def arrays(raw: dict[str, Any], sets: Sequence[LearnedSet], n_numbers: int) -> Measured:
    """Make arrays of what was kept."""
    right, distance = (
        {code: np.array(rows, dtype=np.float64) for code, rows in raw[part].items()} for part in ("right", "distance")
    )
    right = {code: rows[: N_OTHERS if code in OTHERS else N_TEST] for code, rows in right.items()}
    return Measured(right, distance, [each.best_step for each in sets], [each.kl for each in sets], n_numbers)


def store(found: Mapping[str, Measured], path: Path = STORED) -> None:
    """Write what was measured: results as bytes, divergences rounded to float16, at most 0.0003 apart."""
    arrays, facts = {}, {}
    for name, each in sorted(found.items()):
        arrays |= {f"{name}/right/{code}": rows.astype(np.uint8) for code, rows in each.right.items()}
        arrays |= {f"{name}/distance/{code}": rows.astype(np.float16) for code, rows in each.distance.items()}
        facts[name] = {"best_steps": list(each.best_steps), "kl": list(each.kl), "n_numbers": each.n_numbers}
    write_atomically(path, save(arrays, {"arms": json.dumps(facts), "model": _model()}))


def read_stored(path: Path = STORED) -> dict[str, Measured]:
    """Read what `store` has written; by arm, number of examples and seed."""
    if not path.is_file():
        return {}
    parts: dict[str, dict[str, dict[str, FloatArray]]] = {}
    with safe_open(path, framework="np") as tensors:
        facts = json.loads(tensors.metadata()["arms"])
        if tensors.metadata()["model"] != _model():
            raise SystemExit(f"{path} holds results of another model; remove it to measure all arms again")
        for key in tensors.keys():  # noqa: SIM118 - no mapping
            name, part, code = key.split("/")
            rows = tensors.get_tensor(key).astype(np.float64)
            parts.setdefault(name, {"right": {}, "distance": {}})[part][code] = rows
    return {name: Measured(**parts[name], **each) for name, each in facts.items()}


def _model() -> str:
    """Hash the shipped model's weights."""
    return sha256(read_bytes(model_folder() / "model.safetensors"))


def measure(kept: Path) -> None:
    """Learn every arm and measure it and its controls; what was done before is kept."""
    model, done = load("organism"), set(read_stored())
    assert isinstance(model, HuggingFaceModel)  # noqa: S101 - the shipped model is one
    task = load_task("organism", n_items=N_TEST, split="test")

    def under(what: Plan | RouterAdapter | None, name: str) -> None:
        measured(model, task, partial(served, model, what), kept / f"{name}.json")

    if "baseline" not in done:
        under(None, "baseline")
    for run in RUNS:
        pool = learning_pool(2 * run.n_examples * MOST_SEEDS + 600)
        for is_last, seed in itertools.product((False, True), run.seeds):  # what needs the probes comes after all seeds
            of_run = f"{run.name}-{seed}"
            if done >= {f"{arm}-{of_run}" for arm, _ in everything()}:
                continue
            for arm in (each for each in ARMS if each.from_probes == is_last):
                name = f"{arm.name}-{of_run}"
                learned, numbers = learned_arm(model, arm, pool, run=run, seed=seed, out=kept / name)
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


def read_measured(kept: Path) -> dict[str, Measured]:
    """Read what `measure` has measured into a folder so far; by arm, number of examples and seed."""
    names = [name for run in RUNS for arm, _ in everything() for name in run.names(arm)]
    found = {}
    for name in ("baseline", *names):
        if (file := kept / f"{name}.json").is_file():
            is_learned = (kept / name / "history.jsonl").is_file()
            sets = read_history(kept / name).sets if is_learned else ()
            size = best_numbers(kept / name).size * len(sets) if is_learned else 0
            found[name] = arrays(read_json(file), sets, size)
    return found


def _attention(numbers: AttentionNumbers, folder: Path) -> Context:
    best = best_numbers(folder)
    return lambda _: numbers.steered(best)


def of_arm(
    found: Mapping[str, Measured], arm: str, run: Run, codes: Sequence[str] = LANGUAGES
) -> dict[str, FloatArray]:
    """Average each item's result over the seeds of an arm."""
    names = ["baseline"] if arm == "baseline" else run.names(arm)
    return {code: np.mean([found[name].right[code] for name in names], axis=0) for code in codes}


def gain(before: Mapping[str, FloatArray], after: Mapping[str, FloatArray]) -> Estimate:
    """Difference of two arms, mean over languages, interval over languages and items."""
    return compare_scores(before, after).overall.difference


def listed(found: Mapping[str, Measured], run: Run) -> list[tuple[str, str]]:
    """Name every arm that was measured with all seeds of a run, and what tables say of it."""
    return [(arm, says) for arm, says in everything() if found.keys() >= {*run.names(arm)}]


def everything() -> Iterator[tuple[str, str]]:
    """Name every arm, and what tables say of it."""
    yield from ((arm.name, arm.says) for arm in ARMS if not arm.from_probes)
    yield "probes", "the plan by probes in closed form, without a condition"
    yield from ((arm.name, arm.says) for arm in ARMS if arm.from_probes)
    yield "other-probes", "*control*: each language's offsets with the probe of another"
    yield from ((f"permuted-{arm.name}", f"*permuted*: {arm.says}") for arm in ARMS if arm.name in PERMUTED)
