"""The settings of a sweep: those of a study that all candidates share, and lists of those in which they differ."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ConfigDict

from isogloss.analysis import DeltaRule
from isogloss.analysis.expert_query import Rule
from isogloss.errors import PlanError, RunError
from isogloss.languages import resolve
from isogloss.routing import Fingerprint
from isogloss.steering import STRENGTH_KINDS, Kind, plan_from_experts
from isogloss.workflows.settings import read_settings

__all__ = ["Candidate", "Grid", "Sweep", "candidates", "layer_range", "read_sweep"]

_LAYERS = re.compile(r"(?P<first>\d+)-(?P<last>\d+)|all|early|late|middle(?P<shift>[+-]\d+)?")
_TOPPED = ("share", "contrast", "specificity")
_NEEDED = ("rules", "kinds", "strengths", "layers")
_FINGERPRINT = Fingerprint("any", (0, 1), 4, 2, "00")  # of no model: strengths are checked before one is loaded


class Candidate(NamedTuple):
    """One point of a grid; a setting that its rule or kind does not take is None."""

    name: str
    rule: Rule
    threshold: float | None
    top: int | None
    kind: Kind
    strength: float | None
    layers: str


@dataclass(frozen=True)
class Grid:
    """In what candidates differ; every combination is one.

    Attributes:
        rules: ``delta``, ``contrast``: task experts; ``share`` (common), ``specificity`` (overlap): experts that the
            languages of the generic texts have in common.
        thresholds: of the rules' statistics.
        tops: experts kept; share needs it, contrast and specificity may have it, delta takes none.
        kinds: of the interventions.
        strengths: of the kinds that take one: soft, adaptive, offset.
        layers: each ``A-B`` (0-based, inclusive), ``all``, ``middle`` as the analysis finds it, ``early`` and ``late``
            (all before and after it), or ``middle+2``, ``middle-2``: the middle moved by so many layers.
    """

    rules: tuple[Rule, ...] = ("delta",)
    thresholds: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4)
    tops: tuple[int, ...] = ()
    kinds: tuple[Kind, ...] = ("soft",)
    strengths: tuple[float, ...] = (0.25, 0.5, 1.0)
    layers: tuple[str, ...] = ("middle",)

    __pydantic_config__ = ConfigDict(extra="forbid")

    def __post_init__(self) -> None:
        for name in _NEEDED:
            if not getattr(self, name):
                raise RunError(f"grid.{name} is empty; expected a list of at least one value")
        self._check_rules()
        for layers in self.layers:
            found = _LAYERS.fullmatch(layers)
            if found is None or (found["first"] and int(found["first"]) > int(found["last"])):
                raise RunError(f"grid.layers: {layers!r}; expected A-B, all, early, middle, late, middle+K or middle-K")
        for kind, strength in itertools.product(self.kinds, self.strengths):
            if kind in STRENGTH_KINDS:
                _check_strength(kind, strength)

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
class Sweep:
    """The settings of a sweep, as in SWEEP.toml.

    Attributes:
        model: hub id, folder, or ``organism``.
        corpus: generic parallel texts.
        task_corpus: task texts in the pivot language, to find task experts.
        task: with a ``dev`` and a ``test`` split, see `isogloss.evaluation.tasks.load_task`.
        languages: to capture; empty for all that the corpus has.
        eval_languages: to evaluate, the pivot among them; empty for all that the task has.
        pivot: the reference language, which the winner must not harm.
        corpus_items: first items of the corpora; 0 for all.
        task_items: first items of either split; 0 for all.
        dev_items: first items of the dev split; 0 for as many as ``task_items`` says.
        n_controls: random plans that the winner is compared with on the test split, at least 1.
        grid: the candidates.

    Raises:
        RunError: on construction, where a value is out of range or the pivot is not evaluated.
    """

    model: str = "organism"
    corpus: str = "organism"
    task_corpus: str = "organism:problems"
    task: str = "organism"
    languages: tuple[str, ...] = ()
    eval_languages: tuple[str, ...] = ()
    pivot: str = "eng_Latn"
    corpus_items: int = 0
    task_items: int = 0
    dev_items: int = 0
    n_controls: int = 3
    grid: Grid = field(default_factory=Grid)

    __pydantic_config__ = ConfigDict(extra="forbid")

    def __post_init__(self) -> None:
        if self.n_controls < 1:
            raise RunError(f"n_controls is {self.n_controls}; expected at least 1")
        for name in ("corpus_items", "task_items", "dev_items"):
            if getattr(self, name) < 0:
                raise RunError(f"{name} is {getattr(self, name)}; expected 0 for all, or more")
        if self.eval_languages:
            require_pivot(self.eval_languages, self.pivot, "eval_languages")


def require_pivot(languages: Sequence[str], pivot: str, where: str) -> None:
    """Refuse languages without the pivot, or without another one."""
    codes = {resolve(code) for code in languages}
    if resolve(pivot) not in codes or len(codes) < 2:  # noqa: PLR2004 - the pivot and one more
        raise RunError(
            f"{where} holds {', '.join(sorted(codes))}; a sweep weighs gains in other languages against what they cost "
            f"the pivot: expected {resolve(pivot)} and at least one more"
        )


def read_sweep(path: Path) -> Sweep:
    """Read SWEEP.toml.

    Raises:
        RunError: not TOML, an unknown setting, or a value of the wrong type or out of range.
    """
    known = [each.name for each in fields(Sweep) if each.name != "grid"]
    known += [f"grid.{each.name}" for each in fields(Grid)]
    return read_settings(path, Sweep, what="sweep", known=known)


def candidates(grid: Grid) -> list[Candidate]:
    """List the grid, each combination once; a rule or kind that takes no top or strength is not repeated for it.

    Example:
        >>> grid = Grid(thresholds=(0.1,), kinds=("soft", "ban"), strengths=(0.25, 0.5), layers=("all",))
        >>> [(each.name, each.kind, each.strength) for each in candidates(grid)]
        [('c001', 'soft', 0.25), ('c002', 'soft', 0.5), ('c003', 'ban', None)]
    """
    return [Candidate(f"c{index:03d}", *point) for index, point in enumerate(dict.fromkeys(_points(grid)), start=1)]


def layer_range(
    text: str, layers: Sequence[int], bands: Mapping[str, tuple[int, int]]
) -> tuple[tuple[int, int] | None, str]:
    """Turn one of `Grid.layers` into the first and last decoder layer.

    Args:
        text: as in the grid.
        layers: the model's routed layers, ascending.
        bands: name to first and last layer; empty where the analysis found no middle.

    Returns:
        The range and an empty text, or None and why the model has no such layers.

    Raises:
        RunError: the middle is needed and was not found.
    """
    found = _LAYERS.fullmatch(text)
    if found is None:
        raise RunError(f"{text!r} names no layers")
    if found["first"]:
        return (int(found["first"]), int(found["last"])), ""
    if text == "all":
        return (layers[0], layers[-1]), ""
    name = "middle" if text.startswith("middle") else text
    if name not in bands:
        if "middle" not in bands:
            raise RunError(f"grid.layers: {text} needs the middle layers, which were not found; write A-B instead")
        return None, f"the middle begins or ends with the model: there is nothing {name}"
    shift = int(found["shift"] or 0)
    first, last = (edge + shift for edge in bands[name])
    if first < layers[0] or last > layers[-1]:
        return None, f"layers {first}-{last} lie outside the model's {layers[0]}-{layers[-1]}"
    return (first, last), ""


def _points(grid: Grid) -> Iterator[tuple[Any, ...]]:
    for rule, layers in itertools.product(grid.rules, grid.layers):
        tops = (grid.tops if rule in _TOPPED else ()) or (None,)
        thresholds = grid.thresholds or (None,)
        for threshold, top, kind in itertools.product(thresholds, tops, grid.kinds):
            for strength in grid.strengths if kind in STRENGTH_KINDS else (None,):
                yield rule, threshold, top, kind, strength, layers


def _check_strength(kind: Kind, strength: float) -> None:
    expert = (0, 0, 1.0, 1.0)
    try:
        plan_from_experts([expert], kind=kind, strength=strength, fingerprint=_FINGERPRINT, provenance={})
    except PlanError as error:
        raise RunError(f"grid.strengths: {error}") from error
