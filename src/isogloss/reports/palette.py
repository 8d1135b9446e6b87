"""Colours of the report, each with its counterpart on a dark screen; marks have 3:1 against the page in both."""

from __future__ import annotations

import re
from typing import NamedTuple

# Colour as figures name it -> name of the CSS variable, and colour on a dark screen. Languages: CIELAB distances stay
# above 20 for every colour vision, and contrast with the page above 3.
PAINTS: dict[str, tuple[str, str]] = {
    "#0560ce": ("c1", "#6ba2f5"),
    "#b9010e": ("c2", "#d74614"),
    "#12893d": ("c3", "#63ffa6"),
    "#dd5895": ("c4", "#ad7d76"),
    "#c28412": ("c5", "#ffe148"),
    "#009aef": ("c6", "#d2f6ff"),
    "#882255": ("c7", "#b12e8f"),
    "#332288": ("c8", "#6f4ee9"),
    "#1c2024": ("ink", "#e8eaed"),
    "#6b7280": ("grey", "#9aa3af"),
    "#7f8792": ("control", "#98a1ad"),
    "#868e99": ("line", "#78828f"),
    "#ffffff": ("paper", "#14171a"),
    "#f5f6f7": ("wash", "#1b1f23"),
    "#eceef0": ("grid", "#2a2f36"),
    "#edf0f3": ("shade", "#22272d"),
}

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
    return Paint(f"var(--{PAINTS[colour][0]})" if colour in PAINTS else colour, opacity)


def css_variables() -> str:
    """Write the variables of the page, and their values on a dark screen; paper is always light."""
    light = "".join(f"--{name}:{colour};" for colour, (name, _) in PAINTS.items())
    dark = "".join(f"--{name}:{colour};" for name, colour in PAINTS.values())
    return f":root{{{light}}}@media screen and (prefers-color-scheme: dark){{:root{{{dark}}}}}"
