"""Which experts a rule finds: the table that every rule returns, and what all rules have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from isogloss.analysis.groups import LEAST_ITEMS, ItemGroups, corpus_groups, language_groups
from isogloss.analysis.nearest import Nearest, nearest
from isogloss.analysis.rules import ExpertRule, LanguageRule
from isogloss.arrays import FloatArray, IntArray
from isogloss.errors import LanguageError, PlanError
from isogloss.files import sha256
from isogloss.notebook import Shown
from isogloss.records import Name, Number, Record
from isogloss.routing import Fingerprint
from isogloss.runs import Run, RunStatus, common_status, reading_difference
from isogloss.statistics import DEFAULT_RESAMPLING, Resampling, interval_around
from isogloss.steering import Kind, Plan, plan_from_experts

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "ExpertRow",
    "ExpertTable",
    "experts_among_languages",
    "find_in_groups",
    "language_experts",
    "task_experts",
]

_OPPOSITES: dict[str, Kind] = {"soft": "soft", "offset": "offset", "select": "select", "force": "suppress"}
"""What happens to experts that a contrast found to be used less, where the others are promoted by the first kind."""


@dataclass(frozen=True)
class ExpertRow(Record):
    """One expert that a rule found.

    Attributes:
        layer: decoder layer, 0-based.
        expert: id within the layer.
        statistic: what the rule compares with its threshold.
        low: lower end of its bootstrap interval; NaN where there are no items. Experts were selected by
            their statistics, which are therefore biased upwards.
        high: upper end.
        weight: share of the first listed language (share rule); None for other rules.
    """

    layer: int
    expert: int
    statistic: Number
    low: Number
    high: Number
    weight: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON types; NaN becomes None, and ``weight`` is absent where the rule has none."""
        row = super().to_json()
        return row if self.weight is not None else {name: value for name, value in row.items() if name != "weight"}


