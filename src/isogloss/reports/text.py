"""Words and numbers of the report: language names, numbers with intervals, and text that plotly must not interpret."""

from __future__ import annotations

import html
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from isogloss.errors import LanguageError
from isogloss.languages import display_name
from isogloss.statistics import MINUS, Estimate

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")
_SMALL = 0.001
_SHOWN = 0.01  # of which three decimals show two digits
_LEAST_POWER = -4  # power of ten of the smallest number that is written out
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
MISSING = "–"
OVERALL = "Mean over languages"


def plain(text: object) -> str:
    """Return one line without control and direction-override characters, which could hide or reorder words."""
    return _CONTROL.sub(" ", str(text))


def plot_text(text: object) -> str:
    """Escape text for plotly, which reads some HTML in names, titles, ticks and hover labels."""
    return html.escape(plain(text), quote=False)


def hover(heading: str, *lines: str) -> str:
    """Write what hovering shows, escaped for plotly: a bold heading, where there is one, above lines."""
    bold = [f"<b>{plot_text(heading)}</b>"] if heading else []
    return "<br>".join([*bold, *map(plot_text, lines)])


def known_columns(rows: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Leave out of a table's cells by column those columns, but the first, in which every row has a dash."""
    first, *others = rows[0]
    known = (first, *(name for name in others if any(row[name] != MISSING for row in rows)))
    return [{name: row[name] for name in known} for row in rows]


def words(name: str) -> str:
    """Write the name of a reference, column or parameter as words, such as ``token overlap``."""
    return plain(name).replace("_", " ")


def sentence(text: str) -> str:
    """Begin a text with a capital letter; the rest stays as it is."""
    return f"{text[:1].upper()}{text[1:]}"


def counted(n: int, noun: str) -> str:
    """Write a number of things, such as ``1 item`` or ``1,200 items``."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


_DISTANCES = {
    "genealogical": "genealogy",
    "geographic": "geography",
    "typological": "typology",
    "inventory": "phoneme inventory",
}


def distance_name(reference: str) -> str:
    """Name what a distance between languages is of, such as ``genealogy`` or ``token overlap``."""
    return _DISTANCES.get(reference) or words(reference)


@lru_cache(maxsize=1024)
def name(code: str) -> str:
    """Return the English name of a language, such as ``Swahili``, or the code itself where it is not a known one."""
    try:
        return display_name(code)
    except LanguageError:
        return plain(code)


def short_names(codes: Iterable[str]) -> dict[str, str]:
    """Name languages as briefly as keeps them apart: a script in brackets is left out where it is not needed."""
    named = {code: name(code) for code in codes}
    brief = {code: text.split(" (")[0] for code, text in named.items()}
    counts = Counter(brief.values())
    return {code: brief[code] if counts[brief[code]] == 1 else text for code, text in named.items()}


def label(code: str) -> str:
    """Return the name of a language followed by its code, such as ``Swahili (swh_Latn)``; an unknown one alone."""
    named = name(code)
    return named if named == plain(code) else f"{named} ({plain(code)})"


def label_or_mean(code: str) -> str:
    """Return the `label` of a language, and what an empty code stands for: the mean over languages."""
    return label(code) if code else OVERALL


def number(value: float | None) -> str:
    """Write a number with three decimals, or with two digits where those show fewer; a dash for None and NaN.

    Such as ``0.123``, ``0.0010``, ``0.00096`` or ``9.6×10⁻⁵``.
    """
    if value is None or math.isnan(value):
        return MISSING
    if value == 0 or abs(value) >= _SHOWN:
        return f"{value:.3f}".replace("-", MINUS)
    digits, exponent = f"{value:.1e}".split("e")
    power = int(exponent)
    small = f"{value:.{1 - power}f}" if power >= _LEAST_POWER else _times_power(digits, power)
    return small.replace("-", MINUS)


def three_digits(value: float) -> str:
    """Write a number with the three digits that count, such as ``12.3``, ``0.00123`` or ``1.23×10⁻⁵``."""
    digits, _, exponent = f"{value:.3g}".partition("e")
    return (_times_power(digits, int(exponent)) if exponent else digits).replace("-", MINUS)


def _times_power(digits: str, power: int) -> str:
    return f"{digits}×10{str(power).translate(_RAISED)}"


def percent(value: float | None) -> str:
    """Write a share between 0 and 1 as a percentage, such as ``76.4``; a dash for None and NaN."""
    return MISSING if value is None or math.isnan(value) else f"{100 * value:.1f}".replace("-", MINUS)


def p_value(value: float | None) -> str:
    """Write a p value with three decimals, such as ``0.012`` or ``< 0.001``; a dash for None and NaN."""
    if value is None or math.isnan(value):
        return MISSING
    return "< 0.001" if value < _SMALL else f"{value:.3f}"


def spread(ends: tuple[float, float]) -> str:
    """Write two numbers as an interval, such as ``[0.110, 0.131]``; a dash where an end is missing."""
    return MISSING if any(map(math.isnan, ends)) else f"[{number(ends[0])}, {number(ends[1])}]"


def span(edge: int, ends: tuple[int, int] | None) -> str:
    """Write a layer with the layers between which it falls over resamples, such as ``8 [7, 9]``."""
    return f"{edge} [{ends[0]}, {ends[1]}]" if ends else str(edge)


def layer_range(ends: tuple[int, int] | None) -> str:
    """Write the layers of a band after its name, such as `` (layers 8–35)``; nothing where they are not known."""
    return f" (layers {ends[0]}–{ends[1]})" if ends else ""


def with_interval(estimate: Estimate) -> str:
    """Write an Estimate with its interval, where it has one, such as ``0.123 [0.110, 0.131]``."""
    return estimate.text(number)


def cell(estimate: Estimate) -> str:
    """Write an Estimate in two lines of a table: the value, and its interval below."""
    return with_interval(estimate).replace(" [", "\n[")


def sample_size(sizes: Iterable[int | None]) -> str:
    """Write how many units are behind several numbers, such as ``n = 200`` or ``n = 180 to 200``; None is unknown."""
    known = sorted({size for size in sizes if size is not None})
    if not known:
        return "n not stated"
    return f"n = {known[0]:,}" if len(known) == 1 else f"n = {known[0]:,} to {known[-1]:,}"


def sampling(estimates: Iterable[Estimate], unit: str, how: str) -> str:
    """State n in its unit, such as ``items``, and how intervals were drawn, where there are any."""
    estimates = list(estimates)
    counted = f" {unit}" if any(each.n is not None for each in estimates) else ""
    drawn = f"intervals: {how}" if any(each.has_interval for each in estimates) else "no interval"
    return f"{sample_size(each.n for each in estimates)}{counted}; {drawn}."


def interval_text(estimates: Iterable[Estimate], settings: Mapping[str, Any], *, pooled: bool, unit: str) -> str:
    """State n and the bootstrap over items, with what the settings of the resampling tell; pooled counts have none."""
    if pooled:
        size = sample_size(each.n for each in estimates)
        return f"{size} (counts pooled over all texts of a language); no interval: pooled counts."
    level, n = settings.get("level"), settings.get("n_resamples")  # of whatever wrote the file
    resamples = f", {n:,} resamples" if n and isinstance(n, int) else ""
    level = level if isinstance(level, int | float) else 0.95
    return sampling(estimates, unit, f"{100 * level:g} % bootstrap over items{resamples}")


def scalar(value: object) -> str:
    """Write a JSON value that is not an object as one line: lists joined by commas, null as ``none``."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(scalar, value)) or "none"
    return plain(f"{value:g}" if isinstance(value, float) else value)
