"""The arms that a study makes itself: the ablations of arXiv 2510.04694, from the Runs that its plan rests on."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from isogloss.analysis import DeltaRule, ExpertQuery, ExpertTable, language_experts, query_experts
from isogloss.errors import IsoglossError, PlanError, RunError
from isogloss.runs import Run
from isogloss.steering import Plan, SelectedExpert, replaced

__all__ = ["ArmMaker", "own_arms", "require_arms", "translate_layers"]

_WHOLE, _NUMBER = r"[+-]?\d+", r"\d*\.?\d+"
_OWN = re.compile(
    rf"multilingual|rule-early|rule-late|shifted={_WHOLE}(?:,{_WHOLE})*|threshold={_NUMBER}(?:,{_NUMBER})*"
)
_OF_EVALUATE = re.compile(r"random(:\d+)?|early|late|suppress|(strength|layers|experts|plan)=.+")
_RANGES = re.compile(r"(\d+)-(\d+)")


def require_arms(arms: Sequence[str]) -> None:
    """Refuse arms that neither a study nor an evaluation knows; RunError names the first."""
    for arm in arms:
        if not _OWN.fullmatch(arm) and not _OF_EVALUATE.fullmatch(arm):
            raise RunError(
                f"arms: {arm!r}; expected an arm of `isogloss evaluate`, or multilingual, shifted=4,-4, "
                "threshold=0.3,0.5, rule-early or rule-late"
            )


def translate_layers(arm: str, base: int) -> str:
    """Count the layers of ``layers=A-B`` from 0.

    Example:
        >>> translate_layers("layers=1-4:x-1-2.json", 1)
        'layers=0-3:x-1-2.json'
    """
    kind, equals, rest = arm.partition("=")
    if kind != "layers":
        return arm
    ranges, colon, file = rest.partition(":")
    counted = _RANGES.sub(lambda match: f"{int(match[1]) - base}-{int(match[2]) - base}", ranges)
    return f"{kind}{equals}{counted}{colon}{file}"


@dataclass(frozen=True)
class ArmMaker:
    """What arms are made from.

    Attributes:
        run: of the generic texts.
        base: the same where the rule compares task texts with it; else None.
        of: the Run whose experts the rule finds.
        plan: under test.
        layers: that it steers, 0-based, both included.
        pivot: full code.
        query: what the rule looks for in some layers, at a threshold; None for the study's.
        make: turns experts into a plan of the study's kind and strength.
    """

    run: Run
    base: Run | None
    of: Run
    plan: Plan
    layers: tuple[int, int]
    pivot: str
    query: Callable[[tuple[int, int], float | None], ExpertQuery]
    make: Callable[[ExpertTable], Plan]

    def make_all(self, arms: Sequence[str]) -> tuple[dict[str, Plan], dict[str, str]]:
        """Return the plans of the arms that a study makes, by name, and why others could not be made."""
        plans: dict[str, Plan] = {}
        refused: dict[str, str] = {}
        for arm in arms:
            for name, make in self._recipes(arm):
                try:
                    plans[name] = make()
                except IsoglossError as error:
                    refused[name] = str(error)
        return plans, refused

    def _recipes(self, arm: str) -> Iterator[tuple[str, Callable[[], Plan]]]:
        kind, _, rest = arm.partition("=")
        first, last = self.layers
        if kind == "multilingual":
            yield kind, self._multilingual
        elif kind == "shifted":
            for step in map(int, rest.split(",")):
                yield f"{'deeper' if step > 0 else 'shallower'}-{abs(step)}", self._finder((first + step, last + step))
        elif kind == "threshold" and rest:
            for value in rest.split(","):
                yield f"threshold-{float(value):g}", self._finder(self.layers, float(value))
        elif kind in ("rule-early", "rule-late"):
            routed = [router.layer for router in self.run.manifest.routers]
            yield kind, self._finder((routed[0], first - 1) if kind == "rule-early" else (last + 1, routed[-1]))

    def _finder(self, layers: tuple[int, int], threshold: float | None = None) -> Callable[[], Plan]:
        def find() -> Plan:
            routed = [router.layer for router in self.run.manifest.routers]
            if not routed[0] <= layers[0] <= layers[1] <= routed[-1]:
                raise PlanError(f"layers {layers[0]}-{layers[1]} lie outside the model's {routed[0]}-{routed[-1]}")
            table = query_experts(self.of, self.query(layers, threshold), base=self.base)
            if not table.experts:
                raise PlanError(f"the rule finds no expert in layers {layers[0]}-{layers[1]}")
            return self.make(table)

        return find

    def _multilingual(self) -> Plan:
        """Take as many experts per layer as the plan has: those that any other language uses most beyond the pivot."""
        best: dict[tuple[int, int], float] = {}
        for language in self.run.languages:
            if language != self.pivot:
                table = language_experts(self.run, language, pivot=self.pivot, rule=DeltaRule(0.0, self.layers))
                for row in table.experts:
                    best[row.layer, row.expert] = max(row.statistic, best.get((row.layer, row.expert), 0.0))
        rows = [SelectedExpert(layer, expert, statistic) for (layer, expert), statistic in best.items()]
        return replaced(self.plan, rows, name="multilingual")


def own_arms(arms: Sequence[str]) -> tuple[list[str], list[str]]:
    """Divide arms into those that a study makes and those that an evaluation makes."""
    own = [arm for arm in arms if _OWN.fullmatch(arm)]
    return own, [arm for arm in arms if arm not in own]
