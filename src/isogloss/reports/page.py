"""The page: sections laid into a template with plotly inside, written in one step, and its figures one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from isogloss.errors import RunError
from isogloss.evaluation import AblationResult, EvaluationSummary, VersionComparison
from isogloss.learning.adapt_records import AdaptReport
from isogloss.learning.history import LearningHistory
from isogloss.reports.ablation import ablation_section
from isogloss.reports.adapters import adapter_section
from isogloss.reports.answers import SampleAnswer
from isogloss.reports.assets import embedded, render, require_page, write_page
from isogloss.reports.effects import evaluation_findings
from isogloss.reports.evaluations import evaluation_section, further_tasks_section
from isogloss.reports.evidence import RULE, Finding, ranked
from isogloss.reports.figures import Figure, Section
from isogloss.reports.learning import learning_section
from isogloss.reports.palette import paint
from isogloss.reports.provenance import provenance_section
from isogloss.reports.published import PublishedComparison, published_section
from isogloss.reports.sentences import describe_experts, run_findings
from isogloss.reports.svg import HALF, NARROW, WIDE, draw
from isogloss.reports.text import plain
from isogloss.reports.verdicts import facts, glossary, verdicts
from isogloss.reports.versions import versions_section
from isogloss.runs import UNFINISHED

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from isogloss.analysis import Analysis, DivergenceChange, ExpertTable


@dataclass(frozen=True)
class Report:
    """What a report is made of.

    Attributes:
        title: heading of the page.
        findings: sentences printed first.
        manifest: of the Run behind the numbers, as JSON types.
        analysis: of the Run.
        experts: one table per rule.
        evaluation: its summary.
        learning: how a plan was learned.
        ablation: what banned families cost.
        more: summaries of further tasks that the same plan was evaluated on.
        published: numbers of a paper beside the measured ones.
        adapter: how an adapter was made from a plan.
        versions: two versions of a model, compared.
        runs: several analyses by name, to be drawn over each other.
        changes: of the Runs that hold the first one's texts, by name: how their divergence differs from its.
        evaluations: several evaluations by name, likewise.
        answers: a few of them, without and with the plan.
        study: settings of a study, as JSON types.
        written: date of the files.
        command: that repeats what was run.
    """

    title: str
    findings: tuple[str, ...]
    manifest: Mapping[str, Any]
    analysis: Analysis | None = None
    experts: tuple[ExpertTable, ...] = ()
    evaluation: EvaluationSummary | None = None
    learning: LearningHistory | None = None
    ablation: AblationResult | None = None
    more: tuple[EvaluationSummary, ...] = ()
    published: PublishedComparison | None = None
    adapter: AdaptReport | None = None
    versions: VersionComparison | None = None
    runs: Mapping[str, Analysis] = field(default_factory=dict)
    changes: Mapping[str, DivergenceChange] = field(default_factory=dict)
    evaluations: Mapping[str, EvaluationSummary] = field(default_factory=dict)
    answers: tuple[SampleAnswer, ...] = ()
    study: Mapping[str, Any] = field(default_factory=dict)
    written: str = ""
    command: str = ""


def make_report(
    analysis: Analysis | None,
    evaluation: EvaluationSummary | None,
    *,
    experts: Sequence[ExpertTable] = (),
    manifest: Mapping[str, Any] | None = None,
) -> Report:
    """Make a report of results, with sentences on each.

    Args:
        analysis: of a Run; None where there is none.
        evaluation: its summary; None where there is none.
        experts: one table per rule.
        manifest: of the Run behind the numbers, or settings of the evaluation; None for the manifest of the analysis.
    """
    titles: list[str] = []
    findings: list[Finding] = []
    unfinished = (UNFINISHED,) if analysis is not None and analysis.status == "partial" else ()
    if analysis is not None:
        manifest = manifest or (analysis.manifest.to_json() if analysis.manifest else {})
        languages, model = f"{len(analysis.languages)} languages", manifest.get("model")
        titles.append(f"How {model} routes {languages}" if model else f"How {languages} are routed")
        findings += run_findings(analysis)
    findings += (Finding(describe_experts(table)) for table in experts)
    if evaluation is not None:
        titles.append(f"Steering {evaluation.model} on {evaluation.task}")
        findings += evaluation_findings(evaluation)
    sentences = (*unfinished, *ranked(findings))
    return Report(titles[0], sentences, manifest or {}, analysis, tuple(experts), evaluation)


def join_reports(reports: Mapping[str, Report], changes: Mapping[str, DivergenceChange] | None = None) -> Report:
    """Lay several reports over each other; what only one of them has stands alone.

    Args:
        reports: name to report; each of an analysis, an evaluation, or both.
        changes: name to the change from the first of them, where both are Runs of the same texts.

    Raises:
        RunError: a report has neither, as one on a learned plan.
    """
    for name, report in reports.items():
        if report.analysis is None and report.evaluation is None:
            raise RunError(f"{name} holds neither an analysis nor an evaluation; report on it alone")
    runs = {name: each.analysis for name, each in reports.items() if each.analysis is not None}
    evaluations = {name: each.evaluation for name, each in reports.items() if each.evaluation is not None}
    parts = [f"{len(each)} {word}" for each, word in ((runs, "Runs"), (evaluations, "evaluations")) if len(each) > 1]
    alone = next((each for each in reports.values() if each.analysis and len(runs) == 1), None)
    titles = "; ".join(each.title for each in reports.values())
    return Report(
        f"{' and '.join(parts)} over each other" if parts else titles,
        findings=tuple(f"{name}: {text}" for name, each in reports.items() for text in each.findings),
        manifest=alone.manifest if alone else {},
        analysis=alone.analysis if alone else None,
        evaluation=next(iter(evaluations.values())) if len(evaluations) == 1 else None,
        runs=runs if len(runs) > 1 else {},
        changes=changes or {},
        evaluations=evaluations if len(evaluations) > 1 else {},
    )


def _drawing(figure: Figure) -> Markup:
    return embedded({"data": figure.data, "layout": figure.layout, "rows": figure.rows})


def _sections(report: Report) -> list[Section]:
    analysis, evaluation, settings = report.analysis, report.evaluation, {}
    sections: list[Section] = [published_section(report.published)] if report.published else []
    if report.runs or report.evaluations:
        from isogloss.reports.side_by_side import evaluations_section, runs_section  # noqa: PLC0415 - as below

        sections += [runs_section(report.runs, report.changes)] if report.runs else []
        sections += [evaluations_section(report.evaluations)] if report.evaluations else []
    if analysis:
        settings = {"quantity": analysis.quantity, "pivot": analysis.pivot, **analysis.resampling.to_json()}
        sections += _analysis_sections(analysis)
    if report.experts:
        from isogloss.reports.experts import expert_sections  # noqa: PLC0415 - as below

        sections += expert_sections(report.experts, report.manifest, analysis)
    if evaluation:
        sections.append(evaluation_section(evaluation, report.answers))
    if report.more:
        sections.append(further_tasks_section(report.more))
    if report.ablation:
        sections.append(ablation_section(report.ablation))
    if report.learning:
        sections.append(learning_section(report.learning))
    if report.adapter:
        sections.append(adapter_section(report.adapter))
    if report.versions:
        sections.append(versions_section(report.versions))
    arms = evaluation.arms if evaluation else None
    return [*sections, provenance_section(report.manifest, settings, arms, study=report.study)]


def _analysis_sections(analysis: Analysis) -> list[Section]:
    from isogloss.reports.sections import analysis_sections  # noqa: PLC0415 - 0.2 s, and an evaluation needs none of it

    return analysis_sections(analysis)


def _draw(figure: Figure) -> Markup:
    """Draw a figure at the widths at which the page may show it."""
    if figure.half:
        return draw(figure, HALF, "half")
    return draw(figure, WIDE, "wide") + draw(figure, NARROW, "narrow")


def render_report(report: Report) -> str:
    """Render a report as one HTML page that loads nothing and runs only its own script; figures need none.

    Args:
        report: what was measured.

    Returns:
        The page; equal reports give equal pages.

    Raises:
        RunError: a result lacks a field that the report cannot do without.
    """
    sections = _sections(report)
    blocks = [block for section in sections for block in section.blocks]
    return render(
        "page",
        title=plain(report.title),
        facts=facts(
            report.manifest, report.analysis, report.evaluation, written=report.written, command=report.command
        ),
        verdicts=verdicts(report.analysis, report.evaluation, several=bool(report.evaluations)),
        rule=RULE,
        glossary=glossary(report.analysis, report.evaluation),
        partial=report.manifest.get("status") == "partial" and UNFINISHED not in report.findings,
        notes=[plain(note) for note in report.manifest.get("notes") or ()],
        findings=[plain(finding) for finding in report.findings],
        lead=next((block for block in blocks if isinstance(block, Figure)), None),
        sections=sections,
        drawing=_drawing,
        draw=_draw,
        ink=lambda colour: paint(colour).css,
    )


def write_report(path: Path, report: Report, *, force: bool = False) -> None:
    """Write a report; whoever reads the path sees the old file or the whole new one.

    Args:
        path: of the HTML file, new, or of a report, which is replaced; its folder is made where absent.
        report: what was measured.
        force: replace a file of any kind.

    Raises:
        RunError: a result lacks a field that the report cannot do without; nothing is written then.
        FileError: the folder cannot be written, or the file is of another kind.
    """
    require_report_file(path, force=force)
    write_page(path, render_report(report))


def require_report_file(path: Path, *, force: bool = False) -> None:
    """Refuse a file that `write_report` would refuse, by the same error."""
    require_page(path, "report", "isogloss", force=force)


def plot(result: Analysis | EvaluationSummary, name: str) -> go.Figure:
    """Return one figure of the report on an analysis or an evaluation.

    Args:
        result: an analysis of one Run, or the summary of an evaluation.
        name: of the figure, such as ``divergence``, ``middle-ranges``, ``tree-1`` or ``overlap``; of an evaluation,
            ``difference``, ``arms`` or ``dose-response``.

    Raises:
        RunError: this result has no such figure; the message names those that it has.
    """
    import plotly.graph_objects as go  # noqa: PLC0415 - a second, and the report needs none of it

    sections = [evaluation_section(result)] if isinstance(result, EvaluationSummary) else _analysis_sections(result)
    blocks = (block for section in sections for block in section.blocks)
    figures = {block.anchor.removesuffix("-curves"): block for block in blocks if isinstance(block, Figure)}
    if name not in figures:
        raise RunError(f"this result has no figure {name!r}; it has {', '.join(figures)}")
    figure = figures[name]
    data = [{**trace, "showlegend": "name" in trace} for trace in figure.data]
    margin = {**figure.layout["margin"], "t": figure.layout["margin"]["t"] + 40}
    title = {"title": {"text": figure.title}, "margin": margin, "showlegend": any(each["showlegend"] for each in data)}
    return go.Figure({"data": data, "layout": {**figure.layout, **title, "template": "simple_white"}})
