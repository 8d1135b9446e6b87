"""The whole analysis of a Run: what `isogloss analyze` prints and writes, and what the report is made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Any

from isogloss.analysis.controls import DistinctTokens, HiddenStates
from isogloss.analysis.correlation import LayerCorrelation
from isogloss.analysis.divergence import Curves, Quantity
from isogloss.analysis.domains import DomainCurve
from isogloss.analysis.layers import THIRDS, MiddleLayers
from isogloss.analysis.overlap import OverlapCurve
from isogloss.analysis.pairs import By, PairwiseDivergence
from isogloss.analysis.resources import ResourceTable
from isogloss.analysis.structure import LanguageStructure
from isogloss.analysis.translations import TranslationExcess
from isogloss.arrays import StoredArray
from isogloss.errors import RunError
from isogloss.notebook import Shown, drawn
from isogloss.records import Name, Number, Record, to_json
from isogloss.runs import Manifest, RunStatus
from isogloss.statistics import DEFAULT_RESAMPLING, Estimate, Resampling

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

__all__ = ["Analysis", "BandPairs", "Controls"]

Correlations = dict[str, LayerCorrelation]

_UNWRITTEN = ("layer_pairs", "manifest")
_CURVES = ("divergence", "shuffled", "entropy", "consistency")


@dataclass(frozen=True, eq=False)
class BandPairs(Record):
    """Divergence of every two languages, mean over the layers of each band.

    Attributes:
        languages: rows and columns, in this order.
        by: ``items`` or ``means``, as `PairwiseDivergence` has it.
        bands: name to ``[n_languages, n_languages]``.

    Raises:
        ValueError: on construction, where the matrices do not fit the languages.
    """

    languages: tuple[Name, ...]
    by: By
    bands: dict[str, StoredArray]

    def __post_init__(self) -> None:
        n = len(self.languages)
        if len(set(self.languages)) < n or any(matrix.shape != (n, n) for matrix in self.bands.values()):
            raise ValueError(f"matrices of pairs do not fit {n} different languages; expected [{n}, {n}] in every band")


@dataclass(frozen=True)
class Controls(Record):
    """What else could make languages look alike; each part is None or empty where it was not captured or asked for.

    Attributes:
        distinct: divergence on tokens that the pivot's text does not have.
        hidden: similarity of what the routers read.
        phases: divergence of generation from prompt, by language.
    """

    distinct: DistinctTokens | None = None
    hidden: HiddenStates | None = None
    phases: Curves = field(default_factory=dict)


@dataclass(frozen=True, eq=False, repr=False)
class Analysis(Record, Shown):
    """What one Run says about its languages. Curves hold one Estimate per routed layer, in the order of ``layers``.

    A part that was not asked for, or that the Run cannot give, is None or empty; ``refused`` says why it cannot.

    Attributes:
        pivot: reference language, or several joined by commas.
        n_experts: routed experts per layer.
        divergence: by non-pivot language, from the pivot; from several, the mean over them of each item's divergence.
        layers: decoder layer of each position, 0-based.
        granularity: ``items`` or ``pooled``; pooled values carry no intervals.
        quantity: distribution that divergence compares, ``profile`` or ``selection``.
        divergence_ceiling: by non-pivot language, what divergence can reach at these entropies, mean over items.
        shuffled: by language, divergence of items that are not translations (noise ceiling).
        translations: how much closer translations are routed than items that are none; None in a pooled Run.
        entropy: by language, in nats; of profiles per item, or of the pooled distribution.
        consistency: by language, mean Jaccard similarity of the sets chosen for two tokens.
        consistency_chance: per layer, that similarity for sets drawn at random.
        middle_layers: of the mean divergence curve over non-pivot languages; they are a middle if ``is_u_shape``.
        middle_by_language: middle layers of every non-pivot language's own curve.
        correlation: per layer, of accuracy with divergence.
        bands: name to first and last decoder layer, inclusive, as used below.
        divergence_by_band: by non-pivot language and band: each item's divergence is averaged over the band's layers.
        pairs: divergence of every two languages by band.
        structure: trees by band, and what they agree with.
        resources: exclusive and common experts, and how concentrated a language's routing is.
        accuracy: by band, correlation of accuracy with the divergence from the pivot.
        related: by name of the measure (``accuracy``, ``resource``), band, and column of ``resources``.
        controls: shared tokens, hidden states, generation.
        domain: how far task texts are routed from generic ones.
        overlap: of task experts and multilingual experts.
        refused: name of what could not be computed, and why.
        resampling: behind the intervals.
        status: ``partial`` where a Run behind it is unfinished; such numbers will change.
        layer_pairs: divergence of every two languages in every layer; not in the JSON, whose size it would multiply
            (``pairs.parquet`` has it).
        manifest: of the Run; None where the analysis was read back from its JSON, which does not hold it.

    Raises:
        ValueError: on construction, where the pairs lack a language of the curves or of a tree.
    """

    pivot: Name
    n_experts: int
    divergence: Curves
    layers: tuple[int, ...] = ()
    granularity: str = "items"
    quantity: Quantity = "profile"
    divergence_ceiling: dict[str, tuple[Number, ...]] = field(default_factory=dict)
    shuffled: Curves = field(default_factory=dict)
    entropy: Curves = field(default_factory=dict)
    consistency: Curves = field(default_factory=dict)
    consistency_chance: tuple[Number, ...] = ()
    translations: TranslationExcess | None = None
    middle_layers: MiddleLayers | None = None
    middle_by_language: dict[str, MiddleLayers] = field(default_factory=dict)
    correlation: tuple[LayerCorrelation, ...] = ()
    bands: dict[str, tuple[int, int]] = field(default_factory=dict)
    divergence_by_band: dict[str, dict[str, Estimate]] = field(default_factory=dict)
    pairs: BandPairs | None = None
    structure: LanguageStructure | None = None
    resources: ResourceTable | None = None
    accuracy: Correlations = field(default_factory=dict)
    related: dict[str, dict[str, Correlations]] = field(default_factory=dict)
    controls: Controls = field(default_factory=Controls)
    domain: DomainCurve | None = None
    overlap: OverlapCurve | None = None
    refused: dict[str, str] = field(default_factory=dict)
    resampling: Resampling = DEFAULT_RESAMPLING
    status: RunStatus = "complete"
    layer_pairs: PairwiseDivergence | None = None
    manifest: Manifest | None = None

    def __post_init__(self) -> None:
        if self.pairs is None:
            return
        trees = self.structure.bands.values() if self.structure else ()
        drawn_languages = {*self.languages, *(code for band in trees for code in band.tree.languages)}
        if missing := sorted(drawn_languages - set(self.pairs.languages)):
            raise ValueError(f"pairs.languages: lacks {missing[0]}, which the rest of the analysis has")

    @property
    def pivots(self) -> tuple[str, ...]:
        """The reference languages one by one."""
        return tuple(self.pivot.split(","))

    @property
    def languages(self) -> tuple[str, ...]:
        """Pivots and all other languages, sorted."""
        return tuple(sorted({*self.pivots, *self.divergence}))

    @property
    def middle(self) -> tuple[int, int]:
        """First and last middle layer, as ``layers`` of a rule or of a plan takes them.

        Raises:
            RunError: no middle was found: too few layers, or no U-shape.
        """
        if self.middle_layers is None or not self.middle_layers.is_u_shape:
            raise RunError(f"no middle layers: {self.no_middle}; set layers = [first, last]")
        return self.middle_layers.start, self.middle_layers.end

    @property
    def has_middle(self) -> bool:
        """Whether the mean curve has a middle, layers in which it is lower than before and after."""
        return self.middle_layers is not None and self.middle_layers.is_u_shape

    @property
    def no_middle(self) -> str:
        """Why there is no middle; empty where there is one."""
        return self.middle_layers.reason if self.middle_layers else self.refused.get("middle_layers", "")

    @property
    def described_band(self) -> str:
        """The band that sentences are about, which is the middle, else the second third, else the first band."""
        known = [band for band in ("middle", THIRDS[1]) if band in self.bands]
        return known[0] if known else next(iter(self.bands))

    def band_words(self, band: str) -> str:
        """Name a band in a sentence, such as ``the middle layers (8-34)``."""
        (first, last), middle = self.bands[band], self.middle_layers
        if band in THIRDS:
            return f"the {band} of the layers ({first}-{last})"
        # Older files call the best segment so, whether or not it is a middle.
        if band == "middle" and middle and not middle.is_u_shape and (first, last) == (middle.start, middle.end):
            return f"layers {first}-{last}"
        return f"the {band} layers ({first}-{last})"

    @property
    def is_pooled(self) -> bool:
        """Whether counts were imported without items, so that nothing has an interval."""
        return self.granularity == "pooled"

    def over_band(self, values: Sequence[float], band: str) -> float:
        """Average one value per routed layer over a band; NaN where a layer of the band has none."""
        first, last = self.bands[band]
        return fmean(value for layer, value in zip(self.layers, values, strict=True) if first <= layer <= last)

    def by_band(self, curves: Mapping[str, Sequence[Estimate]]) -> dict[str, dict[str, float]]:
        """Average curves over every band: language to band to value."""
        return {
            language: {band: self.over_band([point.value for point in curve], band) for band in self.bands}
            for language, curve in curves.items()
        }

    def plot(self, name: str = "divergence") -> go.Figure:
        """Return one figure of the report, such as ``divergence``, ``language-map``, ``tree-1`` or ``overlap``.

        Raises:
            RunError: this analysis has no such figure; the message names those that it has.
        """
        return drawn(self, name)

    def to_frame(self, name: str = "divergence") -> pd.DataFrame:
        """Return a tidy table of `isogloss.analysis.tables.tidy_tables`, or a measure of its table ``curves``.

        Raises:
            RunError: this analysis has no such table.
        """
        from isogloss.analysis.tables import to_frame  # noqa: PLC0415 - tables know this class

        return to_frame(self, name)

    def to_json(self) -> dict[str, Any]:
        """Return the fields of `isogloss analyze --json`: points with layers, pairs by band."""
        hidden, distinct, middle = self.controls.hidden, self.controls.distinct, self.middle_layers
        return {
            **{name: to_json(value) for name, value in vars(self).items() if name not in _UNWRITTEN},
            **{name: self._by_layer(getattr(self, name)) for name in (*_CURVES, "correlation")},
            "n_layers": len(self.layers),
            "pivots": list(self.pivots),
            "u_shape": middle and {"is_u_shape": middle.is_u_shape, "depth": middle.depth.to_json()},
            "controls": {
                "distinct": distinct and {**distinct.to_json(), "divergence": self._by_layer(distinct.divergence)},
                "hidden": hidden and {name: self._by_layer(curves) for name, curves in vars(hidden).items()},
                "phases": self._by_layer(self.controls.phases),
            },
        }

    def _by_layer(self, points: Mapping[str, Sequence[Record]] | Sequence[Record]) -> Any:  # noqa: ANN401 - JSON
        """Add the decoder layer to every point of a curve, or of curves by name."""
        if isinstance(points, Mapping):
            return {name: self._by_layer(curve) for name, curve in points.items()}
        return [{"layer": layer, **point.to_json()} for layer, point in zip(self.layers, points, strict=False)]

    @classmethod
    def fields_of_json(cls, raw: Any) -> Any:  # noqa: ANN401 - as in Record
        """Fill in what older files leave out: parts that were null, layers, the verdict of ``u_shape``."""
        if not isinstance(raw, dict):
            return raw
        given = {name: value for name, value in raw.items() if value is not None}
        if isinstance(given.get("middle_layers"), dict):
            given["middle_layers"] = {**given.get("u_shape", {}), **given["middle_layers"]}
        curves = given.get("divergence")
        if "layers" not in given and isinstance(curves, dict) and curves:
            given["layers"] = [point.get("layer") for point in next(iter(curves.values()))]
        return given

    def __repr__(self) -> str:
        middle = "" if not self.has_middle else f", middle {self.middle[0]}-{self.middle[1]}"
        n = len(self.divergence)
        return f"Analysis({n} language{'' if n == 1 else 's'} against {self.pivot}, {len(self.layers)} layers{middle})"
