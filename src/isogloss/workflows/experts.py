"""Finds experts by a rule and turns them into a plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from isogloss.analysis import (
    ContrastRule,
    DeltaRule,
    ExpertTable,
    ShareRule,
    SpecificityRule,
    contrast_corpora,
    contrast_languages,
    experts_by_share,
    experts_by_specificity,
    language_experts,
    task_experts,
)
from isogloss.errors import PlanError, RunError
from isogloss.files import sha256
from isogloss.languages import resolve
from isogloss.runs import Run
from isogloss.steering import Kind, Plan, plan_from_experts

__all__ = ["ExpertQuery", "Rule", "build_plan", "find_experts"]

Rule = Literal["delta", "share", "contrast", "specificity"]

_TAKES: dict[str, tuple[str, ...]] = {
    "delta": ("threshold",),
    "share": ("threshold", "top", "kind", "target"),
    "contrast": ("threshold", "top", "sign"),
    "specificity": ("threshold", "top", "kind", "target", "alpha"),
}
_KINDS = {"share": ("common", "exclusive"), "specificity": ("specific", "overlap")}
_SIGNED: dict[str, Kind] = {"soft": "soft", "offset": "offset", "force": "suppress"}
"""What happens to experts that a contrast found to be used less, where the others are promoted by the first kind."""


@dataclass(frozen=True)
class ExpertQuery:
    """What `isogloss experts` was asked.

    Attributes:
        rule: one of the four.
        threshold: of the rule; contrast and specificity may do with ``top`` alone.
        layers: first and last decoder layer, inclusive; None for all.
        kind: share: ``common`` (if None) or ``exclusive``; specificity: ``specific`` (if None) or ``overlap``.
        languages: share, specificity: those present, all of the Run if none; delta, contrast: with ``base`` the one
            that both Runs are compared in, the pivot if none; else the one compared with the pivot, or, for contrast,
            two that are compared with each other.
        target: of exclusive shares, or the one of ``specific``.
        top: share: experts kept per language and layer; contrast, specificity: experts found at most.
        pivot: the reference language.
        alpha: of the specificity rule; 10 if None.
        sign: contrast: ``both`` (if None), ``positive`` or ``negative``.
    """

    rule: Rule
    threshold: float | None = None
    layers: tuple[int, int] | None = None
    kind: Literal["common", "exclusive", "specific", "overlap"] | None = None
    languages: tuple[str, ...] = ()
    target: tuple[str, ...] = ()
    top: int | None = None
    pivot: str = "eng_Latn"
    alpha: float | None = None
    sign: Literal["both", "positive", "negative"] | None = None


def find_experts(run: Run, query: ExpertQuery, *, base: Run | None = None) -> ExpertTable:
    """Apply a rule to a Run.

    Args:
        run: of the texts whose experts are looked for.
        query: the rule and its parameters.
        base: of other texts; with it delta and contrast compare ``run`` with ``base`` in one language (task experts),
            without it they compare languages of ``run`` (language experts). The other rules take none.

    Raises:
        RunError: the Run does not carry what the rule needs, or the query lacks a parameter or has one too many.
        LanguageError: a language is unknown or not in the Run.
    """
    _check(query, base)
    try:
        return _FINDERS[query.rule](run, query, base)
    except ValueError as error:  # a number outside its range
        raise RunError(f"rule {query.rule}: {error}") from error


def _check(query: ExpertQuery, base: Run | None) -> None:
    """Refuse parameters that the rule would not read, and missing ones."""
    given = {name for name in ("threshold", "top", "kind", "alpha", "sign") if getattr(query, name) is not None}
    given |= {"target"} if query.target else set()
    if strangers := sorted(given - set(_TAKES[query.rule])):
        takes = ", ".join(f"--{name}" for name in _TAKES[query.rule])
        raise RunError(f"the {query.rule} rule takes no --{strangers[0]}; beside languages and layers it takes {takes}")
    if query.rule in _KINDS and query.kind not in {None, *_KINDS[query.rule]}:
        raise RunError(f"the {query.rule} rule has no kind {query.kind}; expected {' or '.join(_KINDS[query.rule])}")
    if query.rule in _KINDS and base is not None:
        raise RunError(f"the {query.rule} rule compares languages of one Run and takes no --base")
    if query.rule in ("delta", "share") and query.threshold is None:
        raise RunError(f"the {query.rule} rule needs --threshold")
    if query.threshold is None and query.top is None:
        raise RunError(f"the {query.rule} rule needs --threshold, --top, or both")


def _languages(query: ExpertQuery) -> tuple[str, ...]:
    return tuple(resolve(code) for code in query.languages)


def _by_delta(run: Run, query: ExpertQuery, base: Run | None) -> ExpertTable:
    rule, languages, pivot = DeltaRule(query.threshold or 0.0, query.layers), _languages(query), resolve(query.pivot)
    if base is not None:
        return task_experts(run, base, language=_one(languages, pivot), rule=rule)
    if len(languages) != 1:
        raise RunError("the delta rule compares with --base RUN, or one language (--languages L) with the pivot")
    return language_experts(run, languages[0], pivot=pivot, rule=rule)


def _by_contrast(run: Run, query: ExpertQuery, base: Run | None) -> ExpertTable:
    rule = ContrastRule(query.threshold or 0.0, query.top, query.sign or "both", query.layers)
    languages, pivot = _languages(query), resolve(query.pivot)
    if base is not None:
        return contrast_corpora(run, base, language=_one(languages, pivot), rule=rule)
    if len(languages) not in (1, 2):
        raise RunError(
            "the contrast rule compares with --base RUN, two languages (--languages A,B), or one with the pivot"
        )
    first, second = (*languages, pivot)[:2]
    return contrast_languages(run, first, base=second, rule=rule)


def _one(languages: tuple[str, ...], pivot: str) -> str:
    """Choose the language in which two Runs are compared."""
    if len(languages) > 1:
        raise RunError(f"--base compares two Runs in one language; found {', '.join(languages)}: name one, or none")
    return (*languages, pivot)[0]


def _by_share(run: Run, query: ExpertQuery, _base: Run | None) -> ExpertTable:
    if query.top is None:
        raise RunError("the share rule needs --top (the paper: 20 for common, 15 for exclusive experts)")
    rule = ShareRule(
        kind="exclusive" if query.kind == "exclusive" else "common",
        languages=_languages(query) or tuple(run.languages),
        target=tuple(resolve(code) for code in query.target),
        top=query.top,
        threshold=query.threshold or 0.0,
        layers=query.layers,
    )
    return experts_by_share(run, rule)


def _by_specificity(run: Run, query: ExpertQuery, _base: Run | None) -> ExpertTable:
    target = tuple(resolve(code) for code in query.target)
    if len(target) > 1:
        raise RunError(f"the specificity rule has one --target; found {', '.join(target)}")
    rule = SpecificityRule(
        kind="overlap" if query.kind == "overlap" else "specific",
        languages=_languages(query) or tuple(run.languages),
        target=target[0] if target else None,
        alpha=10.0 if query.alpha is None else query.alpha,
        threshold=query.threshold or 0.0,
        top=query.top,
        layers=query.layers,
    )
    return experts_by_specificity(run, rule)


_FINDERS: dict[Rule, Callable[[Run, ExpertQuery, Run | None], ExpertTable]] = {
    "delta": _by_delta,
    "share": _by_share,
    "contrast": _by_contrast,
    "specificity": _by_specificity,
}


def build_plan(run: Run, table: ExpertTable, *, kind: Kind, strength: float | None) -> Plan:
    """Make a plan for the model that a Run was captured from.

    Experts of a contrast with both signs are steered by sign: ``soft`` and ``offset`` push the negative ones with the
    opposite strength, and ``force`` promises the positive ones a choice and suppresses the negative ones. The other
    kinds do one thing to all experts, and want a contrast of one sign.

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
    fingerprint = run.manifest.fingerprint
    provenance = {"rule": table.rule, "parameters": table.parameters, "run": sha256(run.manifest.encode())}
    experts = [(row.layer, row.expert, row.statistic, row.weight) for row in table.experts]
    if table.parameters.get("sign") != "both":
        return plan_from_experts(experts, kind=kind, strength=strength, fingerprint=fingerprint, provenance=provenance)
    if kind not in _SIGNED:
        raise PlanError(
            f"{kind} does the same to all experts, and this contrast has both signs; choose --sign positive or "
            f"--sign negative, or a kind that follows the sign: {', '.join(_SIGNED)}"
        )
    more, less = [row for row in experts if row[2] > 0], [row for row in experts if row[2] < 0]
    up = plan_from_experts(more, kind=kind, strength=strength, fingerprint=fingerprint, provenance=provenance)
    opposite = None if strength is None else -strength
    down = plan_from_experts(
        less, kind=_SIGNED[kind], strength=opposite, fingerprint=fingerprint, provenance=up.provenance
    )
    return Plan(fingerprint, up.interventions + down.interventions, down.provenance)
