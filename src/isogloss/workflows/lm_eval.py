"""Evaluates a plan by tasks of lm-evaluation-harness, and says what was found as an evaluation of our own tasks does.

The folder holds ``settings.json``, ``harness.json`` (the value of every document in every arm and metric) and
``summary.json`` (one metric, compared). The harness answers a task in one piece, so a stopped evaluation begins again;
a finished one is compared in another metric without running anything.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from isogloss.backends.model import Model
from isogloss.errors import CorpusError, LanguageError, RunError
from isogloss.evaluation.arms import BASELINE, PLAN, make_arms
from isogloss.evaluation.guard import Guard, guard_pivot
from isogloss.evaluation.harness import HarnessOptions, HarnessResult, HarnessScores, evaluate_with_harness
from isogloss.evaluation.summary import SUMMARY, EvaluationSummary
from isogloss.files import claim_folder, read_json, write_json, write_typed
from isogloss.languages import resolve
from isogloss.steering import Plan
from isogloss.workflows.progress import busy

__all__ = ["LmEvalRequest", "evaluate_by_lm_eval", "language_of", "tasks_in"]

_SETTINGS, _VALUES = "settings.json", "harness.json"
_PROBE = "The ferry leaves at seven, but in winter the captain waits for the school children."


@dataclass(frozen=True)
class LmEvalRequest:
    """What is evaluated.

    Attributes:
        tasks: names of tasks or groups of the harness.
        languages: full codes; of tasks that are named by a language, only these. Empty for all.
        metric: to compare, as the harness writes it, its filter with it or not: ``acc`` or ``acc,none``; None for the
            first by name.
        pivot: language that a plan must not harm.
        options: how the harness runs the tasks.
    """

    tasks: tuple[str, ...]
    languages: tuple[str, ...] = ()
    metric: str | None = None
    pivot: str = "eng_Latn"
    options: HarnessOptions = field(default_factory=HarnessOptions)


def evaluate_by_lm_eval(
    model: Model,
    plan: Plan,
    request: LmEvalRequest,
    *,
    out: Path,
    arms: Sequence[str] = ("random:1",),
) -> EvaluationSummary:
    """Run tasks of the harness unsteered, steered, and under other plans, and compare document by document.

    Args:
        model: unsteered.
        plan: under test.
        request: what is evaluated.
        out: folder of the evaluation.
        arms: what to compare with, as `isogloss.evaluation.arms.make_arms` reads them.

    Returns:
        The summary, as written to ``summary.json``: the same fields as of our own tasks, as far as the harness logs
        what they need. Tasks stand under their language where their name ends in one, else under their name.

    Raises:
        CorpusError: lm-eval is not installed, has no such task, or no task is in the languages asked for.
        ModelError: the routers do not do what the family's row says.
        PlanError: an arm cannot be made, or changes nothing.
        RunError: the folder holds something else, two arms were asked different things, or there is no such metric.
    """
    request = replace(request, tasks=tasks_in(request.tasks, request.languages))
    every = make_arms(plan, arms)
    settings = _settings(model, request, every)
    if out.exists():
        claim_folder(out, _SETTINGS, settings)  # refuses what is something else before anything is run
    if (out / _VALUES).is_file():
        result = HarnessResult.from_json(read_json(out / _VALUES))
    else:
        model.prove(_PROBE)
        with busy(f"lm-eval: {', '.join(request.tasks)}"):
            result = evaluate_with_harness(model, request.tasks, every, options=request.options)
        claim_folder(out, _SETTINGS, settings)
        write_json(out / _VALUES, result.to_json())
    summary = _summarise(result, request, model=model.name, engine=settings["engine"])
    write_typed(out / SUMMARY, summary)
    return summary


def tasks_in(tasks: Sequence[str], languages: Sequence[str]) -> tuple[str, ...]:
    """Choose the tasks that are named by one of some languages; all where no language is given.

    Raises:
        CorpusError: a task is named by no language where some are given, or none is left.

    Example:
        >>> tasks_in(["mgsm_direct_sw", "mgsm_direct_de"], ["swh_Latn"])
        ('mgsm_direct_sw',)
    """
    if not languages:
        return tuple(tasks)
    for task in tasks:
        if language_of(task) is None:
            raise CorpusError(
                f"--languages chooses among tasks named by their language, and {task} is not; name tasks such as "
                "belebele_swh_Latn, or leave --languages out"
            )
    chosen = tuple(task for task in tasks if language_of(task) in languages)
    if not chosen:
        raise CorpusError(f"none of {', '.join(tasks)} is in {', '.join(languages)}; name tasks in these languages")
    return chosen


def language_of(task: str) -> str | None:
    """Read the language off the end of a task's name.

    Returns:
        The full code; None where the name ends in none.

    Example:
        >>> [language_of(name) for name in ("mgsm_direct_sw", "belebele_swh_Latn", "arc_easy")]
        ['swh_Latn', 'swh_Latn', None]
    """
    parts = task.split("_")
    for n_parts in (2, 1):
        if len(parts) > n_parts:
            try:
                return resolve("_".join(parts[-n_parts:]))
            except LanguageError:
                continue
    return None


def _settings(model: Model, request: LmEvalRequest, arms: Mapping[str, Plan]) -> dict[str, Any]:
    """All that decides the values."""
    settings = {
        **model.describe(),
        "task": _name(request),
        "harness": asdict(request.options),
        "arms": {BASELINE: None, **{name: plan.sha256 for name, plan in arms.items()}},
    }
    copied: dict[str, Any] = json.loads(json.dumps(settings, default=str))  # as it will be read back
    return copied


def _name(request: LmEvalRequest) -> str:
    return f"lm-eval:{','.join(request.tasks)}"


def _metric(result: HarnessResult, wanted: str | None) -> str:
    """Find the metric asked for, or the first."""
    found = [name for name in result.metrics if wanted is None or wanted in (name, name.partition(",")[0])]
    if not found or (wanted is not None and wanted not in found and len(found) > 1):
        raise RunError(
            f"--metric {wanted} names {', '.join(found) or 'no metric'} of these tasks; they have "
            f"{', '.join(result.metrics) or 'none that is a mean over documents'}: name one of them in full"
        )
    return found[0] if wanted is None or wanted not in found else wanted


def _names(tasks: Iterable[str]) -> dict[str, str]:
    """Task to language, or to its own name where it has none, or shares it with another task."""
    languages = {task: language_of(task) or task for task in tasks}
    counts = Counter(languages.values())
    return {task: name if counts[name] == 1 else task for task, name in languages.items()}


def _summarise(result: HarnessResult, request: LmEvalRequest, *, model: str, engine: str) -> EvaluationSummary:
    metric = _metric(result, request.metric)
    scores = {each.task: each for each in result.scores if each.metric == metric}
    names = _names(scores)
    compared = result.compare(metric, tasks=names)
    by_name = {name: scores[task] for task, name in names.items()}
    arms = (BASELINE, *compared)
    return EvaluationSummary(
        **vars(compared[PLAN]),
        model=model,
        engine=engine,
        task=_name(request),
        metric=metric,
        metrics=result.metrics,
        left_out=result.left_out,
        harness=f"lm-eval {result.harness}",
        pivot=request.pivot,
        arms={arm: {name: float(each.values[arm].mean()) for name, each in by_name.items()} for arm in arms},
        controls={arm: comparison for arm, comparison in compared.items() if arm != PLAN},
        changed_choices=result.changed,
        kl={arm: {} for arm in compared},
        n={name: len(each.documents) for name, each in by_name.items()},
        guard=_guards(by_name.get(request.pivot), arms[1:]),
    )


def _guards(scores: HarnessScores | None, arms: Sequence[str]) -> dict[str, Guard]:
    """Guard the pivot where values are shares: one point is what may be lost, and other scales have no such unit."""
    if scores is None or not all(((values >= 0) & (values <= 1)).all() for values in scores.values.values()):
        return {}
    before = scores.values[BASELINE]
    return {arm: guard_pivot(before, scores.values[arm], better=scores.better) for arm in arms}
