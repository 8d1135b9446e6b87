"""Runs a study: capture, analyse, find experts, plan, evaluate, report. The demo is one with fixed settings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from isogloss.analysis import Analysis, AnalysisRequest, ExpertTable, analyze_run, query_experts
from isogloss.errors import RunError
from isogloss.evaluation import (
    BASELINE,
    PLAN,
    AblationResult,
    AskedTask,
    EvaluationSummary,
    RunOptions,
    Task,
    answer_unsteered,
    ask,
    kept_date,
    load_task,
    make_arms,
)
from isogloss.files import write_json
from isogloss.folders import locked, make_folder
from isogloss.languages import resolve
from isogloss.organism import ORGANISM, adapter_folder, learned_plan_file
from isogloss.progress import busy, note, track
from isogloss.records import write_typed
from isogloss.reports import (
    PublishedComparison,
    describe_ablation,
    describe_evaluation,
    describe_experts,
    describe_run,
    report_study,
)
from isogloss.resuming import claim_folder
from isogloss.runs import Run
from isogloss.steering import STRENGTH_KINDS, Plan, Steering, check_plan, read_steering, write_plan, write_steering
from isogloss.workflows.ablation.held_out import hold_out
from isogloss.workflows.ablation.run import Prepared, run_ablation
from isogloss.workflows.evaluate import evaluate_plan
from isogloss.workflows.study.arms import ArmMaker, own_arms, translate_layers
from isogloss.workflows.study.comparison import compare_with_published
from isogloss.workflows.study.settings import OF_TASK_TEXTS, Study
from isogloss.workflows.sweep.candidates import has_effect

__all__ = ["StudyResult", "run_study"]

_SETTINGS = "study.json"
_LEAST_LANGUAGES = 4  # beside the pivot, of a correlation


@dataclass(frozen=True)
class StudyResult:
    """The results of a study.

    Attributes:
        analysis: of the generic texts.
        experts: experts in the steered layers; None where nothing is steered.
        plan: None where no expert was found.
        evaluation: summary of the first task; None without a plan.
        findings: plain sentences on routing and experts.
        effects: plain sentences on the evaluation.
        report: the HTML file.
        more: summaries of the further tasks, by name.
        published: the measured numbers beside a paper's; None where the study names none.
        ablation: what the bans of the study's bands cost; None where it has no bands.
    """

    analysis: Analysis
    experts: ExpertTable | None
    plan: Plan | None
    evaluation: EvaluationSummary | None
    findings: tuple[str, ...]
    effects: tuple[str, ...]
    report: Path
    more: Mapping[str, EvaluationSummary] = field(default_factory=dict)
    published: PublishedComparison | None = None
    ablation: AblationResult | None = None


def run_study(study: Study, out: Path, *, recipe: Study | None = None) -> StudyResult:
    """Run a study into a folder; what a stopped one has finished is kept.

    Args:
        study: the settings.
        out: gets ``run/``, ``task/``, ``analysis.json``, ``experts.json``, ``plan.json``,
            ``plans/`` (of the arms), ``eval/`` and ``eval-TASK/`` (of further tasks), ``ablation/``, ``accuracy/``,
            ``published.json``, ``report.html``, as far as the study has them.
        recipe: that the settings come from; what was set otherwise is said beside the published numbers.

    Raises:
        IsoglossError: any step refused its input; the message names it and the reason.
    """
    with locked(out, _SETTINGS):
        claim = partial(claim_folder, out, _SETTINGS, study.portable(out / _SETTINGS))
        if is_begun := (out / _SETTINGS).is_file():
            claim()  # refuses other settings before anything is read
        steps = _Steps(study, out)
        if not is_begun:  # a folder is not claimed by settings whose texts or model are refused
            claim()
        return steps.run(recipe)


def _task_folder(out: Path, task: str, *, is_first: bool) -> Path:
    """Return the folder of the evaluation of a task, by its name."""
    return out / ("eval" if is_first else "eval-" + re.sub(r"[^A-Za-z0-9]+", "-", task).strip("-"))


class _Steps:
    """The steps of one study, in its folder.

    Args:
        study: the settings; what they name is read, and the model loaded.
        out: the folder, locked.
    """

    def __init__(self, study: Study, out: Path) -> None:
        self.study, self.out, self.pivot = study, out, resolve(study.pivot)
        self.remarks: list[str] = [study.layers_remark] if study.layers_remark else []
        # All that is read is read before a model is loaded, so that nothing long has run where it is refused.
        self.texts = study.open_texts()
        self.tasks = {name: self._load_task(name) for name in study.tasks if study.steer}
        if study.accuracy_task and study.accuracy_task not in self.tasks:
            captured = study.languages or self.texts[0].languages
            self.tasks[study.accuracy_task] = self._load_task(study.accuracy_task, study.eval_languages or captured)
        self.held = hold_out(study.ablation, self.texts) if study.ablation else []
        self.learned = self._learned()
        self.model = study.load()
        for each in self.learned.values():
            check_plan(each, self.model.fingerprint)
        for task in (*self.tasks.values(), *(held.task for held in self.held)):
            ask(self.model, task, study.sampling)  # refuses what is too long before anything is captured

    def run(self, recipe: Study | None) -> StudyResult:
        """Take all steps."""
        study, out = self.study, self.out
        ablation = None
        if study.ablation:  # first: its settings are written before anything is captured
            ablation = run_ablation(study.ablation, out / "ablation", self._prepared)
        run, task_run = study.capture(self.model, self.texts, out)
        with busy("analyze"):
            analysis = analyze_run(run, AnalysisRequest(pivot=(self.pivot,), task=task_run))
        experts = plan = None
        summaries: dict[str, EvaluationSummary] = {}
        if study.steer:
            experts, plan, maker = self._plan(run, task_run, analysis)
            write_json(out / "experts.json", experts.to_json())
            if plan is not None and maker is not None:
                write_plan(plan, out / "plan.json")
                summaries = self._evaluate(plan, maker)
        evaluation = summaries.get(study.task)
        accuracy = self._accuracy(run, evaluation)
        if accuracy:
            with busy("analyze"):
                request = AnalysisRequest(pivot=(self.pivot,), task=task_run, accuracy=accuracy)
                analysis = analyze_run(run, request)
        write_json(out / "analysis.json", analysis.to_json())
        published = compare_with_published(study, recipe, (run, task_run), analysis, evaluation, ablation)
        if published is not None:
            write_typed(out / "published.json", published)
        return self._result(analysis, experts, plan, summaries, published, ablation)

    def _prepared(self) -> Prepared:
        """Capture what an ablation finds its families in."""
        return Prepared(self.model, self.study.capture(self.model, self.texts, self.out), self.held)

    def _result(
        self,
        analysis: Analysis,
        experts: ExpertTable | None,
        plan: Plan | None,
        summaries: Mapping[str, EvaluationSummary],
        published: PublishedComparison | None,
        ablation: AblationResult | None,
    ) -> StudyResult:
        findings = (*describe_run(analysis), *([describe_experts(experts)] if experts else []), *self.remarks)
        evaluation = summaries.get(self.study.task)
        effects = describe_evaluation(evaluation) if self.study.steer else ()
        effects = describe_ablation(ablation) if ablation else effects
        sentences = (*effects, *(published.sentences if published else ()))
        write_json(self.out / "findings.json", {"findings": [*findings, *sentences]})
        with busy("report"):
            report = report_study(self.out, self.out / "report.html")
        more = {task: summary for task, summary in summaries.items() if task != self.study.task}
        return StudyResult(analysis, experts, plan, evaluation, findings, effects, report, more, published, ablation)

    def _learned(self) -> dict[str, Steering]:
        """Read the learned plan or adapter, if the study names one; with the shipped plan its adapter."""
        if not self.study.learned:
            return {}
        if self.study.learned == ORGANISM:
            return {"learned": read_steering(learned_plan_file()), "adapter": read_steering(adapter_folder())}
        return {"learned": read_steering(self.study.learned)}

    def _plan(
        self, run: Run, task_run: Run | None, analysis: Analysis
    ) -> tuple[ExpertTable, Plan | None, ArmMaker | None]:
        """Find experts, and make the plan and what its arms are made from."""
        study = self.study
        of, base = (task_run, run) if task_run and study.rule in OF_TASK_TEXTS else (run, None)
        within = study.decoder_layers or analysis.middle
        with busy("find experts"):
            experts = query_experts(of, study.query(within), base=base)
        if not experts.experts:
            return experts, None, None

        def make(table: ExpertTable) -> Plan:
            return table.plan(study.kind, strength=study.strength if study.kind in STRENGTH_KINDS else None)

        plan = make(experts)
        return experts, plan, ArmMaker(run, base, of, plan, within, self.pivot, study.query, make)

    def _evaluate(self, plan: Plan, maker: ArmMaker) -> dict[str, EvaluationSummary]:
        """Evaluate the plan and its arms on every task."""
        arms = [translate_layers(arm, self.study.layers_base) for arm in self.study.arms]
        own, of_evaluate = own_arms(arms)
        made, refused = maker.make_all(own)
        parts = (make_arms(plan, [f"random:{self.study.n_controls}"]), self.learned, make_arms(plan, of_evaluate), made)
        plans: dict[str, Steering] = {}
        for name, arm in ((name, arm) for part in parts for name, arm in part.items() if name != PLAN):
            if name in plans:
                raise RunError(f"arms: {name} is named twice; name every arm once")
            plans[name] = arm
        for name, why in refused.items():
            self._remark(f"Arm {name} was not made: {why}.")
        summaries = {}
        for number, name in enumerate(self.study.tasks):
            folder = _task_folder(self.out, self.tasks[name].name, is_first=not number)
            summaries[name] = self._evaluate_on(self.tasks[name], plan, plans, folder)
        return summaries

    def _evaluate_on(self, task: Task, plan: Plan, arms: Mapping[str, Steering], folder: Path) -> EvaluationSummary:
        """Evaluate on one task, without the arms that change no chosen expert on its first prompts."""
        options = RunOptions(self.study.batch_size, self.study.sampling, self.pivot)
        asked = ask(self.model, task, options.sampling, today=kept_date(folder))
        specifications = []
        for name, arm in arms.items():
            if not has_effect(asked, arm):
                self._remark(f"Arm {name} was left out of {task.name}: it changes no chosen expert there.")
                continue
            place = self.out / "plans" / name
            make_folder(place)
            write_steering(arm, place)
            specifications += [f"plan={name}:{kept}" for kept in sorted(place.iterdir())]
        return evaluate_plan(self.model, plan, task=task, out=folder, arms=specifications, options=options)

    def _load_task(self, name: str, languages: Sequence[str] | None = None) -> Task:
        languages = languages or self.study.languages_of(name)
        return load_task(name, languages=languages, n_items=self.study.task_items or None)

    def _accuracy(self, run: Run, evaluation: EvaluationSummary | None) -> dict[str, float]:
        """Measure the accuracy without a plan in the captured languages, or take it from the evaluation."""
        name = self.study.accuracy_task
        if not name:
            return {}
        if name == self.study.task and evaluation is not None:
            accuracy = dict(evaluation.arms[BASELINE])
        else:
            task, folder = self.tasks[name], self.out / "accuracy"
            asked = AskedTask(self.model, task, self.study.sampling, kept_date(folder))
            options = RunOptions(self.study.batch_size, self.study.sampling, self.pivot)
            with track(f"accuracy {task.name}", sum(map(len, task.items.values()))) as advance:
                measured = answer_unsteered(asked, out=folder, options=options, progress=advance)
            accuracy = {language: estimate.value for language, estimate in measured.items()}
            write_json(folder / "accuracy.json", {code: each.to_json() for code, each in sorted(measured.items())})
        others = {code: value for code, value in accuracy.items() if code in run.languages and code != self.pivot}
        if len(others) < _LEAST_LANGUAGES:
            self._remark(
                f"Accuracy on {name} was not related to divergence: of the languages beside the pivot {len(others)} "
                f"can be compared, and at least {_LEAST_LANGUAGES} are needed."
            )
            return {}
        return {code: value for code, value in accuracy.items() if code in run.languages}

    def _remark(self, sentence: str) -> None:
        """Keep a sentence for the findings, and say it."""
        self.remarks.append(sentence)
        note(sentence)
