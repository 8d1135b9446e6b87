"""Finds experts by a rule and turns them into a plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from isogloss.analysis import (
    DeltaRule,
    ExpertTable,
    ShareRule,
    experts_by_share,
    language_experts,
    task_experts,
)
from isogloss.errors import PlanError, RunError
from isogloss.files import sha256
from isogloss.languages import resolve
from isogloss.runs import Run
from isogloss.steering import Kind, Plan, plan_from_experts

__all__ = ["ExpertQuery", "build_plan", "find_experts"]


@dataclass(frozen=True)
class ExpertQuery:
    """What `isogloss experts` was asked.

    Attributes:
        rule: ``delta`` or ``share``.
        threshold: of the rule.
        layers: first and last decoder layer, inclusive; None for all.
        kind: of the share rule, ``common`` or ``exclusive``.
        languages: of the share rule: those present in the share; of the delta rule: the one language compared with
            the pivot, or none where ``base`` is given.
        target: of the exclusive share rule.
        top: of the share rule: experts kept per language and layer.
        pivot: the reference language.
    """

    rule: Literal["delta", "share"]
    threshold: float
    layers: tuple[int, int] | None = None
    kind: Literal["common", "exclusive"] = "common"
    languages: tuple[str, ...] = ()
    target: tuple[str, ...] = ()
    top: int | None = None
    pivot: str = "eng_Latn"


def find_experts(run: Run, query: ExpertQuery, *, base: Run | None = None) -> ExpertTable:
    """Apply a rule to a Run.

    Args:
        run: of the texts whose experts are looked for.
        query: the rule and its parameters.
        base: of generic texts; with it the delta rule compares ``run`` with ``base`` in the pivot language (task
            experts), without it the delta rule compares a language of ``run`` with the pivot (language experts).

    Raises:
        RunError: the Run does not carry what the rule needs, or the query lacks a parameter.
        LanguageError: a language is unknown or not in the Run.
    """
    languages = tuple(resolve(code) for code in query.languages)
    pivot = resolve(query.pivot)
    if query.rule == "share":
        if query.top is None:
            raise RunError("the share rule needs --top (the paper: 20 for common, 15 for exclusive experts)")
        target = tuple(resolve(code) for code in query.target)
        share = ShareRule(
            kind=query.kind,
            languages=languages or tuple(run.languages),
            target=target,
            top=query.top,
            threshold=query.threshold,
            layers=query.layers,
        )
        return experts_by_share(run, share)
    rule = DeltaRule(threshold=query.threshold, layers=query.layers)
    if base is not None:
        return task_experts(run, base, language=pivot, rule=rule)
    if len(languages) != 1:
        raise RunError("the delta rule compares with --base RUN, or one language (--languages L) with the pivot")
    return language_experts(run, languages[0], pivot=pivot, rule=rule)


def build_plan(run: Run, table: ExpertTable, *, kind: Kind, strength: float | None) -> Plan:
    """Make a plan for the model that a Run was captured from.

    Args:
        run: gives the fingerprint.
        table: the experts.
        kind: what to do with them.
        strength: of the kind; None where the kind takes none.

    Raises:
        PlanError: no expert was found, the Run names no model, or the kind does not fit.
    """
    if run.manifest.fingerprint is None:
        raise PlanError(f"{run.path} holds imported counts and names no model; capture the model to make a plan for it")
    if not table.experts:
        raise PlanError(f"the rule found no expert with {table.parameters}; lower the threshold or widen the layers")
    experts = [(row.layer, row.expert, row.statistic, row.weight) for row in table.experts]
    provenance = {"rule": table.rule, "parameters": table.parameters, "run": sha256(run.manifest.encode())}
    return plan_from_experts(
        experts, kind=kind, strength=strength, fingerprint=run.manifest.fingerprint, provenance=provenance
    )
