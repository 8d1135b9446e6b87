"""The settings of a sweep: those of a study that all candidates share, and lists of those in which they differ."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from isogloss.analysis import DeltaRule, Rule
from isogloss.errors import RunError
from isogloss.languages import resolve
from isogloss.records import Record
from isogloss.steering import STRENGTH_KINDS, Kind
from isogloss.workflows.settings import STRICT, StudySettings, require_strength
from isogloss.workflows.sweep.results import CandidateRow

__all__ = ["CandidateGrid", "Sweep", "candidates", "resolve_layers"]

_LAYERS = re.compile(r"(?P<first>\d+)-(?P<last>\d+)|all|early|late|middle(?P<shift>[+-]\d+)?")
_TOPPED = ("share", "contrast", "specificity")
_NEEDED = ("rules", "kinds", "strengths", "layers")


@dataclass(frozen=True)
class CandidateGrid(Record):
    """In what candidates differ; every combination is one.

    Attributes:
        rules: ``delta``, ``contrast``: task experts; ``share`` (common), ``specificity`` (overlap): experts that the
            languages of the generic texts have in common.
        thresholds: of the rules' statistics.
        tops: experts kept; share needs it, contrast and specificity may have it, delta takes none.
        kinds: of the interventions.
        strengths: of the kinds that take one: soft, adaptive, offset, select.
        layers: each ``A-B`` (0-based, inclusive), ``all``, ``middle`` as the analysis finds it, ``early`` and ``late``
            (all before and after it), or ``middle+2``, ``middle-2``: the middle moved by so many layers.
    """

    rules: tuple[Rule, ...] = ("delta",)
    thresholds: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4)
    tops: tuple[int, ...] = ()
    kinds: tuple[Kind, ...] = ("soft",)
    strengths: tuple[float, ...] = (0.25, 0.5, 1.0)
    layers: tuple[str, ...] = ("middle",)

    __pydantic_config__: ClassVar = STRICT

    def __post_init__(self) -> None:
        for name in _NEEDED:
            if not getattr(self, name):
                raise RunError(f"grid.{name} is empty; expected a list of at least one value")
        self._check_rules()
        for layers in self.layers:
            match = _LAYERS.fullmatch(layers)
            if match is None or (match["first"] and int(match["first"]) > int(match["last"])):
                raise RunError(f"grid.layers: {layers!r}; expected A-B, all, early, middle, late, middle+K or middle-K")
        for kind, strength in itertools.product(self.kinds, self.strengths):
            if kind in STRENGTH_KINDS:
                require_strength("grid.strengths", kind, strength)

    def _check_rules(self) -> None:
        if "share" in self.rules and not self.tops:
            raise RunError("grid.tops is empty; the share rule needs it (the paper: 20)")
        if not self.thresholds and not (self.tops and "delta" not in self.rules):
            raise RunError("grid.thresholds is empty; expected a list of at least one value, or tops without delta")
        if any(top < 1 for top in self.tops):
            raise RunError(f"grid.tops is {list(self.tops)}; expected numbers of at least 1")
        if set(self.rules) != {"specificity"}:
            for threshold in self.thresholds:
                try:
                    DeltaRule(threshold)
                except ValueError as error:
                    raise RunError(f"grid.thresholds: {error}") from error


@dataclass(frozen=True)
class Sweep(StudySettings):
    """The settings of a sweep, as in SWEEP.toml and ``settings.json``.

    The task has a ``dev`` and a ``test`` split, see `isogloss.evaluation.load_task`; ``task_items`` counts in either.
    The languages to evaluate include the pivot, which the winner must not harm.

    Attributes:
        dev_items: first items of the dev split; 0 for as many as ``task_items``.
        n_controls: random plans that the winner is compared with on the test split, at least 1.
        grid: the candidates.

    Raises:
        RunError: on construction, where a value is out of range, or the pivot or task texts are left out.
    """

    written: ClassVar[tuple[str, ...]] = ("model", "grid")

    dev_items: int = 0
    n_controls: int = 3
    grid: CandidateGrid = field(default_factory=CandidateGrid)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("dev_items", least=0)
        self.require("n_controls", least=1)
        if not self.task_corpus:
            raise RunError("task_corpus is empty; a sweep looks for task experts in it: name a corpus")
        if self.eval_languages:
            require_pivot(self.eval_languages, self.pivot, "eval_languages")


def require_pivot(languages: Sequence[str], pivot: str, where: str) -> None:
    """Refuse languages without the pivot, or without another one."""
    codes = {resolve(code) for code in languages}
    if resolve(pivot) not in codes or len(codes) < 2:  # noqa: PLR2004 - the pivot and one more
        raise RunError(
            f"{where} holds {', '.join(sorted(codes))}; a sweep compares gains in other languages with what they cost "
            f"the pivot: expected {resolve(pivot)} and at least one more"
        )


def candidates(grid: CandidateGrid) -> list[CandidateRow]:
    """List the grid, each combination once; a rule or kind that takes no top or strength is not repeated for it.

    Example:
        >>> grid = CandidateGrid(thresholds=(0.1,), kinds=("soft", "ban"), strengths=(0.25, 0.5), layers=("all",))
        >>> [(each.name, each.kind, each.strength) for each in candidates(grid)]
        [('c001', 'soft', 0.25), ('c002', 'soft', 0.5), ('c003', 'ban', None)]
    """
    points = dict.fromkeys(_points(grid))
    return [
        CandidateRow(
            name=f"c{index:03d}", rule=rule, threshold=threshold, top=top, kind=kind, strength=strength, layers=layers
        )
        for index, (rule, threshold, top, kind, strength, layers) in enumerate(points, start=1)
    ]


def resolve_layers(
    text: str, layers: Sequence[int], bands: Mapping[str, tuple[int, int]]
) -> tuple[tuple[int, int] | None, str]:
    """Turn one of `CandidateGrid.layers` into the first and last decoder layer; or None and why the model has none.

    ``layers`` are the model's routed ones, ascending; ``bands`` are empty where the analysis found no middle.

    Raises:
        RunError: the middle is needed and was not found, or the range goes on behind the last routed layer.
    """
    match = _LAYERS.fullmatch(text)
    if match is None:
        raise RunError(f"{text!r} names no layers")
    if match["first"]:
        if int(match["first"]) <= layers[-1] < int(match["last"]):
            raise RunError(f"grid.layers: {text} goes beyond the model, whose last routed layer is {layers[-1]}")
        return (int(match["first"]), int(match["last"])), ""
    if text == "all":
        return (layers[0], layers[-1]), ""
    name = "middle" if text.startswith("middle") else text
    if name not in bands:
        if "middle" not in bands:
            raise RunError(f"grid.layers: {text} needs the middle layers, which were not found; write A-B instead")
        return None, f"the middle begins or ends with the model: there is nothing {name}"
    shift = int(match["shift"] or 0)
    first, last = (edge + shift for edge in bands[name])
    if first < layers[0] or last > layers[-1]:
        return None, f"layers {first}-{last} lie outside the model's {layers[0]}-{layers[-1]}"
    return (first, last), ""


def _points(grid: CandidateGrid) -> Iterator[tuple[Any, ...]]:
    for rule, layers in itertools.product(grid.rules, grid.layers):
        tops = (grid.tops if rule in _TOPPED else ()) or (None,)
        thresholds = grid.thresholds or (None,)
        for threshold, top, kind in itertools.product(thresholds, tops, grid.kinds):
            for strength in grid.strengths if kind in STRENGTH_KINDS else (None,):
                yield rule, threshold, top, kind, strength, layers
