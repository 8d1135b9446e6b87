"""Groups of items whose routing rules compare: languages of one Run, or two corpora."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from isogloss.analysis.layers import layer_positions
from isogloss.arrays import FloatArray, IntArray
from isogloss.errors import RunError
from isogloss.runs import Run, model_differences, note_other_reading
from isogloss.statistics import Resampling

__all__ = [
    "LEAST_ITEMS",
    "ItemGroups",
    "StoredSelections",
    "corpus_groups",
    "language_groups",
    "rate_difference",
    "selection_rates",
]

LEAST_ITEMS = 2
"""With fewer there is no spread to resample, and labels of single items carry no information."""

BLOCK = 2**23
"""Numbers of one block of resampled counts: 64 MiB of float64."""

HELD = 2**25
"""Selections of all languages together that are held in memory, 128 MiB; of more, a layer at a time is read."""

_CACHED = 2**17  # numbers of one block of sums by group: 1 MiB, which records are added to in no order


def selection_rates(selections: FloatArray | IntArray, tokens: FloatArray | IntArray) -> FloatArray:
    """Divide selections ``[n_items, n_layers, n_experts]`` by tokens: the share of tokens that chose each expert.

    The result has the shape of the selections and sums to top_k over experts.

    Raises:
        RunError: an item has no tokens.
    """
    empty = np.flatnonzero(np.asarray(tokens) <= 0)
    if len(empty):
        raise RunError(f"item {empty[0]} has no counted tokens ({len(empty)} such items); remove them from the corpus")
    return np.asarray(selections / np.asarray(tokens, dtype=np.float64)[:, None, None])


@dataclass(frozen=True, eq=False)
class StoredSelections:
    """The selections of one language of a Run, ``[n_items, n_layers, n_experts]``, read when a layer is asked for.

    Attributes:
        run: that holds them.
        language: full code.
        layers: positions among the Run's routed layers, of those that are meant.
    """

    run: Run
    language: str
    layers: range

    @property
    def shape(self) -> tuple[int, int, int]:
        """As of an array."""
        n_items, _, n_experts = self.run.manifest.shape
        return n_items, len(self.layers), n_experts

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: tuple[slice, int | slice]) -> StoredSelections | IntArray:
        """Read the layer ``[:, i]``, or narrow the layers to ``[:, i:j]``, of all items."""
        _, layers = key
        if isinstance(layers, slice):
            return replace(self, layers=self.layers[layers])
        place = self.layers[layers]
        read: IntArray = self.run.load_items(self.language, "selections", slice(None), layers=slice(place, place + 1))
        return read[:, 0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> IntArray:  # noqa: ANN401, FBT001 - numpy's own
        """Read all layers."""
        layers = slice(self.layers.start, self.layers.stop)
        read: IntArray = self.run.load_items(self.language, "selections", slice(None), layers=layers)
        return read if dtype is None else read.astype(dtype)


Selections: TypeAlias = FloatArray | IntArray | StoredSelections


@dataclass(frozen=True, eq=False)
class ItemGroups:
    """Groups of items whose routing a rule compares: languages of one Run, or corpora.

    Attributes:
        selections: one array per group, ``[n_items, n_layers, n_experts]``, held or stored; counts, or rates.
        tokens: one array per group, ``[n_items]``, positive; what the counts are divided by once both are pooled.
        decoder_layers: decoder layer of each of the ``n_layers`` positions.
        parallel: item i is the same text in every group, so items are resampled together, and permuted labels deal
            each item's records among the groups at random; otherwise groups are resampled separately and all items
            reassigned.

    Raises:
        ValueError: on construction, shapes do not fit.
        RunError: on construction, an item has no tokens.
    """

    selections: tuple[Selections, ...]
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

    def of_layer(self, position: int) -> list[FloatArray | IntArray]:
        """Return the selections of one layer among the routed ones, ``[n_items, n_experts]`` per group."""
        return [_held(array[:, position]) for array in self.selections]

    def rates(self) -> tuple[FloatArray, ...]:
        """Return the share of every item's tokens that chose each expert, of the shape of ``selections``."""
        pairs = zip(self.selections, self.tokens, strict=True)
        return tuple(selection_rates(_held(selections), tokens) for selections, tokens in pairs)

    def as_rates(self) -> ItemGroups:
        """Let every item count the same, however many tokens it has: pooled rates are then means over items."""
        rates = self.rates()
        return replace(self, selections=rates, tokens=tuple(np.ones(len(array)) for array in rates))

    def pooled(self) -> tuple[FloatArray | IntArray, FloatArray | IntArray]:
        """Sum over items: ``[n_layers, n_groups, n_experts]`` and ``[n_groups]``."""
        sums: FloatArray | IntArray
        sums = np.stack([_sum_over_items(_held(array)) for array in self.selections], axis=1)  # type: ignore[assignment]
        return sums, np.array([tokens.sum(dtype=np.float64) for tokens in self.tokens])

    def resampled(self, resampling: Resampling) -> tuple[FloatArray, ...]:
        """Draw how often each item occurs, ``[n_resamples, n_items]`` per group."""
        sizes = [len(array) for array in self.selections]
        if self.parallel:  # the same array for all, however many
            return (resampling.draw(sizes[0]).astype(np.float64),) * len(sizes)
        return tuple(resampling.draw(size, stream=place).astype(np.float64) for place, size in enumerate(sizes))

    def count_resampled(self, weights: Sequence[FloatArray], position: int) -> Iterator[tuple[slice, FloatArray]]:
        """Count the selections of one layer in resamples, in blocks that can be held at once, however many the groups.

        Args:
            weights: of `resampled`.
            position: of the layer, among the routed ones.

        Yields:
            Which resamples, and their counts ``[n, n_groups, n_experts]``.
        """
        selections = self.of_layer(position)
        step = max(1, BLOCK // (len(selections) * selections[0].shape[-1]))
        for first in range(0, len(weights[0]), step):
            rows, pairs = slice(first, first + step), zip(weights, selections, strict=True)
            yield rows, np.stack([weight[rows] @ array for weight, array in pairs], axis=1)

    def relabelled(self, resampling: Resampling) -> Iterator[Callable[[FloatArray | IntArray], FloatArray]]:
        """Yield, by blocks of n permutations, the function that sums stacked records by the group they are dealt to.

        It takes ``[n_stacked, ...]``, the groups' items one after the other, to ``[n, n_groups, ...]``, in a time that
        does not grow with the number of groups. Each holds a small number per permutation and record.
        """
        generator = np.random.default_rng(resampling.seed)
        sizes, n_groups = [len(array) for array in self.selections], len(self.selections)
        block = max(1, _CACHED // (n_groups * self.selections[0].shape[-1]))
        for start in range(0, resampling.n_permutations, block):
            n = min(block, resampling.n_permutations - start)
            if self.parallel:
                dealt = np.argsort(generator.random((n, sizes[0], n_groups)), axis=2)
                owner = dealt.transpose(0, 2, 1).reshape(n, -1)
            else:
                owner = generator.permuted(np.tile(np.repeat(np.arange(n_groups), sizes), (n, 1)), axis=1)
            yield partial(_sum_by, owner.astype(np.min_scalar_type(n_groups)), n_groups)


def _held(selections: Selections) -> FloatArray | IntArray:
    """Return an array, and read what is stored."""
    held: FloatArray | IntArray = np.asarray(selections)  # type: ignore[assignment]
    return held


def _sum_over_items(selections: FloatArray | IntArray) -> FloatArray | IntArray:
    wide = np.int64 if np.issubdtype(selections.dtype, np.integer) else np.float64
    return np.asarray(selections.sum(axis=0, dtype=wide))


def _sum_by(owner: IntArray, n_groups: int, stacked: FloatArray | IntArray) -> FloatArray:
    """Sum stacked records by their owners ``[n, n_stacked]``: the product with a sparse matrix of 0 and 1."""
    from scipy.sparse import csc_array  # noqa: PLC0415 - takes a tenth of a second, and few metrics need it

    n, n_stacked = owner.shape
    rows = (owner + n_groups * np.arange(n, dtype=np.int32)[:, None]).T.ravel()
    starts = np.arange(0, rows.size + 1, n, dtype=np.int32)
    owned = csc_array((np.ones(rows.size), rows, starts), shape=(n * n_groups, n_stacked))
    sums: FloatArray = owned @ np.asarray(stacked, dtype=np.float64)
    return sums.reshape(n, -1, *stacked.shape[1:])


def language_groups(run: Run, languages: Sequence[str]) -> ItemGroups:
    """Group a Run's items by language, in this order; item i is the same text in all.

    Raises:
        LanguageError: a language is not in the Run.
    """
    run.require(languages)
    every, positions = slice(None), range(len(run.manifest.routers))
    selections: tuple[Selections, ...]
    if len(languages) * math.prod(run.manifest.shape) <= HELD:
        selections = tuple(run.load_items(language, "selections", every) for language in languages)
    else:
        selections = tuple(StoredSelections(run, language, positions) for language in languages)
    return ItemGroups(
        selections,
        tuple(run.load_items(language, "tokens", every) for language in languages),
        tuple(spec.layer for spec in run.manifest.routers),
        parallel=True,
    )


def corpus_groups(run: Run, base: Run, language: str) -> ItemGroups:
    """Group the items of two Runs of one model, both in one language; their texts are not parallel.

    Raises:
        RunError: the Runs are of different routers, tokenizers or weights.
        LanguageError: a Run lacks the language.
    """
    if differences := model_differences(run.manifest, base.manifest):
        raise RunError(
            f"{run.path} and {base.path} are of different models: they differ in {'; '.join(differences)}; capture "
            "both texts with the same model"
        )
    note_other_reading(run.manifest, base.manifest)
    first, second = language_groups(run, [language]), language_groups(base, [language])
    return ItemGroups(
        first.selections + second.selections, first.tokens + second.tokens, first.decoder_layers, parallel=False
    )


def rate_difference(counts: FloatArray | IntArray, tokens: FloatArray | IntArray) -> FloatArray:
    """Subtract the second group's selection rate from the first's, from pooled counts and tokens.

    The shapes are ``[..., 2, n_experts]`` and ``[..., 2]``; the result, ``[..., n_experts]``, is between -1 and 1 and
    sums to 0 over experts.
    """
    rates = counts / np.asarray(tokens, dtype=np.float64)[..., None]
    return np.asarray(rates[..., 0, :] - rates[..., 1, :])
