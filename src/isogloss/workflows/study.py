"""A whole study: capture, analyse, find experts, plan, evaluate, report. The demo is one with fixed settings."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from pydantic import ConfigDict

from isogloss.analysis import Analysis, AnalysisRequest, DeltaRule, ExpertTable, analyze_run, task_experts
from isogloss.backends.open import load
from isogloss.evaluation.run import RunOptions
from isogloss.evaluation.summary import EvaluationSummary
from isogloss.evaluation.tasks import load_task
from isogloss.files import claim_folder, write_json
from isogloss.languages import resolve
from isogloss.reports import report_study
from isogloss.reports.sentences import describe_evaluation, describe_experts, describe_run
from isogloss.steering import STRENGTH_KINDS, Kind, Plan, write_plan
from isogloss.workflows.capture import capture_corpus
from isogloss.workflows.corpora import open_corpus
from isogloss.workflows.evaluate import evaluate_plan
from isogloss.workflows.progress import busy
from isogloss.workflows.settings import read_settings

__all__ = ["DEMO", "Study", "StudyResult", "read_study", "run_study"]


@dataclass(frozen=True)
class Study:
    """The settings of a study, as in STUDY.toml.

    Attributes:
        model: hub id, folder, or ``organism``.
        corpus: generic parallel texts.
        task_corpus: task texts in the pivot language, to find task experts.
        task: questions with answers, to evaluate.
        languages: to capture; empty for all that the corpus has.
        eval_languages: to evaluate; empty for all that the task has.
        pivot: the reference language.
        corpus_items: first items of the corpora; 0 for all.
        task_items: first items of the task; 0 for all.
        threshold: of the Δ rule.
        kind: of the interventions.
        strength: of the kinds that take one: soft, adaptive, offset.
        layers: first and last decoder layer to steer; None for the middle layers that the analysis finds.
        n_controls: random plans with as many experts per layer, to compare with.
    """

    model: str = "organism"
    corpus: str = "organism"
    task_corpus: str = "organism:problems"
    task: str = "organism"
    languages: tuple[str, ...] = ()
    eval_languages: tuple[str, ...] = ()
    pivot: str = "eng_Latn"
    corpus_items: int = 0
    task_items: int = 0
    threshold: float = 0.3
    kind: Kind = "soft"
    strength: float = 0.5
    layers: tuple[int, int] | None = None
    n_controls: int = 1

    __pydantic_config__ = ConfigDict(extra="forbid")


# Of the organism's 32 experts none passes the papers' threshold of 0.3. Three to five in each middle layer pass 0.1;
# it rests on routing counts alone.
DEMO = Study(corpus_items=150, task_items=50, threshold=0.1)


@dataclass(frozen=True)
class StudyResult:
    """What a study found, and where its files lie.

    Attributes:
        analysis: of the generic texts.
        experts: task experts in the steered layers.
        plan: None where no expert was found.
        evaluation: summary; None without a plan.
        findings: plain sentences on routing and experts.
        effects: plain sentences on the evaluation.
        report: the HTML file.
    """

    analysis: Analysis
    experts: ExpertTable
    plan: Plan | None
    evaluation: EvaluationSummary | None
    findings: tuple[str, ...]
    effects: tuple[str, ...]
    report: Path


def read_study(path: Path) -> Study:
    """Read STUDY.toml.

    Raises:
        RunError: not TOML, an unknown setting, or a value of the wrong type.
    """
    return read_settings(path, Study, what="study", known=[field.name for field in fields(Study)])


def run_study(study: Study, out: Path) -> StudyResult:
    """Run a study into a folder; what a stopped one has finished is kept.

    Args:
        study: the settings.
        out: gets ``run/``, ``task/``, ``analysis.json``, ``experts.json``, ``plan.json``, ``eval/``, ``report.html``.

    Raises:
        IsoglossError: any step refused its input; the message says which and why.
    """
    claim_folder(out, "study.json", json.loads(json.dumps(asdict(study))))
    model = load(study.model)
    pivot = resolve(study.pivot)
    n_items = study.corpus_items or None
    texts = open_corpus(study.corpus, languages=study.languages or None, n_items=n_items)
    run = capture_corpus(model, texts, out / "run")
    task_texts = open_corpus(study.task_corpus, languages=[pivot], n_items=n_items)
    task_run = capture_corpus(model, task_texts, out / "task")
    with busy("analyze"):
        analysis = analyze_run(run, AnalysisRequest(pivot=(pivot,), task=task_run))
        rule = DeltaRule(threshold=study.threshold, layers=study.layers or analysis.middle)
        experts = task_experts(task_run, run, language=pivot, rule=rule)
    write_json(out / "analysis.json", analysis.to_json())
    write_json(out / "experts.json", experts.to_json())
    strength = study.strength if study.kind in STRENGTH_KINDS else None
    plan = experts.plan(study.kind, strength=strength) if experts.experts else None
    evaluation = None
    if plan is not None:
        write_plan(plan, out / "plan.json")
        task = load_task(study.task, languages=study.eval_languages or None, n_items=study.task_items or None)
        arms = [f"random:{study.n_controls}"] if study.n_controls else []
        evaluation = evaluate_plan(model, task, plan, out=out / "eval", arms=arms, options=RunOptions(pivot=pivot))
    findings, effects = (*describe_run(analysis), describe_experts(experts)), describe_evaluation(evaluation)
    write_json(out / "findings.json", {"findings": [*findings, *effects]})
    with busy("report"):
        report = report_study(out, out / "report.html")
    return StudyResult(analysis, experts, plan, evaluation, findings, effects, report)
