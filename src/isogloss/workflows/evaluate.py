"""Evaluates a plan against the unsteered model and the arms that it is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from isogloss.backends.model import Model
from isogloss.evaluation.arms import make_arms
from isogloss.evaluation.run import RunOptions, evaluate
from isogloss.evaluation.summary import EvaluationSummary
from isogloss.evaluation.tasks import Task
from isogloss.steering import Plan
from isogloss.workflows.progress import track

__all__ = ["evaluate_plan"]


def evaluate_plan(
    model: Model,
    task: Task,
    plan: Plan,
    *,
    out: Path,
    arms: Sequence[str] = ("random:1",),
    options: RunOptions | None = None,
) -> EvaluationSummary:
    """Answer the task unsteered, steered, and under other plans.

    Args:
        model: unsteered.
        task: the questions.
        plan: under test.
        out: folder of the evaluation.
        arms: what to compare with, as `isogloss.evaluation.arms.make_arms` reads them.
        options: how items are answered.

    Returns:
        As `isogloss.evaluation.run.evaluate`.

    Raises:
        ModelError: the routers do not do what the family's row says.
        PlanError: an arm cannot be made.
        RunError: the folder holds something else, or another process works there.
    """
    every = make_arms(plan, arms)
    first = next(iter(task.items.values()))[0]
    model.prove(first.prompt or first.reference)
    total = (len(every) + 1) * sum(map(len, task.items.values()))
    with track(f"evaluate {task.name}", total) as advance:
        return evaluate(model, task, every, out=out, options=options, progress=advance)
