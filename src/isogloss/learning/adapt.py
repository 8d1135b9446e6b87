"""Makes a router adapter from a plan: fits the probes, chooses ridge and strength under a bound, and measures it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from isogloss.arrays import FloatArray
from isogloss.backends.model import Model
from isogloss.backends.open import refuse_unsupported
from isogloss.backends.router_inputs import AdaptableModel
from isogloss.corpora import Corpus
from isogloss.errors import CorpusError, PlanError
from isogloss.evaluation import Task, ask
from isogloss.evaluation.asked import AskedTask
from isogloss.folders import new_folder, require_new_folder
from isogloss.learning.adapt_languages import languages_of
from isogloss.learning.adapt_measures import Measures, Parts
from isogloss.learning.adapt_records import ADAPT_REPORT, Adapted, AdaptOptions, AdaptReport, CurvePoint
from isogloss.learning.plan_ranks import banned_by, ranks_of
from isogloss.learning.probes import LanguageMeans, ProbeFit, some_of
from isogloss.records import to_json, write_typed
from isogloss.steering import AdaptedRouter, Plan, RouterAdapter, check_plan, write_adapter_into

__all__ = ["adapt_plan"]

_APART, _LEFT_OUT = 0.4, 0.25  # of the items: those to choose and report on; of the languages: those of another fit
_FEWEST_ITEMS = 5
_MOST_TOKENS = 512  # of a text that probes are fitted or measured on: longer ones are cut


def adapt_plan(  # noqa: PLR0913 - what it is made from, and how
    model: Model,
    plan: Plan,
    corpus: Corpus,
    *,
    out: Path,
    task: Task | None = None,
    options: AdaptOptions | None = None,
    progress: Callable[[str, int], None] | None = None,
) -> Adapted:
    """Make an adapter that does for each language's tokens what a plan does for requests in that language.

    Probes are fitted on every language of the corpus, on 60 % of its items; ridge and strength are chosen on 20 %, and
    the dev items of a task; what the probes do is measured on the last 20 %.

    Args:
        model: unsteered, of the backend ``huggingface``.
        plan: of kind ``offset``, without conditions on phases, or ``ban`` without any. A condition on several languages
            becomes one probe for the group. Offsets without conditions, which must then be all that the plan has,
            become a probe that is 1 on every token, so that no language is protected.
        corpus: texts in the targets, the pivot and whatever else the model is used in.
        out: folder of the adapter, new or empty.
        task: whose items, of a dev split, choose ridge and strength; None to come close to the plan instead.
        options: how.
        progress: told what has been done, and how much of it.

    Raises:
        PlanError: the plan is for another model, or of a kind that no weight can do; it has rules for all requests
            beside others, or is for all requests while options protect languages; or no ridge and strength keeps the
            bound.
        CorpusError: the corpus or task lacks a language, or has too few items.
        LanguageError: the pivot is a target, or a target is to be protected.
        ModelError: the backend does not give what routers read.
        FileError: the folder is in use.
    """
    require_new_folder(out)
    job = _Job(model, plan, corpus, task, options or AdaptOptions(), progress or (lambda _what, _n: None))
    adapted = job.run()
    with new_folder(out) as folder:
        write_adapter_into(adapted.adapter, folder)
        write_typed(folder / ADAPT_REPORT, adapted.report)
    return adapted


@dataclass(frozen=True)
class _Fits:
    """Probes of every layer, fitted on all languages, and on all but some."""

    every: Mapping[int, ProbeFit]
    fewer: Mapping[int, ProbeFit]

    def probes(self, ridge: float, *, fewer: bool = False) -> dict[int, FloatArray]:
        return {layer: fit.probes(ridge) for layer, fit in (self.fewer if fewer else self.every).items()}


class _Job:
    """Everything that is checked before the model runs."""

    def __init__(
        self,
        model: Model,
        plan: Plan,
        corpus: Corpus,
        task: Task | None,
        options: AdaptOptions,
        progress: Callable[[str, int], None],
    ) -> None:
        refuse_unsupported(model.backend, router_inputs=True)
        check_plan(plan, model.fingerprint)
        self.model = cast("AdaptableModel", model)  # as any that is not refused
        self.plan, self.corpus, self.options, self.progress = plan, corpus, options, progress
        self.ranks = ranks_of(plan, options.languages)
        self.layers = tuple(sorted({layer for rank in self.ranks for layer in rank.offsets}))
        languages = languages_of(self.ranks, corpus, options)
        self.targets, self.protected = languages
        self.parts = _parts(corpus, options)
        asked = None if task is None else ask(model, languages.items_of(task, corpus, options))
        assert asked is None or isinstance(asked, AskedTask)  # noqa: S101 - of a Task
        others = set(corpus.languages) - set(self.targets) - {options.pivot}
        self.left_out = some_of(others, share=_LEFT_OUT, purpose="left out")
        self.measures = Measures(self.model, plan, self.layers, asked, self.parts, options)

    def run(self) -> Adapted:
        """Fit, choose, and measure."""
        self.model.prove(self.corpus.texts[self.corpus.languages[0]][0])
        if banned := banned_by(self.plan):
            reaches = {layer: self.model.largest_reach(layer) for layer in banned}
            self.ranks = ranks_of(self.plan, self.options.languages, reaches=reaches)
        fits = self._fit()
        curve = self._curve(fits)
        best = _best(curve, self.options, self.measures.higher_is_better)
        probes = fits.probes(best.ridge)
        adapter = self._adapter(probes, best.ridge, best.strength)
        names = [rank.name for rank in self.ranks]
        readings = self.measures.readings(names, probes, self.corpus.languages)
        if self.left_out:
            others = fits.probes(best.ridge, fewer=True)
            readings += self.measures.readings(names, others, self.left_out, fitted=False)
        report = AdaptReport(
            plan_sha256=self.plan.sha256,
            layers=self.layers,
            ranks=tuple(names),
            targets=self.targets,
            protected=self.protected,
            left_out=self.left_out,
            bound_on=self.options.bound_on,
            bound=self.options.bound,
            metric=self.measures.metric,
            dev_task=self.measures.task_name,
            ridge=best.ridge,
            strength=best.strength,
            before=self.measures.values(None, self.targets),
            plan=self.measures.values(self.plan, self.targets),
            curve=tuple(curve),
            probes=tuple(readings),
            agreement=tuple(self.measures.agreement(adapter, code) for code in self.targets),
            obeyed=self.measures.obeyed(adapter, banned, self.targets) if banned else {},
        )
        return Adapted(adapter, report)

    def _fit(self) -> _Fits:
        """Read every language once."""
        every, fewer = ({layer: LanguageMeans() for layer in self.layers} for _ in range(2))
        for language in self.corpus.languages:
            for layer, moments in self.measures.moments(language).items():
                weight = self.options.weight(language)
                every[layer].add(language, weight, moments)
                if language not in self.left_out:
                    fewer[layer].add(language, weight, moments)
            self.progress("languages", 1)
        groups = [rank.languages for rank in self.ranks]
        fits = {layer: ProbeFit(means, groups) for layer, means in every.items()}
        return _Fits(fits, {layer: ProbeFit(means, groups) for layer, means in fewer.items()} if self.left_out else {})

    def _curve(self, fits: _Fits) -> list[CurvePoint]:
        """Measure every ridge and strength: first the bound, then, where it is kept, what is to be gained."""
        curve = []
        for ridge, strength in itertools.product(self.options.ridges, self.options.strengths):
            adapter = self._adapter(fits.probes(ridge), ridge, strength)
            moved = self.measures.moved(adapter, self.protected)
            keeps = _keeps(moved, self.options)
            value = self.measures.values(adapter, self.targets) if keeps else {}
            curve.append(CurvePoint(ridge, strength, moved, keeps, value))
            self.progress("settings", 1)
        return curve

    def _adapter(self, probes: Mapping[int, FloatArray], ridge: float, strength: float) -> RouterAdapter:
        n_experts, names = self.model.fingerprint.n_experts, tuple(rank.name for rank in self.ranks)
        nothing = np.zeros(n_experts)
        routers = tuple(
            AdaptedRouter(
                layer,
                self.measures.parameters[layer],
                np.stack([rank.offsets.get(layer, nothing) for rank in self.ranks], axis=1),
                probes[layer],
                self.measures.n_extra[layer],
            )
            for layer in self.layers
        )
        name = self.model.name
        return RouterAdapter(
            self.model.fingerprint,
            routers,
            names,
            self._provenance(ridge),
            scale=strength,
            base_model=name if name.count("/") == 1 else None,
        )

    def _provenance(self, ridge: float) -> dict[str, Any]:
        chosen = to_json(self.options)
        return {
            "rule": "adapt",
            "plan_sha256": self.plan.sha256,
            "plan_provenance": self.plan.provenance,
            "model_name": self.model.name,
            "revision": self.model.revision,
            "corpus": self.corpus.name,
            "texts_sha256": {code: self.corpus.sha256(code) for code in self.corpus.languages},
            "ridge": ridge,
            "options": {key: value for key, value in chosen.items() if key not in ("ridges", "strengths")},
        }


def _parts(corpus: Corpus, options: AdaptOptions) -> Parts:
    """Divide the items by the hashes of their ids."""
    if len(corpus.item_ids) < _FEWEST_ITEMS:
        raise CorpusError(
            f"corpus {corpus.name} has {len(corpus.item_ids)} items; expected at least {_FEWEST_ITEMS}, to fit, to "
            "choose and to measure on different ones"
        )
    apart = some_of(corpus.item_ids, share=_APART, purpose="adapt: apart")
    measured = some_of(apart, share=0.5, purpose="adapt: measured")
    fit = [item for item in corpus.item_ids if item not in set(apart)]
    chosen = [item for item in apart if item not in set(measured)]
    every = corpus.languages
    return Parts(
        corpus.select(every, fit),
        corpus.select(every, chosen[: options.n_texts]),
        corpus.select(every, measured[: options.n_texts]),
        _MOST_TOKENS,
    )


def _keeps(moved: Mapping[str, float], options: AdaptOptions) -> bool:
    """Whether the bound is kept: on divergence in every protected language, on values in their mean."""
    if not moved:
        return True
    values = list(moved.values())
    size = max(values) if options.bound_on == "kl" else math.fsum(values) / len(values)
    return size <= options.bound


def _best(curve: Sequence[CurvePoint], options: AdaptOptions, higher_is_better: bool) -> CurvePoint:  # noqa: FBT001 - of the metric
    """Return the point of the best mean value that keeps the bound; of equals the weaker, then the more shrunk."""
    kept = [point for point in curve if point.keeps_bound]
    if not kept:
        unit = "nats per token" if options.bound_on == "kl" else "of the mean value"
        least = min(max(point.moved.values()) for point in curve)
        raise PlanError(
            f"no ridge and strength keeps the bound of {options.bound:g} {unit} on the protected languages; the least "
            f"that any moves one is {least:.3g}: allow more, or try weaker strengths"
        )
    sign = 1.0 if higher_is_better else -1.0

    def rank(point: CurvePoint) -> tuple[float, float, float]:
        return sign * math.fsum(point.value.values()), -point.strength, point.ridge

    return max(kept, key=rank)
