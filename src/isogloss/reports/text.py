"""Words and numbers of the report: language names, numbers with intervals, and text that plotly must not interpret."""

from __future__ import annotations

import html
import math
import re
from functools import lru_cache
from typing import TYPE_CHECKING

from isogloss.errors import LanguageError
from isogloss.languages import display_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from isogloss.analysis.statistics import Estimate

__all__ = [
    "interval",
    "label",
    "name",
    "number",
    "p_value",
    "percent",
    "plain",
    "plot_text",
    "points",
    "sample_size",
    "scalar",
    "span",
    "spread",
    "with_interval",
]

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")
MISSING = "–"
MINUS = "−"


def plain(text: object) -> str:
    """Return one line without control and direction-override characters, which could hide or reorder words."""
    return _CONTROL.sub(" ", str(text))


def plot_text(text: object) -> str:
    """Escape text for plotly, which reads some HTML in names, titles, ticks and hover labels."""
    return html.escape(plain(text), quote=False)


@lru_cache(maxsize=1024)
def name(code: str) -> str:
    """Return the English name of a language, such as ``Swahili``, or the code itself where it is not a known one."""
    try:
        return display_name(code)
    except LanguageError:
        return plain(code)


def label(code: str) -> str:
    """Return the name of a language followed by its code, such as ``Swahili (swh_Latn)``; an unknown one alone."""
    named = name(code)
    return named if named == plain(code) else f"{named} ({plain(code)})"


def number(value: float | None) -> str:
    """Write a number with three decimals, or in powers of ten where those show nothing; a dash for None and NaN."""
    if value is None or math.isnan(value):
        return MISSING
    small = value != 0 and abs(value) < 0.001  # noqa: PLR2004 - below three decimals
    return (f"{value:.1e}" if small else f"{value:.3f}").replace("-", MINUS)


def percent(value: float | None) -> str:
    """Write a share between 0 and 1 as a percentage, such as ``76.4``; a dash for None and NaN."""
    return MISSING if value is None or math.isnan(value) else f"{100 * value:.1f}".replace("-", MINUS)


def points(value: float | None) -> str:
    """Write a difference of shares as signed percentage points, such as ``+1.6``; a dash for None and NaN."""
    return MISSING if value is None or math.isnan(value) else f"{100 * value:+.1f}".replace("-", MINUS)


def p_value(value: float | None) -> str:
    """Write a p value with three decimals, such as ``0.012`` or ``< 0.001``; a dash for None and NaN."""
    if value is None or math.isnan(value):
        return MISSING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"  # noqa: PLR2004 - below three decimals


def interval(low: str, high: str) -> str:
    """Write the ends of an interval, such as ``[0.110, 0.131]``; nothing where an end is missing."""
    return "" if MISSING in (low, high) else f"[{low}, {high}]"


def spread(ends: tuple[float, float]) -> str:
    """Write two numbers as an interval, or a dash."""
    return interval(*map(number, ends)) or MISSING


def span(edge: int, ends: tuple[int, int] | None) -> str:
    """Write a layer with the layers between which it falls over resamples, such as ``8 [7, 9]``."""
    return f"{edge} [{ends[0]}, {ends[1]}]" if ends else str(edge)


def with_interval(estimate: Estimate) -> str:
    """Write an Estimate with its interval, where it has one, such as ``0.123 [0.110, 0.131]``."""
    return f"{number(estimate.value)} {interval(number(estimate.low), number(estimate.high))}".rstrip()


def sample_size(sizes: Iterable[int | None]) -> str:
    """Write how many units are behind several numbers, such as ``n = 200`` or ``n = 180 to 200``; None is unknown."""
    known = sorted({size for size in sizes if size is not None})
    if not known:
        return "n not stated"
    return f"n = {known[0]:,}" if len(known) == 1 else f"n = {known[0]:,} to {known[-1]:,}"


def scalar(value: object) -> str:
    """Write a JSON value that is not an object as one line: lists joined by commas, null as ``none``."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(scalar(part) for part in value) or "none"
    return plain(f"{value:g}" if isinstance(value, float) else value)
