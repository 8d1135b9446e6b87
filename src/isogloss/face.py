"""What `import isogloss` gives: one function per step, objects in and an object out.

Each resumes in its folder where an earlier call was stopped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from isogloss.analysis import (
    Analysis,
    AnalysisRequest,
    ExpertQuery,
    ExpertTable,
    ExpertTokens,
    Rule,
    analyze_run,
    expert_tokens,
    query_experts,
)
from isogloss.backends.model import Model
from isogloss.errors import RunError
from isogloss.evaluation import EvaluationSummary
from isogloss.languages import resolve
from isogloss.reports import join_reports, make_report, require_expert_page, write_expert_page, write_report
from isogloss.runs import Run
from isogloss.steering import Steering, note_other_commit

__all__ = ["analyze", "find_experts", "inspect", "report", "steer"]


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
    return query_experts(run, query, base=base)


def inspect(  # noqa: PLR0913 - what is listed, and where it is written
    run: Run,
    layer: int,
    expert: int,
    *,
    languages: Sequence[str] = (),
    top: int = 20,
    least: int = 5,
    out: str | Path | None = None,
    force: bool = False,
) -> ExpertTokens:
    """List the tokens that an expert is chosen for most, against chance, language by language.

    Args:
        run: captured with ``CaptureOptions(token_counts=True)``.
        layer: decoder layer, 0-based.
        expert: id within the layer.
        languages: of the Run; none for all.
        top: tokens listed per language. `isogloss.analysis.expert_tokens` says how they are ranked.
        least: occurrences that a token needs to be compared.
        out: an HTML file to write, too, new or of such a page, which is replaced; None for none.
        force: replace a file of any kind.

    Raises:
        RunError: the Run did not count choices by token, it has no such expert, or a file of it is damaged.
        LanguageError: a language is unknown or not in the Run.
        FileError: the file cannot be written, or is of another kind.
    """
    if out is not None:
        require_expert_page(Path(out), force=force)
    result = expert_tokens(run, layer, expert, languages=languages, top=top, least=least)
    if out is not None:
        write_expert_page(result, Path(out), force=force)
    return result


def steer(model: Model, plan: Steering) -> AbstractContextManager[None]:
    """Apply a plan or a router adapter to all that runs inside the context; afterwards the model is as before.

    Args:
        model: see `isogloss.load`.
        plan: for this model, or a router adapter. Of a plan with rules by language, choose those of a request:
            ``plan.for_request("sw")``.

    Raises:
        PlanError: the plan is for another model, has rules by language, or another plan is active.
    """
    note_other_commit(plan, model.revision)
    return model.steer(plan)


def report(*results: Analysis | EvaluationSummary | ExpertTable, out: str | Path, force: bool = False) -> Path:
    """Write results into one HTML file that needs no network.

    Args:
        *results: an analysis, an evaluation, or both, with tables of experts beside them; or several analyses, several
            evaluations, or both, which are drawn over each other.
        out: the file, new, or of a report, which is replaced.
        force: replace a file of any kind.

    Returns:
        ``out``.

    Raises:
        RunError: there is neither an analysis nor an evaluation, or tables of experts stand beside several of one sort.
        FileError: the file cannot be written, or is of another kind.
    """
    analyses = [result for result in results if isinstance(result, Analysis)]
    evaluations = [result for result in results if isinstance(result, EvaluationSummary)]
    experts = [result for result in results if isinstance(result, ExpertTable)]
    if not analyses and not evaluations:
        raise RunError("a report is made from analyses, evaluations, or both; found neither")
    if max(len(analyses), len(evaluations)) == 1:
        page = make_report(next(iter(analyses), None), next(iter(evaluations), None), experts=experts)
    elif experts:
        raise RunError("tables of experts stand beside one analysis and one evaluation; leave out either")
    else:
        pages = [make_report(each, None) for each in analyses] + [make_report(None, each) for each in evaluations]
        page = join_reports({f"{place}. {each.title}": each for place, each in enumerate(pages, start=1)})
    write_report(Path(out), page, force=force)
    return Path(out)
