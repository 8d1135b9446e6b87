"""The settings of an ablation, all of them fixed before anything is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, ClassVar

from isogloss.analysis import ExpertQuery, Rule
from isogloss.backends.model import Sampling
from isogloss.errors import RunError
from isogloss.workflows.settings import Layers, StudySettings

__all__ = ["LEAST_NULL", "Ablation"]

LEAST_NULL = 10
"""Random families that the standard deviation of a null is taken over, at least."""


@dataclass(frozen=True)
class Ablation(StudySettings):
    """The settings of an ablation, as in ABLATION.toml and ``settings.json``.

    A family are the experts (layer, expert) that ``rule`` finds for a language in the captured texts, within a band of
    layers; it is banned, and every axis is measured: a language in one of ``tasks``, and ``task`` in the pivot.

    Attributes:
        tasks: texts or questions by language, held out: items whose text was captured are left out. Each is a corpus of
            its own; ``flores:text`` and the like measure bits per byte, other tasks their own metric.
        more_languages: of the tasks after the first; empty for ``eval_languages``. Translations from English have no
            English.
        task: one more axis, measured in the pivot alone; empty for none. It is the own axis of the family of
            ``task_corpus``.
        task_corpus: task texts in the pivot; their experts by the Δ rule are one more family. Empty for none.
        rule: that finds the experts of a language: ``share`` (exclusive), ``specificity``, ``delta`` or ``contrast``.
        threshold: of the rule.
        top: of the rule, where it takes one; 0 for none. The share rule needs it: the paper keeps 15 of 128.
        task_threshold: of the Δ rule for the family of ``task_corpus``.
        bands: name to ``A-B``, first and last decoder layer, 0-based; empty for the layers before, in and after the
            middle, or for thirds where the captured texts show no middle.
        n_null: random families of equal size per layer, at least 10.
        deviations: by how many standard deviations of the null its mean must be exceeded.
        largest_other: share of the effect on the own axis that the worst other axis may reach.
        n_resamples: bootstrap resamples of the items.
        seed: of the resamples.
        sampling: how answers are drawn; None for greedy ones.
        batch_size: items that are answered together.

    Raises:
        RunError: on construction, where a value is out of range or there is nothing to measure.

    Source:
        arXiv 2601.14050 (bans by band, evaluated x masked language); arXiv 2606.25092 (the selectivity test, there with
        experts pooled over layers by index, here with (layer, expert)).
    """

    written: ClassVar[tuple[str, ...]] = ("model", "tasks")
    example: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {"model": "organism", "tasks": ["organism:scenes"], "top": 8, "task": "", "task_corpus": ""}
    )

    task: str = ""
    task_corpus: str = ""
    tasks: tuple[str, ...] = ()
    more_languages: tuple[str, ...] = ()
    rule: Rule = "share"
    threshold: float = 0.4
    top: int = 0
    task_threshold: float = 0.1
    bands: dict[str, Layers] = field(default_factory=dict)
    n_null: int = LEAST_NULL
    deviations: float = 2.0
    largest_other: float = 1 / 3
    n_resamples: int = 1000
    seed: int = 0
    sampling: Sampling | None = None
    batch_size: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise RunError(f"tasks are {list(self.tasks)}; expected one or more, each once, such as flores:text")
        self.require("top", "seed", least=0)
        self.require("n_resamples", "batch_size", least=1)
        if self.rule == "share" and not self.top:
            raise RunError("the share rule needs top, the experts kept per language and layer (the paper: 15 of 128)")
        if self.n_null < LEAST_NULL:
            raise RunError(f"n_null is {self.n_null}; expected at least {LEAST_NULL} random families")
        if not 0 < self.largest_other <= 1 or self.deviations < 0:
            raise RunError(
                f"largest_other is {self.largest_other} and deviations {self.deviations}; expected a share above 0 up "
                "to 1, and at least 0"
            )
        if bool(self.task) != bool(self.task_corpus):
            raise RunError("task and task_corpus belong together: the family of the one is measured on the other")
        for band, (first, last) in self.bands.items():
            if not 0 <= first <= last or not band.replace(" ", "").replace("-", "").isalnum():
                raise RunError(f"band {band!r} is {first}-{last}; expected a plain name and two layers, ascending")

    def languages_of(self, task: str) -> tuple[str, ...] | None:
        """Return the languages that one of ``tasks`` is asked in; None for all that it has."""
        further = self.more_languages if task in self.tasks[1:] else ()
        return further or self.eval_languages or None

    def query(self, language: str, languages: tuple[str, ...], layers: tuple[int, int]) -> ExpertQuery:
        """Return what finds the experts of a language in a band."""
        query = ExpertQuery(self.rule, self.threshold, layers, top=self.top or None, pivot=self.pivot)
        if self.rule == "share":
            return replace(query, kind="exclusive", languages=languages, target=(language,))
        if self.rule == "specificity":
            return replace(query, kind="specific", languages=languages, target=(language,))
        return replace(query, languages=(language,), sign="positive" if self.rule == "contrast" else None)
