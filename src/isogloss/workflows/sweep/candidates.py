"""Turns the points of a grid into plans: experts are selected once per rule and range, equal plans kept once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from isogloss.analysis import ExpertQuery, ExpertTable, query_experts
from isogloss.errors import PlanError
from isogloss.evaluation import PLAN, Asked, changes
from isogloss.runs import Run
from isogloss.steering import Plan, Steering
from isogloss.workflows.sweep.results import CandidateRow
from isogloss.workflows.sweep.settings import resolve_layers

__all__ = ["Candidates", "has_effect", "make_candidates"]

_SIGNED_KINDS = ("soft", "offset", "select", "force")
_OF_TASK = ("delta", "contrast")


@dataclass
class Candidates:
    """What became of a grid.

    Attributes:
        rows: one per candidate in the order of the grid.
        plans: arm to plan. Candidates whose plans do the same share an arm, whatever selected their experts.
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
    plans: dict[str, Plan] = field(default_factory=dict)

    def make(self, candidate: CandidateRow) -> CandidateRow:
        """Find experts, make the plan, and give it an arm unless one like it has one."""
        layers = [router.layer for router in self.run.manifest.routers]
        within, reason = resolve_layers(candidate.layers, layers, self.bands)
        row = replace(candidate, range=within, reason=reason)
        if within is None:
            return row
        table = self._find(candidate, within)
        row = replace(row, n_experts=table.n, expected_by_chance=table.expected_by_chance)
        if not table.experts:
            return replace(row, status="no expert", reason=table.nearest.text if table.nearest else "")
        try:
            plan = table.plan(candidate.kind, strength=candidate.strength)
        except PlanError as error:  # this kind does not fit these experts; others of the grid may
            return replace(row, reason=str(error))
        arm = self._arm(plan)
        return replace(row, arm=arm, status="plan" if arm else "no effect")

    def _find(self, candidate: CandidateRow, within: tuple[int, int]) -> ExpertTable:
        rule = candidate.rule
        query = ExpertQuery(rule, candidate.threshold, within, top=candidate.top, pivot=self.pivot)
        if rule == "contrast" and candidate.kind not in _SIGNED_KINDS:
            query = replace(query, sign="positive")  # experts that the task uses more: these kinds do not follow a sign
        elif rule == "specificity":
            query = replace(query, kind="overlap")
        if query not in self.tables:
            of_task = rule in _OF_TASK
            run, base = (self.task_run, self.run) if of_task else (self.run, None)
            self.tables[query] = query_experts(run, query, base=base)
        return self.tables[query]

    def _arm(self, plan: Plan) -> str | None:
        # The hash of a plan covers where its experts come from; two thresholds that find the same ones make one plan.
        does = Plan(plan.fingerprint, plan.interventions).sha256
        if does not in self.arms:
            self.arms[does] = None
            if self.works(plan):
                number = len(self.plans) + 1
                arm = self.arms[does] = PLAN if number == 1 else f"{PLAN}-{number}"
                self.plans[arm] = plan
        return self.arms[does]


def make_candidates(
    grid: list[CandidateRow],
    runs: tuple[Run, Run],
    *,
    bands: Mapping[str, tuple[int, int]],
    pivot: str,
    works: Callable[[Plan], bool],
    progress: Callable[[int], None],
) -> Candidates:
    """Turn a grid into plans.

    ``runs`` are of task texts and of generic texts; ``bands`` the ``early``, ``middle`` and ``late`` layers, empty
    where there is no middle. ``works`` returns whether a plan changes which experts are chosen: an evaluation refuses
    others.

    Raises:
        RunError: a rule refuses the Runs or its parameters, or the grid needs a middle that was not found.
    """
    maker, rows = _Maker(*runs, bands=bands, pivot=pivot, works=works), []
    for candidate in grid:
        rows.append(maker.make(candidate))
        progress(1)
    return Candidates(rows, maker.plans)


def has_effect(asked: Asked, plan: Steering) -> bool:
    """Return whether a plan changes any chosen expert on the first items of a language, as an evaluation requires."""
    return any(any(change.changed.values()) for _, change in changes(asked, plan))
