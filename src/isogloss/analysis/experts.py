"""Which experts a language or a task uses more: the difference rule, and the table that every rule returns."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from isogloss.analysis.statistics import (
    DEFAULT_RESAMPLING,
    Resampling,
    bootstrap_counts,
    percentile_interval,
    require_items,
    resampled_means,
)
from isogloss.errors import LanguageError, RunError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from isogloss.runs import Run

    FloatArray = npt.NDArray[np.floating[Any]]
    IntArray = npt.NDArray[np.integer[Any]]

__all__ = [
    "DeltaRule",
    "ExpertRow",
    "ExpertTable",
    "delta_experts",
    "language_experts",
    "layer_positions",
    "selection_rates",
    "task_experts",
]


@dataclass(frozen=True)
class ExpertRow:
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
    statistic: float
    low: float
    high: float
    weight: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON types; NaN becomes None, and ``weight`` is absent where the rule has none."""
        row = {
            "layer": self.layer,
            "expert": self.expert,
            "statistic": self.statistic,
            "low": self.low if math.isfinite(self.low) else None,
            "high": self.high if math.isfinite(self.high) else None,
        }
        return row if self.weight is None else {**row, "weight": self.weight}


@dataclass(frozen=True)
class ExpertTable:
    """What a rule found, with what it was asked.

    Attributes:
        rule: ``delta`` or ``share``.
        parameters: everything the result depends on, as JSON types.
        experts: by layer, then expert id.
        expected_by_chance: experts the rule would find on average under permuted labels; None without items.
    """

    rule: str
    parameters: dict[str, Any]
    experts: tuple[ExpertRow, ...]
    expected_by_chance: float | None

    @property
    def n(self) -> int:
        """Number of experts found."""
        return len(self.experts)

    def to_json(self) -> dict[str, Any]:
        """Return the fields and ``n`` as JSON types."""
        return {
            "rule": self.rule,
            "parameters": self.parameters,
            "experts": [row.to_json() for row in self.experts],
            "n": self.n,
            "expected_by_chance": self.expected_by_chance,
        }


