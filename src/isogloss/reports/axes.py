"""Axes of a drawing: where values lie in pixels, and which ticks are written beside them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from isogloss.statistics import MINUS

_PAD = 0.04
_PER_TICK = 60  # pixels that a tick and its label need
_WIDE = 0x2E80  # from here on, letters are about as wide as high
_TAGS = re.compile(r"</?b>|<br>")


@dataclass(frozen=True)
class Tick:
    """A value on an axis with its text, escaped for HTML."""

    value: float
    text: str


@dataclass(frozen=True)
class Axis:
    """A scale from values to pixels.

    Attributes:
        low: value at ``start``.
        high: value at ``end``.
        start: pixel.
        end: pixel.
        ticks: values that are labelled.
        places: of names, where the axis is one of names.
    """

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[Tick, ...]
    places: Mapping[str, int]

    def value(self, given: Any) -> float | None:  # noqa: ANN401 - whatever plotly takes
        """Return the number of a name or number; None for what is none."""
        number = self.places.get(given) if isinstance(given, str) else given
        return None if number is None or not math.isfinite(number) else float(number)

    def pixel(self, given: Any) -> float | None:  # noqa: ANN401 - as above
        """Return where a name or number lies; None for what is none."""
        value = self.value(given)
        if value is None:
            return None
        return self.start + (self.end - self.start) * (value - self.low) / (self.high - self.low)


def without_tags(text: str) -> str:
    """Leave out what plotly reads as bold and line breaks; entities stay."""
    return _TAGS.sub("", text)


def text_width(text: str, size: float) -> float:
    """Estimate how wide a text is in pixels, generously."""
    plain = re.sub(r"&\w+;", "x", without_tags(text))
    wider = 1.08 if "<b>" in text else 1.0
    return size * wider * sum(1.0 if ord(letter) >= _WIDE else 0.57 for letter in plain)


def make_axis(layout: Mapping[str, Any], values: Iterable[Any], ends: tuple[float, float]) -> Axis:
    """Make an axis from plotly's layout of it and the values drawn along it.

    Args:
        layout: of the axis; ``range``, ``rangemode``, ``zeroline``, ``showticklabels``, ``tickmode`` with its texts,
            and ``nticks`` are used.
        values: numbers, None, or the names of categories.
        ends: pixels of the lowest and the highest value; ticks are fewer where their labels would run into each other.
    """
    values = list(values)
    names = list(dict.fromkeys(value for value in values if isinstance(value, str)))
    places = {name: place for place, name in enumerate(names)}
    numbers = [float(value) for value in values if isinstance(value, int | float) and math.isfinite(value)]
    low, high = _range(layout, numbers, len(names))
    length = abs(ends[1] - ends[0])
    whole = bool(numbers) and all(number.is_integer() for number in numbers)
    ticks = _ticks(layout, (low, high), names, most=max(2, int(length / _PER_TICK)), whole=whole)
    return Axis(low, high, *ends, ticks, places)


def _range(layout: Mapping[str, Any], numbers: Sequence[float], n_names: int) -> tuple[float, float]:
    if "range" in layout:
        low, high = map(float, layout["range"])
        return (low, high) if low != high else (low - 0.5, high + 0.5)
    if n_names:
        return -0.5, n_names - 0.5
    low, high = min(numbers, default=0.0), max(numbers, default=1.0)
    from_zero = layout.get("rangemode") == "tozero"
    if from_zero or layout.get("zeroline"):
        low, high = min(low, 0.0), max(high, 0.0)
    span = (high - low) or abs(high) or 1.0
    return low - (0.0 if from_zero and low == 0 else _PAD * span), high + _PAD * span


def _ticks(
    layout: Mapping[str, Any], ends: tuple[float, float], names: Sequence[str], *, most: int, whole: bool
) -> tuple[Tick, ...]:
    if layout.get("showticklabels") is False:
        return ()
    if layout.get("tickmode") == "array":
        return tuple(Tick(float(at), text) for at, text in zip(layout["tickvals"], layout["ticktext"], strict=True))
    if names:
        return tuple(Tick(float(place), name) for place, name in enumerate(names))
    low, high = sorted(ends)
    most = min(most, layout.get("nticks", 9))
    unit = 10.0 ** math.floor(math.log10((high - low) / most))
    steps = [each * unit for each in (1, 2, 5, 10, 20)]
    chosen = next(place for place, step in enumerate(steps) if (high - low) / step <= most)
    inside = len(_multiples(steps[chosen], low, high))
    if not inside or (inside == 1 and chosen and len(_multiples(steps[chosen - 1], low, high)) <= most + 1):
        chosen -= 1  # one tick shows no scale
    step = max(1.0, steps[chosen]) if whole else steps[chosen]
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    marks = [place * step for place in _multiples(step, low, high)]
    return tuple(Tick(mark, f"{mark:.{digits}f}".replace("-", MINUS) if mark else "0") for mark in marks)


def _multiples(step: float, low: float, high: float) -> range:
    """Count which multiples of a step lie between two ends."""
    return range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
