"""Compares two versions of one model on the same tokens: which experts are chosen, and what is predicted next.

Versions are checkpoints with other numbers in the same layers: other dtypes, quantisations, a base and its fine-tune.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import numpy as np

from isogloss.analysis import divergence
from isogloss.arrays import FloatArray, IntArray
from isogloss.backends.token_routing import RoutedText
from isogloss.errors import RunError
from isogloss.evaluation.paired import SIGNIFICANT
from isogloss.evaluation.significance import sign_flip
from isogloss.notebook import Shown
from isogloss.records import Name, Number, Record
from isogloss.statistics import (
    DEFAULT_RESAMPLING,
    Estimate,
    Resampling,
    holm,
    percentile_interval,
    resampled_means,
    resampled_over_languages,
)

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "COMPARISON",
    "LAYER_MEASURES",
    "MEASURES",
    "LanguageDifference",
    "Measure",
    "ModelVersion",
    "VersionComparison",
    "WeightBytes",
    "compare_versions",
    "text_difference",
]

COMPARISON = "comparison.json"
"""Name of the file that holds a `VersionComparison`."""

LayerMeasure: TypeAlias = Literal["choices", "sets", "first", "divergence"]
Measure: TypeAlias = Literal["choices", "sets", "first", "divergence", "next_token", "kl"]
"""``choices``: share of a token's ``top_k`` choices that fall on other experts, mean over tokens. ``sets``: share of
tokens whose set of experts differs. ``first``: share of tokens whose expert of the greatest weight differs.
``divergence``: of the text's mean routing weights, as `isogloss.analysis.divergence`. ``next_token``: share of tokens
after which another token is the likeliest. ``kl``: Kullback-Leibler divergence of the next token, first version from
second, in nats per token, of the first version's 32 likeliest tokens and all others taken together: never above that
of all tokens."""

LAYER_MEASURES: tuple[LayerMeasure, ...] = get_args(LayerMeasure)
MEASURES: tuple[Measure, ...] = get_args(Measure)
_LEAST = 1e-12  # probability of all other tokens, which rounding may make 0 or less
_FLOATS = ("float64", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class WeightBytes(Record):
    """Bytes of one part of the weights in one dtype.

    Attributes:
        part: ``experts``, the routed ones, or ``others``.
        dtype: as torch names it.
        stored: in the checkpoint's files; None where they are no safetensors.
        held: in memory, once loaded.
    """

    part: Name
    dtype: Name
    stored: int | None
    held: int


@dataclass(frozen=True)
class ModelVersion(Record):
    """One of the two.

    Attributes:
        name: hub id, name of the folder, or ``organism``.
        revision: commit of the hub's repository; None for a folder.
        dtype: that it computes in.
        summary: what was loaded, in a few words.
        quantisation: method and bits, as the configuration states them; None where it is not quantised.
        weights: bytes by part and dtype.
        weights_sha256: hash of values sampled from all weights, as loaded.
        repeated: share of choices that differ when the same few texts are read a second time: 0 unless kernels round
            otherwise from run to run, which is then a part of every difference.
        threads: on which a processor ran it; None on other devices.
        packages: versions of what can change the numbers.
    """

    name: Name
    revision: str | None
    dtype: Name
    summary: str
    quantisation: str | None
    weights: tuple[WeightBytes, ...]
    weights_sha256: str | None
    repeated: Number
    threads: int | None
    packages: Mapping[str, str]

    @property
    def experts_unquantised(self) -> bool:
        """Whether it is said to be quantised, and its files hold the experts in floating point of 16 bits or more."""
        stored = [each.dtype for each in self.weights if each.part == "experts" and each.stored]
        return self.quantisation is not None and bool(stored) and all(dtype in _FLOATS for dtype in stored)

    @property
    def dequantised(self) -> bool:
        """Whether its files hold other numbers than floating point of 16 bits or more, and its memory holds none."""
        stored = {each.dtype in _FLOATS for each in self.weights if each.stored}
        return False in stored and all(each.dtype in _FLOATS for each in self.weights if each.held)


@dataclass(frozen=True)
class LanguageDifference(Record):
    """How the versions differ on the texts of one language, or in the mean over languages.

    Attributes:
        n_tokens: compared.
        layers: measure to one estimate per routed layer.
        means: measure to its estimate, of the first four the mean over layers.
        beyond: its mean share of changed choices minus that of the other languages, on the same items; None for the
            mean over languages, or where there is one language.
        p_value: of the test that this is 0, by random flips of its sign, item by item.
        p_adjusted: the same, corrected for all languages by Holm's method.
    """

    n_tokens: int
    layers: Mapping[LayerMeasure, tuple[Estimate, ...]]
    means: Mapping[Measure, Estimate]
    beyond: Estimate | None = None
    p_value: Number | None = None
    p_adjusted: Number | None = None

    @property
    def is_significant(self) -> bool:
        """Whether it differs from the other languages."""
        return self.p_adjusted is not None and self.p_adjusted <= SIGNIFICANT


@dataclass(frozen=True, repr=False)
class VersionComparison(Record, Shown):
    """Two versions of one model, on the same tokens.

    Raises:
        RunError: no language or item, a measure or a layer without its estimate, or more choices than experts.

    Attributes:
        first: version.
        second: version.
        corpus: name of the texts.
        token_scope: which tokens are compared, ``content`` or ``all``.
        n_items: texts in each language.
        routed_layers: decoder layer of each place of a curve, 0-based.
        n_experts: of each.
        top_k: of each.
        languages: code to its difference; intervals resample items.
        overall: mean over languages; intervals resample languages and items.
        resampling: of the items, the same for all languages and layers.
    """

    first: ModelVersion
    second: ModelVersion
    corpus: Name
    token_scope: str
    n_items: int
    routed_layers: tuple[int, ...]
    n_experts: int
    top_k: int
    languages: Mapping[str, LanguageDifference]
    overall: LanguageDifference
    resampling: Resampling = DEFAULT_RESAMPLING

    def __post_init__(self) -> None:
        if not self.languages:
            raise RunError("languages: none; expected at least one")
        if self.n_items < 1:
            raise RunError(f"n_items: {self.n_items}; expected at least 1")
        if not 1 <= self.top_k <= self.n_experts:
            raise RunError(f"top_k: {self.top_k} of {self.n_experts} experts; expected 1 or more, and no more than all")
        n_layers = len(self.routed_layers)
        for where, each in {"overall": self.overall, **self.languages}.items():
            for name in LAYER_MEASURES:
                if (found := len(each.layers.get(name, ()))) != n_layers or not n_layers:
                    raise RunError(
                        f"{where}: {found} values of {name}; expected {n_layers or 'some'}, one for each routed layer"
                    )
            if absent := [name for name in MEASURES if name not in each.means]:
                raise RunError(f"{where}: no mean of {absent[0]}; expected one of each measure")

    def __repr__(self) -> str:
        choices = self.overall.means["choices"].scaled(100).text("{:.3g} %".format)
        return (
            f"VersionComparison({self.first.name} in {self.first.dtype}, {self.second.name} in {self.second.dtype}: "
            f"{choices} of choices differ, {len(self.languages)} languages, {self.n_items:,} items)"
        )

    @property
    def unlike_others(self) -> tuple[str, ...]:
        """Languages whose choices change more or less than those of the others do, corrected for all languages."""
        return tuple(code for code, each in self.languages.items() if each.is_significant)

    def to_frame(self) -> pd.DataFrame:
        """Return one row per language, measure and layer, and without a layer for the mean over layers.

        Columns: ``language`` (``mean`` over all), ``measure``, ``layer``, ``value``, ``low``, ``high`` and ``n``.
        """
        import pandas as pd  # noqa: PLC0415 - half a second, and only tables need it

        rows = []
        for code, each in {"mean": self.overall, **self.languages}.items():
            rows += [{"language": code, "measure": name, **vars(mean)} for name, mean in each.means.items()]
            rows += [
                {"language": code, "measure": name, "layer": layer, **vars(point)}
                for name, curve in each.layers.items()
                for layer, point in zip(self.routed_layers, curve, strict=True)
            ]
        columns = ["language", "measure", "layer", "value", "low", "high", "n"]
        return pd.DataFrame.from_records(rows, columns=columns).astype({"layer": "Int64"})


def text_difference(first: RoutedText, second: RoutedText) -> dict[Measure, FloatArray]:
    """Compare what two versions did with one text, token by token.

    Returns:
        Each measure, ``[n_layers]`` or, of next tokens, ``[]``; all are 0 where both did the same.
    """
    one, other = first.expert_ids, second.expert_ids
    shared = (one[..., :, None] == other[..., None, :]).any(-1).sum(-1)  # [n_tokens, n_layers]
    top_k = one.shape[-1]
    return {
        "choices": 1 - shared.mean(0) / top_k,
        "sets": (shared < top_k).mean(0),
        "first": (one[..., 0] != other[..., 0]).mean(0),
        "divergence": divergence(first.profile, second.profile),
        "next_token": np.asarray((first.likeliest != second.likeliest).mean()),
        "kl": _next_divergence(first.next_log_probabilities, second.next_log_probabilities),
    }


def _next_divergence(first: FloatArray, second: FloatArray) -> FloatArray:
    """Return the mean over tokens of the divergence of ``[n_tokens, n_kept]`` log-probabilities, the rest as one."""
    expected, observed = first.astype(np.float64), second.astype(np.float64)
    terms = (np.exp(expected) * (expected - observed)).sum(-1)
    rest, other_rest = (np.maximum(1 - np.exp(each).sum(-1), _LEAST) for each in (expected, observed))
    return np.asarray(np.maximum(terms + rest * np.log(rest / other_rest), 0.0).mean())


def compare_versions(
    values: Mapping[str, Mapping[Measure, FloatArray]],
    tokens: Mapping[str, IntArray],
    *,
    resampling: Resampling = DEFAULT_RESAMPLING,
) -> tuple[dict[str, LanguageDifference], LanguageDifference]:
    """Estimate the differences of every language, and of the mean over languages.

    Args:
        values: language to measure to ``[n_items, n_layers]`` or, of next tokens, ``[n_items]``, of the same items.
        tokens: language to ``[n_items]``, compared tokens.
        resampling: of the items.

    Returns:
        By language, and overall. A mean over items weighs each text alike, however many tokens it has. One item gives
        no intervals.
    """
    cells = {code: _cells(each) for code, each in values.items()}
    counts = resampling.draw(len(next(iter(cells.values()))))
    estimates = {code: resampling.estimate(each, counts) for code, each in cells.items()}
    n_layers = next(iter(values.values()))["choices"].shape[1]
    sums = {code: int(each.sum()) for code, each in tokens.items()}
    tests = _tests({code: each["choices"].mean(1) for code, each in values.items()}, resampling)
    languages = {
        code: LanguageDifference(sums[code], *_laid_out(each, n_layers), *tests.get(code, (None, None, None)))
        for code, each in estimates.items()
    }
    if len(languages) == 1:
        (overall,) = estimates.values()
    else:
        resampled = np.stack([resampled_means(each, counts) for each in cells.values()])
        drawn = resampled_over_languages(resampled, n_items=counts.shape[1], seed=resampling.seed)
        low, high = percentile_interval(drawn, level=resampling.level)
        means = np.mean([each.mean(0) for each in cells.values()], axis=0)
        ends = zip(means.tolist(), low.tolist(), high.tolist(), strict=True)
        overall = tuple(Estimate(*each, len(languages)) for each in ends)
    return languages, LanguageDifference(sum(sums.values()), *_laid_out(overall, n_layers))


def _cells(values: Mapping[Measure, FloatArray]) -> FloatArray:
    """Lay measures side by side, ``[n_items, n_cells]``: by layer, then the mean of each."""
    by_layer = [values[name] for name in LAYER_MEASURES]
    means = [values[name].reshape(len(values[name]), -1).mean(1, keepdims=True) for name in MEASURES]
    return np.concatenate([*by_layer, *means], axis=1)


def _laid_out(
    cells: tuple[Estimate, ...], n_layers: int
) -> tuple[dict[LayerMeasure, tuple[Estimate, ...]], dict[Measure, Estimate]]:
    """Undo `_cells`."""
    curves = {name: cells[place * n_layers : (place + 1) * n_layers] for place, name in enumerate(LAYER_MEASURES)}
    return curves, dict(zip(MEASURES, cells[len(LAYER_MEASURES) * n_layers :], strict=True))


def _tests(choices: Mapping[str, FloatArray], resampling: Resampling) -> dict[str, tuple[Estimate, float, float]]:
    """Compare each language's changed choices, ``[n_items]``, with the others' mean: difference, p, corrected p."""
    if len(choices) == 1:
        return {}
    total = np.sum(list(choices.values()), axis=0)
    others = {code: (total - own) / (len(choices) - 1) for code, own in choices.items()}
    counts = resampling.draw(len(total))
    beyond = [resampling.estimate((own - others[code])[:, None], counts)[0] for code, own in choices.items()]
    p_values = [sign_flip(others[code], own, seed=resampling.seed) for code, own in choices.items()]
    return dict(zip(choices, zip(beyond, p_values, holm(p_values), strict=True), strict=True))
