"""Turns the points of a grid into plans: experts found once per rule and range, plans that do the same kept once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from isogloss.analysis import ExpertTable
from isogloss.analysis.expert_query import ExpertQuery, find_experts
from isogloss.backends.model import Model
from isogloss.errors import PlanError
from isogloss.evaluation.arms import PLAN
from isogloss.evaluation.tasks import Task, continuations, render, uses_chat
from isogloss.runs import Run
from isogloss.steering import Plan
from isogloss.workflows.sweep.results import CandidateRow
from isogloss.workflows.sweep.settings import Candidate, layer_range

__all__ = ["Candidates", "has_effect", "make_candidates"]

_PROBE_ITEMS = 4  # as an evaluation takes
_SIGNED_KINDS = ("soft", "offset", "force")
_OF_TASK = ("delta", "contrast")


@dataclass
class Candidates:
    """What became of a grid.

    Attributes:
        rows: one per candidate in the order of the grid.
        plans: arm to plan. Candidates whose plans do the same share an arm, whatever found their experts.
    """

    rows: list[CandidateRow] = field(default_factory=list)
    plans: dict[str, Plan] = field(default_factory=dict)


@dataclass
class _Maker:
    task_run: Run
    run: Run
    bands: Mapping[str, tuple[int, int]]
    pivot: str
    works: Callable[[Plan], bool]
    tables: dict[ExpertQuery, ExpertTable] = field(default_factory=dict)
    arms: dict[str, str | None] = field(default_factory=dict)
    made: Candidates = field(default_factory=Candidates)

    def make(self, candidate: Candidate) -> CandidateRow:
        """Find experts, make the plan, and give it an arm unless one like it has one."""
        layers = [router.layer for router in self.run.manifest.routers]
        within, reason = layer_range(candidate.layers, layers, self.bands)
        row = CandidateRow(**candidate._asdict(), range=within, reason=reason)
        if within is None:
            return row
        table = self._find(candidate, within)
        row = replace(row, n_experts=table.n, expected_by_chance=table.expected_by_chance)
        if not table.experts:
            return replace(row, status="no expert")
        try:
            plan = table.plan(candidate.kind, strength=candidate.strength)
        except PlanError as error:  # this kind does not fit these experts; others of the grid may
            return replace(row, reason=str(error))
        arm = self._arm(plan)
        return replace(row, arm=arm, status="plan" if arm else "no effect")

    def _find(self, candidate: Candidate, within: tuple[int, int]) -> ExpertTable:
        rule = candidate.rule
        query = ExpertQuery(rule, candidate.threshold, within, top=candidate.top, pivot=self.pivot)
        if rule == "contrast" and candidate.kind not in _SIGNED_KINDS:
            query = replace(query, sign="positive")  # experts that the task uses more: these kinds do not follow a sign
        elif rule == "specificity":
            query = replace(query, kind="overlap")
        if query not in self.tables:
            of_task = rule in _OF_TASK
            run, base = (self.task_run, self.run) if of_task else (self.run, None)
            self.tables[query] = find_experts(run, query, base=base)
        return self.tables[query]

    def _arm(self, plan: Plan) -> str | None:
        # The hash of a plan covers where its experts come from; two thresholds that find the same ones make one plan.
        does = Plan(plan.fingerprint, plan.interventions).sha256
        if does not in self.arms:
            self.arms[does] = None
            if self.works(plan):
                number = len(self.made.plans) + 1
                arm = self.arms[does] = PLAN if number == 1 else f"{PLAN}-{number}"
                self.made.plans[arm] = plan
        return self.arms[does]


def make_candidates(
    grid: list[Candidate],
    runs: tuple[Run, Run],
    *,
    bands: Mapping[str, tuple[int, int]],
    pivot: str,
    works: Callable[[Plan], bool],
    progress: Callable[[int], None],
) -> Candidates:
    """Turn a grid into plans.

    Args:
        grid: the candidates.
        runs: of task texts, and of generic texts.
        bands: ``early``, ``middle`` and ``late`` layers; empty where there is no middle.
        pivot: the language that task experts are looked for in.
        works: whether a plan changes any choice; an evaluation refuses plans that change none.
        progress: told the number of candidates done.

    Raises:
        RunError: a rule refuses the Runs or its parameters, or the grid needs a middle that was not found.
    """
    maker = _Maker(*runs, bands=bands, pivot=pivot, works=works)
    for candidate in grid:
        maker.made.rows.append(maker.make(candidate))
        progress(1)
    return maker.made


def has_effect(model: Model, task: Task, plan: Plan) -> bool:
    """Say whether a plan changes any chosen expert on the first items of some language, as an evaluation asks."""
    tokenizer, plain = model.tokenizer, not uses_chat(model.tokenizer, task)
    for items in task.items.values():
        texts = [render(tokenizer, i, task) or continuations(tokenizer, i, task)[0] for i in items[:_PROBE_ITEMS]]
        if any(model.change(plan, texts, add_special_tokens=plain).changed.values()):
            return True
    return False