@dataclass(frozen=True, repr=False)
class ExpertTable(Record, Shown):
    """What a rule found, with what it was asked.

    Attributes:
        rule: ``delta``, ``share``, ``contrast`` or ``specificity``.
        parameters: everything the result depends on, as JSON types.
        experts: by layer, then expert id.
        expected_by_chance: experts the rule would find on average under permuted labels; None without items. Where the
            rule keeps only the top ones, those that would reach the weakest expert kept (a top always has its number,
            whatever the labels).
        fingerprint: of the model that was captured; None for imported counts.
        run_sha256: hash of the manifest of the Run that the experts were found in; None where they were found in bare
            arrays.
        status: ``partial`` where a Run behind it is unfinished; such numbers will change.
        revision: commit of the model's hub repository; None for a local model, or as above.
        caution: in what the two Runs behind it were read otherwise, as a chat or plain; None where they were not.
        nearest: where no expert was found, how far the nearest is from the threshold; None else.
    """

    rule: Name
    parameters: dict[str, Any]
    experts: tuple[ExpertRow, ...]
    expected_by_chance: float | None
    fingerprint: Fingerprint | None = None
    run_sha256: str | None = None
    status: RunStatus = "complete"
    revision: str | None = None
    caution: str | None = None
    nearest: Nearest | None = None

    def __repr__(self) -> str:
        layers = len({row.layer for row in self.experts})
        chance = "" if self.expected_by_chance is None else f"; {self.expected_by_chance:.1f} expected by chance"
        return f"ExpertTable({self.rule}: {self.n} experts in {layers} layers{chance})"

    def to_frame(self) -> pd.DataFrame:
        """Return one row per expert: ``layer``, ``expert``, ``statistic``, ``low``, ``high``, ``weight``."""
        import pandas as pd  # noqa: PLC0415 - takes a third of a second, and most commands show no table

        columns = [field.name for field in fields(ExpertRow)]
        return pd.DataFrame([astuple(row) for row in self.experts], columns=columns)

    @property
    def n(self) -> int:
        """Number of experts in the table."""
        return len(self.experts)

    def to_json(self) -> dict[str, Any]:
        """Return the fields and ``n`` as JSON types; what the Run is, only where it is known."""
        raw = {**super().to_json(), "n": self.n}
        unknown = {
            name for name in ("fingerprint", "run_sha256", "revision", "caution", "nearest") if raw[name] is None
        }
        unknown |= set() if self.run_sha256 else {"status"}
        return {name: value for name, value in raw.items() if name not in unknown}

    def of(self, run: Run, base: Run | None = None) -> ExpertTable:
        """Return the table with the fingerprint and hash of the Run that its experts were found in, and its status."""
        return replace(
            self,
            fingerprint=run.manifest.fingerprint,
            run_sha256=sha256(run.manifest.encode()),
            revision=run.manifest.revision,
            status=common_status(*(each.manifest for each in (run, base) if each)),
            caution=reading_difference(run.manifest, base.manifest) if base else None,
        )

    def plan(self, kind: Kind, *, strength: float | None = None, allow_partial: bool = False) -> Plan:
        """Make a plan for the model that was captured; only `STRENGTH_KINDS` take a strength.

        A plan outlives its Run, and nobody who loads it later sees that languages were missing: experts of an
        unfinished Run are refused unless ``allow_partial``.

        Experts of a contrast with both signs are steered by their sign: ``soft``, ``offset`` and ``select`` push the
        negative ones with the opposite strength; ``force`` forces the positive ones and suppresses the negative ones.
        The other kinds do the same to all experts and need a contrast of one sign.

        Raises:
            PlanError: the table is empty, no model was captured, or the kind does not fit.
        """
        if self.fingerprint is None:
            raise PlanError("these experts come from imported counts, which name no model; capture the model first")
        if self.status == "partial" and not allow_partial:
            raise PlanError(
                "these experts come from a partial run, whose capture has not finished; repeat the capture to finish "
                "it, or give --allow-partial"
            )
        if not self.experts:
            near = "" if self.nearest is None else f" {self.nearest.text}"
            raise PlanError(
                f"the rule found no expert with {self.parameters}; lower the threshold or widen the layers.{near}"
            )
        experts = [(row.layer, row.expert, row.statistic, row.weight) for row in self.experts]
        provenance = {"rule": self.rule, "parameters": self.parameters, "run": self.run_sha256}
        provenance |= {"status": self.status} if self.status == "partial" else {}
        provenance |= {"revision": self.revision} if self.revision is not None else {}
        make = partial(plan_from_experts, fingerprint=self.fingerprint)
        if self.parameters.get("sign") != "both":
            return make(experts, kind=kind, strength=strength, provenance=provenance)
        if kind not in _OPPOSITES:
            raise PlanError(
                f"{kind} does the same to all experts, and this contrast has both signs; choose --sign positive or "
                f"--sign negative, or a kind that follows the sign: {', '.join(_OPPOSITES)}"
            )
        more, less = [row for row in experts if row[2] > 0], [row for row in experts if row[2] < 0]
        up = make(more, kind=kind, strength=strength, provenance=provenance)
        opposite = None if strength is None else -strength
        down = make(less, kind=_OPPOSITES[kind], strength=opposite, provenance=up.provenance)
        return Plan(self.fingerprint, up.interventions + down.interventions, down.provenance)


def find_in_groups(
    groups: ItemGroups,
    rule: ExpertRule,
    *,
    resampling: Resampling = DEFAULT_RESAMPLING,
    compared: Mapping[str, Any] | None = None,
) -> ExpertTable:
    """Find the experts of groups of items by a rule.

    Args:
        groups: in the order that the rule expects.
        rule: what is compared; its class documents the statistic.
        resampling: of the items.
        compared: what the groups are, for the parameters of the table.

    Returns:
        Intervals resample items, and with them both their selections and their tokens. The chance count deals the
        records of parallel items to the groups at random, and reassigns unpaired items. Where a group has a single item
        (pooled Runs) there is neither. Under a top, ties go to the lower layer and id.

    Raises:
        ValueError: the rule compares another number of groups.
        RunError: the rule's layers hold no routed layer.
    """
    if len(groups.selections) != rule.n_groups:
        raise ValueError(f"{len(groups.selections)} groups do not fit; the {rule.name} rule compares {rule.n_groups}")
    whole = rule.prepare(groups)
    within = whole.within(rule.layers)
    statistic, verdict = rule.judge(*within.pooled())
    layer, expert = np.nonzero(verdict)
    weakest, sign = 0.0, -1 if rule.found_below else 1
    if rule.most is not None and len(layer) > rule.most:
        kept = np.sort(np.argsort(-np.abs(statistic[layer, expert]), kind="stable")[: rule.most])
        layer, expert = layer[kept], expert[kept]
        weakest = float(np.abs(statistic[layer, expert]).min())
    near = None if len(layer) else nearest(statistic, rule.reach(statistic), within.decoder_layers, sign=sign)
    values = statistic[layer, expert]
    low, high = _intervals(within, rule, (layer, expert), values, resampling=resampling)
    weights = rule.weights(within)
    rows = tuple(
        ExpertRow(
            within.decoder_layers[place],
            int(name),
            float(value),
            float(start),
            float(end),
            None if weights is None else float(weights[place, name]),
        )
        for place, name, value, start, end in zip(layer, expert, values, low, high, strict=True)
    )
    parameters = {**(compared or {}), **rule.to_json(), **rule.sizes(whole), **resampling.to_json()}
    chance = _expected_by_chance(within, rule, weakest, resampling)
    return ExpertTable(rule.name, parameters, rows, chance, nearest=near)


