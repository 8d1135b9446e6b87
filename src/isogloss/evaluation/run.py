"""Runs a task under several arms and compares each with the baseline, item by item.

An evaluation is a folder: ``settings.json`` (what decides the answers), ``ARM/xxx_Xxxx.jsonl`` (one line per item,
written whole or not at all) and ``summary.json``. Started again with the same settings, it goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from isogloss.backends.huggingface import LoadedModel, generate, measure_effect, steer
from isogloss.errors import RunError
from isogloss.evaluation.paired import compare
from isogloss.evaluation.tasks import Item, Task
from isogloss.files import claim_folder, write_atomically, write_json
from isogloss.steering import Plan

__all__ = ["BASELINE", "PLAN", "evaluate", "summarise"]

BASELINE = "baseline"
PLAN = "plan"

_PROBE_ITEMS = 4


def evaluate(
    loaded: LoadedModel,
    task: Task,
    arms: Mapping[str, Plan],
    *,
    out: Path,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Answer every item in every arm, the same prompts in the same batches, and compare.

    Args:
        loaded: the model, unsteered.
        task: items with the same ids in every language.
        arms: name to plan; ``baseline`` (no plan) is added and answered first. ``plan`` is the arm under test, all
            others are its controls.
        out: folder of the evaluation, new or from a stopped run with the same settings.
        progress: told the number of items answered.

    Returns:
        The summary, as written to ``summary.json``.

    Raises:
        PlanError: a plan belongs to another model, or changes no chosen expert on the task's own prompts.
        RunError: ``out`` holds an evaluation with other settings.
    """
    effects = {name: _effect(loaded, plan, task) for name, plan in arms.items()}
    claim_folder(out, "settings.json", _settings(loaded, task, arms))
    outcomes: dict[str, dict[str, npt.NDArray[np.bool_]]] = {}
    for arm in (BASELINE, *arms):
        for language, items in task.items.items():
            path = out / arm / f"{language}.jsonl"
            if not path.is_file():
                with steer(loaded, arms[arm]) if arm in arms else nullcontext():
                    _answer(loaded, task, items, path)
            outcomes.setdefault(arm, {})[language] = _read_outcomes(path, items)
            if progress is not None:
                progress(len(items))
    summary = summarise(outcomes) | {"task": task.name, "model": loaded.name, "changed_choices": effects}
    write_json(out / "summary.json", summary)
    return summary


def summarise(outcomes: Mapping[str, Mapping[str, npt.NDArray[np.bool_]]]) -> dict[str, Any]:
    """Compare every arm with the baseline.

    Args:
        outcomes: arm to language to correctness per item; must hold ``baseline`` and ``plan``.

    Returns:
        ``arms`` (share of right answers per arm and language), ``per_language`` and ``overall`` of the arm ``plan``,
        and ``controls``: the same two for every other arm.
    """
    compared = {
        arm: compare(outcomes[BASELINE], by_language) for arm, by_language in outcomes.items() if arm != BASELINE
    }
    shares = {
        arm: {language: float(right.mean()) for language, right in by_language.items()}
        for arm, by_language in outcomes.items()
    }
    controls = {arm: comparison.to_json() for arm, comparison in compared.items() if arm != PLAN}
    return {"arms": shares, **compared[PLAN].to_json(), "controls": controls}


def _effect(loaded: LoadedModel, plan: Plan, task: Task) -> dict[str, float]:
    """Share of tokens whose chosen experts the plan changes, by layer, on a few of the task's own prompts."""
    probes = [item.prompt for items in task.items.values() for item in items[:_PROBE_ITEMS]]
    effect = measure_effect(loaded, plan, probes)
    effect.require(plan)
    return {str(layer): share for layer, share in effect.changed.items()}


def _settings(loaded: LoadedModel, task: Task, arms: Mapping[str, Plan]) -> dict[str, Any]:
    prompts = json.dumps({language: list(items) for language, items in task.items.items()}, sort_keys=True)
    return {
        "model": loaded.fingerprint().to_json(),
        "config_sha256": loaded.config_sha256,
        "dtype": str(loaded.model.dtype),
        "task": task.name,
        "items_sha256": hashlib.sha256(prompts.encode()).hexdigest(),
        "max_new_tokens": task.max_new_tokens,
        "arms": {name: plan.sha256 for name, plan in arms.items()},
    }


def _answer(loaded: LoadedModel, task: Task, items: Sequence[Item], path: Path) -> None:
    outputs = generate(loaded, [item.prompt for item in items], max_new_tokens=task.max_new_tokens)
    lines = []
    for item, output in zip(items, outputs, strict=True):
        parsed = task.parse(output)
        record = {
            "item": item.item_id,
            "prompt_sha256": hashlib.sha256(item.prompt.encode()).hexdigest(),
            "output": output,
            "parsed": parsed,
            "expected": item.answer,
            "correct": parsed == item.answer,
        }
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, "".join(lines).encode())


def _read_outcomes(path: Path, items: Sequence[Item]) -> npt.NDArray[np.bool_]:
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if [record["item"] for record in records] != [item.item_id for item in items]:
        raise RunError(f"{path} does not hold the task's items in order; remove it and run again")
    return np.array([record["correct"] for record in records], dtype=bool)
