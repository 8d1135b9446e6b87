"""Which languages an adapter is for and must leave as they are, and what that asks of corpus, task and options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import NamedTuple

from isogloss.corpora import Corpus
from isogloss.errors import CorpusError, LanguageError, PlanError
from isogloss.evaluation import Task
from isogloss.languages import resolve
from isogloss.learning.adapt_records import AdaptOptions
from isogloss.learning.plan_ranks import Rank

__all__ = ["AdaptLanguages", "languages_of", "refuse_idle"]

_OF_PROTECTION = ("protected", "bound", "bound_on")


class AdaptLanguages(NamedTuple):
    """Codes, ascending.

    Attributes:
        targets: that the plan is for; all of the corpus of a plan for all requests.
        protected: that must not move, the pivot among them; none of a plan for all requests.
    """

    targets: tuple[str, ...]
    protected: tuple[str, ...]

    def items_of(self, task: Task, corpus: Corpus, options: AdaptOptions) -> Task:
        """Keep the items of a task in the languages that are measured.

        Raises:
            CorpusError: the task lacks a language of the plan, the pivot whose accuracy is bounded, or all of them.
        """
        if absent := sorted(set(self.targets) - set(task.items)) if self.protected else []:
            raise CorpusError(f"task {task.name} has no items in {', '.join(absent)}, which the plan is for")
        on_task = self.protected if options.bound_on == "accuracy" else ()
        if on_task and options.pivot not in task.items:
            raise CorpusError(f"task {task.name} has no items in the pivot {options.pivot}, which is protected")
        kept = {code: rows for code, rows in task.items.items() if code in (*self.targets, *self.protected)}
        if not kept:
            raise CorpusError(f"task {task.name} and corpus {corpus.name} have no language in common")
        return replace(task, items=kept)


def languages_of(ranks: Sequence[Rank], corpus: Corpus, options: AdaptOptions) -> AdaptLanguages:
    """Return targets and protected languages; needs no model.

    Raises:
        PlanError: the plan has rules for all requests beside others, or is for all requests, and options say what it
            must not move.
        CorpusError: the corpus lacks a language of the plan, a protected one, or one that has a weight.
        LanguageError: the pivot is a language of the plan, or a language of the plan is to be protected.
    """
    pivot, held = options.pivot, set(corpus.languages)
    if unknown := sorted(set(options.weights) - held):
        raise CorpusError(f"corpus {corpus.name} has no text in {', '.join(unknown)}, which has a weight")
    usual = {each.name: each.default for each in fields(AdaptOptions)}
    refuse_idle(ranks, [name for name in _OF_PROTECTION if getattr(options, name) != usual[name]])
    targets = tuple(sorted({code for rank in ranks for code in rank.languages or ()}))
    if any(rank.languages is None for rank in ranks):
        if targets:
            raise PlanError(
                f"the plan has rules for all requests beside those for {', '.join(targets)}, and would move every "
                "language, protected ones too; divide it into a plan of the rules with languages and one of those "
                "without, and make an adapter of each: adapters add up (isogloss bake --adapter A --adapter B)"
            )
        return AdaptLanguages(corpus.languages, ())
    if absent := sorted({*targets, pivot} - held):
        raise CorpusError(
            f"corpus {corpus.name} has no text in {', '.join(absent)}; expected one in every language of the "
            f"plan and in the pivot {pivot}, whose tokens probes must tell apart"
        )
    if pivot in targets:
        raise LanguageError(f"the pivot {pivot} is a language of the plan, so it cannot be protected; name another")
    protected = tuple(resolve(code) for code in options.protected) or tuple(sorted(held - set(targets)))
    if wrong := sorted(set(protected) & set(targets)):
        raise LanguageError(f"{', '.join(wrong)} cannot be protected: the plan is for it")
    if absent := sorted(set(protected) - held):
        raise CorpusError(f"corpus {corpus.name} has no text in {', '.join(absent)}, which is to be protected")
    return AdaptLanguages(targets, tuple(sorted({*protected, pivot})))


def refuse_idle(ranks: Sequence[Rank], given: Sequence[str]) -> None:
    """Refuse options on protected languages, by name, where the whole plan is for all requests: it has none.

    Raises:
        PlanError: such options were given.
    """
    if given and all(rank.languages is None for rank in ranks):
        raise PlanError(
            f"{', '.join(given)} cannot act: the plan is for all requests, so its adapter acts on every token of every "
            "language and protects none; leave it out, or give a plan with rules for languages"
        )
