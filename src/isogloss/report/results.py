"""What a report is made of, and evaluations as the commands print them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from isogloss.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from isogloss.analysis import Analysis, ExpertTable

__all__ = ["Reading", "Report", "read_estimate", "require_fields"]


@dataclass(frozen=True)
class Report:
    """What a report is made of.

    Attributes:
        title: heading of the page.
        findings: sentences printed first.
        manifest: of the Run behind the numbers, as JSON types.
        analysis: of the Run.
        experts: one table per rule.
        evaluation: as `isogloss evaluate --json`; ``controls`` may hold more of the same shape by name.
    """

    title: str
    findings: tuple[str, ...]
    manifest: Mapping[str, Any]
    analysis: Analysis | None = None
    experts: tuple[ExpertTable, ...] = ()
    evaluation: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Reading:
    """An Estimate as printed: a number with its interval.

    Attributes:
        value: None where it is missing or not finite.
        low: None where there is no interval.
        high: None where there is no interval.
        n: independent units behind it; None where unknown.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int | None = None

    @property
    def has_interval(self) -> bool:
        """Whether both ends are known."""
        return self.low is not None and self.high is not None


def require_fields(found: Mapping[str, Any], names: Iterable[str], *, command: str) -> None:
    """Raise where a result lacks a field that the report cannot do without.

    Args:
        found: one result.
        names: fields it must have.
        command: that prints such a result.

    Raises:
        RunError: a field is missing.
    """
    missing = [name for name in names if name not in found]
    if missing:
        has = ", ".join(map(str, found)) or "none"
        raise RunError(
            f"the report needs the fields {', '.join(missing)}, and the result has {has}; print it again with"
            f" isogloss {command} --json"
        )


def _finite(number: object) -> float | None:
    return float(number) if isinstance(number, (int, float)) and math.isfinite(number) else None


def read_estimate(found: Mapping[str, Any] | None) -> Reading:
    """Read a printed Estimate; what is missing, null or not finite becomes None.

    Args:
        found: ``{"value", "low", "high", "n"}``, or None.

    Returns:
        The four numbers.
    """
    found = found or {}
    n = _finite(found.get("n"))
    value, low, high = (_finite(found.get(name)) for name in ("value", "low", "high"))
    return Reading(value, low, high, None if n is None else int(n))
