"""The most specific experts of a Run's languages: where to begin looking at single experts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from isogloss.analysis.experts import find_in_groups
from isogloss.analysis.groups import language_groups
from isogloss.analysis.specificity import SpecificityRule
from isogloss.errors import LanguageError
from isogloss.languages import resolve
from isogloss.notebook import Shown
from isogloss.records import Name, Record
from isogloss.runs import Run, RunStatus
from isogloss.statistics import DEFAULT_RESAMPLING, Estimate, Resampling

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["SpecificExpert", "SpecificExperts", "specific_experts"]


@dataclass(frozen=True)
class SpecificExpert(Record):
    """The expert that is most specific to a language.

    Attributes:
        language: full code.
        layer: decoder layer, 0-based.
        expert: id within the layer.
        score: of `SpecificityRule`; it was chosen for being the greatest, and is therefore biased upwards.
    """

    language: Name
    layer: int
    expert: int
    score: Estimate


@dataclass(frozen=True, repr=False)
class SpecificExperts(Record, Shown):
    """The most specific experts, the greatest score first.

    Attributes:
        model: that was captured.
        experts: at most one per language.
        status: ``partial`` where the capture has not finished.
    """

    model: Name
    experts: tuple[SpecificExpert, ...]
    status: RunStatus

    def __repr__(self) -> str:
        names = ", ".join(f"{each.language} {each.layer}:{each.expert}" for each in self.experts)
        return f"SpecificExperts({self.model}: {names})"

    def to_frame(self) -> pd.DataFrame:
        """Return one row per expert: language, layer, expert, score with interval."""
        import pandas as pd  # noqa: PLC0415 - takes a third of a second, and most commands show no table

        rows = [(each.language, each.layer, each.expert, *astuple(each.score)[:3]) for each in self.experts]
        return pd.DataFrame(rows, columns=["language", "layer", "expert", "score", "low", "high"])


def specific_experts(
    run: Run, *, languages: Sequence[str] = (), top: int = 20, resampling: Resampling = DEFAULT_RESAMPLING
) -> SpecificExperts:
    """Find the expert of each language with the greatest specificity, as `isogloss experts --rule specificity` has it.

    Args:
        run: of several languages.
        languages: compared with each other; none for all of the Run.
        top: experts listed at most, those with the greatest scores.
        resampling: of the items.

    Raises:
        LanguageError: a language is unknown or not in the Run, or there is none to compare with.
        RunError: a file of the Run is damaged, or it does not say how often experts were chosen.
    """
    codes = tuple(dict.fromkeys(resolve(code) for code in languages)) or run.languages
    if len(codes) == 1:
        raise LanguageError(
            f"{run.path}: an expert is specific to one of several languages, and found is {codes[0]} alone; name an "
            f"expert, such as {run.manifest.routers[0].layer}:0"
        )
    groups = language_groups(run, codes)
    pooled, best = groups.pooled(), []
    for code in codes:
        scores, _ = SpecificityRule("specific", codes, code).judge(*pooled)
        place, _ = np.unravel_index(int(scores.argmax()), scores.shape)
        best.append((-float(scores.max()), code, groups.decoder_layers[place]))
    experts = []
    for _, code, layer in sorted(best)[:top]:
        rule = SpecificityRule("specific", codes, code, top=1, layers=(layer, layer))
        (row,) = find_in_groups(groups, rule, resampling=replace(resampling, n_permutations=1)).experts
        score = Estimate(row.statistic, row.low, row.high, groups.least_items)
        experts.append(SpecificExpert(code, row.layer, row.expert, score))
    return SpecificExperts(run.manifest.model, tuple(experts), run.manifest.status)
