"""Which experts a rule finds: the table that every rule returns, and what all rules have in common.

A rule compares groups of items: the listed languages of one Run, or two corpora. It judges the counts of each group,
pooled over items, so that one function serves the data as they are, every bootstrap resample of the items, and every
permutation of the labels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from isogloss.analysis.statistics import Resampling, bootstrap_counts, percentile_interval
from isogloss.errors import LanguageError, PlanError, RunError
from isogloss.files import Number, Record, sha256
from isogloss.notebook import Shown
from isogloss.routing import Fingerprint
from isogloss.steering import Kind, Plan, plan_from_experts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pandas as pd

    from isogloss.runs import Run

FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]
IntArray: TypeAlias = npt.NDArray[np.integer[Any]]
BoolArray: TypeAlias = npt.NDArray[np.bool_]
Judge: TypeAlias = Callable[[FloatArray | IntArray, FloatArray | IntArray], tuple[FloatArray, BoolArray]]
"""From counts ``[..., n_groups, n_experts]`` and tokens ``[..., n_groups]``, pooled over items, to statistic and
verdict ``[..., n_experts]``."""

__all__ = [
    "ExpertRow",
    "ExpertTable",
    "ItemGroups",
    "Judge",
    "corpus_groups",
    "judge_groups",
    "language_groups",
    "layer_positions",
    "rate_difference",
    "selection_rates",
]

_OPPOSITES: dict[str, Kind] = {"soft": "soft", "offset": "offset", "force": "suppress"}
"""What happens to experts that a contrast found to be used less, where the others are promoted by the first kind."""

MASK_ENTRIES = 8_000_000
"""Entries of one block of permutation weights: 64 MB of float64."""


@dataclass(frozen=True)
class ExpertRow(Record):
    """One expert that a rule found.

    Attributes:
        layer: decoder layer, 0-based.
        expert: id within the layer.
        statistic: what the rule compares with its threshold.
        low: lower end of its bootstrap interval; NaN where there are no items. Selected experts are the lucky ones
            too: their statistics lean upwards.
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
    """

    rule: str
    parameters: dict[str, Any]
    experts: tuple[ExpertRow, ...]
    expected_by_chance: float | None
    fingerprint: Fingerprint | None = None
    run_sha256: str | None = None

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
        """Number of experts found."""
        return len(self.experts)

    def to_json(self) -> dict[str, Any]:
        """Return the fields and ``n`` as JSON types; what the Run is, only where it is known."""
        raw = {**super().to_json(), "n": self.n}
        unknown = {name for name in ("fingerprint", "run_sha256") if raw[name] is None}
        return {name: value for name, value in raw.items() if name not in unknown}

    def of(self, run: Run) -> ExpertTable:
        """Return the table with the fingerprint and hash of the Run that its experts were found in."""
        return replace(self, fingerprint=run.manifest.fingerprint, run_sha256=sha256(run.manifest.encode()))

    def plan(self, kind: Kind, *, strength: float | None = None) -> Plan:
        """Make a plan for the model that was captured.

        Experts of a contrast with both signs are steered by their sign: ``soft`` and ``offset`` push the negative ones
        with the opposite strength; ``force`` forces the positive ones and suppresses the negative ones. The other kinds
        do the same to all experts and need a contrast of one sign.

        Args:
            kind: what to do with the experts.
            strength: of kinds ``soft``, ``adaptive`` and ``offset``; None for the others.

        Raises:
            PlanError: the table is empty, no model was captured, or the kind does not fit.
        """
        if self.fingerprint is None:
            raise PlanError("these experts come from imported counts, which name no model; capture the model first")
        if not self.experts:
            raise PlanError(f"the rule found no expert with {self.parameters}; lower the threshold or widen the layers")
        experts = [(row.layer, row.expert, row.statistic, row.weight) for row in self.experts]
        provenance = {"rule": self.rule, "parameters": self.parameters, "run": self.run_sha256}
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


def layer_positions(decoder_layers: Sequence[int], within: tuple[int, int] | None) -> list[int]:
    """Find the routed layers that lie in an inclusive range of decoder layers.

    Args:
        decoder_layers: decoder layer of each position.
        within: first and last decoder layer; None for all.

    Returns:
        Positions, increasing.

    Raises:
        RunError: the range holds no routed layer.
    """
    first, last = within or (min(decoder_layers), max(decoder_layers))
    positions = [position for position, layer in enumerate(decoder_layers) if first <= layer <= last]
    if not positions:
        raise RunError(
            f"no routed layer lies in {first}-{last}; this run has layers {min(decoder_layers)}-{max(decoder_layers)}"
            " (0-based, inclusive): change --layers"
        )
    return positions


def selection_rates(selections: FloatArray | IntArray, tokens: FloatArray | IntArray) -> FloatArray:
    """Divide selections by tokens: the share of each item's tokens that chose each expert.

    Args:
        selections: ``[n_items, n_layers, n_experts]`` counts.
        tokens: ``[n_items]``, positive.

    Returns:
        Same shape as ``selections``; sums to top_k over experts.

    Raises:
        RunError: an item has no tokens.
    """
    empty = np.flatnonzero(np.asarray(tokens) <= 0)
    if len(empty):
        raise RunError(f"item {empty[0]} has no counted tokens ({len(empty)} such items); remove them from the corpus")
    return np.asarray(selections / np.asarray(tokens, dtype=np.float64)[:, None, None])


@dataclass(frozen=True, eq=False)
class ItemGroups:
    """Groups of items whose routing a rule compares: languages of one Run, or corpora.

    Attributes:
        selections: one array per group, ``[n_items, n_layers, n_experts]``; counts, or rates of the items.
        tokens: one array per group, ``[n_items]``, positive; what the counts are divided by once both are pooled.
        decoder_layers: decoder layer of each of the ``n_layers`` positions.
        parallel: item i is the same text in every group, so items are resampled together, and permuted labels deal
            each item's records among the groups at random; otherwise groups are resampled separately and all items
            reassigned.

    Raises:
        ValueError: on construction, shapes do not fit.
        RunError: on construction, an item has no tokens.
    """

    selections: tuple[FloatArray | IntArray, ...]
    tokens: tuple[FloatArray | IntArray, ...]
    decoder_layers: tuple[int, ...]
    parallel: bool

    def __post_init__(self) -> None:
        shapes = [np.shape(array) for array in self.selections]
        items = {len(array) for array in self.selections}
        fits = len({shape[1:] for shape in shapes}) == 1 and shapes[0][1] == len(self.decoder_layers)
        if not fits or [shape[:1] for shape in shapes] != [np.shape(tokens) for tokens in self.tokens]:
            raise ValueError(
                f"selections {shapes} and {len(self.decoder_layers)} layers do not fit each other or tokens"
            )
        if self.parallel and len(items) > 1:
            raise ValueError(f"paired items, but {' against '.join(map(str, (len(each) for each in self.selections)))}")
        if any((np.asarray(tokens) <= 0).any() for tokens in self.tokens):
            raise RunError("an item has no counted tokens in some group; remove it from the corpus")

    @property
    def least_items(self) -> int:
        """Items of the smallest group; with fewer than two nothing can be resampled."""
        return min(len(array) for array in self.selections)

    def within(self, layers: tuple[int, int] | None) -> ItemGroups:
        """Keep an inclusive range of decoder layers; RunError where it holds no routed layer."""
        positions = layer_positions(self.decoder_layers, layers)
        kept = slice(positions[0], positions[-1] + 1)  # layers ascend; a slice copies nothing
        selections = tuple(array[:, kept] for array in self.selections)
        return replace(self, selections=selections, decoder_layers=self.decoder_layers[kept])

    def as_rates(self) -> ItemGroups:
        """Let every item count the same, however many tokens it has: pooled rates are then means over items."""
        rates = tuple(selection_rates(*pair) for pair in zip(self.selections, self.tokens, strict=True))
        return replace(self, selections=rates, tokens=tuple(np.ones(len(array)) for array in rates))

    def pooled(self) -> tuple[FloatArray | IntArray, FloatArray | IntArray]:
        """Sum over items: ``[n_layers, n_groups, n_experts]`` and ``[n_groups]``."""
        wide = [np.int64 if np.issubdtype(array.dtype, np.integer) else np.float64 for array in self.selections]
        sums = [array.sum(axis=0, dtype=dtype) for array, dtype in zip(self.selections, wide, strict=True)]
        return np.stack(sums, axis=1), np.array([tokens.sum(dtype=np.float64) for tokens in self.tokens])

    def resampled(self, resampling: Resampling) -> tuple[FloatArray, ...]:
        """Draw how often each item occurs, ``[n_resamples, n_items]`` per group."""
        drawn = []
        for place, array in enumerate(self.selections):
            # Other streams for groups of other items; the same for parallel ones.
            seed = resampling.seed + (0 if self.parallel else place)
            drawn.append(bootstrap_counts(len(array), n_resamples=resampling.n_resamples, seed=seed))
        return tuple(counts.astype(np.float64) for counts in drawn)

    def relabelled(self, resampling: Resampling) -> Iterator[FloatArray]:
        """Yield blocks ``[n, n_groups, n_stacked]`` of 0 and 1: which stacked items each group is dealt."""
        generator = np.random.default_rng(resampling.seed)
        sizes, n_groups = [len(array) for array in self.selections], len(self.selections)
        block = max(1, MASK_ENTRIES // (n_groups * sum(sizes)))
        for start in range(0, resampling.n_permutations, block):
            n = min(block, resampling.n_permutations - start)
            if self.parallel:
                dealt = np.argsort(generator.random((n, sizes[0], n_groups)), axis=2)
                owner = dealt.transpose(0, 2, 1).reshape(n, -1)
            else:
                owner = generator.permuted(np.tile(np.repeat(np.arange(n_groups), sizes), (n, 1)), axis=1)
            yield (owner[:, None, :] == np.arange(n_groups)[:, None]).astype(np.float64)


def language_groups(run: Run, languages: Sequence[str]) -> ItemGroups:
    """Group a Run's items by language; item i is the same text in all.

    Args:
        run: with items, or pooled.
        languages: ``xxx_Xxxx``, in the order of the groups.

    Raises:
        LanguageError: a language is not in the Run.
    """
    absent = [language for language in languages if language not in run.languages]
    if absent:
        raise LanguageError(f"{', '.join(absent)} not in this run; it holds {', '.join(run.languages)}")
    every = slice(None)
    return ItemGroups(
        tuple(run.load_items(language, "selections", every) for language in languages),
        tuple(run.load_items(language, "tokens", every) for language in languages),
        tuple(spec.layer for spec in run.manifest.routers),
        parallel=True,
    )


def corpus_groups(run: Run, base: Run, language: str) -> ItemGroups:
    """Group the items of two Runs of one model, both in one language; their texts are not parallel.

    Args:
        run: first group.
        base: second group.
        language: ``xxx_Xxxx``.

    Raises:
        RunError: the Runs are of different routers.
        LanguageError: a Run lacks the language.
    """
    if run.manifest.routers != base.manifest.routers or run.manifest.fingerprint != base.manifest.fingerprint:
        raise RunError(
            f"run and base were captured from different routers ({run.manifest.model} and {base.manifest.model}); "
            "capture the base texts with the same model"
        )
    first, second = language_groups(run, [language]), language_groups(base, [language])
    return ItemGroups(
        first.selections + second.selections, first.tokens + second.tokens, first.decoder_layers, parallel=False
    )


def rate_difference(counts: FloatArray | IntArray, tokens: FloatArray | IntArray) -> FloatArray:
    """Subtract the second group's selection rate from the first's.

    Args:
        counts: ``[..., 2, n_experts]``, pooled over items.
        tokens: ``[..., 2]``.

    Returns:
        ``[..., n_experts]`` between -1 and 1; sums to 0 over experts.
    """
    rates = counts / np.asarray(tokens, dtype=np.float64)[..., None]
    return np.asarray(rates[..., 0, :] - rates[..., 1, :])


def judge_groups(
    groups: ItemGroups, judge: Judge, *, resampling: Resampling, top: int | None = None
) -> tuple[tuple[ExpertRow, ...], float | None]:
    """Find the experts that a judge accepts, with intervals and the chance count.

    Args:
        groups: in the order that the judge expects, restricted to the layers wanted.
        judge: gives statistic and verdict per expert.
        resampling: of the items.
        top: keep only so many, the greatest absolute statistics over all layers; ties go to the lower layer and id.

    Returns:
        Rows by layer and expert id, and what `ExpertTable.expected_by_chance` says. Without at least two items per
        group the ends are NaN and the chance count None.
    """
    statistic, verdict = judge(*groups.pooled())
    layer, expert = np.nonzero(verdict)
    weakest = 0.0
    if top is not None and len(layer) > top:
        kept = np.sort(np.argsort(-np.abs(statistic[layer, expert]), kind="stable")[:top])
        layer, expert = layer[kept], expert[kept]
        weakest = float(np.abs(statistic[layer, expert]).min())
    low, high = _intervals(groups, judge, (layer, expert), resampling)
    rows = zip(layer, expert, statistic[layer, expert], low, high, strict=True)
    return (
        tuple(
            ExpertRow(groups.decoder_layers[place], int(name), *(float(number) for number in numbers))
            for place, name, *numbers in rows
        ),
        _expected_by_chance(groups, judge, weakest, resampling),
    )


def _intervals(
    groups: ItemGroups, judge: Judge, found: tuple[IntArray, IntArray], resampling: Resampling
) -> tuple[FloatArray, FloatArray]:
    """Bootstrap the statistic of the found experts; NaN where a group has a single item."""
    low, high = np.full((2, len(found[0])), np.nan)
    if groups.least_items < 2:  # noqa: PLR2004 - spread needs two items
        return low, high
    weights = groups.resampled(resampling)
    tokens = np.stack([weight @ of_group for weight, of_group in zip(weights, groups.tokens, strict=True)], axis=-1)
    for position in np.unique(found[0]):
        here = found[0] == position
        pairs = zip(weights, groups.selections, strict=True)
        counts = np.stack([weight @ array[:, position] for weight, array in pairs], axis=1)
        drawn = judge(counts, tokens)[0][:, found[1][here]]
        low[here], high[here] = percentile_interval(drawn, level=resampling.level)
    return low, high


def _expected_by_chance(groups: ItemGroups, judge: Judge, weakest: float, resampling: Resampling) -> float | None:
    if groups.least_items < 2:  # noqa: PLR2004 - labels of single items carry no information
        return None
    stacked_tokens, found = np.concatenate(groups.tokens).astype(np.float64), 0
    for weights in groups.relabelled(resampling):
        tokens: FloatArray = weights @ stacked_tokens
        for position in range(len(groups.decoder_layers)):
            stacked = np.concatenate([array[:, position] for array in groups.selections]).astype(np.float64)
            statistic, verdict = judge(np.asarray(weights @ stacked), tokens)
            found += int((verdict & (np.abs(statistic) >= weakest)).sum())
    return found / resampling.n_permutations
