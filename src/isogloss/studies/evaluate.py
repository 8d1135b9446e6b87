"""Evaluates a plan against the unsteered model and random controls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from isogloss.backends.huggingface import LoadedModel, prove_routers
from isogloss.evaluation.run import PLAN, evaluate
from isogloss.evaluation.tasks import Task
from isogloss.steering import Plan, random_control
from isogloss.studies.progress import track

__all__ = ["evaluate_plan"]


def evaluate_plan(loaded: LoadedModel, task: Task, plan: Plan, *, n_controls: int, out: Path) -> dict[str, Any]:
    """Answer the task unsteered, steered, and with random experts, as many per layer.

    Args:
        loaded: the model.
        task: the questions.
        plan: under test.
        n_controls: random plans, seeds 0 and on.
        out: folder of the evaluation.

    Returns:
        As `isogloss.evaluation.run.evaluate`.

    Raises:
        ModelError: the routers do not do what the family's row says.
    """
    prove_routers(loaded, next(iter(task.items.values()))[0].prompt)
    controls = {f"random-{seed}": random_control(plan, seed=seed) for seed in range(n_controls)}
    arms = {PLAN: plan, **controls}
    total = (len(arms) + 1) * sum(map(len, task.items.values()))
    with track(f"evaluate {task.name}", total) as advance:
        return evaluate(loaded, task, arms, out=out, progress=advance)
