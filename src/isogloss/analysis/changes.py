"""How routing changed between two Runs of the same texts, such as a model before and after training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from isogloss.analysis.divergence import (
    Curves,
    Quantity,
    as_pivots,
    from_pivots,
    other_languages,
    read_distributions,
)
from isogloss.analysis.threads import in_threads
from isogloss.arrays import FloatArray
from isogloss.errors import RunError
from isogloss.records import Record
from isogloss.runs import HOW_READ, Manifest, Run, header_differences, text_differences
from isogloss.statistics import DEFAULT_RESAMPLING, Estimate, Resampling

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["DivergenceChange", "divergence_change"]

_QUANTITY: Quantity = "profile"
_ALIKE = ("item_ids", "phase", "new_tokens", *HOW_READ)


@dataclass(frozen=True)
class DivergenceChange(Record):
    """Divergence from the pivot in two Runs of the same texts, and the difference, item by item.

    Attributes:
        pivot: language or, with commas between, languages.
        layers: decoder layer of each place of a curve, 0-based.
        quantity: distribution that is compared.
        before: language to its curve in the first Run.
        after: the same in the second.
        change: after minus before; negative where a language is routed more like the pivot than it was.
        mean_change: of all languages together; the interval is over items, for these languages.
    """

    pivot: str
    layers: tuple[int, ...]
    quantity: Quantity
    before: Curves
    after: Curves
    change: Curves
    mean_change: tuple[Estimate, ...]

    def to_frame(self) -> pd.DataFrame:
        """Return one row per language and layer, and language ``mean`` for the mean change.

        Columns: ``language``, ``layer``, ``measure`` (``before``, ``after`` or ``change``), ``value``, ``low``,
        ``high`` and ``n``.
        """
        import pandas as pd  # noqa: PLC0415 - half a second, and only tables need it

        parts = {name: getattr(self, name) for name in ("before", "after", "change")}
        parts["change"] = {**self.change, "mean": self.mean_change}
        rows = [
            {"language": code, "layer": layer, "measure": name, **vars(each)}
            for name, curves in parts.items()
            for code, curve in curves.items()
            for layer, each in zip(self.layers, curve, strict=True)
        ]
        return pd.DataFrame.from_records(rows)


def divergence_change(
    before: Run,
    after: Run,
    *,
    pivot: str | Sequence[str] = "eng_Latn",
    languages: Sequence[str] | None = None,
    resampling: Resampling = DEFAULT_RESAMPLING,
) -> DivergenceChange:
    """Compare the divergence of every language from the pivot in two Runs, layer by layer.

    The difference is taken per item, and items are resampled in both Runs together, so its interval is narrower than
    those of the two curves. The models may differ in their weights, not in their layers and experts.

    Args:
        before: the first Run.
        after: the second, of the same items, read and counted alike.
        pivot: reference language, or several.
        languages: to compare; None for all that both Runs hold.
        resampling: of the items; the same resamples serve both Runs, all languages and all layers.

    Raises:
        LanguageError: a pivot or language is absent from a Run, or nothing else is in both.
        RunError: the Runs are pooled, of other texts, read or counted otherwise, or of other layers or experts.

    Source:
        arXiv 2510.04694, equation 2; the paired difference and its interval are ours.
    """
    others = [code for code in other_languages(before, pivot) if code in set(other_languages(after, pivot))]
    chosen = tuple(others if languages is None else languages)
    for run in (before, after):
        run.require((*as_pivots(pivot), *chosen))
        run.manifest.require_items("the change of divergence")
    _require_alike(before.manifest, after.manifest, (*as_pivots(pivot), *chosen))
    counts = resampling.draw(before.manifest.shape[0])
    pivots = [[read_distributions(run, code, _QUANTITY) for code in as_pivots(pivot)] for run in (before, after)]

    def measure(language: str) -> tuple[FloatArray, FloatArray]:
        one, other = (
            from_pivots(references, read_distributions(run, language, _QUANTITY))
            for run, references in zip((before, after), pivots, strict=True)
        )
        return one, other

    measured = dict(zip(chosen, in_threads(measure, chosen), strict=True))
    return DivergenceChange(
        pivot=",".join(as_pivots(pivot)),
        layers=tuple(router.layer for router in before.manifest.routers),
        quantity=_QUANTITY,
        before={code: resampling.estimate(one, counts) for code, (one, _) in measured.items()},
        after={code: resampling.estimate(other, counts) for code, (_, other) in measured.items()},
        change={code: resampling.estimate(other - one, counts) for code, (one, other) in measured.items()},
        mean_change=resampling.estimate(np.mean([other - one for one, other in measured.values()], axis=0), counts),
    )


def _require_alike(before: Manifest, after: Manifest, languages: Sequence[str]) -> None:
    """Refuse Runs whose difference would be one of texts, of counting or of architectures."""
    differences = header_differences(before, after, only=_ALIKE)
    differences += [each for each in text_differences(before, after) if each.split(" ")[0] in languages]
    sizes = [[(router.layer, router.n_experts) for router in each.routers] for each in (before, after)]
    if sizes[0] != sizes[1]:
        differences.append("the routed layers or their numbers of experts")
    if differences:
        raise RunError(
            f"the two Runs differ in {'; '.join(differences)}; expected the same texts, read alike by models of one "
            "shape: capture both with the same corpus and options"
        )
