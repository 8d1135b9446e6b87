"""What `import isogloss` gives: one function per step of the way, nouns in and a noun out.

Each resumes in its folder where an earlier call was stopped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from isogloss.analysis import Analysis, AnalysisRequest, ExpertTable, analyze_run
from isogloss.analysis.expert_query import ExpertQuery, Rule
from isogloss.analysis.expert_query import find_experts as answer_query
from isogloss.backends.model import CaptureOptions, Model
from isogloss.corpora import Corpus
from isogloss.errors import RunError
from isogloss.evaluation.run import RunOptions
from isogloss.evaluation.summary import EvaluationSummary
from isogloss.evaluation.tasks import Task, load_task
from isogloss.languages import resolve
from isogloss.reports import make_report, write_report
from isogloss.runs import Run
from isogloss.steering import Plan
from isogloss.workflows.capture import CaptureRequest, capture_corpus
from isogloss.workflows.evaluate import evaluate_plan

__all__ = ["analyze", "capture", "evaluate", "find_experts", "report", "steer"]


def capture(
    model: Model,
    corpus: Corpus,
    out: str | Path,
    *,
    plan: Plan | None = None,
    distinct_from: str | None = None,
    options: CaptureOptions | None = None,
) -> Run:
    """Run a corpus through a model and keep its routing, language by language.

    Args:
        model: unsteered.
        corpus: the texts; see `isogloss.corpus`.
        out: folder of the Run, new or of a stopped capture of the same model and corpus; languages that it holds are
            not captured again.
        plan: active during the capture; None for none.
        distinct_from: language of the corpus; profiles are then also taken over the tokens that its texts do not have.
        options: what is counted, and in which portions.

    Raises:
        ModelError: the routers do not choose as their family's row says.
        CorpusError: a text cannot be counted.
        RunError: the folder holds something else.
        PlanError: the plan is for another model.
    """
    request = CaptureRequest(options or CaptureOptions(), plan, distinct_from=distinct_from)
    return capture_corpus(model, corpus, Path(out), request)


def analyze(
    run: Run,
    *,
    pivot: str | Sequence[str] = "eng_Latn",
    accuracy: Mapping[str, float] | None = None,
    task: Run | None = None,
    request: AnalysisRequest | None = None,
) -> Analysis:
    """Measure how far languages are routed from a pivot, where in depth they meet, and what their routing follows.

    Args:
        run: with the pivot and at least one more language.
        pivot: the reference language, or several.
        accuracy: language to benchmark accuracy, in any unit, to relate to divergence.
        task: Run of task texts in the pivot, to compare with the texts of ``run``.
        request: everything else that can be asked for; what is given above replaces its fields.

    Raises:
        LanguageError: a language is unknown or not in the Run.
        RunError: a file of the Run is damaged.
    """
    pivots = tuple(resolve(code) for code in ([pivot] if isinstance(pivot, str) else pivot))
    request = request or AnalysisRequest()
    return analyze_run(
        run, replace(request, pivot=pivots, accuracy=accuracy or request.accuracy, task=task or request.task)
    )


def find_experts(  # noqa: PLR0913 - the parameters of four rules, by name
    run: Run,
    *,
    base: Run | None = None,
    rule: Rule = "delta",
    threshold: float | None = None,
    top: int | None = None,
    layers: tuple[int, int] | None = None,
    languages: Sequence[str] = (),
    target: Sequence[str] = (),
    pivot: str = "eng_Latn",
) -> ExpertTable:
    """Find the experts of a task, of a language, or of several languages; ``.plan(kind)`` steers them.

    Args:
        run: of the texts whose experts are looked for.
        base: of other texts: rules ``delta`` and ``contrast`` then compare the two Runs in one language (task experts).
        rule: ``delta``, ``share``, ``contrast`` or ``specificity``; `ExpertQuery` says what each takes.
        threshold: of the rule's statistic.
        top: most experts.
        layers: first and last decoder layer, inclusive; None for all.
        languages: that are compared.
        target: language or languages whose experts are looked for.
        pivot: the reference language.

    Raises:
        RunError: the Run does not hold what the rule needs, or a parameter is missing or has no meaning for the rule.
        LanguageError: a language is unknown or not in the Run.
    """
    query = ExpertQuery(
        rule, threshold, layers, languages=tuple(languages), target=tuple(target), top=top, pivot=resolve(pivot)
    )
    return answer_query(run, query, base=base)


def steer(model: Model, plan: Plan) -> AbstractContextManager[None]:
    """Apply a plan to everything that the model runs inside the context; afterwards the model is as before.

    Args:
        model: see `isogloss.load`.
        plan: for this model. Of one with rules by language, choose those of a request: ``plan.for_request("sw")``.

    Raises:
        PlanError: the plan is for another model, has rules by language, or another plan is active.
    """
    return model.steer(plan)


def evaluate(
    model: Model,
    plan: Plan,
    *,
    task: str | Task,
    out: str | Path,
    arms: Sequence[str] = ("random:1",),
    options: RunOptions | None = None,
) -> EvaluationSummary:
    """Ask the same questions without the plan, with it, and under other plans, and compare item by item.

    Args:
        model: unsteered.
        plan: under test.
        task: name of a task, or one from `isogloss.task`, which chooses languages and items.
        out: folder of the evaluation, new or of a stopped one with the same settings.
        arms: what to compare with, such as ``random:3``, ``early``, ``suppress``, ``strength=0.1,0.25``.
        options: how items are answered.

    Raises:
        PlanError: the plan is for another model or changes nothing on the task's own prompts.
        RunError: the folder holds something else.
    """
    questions = load_task(task) if isinstance(task, str) else task
    return evaluate_plan(model, questions, plan, out=Path(out), arms=arms, options=options)


def report(*results: Analysis | EvaluationSummary | ExpertTable, out: str | Path) -> Path:
    """Write results into one HTML file that needs no network.

    Args:
        *results: an analysis, an evaluation, or both; tables of experts beside them.
        out: the file.

    Returns:
        ``out``.

    Raises:
        RunError: there is neither an analysis nor an evaluation, or there are two of one sort.
    """
    analyses = [result for result in results if isinstance(result, Analysis)]
    evaluations = [result for result in results if isinstance(result, EvaluationSummary)]
    experts = [result for result in results if isinstance(result, ExpertTable)]
    if max(len(analyses), len(evaluations)) != 1:
        raise RunError(
            f"a report is made from one analysis, one evaluation, or both; found {len(analyses)} analyses and "
            f"{len(evaluations)} evaluations"
        )
    page = make_report(next(iter(analyses), None), next(iter(evaluations), None), experts=experts)
    write_report(Path(out), page)
    return Path(out)
