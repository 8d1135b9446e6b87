"""Colours of the report, each with its counterpart on a dark screen; marks have 3:1 against the page in both."""

from __future__ import annotations

import re
from typing import NamedTuple

# Name of the CSS variable -> colour on a light screen and on paper, and on a dark screen. Languages: CIELAB distances
# stay above 20 for every colour vision, and contrast with the page above 3.
COLOURS: dict[str, tuple[str, str]] = {
    "c1": ("#0560ce", "#6ba2f5"),
    "c2": ("#b9010e", "#d74614"),
    "c3": ("#12893d", "#63ffa6"),
    "c4": ("#dd5895", "#ad7d76"),
    "c5": ("#c28412", "#ffe148"),
    "c6": ("#009aef", "#d2f6ff"),
    "c7": ("#882255", "#b12e8f"),
    "c8": ("#332288", "#6f4ee9"),
    "ink": ("#1c2024", "#e8eaed"),
    "grey": ("#6b7280", "#9aa3af"),
    "control": ("#7f8792", "#98a1ad"),
    "line": ("#868e99", "#78828f"),
    "paper": ("#ffffff", "#14171a"),
    "wash": ("#f5f6f7", "#1b1f23"),
    "grid": ("#eceef0", "#2a2f36"),
    "shade": ("#edf0f3", "#22272d"),
}
LIGHT = {name: light for name, (light, _) in COLOURS.items()}
"""Colours as figures name them."""

_NAMES = {light: name for name, light in LIGHT.items()}
_RGBA = re.compile(r"rgba\((\d+),(\d+),(\d+),([\d.]+)\)")


class Paint(NamedTuple):
    """A colour as CSS writes it, and its opacity from 0 to 1."""

    css: str
    opacity: float = 1.0


def paint(colour: str) -> Paint:
    """Return a ``#rrggbb`` or ``rgba(r,g,b,a)`` colour as a variable of the page, or itself where it has none."""
    opacity = 1.0
    if match := _RGBA.fullmatch(colour):
        red, green, blue = (int(match[place]) for place in (1, 2, 3))
        colour, opacity = f"#{red:02x}{green:02x}{blue:02x}", float(match[4])
    return Paint(f"var(--{_NAMES[colour]})" if colour in _NAMES else colour, opacity)


def css_variables() -> str:
    """Write the variables of the page, and their values on a dark screen; paper is always light."""
    light, dark = ("".join(f"--{name}:{pair[screen]};" for name, pair in COLOURS.items()) for screen in (0, 1))
    return f":root{{{light}}}@media screen and (prefers-color-scheme: dark){{:root{{{dark}}}}}"
