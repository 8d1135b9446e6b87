"""How far the prompts of a language are routed from the pivot's, without a plan and under it, before any answer.

Whether what helps a language brings its routing closer to the pivot's is a question to the same arms and items.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np

from isogloss.arrays import FloatArray
from isogloss.backends.capture_options import CaptureOptions
from isogloss.corpora import Turns
from isogloss.errors import CorpusError
from isogloss.evaluation.asked import AskedTask, Question
from isogloss.evaluation.summary import PivotDistance
from isogloss.progress import note
from isogloss.statistics import bootstrap_counts, estimate_means
from isogloss.steering import Steering

__all__ = ["ROUTED_ITEMS", "PromptRouting"]

ROUTED_ITEMS = 16
"""First prompts of each language whose routing is compared with that of the pivot's prompts."""


class PromptRouting:
    """The routing of the first prompts of each language; that of the unsteered model is captured once.

    Args:
        asked: the task, whose items are the same in every language.
        pivot: reference language.
    """

    def __init__(self, asked: AskedTask, pivot: str) -> None:
        self.asked, self.pivot = asked, pivot
        self._unsteered: dict[str, FloatArray] = {}
        self._is_refused = False

    def distances(self, plan: Steering) -> dict[str, PivotDistance]:
        """Measure by language; empty without the pivot, or where prompts cannot be captured, which a note says once.

        Languages are left out that a plan leaves as they are, together with the pivot: nothing changes there.
        """
        asked, pivot = self.asked, self.pivot
        if pivot not in asked.questions or self._is_refused:
            return {}
        is_moved = {code: not asked.adapt(plan, code).is_empty for code in asked.questions}
        codes = [code for code in asked.questions if code != pivot and (is_moved[code] or is_moved[pivot])]
        try:
            pivots = [self._profiles(each, pivot) for each in (None, plan)]
            return {code: self._distance(plan, code, pivots) for code in codes}
        except CorpusError as error:  # of a prompt that can be answered all the same
            self._is_refused = True
            why = str(error).partition("; ")[0]  # the rest is advice on captures
            note(f"how far prompts are routed from those in {pivot} is not measured: {why}")
            return {}

    def _distance(self, plan: Steering, code: str, pivots: Sequence[FloatArray]) -> PivotDistance:
        from isogloss.analysis import divergence  # noqa: PLC0415 - 0.2 s, and a report on evaluations needs none of it

        own = [self._profiles(each, code) for each in (None, plan)]
        before, after = map(divergence, own, pivots)
        change = (after - before).mean(axis=1, keepdims=True)
        (estimate,) = estimate_means(change, bootstrap_counts(len(change)))
        return PivotDistance(tuple(before.mean(0).tolist()), tuple(after.mean(0).tolist()), estimate)

    def _profiles(self, plan: Steering | None, code: str) -> FloatArray:
        """Capture ``[n_items, n_layers, n_experts]``."""
        own = None if plan is None else self.asked.adapt(plan, code)
        own = None if own is None or own.is_empty else own
        if own is None and code in self._unsteered:
            return self._unsteered[code]
        questions = self.asked.questions[code][:ROUTED_ITEMS]
        texts, ids = [self._text(each) for each in questions], [each.item_id for each in questions]
        options = CaptureOptions(chat=self.asked.uses_chat)
        with nullcontext() if own is None else self.asked.model.steer(own):
            profiles = np.asarray(self.asked.model.capture(texts, ids, options=options).profiles)
        if own is None:
            self._unsteered[code] = profiles
        return profiles

    def _text(self, question: Question) -> str | Turns:
        """Give the prompt to a chat template alone: its own words are no text of the language."""
        item, _, _ = question.content
        return Turns(item.prompt) if self.asked.uses_chat else question.text
