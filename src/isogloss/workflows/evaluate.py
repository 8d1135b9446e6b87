"""Evaluates a plan against the unsteered model and the arms that it is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from isogloss.backends.model import Model
from isogloss.evaluation.arms import make_arms
from isogloss.evaluation.asked import AskedTask
from isogloss.evaluation.asked_lm_eval import AskedLmEval
from isogloss.evaluation.run import Asked, RunOptions, evaluate
from isogloss.evaluation.summary import EvaluationSummary
from isogloss.evaluation.tasks import Task
from isogloss.evaluation.tasks.lm_eval import LmEvalTasks
from isogloss.steering import Plan
from isogloss.workflows.progress import track

__all__ = ["evaluate_plan"]


def evaluate_plan(
    model: Model,
    task: Task | LmEvalTasks,
    plan: Plan,
    *,
    out: Path,
    arms: Sequence[str] = ("random:1",),
    options: RunOptions | None = None,
) -> EvaluationSummary:
    """Answer the task unsteered, steered, and under other plans.

    Args:
        model: unsteered.
        task: the questions, of our own tasks or of those of lm-eval.
        plan: under test.
        out: folder of the evaluation.
        arms: what to compare with, as `isogloss.evaluation.arms.make_arms` reads them.
        options: how items are answered.

    Returns:
        As `isogloss.evaluation.run.evaluate`.

    Raises:
        CorpusError: a document of lm-eval leaves nothing to measure.
        ModelError: the routers do not do what the family's row says.
        PlanError: an arm cannot be made, changes nothing, or needs to know a language or phase that nothing says.
        RunError: lm-eval asks for more than the model takes or than is done here, or has no such metric; the folder
            holds something else, or another process works there.
    """
    every = make_arms(plan, arms)
    options = options or RunOptions()
    asked: Asked = AskedTask(model, task, options.sampling) if isinstance(task, Task) else AskedLmEval(model, task)
    model.prove(next(iter(asked.questions.values()))[0].text)
    total = (len(every) + 1) * sum(map(len, asked.questions.values()))
    with track(f"evaluate {task.name}", total) as advance:
        return evaluate(model, asked, every, out=out, options=options, progress=advance)
