"""The families of an ablation: experts by language and band, their bans, and random families of equal size."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace

from isogloss.analysis import DeltaRule, ExpertTable, query_experts, task_experts
from isogloss.errors import PlanError, RunError
from isogloss.evaluation import PROBE_ITEMS, Asked
from isogloss.evaluation.ablation import Family
from isogloss.languages import resolve
from isogloss.runs import Run
from isogloss.steering import Plan, random_control
from isogloss.workflows.ablation.settings import Ablation

__all__ = ["TASK_FAMILY", "Bans", "make_families"]

TASK_FAMILY = "task"


@dataclass(frozen=True)
class Bans:
    """A family with the ban of its experts, and the bans of random ones; None and none where there is no ban."""

    family: Family
    plan: Plan | None = None
    null: tuple[Plan, ...] = ()


def make_families(
    settings: Ablation, runs: tuple[Run, Run | None], bands: dict[str, tuple[int, int]], own: dict[str, Asked]
) -> list[Bans]:
    """Find the experts of every language and of the task in every band, and make the bans.

    Args:
        settings: the rule and its threshold.
        runs: of the generic texts, and of the task texts where there are some.
        bands: name to first and last decoder layer.
        own: family to what its own axis asks; families without an own axis are left out.

    Raises:
        RunError: the rule needs another parameter, or refuses the Run.
    """
    run, task_run = runs
    pivot, made = resolve(settings.pivot), []
    for band, layers in bands.items():
        for name, asked in own.items():
            if name == TASK_FAMILY and task_run is not None:
                table = task_experts(task_run, run, language=pivot, rule=DeltaRule(settings.task_threshold, layers))
            elif settings.rule in ("delta", "contrast") and name == pivot:
                continue  # the pivot has no experts against itself
            else:
                table = query_experts(run, settings.query(name, run.languages, layers))
            made.append(_ban(Family(name=name, band=band, experts=_by_layer(table)), table, asked, settings))
    return made


def _by_layer(table: ExpertTable) -> dict[int, tuple[int, ...]]:
    experts: defaultdict[int, list[int]] = defaultdict(list)
    for row in table.experts:
        experts[row.layer].append(row.expert)
    return {layer: tuple(sorted(each)) for layer, each in sorted(experts.items())}


def _ban(family: Family, table: ExpertTable, asked: Asked, settings: Ablation) -> Bans:
    """Make the bans of a family; where one cannot be made or does nothing, say why."""
    family = replace(family, expected_by_chance=table.expected_by_chance)
    if not family.experts:
        return Bans(replace(family, reason=table.nearest.text if table.nearest else ""))
    try:
        plan = table.plan("ban")
        null = tuple(random_control(plan, seed=seed) for seed in range(settings.n_null))
    except PlanError as error:
        return Bans(replace(family, status="refused", reason=str(error)))
    changed = _changed(asked, plan, _language_of(family, settings))
    family = replace(
        family,
        status="banned" if changed else "no effect",
        changed=changed,
        plan_sha256=plan.sha256,
        null_sha256=tuple(each.sha256 for each in null),
    )
    return Bans(family, plan, null) if changed else Bans(family)


def _language_of(family: Family, settings: Ablation) -> str:
    return resolve(settings.pivot) if family.name == TASK_FAMILY else family.name


def _changed(asked: Asked, plan: Plan, language: str) -> float:
    """Return the share of tokens that choose other experts under a ban, on the first questions of its own axis."""
    texts = [question.text for question in asked.questions[language][:PROBE_ITEMS]]
    change = asked.model.change(plan, texts, add_special_tokens=not asked.uses_chat)
    shares = [change.changed[layer] for layer in plan.layers if layer in change.changed]
    if not shares:
        raise RunError(f"no change was measured in layers {list(plan.layers)}, which the ban edits")
    return sum(shares) / len(shares)
