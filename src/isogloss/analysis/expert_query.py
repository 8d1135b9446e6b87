"""Finds experts by one of the four rules, from the options of a command or a sweep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from isogloss.analysis.differences import ContrastRule, DeltaRule
from isogloss.analysis.experts import ExpertTable, experts_among_languages, language_experts, task_experts
from isogloss.analysis.shares import ShareRule
from isogloss.analysis.specificity import SpecificityRule
from isogloss.errors import RunError
from isogloss.languages import resolve
from isogloss.runs import Run

__all__ = ["ExpertQuery", "Rule", "query_experts"]

Rule = Literal["delta", "share", "contrast", "specificity"]

_TAKES: dict[str, tuple[str, ...]] = {
    "delta": ("threshold",),
    "share": ("threshold", "top", "kind", "target"),
    "contrast": ("threshold", "top", "sign"),
    "specificity": ("threshold", "top", "kind", "target", "alpha"),
}
_KINDS = {"share": ("common", "exclusive"), "specificity": ("specific", "overlap")}


@dataclass(frozen=True)
class ExpertQuery:
    """What experts are looked for, as `isogloss experts` takes it.

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


def query_experts(run: Run, query: ExpertQuery, *, base: Run | None = None) -> ExpertTable:
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
        if query.rule in _KINDS:
            return experts_among_languages(run, _language_rule(query, run.languages))
        return _compared(run, query, base)
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


def _language_rule(query: ExpertQuery, present: tuple[str, ...]) -> ShareRule | SpecificityRule:
    languages, target = _codes(query.languages) or present, _codes(query.target)
    threshold = query.threshold or 0.0
    if query.rule == "share":
        if query.top is None:
            raise RunError("the share rule needs --top (the paper: 20 for common, 15 for exclusive experts)")
        share: Literal["common", "exclusive"] = "exclusive" if query.kind == "exclusive" else "common"
        return ShareRule(share, languages, target, query.top, threshold, query.layers)
    if len(target) > 1:
        raise RunError(f"the specificity rule has one --target; found {', '.join(target)}")
    kind: Literal["specific", "overlap"] = "overlap" if query.kind == "overlap" else "specific"
    alpha = 10.0 if query.alpha is None else query.alpha
    return SpecificityRule(kind, languages, (*target, None)[0], alpha, threshold, query.top, query.layers)


def _compared(run: Run, query: ExpertQuery, base: Run | None) -> ExpertTable:
    threshold, languages, pivot = query.threshold or 0.0, _codes(query.languages), resolve(query.pivot)
    rule = (
        DeltaRule(threshold, query.layers)
        if query.rule == "delta"
        else ContrastRule(threshold, query.top, query.sign or "both", query.layers)
    )
    if base is not None:
        if len(languages) > 1:
            raise RunError(f"--base compares two Runs in one language; found {', '.join(languages)}: name one, or none")
        return task_experts(run, base, language=(*languages, pivot)[0], rule=rule)
    if query.rule == "delta" and len(languages) != 1:
        raise RunError("the delta rule compares with --base RUN, or one language (--languages L) with the pivot")
    if len(languages) not in (1, 2):
        raise RunError(
            "the contrast rule compares with --base RUN, two languages (--languages A,B), or one with the pivot"
        )
    first, second = (*languages, pivot)[:2]
    return language_experts(run, first, pivot=second, rule=rule)


def _codes(languages: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(resolve(code) for code in languages)