@dataclass(frozen=True)
class DeltaRule:
    """Parameters of the difference rule.

    Attributes:
        threshold: an expert is found where its rate is higher than the base rate by more than this; 0.3 means 30
            percentage points more of the tokens. Between 0 and 1.
        layers: first and last decoder layer looked at, inclusive; None for all.
        paired: item i of both sides is the same text (in two languages), so items are resampled together.
    """

    threshold: float = 0.3
    layers: tuple[int, int] | None = None
    paired: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold}; a difference of rates lies between 0 and 1")

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON types."""
        return {**asdict(self), "layers": list(self.layers) if self.layers else None}


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


def selection_rates(selections: IntArray, tokens: IntArray) -> FloatArray:
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


def _resampled_difference(
    rates: FloatArray, base: FloatArray, rule: DeltaRule, resampling: Resampling
) -> FloatArray | None:
    """Difference of means per resample, ``[n_resamples, n_cells]``; None where a side has a single item."""
    if min(len(rates), len(base)) < 2:  # noqa: PLR2004 - spread needs two items
        return None
    counts = bootstrap_counts(len(rates), n_resamples=resampling.n_resamples, seed=resampling.seed)
    if rule.paired:
        return resampled_means(rates - base, counts)
    # A second stream: the base's items are other items, resampled independently.
    base_counts = bootstrap_counts(len(base), n_resamples=resampling.n_resamples, seed=resampling.seed + 1)
    return resampled_means(rates, counts) - resampled_means(base, base_counts)


def _relabelling(n_items: int, n_base: int, rule: DeltaRule, resampling: Resampling) -> FloatArray:
    """Weights ``[n_permutations, n_stacked]`` that turn stacked items into a difference under permuted labels.

    Paired items swap their two labels with probability one half; unpaired ones are dealt anew.
    """
    generator = np.random.default_rng(resampling.seed)
    if rule.paired:
        signs = generator.choice([-1.0, 1.0], size=(resampling.n_permutations, n_items)) / n_items
        return np.concatenate([signs, -signs], axis=1)
    labels = np.concatenate([np.full(n_items, 1.0 / n_items), np.full(n_base, -1.0 / n_base)])
    return generator.permuted(np.tile(labels, (resampling.n_permutations, 1)), axis=1)


def _expected_by_chance(rates: FloatArray, base: FloatArray, rule: DeltaRule, resampling: Resampling) -> float | None:
    if min(len(rates), len(base)) < 2:  # noqa: PLR2004 - labels of single items carry no information
        return None
    weights = _relabelling(len(rates), len(base), rule, resampling)
    found = 0
    for position in range(rates.shape[1]):
        stacked = np.concatenate([rates[:, position], base[:, position]])
        found += int((weights @ stacked > rule.threshold).sum())
    return found / resampling.n_permutations


def delta_experts(
    rates: FloatArray,
    base: FloatArray,
    *,
    decoder_layers: Sequence[int],
    rule: DeltaRule,
    resampling: Resampling = DEFAULT_RESAMPLING,
) -> ExpertTable:
    """Find experts chosen more often than in a base, by the difference of mean selection rates.

    Args:
        rates: ``[n_items, n_layers, n_experts]`` from `selection_rates`.
        base: ``[n_base_items, n_layers, n_experts]``; as many items as ``rates`` if the rule says paired.
        decoder_layers: decoder layer of each of the ``n_layers`` positions.
        rule: threshold, layers and pairing.
        resampling: of the items.

    Returns:
        Statistic: the difference (of means over items, not token-pooled). The chance count permutes the two labels.

    Raises:
        ValueError: shapes do not fit.
        RunError: the rule's layers hold no routed layer.

    Source:
        arXiv 2510.04694, equation 3; intervals and chance count are ours.
    """
    if rates.shape[1:] != base.shape[1:] or len(decoder_layers) != rates.shape[1]:
        raise ValueError(f"rates {rates.shape}, base {base.shape} and {len(decoder_layers)} layers do not fit")
    if rule.paired and len(rates) != len(base):
        raise ValueError(f"paired items, but {len(rates)} against {len(base)}")
    positions = layer_positions(decoder_layers, rule.layers)
    rates, base = rates[:, positions], base[:, positions]
    difference = rates.mean(axis=0) - base.mean(axis=0)
    found = np.nonzero(difference > rule.threshold)
    layer, expert = found
    resampled = _resampled_difference(rates[:, layer, expert], base[:, layer, expert], rule, resampling)
    missing = np.full(len(found[0]), np.nan)
    ends = (missing, missing) if resampled is None else percentile_interval(resampled, level=resampling.level)
    rows = zip(found[0], found[1], difference[found], *ends, strict=True)
    return ExpertTable(
        rule="delta",
        parameters={**rule.to_json(), "n_items": len(rates), "n_base_items": len(base), **resampling.to_json()},
        experts=tuple(
            ExpertRow(decoder_layers[positions[place]], int(expert), *(float(number) for number in numbers))
            for place, expert, *numbers in rows
        ),
        expected_by_chance=_expected_by_chance(rates, base, rule, resampling),
    )


def _run_rates(run: Run, language: str) -> FloatArray:
    require_items(run.manifest.granularity, "the delta rule (a mean of rates over items)")
    if language not in run.languages:
        raise LanguageError(f"{language} is not in this run; it holds {', '.join(run.languages)}")
    routing = run.load(language)
    return selection_rates(routing.selections, routing.tokens)


def language_experts(
    run: Run, language: str, *, pivot: str, rule: DeltaRule, resampling: Resampling = DEFAULT_RESAMPLING
) -> ExpertTable:
    """Find the experts that a language uses more than the pivot does on the same items.

    Args:
        run: with items in both languages.
        language: ``xxx_Xxxx``.
        pivot: the language of the base.
        rule: items are parallel here, so they are paired whatever the rule says.
        resampling: of the items.

    Returns:
        As `delta_experts`; the parameters also name both languages.

    Raises:
        RunError: the Run is pooled.
        LanguageError: a language is not in the Run, or both are the same.
    """
    if language == pivot:
        raise LanguageError(f"{language} is the pivot itself; name another language")
    rule = DeltaRule(rule.threshold, rule.layers, paired=True)
    layers = [spec.layer for spec in run.manifest.routers]
    rates, base = _run_rates(run, language), _run_rates(run, pivot)
    table = delta_experts(rates, base, decoder_layers=layers, rule=rule, resampling=resampling)
    named = {"kind": "language", "language": language, "pivot": pivot, **table.parameters}
    return ExpertTable(table.rule, named, table.experts, table.expected_by_chance)


def task_experts(
    run: Run, base: Run, *, language: str, rule: DeltaRule, resampling: Resampling = DEFAULT_RESAMPLING
) -> ExpertTable:
    """Find the experts that task texts use more than base texts do, both in one language.

    Args:
        run: of the task texts (such as solved arithmetic problems).
        base: of generic texts, captured from the same model.
        language: ``xxx_Xxxx``, usually the pivot.
        rule: not paired unless item i of both Runs is the same text.
        resampling: of the items, independently on both sides.

    Returns:
        As `delta_experts`; the parameters also name the language and both corpora.

    Raises:
        RunError: a Run is pooled, or the Runs are of different routers.
        LanguageError: a Run lacks the language.
    """
    if run.manifest.routers != base.manifest.routers or run.manifest.fingerprint != base.manifest.fingerprint:
        raise RunError(
            f"task and base were captured from different routers ({run.manifest.model} and {base.manifest.model}); "
            "capture the base texts with the same model"
        )
    layers = [spec.layer for spec in run.manifest.routers]
    rates, base_rates = _run_rates(run, language), _run_rates(base, language)
    table = delta_experts(rates, base_rates, decoder_layers=layers, rule=rule, resampling=resampling)
    corpora = {"corpus": run.manifest.corpus["name"], "base": base.manifest.corpus["name"]}
    named = {"kind": "task", "language": language, **corpora, **table.parameters}
    return ExpertTable(table.rule, named, table.experts, table.expected_by_chance)