def language_experts(
    run: Run, language: str, *, pivot: str, rule: ExpertRule, resampling: Resampling = DEFAULT_RESAMPLING
) -> ExpertTable:
    """Compare a language with the pivot on the same items, by the delta or the contrast rule.

    Raises:
        RunError: the Run does not hold what the rule needs, or the rule's layers hold no routed layer.
        LanguageError: a language is not in the Run, or both are the same.
    """
    if language == pivot:
        raise LanguageError(f"a language is compared with another one, and both are {language}; name another language")
    rule.require(run)
    compared = {"kind": "language", "language": language, "pivot": pivot}
    groups = language_groups(run, [language, pivot])
    return find_in_groups(groups, rule, resampling=resampling, compared=compared).of(run)


def task_experts(
    run: Run, base: Run, *, language: str, rule: ExpertRule, resampling: Resampling = DEFAULT_RESAMPLING
) -> ExpertTable:
    """Compare the texts of two Runs of one model in one language, by the delta or the contrast rule.

    Args:
        run: of the task texts, such as solved arithmetic problems.
        base: of generic texts.
        language: usually the pivot.
        rule: of the comparison.
        resampling: of the items, independently in both Runs.

    Raises:
        RunError: the Runs are of different routers or do not hold what the rule needs, or its layers hold no routed
            layer.
        LanguageError: a Run lacks the language.
    """
    rule.require(run)
    rule.require(base)
    corpora = {"corpus": run.manifest.corpus["name"], "base": base.manifest.corpus["name"]}
    compared = {"kind": "task", "language": language, **corpora}
    groups = corpus_groups(run, base, language)
    return find_in_groups(groups, rule, resampling=resampling, compared=compared).of(run, base)


def experts_among_languages(
    run: Run, rule: LanguageRule, *, resampling: Resampling = DEFAULT_RESAMPLING
) -> ExpertTable:
    """Find experts by the share or the specificity rule, in a Run with items or a pooled one.

    Raises:
        LanguageError: a language of the rule is not in the Run.
        RunError: the rule's layers hold no routed layer.
    """
    return find_in_groups(language_groups(run, rule.languages), rule, resampling=resampling).of(run)


def _intervals(
    groups: ItemGroups,
    rule: ExpertRule,
    places: tuple[IntArray, IntArray],
    values: FloatArray,
    *,
    resampling: Resampling,
) -> tuple[FloatArray, FloatArray]:
    """Bootstrap the statistic of the experts at (layer position, id); NaN where a group has a single item."""
    low, high = np.full((2, len(places[0])), np.nan)
    if groups.least_items < LEAST_ITEMS:
        return low, high
    weights = groups.resampled(resampling)
    tokens = np.stack([weight @ of_group for weight, of_group in zip(weights, groups.tokens, strict=True)], axis=-1)
    for position in np.unique(places[0]):
        here = places[0] == position
        counted = groups.count_resampled(weights, position)
        drawn = np.concatenate([rule.judge(counts, tokens[rows])[0][:, places[1][here]] for rows, counts in counted])
        low[here], high[here] = interval_around(values[here], drawn, level=resampling.level)
    return low, high


def _expected_by_chance(groups: ItemGroups, rule: ExpertRule, weakest: float, resampling: Resampling) -> float | None:
    if groups.least_items < LEAST_ITEMS:
        return None
    stacked_tokens, accepted = np.concatenate(groups.tokens).astype(np.float64), 0
    blocks = [(summed, summed(stacked_tokens)) for summed in groups.relabelled(resampling)]
    for position in range(len(groups.decoder_layers)):
        stacked = np.concatenate(groups.of_layer(position)).astype(np.float64)
        for summed, tokens in blocks:
            statistic, verdict = rule.judge(summed(stacked), tokens)
            accepted += int((verdict & (np.abs(statistic) >= weakest)).sum())
    return accepted / resampling.n_permutations
