"""Evaluates a plan against the unsteered model and the arms that it is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from isogloss.backends.model import Model
from isogloss.evaluation import (
    N_RANDOM,
    EvaluationSummary,
    LmEvalTasks,
    RunOptions,
    Task,
    ask,
    kept_date,
    load_task,
    make_arms,
    run_evaluation,
)
from isogloss.progress import track
from isogloss.steering import Steering, note_other_commit

__all__ = ["evaluate_plan"]


def evaluate_plan(
    model: Model,
    plan: Steering,
    *,
    task: str | Task | LmEvalTasks,
    out: str | Path,
    arms: Sequence[str] = (f"random:{N_RANDOM}",),
    options: RunOptions | None = None,
) -> EvaluationSummary:
    """Ask the same questions without the plan, with it, and under other plans, and compare item by item.

    Args:
        model: unsteered.
        plan: under test.
        task: name of a task, or one from `isogloss.task`, which chooses languages and items; or tasks of lm-eval.
        out: folder of the evaluation, new or of a stopped one with the same settings.
        arms: what to compare with, such as ``random:3``, ``early``, ``suppress``, ``strength=0.1,0.25``.
        options: how items are answered.

    Raises:
        CorpusError: there is no such task, or a document of lm-eval leaves nothing to measure.
        ModelError: the routers do not choose as their family's row says.
        PlanError: the plan is for another model or changes nothing on the task's own prompts; or an arm cannot be made,
            or needs a language or phase that is unknown.
        RunError: lm-eval needs a longer context or another kind of generation, or has no such metric; the folder
            holds something else, or another process works there.
    """
    task = load_task(task) if isinstance(task, str) else task
    every = make_arms(plan, arms)
    options = options or RunOptions()
    note_other_commit(plan, model.revision)
    asked = ask(model, task, options.sampling, today=kept_date(Path(out)))
    model.prove(next(iter(asked.questions.values()))[0].text)
    total = (len(every) + 1) * sum(map(len, asked.questions.values()))
    with track(f"evaluate {task.name}", total) as advance:
        return run_evaluation(model, asked, every, out=Path(out), options=options, progress=advance)
