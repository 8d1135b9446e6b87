"""What the rules that find experts have in common."""

from __future__ import annotations

from typing import Any, ClassVar, TypeAlias

from isogloss.analysis.groups import ItemGroups
from isogloss.arrays import BoolArray, FloatArray, IntArray
from isogloss.errors import LanguageError
from isogloss.records import Record
from isogloss.runs import Run

__all__ = ["Counts", "ExpertRule", "LanguageRule", "TopRule"]

Counts: TypeAlias = FloatArray | IntArray


class ExpertRule(Record):
    """Base of the rules: parameters, and a verdict on every expert from counts that are pooled over items.

    Because it judges pooled counts, one method serves the data as they are, every bootstrap resample of the items, and
    every permutation of the labels.

    Attributes:
        name: of the rule.
        layers: first and last decoder layer looked at, inclusive; None for all.
    """

    name: ClassVar[str]
    layers: tuple[int, int] | None

    def __post_init__(self) -> None:
        """Refuse parameters that do not fit; here all do."""

    @property
    def n_groups(self) -> int:
        """How many groups of items the rule compares."""
        return 2

    @property
    def most(self) -> int | None:
        """How many experts are kept, those with the greatest absolute statistics; None for all."""
        return None

    @classmethod
    def require(cls, run: Run) -> None:
        """Refuse a Run that does not hold what the rule needs; here every Run does."""

    def prepare(self, groups: ItemGroups) -> ItemGroups:
        """Return the groups as the rule counts them."""
        return groups

    def judge(self, counts: Counts, tokens: Counts) -> tuple[FloatArray, BoolArray]:
        """Return the statistic and the verdict on every expert.

        Args:
            counts: ``[..., n_groups, n_experts]`` selections, pooled over items.
            tokens: ``[..., n_groups]``, positive.

        Returns:
            Both ``[..., n_experts]``.
        """
        raise NotImplementedError

    def reach(self, statistic: FloatArray) -> FloatArray:
        """Return the threshold that each expert just does not pass, of the same shape; NaN where no threshold counts.

        Experts pass lower thresholds, or, where `found_below` is true, higher ones.
        """
        return statistic

    @property
    def found_below(self) -> bool:
        """Whether experts below the threshold are found, not those above it."""
        return False

    def sizes(self, groups: ItemGroups) -> dict[str, Any]:
        """Return the numbers of items, for the parameters of the table."""
        return {"n_items": groups.least_items}

    def weights(self, groups: ItemGroups) -> FloatArray | None:
        """Return the weight of every expert, ``[n_layers, n_experts]``; None where the rule gives none."""


class LanguageRule(ExpertRule):
    """Base of the rules that compare the languages of one Run.

    Both are relative to the languages present, so the languages are always listed and the result names them.

    Attributes:
        languages: the groups, in this order.
    """

    languages: tuple[str, ...]

    @property
    def n_groups(self) -> int:
        """One group per language."""
        return len(self.languages)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.languages) < 2 or len(set(self.languages)) < len(self.languages):  # noqa: PLR2004 - to compare
            raise LanguageError(
                f"the {self.name} rule needs two or more different languages; found "
                f"{', '.join(self.languages) or 'none'}"
            )


class TopRule(ExpertRule):
    """Base of the rules that may keep only the greatest statistics over all layers looked at.

    Attributes:
        top: how many; None for all.
    """

    top: int | None

    @property
    def most(self) -> int | None:
        """``top``."""
        return self.top

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.top is not None and self.top < 1:
            raise ValueError(f"top is {self.top}; expected at least 1")
