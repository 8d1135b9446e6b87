"""What every caption must say: how many units are behind the numbers, and how intervals were drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from isogloss.reports.text import sample_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from isogloss.analysis.statistics import Estimate

__all__ = ["interval_text"]


def interval_text(estimates: Iterable[Estimate], settings: Mapping[str, Any], *, pooled: bool, unit: str) -> str:
    """State n, and how intervals were drawn or why there are none.

    Args:
        estimates: what the caption speaks of.
        settings: of the resampling; what they lack is not said.
        pooled: counts without items.
        unit: what n counts, such as ``parallel items``.

    Returns:
        One clause or two, with a full stop.
    """
    estimates = list(estimates)
    stated = any(point.n is not None for point in estimates)
    size = f"{sample_size(point.n for point in estimates)}{f' {unit}' if stated and not pooled else ''}"
    if pooled:
        return f"{size} (counts pooled over all texts of a language); no interval: pooled counts."
    if not any(point.has_interval for point in estimates):
        return f"{size}; no interval."
    resamples = f", {settings['n_resamples']:,} resamples" if settings.get("n_resamples") else ""
    return f"{size}; intervals: {100 * settings.get('level', 0.95):g} % bootstrap over items{resamples}."
